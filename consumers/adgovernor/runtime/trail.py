"""The store, written behind acceptance: by compare-and-set, at most one call in flight.

The trail knows the *confirmed* tip (where the store is known to be) and the tips of calls that were not answered.
Between them no state that is not in memory has changed, so a cold read is good where it comes with one of these
tips, and with no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog

from adgovernor.contracts.errors import Unavailable
from adgovernor.core.machine import USERS, Fields, Machine
from adgovernor.runtime.chain import Spine
from adgovernor.runtime.world import StartOver, World
from adgovernor.stores.base import NOTHING, Meta, Tip

_log = structlog.get_logger(__name__)

_REFUSALS: Final = 2
"""One write that did not happen is a lost message; with the second one the store refuses."""


class Trail:
    """One shard's state in the store.

    Attributes:
        confirmed: where the store is known to be; None while it could not be asked at all.
        assumed: states were decided on without being read, so that some may have no base in memory. Nothing is
            written before they do.
    """

    def __init__(self, world: World, machine: Machine, spine: Spine, confirmed: Tip | None) -> None:
        self._world = world
        self.encode: Callable[[Mapping[str, Iterable[str]]], Fields] = machine.encode
        """The present values of changed fields."""
        self.buckets: tuple[str, ...] = (*machine.resident_buckets(), USERS)
        """All that the store keeps of the shard."""
        self._spine = spine
        self.confirmed = confirmed
        self.assumed = False
        self._attempted: set[Tip] = set()
        self._dirty: dict[str, set[str]] = {}
        self._flying: dict[str, set[str]] = {}
        self._task: asyncio.Task[None] | None = None
        self._lost = ""
        self._away_since: float | None = None
        self._asked = False
        """Whether the last call only asked where the store is."""
        self._refusals = 0
        self._refused_since = self._again_at = 0.0
        self._written = spine.published.height
        self._heard_s = asyncio.get_running_loop().time()
        """When the store last said where it is, and that all of its buckets are whole."""
        if confirmed is None:
            self.went_away()

    # --- What the engine asks ---------------------------------------------------------------------------------

    @property
    def away(self) -> bool:
        """Whether the store did not answer when it was last asked."""
        return self._away_since is not None

    @property
    def away_s(self) -> float:
        """For how long the store has not answered; 0 while it does."""
        since = self._away_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    @property
    def refuses(self) -> bool:
        """Whether the store answers, but has taken nothing in several calls, as one that is full."""
        return self._refusals >= _REFUSALS

    @property
    def fails(self) -> bool:
        """Whether the store does not do what is asked of it."""
        return self._away_since is not None or self._refusals >= _REFUSALS

    @property
    def stuck_s(self) -> float:
        """For how long nothing can be written; 0 while it can."""
        if self.refuses:
            return asyncio.get_running_loop().time() - self._refused_since
        return self.away_s

    @property
    def behind(self) -> int:
        """How many blocks the store is behind what is in memory."""
        return self._spine.height - (self.confirmed.height if self.confirmed is not None else 0)

    @property
    def dirty_states(self) -> int:
        """How many states of people are not yet known to be in the store."""
        return len(self._dirty.get(USERS, ())) + len(self._flying.get(USERS, ()))

    @property
    def dirty_fields(self) -> int:
        """How many fields changed since the last call was begun."""
        return sum(map(len, self._dirty.values()))

    def pinned(self, bucket: str = USERS) -> set[str]:
        """The states that must not leave memory: the store has not got them."""
        return self._dirty.get(bucket, set()) | self._flying.get(bucket, set())

    def check(self) -> None:
        """Raises `StartOver` where the store is not on this owner's path, or came back to one who never knew it."""
        if self._lost:
            raise StartOver("store", self._lost)
        task = self._task
        if task is not None and task.done() and not task.cancelled():
            error = task.exception()
            if error is not None:
                raise error

    # --- Writing ----------------------------------------------------------------------------------------------

    def note(self, changes: dict[str, set[str]]) -> None:
        """Fields that changed with an accepted block."""
        for bucket, fields in changes.items():
            known = self._dirty.get(bucket)
            if known is None:
                self._dirty[bucket] = set(fields)
            else:
                known |= fields

    def pump(self) -> None:
        """Begins a call where there is something to write and none is in flight. To be called only while memory is
        exactly the fold up to the spine's tip."""
        if self.confirmed is None or self._away_since is not None or self._lost:
            return
        if self._task is not None and not self._task.done():
            return
        now_s = asyncio.get_running_loop().time()
        if self.assumed or now_s < self._again_at:
            return
        behind = self.confirmed != self._spine.tip
        due = now_s - self._heard_s >= self._world.settings.store_check_s
        # Where turns take longer than the pause between two questions, they take turns with writes.
        if due and not (behind and self._asked):
            # A write would not notice that the store lost what it does not touch; a shard with nothing to write, that
            # the store was emptied or fell back.
            self._asked = True
            self._task = asyncio.create_task(self._ask(None), name=f"store-{self._world.shard}")
        elif behind:
            self._begin()

    def _begin(self) -> None:
        assert self.confirmed is not None
        self.check()
        self._asked = False
        meta = self._spine.meta()
        changes, self._dirty = self._dirty, {}
        self._flying = changes
        self._attempted.add(meta.tip)
        self._written = self._spine.published.height
        self._task = asyncio.create_task(
            self._write(self.confirmed, meta, self.encode(changes)),
            name=f"store-{self._world.shard}",
        )

    async def _write(self, expected: Tip, meta: Meta, fields: dict[str, dict[str, bytes | None]]) -> None:
        world, loop = self._world, asyncio.get_running_loop()
        began = loop.time()
        try:
            answer = await world.store.swap(world.shard, expected, meta, fields)
        except Unavailable as error:
            # It may have landed, or land yet: only the store's own word tells where it is now.
            self._away()
            await self._ask(meta.tip)
            if self.confirmed != meta.tip:
                self._refused(str(error))
        else:
            if answer is None:
                self._settled(meta.tip)
            else:
                self._place(answer, meta.tip)
        if not self._lost and self.confirmed == meta.tip:
            world.observer.store_written(
                world.shard,
                height=meta.tip.height,
                fields=sum(map(len, fields.values())),
                seconds=loop.time() - began,
            )
        world.nudge.set()

    def _settled(self, tip: Tip) -> None:
        if self.refuses:
            _log.info("the store takes what is written again", shard=self._world.shard)
        self._refusals = 0
        self.confirmed = tip
        self._attempted.clear()
        self._flying = {}
        self._came_back()

    def _came_back(self) -> None:
        if self._away_since is not None and self.away_s >= self._world.settings.store_deadline_s:
            _log.info("the store answers again", shard=self._world.shard, after_s=round(self.away_s, 1))
        self._away_since = None

    def _refused(self, error: str) -> None:
        now_s = asyncio.get_running_loop().time()
        self._refusals += 1
        self._again_at = now_s + self._world.pause_s(self._refusals)
        if self._refusals == _REFUSALS:
            self._refused_since = now_s
            _log.warning("the store refuses what is written", shard=self._world.shard, error=error)

    def _place(self, found: Meta | None, target: Tip | None) -> None:
        """Takes the store's own word for where it is."""
        self._heard_s = asyncio.get_running_loop().time()
        tip = NOTHING if found is None else found.tip
        if target is not None and tip == target:
            self._settled(tip)
            return
        flying, self._flying = self._flying, {}
        self.note(flying)
        if self.confirmed is None:
            self._lost = "the store answers again"
        elif tip == self.confirmed or tip in self._attempted:
            self.confirmed = tip
            self._came_back()
        else:
            self._lost = (
                f"the store is at height {tip.height} of ledger {tip.ledger[:12] or 'none'}, not at "
                f"{self.confirmed.height} of {self.confirmed.ledger[:12]} where this owner left it"
            )

    async def _ask(self, target: Tip | None) -> None:
        """Asks the store where it is until it answers."""
        world, failures = self._world, 0
        while True:
            try:
                found = await world.store.read_meta(world.shard, self.buckets)
            except Unavailable as error:
                failures += 1
                self._away()
                if failures == 1:
                    _log.warning("the store does not answer", shard=world.shard, error=str(error))
                await asyncio.sleep(world.pause_s(failures))
                continue
            self._place(found, target)
            world.nudge.set()
            return

    def _away(self) -> None:
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()

    def went_away(self) -> None:
        """The store did not answer: ask in the background until it does."""
        self._away()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask(None), name=f"store-{self._world.shard}")

    async def bring(self, deadline_s: float, *, published: bool = False) -> bool:
        """Writes until the store is at the tip; False where it is not by then. ``published``: also where only the
        height of the acknowledged outputs has moved."""
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        while True:
            self.check()
            idle = self._task is None or self._task.done()
            if self.confirmed is not None and self.confirmed == self._spine.tip and idle:
                if not published or self._written >= self._spine.published.height:
                    return True
                self._begin()
            else:
                self.pump()
            left = until - loop.time()
            if left <= 0:
                return False
            if self._task is not None and not self._task.done():
                await asyncio.wait({self._task}, timeout=left)
            elif (pause := self._again_at - loop.time()) > 0:
                await asyncio.sleep(min(left, pause))
            else:
                return False

    # --- Reading ----------------------------------------------------------------------------------------------

    async def read(self, states: Sequence[str], bucket: str = USERS) -> list[bytes | None]:
        """States that are not in memory, in one round trip.

        Raises:
            Unavailable: when the store does not answer.
            StartOver: when they are not of this owner's path.
        """
        world = self._world
        if self.confirmed is None or self.confirmed.height == 0:
            # The fold began with the ledger and nothing has left memory since, so what is not there does not exist.
            return [None] * len(states)
        # A call in flight may be answered before this read is, which may have been served before that call.
        before = {self.confirmed, *self._attempted}
        meta, values = await world.store.read_fields(world.shard, bucket, states)
        self._came_back()
        tip = NOTHING if meta is None else meta.tip
        if tip not in before and not self.holds(tip):
            raise StartOver(
                "store", f"states were read at height {tip.height}, which this owner did not write"
            )
        return values

    def holds(self, tip: Tip) -> bool:
        """Whether states that are not in memory are the same at this tip as at this owner's."""
        return tip == self.confirmed or tip in self._attempted

    def discard(self) -> None:
        """Lets go; a call in flight may still land, which compare-and-set makes harmless."""
        if self._task is not None and not self._task.cancel() and not self._task.cancelled():
            self._task.exception()  # It was acted on, or nothing depends on it any more.
