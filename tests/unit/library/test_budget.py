"""Budgets over a backend: reserve, spend, release, and what the treasury makes of them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adgovernor.contracts.errors import BadInput
from adgovernor.library import BudgetTracker, NoBudgetError
from adgovernor.stores.backends import InMemoryBackend

T0 = 1_700_000_000_000
MINUTE = 60_000
DAY = 86_400_000


class World:
    """A tracker and its clock."""

    def __init__(self) -> None:
        self.now_ms = T0
        self.backend = InMemoryBackend()
        self.tracker = BudgetTracker(self.backend, clock_ms=lambda: self.now_ms)


@pytest.fixture
def world() -> World:
    return World()


async def test_money_goes_from_remaining_to_reserved_to_spent(world: World) -> None:
    """A reservation takes from what remains; spending less gives the rest back."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("10"), "EUR")
    reserved = await tracker.reserve("c", Decimal("3"))
    assert (reserved.accepted, reserved.remaining) == (True, Decimal("7"))
    status = await tracker.status("c")
    assert (status.currency, status.reserved, status.spent) == ("EUR", Decimal("3"), Decimal("0"))
    spent = await tracker.spend("c", Decimal("2.5"), reserved.name)
    assert (spent.amount, spent.remaining) == (Decimal("2.5"), Decimal("7.5"))
    status = await tracker.status("c")
    assert (status.reserved, status.spent, status.impressions) == (Decimal("0"), Decimal("2.5"), 1)


async def test_never_more_than_reserved_is_charged(world: World) -> None:
    """A spend above its reservation is charged the reserved amount."""
    await world.tracker.set_budget("c", Decimal("10"))
    await world.tracker.reserve("c", Decimal("3"), "r")
    assert (await world.tracker.spend("c", Decimal("5"), "r")).amount == Decimal("3")


async def test_the_last_money_can_be_spent_and_no_more(world: World) -> None:
    """The exact rest is accepted, a micro more is exhausted, and the end of the money is an event, once."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("1"))
    await tracker.spend("c", Decimal("0.7"))
    refused = await tracker.spend("c", Decimal("0.300001"))
    assert (refused.accepted, refused.reason, refused.remaining) == (False, "exhausted", Decimal("0.3"))
    last = await tracker.spend("c", Decimal("0.3"))
    assert last.accepted
    assert "budget-exhausted" in last.events
    late = await tracker.spend("c", Decimal("0.000001"))
    assert (late.reason, late.events) == ("exhausted", ())
    assert (await tracker.status("c")).paused == ("exhausted",)


async def test_a_check_changes_nothing(world: World) -> None:
    """Asking whether an amount fits neither reserves it nor writes anything."""
    await world.tracker.set_budget("c", Decimal("1"))
    before = await world.backend.load("budget/c")
    assert (await world.tracker.check("c", Decimal("1"))).accepted
    assert not (await world.tracker.check("c", Decimal("1.1"))).accepted
    assert await world.backend.load("budget/c") == before


async def test_a_name_is_done_once(world: World) -> None:
    """A reservation, a spend and a top-up repeated under their names do nothing again."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("10"))
    for _ in range(2):
        await tracker.reserve("c", Decimal("1"), "r")
        await tracker.spend("c", Decimal("2"), "s")
        await tracker.top_up("c", Decimal("5"), "t")
    status = await tracker.status("c")
    assert (status.budget, status.reserved, status.spent) == (Decimal("15"), Decimal("1"), Decimal("2"))
    assert (await tracker.reserve("c", Decimal("2"), "s")).reason == "spent"


async def test_a_released_reservation_is_free_again(world: World) -> None:
    """Released money can be reserved by others, and a second release finds nothing."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("1"))
    await tracker.reserve("c", Decimal("1"), "r")
    assert (await tracker.reserve("c", Decimal("1"), "other")).reason == "exhausted"
    assert await tracker.release("c", "r")
    assert not await tracker.release("c", "r")
    assert (await tracker.reserve("c", Decimal("1"), "r")).reason == "released"
    assert (await tracker.reserve("c", Decimal("1"), "other")).accepted


async def test_a_reservation_ends_by_itself(world: World) -> None:
    """Money that was reserved and never spent is there again after a minute."""
    await world.tracker.set_budget("c", Decimal("1"))
    await world.tracker.reserve("c", Decimal("1"), "r")
    world.now_ms += MINUTE - 1
    assert (await world.tracker.status("c")).reserved == Decimal("1")
    world.now_ms += 1
    assert await world.tracker.remaining("c") == Decimal("1")
    assert (await world.tracker.spend("c", Decimal("1"))).accepted


async def test_an_impression_after_its_reservation_is_paid_from_what_is_left(world: World) -> None:
    """A late spend is paid where there is money, and owed where there is none, until some comes."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("2"))
    await tracker.reserve("c", Decimal("1"), "late")
    await tracker.reserve("c", Decimal("1"), "too late")
    world.now_ms += MINUTE
    assert (await tracker.spend("c", None, "late")).accepted
    assert (await tracker.spend("c", Decimal("1"), "other")).accepted
    owed = await tracker.spend("c", None, "too late")
    assert (owed.accepted, owed.reason, owed.amount) == (False, "owed", Decimal("1"))
    await tracker.top_up("c", Decimal("3"))
    assert (await tracker.status("c")).spent == Decimal("3")


async def test_a_top_up_ends_exhaustion(world: World) -> None:
    """Money that comes resumes the campaign in a new episode."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("1"))
    await tracker.spend("c", Decimal("1"))
    status = await tracker.top_up("c", Decimal("1"))
    assert (status.paused, status.episode, status.remaining) == ((), 2, Decimal("1"))


async def test_a_budget_said_again_changes_nothing(world: World) -> None:
    """A process that sets the budget at each start moves no money and makes the state no larger."""
    await world.tracker.set_budget("c", Decimal("5"))
    await world.tracker.spend("c", Decimal("1"))
    before = await world.backend.load("budget/c")
    assert before is not None
    await world.tracker.set_budget("c", Decimal("5"))
    after = await world.backend.load("budget/c")
    assert after is not None
    assert after.value == before.value
    assert await world.tracker.remaining("c") == Decimal("4")


async def test_a_budget_can_be_lowered_to_what_is_used(world: World) -> None:
    """All that is neither reserved nor spent can be taken back; a lower budget is refused whole."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("10"))
    await tracker.spend("c", Decimal("2"))
    await tracker.reserve("c", Decimal("1"))
    with pytest.raises(BadInput, match="less than is reserved and spent"):
        await tracker.set_budget("c", Decimal("2.999999"))
    assert await tracker.remaining("c") == Decimal("7")
    status = await tracker.set_budget("c", Decimal("3"))
    assert (status.budget, status.remaining, status.spent) == (Decimal("3"), Decimal("0"), Decimal("2"))


async def test_a_lower_budget_leaves_a_paused_campaign_paused(world: World) -> None:
    """Who stopped a campaign by hand starts it again by hand: a change of its money does not."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("10"))
    await tracker.spend("c", Decimal("1"))
    await tracker.pause("c")
    lowered = await tracker.set_budget("c", Decimal("2"))
    assert (lowered.budget, lowered.remaining, lowered.paused) == (Decimal("2"), Decimal("1"), ("manual",))


async def test_a_day_has_its_own_budget(world: World) -> None:
    """With a daily budget the day's end is told apart from the whole's, and the next day has money again."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("10"), daily=Decimal("1"), time_zone="Europe/Berlin")
    assert (await tracker.spend("c", Decimal("0.9"))).accepted
    assert (await tracker.spend("c", Decimal("0.2"))).reason == "daily_budget"
    world.now_ms += 47 * MINUTE  # 23:00 UTC, midnight in Berlin
    assert (await tracker.spend("c", Decimal("0.2"))).accepted


async def test_pacing_holds_money_back(world: World) -> None:
    """Even pacing releases half of a flight's money at its middle, and says that more comes later."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("100"), pacing="even", start_ms=T0, end_ms=T0 + DAY)
    world.now_ms += DAY // 2
    refused = await tracker.spend("c", Decimal("60"))
    assert (refused.accepted, refused.reason) == (False, "paced")
    status = await tracker.status("c")
    assert status.pacing.mode == "even"
    assert status.available <= status.pacing.released <= Decimal("60")
    assert status.remaining == Decimal("100")


async def test_money_that_was_given_back_is_no_reason_of_another_name(world: World) -> None:
    """Why an amount is refused is told by all of the money that is not used, wherever it lies: pacing, where the day or
    flight has as much; the day, where the campaign has; else its end."""
    tracker = world.tracker
    await tracker.set_budget("paced", Decimal("10"), pacing="even", start_ms=T0, end_ms=T0 + DAY)
    await tracker.set_budget("daily", Decimal("10"), daily=Decimal("5"))
    world.now_ms += DAY // 2
    for campaign, had, asked, reason in (
        ("paced", "0.01", "9.995", "paced"),
        ("daily", "4", "8", "daily_budget"),
    ):
        assert (await tracker.reserve(campaign, Decimal(had), "r")).accepted
        await tracker.release(campaign, "r")
        assert (await tracker.reserve(campaign, Decimal(asked))).reason == reason
        assert (await tracker.reserve(campaign, Decimal("11"))).reason == "exhausted"


async def test_impressions_are_counted_beyond_what_is_remembered(world: World) -> None:
    """How many were paid for stays known when their names are forgotten."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("10"))
    await tracker.spend("c", Decimal("1"))
    world.now_ms += DAY
    await tracker.spend("c", Decimal("1"))
    assert (await tracker.status("c")).impressions == 2


async def test_a_campaign_can_be_paused(world: World) -> None:
    """A paused campaign reserves nothing until it is resumed."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("1"))
    assert (await tracker.pause("c")).available == 0
    assert (await tracker.reserve("c", Decimal("1"))).reason == "paused"
    await tracker.resume("c")
    assert (await tracker.reserve("c", Decimal("1"))).accepted


async def test_less_than_the_least_amount_is_the_end(world: World) -> None:
    """With less than the least amount left the campaign is exhausted, and less than it is refused."""
    tracker = world.tracker
    await tracker.set_budget("c", Decimal("1"), least=Decimal("0.3"))
    assert (await tracker.spend("c", Decimal("0.2"))).reason == "price_below_minimum"
    answer = await tracker.spend("c", Decimal("0.8"))
    assert "campaign-paused" in answer.events


@pytest.mark.parametrize(
    "amount", [Decimal("-1"), Decimal("NaN"), Decimal("Infinity"), Decimal("0.0000001"), 1.5, Decimal("0")]
)
async def test_what_is_no_amount_is_refused(world: World, amount: Decimal) -> None:
    """Negative, endless, too fine and floating amounts, and nothing at all, are the caller's error."""
    await world.tracker.set_budget("c", Decimal("1"))
    with pytest.raises(BadInput, match="amount"):
        await world.tracker.reserve("c", amount)


async def test_a_campaign_without_a_budget_is_told() -> None:
    """Asking about money that was never set is an error of its own."""
    with pytest.raises(NoBudgetError, match="set_budget"):
        await World().tracker.remaining("c")


async def test_terms_that_cannot_be_are_refused(world: World) -> None:
    """Another currency than before, an unknown one and a flight that ends before it starts say what is wrong."""
    await world.tracker.set_budget("c", Decimal("1"), "EUR")
    with pytest.raises(BadInput, match="currency"):
        await world.tracker.set_budget("c", Decimal("1"), "USD")
    with pytest.raises(BadInput, match="currency"):
        await world.tracker.set_budget("d", Decimal("1"), "euro")
    with pytest.raises(BadInput, match="end_ms"):
        await world.tracker.set_budget("d", Decimal("1"), start_ms=2, end_ms=1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "spend", "settle", "release", "wait", "top-up"]),
            st.integers(1, 40),
            st.integers(0, 5),
        ),
        max_size=25,
    )
)
async def test_whatever_happens_the_money_adds_up(steps: list[tuple[str, int, int]]) -> None:
    """After every step remaining + reserved + spent is the budget, nothing is negative, and what was accepted is
    what was spent."""
    world = World()
    tracker = world.tracker
    await tracker.set_budget("c", Decimal(1))
    for number, (step, cents, which) in enumerate(steps):
        amount = Decimal(cents) / 100
        if step == "reserve":
            await tracker.reserve("c", amount, f"r{which}")
        elif step == "spend":
            await tracker.spend("c", amount, f"s{number}")
        elif step == "settle":
            await tracker.spend("c", None, f"r{which}")
        elif step == "release":
            await tracker.release("c", f"r{which}")
        elif step == "wait":
            world.now_ms += cents * 1_000
        else:
            await tracker.top_up("c", amount)
        status = await tracker.status("c")
        assert status.remaining + status.reserved + status.spent == status.budget
        assert min(status.remaining, status.reserved, status.spent, status.available) >= 0
        assert status.available <= status.remaining
