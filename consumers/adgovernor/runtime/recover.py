"""A new epoch for a shard that halted, after a person has looked and accepted what is lost.

What the lost tail had published stays published. So the new epoch goes on behind it: its first block records the
numbers from which outputs and side messages continue, and readers that keep one number a partition read on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Unavailable
from adgovernor.runtime.append import commit
from adgovernor.runtime.chain import Spine, Walk, count_outputs, new_spine
from adgovernor.runtime.outputs import place_of
from adgovernor.runtime.takeover import claim_block, walk_ledger
from adgovernor.runtime.world import World
from adgovernor.stores.base import Meta, Tip


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was accepted."""

    epoch: int
    height: int
    """Of the new epoch's first block."""
    dn: dict[str, int]
    """Output topics whose numbers jump, and the next number of each."""
    sent: dict[str, tuple[int, str]]
    """Destinations whose side messages jump: number and hash of the last one sent."""
    positions: dict[str, int]
    """Where inputs are read from next."""


async def recover(world: World, *, why: str, positions: Mapping[str, int] | None = None) -> Recovery:
    """Begins a new epoch of a shard and empties its part of the store, which the next owner rebuilds. No worker may
    own the shard meanwhile; one that does is fenced by the new block. ``positions`` says where topics are read from
    next whose unread input is lost.

    Raises:
        Unavailable: when the log or the store cannot be reached; nothing, or only the block, is then done, and it
            may be run again.
        StartOver: when another owner appended at the same time; stop the workers of this shard first.
        Halted: when the log loses messages even now.
    """
    spine, sent = new_spine(world.shard), dict[str, tuple[int, str]]()
    walk = Walk(world.settings.prefix, world.shard)
    async for block, offset in walk_ledger(world, walk):
        spine.advance(block.header, block.chain, offset, count_outputs(block))
        if block.header.recovery is not None:
            sent.update(
                {to: (pair[0], pair[1]) for to, pair in block.header.recovery.get("sent", {}).items()}
            )
        for record in block.records:
            sent.update({to: (number, digest) for to, number, digest, _ in record.data.get("send", ())})
    dn, jumped = await asyncio.gather(_outputs_ahead(world, spine), _messages_ahead(world, sent))
    recovery: dict[str, Any] = {
        "why": why,
        "dn": dn,
        "sent": {to: list(pair) for to, pair in jumped.items()},
    }
    spine.positions.update(positions or {})
    data, chain, header = claim_block(world, spine, recovery)
    await commit(world, walk, data, chain)
    ledger = spine.ledger or chain
    meta = await world.store.read_meta(world.shard)
    answer = await world.store.reset(
        world.shard,
        None if meta is None else meta.tip,
        Meta(Tip(ledger, 0, ""), new_spine(world.shard).encode()),
    )
    if answer is not None:
        raise Unavailable(
            f"the store of {world.shard} changed meanwhile: stop the shard's workers and run this again"
        )
    return Recovery(header.epoch, header.height, dn, jumped, dict(spine.positions))


async def _outputs_ahead(world: World, spine: Spine) -> dict[str, int]:
    """Topics to which the lost tail published more than the ledger knows, with the number to go on with."""
    own = topics.partition_of_shard(world.shard)
    outputs = (*topics.PUBLIC_OUTPUTS, *(topics.dlq(name) for name in topics.input_topics(world.shard)))
    tails = await asyncio.gather(*(world.log.tail(topic, own, 1) for topic in outputs))
    ahead: dict[str, int] = {}
    for topic, events in zip(outputs, tails, strict=True):
        for event in events:
            place = place_of(event.headers, event.value, topic in topics.DLQS)
            if place and place["shard"] == world.shard and place["dn"] >= spine.dn.get(topic, 1):
                ahead[topic] = place["dn"] + 1
    return ahead


async def _messages_ahead(world: World, sent: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Destinations to which the lost tail sent more than the ledger knows, with the last message's number and hash."""
    side, shard = topics.side_topic(world.shard), world.shard
    tails = await asyncio.gather(
        *(
            world.log.tail(side, partition, world.settings.witness_messages)
            for partition in range(world.settings.partitions)
        )
    )
    ahead: dict[str, tuple[int, str]] = {}
    for event in (event for events in tails for event in events):
        try:
            message = orjson.loads(event.value or b"")
            source, to = message["source"], str(message["destination"])
            number, digest = int(message["number"]), str(message["hash"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            continue
        known = max(sent.get(to, (0, "")), ahead.get(to, (0, "")))
        if source == shard and number > known[0]:
            ahead[to] = (number, digest)
    return ahead
