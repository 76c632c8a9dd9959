"""A deployment's history of any length, written straight into a folder: the machines decide, without servers.

Requests of five candidates with two caps each; of those that won, most are shown, some twice, and some requests come
twice. The treasuries lease as they would, and their messages are delivered between blocks.
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import orjson
from tests.bench import _load

from adgovernor.audit.history import row_of
from adgovernor.contracts import topics
from adgovernor.contracts.ledger import encode_block
from adgovernor.contracts.routing import partition_of
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.block import OpenBlock
from adgovernor.runtime.chain import Spine, new_spine
from adgovernor.subscribe.kafka import RawMessage

PREFIX = "bench"
PARTITIONS = 4
START_MS = 1_800_000_000_000
_PER_S = 1_000
"""Requests in a second of event time."""
_BLOCK = 500
_SHOWN = 0.8
_TWICE = 0.02


@dataclass(slots=True)
class _Shard:
    name: str
    machine: UserShard | Treasury
    spine: Spine
    waiting: deque[tuple[str, int, bytes | None, bytes]] = field(default_factory=deque)
    """Inputs not handled yet: topic, offset, key, value."""


class Writer:
    """Decides inputs and writes all topics of the deployment down."""

    def __init__(self, file_of: Callable[[str, int], IO[bytes]]) -> None:
        self._file_of = file_of
        rules = Rules(partitions=PARTITIONS)
        names = [make(p) for p in range(PARTITIONS) for make in (topics.treasury_shard, topics.user_shard)]
        self._shards = {name: _Shard(name, machine_of(name, rules), new_spine(name)) for name in names}
        self._ends: dict[tuple[str, int], int] = defaultdict(int)
        self.records = 0
        self.won: list[tuple[str, str]] = []
        """Decision id and routing id of requests that won something, since this was last emptied."""

    def put(self, topic: str, partition: int, key: bytes | None, value: bytes, now_ms: int) -> None:
        """Publishes an input, which its shard then has to handle."""
        offset = self._write(topic, partition, key, value, (), now_ms)
        of_treasury = topic in topics.TREASURY_INPUTS
        name = (topics.treasury_shard if of_treasury else topics.user_shard)(partition)
        self._shards[name].waiting.append((topic, offset, key, value))

    def work(self, now_ms: int) -> None:
        """Handles all that waits, and what follows from it."""
        for drained in (False, True):
            for shard in self._shards.values():
                while shard.waiting:
                    self._block(shard, now_ms, drained=False)
                if drained and shard.machine.due(now_ms):
                    self._block(shard, now_ms, drained=True)

    def _block(self, shard: _Shard, now_ms: int, *, drained: bool) -> None:
        machine, spine = shard.machine, shard.spine
        block = OpenBlock(spine, PREFIX, shard.name, now_ms, drained, keep=False)
        tick = machine.open_block(spine.height + 1, now_ms, drained)
        if tick is not None:
            block.tick(tick)
        while shard.waiting and block.events < _BLOCK:
            event = machine.read(*shard.waiting.popleft())
            for state_key in machine.missing((event,)):
                machine.load(state_key, None)
            draft = machine.decide(event)
            block.add(event, draft)
            if any(delta[0] == "reserve" for delta in draft.deltas):
                self.won.append((orjson.loads(event.value or b"")["request_id"], event.routing))
        data, chain = encode_block(block.header("bench", "0"), block.lines)
        partition = topics.partition_of_shard(shard.name)
        offset = self._write(topics.ledger_topic(shard.name), partition, None, data, (), now_ms)
        header = block.header("bench", "0")
        spine.advance(header, chain, offset, block.outbox.counts)
        for output in block.outbox.messages(chain):
            if output.topic in topics.SIDE_TOPICS:
                self.put(output.topic, output.partition, output.key, output.value or b"", now_ms)
            else:
                self._write(
                    output.topic,
                    output.partition,
                    output.key,
                    output.value,
                    tuple(output.headers),
                    now_ms,
                )
        spine.published_up_to(spine.height)
        machine.take_changes()
        self.records += len(block.lines)

    def _write(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes], ...],
        now_ms: int,
    ) -> int:
        offset = self._ends[topic, partition]
        self._ends[topic, partition] = offset + 1
        message = RawMessage(partition, offset, now_ms, key, value, headers)
        self._file_of(topic, partition).write(orjson.dumps(row_of(message)) + b"\n")
        return offset


@contextmanager
def _files(folder: Path) -> Iterator[Callable[[str, int], IO[bytes]]]:
    with ExitStack() as stack:
        opened: dict[tuple[str, int], IO[bytes]] = {}
        for topic in topics.ALL_TOPICS:
            (folder / topic).mkdir(parents=True)
            for partition in range(PARTITIONS):
                path = folder / topic / f"{partition}.jsonl"
                opened[topic, partition] = stack.enter_context(path.open("wb"))
        yield lambda topic, partition: opened[topic, partition]


def write(folder: Path, requests: int, seed: int = 1) -> int:
    """Writes a history with so many requests; how many records its ledgers have."""
    rng = random.Random(seed)
    with _files(folder) as file_of:
        writer = Writer(file_of)
        for _, rows in sorted(_load.campaigns(START_MS).items()):
            for key, value in rows:
                writer.put(topics.CAMPAIGNS, partition_of(key, PARTITIONS), key, value, START_MS)
        writer.work(START_MS)
        step = 2 * PARTITIONS * _BLOCK
        for begun in range(0, requests, step):
            now_ms = START_MS + begun * 1_000 // _PER_S
            for key, value in _load.some_requests(rng, begun, min(step, requests - begun), now_ms, seed):
                partition = partition_of(key, PARTITIONS)
                for _ in range(1 + (rng.random() < _TWICE)):
                    writer.put(topics.AD_REQUESTS, partition, key, value, now_ms)
            writer.work(now_ms + step * 1_000 // _PER_S)
            won, writer.won = writer.won, []
            for decision_id, routing in won:
                if rng.random() < _SHOWN:
                    shown = {
                        "decision_id": decision_id,
                        "slot": 0,
                        "routing_id": routing,
                        "time_ms": now_ms + 1_000,
                    }
                    key, value = routing.encode(), orjson.dumps(shown)
                    writer.put(topics.IMPRESSIONS, partition_of(key, PARTITIONS), key, value, now_ms)
        writer.work(START_MS + requests * 1_000 // _PER_S + 10_000)
    return writer.records


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
