"""What becomes of a block, and of what it says: the chain, outputs, and two owners at once."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from engine_kit import Deployment, until
from faulty import FaultyLog

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted
from adgovernor.runtime.outputs import outputs_of


async def prepared(**settings: object) -> tuple[Deployment, FaultyLog]:
    """A deployment with a campaign, whose user shard has a log that can go wrong."""
    deployment = Deployment(1, **settings)
    log = FaultyLog(deployment.broker, "u0")
    deployment.campaign()
    deployment.run(deployment.engine("t0"))
    deployment.run(deployment.engine("u0", log))
    await deployment.settle()
    return deployment, log


def causes(deployment: Deployment, shard: str = "u0") -> list[tuple[str, int]]:
    """The inputs that the ledger has records of."""
    return [
        (record.topic, record.offset)
        for block in deployment.ledger(shard)
        for record in block.records
        if record.topic != "tick"
    ]


def assert_exact(deployment: Deployment, requests: int) -> None:
    """Each input has one record, and a reader sees each decision once, as the ledger has it."""
    found = causes(deployment)
    assert len(found) == len(set(found))
    assert sorted(offset for topic, offset in found if topic == topics.AD_REQUESTS) == list(range(requests))
    told = [
        output.value
        for block in deployment.ledger("u0")
        for output in outputs_of(block)
        if output.topic == "decisions"
    ]
    assert [orjson.loads(value or b"") for value in told] == deployment.decisions()
    assert len(told) == requests


async def test_every_request_gets_one_decision_across_restarts() -> None:
    """Graceful stops and sudden ends lose nothing and repeat nothing for a reader who keeps numbers."""
    deployment = Deployment(2)
    deployment.campaign()
    for turn in range(6):
        deployment.start()
        await deployment.settle()
        for n in range(10):
            deployment.request(f"r{turn}-{n}", f"user{n}")
        if turn % 2:
            await deployment.settle()
            await deployment.stop()
        else:
            await asyncio.sleep(0.003)
            await deployment.kill()
    deployment.start()
    await deployment.settle()
    decided = [body["decision_id"] for body in deployment.decisions()]
    assert sorted(decided) == sorted(f"r{turn}-{n}" for turn in range(6) for n in range(10))
    await deployment.stop()


@pytest.mark.parametrize("fault", ["lost", "unanswered", "late"])
async def test_an_append_without_an_answer_is_found_or_sent_again(fault: str) -> None:
    """Whether a block landed, did not, or lands later beside its own copy: it counts once."""
    deployment, log = await prepared()
    log.appends = [fault]
    for n in range(5):
        deployment.request(f"r{n}")
    await deployment.settle()
    assert_exact(deployment, 5)
    if fault != "unanswered":
        assert log.sent[-1] == log.sent[-2], "the same bytes were sent again"
    await deployment.stop()


async def test_a_log_that_never_answers_starts_the_shard_over() -> None:
    """When the same bytes stay unacknowledged the shard folds the ledger again, and later goes on."""
    deployment, log = await prepared()
    log.appends = ["lost"] * 9
    deployment.request("r0")
    await deployment.settle()
    assert_exact(deployment, 1)
    await deployment.stop()


async def test_for_how_long_nothing_is_acknowledged_is_told_across_starting_over() -> None:
    """A log that is read but takes nothing is no log that works, however often the shard folds it again."""
    deployment = Deployment(1)
    log = FaultyLog(deployment.broker, "u0")
    engine = deployment.engine("u0", log)
    deployment.campaign()
    deployment.run(deployment.engine("t0"))
    deployment.run(engine)
    await deployment.settle()
    assert engine.unacknowledged_s == 0
    log.appends = ["lost"] * 1_000
    deployment.request("r0")
    first = len(log.sent)
    await until(lambda: len(log.sent) > first)
    began = asyncio.get_running_loop().time()
    await until(lambda: len(log.sent) > first + 10)
    assert engine.unacknowledged_s >= asyncio.get_running_loop().time() - began
    log.appends = []
    await deployment.settle()
    assert engine.unacknowledged_s == 0
    assert_exact(deployment, 1)
    await deployment.stop()


async def test_an_offset_that_was_given_before_halts_the_shard() -> None:
    """An acknowledged offset below what was walked means that the log lost messages."""
    deployment, log = await prepared()
    log.appends = ["low"]
    deployment.request("r0")
    with pytest.raises(Halted, match="recover u0") as halted:
        await deployment.settle()
    assert halted.value.reason == "ledger_truncated"
    await deployment.kill()


@pytest.mark.parametrize("fault", ["instead", "over", "behind"])
async def test_a_block_after_one_that_was_lost_never_counts(fault: str) -> None:
    """The log loses a block, and its place is taken before the next one is acknowledged just where it is expected."""
    deployment, log = await prepared()
    deployment.request("r0")
    await deployment.settle()
    log.appends = [fault]
    deployment.request("r1")
    with pytest.raises(Halted, match="something else at offset") as halted:
        await deployment.settle()
    assert halted.value.reason == "ledger_truncated"
    await deployment.kill()


async def test_two_owners_at_once_are_only_wasteful() -> None:
    """Two engines of one shard, both working: one record for each input, each decision once."""
    deployment, _ = await prepared(max_events=3)
    second = deployment.engine("u0", FaultyLog(deployment.broker, "u0"))
    deployment.run(second)
    for n in range(60):
        deployment.request(f"r{n}", f"user{n % 7}")
        if n % 5 == 0:
            await asyncio.sleep(0.001)
    await until(lambda: len(deployment.decisions()) == 60)
    assert_exact(deployment, 60)
    owners = deployment.ledger("u0")
    assert deployment.broker.end("ledger", 0) >= len(owners)
    await deployment.kill()


async def test_outputs_of_a_void_block_are_never_published() -> None:
    """An owner whose block came second publishes nothing of it: every message is of a block that counts."""
    deployment, _ = await prepared(max_events=2)
    deployment.run(deployment.engine("u0"))
    for n in range(40):
        deployment.request(f"r{n}", f"user{n % 3}")
    await until(lambda: len(deployment.decisions()) == 40)
    lawful = {output.value for block in deployment.ledger("u0") for output in outputs_of(block)}
    published = {event.value for event in deployment.broker.read("decisions", 0, 0, 10_000)}
    assert published <= lawful
    await deployment.kill()


@pytest.mark.parametrize("fault", ["failed", "half"])
async def test_outputs_that_fail_are_published_again_and_none_is_skipped(fault: str) -> None:
    """After a failed publish the shard is taken over again, with a claim, and goes on from the last acknowledged."""
    deployment, log = await prepared(max_events=4)
    log.publishes = [fault]
    for n in range(20):
        deployment.request(f"r{n}", f"user{n % 3}")
    await deployment.settle()
    assert_exact(deployment, 20)
    await deployment.stop()


async def test_numbers_are_contiguous_from_one() -> None:
    """`dn` counts each topic's outputs from 1 without gaps, over blocks and restarts."""
    deployment, _ = await prepared(max_events=2)
    for turn in range(3):
        for n in range(5):
            deployment.request(f"r{turn}-{n}")
        await deployment.settle()
        await deployment.stop()
        deployment.start()
        await deployment.settle()
    numbers = [
        orjson.loads(event.value or b"")["dn"] for event in deployment.broker.read("decisions", 0, 0, 1000)
    ]
    assert sorted(set(numbers)) == list(range(1, 16))
    await deployment.stop()


async def test_blocks_are_bounded_in_events_and_bytes() -> None:
    """No block holds more than the bounds, and what does not fit is handled in the next."""
    deployment, _ = await prepared(max_events=5, max_bytes=2_000)
    for n in range(30):
        deployment.request(f"r{n}")
    await deployment.settle()
    sizes = [len(block.records) for block in deployment.ledger("u0")]
    assert max(sizes) <= 6, "five events and a tick"
    assert max(block.size for block in deployment.ledger("u0")) < 5_000
    assert_exact(deployment, 30)
    await deployment.stop()


async def test_a_block_too_large_for_the_ledger_halts_before_the_append() -> None:
    """A block that the topic would refuse is never sent."""
    deployment, log = await prepared(hard_bytes=4_000)
    sent = len(log.sent)
    deployment.request("r0", campaigns=tuple(f"unknown-{n}" for n in range(60)))
    with pytest.raises(Halted, match=r"max\.message\.bytes"):
        await deployment.settle()
    assert len(log.sent) == sent
    await deployment.kill()


async def test_poison_goes_to_its_dead_letter_topic_untouched() -> None:
    """A message that cannot be read gets a record, and a dead letter with its bytes and its whereabouts."""
    deployment, _ = await prepared()
    deployment.broker.produce(topics.AD_REQUESTS, 0, b"\xff\x00", b"{broken\n")
    deployment.request("r1")
    await deployment.settle()
    (letter,) = deployment.broker.read("ad-requests.dlq", 0, 0, 10)
    headers = dict(letter.headers)
    assert (letter.key, letter.value) == (b"\xff\x00", b"{broken\n")
    assert (headers["ag_topic"], headers["ag_partition"], headers["ag_offset"]) == (
        b"ad-requests",
        b"0",
        b"0",
    )
    assert headers["ag_reason"] == b"not_json"
    assert [body["decision_id"] for body in deployment.decisions()] == ["r1"]
    await deployment.stop()


async def test_a_stop_finishes_what_is_in_flight() -> None:
    """After a graceful stop every output is acknowledged and the store is at the tip and says so."""
    deployment, _ = await prepared()
    for n in range(20):
        deployment.request(f"r{n}")
    await until(lambda: deployment.broker.end("decisions", 0) > 0)
    await deployment.stop()
    tip = deployment.ledger("u0")[-1]
    meta = await deployment.store.read_meta("u0")
    assert meta is not None
    assert (meta.tip.height, meta.tip.chain) == (tip.header.height, tip.chain)
    assert orjson.loads(meta.spine)["published"][0] == tip.header.height


async def test_a_held_shard_rests_with_its_state_and_goes_on() -> None:
    """On hold nothing is handled; after the release input is taken without another takeover."""
    deployment, _ = await prepared()
    engine = deployment.engines[1]
    engine.hold()
    await until(lambda: engine.quiet)
    blocks = len(deployment.ledger("u0"))
    deployment.request("r0")
    await asyncio.sleep(0.03)
    assert len(deployment.ledger("u0")) == blocks
    engine.release()
    await deployment.settle()
    assert_exact(deployment, 1)
    assert all(block.records for block in deployment.ledger("u0")[blocks:]), "no further claim"
    await deployment.stop()


async def test_a_backlog_is_not_aged_by_a_restart() -> None:
    """Requests that waited while no worker ran are decided by their own times, not refused as late."""
    deployment, _ = await prepared()
    await deployment.stop()
    for n in range(10):
        deployment.request(f"r{n}", f"user{n}")
    deployment.clock.time_ms += 3_600_000
    deployment.start()
    await deployment.settle()
    assert [body["slots"][0].get("no_fill") for body in deployment.decisions()] == [None] * 10
    await deployment.stop()


async def test_an_idle_shard_lets_reservations_expire() -> None:
    """Time alone appends a block when something is due, and none when nothing is."""
    deployment, _ = await prepared()
    deployment.request("r0")
    await deployment.settle()
    blocks = len(deployment.ledger("u0"))
    deployment.clock.time_ms += 120_000
    await until(
        lambda: any(
            d[0] == "expire"
            for b in deployment.ledger("u0")[blocks:]
            for r in b.records
            for d in r.data["deltas"]
        )
    )
    await asyncio.sleep(0.05)
    settled = len(deployment.ledger("u0"))
    await asyncio.sleep(0.05)
    assert len(deployment.ledger("u0")) == settled
    await deployment.stop()
