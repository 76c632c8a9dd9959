"""One shard at work: read, decide, append, publish, follow with the store. Generic over the core.

The engine holds the order of things; each step lives beside it: `takeover` (into memory), `inbox` (which input
next), `append` (what became of a block), `publisher` (outputs, behind acceptance), `trail` (the store, behind
acceptance). A block is decided only when the one before it is known to be in the ledger; its outputs and its
store write overlap with the next.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import structlog

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted, Unavailable
from adgovernor.contracts.ledger import BlockHeader, encode_block
from adgovernor.core.machine import BadState, Input, Machine
from adgovernor.runtime.append import commit
from adgovernor.runtime.block import OpenBlock
from adgovernor.runtime.inbox import Inbox
from adgovernor.runtime.key_log import KeyLog
from adgovernor.runtime.keyring import Keyring
from adgovernor.runtime.observer import Observer
from adgovernor.runtime.pace import pause_s
from adgovernor.runtime.ports import Clock, ShardLog
from adgovernor.runtime.publisher import Publisher
from adgovernor.runtime.settings import EngineSettings
from adgovernor.runtime.takeover import Memory, claim_block, take_over
from adgovernor.runtime.watched_clock import WatchedClock
from adgovernor.runtime.world import StartOver, World
from adgovernor.stores.base import Store

_log = structlog.get_logger(__name__)

_STEADY_BLOCKS = 16
"""After so many accepted blocks in a row, earlier failures are forgotten."""


@dataclass(slots=True)
class _Tenure:
    """All that one stay in memory consists of; dropped as a whole."""

    memory: Memory
    inbox: Inbox
    publisher: Publisher
    accepted: int = 0
    events: int = 0
    """How many the last block had."""
    began_s: float = -inf
    """When it began."""
    ticked_ms: int = 0
    """When the shard last looked whether time alone changes something."""
    idle_height: int = -1
    """The height at which an event clock's tick was last looked for: without events nothing can become due."""
    store_failed: bool = False
    """What was last shown of the store."""


class ShardEngine:
    """Owns one shard: takes it over, works, and gives it back on `stop`.

    `run` ends in one of three ways: it returns after a graceful stop; it raises `Halted` where a person has to look;
    anything else that it raises is a bug and must end the process.
    """

    def __init__(
        self,
        shard: str,
        machine_factory: Callable[[], Machine],
        log: ShardLog,
        store: Store,
        clock: Clock,
        settings: EngineSettings,
        observer: Observer | None = None,
        rng: random.Random | None = None,
        keys: KeyLog | None = None,
    ) -> None:
        """``keys``: where persons' keys are, for a user shard whose ledger is sealed."""
        self.shard = shard
        self._world = World(
            shard,
            machine_factory,
            log,
            store,
            clock,
            settings,
            observer if observer is not None else Observer(),
            rng if rng is not None else random.SystemRandom(),
            keys,
        )
        self._tenure: _Tenure | None = None
        self._left_at: dict[str, int] = {}
        """The positions of the last stay in memory, at its end."""
        self._clock: WatchedClock
        """Since the last claim, whose append compares it with the broker's."""
        self._stopping = False
        self._holding = False
        self._quiet = False

    # --- What others may ask ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Asks `run` to finish: the block in flight, its outputs, the store; all within one deadline."""
        self._stopping = True
        self._world.nudge.set()

    def hold(self) -> None:
        """Asks `run` to finish what is in flight and then to rest, with the shard's state still in memory, until
        `release` or `stop`: while a group decides who owns what."""
        self._holding = True
        self._world.nudge.set()

    def release(self) -> None:
        """Ends `hold`."""
        self._holding = False
        self._world.nudge.set()

    @property
    def quiet(self) -> bool:
        """Whether the shard rests on `hold` with nothing in flight, or has no state in memory."""
        return self._quiet or self._tenure is None

    @property
    def progress(self) -> int:
        """Rises with everything that is done or tried: whether the shard still moves."""
        return self._world.progress

    @property
    def unacknowledged_s(self) -> float:
        """For how long the log has acknowledged nothing of what is to be appended; 0 while it does."""
        since = self._world.unacknowledged_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    @property
    def ready(self) -> bool:
        """Whether the shard's state is in memory and input is taken."""
        return self._tenure is not None

    @property
    def machine(self) -> Machine | None:
        """The core, while the shard's state is in memory. For reading only."""
        return None if self._tenure is None else self._tenure.memory.machine

    @property
    def height(self) -> int:
        """Of the last block known to count; 0 while unknown."""
        return 0 if self._tenure is None else self._tenure.memory.spine.height

    @property
    def positions(self) -> dict[str, int]:
        """The next input offsets to handle, by topic, for lag tools; those last known, also after the end."""
        return dict(self._left_at if self._tenure is None else self._tenure.memory.spine.positions)

    @property
    def settled(self) -> bool:
        """Whether all known input is in the ledger, every output acknowledged and the store at the tip."""
        tenure = self._tenure
        if tenure is None:
            return False
        memory, inbox = tenure.memory, tenure.inbox
        return (
            inbox.empty
            and not any(inbox.unread(name) for name in inbox.queues)
            and tenure.publisher.backlog == 0
            and memory.trail.confirmed == memory.spine.tip
        )

    # --- The life of a shard ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works until `stop`.

        Raises:
            Halted: when the shard must not go on until a person has looked.
        """
        world, loop = self._world, asyncio.get_running_loop()
        failures, claim, reason = 0, True, "start"
        try:
            while not self._stopping:
                began = loop.time()
                if claim:
                    self._clock = WatchedClock(world)
                try:
                    memory = await take_over(world, claim=claim)
                    tenure = _Tenure(
                        memory,
                        Inbox(topics.input_topics(self.shard), memory.spine.positions),
                        Publisher(world, memory.spine, memory.keyring),
                    )
                    self._tenure = tenure
                    world.observer.took_over(
                        self.shard,
                        height=memory.spine.height,
                        folded=memory.folded,
                        seconds=loop.time() - began,
                        reason=reason,
                    )
                    claim = False
                    await self._serve(tenure)
                    await self._finish(tenure)
                except StartOver as lost:
                    claim, reason = claim or lost.claim, lost.reason
                    _log.info("the shard starts over from the ledger", shard=self.shard, why=str(lost))
                except BadState as error:
                    raise world.halt(
                        "store_unreadable",
                        f"the store has a state that this release does not understand: {error}. Run the release that "
                        "wrote it, or delete the shard's keys in the store, which is then rebuilt from the ledger",
                    ) from error
                except Unavailable as error:
                    reason = "unavailable"
                    _log.warning("the shard cannot go on, trying again", shard=self.shard, why=str(error))
                finally:
                    if self._tenure is not None:
                        if self._tenure.accepted >= _STEADY_BLOCKS:
                            failures = 0
                        self._drop()
                failures += 1
                world.progress += 1
                if not self._stopping:
                    await asyncio.sleep(world.pause_s(failures))
        except Halted as halted:
            world.observer.halted(self.shard, reason=halted.reason, message=str(halted))
            raise
        finally:
            world.observer.released(self.shard)

    def _drop(self) -> None:
        """Drops memory, the block in flight, and outputs that are not acknowledged."""
        tenure, self._tenure = self._tenure, None
        if tenure is not None:
            self._left_at = tenure.memory.spine.positions
            tenure.publisher.discard()
            tenure.memory.discard()

    async def _finish(self, tenure: _Tenure) -> None:
        loop, trail = asyncio.get_running_loop(), tenure.memory.trail
        until = loop.time() + self._world.settings.stop_deadline_s
        await tenure.publisher.drain(self._world.settings.stop_deadline_s)
        await trail.bring(max(0.0, until - loop.time()), published=True)

    async def _hold(self, tenure: _Tenure) -> None:
        """Rests until `release` or `stop`, once outputs and store have been brought up."""
        await self._finish(tenure)
        self._quiet = True
        try:
            while self._holding and not self._stopping:
                self._world.progress += 1
                await self._world.nudged(self._world.settings.idle_wait_s)
        finally:
            self._quiet = False

    async def _serve(self, tenure: _Tenure) -> None:
        """Turns the loop until a stop is asked for."""
        world, memory, inbox = self._world, tenure.memory, tenure.inbox
        settings, loop = world.settings, asyncio.get_running_loop()
        while not self._stopping:
            world.progress += 1
            tenure.publisher.check()
            await self._check_keys(memory)
            memory.trail.check()
            memory.trail.pump()
            if memory.trail.fails != tenure.store_failed:
                self._show_trail(tenure)
            if self._holding:
                await self._hold(tenure)
                continue
            if await self._held_back(tenure):
                continue
            if (wait_s := pause_s(settings, loop.time(), tenure.began_s, tenure.events)) > 0:
                await asyncio.sleep(wait_s)
            chunk = await self._bite(tenure, settings.max_events, wait=True)
            world.observer.lag(self.shard, inbox.lags(memory.spine.positions))
            if chunk:
                tenure.began_s = loop.time()
                await self._block(tenure, chunk)
            else:
                # Nothing waits any more: what was in doubt had landed.
                world.unacknowledged_since = None
                await self._tick(tenure)

    def _show_trail(self, tenure: _Tenure) -> None:
        trail = tenure.memory.trail
        tenure.store_failed = trail.fails
        self._world.observer.store_trail(
            self.shard, blocks=trail.behind, dirty=trail.dirty_states, away=trail.fails
        )

    # --- Back-pressure ----------------------------------------------------------------------------------------

    async def _held_back(self, tenure: _Tenure) -> bool:
        """Whether intake has to wait for outputs or for the store; then it has waited a while."""
        world, trail = self._world, tenure.memory.trail
        settings = world.settings
        if tenure.publisher.backlog >= settings.unpublished_blocks:
            await world.nudged(settings.idle_wait_s)
            return True
        if not trail.away:
            if trail.assumed:
                # The store is back. States that were assumed meanwhile are read and written before anything else.
                await self._catch_up(tenure)
                return True
            if trail.behind >= settings.trail_blocks and not trail.refuses:
                await world.nudged(settings.idle_wait_s)
                return True
        if trail.dirty_states >= settings.dirty_limit:
            await world.nudged(settings.idle_wait_s)
            return True
        return False

    async def _catch_up(self, tenure: _Tenure) -> None:
        """Reads the states that were assumed while the store was away, and brings the store to the tip."""
        machine, trail = tenure.memory.machine, tenure.memory.trail
        names = machine.unloaded()
        try:
            values = await trail.read(names)
            if tenure.memory.keyring is not None:
                await tenure.memory.keyring.catch_up(trail)
        except Unavailable:
            trail.went_away()
            return
        trail.assumed = False
        for name, value in zip(names, values, strict=True):
            machine.load(name, value)
        trail.note(tenure.memory.take_changes())
        await trail.bring(self._world.settings.store_deadline_s)

    # --- Input ------------------------------------------------------------------------------------------------

    async def _bite(self, tenure: _Tenure, most: int, *, wait: bool = False) -> list[Input]:
        """The next events in order. With ``wait``, some time is given to them to come."""
        if self._in_bites:
            most = min(most, self._world.settings.bite_events)
        if most > 0:
            await self._fetch(tenure, most, wait)
        return tenure.inbox.pick(most)

    @property
    def _in_bites(self) -> bool:
        """Whether a block takes its events a few at a time. An event clock needs to have seen all of them when the
        block begins, and so has what makes keys for their people."""
        world = self._world
        return world.settings.clock == "wall" and world.keys is None

    async def _fetch(self, tenure: _Tenure, most: int, wait: bool) -> None:
        world, inbox = self._world, tenure.inbox
        read = tenure.memory.machine.read
        wanted = inbox.wanted(most)
        if not wanted:
            return
        idle_s = world.settings.idle_wait_s if wait else 0.0
        began_ms = self._clock.now_ms()
        fetch = await world.log.fetch(wanted, most, idle_s if inbox.empty else 0.0)
        taken = inbox.take(fetch, read, began_ms)
        if (
            not taken
            and wait
            and not inbox.empty
            and any(not queue and inbox.unread(n) for n, queue in inbox.queues.items())
        ):
            # What is next cannot be told before the other topic shows its head.
            inbox.take(await world.log.fetch(inbox.wanted(most), most, idle_s), read, began_ms)

    def _time(self, tenure: _Tenure, chunk: list[Input]) -> tuple[int, bool]:
        """The block's ``now_ms`` and ``drained``."""
        spine, inbox, settings = tenure.memory.spine, tenure.inbox, self._world.settings
        inbox.handled(spine.positions)
        covered_ms = inbox.covered_ms
        if settings.clock == "events":
            times = (max(event.time_ms, getattr(event.event, "time_ms", -1)) for event in chunk)
            now_ms = max(spine.now_ms, tenure.memory.machine.watermark_ms, max(times, default=0))
            # A tick goes before the block's events, and with this clock it would make the block's own stragglers late.
            return now_ms, not chunk and covered_ms is not None and inbox.empty
        now_ms = self._clock.now_ms()
        drained = covered_ms is not None and now_ms - covered_ms <= settings.fresh_ms
        return max(spine.now_ms, now_ms), drained

    async def _tick(self, tenure: _Tenure) -> None:
        """Where nothing came in: appends a block if time alone changes something."""
        memory = tenure.memory
        now_ms, drained = self._time(tenure, [])
        if not drained:
            return
        if self._world.settings.clock == "events":
            if tenure.idle_height == memory.spine.height:
                return
            tenure.idle_height = memory.spine.height
        elif now_ms - tenure.ticked_ms < self._world.settings.tick_ms:
            return
        tenure.ticked_ms = now_ms
        if memory.machine.due(now_ms):
            await self._block(tenure, [])
            tenure.idle_height = memory.spine.height

    # --- A block ----------------------------------------------------------------------------------------------

    async def _cold(self, tenure: _Tenure, chunk: list[Input]) -> frozenset[str]:
        """Reads the states that a chunk needs and that are not in memory, in one round trip. Gives those that must
        be assumed, because the store did not answer within its deadline."""
        world, memory = self._world, tenure.memory
        machine, trail = memory.machine, memory.trail
        keys = machine.missing(chunk)
        if not keys:
            return frozenset()
        world.observer.cold_read(self.shard, wanted=len(chunk), asked=len(keys))
        while not self._stopping:
            trail.check()
            if trail.away_s > world.settings.store_deadline_s and trail.confirmed is not None:
                return frozenset(keys)
            if trail.away and trail.confirmed is not None:
                await world.nudged(world.settings.backoff_s)
                continue
            try:
                values = await trail.read(keys)
            except Unavailable:
                trail.went_away()
                continue
            for key, value in zip(keys, values, strict=True):
                machine.load(key, value)
            return frozenset()
        return frozenset(keys)

    async def _block(self, tenure: _Tenure, chunk: list[Input]) -> None:
        """Decides a chunk and what else is there to be read, appends the block, and lets its outputs and its changes go
        once it counts."""
        world, memory = self._world, tenure.memory
        spine = memory.spine
        loop = asyncio.get_running_loop()
        began = loop.time()
        ready = await self._prepare(tenure, chunk)
        if ready is None:
            return
        read_s = loop.time() - began
        block = self._open(tenure, ready[0])
        read_s += await self._fill(tenure, block, chunk, ready)
        header, data, chain = self._write(memory, block)
        decided = loop.time()
        offset = await commit(world, memory.walk, data, chain)
        appended = loop.time()

        spine.advance(header, chain, offset, block.outbox.counts)
        world.reached = spine.reached
        tenure.publisher.put(header.height, block.outbox.messages(chain))
        memory.trail.note(memory.take_changes())
        memory.trail.pump()
        self._evict(memory)
        tenure.accepted += 1
        tenure.events = block.events
        world.observer.block_accepted(
            self.shard,
            height=header.height,
            events=block.events,
            size=len(data),
            counts=block.counts,
            read_s=read_s,
            decide_s=decided - began - read_s,
            append_s=appended - decided,
        )
        self._show_trail(tenure)

    def _open(self, tenure: _Tenure, first: list[Input]) -> OpenBlock:
        """Begins a block with what time alone causes; ``first``: the inputs that it will begin with."""
        memory = tenure.memory
        prefix, keep = self._world.settings.prefix, memory.keyring is not None
        block = OpenBlock(memory.spine, prefix, self.shard, *self._time(tenure, first), keep=keep)
        tick = memory.machine.open_block(memory.spine.height + 1, block.now_ms, block.drained)
        if tick is not None:
            block.tick(tick)
        return block

    async def _fill(
        self,
        tenure: _Tenure,
        block: OpenBlock,
        chunk: list[Input],
        ready: tuple[list[Input], frozenset[str]],
    ) -> float:
        """Decides a chunk, and bites of what else is there for as long as the block has room; the seconds that reading
        states took. ``ready``: what `_prepare` made of the chunk.

        A bite that was not full took all there was. What came since waits for the next block: reading its states takes
        time again, in which still more would come, and the first of the block would wait for all of them."""
        settings, loop = self._world.settings, asyncio.get_running_loop()
        read_s = 0.0
        while True:
            await self._decide(tenure, block, *ready)
            full = self._in_bites and len(chunk) >= settings.bite_events
            if not full or block.size >= settings.max_bytes or self._stopping:
                return read_s
            chunk = await self._bite(tenure, settings.max_events - block.events)
            paused = loop.time()
            if not chunk or (following := await self._prepare(tenure, chunk)) is None:
                return read_s
            ready = following
            read_s += loop.time() - paused

    def _write(self, memory: Memory, block: OpenBlock) -> tuple[BlockHeader, bytes, str]:
        """The block as it is appended: its header, its bytes and its chain."""
        world = self._world
        header = block.header(world.settings.owner, world.nonce())
        if memory.keyring is not None:
            memory.keyring.seal(header, block.lines, block.drafts, block.inputs)
        data, chain = encode_block(header, block.lines)
        most = world.settings.hard_bytes
        if len(data) > most:
            raise world.halt(
                "block_too_large",
                f"block {header.height} has {len(data)} bytes, at most {most} are allowed: raise max.message.bytes of "
                "the ledger topics and the worker's limit, then restart it",
            )
        return header, data, chain

    async def _prepare(
        self, tenure: _Tenure, chunk: list[Input]
    ) -> tuple[list[Input], frozenset[str]] | None:
        """What of a chunk may be decided now, and which of the states that it needs must be assumed; None where nothing
        of it may."""
        memory = tenure.memory
        asked = len(chunk)
        if memory.keyring is None:
            unknown = await self._cold(tenure, chunk)
        else:
            chunk, unknown = await self._with_keys(tenure, memory.keyring, chunk)
        if asked and not chunk:
            return None
        if unknown:
            if self._stopping:
                tenure.inbox.put_back(chunk)
                return None
            memory.trail.assumed = True
        return chunk, unknown

    async def _decide(
        self, tenure: _Tenure, block: OpenBlock, chunk: list[Input], unknown: frozenset[str]
    ) -> None:
        """Decides events for a block, until it is large enough."""
        decide, max_bytes = tenure.memory.machine.decide, self._world.settings.max_bytes
        for number, event in enumerate(chunk, 1):
            try:
                draft = decide(event, unknown=event.state_key in unknown) if unknown else decide(event)
            except Exception:
                await self._prove_end(tenure.memory)
                raise
            block.add(event, draft)
            if block.size >= max_bytes:
                tenure.inbox.put_back(chunk[number:])
                return

    async def _with_keys(
        self, tenure: _Tenure, keyring: Keyring, chunk: list[Input]
    ) -> tuple[list[Input], frozenset[str]]:
        """As `_cold`, and the keys besides, in the same round trip: what of the chunk may go into one block."""
        trail = tenure.memory.trail
        keys = asyncio.create_task(keyring.look_up(chunk, trail))
        try:
            unknown = await self._cold(tenure, chunk)
        finally:
            # Whatever became of the states, nobody is left reading.
            await asyncio.wait({keys})
        keys.result()
        ready = keyring.ready(chunk)
        if ready < len(chunk):
            tenure.inbox.put_back(chunk[ready:])
        if chunk and not ready:
            await self._world.nudged(self._world.settings.idle_wait_s)
        await keyring.make(chunk[:ready])
        await self._check_keys(tenure.memory)
        return chunk[:ready], unknown

    async def _check_keys(self, memory: Memory) -> None:
        """Halts where the topic of persons' keys lost its tail, and nobody has accepted that since."""
        if memory.keyring is not None and memory.keyring.lost:
            await self._prove_end(memory)
            memory.keyring.check()

    async def _prove_end(self, memory: Memory) -> None:
        """Makes sure that memory is the chain's own end; raises `StartOver` where it is not.

        An input may follow from blocks of another owner that this one has not seen, such as the return of money that
        it never granted. Only where memory is the chain's end is an input that makes no sense a bug, or a halt."""
        data, chain, _ = claim_block(self._world, memory.spine)
        await commit(self._world, memory.walk, data, chain)

    def _evict(self, memory: Memory) -> None:
        keep = self._world.settings.keep_states
        if memory.trail.confirmed is not None and memory.machine.resident() > keep + keep // 8:
            memory.machine.evict(keep, memory.trail.pinned())
        if memory.keyring is not None:
            memory.keyring.evict(keep, memory.trail)
