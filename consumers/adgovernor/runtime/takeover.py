"""Taking a shard over, and finding back to the chain after a loss.

In numbered steps: (1) read the witnesses: what the store and the outputs say was reached; (2) fold the ledger to
its end; (3) append a claim, a block without records; once it counts, everything before it has been walked;
(4) check the witnesses against the chain: one that is ahead of it means that the log lost its tail; (5) bring the
store to the tip; (6) publish again what is not known to be acknowledged. Then input may come. After a lost append
the same is done without the claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput, Unavailable
from adgovernor.contracts.ledger import BlockHeader, ReadBlock, encode_block
from adgovernor.contracts.sealing import keys_given_up
from adgovernor.core.machine import RULES, UNREADABLE, USERS, BadState, Machine
from adgovernor.runtime.append import commit
from adgovernor.runtime.chain import (
    Place,
    Spine,
    Walk,
    build_mark,
    chain_in,
    count_outputs,
    ledger_of,
    new_spine,
    spine_of,
)
from adgovernor.runtime.keyring import KEYS, NAMES, PLACE, Keyring
from adgovernor.runtime.outputs import outputs_of
from adgovernor.runtime.ports import Output
from adgovernor.runtime.reading import entry_from, walk_ledger
from adgovernor.runtime.trail import Trail
from adgovernor.runtime.witnesses import (
    check_reached,
    check_witnesses,
    read_witnesses,
    side_witnesses,
    truncated,
)
from adgovernor.runtime.world import StartOver, World
from adgovernor.stores.base import NOTHING, Meta, Tip


@dataclass(slots=True)
class Memory:
    """All that is dropped when memory cannot be trusted: the fold up to the tip, and how the store follows it."""

    machine: Machine
    spine: Spine
    walk: Walk
    trail: Trail
    noted: dict[int, str] = field(default_factory=dict)
    """Chains met on the way, at the heights that witnesses name."""
    folded: int = 0
    keyring: Keyring | None = None
    """Where the ledger is sealed."""

    def take_changes(self) -> dict[str, set[str]]:
        """Which of the store's fields changed since the last call."""
        changes = self.machine.take_changes()
        if self.keyring is not None:
            self.keyring.take_changes(changes)
        return changes

    def discard(self) -> None:
        """Lets go of all states; none of it is used again."""
        self.trail.discard()
        self.machine.forget()
        if self.keyring is not None:
            self.keyring.forget()


@dataclass(slots=True)
class _Found:
    """What the store holds: nothing (``meta`` None), or a state; ``away`` where it could not be asked."""

    away: bool
    meta: Meta | None = None
    buckets: dict[str, dict[str, bytes]] = field(default_factory=dict)


async def take_over(world: World, *, claim: bool) -> Memory:
    """Brings a shard's state into memory; with ``claim``, makes sure that it is the chain's own end.

    Raises:
        StartOver: when another owner moved meanwhile, or the store did.
        Unavailable: when the log cannot be read, or the store is needed and does not answer.
        Halted: when a witness is ahead of the ledger, or the store belongs to another one.
    """
    witnesses, unseen = await read_witnesses(world) if claim else ([], [])
    found = await _read_store(world)
    memory = await _start(world, found)
    try:
        await _fold(world, memory, found, {world.reached[1], *(w.height for w in witnesses)})
        check_deployment(world, memory.machine, memory.spine.positions)
        if memory.keyring is not None and memory.keyring.incomplete and not claim:
            # Only an acknowledged append proves that no erasure follows which explains what is missing.
            raise StartOver("keys", "keys are missing that the ledger names", claim=True)
        if claim:
            witnesses += await side_witnesses(world, memory.spine, unseen)
            await _claim(world, memory)
            if memory.keyring is not None:
                memory.keyring.check()
            await _reset_empty(world, memory, found)
            check_witnesses(world, memory.spine, memory.machine.links.sent, memory.noted, witnesses)
        check_reached(world, memory.spine, memory.noted, claimed=claim)
        world.reached = memory.spine.reached
        memory.spine.building = ""
        if memory.trail.confirmed is not None:
            await memory.trail.bring(world.settings.store_deadline_s)
        await _republish(world, memory)
    except BaseException:
        memory.discard()
        raise
    return memory


# --- Step 2: the store's state, and the fold from there -------------------------------------------------------


async def _read_store(world: World) -> _Found:
    """The whole of the resident state with its tip, waiting for the store up to its deadline."""
    buckets = world.machine_factory().resident_buckets()
    cold = [USERS]
    if world.keys is not None:
        buckets, cold = (*buckets, PLACE), [USERS, KEYS, NAMES]
    loop = asyncio.get_running_loop()
    until, failures = loop.time() + world.settings.store_deadline_s, 0
    while True:
        try:
            # People are read when they are needed. That they are gone, and the rest is not, must be seen before the
            # fold begins behind them.
            await world.store.read_meta(world.shard, (*buckets, *cold))
            meta, values = await world.store.read_buckets(world.shard, buckets)
            return _Found(False, meta, values)
        except Unavailable:
            failures += 1
            if loop.time() >= until:
                return _Found(True)
            await asyncio.sleep(world.pause_s(failures))


async def _start(world: World, found: _Found) -> Memory:
    """Memory at the place from which the ledger is to be folded."""
    machine, spine = world.machine_factory(), new_spine(world.shard)
    prefix, shard = world.settings.prefix, world.shard
    keyring = None if world.keys is None else Keyring(world, world.keys)
    confirmed = None if found.away else NOTHING
    if found.meta is not None:
        tip = found.meta.tip
        if tip.height > 0:
            try:
                spine = spine_of(found.meta)
            except BadInput as error:
                raise world.halt("store_unreadable", str(error)) from error
            await _check_anchor(world, spine)
            place = found.buckets.pop(PLACE, {})
            try:
                machine.restore(found.buckets)
                if keyring is not None:
                    keyring.restore(place)
            except UNREADABLE as error:
                raise BadState(f"the state of height {tip.height} cannot be read: {error!r}") from error
        confirmed = tip
    if keyring is not None and (spine.height == 0 or spine.tip != confirmed):
        spine.building = build_mark(world.nonce())
    walk = Walk(prefix, shard, offset=spine.offset, height=spine.height, chain=spine.chain)
    trail = Trail(world, machine, spine, confirmed)
    if keyring is not None:
        trail.encode = partial(keyring.encode, machine)
        trail.buckets = (*trail.buckets, KEYS, NAMES, PLACE)
    if spine.height > 0 and spine.rules != RULES:
        # Another release wrote it. What this one has no use for goes, so that the store is the ledger's fold again.
        trail.note({bucket: set(names) for bucket, names in machine.resident_names().items()})
    return Memory(machine, spine, walk, trail, keyring=keyring)


def check_deployment(world: World, machine: Machine, positions: Mapping[str, int]) -> None:
    """Raises `Halted` where a ledger is of a deployment with another number of partitions than the worker's, or is
    sealed and the worker is not set to, or the other way round."""
    if not (machine.has_rules or any(positions.values())):
        return
    if machine.rules.partitions != world.settings.partitions:
        raise world.halt(
            "partitions",
            f"this ledger is of a deployment with {machine.rules.partitions} partitions, its topics have "
            f"{world.settings.partitions} now: people and money would belong to other shards, so the number is fixed "
            "when a deployment begins, and Kafka takes none away again. Begin another deployment (another prefix) with "
            "as many as are wanted, and give its campaigns what `adgovernor state campaign` says is left here",
        )
    if not topics.is_treasury(world.shard) and machine.rules.sealing != (world.keys is not None):
        found, wanted = ("sealed", "true") if machine.rules.sealing else ("not sealed", "false")
        raise world.halt(
            "sealing",
            f"this ledger is {found}: whether a deployment is sealed is decided when it begins. Set rules.sealing to "
            f"{wanted}; for a sealed deployment with this history, `adgovernor replay` it into a new prefix",
        )


async def _check_anchor(world: World, spine: Spine) -> None:
    """Makes sure that the store's tip is a block of this ledger, so that the fold may start behind it."""
    entry = await entry_from(world, spine.tip_offset)
    if entry is not None:
        if entry.offset == spine.tip_offset and chain_in(entry.value) == spine.chain:
            return
        raise world.halt(
            "store_of_another_ledger",
            f"the store is at height {spine.height} of ledger {spine.ledger[:12]}, but the ledger has another "
            f"message at offset {spine.tip_offset}: they do not belong together. Point the worker at the right "
            f"store or ledger, or empty the shard's keys in the store, which is then rebuilt from the ledger",
        )
    # The end seen may be too low, so only an acknowledged append proves that the ledger is shorter than the store.
    await _prove_truncation(world, spine)
    raise StartOver(
        "stale", f"the ledger of {world.shard} was read short of offset {spine.tip_offset}", claim=True
    )


async def _prove_truncation(world: World, store: Spine) -> None:
    """Appends a claim to the end that can be seen; raises `Halted` where it proves the store to be ahead."""
    walk = Walk(world.settings.prefix, world.shard)
    spine = new_spine(world.shard)
    async for block, offset in walk_ledger(world, walk):
        spine.advance(block.header, block.chain, offset, count_outputs(block))
        spine.places.clear()
    data, chain, _ = claim_block(world, spine)
    offset = await commit(world, walk, data, chain)
    if spine.height < store.height or offset < store.tip_offset:
        raise truncated(world, spine, "the store's state", store.height)


async def _fold(world: World, memory: Memory, found: _Found, heights: set[int]) -> None:
    """Folds the ledger from memory's place to its end; the store follows, so that memory stays bounded."""
    async for block, offset in walk_ledger(world, memory.walk):
        await fold_block(world, memory, block, offset)
        if block.header.height in heights:
            memory.noted[block.header.height] = block.chain
        await _reset_empty(world, memory, found)


async def fold_block(world: World, memory: Memory, block: ReadBlock, offset: int) -> None:
    """Folds one block that counts, reading the states that it needs."""
    machine, spine, trail, settings = memory.machine, memory.spine, memory.trail, world.settings
    if memory.keyring is not None:
        await memory.keyring.fold(block, trail)
    keys = machine.missing_for_fold(block.records)
    if keys:
        for key, value in zip(keys, await trail.read(keys), strict=True):
            machine.load(key, value)
    header = block.header
    machine.begin_fold(header.height, header.now_ms, header.drained, header.rules)
    if header.recovery is not None:
        machine.recover(header.recovery)
    for record in block.records:
        personal = record.personal
        machine.fold(record.draft(), personal.get("routing"), personal.get("session"), personal.get("ids"))
    check_deployment(world, machine, header.positions)
    spine.advance(header, block.chain, offset, count_outputs(block))
    memory.folded += 1
    world.progress += 1
    trail.note(memory.take_changes())
    if trail.dirty_fields >= settings.rebuild_fields:
        trail.pump()
    if trail.confirmed is None:
        while trail.dirty_states > settings.dirty_limit:
            # More than memory may keep without a store: wait for it, which then ends this fold.
            trail.check()
            world.progress += 1
            await world.nudged(settings.idle_wait_s)
        return
    while trail.dirty_states > 2 * settings.rebuild_fields:
        trail.check()
        trail.pump()
        if trail.stuck_s > settings.store_deadline_s:
            raise Unavailable("the store takes nothing while the ledger is folded")
        await world.nudged(settings.idle_wait_s)
    if machine.resident() > settings.keep_states + settings.keep_states // 8:
        machine.evict(settings.keep_states, trail.pinned())
    if memory.keyring is not None:
        memory.keyring.acknowledged(spine.published.height)
        memory.keyring.evict(settings.keep_states, trail)


async def _reset_empty(world: World, memory: Memory, found: _Found) -> None:
    """Gives an empty store its ledger's id, so that it can be built up block by block from there; and makes sure
    that a store at height 0 belongs to this ledger."""
    spine, trail = memory.spine, memory.trail
    tip = trail.confirmed
    if tip is None or tip.height > 0 or not spine.ledger or ledger_of(tip) == spine.ledger:
        return
    if tip.ledger:
        raise world.halt(
            "store_of_another_ledger",
            f"the store belongs to ledger {tip.ledger[:12]}, this one is {spine.ledger[:12]}: point the worker at the "
            "right store or ledger, or empty the shard's keys in the store, which is then rebuilt from the ledger",
        )
    base = Tip(spine.ledger, 0, "")
    expected = None if found.meta is None else found.meta.tip
    try:
        answer = await world.store.reset(world.shard, expected, Meta(base, new_spine(world.shard).encode()))
    except Unavailable as error:
        raise StartOver("store", f"the store's reset was not answered: {error}") from error
    if answer is not None:
        raise StartOver("store", "another owner is building the store up")
    trail.confirmed = base


# --- Step 3: the claim ----------------------------------------------------------------------------------------


def claim_block(
    world: World, spine: Spine, recovery: dict[str, object] | None = None
) -> tuple[bytes, str, BlockHeader]:
    """A block without records that follows the spine's tip; with ``recovery``, the first of a new epoch. It brings no
    time of its own into the chain: the worker's clock is compared with the broker's only once the claim is there."""
    header = BlockHeader(
        prefix=world.settings.prefix,
        shard=world.shard,
        height=spine.height + 1,
        prev_chain=spine.chain,
        owner=world.settings.owner,
        nonce=world.nonce(),
        now_ms=spine.now_ms,
        drained=False,
        rules=RULES,
        positions=dict(spine.positions),
        published=spine.published.height,
        dn={},
        epoch=spine.epoch + (recovery is not None),
        recovery=recovery,
    )
    data, chain = encode_block(header, [])
    return data, chain, header


async def _claim(world: World, memory: Memory) -> None:
    data, chain, header = claim_block(world, memory.spine)
    began_ms = world.clock.now_ms()
    offset = await commit(world, memory.walk, data, chain)
    await _check_clock(world, offset, began_ms, world.clock.now_ms())
    memory.machine.begin_fold(header.height, header.now_ms, header.drained)
    memory.spine.advance(header, chain, offset, {})
    memory.trail.note(memory.take_changes())


async def _check_clock(world: World, offset: int, began_ms: int, ended_ms: int) -> None:
    """Compares the broker's time of our own claim with the worker's clock: one bad clock must not age traffic."""
    if world.settings.clock != "wall":
        return
    time_ms, skew_ms = await _landed_ms(world, offset), world.settings.skew_ms
    if time_ms >= 0 and not began_ms - skew_ms <= time_ms <= ended_ms + skew_ms:
        raise world.halt(
            "clock",
            f"the worker's clock says {began_ms}, the broker's {time_ms} (ms since 1970): they may differ by "
            f"{skew_ms} ms. Synchronise both (NTP), then restart the worker",
        )


async def _landed_ms(world: World, offset: int) -> int:
    """When the block at an offset was appended, by the broker's clock; -1 where that keeps no time."""
    entry = await entry_from(world, offset)
    if entry is not None and entry.offset == offset:
        return entry.time_ms
    raise Unavailable(f"the ledger of {world.shard} shows nothing at offset {offset}, where the claim is")


# --- Step 6: outputs ------------------------------------------------------------------------------------------


async def _republish(world: World, memory: Memory) -> None:
    """Publishes the outputs of every block after the last one whose outputs are known to be acknowledged."""
    spine = memory.spine
    if spine.published.height >= spine.height:
        if memory.keyring is not None:
            memory.keyring.acknowledged(spine.height)
        return
    start = spine.published
    walk = Walk(
        world.settings.prefix, world.shard, offset=start.offset, height=start.height, chain=start.chain
    )
    keyring = memory.keyring
    lost = await _given_up(world, memory)
    batch: list[Output] = []
    ends: list[str] = []
    size = 0
    async for block, offset in walk_ledger(world, walk):
        if block.header.height > spine.height:
            break
        if keyring is not None:
            ends += await keyring.read(block, memory.trail)
        batch += outputs_of(block, lost=lost)
        size += block.size
        if size >= world.settings.read_bytes or block.header.height == spine.height:
            await _publish_again(world, batch)
            if keyring is not None:
                await keyring.destroy(ends)
            world.progress += 1
            batch, ends, size = [], [], 0
        if block.header.height == spine.height:
            # Where the store was at the tip already, nothing was folded and only this walk has met the tip.
            spine.places.clear()
            spine.published = Place(spine.height, block.chain, offset + 1)
            if keyring is not None:
                keyring.acknowledged(spine.height)
            return
    raise Unavailable(f"the ledger of {world.shard} was read short of its tip")


async def _given_up(world: World, memory: Memory) -> set[str]:
    """The keys that were given up since the last block whose outputs are known to be acknowledged: what they sealed
    before may never have been published."""
    names: set[str] = set()
    spine, start = memory.spine, memory.spine.published
    if memory.keyring is not None and spine.epoch > 0:
        prefix, shard = world.settings.prefix, world.shard
        walk = Walk(prefix, shard, offset=start.offset, height=start.height, chain=start.chain)
        async for block, _ in walk_ledger(world, walk):
            names.update(keys_given_up(block.header))
    return names


async def _publish_again(world: World, batch: list[Output]) -> None:
    try:
        if batch:
            await world.log.publish(batch, world.settings.publish_deadline_s)
    except Unavailable as error:
        raise StartOver("publish", str(error), claim=True) from error
