"""What says, outside a shard's ledger, how far that reached: its outputs, its messages to other shards, and what its
owner has seen itself. A witness that is ahead of the ledger means that the log lost its tail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted
from adgovernor.core.links import FIRST
from adgovernor.runtime.chain import Spine
from adgovernor.runtime.outputs import place_of
from adgovernor.runtime.ports import RawEvent
from adgovernor.runtime.world import StartOver, World

_STEP_BACK: Final = 2_000
"""Messages of one step back through a side topic."""
_DEAD_LETTERS: Final = 5
"""Messages of a dead-letter topic that are looked at: they may be large."""


@dataclass(slots=True)
class Witness:
    """Something outside the ledger that says how far it reached."""

    what: str
    height: int
    chain: str | None = None
    topic: str = ""
    """Of an output with number ``number``."""
    destination: str = ""
    """Of a side message with number ``number`` and hash ``digest``."""
    number: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Unseen:
    """A side topic's partition whose last messages are all of other shards: the shard's own are before ``offset``."""

    partition: int
    offset: int


async def read_witnesses(world: World) -> tuple[list[Witness], list[Unseen]]:
    """The output of each topic, and the side message to each destination, with the highest number among the last ones:
    an owner that hung may have sent older ones after it. And the destinations for which that is further back."""
    shard, own = world.shard, topics.partition_of_shard(world.shard)
    outputs = (*topics.PUBLIC_OUTPUTS, *(topics.dlq(name) for name in topics.input_topics(shard)))
    side, partitions = topics.side_topic(shard), range(world.settings.partitions)
    count = world.settings.witness_messages
    tails = await asyncio.gather(
        *(world.log.tail(topic, own, _DEAD_LETTERS if topic in topics.DLQS else count) for topic in outputs),
        *(world.log.tail(side, partition, count) for partition in partitions),
    )
    witnesses: list[Witness] = []
    for topic, events in zip(outputs, tails, strict=False):
        places = (place_of(event.headers, event.value, topic in topics.DLQS) for event in events)
        own_places = [place for place in places if place is not None and place["shard"] == shard]
        if own_places:
            last = max(own_places, key=lambda place: int(place["dn"]))
            witnesses.append(Witness(f"{topic} {last['dn']}", last["height"], None, topic, "", last["dn"]))
    unseen: list[Unseen] = []
    for partition, events in enumerate(tails[len(outputs) :]):
        last_sent = _last_of(shard, events)
        if last_sent is not None:
            witnesses.append(last_sent)
        elif events:
            unseen.append(Unseen(partition, events[0].offset))
    return witnesses, unseen


async def side_witnesses(world: World, spine: Spine, unseen: list[Unseen]) -> list[Witness]:
    """Goes back until the shard's own last message to each destination is found, or until messages are older than the
    ledger's last block: a message that is ahead of the ledger was sent after it. So a shard is taken over as fast as
    it was busy lately, whatever the others have sent."""
    if not unseen:
        return []
    side, oldest_ms = topics.side_topic(world.shard), await _tip_ms(world, spine) - 2 * world.settings.skew_ms
    witnesses: list[Witness] = []
    for partition, offset in ((place.partition, place.offset) for place in unseen):
        while offset > 0:
            events, start = await world.log.before(side, partition, offset, _STEP_BACK)
            world.progress += 1
            last = _last_of(world.shard, events)
            if last is not None:
                witnesses.append(last)
            older = any(0 <= event.time_ms < oldest_ms for event in events)
            if last is not None or older or start == offset:
                break
            offset = start
    return witnesses


async def _tip_ms(world: World, spine: Spine) -> int:
    """When the ledger's last block was appended, by the broker's clock; 0 where there is none or it keeps no time."""
    if spine.height == 0:
        return 0
    entries, _ = await world.log.read_ledger(spine.tip_offset, 1)
    if not entries or entries[0].offset != spine.tip_offset:
        return 0
    return max(0, entries[0].time_ms)


def _last_of(shard: str, events: list[RawEvent]) -> Witness | None:
    found = filter(None, (_side_witness(event) for event in events))
    own = [witness for source, witness in found if source == shard]
    return max(own, key=lambda witness: witness.number, default=None)


def _side_witness(event: RawEvent) -> tuple[str, Witness] | None:
    """The source of a side message, and the message as a witness; None where it is none."""
    try:
        message = orjson.loads(event.value or b"")
        number, destination = int(message["number"]), str(message["destination"])
        what = f"side message {number} to {destination}"
        return str(message["source"]), Witness(
            what,
            int(message["height"]),
            str(message["chain"]),
            "",
            destination,
            number,
            str(message["hash"]),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def ahead_of(
    spine: Spine, sent: Mapping[str, tuple[int, str]], witnesses: Iterable[Witness]
) -> list[Witness]:
    """The witnesses of what the ledger does not know. ``sent``: the last side messages that it knows."""
    return [
        witness
        for witness in witnesses
        if (
            witness.number >= spine.dn.get(witness.topic, 1)
            if witness.topic
            else witness.number > sent.get(witness.destination, FIRST)[0]
        )
    ]


def check_witnesses(
    world: World,
    spine: Spine,
    sent: Mapping[str, tuple[int, str]],
    noted: Mapping[int, str],
    witnesses: Iterable[Witness],
) -> None:
    """Raises `Halted` where a witness is ahead of the ledger, or of another chain. ``noted``: the chains of some of its
    heights."""
    witnesses = list(witnesses)
    for witness in ahead_of(spine, sent, witnesses):
        raise truncated(world, spine, witness.what, witness.height)
    for witness in witnesses:
        met = noted.get(witness.height)
        if spine.epoch == 0 and witness.chain is not None and met is not None and met != witness.chain:
            raise world.halt(
                "ledger_rewritten",
                f"{witness.what} was sent by another block {witness.height} than the ledger's: the ledger was "
                f"changed or replaced. Find out how before running `adgovernor recover {world.shard} --accept-loss "
                "--why TEXT`",
            )


def check_reached(world: World, spine: Spine, noted: Mapping[int, str], *, claimed: bool) -> None:
    """Compares the ledger with what this owner knew to count: what it has sent since is behind that.

    Raises:
        Halted: when the log lost a part of it.
        StartOver: when it was perhaps only read short, which a claim proves.
    """
    epoch, height, chain = world.reached
    if spine.epoch == epoch and noted.get(height, chain) != chain:
        raise truncated(world, spine, "another block than the ledger's", height)
    if (spine.epoch, spine.height - claimed) >= (epoch, height):
        return
    if claimed:
        raise truncated(world, spine, "what this owner wrote", height)
    raise StartOver("stale", f"the ledger of {world.shard} was read short of height {height}", claim=True)


def truncated(world: World, spine: Spine, what: str, height: int) -> Halted:
    """The error of a ledger that ends before something that came from it."""
    return world.halt(
        "ledger_truncated",
        f"{what} comes from height {height}, the ledger ends at {spine.height}: the log lost its tail. Look at the "
        "broker's replicas and log directories; when the loss is understood, run "
        f"`adgovernor recover {world.shard} --accept-loss --why TEXT`",
    )
