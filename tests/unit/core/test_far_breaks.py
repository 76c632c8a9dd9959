"""Breaks that come after their decision is forgotten: they could never be billed, so they are not sold."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from core_kit import HOUR, MINUTE, SECOND, T0, World, state_of

from adgovernor.contracts import topics
from adgovernor.contracts.catalogue import contract_of


def _ask(one: World, *offsets: str, slots: int = 1, ads: int = 20, **fields: Any) -> dict[str, Any]:
    candidates = [
        {"campaign_id": "c1", "creative_id": f"x{number}", "duration_ms": 30_000} for number in range(ads)
    ]
    if offsets:
        fields["breaks"] = [{"offset": offset} for offset in offsets]
    return one.request("r1", T0, *candidates, slots=slots, session_id="s1", **fields)


def _world(**rules: int) -> World:
    one = World(lateness_ms=0, **rules)
    one.campaign()
    return one


def _said(decision: dict[str, Any]) -> list[str]:
    return [slot.get("no_fill", "sold") for slot in decision["slots"]]


def _proved(one: World) -> None:
    live = one.machines["u0"]
    assert state_of(one.folded("u0")) == state_of(live) == state_of(one.decided_again("u0"))
    body = {**one.of(topics.DECISIONS)[0], "shard": "u0", "height": 1, "index": 0, "dn": 1}
    contract_of(topics.DECISIONS).adapter.validate_json(orjson.dumps(body))


@pytest.mark.parametrize(
    ("offset", "said"),
    [
        ("start", "sold"),
        ("00:58:59", "sold"),
        ("00:59:00", "sold"),
        ("00:59:01", "too_far"),
        ("01:30:00", "too_far"),
        ("50%", "sold"),
        ("80%", "too_far"),
        ("end", "too_far"),
    ],
)
def test_a_break_past_the_memory_of_its_decision_is_not_sold(offset: str, said: str) -> None:
    """A break is sold where its ads can be shown, within a reservation's life, before the decision is forgotten; one
    known to come later stays empty, reserves nothing and says why."""
    one = _world()
    decision = _ask(one, offset, content_duration_ms=90 * MINUTE)
    assert _said(decision) == [said]
    assert one.money()["reserved"] == (1_000 if said == "sold" else 0)
    assert not [loser for loser in decision.get("losers", ()) if said == "too_far"]
    _proved(one)


@pytest.mark.parametrize("offset", ["00:59:00", "00:30:00"])
def test_the_last_break_that_is_sold_can_be_billed(offset: str) -> None:
    """Whatever is sold is billed when it is shown within a reservation's life of its turn."""
    one = _world()
    assert _said(_ask(one, offset)) == ["sold"]
    hours, minutes, seconds = map(int, offset.split(":"))
    shown_ms = T0 + ((hours * 60 + minutes) * 60 + seconds) * SECOND + 59 * SECOND
    one.settle(shown_ms - SECOND)
    one.show("r1", shown_ms)
    assert one.money()["spent"] == 1_000


def test_a_break_at_no_known_time_is_sold() -> None:
    """Where nobody knows when a break comes it may come in time."""
    assert _said(_ask(_world(), "#2", "50%")) == ["sold", "sold"]


def test_ads_that_play_before_count() -> None:
    """In a long break only the ads are sold whose own turn comes in time; the others say why they are not."""
    one = _world()
    decision = _ask(one, "00:58:00", "00:58:30", slots=4, ads=8)
    assert _said(decision) == ["sold"] * 3 + ["too_far"] * 5
    assert one.money()["reserved"] == 3_000
    positions = [slot["position"] for slot in decision["slots"] if "winner" in slot]
    assert positions == [1, 2, 3]
    far = [loser for loser in decision["losers"] if loser["reasons"] == [{"code": "too_far"}]]
    assert [loser["pod_id"] for loser in far] == ["r1/1"]
    pods = one.of(topics.PODS)
    assert [(pod["filled"], pod["unfilled"]) for pod in pods] == [(3, 1), (0, 4)]
    _proved(one)


def test_a_longer_memory_sells_them() -> None:
    """With a longer dedupe_ms breaks of a long programme are sold."""
    one = _world(dedupe_ms=3 * HOUR)
    assert _said(_ask(one, "start", "01:30:00", "02:58:00", "02:58:01")) == ["sold"] * 3 + ["too_far"]
