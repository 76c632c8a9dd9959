"""A new epoch for a shard that halted, after a person has looked and accepted what is lost.

What the lost tail had published stays published. So the new epoch goes on behind it: its first block records the
numbers from which outputs and side messages continue, and readers that keep one number a partition read on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adgovernor.contracts.errors import Unavailable
from adgovernor.runtime.append import commit
from adgovernor.runtime.chain import Spine, Walk, count_outputs, new_spine
from adgovernor.runtime.takeover import claim_block, read_witnesses, side_witnesses, walk_ledger
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
    dn, jumped = await _ahead(world, spine, sent)
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
