"""Prices by click and completed view, caps on clicks, rollover, and money kept back for late events."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from core_kit import DAY, HOUR, MINUTE, SECOND, T0, World, reasons_of, state_of, winner_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adgovernor.contracts.campaigns import Campaign, Cap

MIDNIGHT = T0 - T0 % DAY
EVENTS = {"cpc": "click", "cpcv": "view"}


def _world(pricing: str = "cpc", partitions: int = 1, **fields: Any) -> World:
    world = World(partitions, lateness_ms=0)
    world.campaign(pricing=pricing, **{"budget_micros": 5_000, **fields})
    return world


@pytest.mark.parametrize("pricing", ["cpc", "cpcv"])
def test_money_moves_on_the_event_that_is_paid_for(pricing: str) -> None:
    """The impression counts and moves nothing; the first click (or completed view) settles; a second is ignored."""
    world = _world(pricing)
    decision = world.request("r1", T0, "c1")
    winner = decision["slots"][0]["winner"]
    assert winner["billable"] == EVENTS[pricing]
    assert (winner["deadline_ms"], winner["billing_deadline_ms"]) == (T0 + MINUTE, T0 + 10 * MINUTE)
    assert world.show("r1", T0 + SECOND)["kind"] == "counted"
    assert world.show("r1", T0 + SECOND)["kind"] == "duplicate"
    assert (world.money()["reserved"], world.money()["spent"]) == (1_000, 0)
    assert world.show("r1", T0 + 2 * MINUTE, type=EVENTS[pricing])["kind"] == "settled"
    assert world.show("r1", T0 + 3 * MINUTE, type=EVENTS[pricing])["kind"] == "duplicate"
    assert (world.money()["reserved"], world.money()["spent"]) == (0, 1_000)
    world.check_money()


def test_a_click_may_come_before_its_impression() -> None:
    """The order of click and impression changes neither money nor caps."""
    world = _world()
    world.request("r1", T0, "c1")
    assert world.show("r1", T0 + SECOND, type="click")["kind"] == "settled"
    assert world.show("r1", T0 + SECOND)["kind"] == "counted"
    assert world.money()["spent"] == 1_000


def test_the_other_event_is_not_paid_for() -> None:
    """A completed view of a campaign priced by click is recorded once and moves nothing."""
    world = _world()
    world.request("r1", T0, "c1")
    assert world.show("r1", T0, type="view")["kind"] == "view"
    assert world.show("r1", T0, type="view")["kind"] == "duplicate"
    assert world.show("r9", T0, type="click")["kind"] == "orphan"
    assert (world.money()["reserved"], world.money()["spent"]) == (1_000, 0)


@pytest.mark.parametrize(("life_ms", "effective_ms"), [(90 * SECOND, 90 * SECOND), (DAY, 30 * MINUTE)])
def test_a_campaign_says_how_long_its_price_stays_reserved(life_ms: int, effective_ms: int) -> None:
    """reservation_ms ends the reservation, at most so late that a late event still finds its decision."""
    world = _world(reservation_ms=life_ms)
    world.request("r1", T0, "c1")
    world.settle(T0 + effective_ms - 1)
    assert world.money()["reserved"] == 1_000
    world.settle(T0 + effective_ms)
    assert world.money()["reserved"] == 0


def test_a_late_click_is_paid_like_a_late_impression() -> None:
    """After its reservation has expired a click is paid from the lease, once."""
    world = _world()
    world.request("r1", T0, "c1")
    world.settle(T0 + 11 * MINUTE)
    assert world.money()["reserved"] == 0
    assert world.show("r1", T0 + 12 * MINUTE, type="click")["kind"] == "late_funded"
    assert world.show("r1", T0 + 12 * MINUTE, type="click")["kind"] == "duplicate"
    assert world.money()["spent"] == 1_000


def test_unlike_prices_compete_by_what_an_impression_is_worth() -> None:
    """A price by click counts as price × expected rate; a candidate's own rate comes before its campaign's."""
    world = World()
    world.campaign("cpm", budget_micros=10**9, price_micros=8_000)
    world.campaign("cpc", budget_micros=10**9, price_micros=500_000, pricing="cpc", expected_rate_ppm=20_000)
    assert winner_of(world.request("r1", T0, "cpm", "cpc")) == "cpc"
    poor = {"campaign_id": "cpc", "expected_rate_ppm": 10_000}
    assert winner_of(world.request("r2", T0, "cpm", poor)) == "cpm"
    floor = [{"floor_micros": 6_000}]
    assert winner_of(world.request("r3", T0, poor, slots=floor)) is None
    assert winner_of(world.request("r4", T0, "cpc", slots=floor)) == "cpc"


def test_a_cap_on_clicks_counts_clicks_at_their_time() -> None:
    """One click an hour: servings without a click do not count; the click does, for an hour from its own time."""
    cap = {"event": "click", "window": "rolling", "length_ms": HOUR, "limit": 1}
    world = World(lateness_ms=0)
    world.campaign(caps=[cap])
    for number in range(3):
        assert winner_of(world.request(f"r{number}", T0 + number * MINUTE, "c1")) == "c1"
        world.show(f"r{number}", T0 + number * MINUTE)
    world.show("r1", T0 + 10 * MINUTE, type="click")
    world.show("r1", T0 + 11 * MINUTE, type="click")
    blocked = world.request("r4", T0 + 10 * MINUTE + HOUR - 1, "c1")
    assert reasons_of(blocked)[0] == {
        "code": "capped",
        "scope": "campaign:c1",
        "window": "rolling",
        "length_ms": HOUR,
        "event": "click",
        "limit": 1,
        "count": 1,
    }
    assert winner_of(world.request("r5", T0 + 10 * MINUTE + HOUR, "c1")) == "c1"


def test_a_lifetime_cap_on_clicks_outlives_the_history() -> None:
    """A click moves into the totals with its serving, and counts for good."""
    world = World(history_ms=0, lateness_ms=0)
    world.campaign(caps=[{"event": "click", "window": "lifetime", "limit": 1}])
    world.request("r1", T0, "c1")
    world.show("r1", T0)
    world.show("r1", T0, type="click")
    world.request("x", T0 + 9 * HOUR, user="ann")
    person = world.users[0].persons["ann"]
    assert (person.servings, person.totals["click@campaign:c1"]) == ([], 1)
    assert reasons_of(world.request("r2", T0 + 9 * HOUR, "c1"))[0]["code"] == "capped"


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Cap, {"event": "click", "window": "pod", "limit": 1}),
        (
            Campaign,
            {"campaign_id": "c", "account_id": "a", "budget_micros": 1, "pricing": "cpc", "cpm_micros": 1},
        ),
    ],
)
def test_what_cannot_be_is_refused(model: type[Cap | Campaign], fields: dict[str, Any]) -> None:
    """A pod's clicks cannot be capped, and a price per thousand impressions is none by click."""
    with pytest.raises(ValidationError):
        model.model_validate(fields)


@given(
    pricing=st.sampled_from(("cpm", "cpc", "cpcv")),
    partitions=st.sampled_from((1, 2)),
    moves=st.lists(
        st.tuples(st.sampled_from(("request", "impression", "click", "view", "wait")), st.integers(0, 9)),
        max_size=80,
    ),
)
@settings(max_examples=80, deadline=None)
def test_money_adds_up_whatever_is_paid_for(
    pricing: str, partitions: int, moves: list[tuple[str, int]]
) -> None:
    """In any order of requests, impressions, clicks and views, on time, late, twice or astray: no money is lost or
    spent twice, and fold and another decision end in the same bytes."""
    world = _world(pricing, partitions, budget_micros=7_000)
    for move, which in moves:
        time_ms = world.now_ms + SECOND
        if move == "request":
            world.request(f"r{which}", time_ms, "c1", user=f"user{which}")
        elif move == "wait":
            world.settle(world.now_ms + (which + 1) * 90 * SECOND)
        else:
            world.show(f"r{which}", time_ms, user=f"user{which}", type=move)
        world.check_money()
    for shard, machine in world.machines.items():
        assert state_of(world.folded(shard)) == state_of(machine)
        assert state_of(world.decided_again(shard)) == state_of(machine)


def test_money_is_kept_back_once_late_impressions_are_known() -> None:
    """Where most of what expires is shown late, expired money is kept back, and late impressions are paid from it."""
    world = World(lateness_ms=0)
    world.campaign(budget_micros=1_000_000)
    for number in range(8):
        time_ms = T0 + number * 3 * MINUTE
        world.request(f"r{number}", time_ms, "c1", user=f"user{number}")
        world.show(f"r{number}", time_ms + 2 * MINUTE, user=f"user{number}")
    time_ms = T0 + 30 * MINUTE
    for name in ("a", "b", "c"):
        world.request(name, time_ms, "c1", user=name)
    world.settle(time_ms + 2 * MINUTE)
    held = world.users[0].shares["c1"].held_back(0)
    assert held == world.money()["reserved"] >= 2_000
    assert world.show("a", time_ms + 20 * MINUTE, user="a")["kind"] == "late_funded"
    assert world.money()["reserved"] == held - 1_000
    world.settle(time_ms + 60 * MINUTE)
    assert world.money()["reserved"] == 0
    world.check_money()


@given(
    days=st.lists(st.integers(0, 12), min_size=2, max_size=5),
    partitions=st.sampled_from((1, 3)),
    late=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_rollover_lets_days_together_spend_what_they_have_together(
    days: list[int], partitions: int, late: bool
) -> None:
    """With rollover every day sells what it has and what the days before it left, and never more."""
    world = World(partitions, now_ms=MIDNIGHT + HOUR, lateness_ms=0)
    world.campaign(budget_micros=10**9, daily_budget_micros=5_000, daily_policy="rollover")
    sold = 0
    for number, asked in enumerate(days):
        start_ms = MIDNIGHT + number * DAY + 2 * HOUR
        world.settle(start_ms)
        today = 0
        for place in range(4 * asked):
            request_id, user = f"r{number}.{place}", f"user{place % 7}"
            time_ms = start_ms + place * (SECOND if not late else 3 * MINUTE)
            if today < asked and winner_of(world.request(request_id, time_ms, "c1", user=user)) is not None:
                world.show(request_id, time_ms, user=user)
                today += 1
        assert sold + today <= 5 * (number + 1)
        if partitions == 1:
            assert today == min(asked, 5 * (number + 1) - sold)
        sold += today
        world.check_money()


def test_asks_for_several_days_ride_on_one_message() -> None:
    """A campaign that is resumed while late impressions of two days are owed asks for both days."""
    world = World(lateness_ms=0)
    world.campaign(daily_budget_micros=5_000)
    user = world.users[0]
    world.command("pause", campaign_id="c1", time_ms=T0)
    for day in (20231113, 20231114):
        user.apply(["owe", f"r{day}", 0, "c1", day, 1_000, T0 + HOUR])
    world.instant = False
    world.command("resume", campaign_id="c1", time_ms=T0)
    while ("t0", "u0") in world.mail:
        world.deliver("t0", "u0")
    asked = [
        ask["day"]
        for value in world.mail["u0", "t0"]
        for item in orjson.loads(value)["payload"]["items"]
        for ask in item.get("asks", ())
    ]
    assert sorted(set(asked)) == [20231113, 20231114]
