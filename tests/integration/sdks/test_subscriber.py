"""The subscribing SDK against a real broker, with messages as crashing workers leave them."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from adgovernor import subscribe
from adgovernor.contracts import topics
from adgovernor.contracts.decisions import Decision, DecisionSlot, ReasonCode
from adgovernor.contracts.errors import BadInput, BadSettings, Undecodable
from adgovernor.publish import Publisher
from adgovernor.publish.publisher import Bulk
from adgovernor.subscribe import DeadLetter, Gap, PartitionReader, Position, Subscriber

pytestmark = pytest.mark.servers


def _decision(partition: int, dn: int) -> Decision:
    return Decision(
        decision_id=f"r{partition}-{dn}",
        routing_id=f"u:{dn}",
        time_ms=dn,
        slots=(DecisionSlot(slot=0, no_fill=ReasonCode.NO_CANDIDATE),),
        shard=f"u{partition}",
        height=dn,
        index=0,
        dn=dn,
    )


async def _publish(bootstrap: str, prefix: str, partition: int, numbers: list[int]) -> None:
    async with Publisher(bootstrap, prefix=prefix) as publisher:
        bulk = Bulk(publisher, topics.DECISIONS)
        for dn in numbers:
            decision = _decision(partition, dn)
            await bulk.put(
                decision.routing_id.encode(), decision.model_dump_json().encode(), [], partition=partition
            )
        await bulk.finish()


async def _all(bootstrap: str, prefix: str, **options: object) -> list[Decision]:
    async with subscribe.decisions(bootstrap, prefix=prefix, until_end=True, **options) as decisions:
        return [decision async for decision in decisions]


async def test_each_decision_once_across_republishing(kafka_bootstrap: str, deployment: str) -> None:
    """Messages that were published again, late and by two writers at once are each delivered once, in order,
    in every partition."""
    await _publish(kafka_bootstrap, deployment, 0, [1, 2, 3, 2, 3, 4, 1, 5, 4, 5, 6])
    await _publish(kafka_bootstrap, deployment, 3, [2, 1, 2, 3])

    decisions = await _all(kafka_bootstrap, deployment)

    assert [d.dn for d in decisions if d.shard == "u0"] == [1, 2, 3, 4, 5, 6]
    assert [d.dn for d in decisions if d.shard == "u3"] == [1, 2, 3]
    assert len(decisions) == 9


async def test_goes_on_from_a_saved_position(kafka_bootstrap: str, deployment: str) -> None:
    """A reader that stops in the middle of a batch goes on with the very next event."""
    await _publish(kafka_bootstrap, deployment, 1, [1, 2, 3, 4, 5])
    async with subscribe.decisions(kafka_bootstrap, prefix=deployment) as decisions:
        first = [decision.dn async for decision in _first(decisions, 3)]
        saved = subscribe.dump_positions("decisions", decisions.positions())
    await _publish(kafka_bootstrap, deployment, 1, [3, 4, 5, 6])

    start = subscribe.load_positions("decisions", saved)
    rest = [decision.dn for decision in await _all(kafka_bootstrap, deployment, start=start)]

    assert (first, rest) == ([1, 2, 3], [4, 5, 6])


async def _first(decisions: Subscriber[Decision], count: int):  # type: ignore[no-untyped-def]
    numbers = itertools.count(1)
    async for decision in decisions:
        yield decision
        if next(numbers) == count:
            return


async def test_batches_and_some_partitions(kafka_bootstrap: str, deployment: str) -> None:
    """Batches hold the same events; a reader of some partitions sees no other."""
    await _publish(kafka_bootstrap, deployment, 0, list(range(1, 101)))
    await _publish(kafka_bootstrap, deployment, 2, list(range(1, 11)))
    async with subscribe.decisions(
        kafka_bootstrap, prefix=deployment, partitions=[2], until_end=True
    ) as decisions:
        numbers = [d.dn async for batch in decisions.batches() for d in batch]
        assert decisions.positions() == {2: Position(10, 10)}
    assert numbers == list(range(1, 11))


async def test_a_gap_that_stays_is_raised_after_what_came_before(
    kafka_bootstrap: str, deployment: str
) -> None:
    """Events before a gap are delivered, then the missing number is named."""
    await _publish(kafka_bootstrap, deployment, 0, [1, 2, 4, 5])
    seen: list[int] = []

    async def watch() -> None:
        async with subscribe.decisions(kafka_bootstrap, prefix=deployment, gap_patience_s=1.0) as decisions:
            async for batch in decisions.batches():
                seen.extend(decision.dn for decision in batch)

    with pytest.raises(Gap, match="number 3 is missing: number 4 came"):
        await watch()
    assert seen == [1, 2]


async def test_a_position_beyond_the_end_is_refused(kafka_bootstrap: str, deployment: str) -> None:
    """A position of a topic that was made again since is refused rather than waited for."""
    await _publish(kafka_bootstrap, deployment, 0, [1])
    with pytest.raises(Gap, match="deleted and made again"):
        await _all(kafka_bootstrap, deployment, start={0: Position(50, 50)})


async def test_foreign_messages_are_counted_and_ignored(kafka_bootstrap: str, deployment: str) -> None:
    """What no worker wrote is ignored and counted; a worker's event that cannot be read stops the reader."""
    async with Publisher(kafka_bootstrap, prefix=deployment) as publisher:
        for value in (b"hello", b"{}", None):
            await publisher.raw("decisions", b"k", value, partition=0)
    await _publish(kafka_bootstrap, deployment, 0, [1])
    async with subscribe.decisions(kafka_bootstrap, prefix=deployment, until_end=True) as decisions:
        assert [d.dn async for d in decisions] == [1]
        assert decisions.foreign == 3

    async with Publisher(kafka_bootstrap, prefix=deployment) as publisher:
        await publisher.raw("decisions", b"k", b'{"dn":2,"slots":"many"}', partition=0)
    with pytest.raises(Undecodable, match=r"decisions\[0\] offset 4.*newer release"):
        await _all(kafka_bootstrap, deployment)


async def test_positions_in_a_group(kafka_bootstrap: str, deployment: str) -> None:
    """With a group, committed positions are where the next reader goes on, numbers included, unless it is told another
    start."""
    await _publish(kafka_bootstrap, deployment, 0, [1, 2, 3])
    group = f"{deployment}-readers"
    async with subscribe.decisions(
        kafka_bootstrap, prefix=deployment, group=group, until_end=True
    ) as decisions:
        assert [d.dn async for d in decisions] == [1, 2, 3]
        await decisions.commit()
    await _publish(kafka_bootstrap, deployment, 0, [2, 3, 4])

    assert [d.dn for d in await _all(kafka_bootstrap, deployment, group=group)] == [4]
    told = await _all(kafka_bootstrap, deployment, group=group, start={0: Position(1, 1)})
    assert [d.dn for d in told] == [2, 3, 4]


async def test_dead_letters(kafka_bootstrap: str, deployment: str) -> None:
    """A dead letter comes with the input's bytes and why it is one; repetitions are not delivered."""
    fields = {
        "reason": "not_json",
        "message": "expected value",
        "topic": "ad-requests",
        "partition": 0,
        "offset": 7,
        "time_ms": 5,
        "shard": "u0",
        "height": 2,
        "index": 1,
        "dn": 1,
    }
    headers = [(f"ag_{name}", str(value).encode()) for name, value in fields.items()]
    async with Publisher(kafka_bootstrap, prefix=deployment) as publisher:
        for _ in range(2):
            await publisher.raw("ad-requests.dlq", b"\xff", b"\x00{", headers, partition=0)
    async with subscribe.dead_letters(
        kafka_bootstrap, "ad-requests", prefix=deployment, until_end=True
    ) as letters:
        found = [letter async for letter in letters]
    assert found == [DeadLetter(key=b"\xff", value=b"\x00{", **fields)]  # type: ignore[arg-type]


async def test_wrong_questions(kafka_bootstrap: str, deployment: str) -> None:
    """A topic without numbers, a missing partition, a missing deployment and a missing `async with` are
    each named."""
    with pytest.raises(BadInput, match="'ad-requests' has no numbered events"):
        Subscriber(kafka_bootstrap, "ad-requests")
    with pytest.raises(BadInput, match="has partitions 0 to 3, not 9"):
        await _all(kafka_bootstrap, deployment, partitions=[9])
    with pytest.raises(BadSettings, match="does not exist"):
        await _all(kafka_bootstrap, deployment + "x")
    with pytest.raises(BadInput, match="inside its own `async with`"):
        await anext(aiter(subscribe.decisions(kafka_bootstrap, prefix=deployment)))


async def test_a_reader_stops_at_once_after_a_new_assignment(kafka_bootstrap: str, deployment: str) -> None:
    """Closing a reader right after it was sent elsewhere ends, although the client's own stop would hang."""
    await _publish(kafka_bootstrap, deployment, 0, [1, 2, 3])
    loop = asyncio.get_running_loop()
    for _ in range(10):
        reader = PartitionReader(kafka_bootstrap, f"{deployment}.decisions", client_id="test")
        await reader.open()
        await reader.read_from({0: 0})
        assert await reader.read(10, 1.0)
        await reader.read_from({1: 0})
        began = loop.time()
        await reader.close()
        assert loop.time() - began < 3.0
