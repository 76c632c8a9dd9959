"""Taking a shard over, and finding back to the chain after a loss.

In numbered steps: (1) read the witnesses: what the store and the outputs say was reached; (2) fold the ledger to
its end; (3) append a claim, a block without records; once it counts, everything before it has been walked;
(4) check the witnesses against the chain: one that is ahead of it means that the log lost its tail; (5) bring the
store to the tip; (6) publish again what is not known to be acknowledged. Then input may come. After a lost append
the same is done without the claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput, Unavailable
from adgovernor.contracts.ledger import BlockHeader, ReadBlock, encode_block, parse_block
from adgovernor.core.machine import RULES, Machine
from adgovernor.runtime.append import commit
from adgovernor.runtime.chain import NewerFormat, Place, Spine, Walk, count_outputs, new_spine, spine_of
from adgovernor.runtime.keyring import KEYS, NAMES, PLACE, Keyring
from adgovernor.runtime.outputs import outputs_of, place_of
from adgovernor.runtime.ports import Output, RawEvent
from adgovernor.runtime.trail import USERS, Trail
from adgovernor.runtime.world import StartOver, World
from adgovernor.stores.base import NOTHING, Meta, Tip

_READ_TRIES = 8
_STEP_BACK = 2_000
"""Messages of one step back through a side topic."""


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
        await _fold(world, memory, found, {w.height for w in witnesses})
        check_sealing(world, memory.machine, memory.spine.positions)
        if memory.keyring is not None and memory.keyring.incomplete and not claim:
            # Only an acknowledged append proves that no erasure follows which explains what is missing.
            raise StartOver("keys", "keys are missing that the ledger names", claim=True)
        if claim:
            witnesses += await side_witnesses(world, memory.spine, unseen)
            await _claim(world, memory)
            if memory.keyring is not None:
                memory.keyring.check()
            await _reset_empty(world, memory, found)
            check_witnesses(world, memory, witnesses)
        if memory.trail.confirmed is not None:
            await memory.trail.bring(world.settings.store_deadline_s)
        await _republish(world, memory)
    except BaseException:
        memory.discard()
        raise
    return memory


# --- Step 1: witnesses ----------------------------------------------------------------------------------------


async def read_witnesses(world: World) -> tuple[list[Witness], list[Unseen]]:
    """The last output of each topic, and the last side message to each destination; and the destinations for which
    that is further back."""
    shard, own = world.shard, topics.partition_of_shard(world.shard)
    outputs = (*topics.PUBLIC_OUTPUTS, *(topics.dlq(name) for name in topics.input_topics(shard)))
    side, partitions = topics.side_topic(shard), range(world.settings.partitions)
    tails = await asyncio.gather(
        *(world.log.tail(topic, own, 1) for topic in outputs),
        *(world.log.tail(side, partition, world.settings.witness_messages) for partition in partitions),
    )
    witnesses: list[Witness] = []
    for topic, events in zip(outputs, tails, strict=False):
        for event in events:
            place = place_of(event.headers, event.value, topic in topics.DLQS)
            if place is not None and place["shard"] == shard:
                witnesses.append(
                    Witness(f"{topic} {place['dn']}", place["height"], None, topic, "", place["dn"])
                )
    unseen: list[Unseen] = []
    for partition, events in enumerate(tails[len(outputs) :]):
        last = _last_of(shard, events)
        if last is not None:
            witnesses.append(last)
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
    found = (_side_witness(event) for event in reversed(events))
    return next((witness for source, witness in filter(None, found) if source == shard), None)


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


def check_witnesses(world: World, memory: Memory, witnesses: list[Witness]) -> None:
    """Raises `Halted` where a witness is ahead of the ledger, or of another chain."""
    spine = memory.spine
    for witness in witnesses:
        if witness.topic:
            ahead = witness.number >= spine.dn.get(witness.topic, 1)
        else:
            number, _ = memory.machine.links.sent.get(witness.destination, (0, ""))
            ahead = witness.number > number
        if ahead:
            raise _truncated(world, spine, witness.what, witness.height)
        met = memory.noted.get(witness.height)
        if spine.epoch == 0 and witness.chain is not None and met is not None and met != witness.chain:
            raise world.halt(
                "ledger_rewritten",
                f"{witness.what} was sent by another block {witness.height} than the ledger's: the ledger was "
                f"changed or replaced. Find out how before running `adgovernor recover {world.shard} --accept-loss "
                "--why TEXT`",
            )


def _truncated(world: World, spine: Spine, what: str, height: int) -> Exception:
    return world.halt(
        "ledger_truncated",
        f"{what} comes from height {height}, the ledger ends at {spine.height}: the log lost its tail. Look at the "
        "broker's replicas and log directories; when the loss is understood, run "
        f"`adgovernor recover {world.shard} --accept-loss --why TEXT`",
    )


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
            machine.restore(found.buckets)
            if keyring is not None:
                keyring.restore(place)
        confirmed = tip
    walk = Walk(prefix, shard, offset=spine.offset, height=spine.height, chain=spine.chain)
    trail = Trail(world, machine, spine, confirmed)
    if keyring is not None:
        trail.encode = partial(keyring.encode, machine)
        trail.buckets = (*trail.buckets, KEYS, NAMES, PLACE)
    return Memory(machine, spine, walk, trail, keyring=keyring)


def check_sealing(world: World, machine: Machine, positions: Mapping[str, int]) -> None:
    """Raises `Halted` where the ledger is sealed and the worker is not set to, or the other way round."""
    if topics.is_treasury(world.shard) or not (machine.has_rules or any(positions.values())):
        return
    if machine.rules.sealing != (world.keys is not None):
        found, wanted = ("sealed", "true") if machine.rules.sealing else ("not sealed", "false")
        raise world.halt(
            "sealing",
            f"this ledger is {found}: whether a deployment is sealed is decided when it begins. Set rules.sealing to "
            f"{wanted}; for a sealed deployment with this history, `adgovernor replay` it into a new prefix",
        )


async def _check_anchor(world: World, spine: Spine) -> None:
    """Makes sure that the store's tip is a block of this ledger, so that the fold may start behind it."""
    for tries in range(_READ_TRIES):
        entries, _ = await world.log.read_ledger(spine.tip_offset, 1)
        if entries:
            if entries[0].offset == spine.tip_offset and _chain_of(entries[0].value) == spine.chain:
                return
            raise world.halt(
                "store_of_another_ledger",
                f"the store is at height {spine.height} of ledger {spine.ledger[:12]}, but the ledger has another "
                f"message at offset {spine.tip_offset}: they do not belong together. Point the worker at the right "
                f"store or ledger, or empty the shard's keys in the store, which is then rebuilt from the ledger",
            )
        await asyncio.sleep(world.pause_s(tries))
    # The end seen may be too low, so only an acknowledged append proves that the ledger is shorter than the store.
    await _prove_truncation(world, spine)
    raise StartOver(
        "stale", f"the ledger of {world.shard} was read short of offset {spine.tip_offset}", claim=True
    )


def _chain_of(value: bytes) -> str | None:
    try:
        return parse_block(value).chain
    except BadInput:
        return None


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
        raise _truncated(world, spine, "the store's state", store.height)


async def walk_ledger(world: World, walk: Walk) -> AsyncIterator[tuple[ReadBlock, int]]:
    """The blocks that count from the walk's place to the ledger's end, each with its offset.

    Raises:
        Unavailable: when the ledger shows less than its end promises.
        Halted: when a newer release wrote it.
    """
    tries = 0
    while True:
        entries, end = await world.log.read_ledger(walk.offset, world.settings.read_bytes)
        for entry in entries:
            try:
                block = walk.step(entry)
            except NewerFormat as error:
                raise world.halt("ledger_format", str(error)) from error
            if block is not None:
                yield block, entry.offset
        if walk.offset >= end:
            return
        tries = 0 if entries else tries + 1
        if tries >= _READ_TRIES:
            raise Unavailable(
                f"the ledger of {world.shard} shows nothing at offset {walk.offset}, its end is {end}"
            )
        if tries:
            await asyncio.sleep(world.pause_s(tries))


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
    machine.begin_fold(header.height, header.now_ms, header.drained)
    if header.recovery is not None:
        machine.recover(header.recovery)
    for record in block.records:
        personal = record.personal
        machine.fold(record.draft(), personal.get("routing"), personal.get("session"), personal.get("ids"))
    check_sealing(world, machine, header.positions)
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
    if tip is None or tip.height > 0 or not spine.ledger or tip.ledger == spine.ledger:
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
    """A block without records that follows the spine's tip; with ``recovery``, the first of a new epoch."""
    now_ms = spine.now_ms
    if world.settings.clock == "wall":
        now_ms = max(now_ms, world.clock.now_ms())
    header = BlockHeader(
        prefix=world.settings.prefix,
        shard=world.shard,
        height=spine.height + 1,
        prev_chain=spine.chain,
        owner=world.settings.owner,
        nonce=world.nonce(),
        now_ms=now_ms,
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
    entries, _ = await world.log.read_ledger(offset, 1)
    if not entries or entries[0].offset != offset or entries[0].time_ms < 0:
        return
    time_ms, skew_ms = entries[0].time_ms, world.settings.skew_ms
    if not began_ms - skew_ms <= time_ms <= ended_ms + skew_ms:
        raise world.halt(
            "clock",
            f"the worker's clock says {began_ms}, the broker's {time_ms} (ms since 1970): they may differ by "
            f"{skew_ms} ms. Synchronise both (NTP), then restart the worker",
        )


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
    batch: list[Output] = []
    ends: list[str] = []
    size = 0
    async for block, offset in walk_ledger(world, walk):
        if block.header.height > spine.height:
            break
        if keyring is not None:
            ends += await keyring.read(block, memory.trail)
        batch += outputs_of(block)
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


async def _publish_again(world: World, batch: list[Output]) -> None:
    try:
        if batch:
            await world.log.publish(batch, world.settings.publish_deadline_s)
    except Unavailable as error:
        raise StartOver("publish", str(error), claim=True) from error
