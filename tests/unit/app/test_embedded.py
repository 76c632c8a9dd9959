"""The governor in one process: the SDKs over memory, answers, failures, and a history that proves itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from adgovernor import subscribe
from adgovernor.app import embedded
from adgovernor.app.embedded import Embedded
from adgovernor.app.giving import answers_to
from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import Campaign, Cap, MoneyCommand, UpsertCampaign
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.events import Impression
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.contracts.routing import partition_of
from adgovernor.publish import Publisher
from adgovernor.runtime.clock import WallClock
from adgovernor.runtime.settings import EngineSettings
from adgovernor.stores.base import Meta, Tip
from adgovernor.stores.memory import MemoryStore


def define(
    campaign_id: str = "c1", *, price: int = 1_000, impressions: int = 100, caps: Sequence[Cap] = ()
) -> UpsertCampaign:
    return UpsertCampaign(
        command="upsert",
        command_id=f"define-{campaign_id}",
        account_id="acme",
        campaign=Campaign(
            campaign_id=campaign_id,
            account_id="acme",
            budget_micros=price * impressions,
            price_micros=price,
            caps=tuple(caps),
        ),
    )


def request(request_id: str, user: str = "ann", *campaigns: str) -> AdRequest:
    return AdRequest(
        request_id=request_id,
        time_ms=WallClock().now_ms(),
        user_id=user,
        candidates=tuple(
            Candidate(campaign_id=name, creative_id=f"{name}-a") for name in campaigns or ("c1",)
        ),
    )


async def test_a_request_is_decided_and_its_impression_spends_the_money() -> None:
    """A decision is filled at the campaign's price, the impression settles it, and the audit finds both."""
    async with Embedded() as governor:
        change = await governor.command(define())
        assert change.accepted
        decision = await governor.decide(request("r1"))
        winner = decision.slots[0].winner
        assert winner is not None
        assert (winner.campaign_id, winner.price_micros) == ("c1", 1_000)
        assert await governor.shown(decision) == 1
        await governor.settle()
        report = await governor.audit()
    assert report.green, report.findings
    assert report.campaigns["c1"]["spent_micros"] == 1_000
    assert report.campaigns["c1"]["reserved_micros"] == 0


async def test_a_cap_holds_for_one_person_on_every_shard() -> None:
    """Each of many people gets exactly as many ads as the cap allows, whichever shard they are on."""
    cap = Cap(scope="campaign", window="rolling", length_ms=3_600_000, limit=2)
    async with Embedded(partitions=3) as governor:
        await governor.command(define(caps=[cap], impressions=1_000))
        people = [f"person-{n}" for n in range(12)]
        assert len({partition_of(person.encode(), 3) for person in people}) == 3
        for person in people:
            filled = [(await governor.decide(request(f"{person}-{n}", person))).slots[0] for n in range(4)]
            assert [slot.winner is not None for slot in filled] == [True, True, False, False]


async def test_a_repeated_request_gets_the_first_decision() -> None:
    """Asking twice under one id gives the same decision, also at the same time, and reserves once."""
    async with Embedded() as governor:
        await governor.command(define())
        asked = request("r1")
        first, second = await asyncio.gather(governor.decide(asked), governor.decide(asked))
        assert first == second == await governor.decide(asked)
        await governor.settle()
        report = await governor.audit()
    assert report.campaigns["c1"]["reserved_micros"] == 1_000


async def test_answers_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last answers are kept for whoever asks again, so that memory does not grow with the requests."""
    monkeypatch.setattr(embedded, "_REMEMBERED", 2)
    async with Embedded() as governor:
        for number in range(4):
            await governor.decide(request(f"r{number}"))
        known = [governor._decisions.known(f"r{number}") is not None for number in range(4)]
    assert known == [False, False, True, True]


async def test_of_two_answers_to_one_command_the_first_counts() -> None:
    """A command that landed twice is accepted and then refused; whoever waits for its answer reads that it was
    accepted, and what is no answer to it is passed over."""
    async with Embedded(partitions=1) as governor:
        await governor.publisher.commands([define("c2"), define(), define()])
        governor.broker.produce(topics.CAMPAIGN_CHANGES, 0, None, b"no answer")
        await governor.settle()
        changes = governor.reader(topics.CAMPAIGN_CHANGES)
        await changes.read_from({0: 0})
        there = await changes.read(10, 0)
        await changes.read_from({0: 0})
        answers = await answers_to({"define-c1", "nobody's"}, changes, 0.05)
    assert len(there) == 4
    assert [(name, answer.accepted) for name, answer in answers.items()] == [("define-c1", True)]


async def test_an_exhausted_campaign_pauses_and_a_top_up_resumes_it() -> None:
    """The last price is spent; then come budget-exhausted, campaign-paused and, after money, campaign-resumed."""
    seen: list[str] = []
    async with Embedded(partitions=2) as governor, asyncio.timeout(20):
        await governor.command(define(impressions=3))
        for n in range(20):
            await governor.shown(await governor.decide(request(f"r{n}", f"u{n}")))
        async with subscribe.budget_exhausted(governor) as exhausted:
            event = await anext(aiter(exhausted))
            seen.append(f"exhausted {event.spent_micros + event.reserved_micros}")
        async with subscribe.campaigns_paused(governor) as paused:
            seen.append(f"paused {(await anext(aiter(paused))).reasons}")
        change = await governor.command(
            MoneyCommand(
                command="top-up",
                command_id="more",
                account_id="acme",
                campaign_id="c1",
                amount_micros=5_000,
            )
        )
        assert change.topped_up_micros == 8_000
        async with subscribe.campaigns_resumed(governor) as resumed:
            seen.append(f"resumed {(await anext(aiter(resumed))).episode}")
        assert (await governor.decide(request("last"))).slots[0].winner is not None
    assert seen == ["exhausted 3000", "paused ('exhausted',)", "resumed 2"]


async def test_a_publisher_and_a_subscriber_take_it_in_place_of_kafka() -> None:
    """An ad server written on the SDKs runs unchanged: requests in, decisions out, each once, from a kept position."""
    async with Embedded() as governor, Publisher(governor, prefix="any") as publisher, asyncio.timeout(20):
        await governor.command(define())
        placed = await publisher.ad_request(request("r1"))
        again = await publisher.ad_request(request("r2"))
        assert (placed.topic, placed.offset, again.offset) == (topics.AD_REQUESTS, 0, 1)
        async with subscribe.decisions(governor) as decisions:
            first = await anext(aiter(decisions))
            kept = decisions.positions()
        assert first.decision_id == "r1"
        async with subscribe.decisions(governor, start=kept) as decisions:
            second = await anext(aiter(decisions))
        assert second.decision_id == "r2"
        shown = Impression(decision_id="r2", routing_id="ann", time_ms=second.time_ms)
        assert await publisher.impressions([shown] * 1_200) == 1_200
        await governor.settle()
        report = await governor.audit()
    assert report.green
    assert report.campaigns["c1"]["spent_micros"] == 1_000


async def test_poison_is_a_dead_letter() -> None:
    """Bytes that are no ad request come out of the dead-letter topic unchanged, and the shard goes on."""
    async with Embedded() as governor, asyncio.timeout(20):
        await governor.command(define())
        await governor.publisher.raw(topics.AD_REQUESTS, b"ann", b"{")
        async with subscribe.dead_letters(governor, topics.AD_REQUESTS) as letters:
            letter = await anext(aiter(letters))
        assert (letter.value, letter.reason) == (b"{", "not_json")
        assert (await governor.decide(request("r1"))).slots[0].winner is not None


async def test_a_group_is_refused() -> None:
    """Positions in a consumer group need Kafka; the message says what to do instead."""
    async with Embedded() as governor:
        with pytest.raises(BadInput, match=r"positions\(\)"):
            subscribe.decisions(governor, group="g")


async def test_an_unknown_topic_is_refused() -> None:
    """A message for a topic that no shard reads is an error, not a message lost in memory."""
    async with Embedded() as governor:
        with pytest.raises(BadInput, match="there is no topic ad-request;"):
            await governor.publisher.raw("ad-request", b"k", b"{}")


async def test_settings_of_another_deployment_are_refused() -> None:
    """Engine settings that name another partition count would make blocks that no reader counts."""
    with pytest.raises(BadInput, match="the deployment is embedded with 4"):
        Embedded(settings=EngineSettings(prefix="embedded", partitions=2))


class BrokenStore(MemoryStore):
    """A store with a bug."""

    async def swap(self, shard: str, expected: Tip, meta: Meta, changes: Any) -> Meta | None:
        raise ZeroDivisionError


async def test_a_shard_that_dies_fails_who_waits() -> None:
    """Where a shard ends by a bug, whoever waits and whoever calls next is told, and so is the context's end."""
    governor = Embedded(store=BrokenStore(), partitions=1)

    async def use() -> None:
        async with governor, asyncio.timeout(5):
            while True:
                await governor.command(define())

    with pytest.raises(RuntimeError, match="ZeroDivisionError") as told:
        await use()
    assert isinstance(told.value.__cause__, ZeroDivisionError)
    with pytest.raises(RuntimeError, match="has ended"):
        governor.check()


async def test_a_shard_that_died_is_told_to_who_leaves() -> None:
    """Whoever did not hear of the failure, or passed over it, hears when the context ends."""

    async def use() -> None:
        async with Embedded(store=BrokenStore(), partitions=1) as governor, asyncio.timeout(5):
            with contextlib.suppress(RuntimeError):
                await governor.command(define())

    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        await use()


async def test_of_two_failures_the_first_is_told() -> None:
    """What ended the deployment is what failed first; a shard that fails after it does not take its place."""

    class FailsTwice(MemoryStore):
        async def swap(self, shard: str, expected: Tip, meta: Meta, changes: Any) -> Meta | None:
            if shard == "u0":
                raise ZeroDivisionError
            async with asyncio.timeout(5):
                while governor._failure is None:  # noqa: ASYNC110 - a failure sets no event
                    await asyncio.sleep(0)
            raise OverflowError

    governor = Embedded(store=FailsTwice(), partitions=1)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        async with governor, asyncio.timeout(5):
            await governor.command(define())
    assert {type(task.exception()) for task in governor._tasks} == {ZeroDivisionError, OverflowError}
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        governor.check()
