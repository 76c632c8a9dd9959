"""While the store is away: what is assumed of people who are not in memory, and how it is mended."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from core_kit import HOUR, MINUTE, T0, World, codes_of, state_of, winner_of

CAP = {"window": "rolling", "length_ms": HOUR, "limit": 1}


def _world(**policies: Any) -> World:
    """Ann has seen the ad once, and has left the memory."""
    world = World()
    world.campaign(caps=[CAP], policies=policies)
    world.campaign("free", price_micros=500)
    world.request("r1", T0, "c1")
    world.show("r1", T0)
    world.forget()
    return world


def _same_again(world: World) -> None:
    world.heal()
    expected = world.state("u0")
    assert state_of(world.folded("u0")) == expected
    assert state_of(world.decided_again("u0")) == expected


def test_open_serves_and_says_so() -> None:
    """By default a campaign is served to somebody whose history is unknown, and the decision is flagged."""
    world = _world()
    decision = world.request("r2", T0 + 1, "c1", unknown=True)
    assert (winner_of(decision), decision["degraded"]) == ("c1", True)
    _same_again(world)


def test_closed_serves_only_what_has_no_caps() -> None:
    """A closed campaign is refused as state_unknown; one without caps is served."""
    world = _world(degraded="closed")
    decision = world.request("r2", T0 + 1, "c1", "free", unknown=True)
    assert codes_of(decision, 0) == ["state_unknown"]
    assert winner_of(decision) == "free"
    _same_again(world)


def test_bounded_serves_so_many_in_all() -> None:
    """A bounded campaign is served at most degraded_limit times to one person until the store is back."""
    world = World()
    world.campaign(caps=[{**CAP, "limit": 10}], policies={"degraded": "bounded", "degraded_limit": 2})
    codes = [codes_of(world.request(f"r{n}", T0 + n, "c1", unknown=True)) for n in range(3)]
    assert codes == [[], [], ["state_unknown"]]
    _same_again(world)


def test_what_was_assumed_is_recorded() -> None:
    """The record holds what was known of the person, as an input of the decision."""
    world = _world()
    world.request("r2", T0 + 1, "c1", unknown=True)
    world.request("r3", T0 + 2, "c1", unknown=True)
    lines = [orjson.loads(recorded.line) for block in world.blocks["u0"] for recorded in block.records]
    assumed = [line["assumed"] for line in lines if "assumed" in line and line["topic"] == "ad-requests"]
    assert assumed[0] == {"history": "{}"}
    assert '"r2"' in assumed[1]["history"]


def test_caps_hold_for_what_was_served_since() -> None:
    """Servings made while the history was unknown count at once."""
    world = _world()
    assert winner_of(world.request("r2", T0 + 1, "c1", unknown=True)) == "c1"
    assert codes_of(world.request("r3", T0 + 2, "c1", unknown=True)) == ["capped"]


def test_the_store_comes_back_and_everything_counts() -> None:
    """What was served meanwhile goes on top of what the store holds, and later decisions are not degraded."""
    world = World()
    world.campaign(caps=[{**CAP, "limit": 2}])
    world.request("r1", T0, "c1")
    world.show("r1", T0)
    world.forget()
    world.request("r2", T0 + 1, "c1", unknown=True)
    world.heal()
    decision = world.request("r3", T0 + 2, "c1")
    assert codes_of(decision) == ["capped"]
    assert "degraded" not in decision
    _same_again(world)


def test_an_impression_settles_without_its_person() -> None:
    """Money needs no history: an open reservation is settled for somebody unknown, and an audit sees the same."""
    world = World()
    world.campaign()
    world.request("r1", T0, "c1")
    world.forget()
    assert world.show("r1", T0, unknown=True)["kind"] == "settled"
    world.check_money()
    _same_again(world)


@pytest.mark.parametrize("kind", ["impression", "click", "view"])
def test_what_cannot_be_known_is_an_orphan_and_an_audit_agrees(kind: str) -> None:
    """A late impression, a click or a view of somebody unknown is an orphan; deciding again gives the same bytes."""
    world = World(lateness_ms=0)
    world.campaign()
    world.request("r1", T0, "c1")
    world.settle(T0 + 2 * MINUTE)
    world.forget()
    assert world.show("r1", T0 + 2 * MINUTE, unknown=True, type=kind) == {"kind": "orphan", "event": kind}
    _same_again(world)


def test_a_duplicate_of_an_open_decision_is_known_without_its_person() -> None:
    """A request whose reservation is open is a duplicate even where its person's history is away."""
    world = World()
    world.campaign()
    world.request("r1", T0, "c1")
    world.forget()
    assert world.request("r1", T0, "c1", unknown=True)["kind"] == "duplicate"
    assert world.money()["reserved"] == 1_000
    _same_again(world)


def test_a_pod_counts_its_own_ads_when_decided_again() -> None:
    """Two slots of one degraded request are judged the same by an audit."""
    world = _world()
    ads = [{"campaign_id": "c1", "creative_id": name} for name in ("x", "y")]
    decision = world.request("r2", T0 + 1, *ads, slots=2, unknown=True)
    assert [winner_of(decision, slot) for slot in (0, 1)] == ["c1", None]
    _same_again(world)


def test_budgets_stay_exact() -> None:
    """Nothing that is assumed of people touches the money: a budget is sold to its last price and not beyond."""
    world = World()
    world.campaign(budget_micros=5_000, caps=[CAP])
    wins = 0
    for number in range(12):
        user = f"user{number}"
        if winner_of(world.request(f"r{number}", T0 + number, "c1", user=user, unknown=True)) == "c1":
            wins += 1
            world.show(f"r{number}", T0 + number, user=user, unknown=True)
    assert wins == 5
    world.check_money()
    _same_again(world)
