"""Which shards of a worker write with which producer, and when one is let go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.runtime import kafka_producers
from adgovernor.runtime.kafka_inputs import shards_of
from adgovernor.runtime.kafka_producers import SharedProducers


class Producers(SharedProducers):
    """Makes names in place of producers: who shares which is all that is asked here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(KafkaConnection("nowhere:1"))
        self.made = 0
        self.gone: list[object] = []
        monkeypatch.setattr(kafka_producers, "start_producer", self._start)
        monkeypatch.setattr(kafka_producers, "discard_producer", self._discard)

    async def _start(self, connection: KafkaConnection, deadline_s: float, **options: Any) -> str:
        self.made += 1
        name = f"producer {self.made}"
        await asyncio.sleep(0)
        return name

    async def _discard(self, producer: object) -> None:
        self.gone.append(producer)

    async def of(self, *shards: str) -> list[object]:
        """The producers of these shards, asked for at once."""
        return list(await asyncio.gather(*(self.get(shard, 1.0) for shard in shards)))


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> Producers:
    return Producers(monkeypatch)


async def test_shards_share_one_producer(producers: Producers) -> None:
    """Shards that ask at once, or one after the other, write with the same producer, which is made once."""
    assert await producers.of("u0", "u1") == ["producer 1"] * 2
    assert await producers.of("t0", "u0") == ["producer 1"] * 2
    assert producers.made == 1


async def test_a_shard_in_doubt_leaves_and_the_others_stay(producers: Producers) -> None:
    """After an error a shard, and whoever comes later, has another producer; shards whose sequences are sound keep
    theirs, which goes with the last of them."""
    await producers.of("u0", "u1")
    await producers.leave("u0", in_doubt=True)
    assert await producers.of("u0", "u1", "u2") == ["producer 2", "producer 1", "producer 2"]
    assert producers.gone == []
    await producers.leave("u1", in_doubt=False)
    assert producers.gone == ["producer 1"]


async def test_a_shard_that_goes_in_order_leaves_the_producer_to_who_comes(producers: Producers) -> None:
    """Where nothing is in doubt the producer stays in use, until nobody uses it."""
    await producers.of("u0", "u1")
    await producers.leave("u0", in_doubt=False)
    assert await producers.of("u2") == ["producer 1"]
    for shard in ("u1", "u2", "never here"):
        await producers.leave(shard, in_doubt=False)
    assert producers.gone == ["producer 1"]
    assert await producers.of("u0") == ["producer 2"]


def test_a_shard_is_owned_with_all_of_its_inputs() -> None:
    """A worker that the group gave a part of a shard's topics does not run that shard."""
    whole = {(topic, 0) for topic in (*topics.USER_INPUTS, *topics.TREASURY_INPUTS)}
    assert shards_of(whole) == {"u0", "t0"}
    assert shards_of(whole - {(topics.REPORTS, 0)} | {(topics.IMPRESSIONS, 1)}) == {"u0"}
    assert shards_of(set()) == set()
