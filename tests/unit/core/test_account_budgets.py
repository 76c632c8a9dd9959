"""Budgets of accounts, above those of their campaigns."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import DAY, HOUR, SECOND, T0, World, codes_of, known_to_treasury, state_of, winner_of
from hypothesis import given, settings
from hypothesis import strategies as st

from adgovernor.core.rules import Rules
from adgovernor.core.treasury import Treasury

MIDNIGHT = T0 - T0 % DAY


def _account(world: World, **fields: Any) -> dict[str, Any]:
    return world.command("account", time_ms=world.now_ms, account={"account_id": "a1", **fields})


def _world(partitions: int = 1, campaigns: int = 2, now_ms: int = T0, **account: Any) -> World:
    world = World(partitions, now_ms=now_ms, lateness_ms=0)
    _account(world, **account)
    for number in range(campaigns):
        world.campaign(f"c{number}")
    return world


def _show(world: World, count: int, *campaigns: str, start_ms: int = 0, prefix: str = "r") -> int:
    shown = 0
    for number in range(count):
        user, time_ms = f"user{number % 13}", max(start_ms, world.now_ms) + SECOND
        request_id = f"{prefix}{number}"
        campaign = campaigns[number % len(campaigns)]
        if winner_of(world.request(request_id, time_ms, campaign, user=user)) is not None:
            world.show(request_id, time_ms, user=user)
            shown += 1
        check_accounts(world)
    return shown


def check_accounts(world: World) -> None:
    """Every account's money is what its campaigns were leased, and never more than it has."""
    for treasury in world.treasuries:
        for account_id, fund in treasury.accounts.items():
            members = treasury.campaigns_of(account_id)
            leased = sum(known.topped_up - known.unleased for known in members)
            assert fund.leased == leased
            if fund.account.budget_micros is not None:
                assert leased <= fund.topped_up
            daily = fund.account.daily_budget_micros
            used: dict[int, int] = {}
            for user in world.users:
                for share in user.shares.values():
                    if share.campaign.account_id == account_id:
                        for day, book in share.books.items():
                            used[day] = used.get(day, 0) + book.reserved + book.spent
            if daily is not None:
                assert all(amount <= daily for day, amount in used.items() if day)
    world.check_money()


@pytest.mark.parametrize("partitions", [1, 3])
def test_campaigns_together_spend_no_more_than_their_account_has(partitions: int) -> None:
    """Two campaigns that could each spend the account's whole budget spend it once between them."""
    world = _world(partitions, budget_micros=20_000)
    assert _show(world, 200, "c0", "c1") == 20
    assert sum(world.money(name)["spent"] for name in ("c0", "c1")) == 20_000
    scopes = {event["campaign_id"]: event["scope"] for event in world.of("budget-exhausted")}
    assert scopes == {"c0": "account", "c1": "account"}
    assert {tuple(event["reasons"]) for event in world.of("campaign-paused")} == {("account",)}
    assert codes_of(world.request("x", world.now_ms, "c0")) == ["account_budget"]


def test_the_campaigns_own_budget_binds_where_it_is_less() -> None:
    """A campaign with less than its account is exhausted by itself, and the other goes on."""
    world = _world(budget_micros=1_000_000)
    world.campaign("small", budget_micros=3_000)
    assert _show(world, 20, "small") == 3
    assert [event["scope"] for event in world.of("budget-exhausted")] == ["total"]
    assert _show(world, 5, "c1", prefix="s") == 5


def test_an_accounts_top_up_resumes_its_campaigns_once() -> None:
    """A top-up of the account lets all that waited for it go on; the same command again does nothing."""
    world = _world(budget_micros=4_000)
    _show(world, 40, "c0", "c1")
    assert len(world.of("campaign-paused")) == 2
    change = world.command("top-up", amount_micros=6_000, command_id="once", time_ms=world.now_ms)
    assert (change["accepted"], change["campaign_id"], change["topped_up_micros"]) == (True, "", 10_000)
    assert world.command("top-up", amount_micros=6_000, command_id="once")["reason"] == "duplicate"
    assert {event["campaign_id"] for event in world.of("campaign-resumed")} == {"c0", "c1"}
    assert _show(world, 60, "c0", "c1", prefix="s") == 6


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_decrease_takes_back_what_is_leased_and_idle(partitions: int) -> None:
    """A decrease of an account takes unleased money, then idle leases of all its campaigns; the rest is refused."""
    world = _world(partitions, budget_micros=10_000)
    shown = _show(world, 4, "c0", "c1")
    change = world.command("decrease", amount_micros=(10 - shown) * 1_000, time_ms=world.now_ms)
    assert (change["accepted"], change["topped_up_micros"]) == (True, shown * 1_000)
    change = world.command("decrease", amount_micros=1_000, time_ms=world.now_ms)
    assert (change["accepted"], change["reason"]) == (False, "too_little_unleased")
    assert _show(world, 10, "c0", prefix="s") == 0
    check_accounts(world)


def test_an_accounts_day_ends_at_its_midnight() -> None:
    """With an account's daily budget its campaigns share each day, though they have no daily budgets of their own,
    and go on the next day."""
    world = _world(now_ms=MIDNIGHT + HOUR, daily_budget_micros=5_000)
    assert _show(world, 30, "c0", "c1") == 5
    assert {tuple(event["reasons"]) for event in world.of("campaign-paused")} == {("account_day",)}
    world.settle(MIDNIGHT + DAY + SECOND)
    assert _show(world, 30, "c0", "c1", prefix="s") == 5


def test_a_campaign_spent_up_while_its_account_is_does_not_resume() -> None:
    """A campaign whose own money went while its account had none is exhausted when its account has some again."""
    world = _world(budget_micros=3_000)
    assert _show(world, 2, "c0") == 2
    decisions = (world.request(f"never-shown-{n}", world.now_ms + SECOND, "c1") for n in range(9))
    assert any(winner_of(decision) is not None for decision in decisions)
    assert _show(world, 5, "c0", "c1", prefix="s") == 0
    unleased = world.money("c0")["unleased"]
    assert world.command("decrease", campaign_id="c0", amount_micros=unleased, time_ms=world.now_ms)[
        "accepted"
    ]
    world.command("pause", campaign_id="c1", time_ms=world.now_ms)
    world.settle(world.now_ms + HOUR)
    assert world.treasuries[0].campaigns["c0"].reasons == ("exhausted",)


def test_an_accounts_recall_that_joins_a_dirty_one_proves_nothing() -> None:
    """A recall does not cover money that was granted while it ran, nor does an account's recall that joins it."""
    treasury = Treasury("t0", Rules())
    for delta in (
        ["account", {"account_id": "a1", "budget_micros": 5_000}],
        ["account_money", "a1", 5_000],
        [
            "define",
            {"campaign_id": "c1", "account_id": "a1", "budget_micros": 9_000, "price_micros": 1_000},
            "UTC",
        ],
        ["money", "c1", 9_000],
        ["grant", "c1", "u0", 0, 1_000, False],
        ["round", "c1", ["u0"]],
    ):
        treasury.apply(delta)
    treasury.apply(["account_recall", "a1", ["c1"]])
    assert not treasury.accounts["a1"].dirty
    treasury.apply(["account_recalled", "a1"])
    treasury.apply(["grant", "c1", "u0", 0, 1_000, True])
    treasury.apply(["account_recall", "a1", ["c1"]])
    assert treasury.accounts["a1"].dirty


def test_currencies_are_never_mixed() -> None:
    """A campaign of another currency than its account's budget is refused, and so is such a budget."""
    world = _world(campaigns=0, budget_micros=5_000, currency="EUR")
    assert world.campaign("c0", currency="USD")["reason"] == "account_currency"
    assert world.campaign("c0", currency="EUR")["accepted"]
    other = World(1)
    other.campaign("c0", currency="USD")
    assert _account(other, budget_micros=5_000, currency="EUR")["reason"] == "campaign_currency"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "account_budget_removed"),
        ({"budget_micros": 5_000, "currency": "EUR"}, "other_currency"),
        ({"budget_micros": 5_000, "daily_budget_micros": 10}, "daily_budget_added_or_removed"),
    ],
)
def test_an_account_that_cannot_be_changed_so_is_refused(fields: dict[str, Any], reason: str) -> None:
    """A change of an account that its money does not allow is refused with its reason."""
    world = _world(budget_micros=5_000)
    assert _account(world, **fields)["reason"] == reason


def test_a_budget_below_what_was_leased_is_refused() -> None:
    """An account's first budget must cover what its campaigns were leased already."""
    world = _world()
    assert _account(world, budget_micros=1)["reason"] == "too_little_unleased"
    assert world.command("top-up", amount_micros=5)["reason"] == "no_account_budget"


@given(
    partitions=st.sampled_from((1, 2, 3)),
    budget=st.integers(0, 30),
    daily=st.one_of(st.none(), st.integers(1, 15)),
    moves=st.lists(
        st.tuples(
            st.sampled_from(("show", "skip", "top-up", "decrease", "wait", "pause", "resume")),
            st.integers(0, 3),
        ),
        max_size=60,
    ),
)
@settings(max_examples=60, deadline=None)
def test_an_accounts_money_adds_up_whatever_happens(
    partitions: int, budget: int, daily: int | None, moves: list[tuple[str, int]]
) -> None:
    """Whatever its campaigns do, an account's money is what they were leased, its days are kept, and both a fold
    and another decision of the same history end in the same bytes."""
    fields = {} if daily is None else {"daily_budget_micros": daily * 1_000}
    world = _world(partitions, campaigns=3, now_ms=MIDNIGHT + HOUR, budget_micros=budget * 1_000, **fields)
    for number, (move, which) in enumerate(moves):
        name, user = f"c{which % 3}", f"user{which}"
        if move in ("show", "skip"):
            time_ms = world.now_ms + SECOND
            decision = world.request(f"r{number}", time_ms, name, user=user)
            if move == "show" and winner_of(decision) is not None:
                world.show(f"r{number}", time_ms, user=user)
        elif move in ("top-up", "decrease"):
            world.command(move, amount_micros=(which + 1) * 1_500, time_ms=world.now_ms)
        elif move == "wait":
            world.settle(world.now_ms + (90 * SECOND, HOUR, 12 * HOUR, DAY)[which])
        else:
            world.command(move, campaign_id=name, time_ms=world.now_ms)
        check_accounts(world)
    for shard, machine in world.machines.items():
        assert state_of(world.folded(shard)) == state_of(machine)
        assert state_of(world.decided_again(shard)) == state_of(machine)


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_plan_that_waits_does_not_take_its_accounts_money_from_others(partitions: int) -> None:
    """An ask that waits for its own campaign's plan would not be helped by the account's money, so what the account's
    other campaigns were leased is not recalled for it, again and again."""
    world = World(partitions, now_ms=T0 // DAY * DAY, lateness_ms=0)
    world.command("account", account={"account_id": "a1", "daily_budget_micros": 2_000}, time_ms=world.now_ms)
    world.campaign("paced", daily_budget_micros=10_000, pacing={"mode": "even"})
    world.settle(world.now_ms + SECOND)
    for number in range(6):
        world.request(f"p{number}", world.now_ms + number, "paced", user=f"user{number}")
    assert known_to_treasury(world, "paced").asks
    world.campaign("asap")
    won = [
        winner_of(
            world.request(f"r{number}", world.now_ms + number * SECOND, "asap", user=f"user{number % 5}")
        )
        for number in range(10)
    ]
    assert won.count("asap") == 2
    world.check_money()
