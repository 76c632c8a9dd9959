"""Budgets are spent to the last whole price while there is demand, and never beyond it."""

from __future__ import annotations

import pytest
from core_kit import DAY, MINUTE, SECOND, T0, World, winner_of
from hypothesis import given, settings
from hypothesis import strategies as st


def _drain(world: World, limit: int, *, users: int = 23, step_ms: int = SECOND) -> int:
    """Requests, each shown at once, until the campaign is paused or ``limit`` is reached; the wins."""
    wins = 0
    for number in range(limit):
        if world.of("campaign-paused"):
            break
        user, time_ms = f"user{number % users}", T0 + number * step_ms
        if winner_of(world.request(f"r{number}", time_ms, "c1", user=user)) is not None:
            wins += 1
            world.show(f"r{number}", time_ms, user=user)
    return wins


@pytest.mark.parametrize("partitions", [1, 2, 4, 8])
@pytest.mark.parametrize(("prices", "rest"), [(1, 0), (1, 999), (2, 0), (7, 1), (8, 0), (33, 500), (300, 0)])
def test_a_budget_is_spent_to_the_last_whole_price(partitions: int, prices: int, rest: int) -> None:
    """Whatever the number of shards, exactly the whole prices of the budget are sold, then exhausted is told once."""
    world = World(partitions)
    world.campaign(budget_micros=prices * 1_000 + rest)
    wins = _drain(world, 4 * prices + 400)
    assert wins == prices
    assert world.money() == {
        "lease": 0,
        "reserved": 0,
        "spent": prices * 1_000,
        "unfunded": 0,
        "unleased": rest,
        "topped_up": prices * 1_000 + rest,
    }
    assert [event["scope"] for event in world.of("budget-exhausted")] == ["total"]
    world.check_money()


@pytest.mark.parametrize("partitions", [1, 2, 4, 8])
def test_a_daily_budget_is_spent_to_the_last_whole_price(partitions: int) -> None:
    """A day's budget is sold whole and no more, told once with its day, and the next day begins again."""
    world = World(partitions, lateness_ms=0)
    world.campaign(budget_micros=1_000_000, daily_budget_micros=20_000)
    assert _drain(world, 400) == 20
    event = world.of("budget-exhausted")[0]
    assert (event["scope"], event["day"]) == ("day", 20231114)
    assert world.money()["spent"] == 20_000
    world.settle(T0 + DAY)
    assert [event["episode"] for event in world.of("campaign-resumed")] == [2]
    assert winner_of(world.request("tomorrow", T0 + DAY, "c1")) == "c1"
    world.check_money()


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_total_smaller_than_the_day_is_exhausted_as_total(partitions: int) -> None:
    """Where the total runs out within a day, the total is what is exhausted."""
    world = World(partitions)
    world.campaign(budget_micros=9_000, daily_budget_micros=20_000)
    assert _drain(world, 400) == 9
    assert [event["scope"] for event in world.of("budget-exhausted")] == ["total"]


@pytest.mark.parametrize("partitions", [1, 2, 4])
def test_unshown_ads_do_not_cost_the_budget_anything(partitions: int) -> None:
    """When every second ad is never shown, the budget is still spent to the last price in the end."""
    world = World(partitions, lateness_ms=0)
    world.campaign(budget_micros=40_000)
    shown = 0
    for number in range(3_000):
        user, time_ms = f"user{number % 23}", T0 + number * SECOND
        decision = world.request(f"r{number}", time_ms, "c1", user=user)
        if winner_of(decision) is not None and number % 2:
            shown += 1
            world.show(f"r{number}", time_ms, user=user)
        if shown == 40:
            break
    assert shown == 40
    assert world.money()["spent"] == 40_000
    world.check_money()


@given(
    partitions=st.sampled_from((1, 2, 3, 8)),
    price=st.sampled_from((1, 2, 999, 1_000, 12_345)),
    budget=st.integers(0, 60),
    rest=st.integers(0, 12_344),
    users=st.integers(1, 40),
    step_ms=st.sampled_from((1, 100, SECOND, 2 * MINUTE)),
)
@settings(max_examples=60, deadline=None)
def test_any_budget_is_sold_whole(
    partitions: int, price: int, budget: int, rest: int, users: int, step_ms: int
) -> None:
    """The number of ads sold is the budget divided by the price, whoever asks and how often."""
    total = budget * price + rest % price
    world = World(partitions)
    world.campaign(budget_micros=total, price_micros=price)
    assert _drain(world, 5 * budget + 300, users=users, step_ms=step_ms) == budget
    assert world.money()["spent"] == budget * price
    world.check_money()


@given(
    prices=st.lists(st.sampled_from((1_000, 1_500, 2_750)), min_size=1, max_size=40),
    partitions=st.sampled_from((1, 2, 4)),
)
@settings(max_examples=40, deadline=None)
def test_mixed_prices_leave_less_than_one_price(prices: list[int], partitions: int) -> None:
    """Bids of several prices are taken as long as there is money for them; what stays in the end is less than the
    least price."""
    world = World(partitions)
    world.campaign(budget_micros=30_300, min_price_micros=1_000)
    for number in range(400):
        if world.of("campaign-paused"):
            break
        price = prices[number % len(prices)] if number < 200 else 1_000
        bid = {"campaign_id": "c1", "price_micros": price}
        user, time_ms = f"user{number % 11}", T0 + number * SECOND
        if winner_of(world.request(f"r{number}", time_ms, bid, user=user)) is not None:
            world.show(f"r{number}", time_ms, user=user)
        world.check_money()
    money = world.money()
    assert money["topped_up"] - money["spent"] < 1_000
    assert len(world.of("budget-exhausted")) == 1
