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
from typing import Any

import orjson
import structlog

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted, Unavailable
from adgovernor.contracts.ledger import (
    TICK,
    BlockHeader,
    Draft,
    digest_of,
    encode_block,
    encode_personal,
    encode_record,
)
from adgovernor.core.machine import RULES, Input, Machine
from adgovernor.runtime.append import commit
from adgovernor.runtime.inbox import Inbox
from adgovernor.runtime.key_log import KeyLog
from adgovernor.runtime.keyring import Keyring
from adgovernor.runtime.observer import Observer, Silent
from adgovernor.runtime.outputs import DLQ, Row, messages
from adgovernor.runtime.ports import Clock, ShardLog
from adgovernor.runtime.publisher import Publisher
from adgovernor.runtime.settings import EngineSettings
from adgovernor.runtime.takeover import Memory, claim_block, take_over
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
    gather_until_s: float = 0.0
    """Until when a small block waits for more."""
    ticked_ms: int = 0
    """When the shard last looked whether time alone changes something."""
    idle_height: int = -1
    """The height at which an event clock's tick was last looked for: without events nothing can become due."""


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
            observer if observer is not None else Silent(),
            rng if rng is not None else random.SystemRandom(),
            keys,
        )
        self._tenure: _Tenure | None = None
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
        """The next input offsets to handle, by topic, for lag tools; empty while unknown."""
        return {} if self._tenure is None else dict(self._tenure.memory.spine.positions)

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
        settings = world.settings
        while not self._stopping:
            world.progress += 1
            tenure.publisher.check()
            memory.trail.check()
            memory.trail.pump()
            if self._holding:
                await self._hold(tenure)
                continue
            if await self._held_back(tenure):
                continue
            await self._gather(tenure)
            await self._fetch(tenure)
            chunk = inbox.pick(settings.max_events)
            if chunk:
                tenure.gather_until_s = asyncio.get_running_loop().time() + settings.gather_s
                await self._block(tenure, chunk)
            else:
                await self._tick(tenure)

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
            if trail.behind >= settings.trail_blocks:
                await world.nudged(settings.idle_wait_s)
                return True
        if trail.dirty_states >= settings.dirty_limit:
            world.observer.store_trail(
                self.shard, blocks=trail.behind, dirty=trail.dirty_states, away=trail.away
            )
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

    async def _fetch(self, tenure: _Tenure) -> None:
        world, inbox = self._world, tenure.inbox
        settings = world.settings
        wanted = inbox.wanted(settings.max_events)
        if not wanted:
            return
        wait_s = settings.idle_wait_s if inbox.empty else 0.0
        began_ms = world.clock.now_ms()
        fetch = await world.log.fetch(wanted, settings.max_events, wait_s)
        taken = inbox.take(fetch, tenure.memory.machine.read, began_ms)
        if (
            not taken
            and not inbox.empty
            and any(not queue and inbox.unread(n) for n, queue in inbox.queues.items())
        ):
            # What is next cannot be told before the other topic shows its head.
            taken = inbox.take(
                await world.log.fetch(
                    inbox.wanted(settings.max_events), settings.max_events, settings.idle_wait_s
                ),
                tenure.memory.machine.read,
                began_ms,
            )
        world.observer.lag(self.shard, inbox.lags(tenure.memory.spine.positions))

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
        now_ms = self._world.clock.now_ms()
        drained = covered_ms is not None and now_ms - covered_ms <= settings.fresh_ms
        return max(spine.now_ms, now_ms), drained

    async def _gather(self, tenure: _Tenure) -> None:
        """Waits until a while after the last block began. A block costs the same whatever is in it: without this,
        shards with a few events each would keep a machine busy with blocks of two, and all of them would wait for that.
        The first event after a rest is not held up, nor is anything once a block has been full."""
        pause_s = tenure.gather_until_s - asyncio.get_running_loop().time()
        if pause_s > 0 and tenure.inbox.buffered < self._world.settings.max_events // 4:
            await asyncio.sleep(pause_s)

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
        """Decides a chunk, appends the block, and lets its outputs and its changes go once it counts."""
        world, memory, inbox = self._world, tenure.memory, tenure.inbox
        settings, machine, spine = world.settings, memory.machine, memory.spine
        loop = asyncio.get_running_loop()
        began = loop.time()
        if memory.keyring is None:
            unknown = await self._cold(tenure, chunk)
        else:
            asked = len(chunk)
            chunk, unknown = await self._with_keys(tenure, memory.keyring, chunk)
            if asked and not chunk:
                return
        if self._stopping and unknown:
            inbox.put_back(chunk)
            return
        if unknown:
            memory.trail.assumed = True
        read = loop.time()

        now_ms, drained = self._time(tenure, chunk)
        lines: list[bytes] = []
        drafts: list[Draft] = []
        rows: list[Row] = []
        counts: dict[str, int] = {}
        positions = dict(spine.positions)
        size = 0
        tick = machine.open_block(spine.height + 1, now_ms, drained)
        if tick is not None:
            out = _collect(rows, counts, 0, tick, None)
            lines.append(encode_record(TICK, -1, digest_of(None, None), 0, tick, b"{}", out))
            drafts.append(tick)
        decide, max_bytes, handled = machine.decide, settings.max_bytes, 0
        for event in chunk:
            try:
                draft = decide(event, unknown=event.state_key in unknown) if unknown else decide(event)
            except Exception:
                await self._prove_end(memory)
                raise
            key, value = event.key, event.value
            line = encode_record(
                event.topic,
                event.offset,
                digest_of(key, value),
                0 if value is None else len(value),
                draft,
                encode_personal(event.routing or None, event.session, key, value, event.is_json, event.ids),
                _collect(rows, counts, len(lines), draft, event) if draft.out or draft.send else None,
            )
            lines.append(line)
            drafts.append(draft)
            positions[event.topic] = event.offset + 1
            handled += 1
            size += len(line)
            if size >= max_bytes:
                break
        if handled < len(chunk):
            inbox.put_back(chunk[handled:])

        header = BlockHeader(
            prefix=settings.prefix,
            shard=self.shard,
            height=spine.height + 1,
            prev_chain=spine.chain,
            owner=settings.owner,
            nonce=world.nonce(),
            now_ms=now_ms,
            drained=drained,
            rules=RULES,
            positions=positions,
            published=spine.published.height,
            dn={topic: spine.dn.get(topic, 1) for topic in counts},
            epoch=spine.epoch,
        )
        if memory.keyring is not None:
            memory.keyring.seal(header, lines, drafts, chunk[:handled])
        data, chain = encode_block(header, lines)
        if len(data) > settings.hard_bytes:
            raise world.halt(
                "block_too_large",
                f"block {header.height} has {len(data)} bytes, at most {settings.hard_bytes} are allowed: raise "
                "max.message.bytes of the ledger topics and the worker's limit, then restart it",
            )
        decided = loop.time()
        offset = await commit(world, memory.walk, data, chain)
        appended = loop.time()

        spine.advance(header, chain, offset, counts)
        tenure.publisher.put(header.height, messages(header, chain, rows))
        memory.trail.note(memory.take_changes())
        memory.trail.pump()
        self._evict(memory)
        tenure.accepted += 1
        world.observer.block_accepted(
            self.shard,
            height=header.height,
            events=handled,
            size=len(data),
            drafts=drafts,
            read_s=read - began,
            decide_s=decided - read,
            append_s=appended - decided,
        )
        world.observer.store_trail(
            self.shard,
            blocks=memory.trail.behind,
            dirty=memory.trail.dirty_states,
            away=memory.trail.away,
        )

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
        return chunk[:ready], unknown

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


def _collect(
    rows: list[Row], counts: dict[str, int], index: int, draft: Draft, event: Input | None
) -> list[Any]:
    """Remembers what a record sends, for the time when its block counts; gives its ``out`` as it is to be written. A
    body is turned into JSON once, for the record and for its message."""
    routing = None if event is None else event.routing or None
    out: list[Any] = []
    written: list[Any] = []
    for topic, key, body in draft.out:
        counts[topic] = counts.get(topic, 0) + 1
        if topic.endswith(DLQ):
            out.append((topic, key, body))
            written.append((topic, key, body))
        else:
            text = orjson.dumps(body)
            out.append((topic, key, text))
            written.append((topic, key, orjson.Fragment(text)))
    rows.append((index, out, draft.send, routing, event))
    return written
