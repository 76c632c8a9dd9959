"""Budgets, prices, calendars and currencies that change while money is out: what was allowed yesterday is not what may
be spent today."""

from __future__ import annotations

import random
from typing import Any

import pytest
from core_kit import DAY, HOUR, SECOND, T0, World, codes_of, known_to_treasury, state_of, winner_of

from adgovernor.contracts import topics
from adgovernor.core.rules import Rules
from adgovernor.core.treasury import Treasury

MIDNIGHT = T0 // DAY * DAY


def _account(world: World, **fields: Any) -> dict[str, Any]:
    return world.command("account", time_ms=world.now_ms, account={"account_id": "a1", **fields})


def _used(world: World, *campaigns: str) -> dict[int, int]:
    used: dict[int, int] = {}
    for user in world.users:
        for campaign in campaigns or ("c1",):
            for day, book in user.shares[campaign].books.items():
                used[day] = used.get(day, 0) + book.reserved + book.spent
    return used


def _ask(
    world: World, count: int, *campaigns: str, prefix: str, show: bool = True, price: int = 1_000
) -> int:
    """Requests of as many people, a second after each other; how many were served."""
    served = 0
    for number in range(count):
        time_ms, user, name = world.now_ms + SECOND, f"user{number % 29}", f"{prefix}{number}"
        bid = {"campaign_id": campaigns[number % len(campaigns)], "price_micros": price}
        if winner_of(world.request(name, time_ms, bid, user=user)) is not None:
            served += 1
            if show:
                world.show(name, time_ms, user=user)
        world.check_money()
    return served


def _check_replays(world: World) -> None:
    for shard, machine in world.machines.items():
        assert state_of(world.folded(shard)) == state_of(world.decided_again(shard)) == state_of(machine)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("budget_of", ["campaign", "account"])
def test_a_lower_daily_budget_holds_at_once(partitions: int, budget_of: str) -> None:
    """When a daily budget is lowered in mid-day, what shards were leased above it comes back, so that what is reserved
    and spent from then on stays within it; what is not used of it can still be sold."""
    world = World(partitions, now_ms=MIDNIGHT + HOUR, report_interval_ms=SECOND)
    total: dict[str, Any] = {"budget_micros": 10_000_000}

    def give(daily_micros: int) -> None:
        daily: dict[str, Any] = {"daily_budget_micros": daily_micros}
        if budget_of == "account":
            _account(world, **daily)
        for name in ("c1", "c2"):
            world.campaign(name, **total, **(daily if budget_of == "campaign" else {}))

    give(100_000)
    assert _ask(world, 6, "c1", "c2", prefix="a", show=False) == 6
    give(10_000)
    rounds = [("c1",), ("c2",)] if budget_of == "campaign" else [("c1", "c2")]
    for number in range(8):
        _ask(world, 50, "c1", "c2", prefix=f"b{number}-", show=number > 0)
        assert all(_used(world, *names)[20231114] <= 10_000 for names in rounds)
    assert [_used(world, *names) for names in rounds] == [{20231114: 10_000}] * len(rounds)
    _check_replays(world)


def test_what_expires_above_a_lower_daily_budget_is_not_sold_again() -> None:
    """Reservations that are more than a lowered daily budget may be shown; what of them expires is sold again up to
    the new budget only."""
    world = World(2, now_ms=MIDNIGHT + HOUR)
    world.campaign(budget_micros=10_000_000, daily_budget_micros=100_000)
    assert _ask(world, 30, "c1", prefix="a", show=False) == 30
    for number in range(12):
        world.show(f"a{number}", world.now_ms, user=f"user{number % 29}")
    world.campaign(budget_micros=10_000_000, daily_budget_micros=15_000)
    assert _used(world) == {20231114: 30_000}
    world.settle(world.now_ms + 2 * HOUR)
    assert _used(world) == {20231114: 12_000}
    assert _ask(world, 200, "c1", prefix="b") == 3
    assert world.of(topics.BUDGET_EXHAUSTED)[-1]["scope"] == "day"


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_top_up_of_what_was_free_is_a_budget(partitions: int) -> None:
    """A campaign without price and budget that is topped up spends that to the end, wherever it was leased to, and is
    exhausted then."""
    world = World(partitions, lateness_ms=0)
    world.campaign(budget_micros=0, price_micros=0)
    assert winner_of(world.request("free", T0, "c1")) == "c1"
    world.command("top-up", campaign_id="c1", amount_micros=40, time_ms=T0)
    served = 0
    for number in range(4_000):
        bid = {"campaign_id": "c1", "price_micros": 1}
        if winner_of(world.request(f"r{number}", world.now_ms + SECOND, bid)) is not None:
            world.show(f"r{number}", world.now_ms)
            served += 1
    assert served == 40
    assert [event["scope"] for event in world.of(topics.BUDGET_EXHAUSTED)] == ["total"]
    _check_replays(world)


def test_an_accounts_money_counts_its_own_currency_only() -> None:
    """What an archived campaign spent in another currency is no part of its account's budget, in memory and as read
    back from the store."""
    world = World(2)
    world.campaign("old", currency="EUR", budget_micros=50_000)
    assert _ask(world, 20, "old", prefix="a") == 20
    world.command("archive", campaign_id="old", time_ms=world.now_ms)
    assert _account(world, currency="USD", budget_micros=6_000)["accepted"]
    world.campaign("new", currency="USD", budget_micros=50_000)
    assert known_to_treasury(world, "old").account is None
    assert _ask(world, 40, "new", prefix="b") == 6
    told = world.of(topics.BUDGET_EXHAUSTED)[-1]
    assert (told["scope"], told["topped_up_micros"]) == ("account", 6_000)
    assert told["spent_micros"] <= 6_000
    _check_replays(world)


def test_an_account_may_choose_its_currency_until_it_has_a_budget() -> None:
    """An account that was defined without a budget counts its campaigns' money when it is given one in theirs."""
    world = World()
    _account(world)
    world.campaign(currency="EUR")
    assert _ask(world, 5, "c1", prefix="a") == 5
    leased = known_to_treasury(world, "c1").topped_up - known_to_treasury(world, "c1").unleased
    change = _account(world, currency="EUR", budget_micros=leased - 1)
    assert (change["accepted"], change["reason"]) == (False, "too_little_unleased")
    assert _account(world, currency="EUR", budget_micros=leased)["accepted"]
    assert _ask(world, leased // 1_000 + 50, "c1", prefix="b") == leased // 1_000 - 5


def test_rollover_begins_anew_after_days_without_a_daily_budget() -> None:
    """Days of a campaign without a daily budget, which only its account's bounds, are not held against the days that
    roll over afterwards."""
    world = World(now_ms=MIDNIGHT + HOUR)
    _account(world, daily_budget_micros=1_000_000)
    rolling: dict[str, Any] = {"budget_micros": 10_000_000, "daily_policy": "rollover"}
    world.campaign(daily_budget_micros=10_000, **rolling)
    assert _ask(world, 20, "c1", prefix="a") == 10
    world.settle(MIDNIGHT + DAY + HOUR)
    world.campaign(**rolling)
    assert _ask(world, 100, "c1", prefix="b") == 100
    for day in (2, 3):
        world.settle(MIDNIGHT + day * DAY + HOUR)
        world.campaign(daily_budget_micros=10_000, **rolling)
        assert _ask(world, 20, "c1", prefix=f"c{day}-") == 10
    _check_replays(world)


@pytest.mark.parametrize(("rules", "kept"), [(8, [(20231114, 1_000)]), (9, [])])
def test_what_rolls_over_is_folded_as_it_was(rules: int, kept: list[tuple[int, int]]) -> None:
    """A ledger of earlier rules is folded to the state of its time, in which what rolls over did not end."""
    treasury = Treasury("t0", Rules())
    treasury.begin_fold(1, T0, False, rules)
    campaign = {"campaign_id": "c1", "account_id": "a1", "budget_micros": 9_000, "daily_policy": "rollover"}
    treasury.apply(["define", {**campaign, "daily_budget_micros": 1_000}, "UTC", True])
    treasury.apply(["opened", "c1", 20231114])
    treasury.apply(["define", campaign, "UTC", True])
    assert treasury.campaigns["c1"].dailies == kept


def test_an_account_that_moves_back_a_day_sells_what_is_left_of_it() -> None:
    """A day that was sold out in one zone does not refuse the day before, which it is again in another; it stays sold
    out when it comes."""
    world = World(now_ms=MIDNIGHT + 14 * HOUR, lateness_ms=0)
    _account(world, time_zone="Asia/Tokyo")
    world.campaign(budget_micros=10_000_000, daily_budget_micros=10_000)
    assert _ask(world, 3, "c1", prefix="a") == 3
    world.settle(MIDNIGHT + 16 * HOUR)
    assert _ask(world, 20, "c1", prefix="b") == 10
    _account(world, time_zone="America/Los_Angeles")
    assert _ask(world, 20, "c1", prefix="c") == 7
    world.settle(MIDNIGHT + 33 * HOUR)
    assert codes_of(world.request("x", world.now_ms, "c1")) == ["daily_budget"]
    assert _used(world) == {20231114: 10_000, 20231115: 10_000}


def test_archived_campaigns_at_rest_do_not_bind_their_account() -> None:
    """An account can be given a daily budget though campaigns that were archived had none, once their money is at
    rest."""
    world = World()
    world.campaign("old")
    world.request("r1", T0, "old")
    world.command("archive", campaign_id="old")
    world.campaign("new", daily_budget_micros=5_000)
    assert _account(world, daily_budget_micros=3_000)["reason"] == "daily_budget_added_or_removed"
    world.settle(T0 + HOUR)
    assert _account(world, daily_budget_micros=3_000)["accepted"]
    assert _ask(world, 20, "new", prefix="a") == 3


def test_no_day_is_leased_before_the_time_is_known() -> None:
    """A campaign that was paused and resumed before any event has told the time is leased nothing of any day."""
    world = World(2, now_ms=0)
    world.campaign(daily_budget_micros=5_000, time_ms=0)
    world.command("pause", campaign_id="c1")
    world.command("resume", campaign_id="c1")
    assert known_to_treasury(world, "c1").leased == {}
    assert codes_of(world.request("r1", T0, "c1")) == ["no_lease"]
    assert winner_of(world.request("r2", T0 + SECOND, "c1")) == "c1"


@pytest.mark.parametrize("of_account", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_decrease_comes_before_demand(of_account: bool, seed: int) -> None:
    """What a recall brings back for a decrease is not leased again before the decrease has it, however many ask."""
    rng = random.Random(seed)
    world = World(4, now_ms=MIDNIGHT + HOUR, report_interval_ms=SECOND)
    if of_account:
        _account(world, budget_micros=2_000_000)
    world.campaign(budget_micros=2_000_000)
    world.instant = False
    about: dict[str, Any] = {} if of_account else {"campaign_id": "c1"}
    for number in range(300):
        if number == 60:
            world.command("decrease", amount_micros=1_900_000, time_ms=world.now_ms, **about)
        world.request(f"r{number}", world.now_ms + 20, "c1", user=f"user{rng.randrange(50)}")
        for _ in range(rng.randrange(4)):
            if world.mail:
                world.deliver(*rng.choice(sorted(world.mail)))
        for shard in world.machines:
            world.tick(shard)
    world.settle()
    answer = world.of(topics.CAMPAIGN_CHANGES)[-1]
    assert (answer["accepted"], answer["topped_up_micros"]) == (True, 100_000)
    world.check_money()
