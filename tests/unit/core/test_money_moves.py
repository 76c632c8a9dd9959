"""A price's way: reserved at the decision, spent at the impression, returned at the deadline, once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from core_kit import HOUR, MINUTE, SECOND, T0, World, codes_of, winner_of


def _world(budget_micros: int = 10_000, **rules: int) -> World:
    world = World(**{"lateness_ms": 0, **rules})
    world.campaign(budget_micros=budget_micros)
    return world


def _books(world: World) -> tuple[int, int, int]:
    money = world.money()
    return money["unleased"] + money["lease"], money["reserved"], money["spent"]


def test_a_decision_reserves_its_price() -> None:
    """A win moves one price from the lease to reserved, until its request's time + reservation_ms."""
    world = _world()
    decision = world.request("r1", T0, "c1")
    assert decision["slots"][0]["winner"]["deadline_ms"] == T0 + world.rules.reservation_ms
    assert _books(world) == (9_000, 1_000, 0)


def test_an_impression_spends_it_for_good() -> None:
    """Settled is terminal: the deadline passes without effect."""
    world = _world()
    world.request("r1", T0, "c1")
    result = world.show("r1", T0 + SECOND)
    assert result == {"kind": "settled", "campaign": "c1", "day": 0, "charged_micros": 1_000}
    world.settle(T0 + HOUR)
    assert _books(world) == (9_000, 0, 1_000)


def test_no_impression_returns_it_at_the_deadline() -> None:
    """At the deadline, and not a millisecond before, the price is free again."""
    world = _world()
    world.request("r1", T0, "c1")
    world.settle(T0 + MINUTE - 1)
    assert _books(world) == (9_000, 1_000, 0)
    world.settle(T0 + MINUTE)
    assert _books(world) == (10_000, 0, 0)


def test_the_impression_that_moves_the_watermark_to_the_deadline_is_late() -> None:
    """An impression first moves the watermark; what is then due expires before the impression is handled."""
    world = _world()
    world.request("r1", T0, "c1")
    world.instant = False
    assert world.show("r1", T0 + MINUTE)["kind"] == "late_funded"


def test_a_duplicate_impression_is_counted_once() -> None:
    """The second impression of a slot is a record without effect, however it became spend."""
    world = _world()
    world.request("r1", T0, "c1")
    world.request("r2", T0, "c1")
    world.show("r1", T0)
    assert world.show("r1", T0) == {"kind": "duplicate", "event": "impression"}
    world.settle(T0 + MINUTE)
    assert world.show("r2", T0)["kind"] == "late_funded"
    assert world.show("r2", T0)["kind"] == "duplicate"
    assert _books(world) == (8_000, 0, 2_000)


def test_an_unknown_impression_is_an_orphan() -> None:
    """An impression of a decision or slot that was never made is recorded and moves nothing."""
    world = _world()
    world.request("r1", T0, "c1")
    assert world.show("r2", T0)["kind"] == "orphan"
    assert world.show("r1", T0, slot=1)["kind"] == "orphan"
    assert _books(world) == (9_000, 1_000, 0)


def test_a_lower_price_returns_the_rest() -> None:
    """A price paid below the reservation spends so much, and the rest returns to the lease."""
    world = _world()
    world.request("r1", T0, "c1")
    assert world.show("r1", T0, price_micros=300)["charged_micros"] == 300
    assert _books(world) == (9_700, 0, 300)


def test_a_price_of_zero_is_zero() -> None:
    """A given price of 0 charges nothing; it does not mean 'as reserved'."""
    world = _world()
    world.request("r1", T0, "c1")
    assert world.show("r1", T0, price_micros=0)["charged_micros"] == 0
    assert _books(world) == (10_000, 0, 0)


def test_a_higher_price_charges_what_was_reserved_and_is_flagged() -> None:
    """A price paid above the reservation never spends more than was reserved."""
    world = _world()
    world.request("r1", T0, "c1")
    result = world.show("r1", T0, price_micros=5_000)
    assert (result["charged_micros"], result["flag"]) == (1_000, "price_above_reservation")
    assert _books(world) == (9_000, 0, 1_000)


def test_a_late_impression_is_paid_from_the_lease() -> None:
    """After its deadline an impression spends from the lease, at its reserved price or its lower real one."""
    world = _world()
    world.request("r1", T0, "c1")
    world.request("r2", T0, "c1")
    world.settle(T0 + 5 * MINUTE)
    assert world.show("r1", T0 + MINUTE)["charged_micros"] == 1_000
    assert world.show("r2", T0 + MINUTE, price_micros=400)["charged_micros"] == 400
    assert _books(world) == (8_600, 0, 1_400)


def _owing(world: World) -> dict[str, Any]:
    """A world of one price whose first ad expired and whose second took the price: the first comes late."""
    world.request("r1", T0, "c1")
    world.settle(T0 + MINUTE)
    assert winner_of(world.request("r2", T0 + MINUTE, "c1")) == "c1"
    return world.show("r1", T0 + MINUTE)


def test_a_late_impression_without_money_is_owed_and_paid_by_the_next_grant() -> None:
    """What no lease can pay is owed, named in the next ask, and paid before anything else by the next grant."""
    world = _world(1_000)
    assert _owing(world)["kind"] == "owed"
    world.show("r2", T0 + MINUTE)
    world.check_money()
    assert _books(world) == (0, 0, 1_000)
    world.command("top-up", campaign_id="c1", amount_micros=1_000)
    assert _books(world) == (0, 0, 2_000)
    world.check_money()
    assert world.show("r1", T0 + MINUTE)["kind"] == "duplicate"


def test_a_debt_is_forgiven_when_its_tombstone_ends() -> None:
    """What nobody paid in time is over-delivery: recorded, counted, not billed."""
    world = _world(1_000)
    _owing(world)
    world.show("r2", T0 + MINUTE)
    dedupe = world.rules.dedupe_ms
    world.settle(T0 + dedupe - 1)
    assert world.users[0].shares["c1"].owed
    world.settle(T0 + dedupe)
    assert not world.users[0].shares["c1"].owed
    assert world.money()["unfunded"] == 1_000
    world.command("top-up", campaign_id="c1", amount_micros=5_000)
    assert world.money()["spent"] == 1_000


def test_an_owed_impression_counts_for_caps_at_once() -> None:
    """It was shown, whoever pays for it."""
    world = World(lateness_ms=0)
    world.campaign(budget_micros=1_000, caps=[{"window": "rolling", "length_ms": HOUR, "limit": 1}])
    world.request("r1", T0, "c1")
    world.settle(T0 + MINUTE)
    assert winner_of(world.request("r2", T0 + MINUTE, "c1", user="bob")) == "c1"
    assert world.show("r1", T0 + MINUTE)["kind"] == "owed"
    assert "capped" in codes_of(world.request("r3", T0 + 2 * MINUTE, "c1"))


def test_each_slot_of_a_request_is_settled_alone() -> None:
    """Two slots are two reservations: one can be spent while the other returns."""
    world = _world()
    ads = [{"campaign_id": "c1", "creative_id": name} for name in ("x", "y")]
    world.request("r1", T0, *ads, slots=2)
    assert _books(world) == (8_000, 2_000, 0)
    world.show("r1", T0, slot=1)
    assert _books(world) == (8_000, 1_000, 1_000)
    world.settle(T0 + MINUTE)
    assert _books(world) == (9_000, 0, 1_000)


def test_an_unfilled_slot_reserves_nothing() -> None:
    """A slot that nobody can fill holds no money."""
    world = _world()
    decision = world.request("r1", T0, "c1", slots=3)
    assert [winner_of(decision, slot) for slot in range(3)] == ["c1", None, None]
    assert _books(world) == (9_000, 1_000, 0)


def test_a_free_campaign_without_a_budget_is_served() -> None:
    """House ads cost nothing and need no money."""
    world = World()
    world.campaign(budget_micros=0, price_micros=0)
    for number in range(3):
        assert winner_of(world.request(f"r{number}", T0, "c1")) == "c1"
    assert world.of("campaign-paused") == []


@pytest.mark.parametrize("price", [1, 7, 999, 1_000, 1_001])
def test_the_lease_is_never_overdrawn(price: int) -> None:
    """A candidate dearer than the lease is refused as no_lease until a grant makes the price up."""
    world = _world(10 * price)
    world.instant = False
    wins = 0
    while (
        winner_of(decision := world.request(f"r{wins}", T0, {"campaign_id": "c1", "price_micros": 1_000}))
        == "c1"
    ):
        wins += 1
    assert codes_of(decision) == ["no_lease"] if price >= 100 else ["price_below_minimum"]
    world.check_money()


def test_outputs_and_deltas_name_no_person() -> None:
    """Nothing outside a record's personal part holds the routing id."""
    world = _world()
    world.request("r1", T0, "c1", user="secret-ann", session_id="secret-session")
    world.show("r1", T0, user="secret-ann")
    world.user_event("opt-out", T0, user="secret-ann")
    for block in world.blocks["u0"]:
        for recorded in block.records:
            data = orjson.loads(recorded.line)
            assert b"secret" not in orjson.dumps(
                [data["result"], data["deltas"], data.get("out"), data.get("send")]
            )
