"""Streams in one process: the topic of pods, what the store says of a stream, and the audit of both."""

from __future__ import annotations

import pytest

from adgovernor import subscribe
from adgovernor.app.embedded import Embedded
from adgovernor.app.stored import StoredState
from adgovernor.app.stored_sessions import describe
from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import Campaign, Cap, UpsertCampaign
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.events import Impression
from adgovernor.contracts.pod_requests import BreakSpec, SlotSpec
from adgovernor.contracts.pods import PodAbandoned, PodCompleted, PodCreated
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.core.rules import Rules
from adgovernor.runtime.clock import WallClock

HOUR_MS = 3_600_000


class HandClock(WallClock):
    """The time of day, and what tests add to it."""

    passed_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.passed_ms


def define() -> UpsertCampaign:
    cap = Cap(window="stream", limit=3)
    campaign = Campaign(
        campaign_id="c1", account_id="acme", budget_micros=100_000, price_micros=1_000, caps=(cap,)
    )
    return UpsertCampaign(command="upsert", command_id="k", account_id="acme", campaign=campaign)


def request(request_id: str, **fields: object) -> AdRequest:
    return AdRequest.model_validate(
        {
            "request_id": request_id,
            "time_ms": WallClock().now_ms(),
            "user_id": "ann",
            "session_id": "s1",
            "candidates": [
                Candidate(
                    campaign_id="c1",
                    creative_id=name,
                    duration_ms=15_000,
                    advertiser_domain=f"{name}.example",
                    categories=("IAB1",),
                )
                for name in "abcd"
            ],
            **fields,
        }
    )


async def test_a_stream_and_its_pods() -> None:
    """The pods of a stream are on their topic, and in the store with what was shown, its last ad and what caps of the
    stream leave; the audit finds every event in the ledger."""
    async with Embedded(partitions=2) as governor:
        await governor.command(define())
        first = await governor.decide(request("r1", slots=(SlotSpec(), SlotSpec())))
        await governor.shown(first)
        second = await governor.decide(request("r2", breaks=(BreakSpec(break_id="mid", offset="00:10:00"),)))
        await governor.decide(request("r3"))
        await governor.settle()
        found = describe(await StoredState(governor.store, 2).find("ann"), "s1")
        other = describe(await StoredState(governor.store, 2).find("ann"), "s2")
        async with subscribe.pods(governor, until_end=True) as pods:
            events = [event async for event in pods]
        report = await governor.audit()
    assert report.green, report.findings
    assert [(type(event), event.pod_id) for event in events] == [
        (PodCreated, "r1"),
        (PodCompleted, "r1"),
        (PodCreated, "r2/1"),
    ]
    assert (second.slots[0].break_id, second.slots[0].offset_ms) == ("mid", 600_000)
    assert [(pod["pod_id"], pod["state"], len(pod["positions"])) for pod in found["pods"]] == [
        ("r1", "completed", 2),
        ("r2/1", "open", 1),
    ]
    assert [ad["state"] for pod in found["pods"] for ad in pod["positions"]] == ["shown", "shown", "reserved"]
    assert found["pods"][1]["break_offset"] == "00:10:00"
    (cap,) = found["caps"]
    assert (cap["limit"], cap["used"], cap["left"]) == (3, 3, 0)
    assert found["last"]["decision_id"] == "r2"
    assert found["last"]["advertiser_domains"] == [f"{found['last']['creative_id']}.example"]
    assert (other["pods"], other["last"], other["known"]) == ([], None, False)


async def test_an_abandoned_pod_is_said_when_time_has_passed() -> None:
    """With nobody asking any more, time alone abandons a pod and says so."""
    clock = HandClock()
    async with Embedded(partitions=1, rules=Rules(), clock=clock) as governor:
        await governor.command(define())
        decision = await governor.decide(request("r1", slots=(SlotSpec(), SlotSpec())))
        assert all(slot.winner is not None for slot in decision.slots)
        shown = Impression(decision_id="r1", slot=0, routing_id="ann", time_ms=decision.time_ms + 1)
        await governor.publisher.impression(shown)
        await governor.settle()
        clock.passed_ms += HOUR_MS
        events = []
        async with subscribe.pods(governor) as pods:
            async for event in pods:
                events.append(event)
                if isinstance(event, PodAbandoned):
                    break
        report = await governor.audit()
    assert report.green, report.findings
    assert [event.type for event in events] == ["pod-created", "pod-abandoned"]
    assert [row.delivered for row in events[-1].positions].count(True) == 1


@pytest.mark.parametrize("document", ["<VMAP", "<VAST version='4.0'/>"])
async def test_a_bad_vmap_is_a_dead_letter_with_the_reason(document: str) -> None:
    """A request whose VMAP cannot be read is set aside, and the reason says what is wrong with it."""
    async with Embedded(partitions=1) as governor:
        await governor.publisher.ad_request(request("r1", vmap=document))
        await governor.settle()
        async with subscribe.dead_letters(governor, topics.AD_REQUESTS, until_end=True) as found:
            letters = [letter async for letter in found]
    (letter,) = letters
    assert letter.reason == "invalid"
    assert letter.message.startswith("vmap: ")


@pytest.mark.parametrize("partitions", [1, 2])
async def test_the_store_says_how_many_partitions_there_are(partitions: int) -> None:
    """A person is found whatever number of partitions was expected, also where all rules are the defaults."""
    async with Embedded(partitions=partitions) as governor:
        await governor.command(define())
        await governor.decide(request("r1"))
        await governor.settle()
        state = StoredState(governor.store, 8)
        assert await state.partitions() == partitions
        assert (await state.find("ann")).person.servings


async def test_a_campaign_id_of_two_accounts() -> None:
    """Of two accounts that define one campaign id the second is never served, and is shown so, without the money of
    the first; a campaign is not looked up by such an id alone."""
    async with Embedded(partitions=2) as governor:
        await governor.command(define())
        await governor.settle()
        for name in ("buyer", "clerk", "dealer"):  # One of them at least has another treasury than acme.
            campaign = Campaign(campaign_id="c1", account_id=name, budget_micros=7_000, price_micros=1_000)
            await governor.command(
                UpsertCampaign(command="upsert", command_id="k", account_id=name, campaign=campaign)
            )
        await governor.settle()
        state = StoredState(governor.store, 2)
        served, *others = sorted(await state.campaigns(), key=lambda one: one.taken_by is not None)
        with pytest.raises(BadInput, match="say whose with --account"):
            await state.campaign("c1")
        found = await state.campaign("c1", "acme")
        assert await state.holders(["c1", "c2"]) == {"c1": {"acme"}, "c2": set()}
        report = await governor.audit()
    assert {name: row["topped_up_micros"] for name, row in report.campaigns.items()} == {
        f"c1 of {account}": micros
        for one in (served, *others)
        for account, micros in [(one.campaign.campaign.account_id, one.campaign.topped_up)]
    }
    assert (served.campaign.campaign.account_id, served.taken_by) == ("acme", None)
    parts = ("in_flight", "lease", "reserved", "spent")
    assert others
    for one in others:
        assert one.taken_by == "acme"
        assert not any(one.row()[f"{part}_micros"] for part in parts)
    assert found.row() == served.row()
