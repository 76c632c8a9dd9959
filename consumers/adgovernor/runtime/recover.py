"""A new epoch for a shard that halted, after a person has looked and accepted what is lost.

What the lost tail had published stays published. So the new epoch goes on behind it: its first block records the
numbers from which outputs and side messages continue, and readers that keep one number a partition read on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadSettings, Unavailable
from adgovernor.core.inputs import read as read_input
from adgovernor.core.links import accept
from adgovernor.core.links import recover as recover_links
from adgovernor.core.machine import Links
from adgovernor.runtime.append import commit
from adgovernor.runtime.chain import Spine, Walk, count_outputs, new_spine
from adgovernor.runtime.outputs import outputs_of
from adgovernor.runtime.takeover import claim_block, read_witnesses, side_witnesses, walk_ledger
from adgovernor.runtime.unsealing import Keys, read_keys
from adgovernor.runtime.world import World
from adgovernor.stores.base import Meta, Tip

_AT_ONCE: Final = 2_000
"""Side messages that are read in one step."""
_PASSES: Final = 500
"""How often more is looked for that a worker has sent meanwhile: it pauses within far fewer, unless it is flooded."""


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
    taken: dict[str, tuple[int, str]]
    """Shards whose next message counts although it continues another history than the one known here."""
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
    spine, links = new_spine(world.shard), Links()
    walk = Walk(world.settings.prefix, world.shard)
    async for block, offset in walk_ledger(world, walk):
        spine.advance(block.header, block.chain, offset, count_outputs(block))
        spine.places.clear()
        if block.header.recovery is not None:
            recover_links(links, block.header.recovery)
        for record in block.records:
            links.sent.update({to: (n, digest) for to, n, digest, _ in record.data.get("send", ())})
            links.taken.update(
                {delta[1]: (delta[2], delta[3]) for delta in record.data["deltas"] if delta[0] == "took"}
            )
    dn, jumped = await _ahead(world, spine, links.sent)
    accepted = await _accept(world, links, spine, positions or {})
    recovery: dict[str, Any] = {
        "why": why,
        "dn": dn,
        "sent": {to: list(pair) for to, pair in jumped.items()},
        "taken": {source: list(pair) for source, pair in accepted.items()},
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
    return Recovery(header.epoch, header.height, dn, jumped, accepted, dict(spine.positions))


async def resend(world: World, first: int) -> int:
    """Publishes again what every block from height ``first`` on sends, side messages included; how many messages.
    Readers take what they miss and ignore the rest, so it does no harm, also while a worker owns the shard. Who was
    erased is not named again.

    Raises:
        Unavailable: when the log cannot be read, or does not acknowledge, or a worker is always ahead.
    """
    walk, count = Walk(world.settings.prefix, world.shard), 0
    keys = Keys()
    for _ in range(_PASSES):
        reached = walk.height
        async for block, _ in walk_ledger(world, walk):
            if block.header.height < first:
                continue
            if keys.behind(block):
                if world.keys is None:
                    raise BadSettings(
                        "this ledger is sealed: set rules.sealing to true, so that its keys are read"
                    )
                keys = await read_keys(world.keys, world.settings.read_bytes)
            keys.open(block)
            outputs = outputs_of(block, fill=True)
            if outputs:
                await world.log.publish(outputs, world.settings.publish_deadline_s)
                count += len(outputs)
        if walk.height == reached:
            # What a worker sent before this moment was sent again after it, and what it sends now comes behind that.
            return count
    raise Unavailable(f"the worker of {world.shard} sends faster than this: stop it meanwhile")


async def _accept(
    world: World, links: Links, spine: Spine, positions: Mapping[str, int]
) -> dict[str, tuple[int, str]]:
    """See `links.accept`, of all side messages that wait to be read."""
    own = topics.partition_of_shard(world.shard)
    topic = topics.REPORTS if topics.is_treasury(world.shard) else topics.DIRECTIVES
    at = positions.get(topic, spine.positions[topic])
    last = await world.log.tail(topic, own, 1)
    end = last[-1].offset + 1 if last else 0
    accepted: dict[str, tuple[int, str]] = {}
    while at < end:
        until = min(at + _AT_ONCE, end)
        events, _ = await world.log.before(topic, own, until, until - at)
        found = (read_input(topic, event.offset, event.key, event.value).event for event in events)
        accepted = accept(links, world.shard, [m for m in found if isinstance(m, dict)]) | accepted
        at = until
    return accepted


async def _ahead(
    world: World, spine: Spine, sent: dict[str, tuple[int, str]]
) -> tuple[dict[str, int], dict[str, tuple[int, str]]]:
    """What the lost tail published beyond what the ledger knows: output topics with the number to go on with, and
    destinations with the number and hash of the last message."""
    witnesses, unseen = await read_witnesses(world)
    witnesses += await side_witnesses(world, spine, unseen)
    dn: dict[str, int] = {}
    jumped: dict[str, tuple[int, str]] = {}
    for witness in witnesses:
        if witness.topic:
            if witness.number >= spine.dn.get(witness.topic, 1):
                dn[witness.topic] = witness.number + 1
        elif witness.number > sent.get(witness.destination, (0, ""))[0]:
            jumped[witness.destination] = (witness.number, witness.digest)
    return dn, jumped
