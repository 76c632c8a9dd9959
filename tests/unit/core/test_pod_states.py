"""Pods from creation to their end: what the topic says, what time alone does, and that every reader agrees."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import MINUTE, SECOND, T0, World, state_of

from adgovernor.contracts import topics
from adgovernor.contracts.catalogue import contract_of
from adgovernor.core import podstate
from adgovernor.core.history import Person


def world(**rules: int) -> World:
    """A deployment of one shard with one campaign."""
    one = World(lateness_ms=0, **rules)
    one.campaign()
    return one


def ads(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"campaign_id": "c1", "creative_id": f"x{number}", "duration_ms": 15_000, **fields}
        for number in range(count)
    ]


def ask(
    one: World, request_id: str = "r1", time_ms: int = T0, count: int = 2, **fields: Any
) -> dict[str, Any]:
    fields.setdefault("slots", count)
    fields.setdefault("session_id", "s1")
    return one.request(request_id, time_ms, *ads(count), **fields)


def kinds(one: World) -> list[str]:
    """What the topic says, each checked against its contract."""
    for body in one.of(topics.PODS):
        contract_of(topics.PODS).adapter.validate_python(
            {**body, "shard": "u0", "height": 1, "index": 0, "dn": 1}
        )
    return [body["type"] for body in one.of(topics.PODS)]


LAST = T0 + MINUTE + 15 * SECOND
"""When the reservation of the second of two ads ends: its turn comes after the first."""


def proved(one: World) -> None:
    """Folding the ledger, and deciding it again, give the state that the shard has."""
    live = one.machines["u0"]
    assert state_of(one.folded("u0")) == state_of(live)
    assert state_of(one.decided_again("u0")) == state_of(live)


def test_a_pod_is_created_with_its_decision() -> None:
    """A request for slots creates a pod under the decision's id, with the offsets of its ads in it."""
    one = world()
    decision = ask(one)
    (created,) = one.of(topics.PODS)
    assert (created["type"], created["pod_id"], created["filled"], created["unfilled"]) == (
        "pod-created",
        "r1",
        2,
        0,
    )
    assert [row["offset_ms"] for row in created["positions"]] == [0, 15_000]
    assert [row["delivered"] for row in created["positions"]] == [False, False]
    assert {slot["pod_id"] for slot in decision["slots"]} == {"r1"}
    proved(one)


def test_a_request_for_one_ad_makes_no_pod() -> None:
    """Without slots, pod, breaks or rules there is nothing on the topic and nothing to remember."""
    one = world()
    one.request("r1", T0, "c1", session_id="s1")
    assert kinds(one) == []
    assert one.users[0].open_pods == {}


def test_it_completes_with_its_last_impression() -> None:
    """The impression of the last position completes the pod, at its own time."""
    one = world()
    ask(one)
    one.show("r1", T0 + SECOND, slot=1)
    assert kinds(one) == ["pod-created"]
    one.show("r1", T0 + 2 * SECOND, slot=0)
    assert kinds(one) == ["pod-created", "pod-completed"]
    done = one.of(topics.PODS)[-1]
    assert (done["time_ms"], done["delivered"]) == (T0 + 2 * SECOND, 2)
    assert one.users[0].open_pods == {}
    proved(one)


def test_a_second_impression_of_a_position_does_not_complete_it() -> None:
    """One filled position counts once: its second impression is a duplicate, for the pod as for the money."""
    one = world()
    ask(one)
    one.show("r1", T0 + SECOND, slot=0)
    assert one.show("r1", T0 + 2 * SECOND, slot=0)["kind"] == "duplicate"
    assert kinds(one) == ["pod-created"]
    assert one.money()["spent"] == 1_000
    proved(one)


def test_it_is_abandoned_when_its_reservations_end() -> None:
    """Time alone abandons a pod, at its deadline and in the block in which its last reservation expires."""
    one = world()
    ask(one)
    one.show("r1", T0 + SECOND, slot=0)
    one.settle(LAST - 1)
    assert kinds(one) == ["pod-created"]
    one.settle(LAST)
    assert kinds(one) == ["pod-created", "pod-abandoned"]
    gone = one.of(topics.PODS)[-1]
    assert (gone["time_ms"], gone["delivered"]) == (LAST, 1)
    assert [row["delivered"] for row in gone["positions"]].count(True) == 1
    assert one.users[0].open == {}
    proved(one)


def test_somebody_elses_event_may_abandon_it() -> None:
    """The end of a pod says nothing of the person whose request moved the time."""
    one = world()
    ask(one)
    one.request("r2", T0 + 2 * MINUTE, "c1", user="bob")
    gone = one.of(topics.PODS)[-1]
    assert gone["type"] == "pod-abandoned"
    proved(one)


def test_a_late_impression_leaves_it_abandoned() -> None:
    """A late impression is paid, but an abandoned pod stays abandoned."""
    one = world()
    ask(one, count=1)
    one.settle(T0 + MINUTE)
    assert one.show("r1", T0 + 2 * MINUTE)["kind"] == "late_funded"
    assert kinds(one) == ["pod-created", "pod-abandoned"]
    proved(one)


def test_an_unfilled_slot_reserves_nothing() -> None:
    """A slot that stays empty is counted, and only the filled ones hold money."""
    one = world()
    ask(one, count=1, slots=3)
    (created,) = one.of(topics.PODS)
    assert (created["filled"], created["unfilled"]) == (1, 2)
    assert one.money()["reserved"] == 1_000


def test_an_empty_pod_waits_for_nothing() -> None:
    """A pod in which nothing was filled is created and has no further event."""
    one = world()
    one.request("r1", T0, slots=2, session_id="s1")
    one.settle(T0 + 10 * MINUTE)
    assert kinds(one) == ["pod-created"]
    proved(one)


def test_a_click_campaigns_pod_is_delivered_by_impressions() -> None:
    """Impressions deliver a pod also where clicks are paid for, within the time that impressions have."""
    one = World(lateness_ms=0)
    one.campaign(pricing="cpc", expected_rate_ppm=500_000)
    ask(one)
    one.show("r1", T0 + SECOND, slot=0)
    one.show("r1", T0 + SECOND, slot=1)
    assert kinds(one) == ["pod-created", "pod-completed"]
    ask(one, "r2", T0 + MINUTE)
    one.settle(LAST + MINUTE)
    assert kinds(one)[-1] == "pod-abandoned"
    assert len(one.users[0].open) == 4
    proved(one)


def test_an_unknown_person_changes_nothing_for_the_pod() -> None:
    """Where the store is away pods are created, completed and abandoned as ever, and folds onto it agree."""
    one = world()
    ask(one, "r0", T0, slots=1)
    one.forget()
    one.request("r1", T0 + SECOND, *ads(2), slots=2, session_id="s1", unknown=True)
    one.show("r1", T0 + 2 * SECOND, slot=0, unknown=True)
    one.show("r1", T0 + 2 * SECOND, slot=1, unknown=True)
    assert kinds(one) == ["pod-created", "pod-created", "pod-completed"]
    one.heal()
    assert one.state("u0") == state_of(one.decided_again("u0")) == state_of(one.folded("u0"))
    pods = one.users[0].persons["ann"].pods
    assert {name: rows[0][5] for name, rows in pods.items()} == {"r0": False, "r1": True}


def test_a_restart_between_keeps_the_pods() -> None:
    """Pods go to the store and come back with what was shown of them, and end when they would have."""
    one = world()
    ask(one)
    one.show("r1", T0 + SECOND, slot=0)
    live = one.users[0]
    stored = live.encode({"pods": list(live.open_pods)})["pods"]
    twin = one.twin("u0")
    twin.restore({"pods": {name: value for name, value in stored.items() if value is not None}})
    (pod,) = twin.open_pods["r1"]  # type: ignore[union-attr]
    assert pod.row() == live.open_pods["r1"][0].row()
    assert twin.next_pod_ms() == LAST  # type: ignore[union-attr]


def test_what_a_stream_was_shown_is_forgotten_with_its_request() -> None:
    """A person's pods leave with the request's tombstone."""
    one = world()
    ask(one)
    one.request("r2", T0 + 61 * MINUTE, "c1")
    assert "r1" not in one.users[0].persons["ann"].pods
    assert Person.decode(one.users[0].persons["ann"].encode()).pods == {}
    proved(one)


def test_a_person_remembers_the_end_of_a_pod() -> None:
    """What a person's state says of a pod is what the topic said: open, completed, abandoned or empty."""
    one = world()
    ask(one, "r1", T0)
    ask(one, "r2", T0 + 1)
    one.request("r3", T0 + 2, slots=1, session_id="s1")
    one.show("r1", T0 + SECOND, slot=0)
    one.show("r1", T0 + SECOND, slot=1)
    rows = one.users[0].persons["ann"].pods
    watermark = one.users[0].watermark_ms
    said = {name: podstate.state_of(pods[0], watermark) for name, pods in rows.items()}
    assert said == {"r1": "completed", "r2": "open", "r3": "empty"}
    assert podstate.state_of(rows["r2"][0], LAST) == "open"
    assert podstate.state_of(rows["r2"][0], LAST + 1) == "abandoned"


@pytest.mark.parametrize("routed", [True, False])
def test_the_end_of_a_pod_names_nobody(routed: bool) -> None:
    """No event of a pod has a routing id or session in it: its record may be about somebody else."""
    one = world()
    ask(one)
    if routed:
        one.request("r2", T0 + 2 * MINUTE, "c1", user="bob")
    else:
        one.settle(T0 + 2 * MINUTE)
    for block in one.blocks["u0"]:
        for recorded in block.records:
            result = recorded.line.split(b'"personal":')[0]
            assert b"ann" not in result
            assert b"s1" not in result


@pytest.mark.parametrize("restored", [False, True])
def test_a_name_is_taken_while_its_pod_waits_for_impressions(restored: bool) -> None:
    """Where the clicks of a pod were paid before its impressions, another person's request of its id is a duplicate:
    two pods of one name would be delivered, and end, together."""
    one = World(lateness_ms=0)
    one.campaign(pricing="cpc")
    ask(one)
    for slot in range(2):
        assert one.show("r1", T0 + SECOND, slot=slot, type="click")["kind"] == "settled"
    assert one.users[0].open_requests == {}
    first = one.users[0].open_pods["r1"][0]
    if restored:
        stored = one.users[0].encode({"pods": ["r1"]})["pods"]
        one.users[0].restore_pods({"r1": stored["r1"] or b""})
    assert ask(one, "r1", T0 + 2 * SECOND, user="bob", session_id="s2") == {
        "kind": "duplicate",
        "height": first.height,
        "index": first.index,
    }
    assert kinds(one) == ["pod-created"]
    for slot in range(2):
        one.show("r1", T0 + 3 * SECOND, slot=slot)
    assert kinds(one)[-1] == "pod-completed"
    assert "winner" in ask(one, "r1", T0 + 4 * SECOND, user="bob", session_id="s2")["slots"][0]
    if not restored:
        proved(one)
