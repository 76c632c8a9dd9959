"""Days that are over and settled: their money is kept as a sum, and everything still adds up."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import DAY, HOUR, SECOND, T0, World, state_of, winner_of

from adgovernor.core.leases import EARLIER_DAYS

MIDNIGHT = T0 - T0 % DAY


def _days(world: World, days: int, **campaign: Any) -> int:
    """Some impressions on each of so many days; what they cost."""
    world.campaign("c1", budget_micros=10**9, price_micros=1_000, daily_budget_micros=5_000, **campaign)
    shown = 0
    for day in range(days):
        for number in range(3):
            time_ms = MIDNIGHT + day * DAY + HOUR + number * SECOND
            request_id = f"d{day}-{number}"
            if winner_of(world.request(request_id, time_ms, "c1", user=f"user{number}")) is not None:
                world.show(request_id, time_ms, user=f"user{number}")
                shown += 1
        world.settle(MIDNIGHT + day * DAY + 12 * HOUR)
        world.check_money()
    return shown * 1_000


@pytest.mark.parametrize("policy", ["hard", "rollover"])
def test_state_does_not_grow_with_days(policy: str) -> None:
    """After three weeks there are about as many days in the state as after ten days, and no cent is missing."""
    ten, many = World(2, now_ms=MIDNIGHT), World(2, now_ms=MIDNIGHT)
    _days(ten, 10, daily_policy=policy)
    spent = _days(many, 21, daily_policy=policy)
    for world in (ten, many):
        known = world.treasuries[0].campaigns.get("c1") or world.treasuries[1].campaigns["c1"]
        assert len(known.leased_by_day) <= 12
        for user in world.users:
            assert len(user.shares["c1"].books) <= 12
    assert many.money()["spent"] == spent
    known = many.treasuries[0].campaigns.get("c1") or many.treasuries[1].campaigns["c1"]
    assert known.spent == spent
    assert sum(user.shares["c1"].books[EARLIER_DAYS].spent for user in many.users) > 0


def test_a_closed_state_is_read_back_as_it_was() -> None:
    """What a store holds after days were closed gives the same state."""
    world = World(2, now_ms=MIDNIGHT)
    _days(world, 14, daily_policy="rollover")
    for shard in ("u0", "u1", "t0", "t1"):
        state = world.state(shard)
        twin = world.twin(shard)
        stored = {
            bucket: {name: value or b"" for name, value in state.get(bucket, {}).items()}
            for bucket in twin.resident_buckets()
        }
        twin.restore(stored)
        assert state_of(twin)["campaigns"] == state["campaigns"]
        assert state_of(world.folded(shard)) == state


def _spend_the_rest(**rules: int) -> int:
    """What three weeks spend in all when the last day takes everything that it can."""
    world = World(1, now_ms=MIDNIGHT + HOUR, **rules)
    spent = _days(world, 21, daily_policy="rollover")
    start_ms = MIDNIGHT + 20 * DAY + 13 * HOUR
    for number in range(100):
        time_ms = start_ms + number * SECOND
        request_id = f"last-{number}"
        if winner_of(world.request(request_id, time_ms, "c1", user=f"v{number}")) is not None:
            world.show(request_id, time_ms, user=f"v{number}")
    world.settle(start_ms + HOUR)
    assert world.money()["spent"] > spent
    return world.money()["spent"]


def test_rolled_over_money_of_closed_days_stays_counted() -> None:
    """With rollover, what three weeks left can be spent on the last day, not a price more, whether days were closed or
    are all kept."""
    assert _spend_the_rest() == _spend_the_rest(day_grace_ms=365 * DAY) == 21 * 5_000


def test_a_request_of_a_closed_day_finds_no_money() -> None:
    """A straggler from long ago is refused for its time, and nothing is leased for its day."""
    world = World(1, now_ms=MIDNIGHT)
    _days(world, 14)
    assert [slot["no_fill"] for slot in world.request("old", MIDNIGHT + HOUR, "c1")["slots"]] == ["late"]
    known = world.treasuries[0].campaigns["c1"]
    assert known.closed_day > 0
    assert known.own_room(known.closed_day) == 0
