"""State without a log: the small protocol that library mode stands on, and doing something exactly once over it.

Where there is no Kafka, a key's whole state is one value, and compare-and-set on its version is the only order
there is. What lives here: the protocol, its form in memory, and `Transactions`, which turns a pure function of a state
into a change of it. What never does: a rule of the domain.

A swap whose answer was lost may have happened. So each value carries the marks of the last operations that changed
it, one a version, and an operation that finds its own mark knows that it is done.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeVar
from weakref import WeakValueDictionary

from adgovernor.contracts.errors import Unavailable
from adgovernor.stores.clock import wall_clock_ms

REMEMBERED: Final = 64
"""Versions of which the operation is remembered, so half a kilobyte a value. An answer that is lost for longer than
so many changes of one value stays unknown, and the caller is told."""
MARK_BYTES: Final = 8
KEY_LENGTH: Final = 400
"""Most characters of a key."""

_SWEEP_FROM: Final = 1_000
"""Fewer values than this are not worth a look for those whose life has ended."""
_FIRST_WAIT_S: Final = 0.001
_LONGEST_WAIT_S: Final = 0.05
"""Between two attempts of one change; each wait is random up to a limit that doubles from the first to this."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Versioned:
    """A value, and where it stands in its own history."""

    version: int
    """1 for the first value, one more with each swap."""
    value: bytes
    marks: bytes
    """Of the operations that made the last versions, `MARK_BYTES` each, the newest last."""


@dataclass(frozen=True, slots=True)
class Change:
    """A swap, prepared: from what is expected to what shall be."""

    expected: Versioned | None
    """None: there is nothing."""
    wanted: Versioned
    ttl_ms: int | None = None
    """How long the value lives when nothing changes it, in milliseconds; None: for ever. Money, and whatever
    keeps something from being counted twice, must live for ever."""

    @classmethod
    def by(
        cls, operation: str, expected: Versioned | None, value: bytes, ttl_ms: int | None = None
    ) -> Change:
        """The change that this operation makes; operations are told apart by their ids."""
        if ttl_ms is not None and ttl_ms < 1:
            raise ValueError(f"ttl_ms {ttl_ms}: a time to live is at least 1 ms; None means for ever")
        mark = hashlib.blake2b(operation.encode(), digest_size=MARK_BYTES).digest()
        if expected is None:
            return cls(None, Versioned(1, value, mark), ttl_ms)
        marks = (expected.marks + mark)[-REMEMBERED * MARK_BYTES :]
        return cls(expected, Versioned(expected.version + 1, value, marks), ttl_ms)

    def outcome(self, now: Versioned | None) -> Literal["done", "never", "open", "unknown"]:
        """What became of this change, told by what is there now.

        ``open``: it has not happened, and may yet where its request is still on its way; doing it again is safe, as
        only one of the two can find what it expects. ``never``: another operation made the version that it wanted.
        ``unknown``: the value is gone, or too much has happened since. A value takes its history with it when it
        is deleted: a first version that was deleted and made anew by others reads as ``never``.
        """
        if now is None or now.version < self.wanted.version:
            same = now is None if self.expected is None else now == self.expected
            return "open" if same else "unknown"
        end = len(now.marks) - (now.version - self.wanted.version) * MARK_BYTES
        if end < MARK_BYTES:
            return "unknown"
        here, before = now.marks[end - MARK_BYTES : end], now.marks[: end - MARK_BYTES]
        mine, expected = self.wanted.marks[-MARK_BYTES:], self.wanted.marks[:-MARK_BYTES]
        common = min(len(before), len(expected))
        if before[len(before) - common :] != expected[len(expected) - common :]:
            # This is not the history that the change belongs to: the value was deleted and made anew.
            return "unknown"
        return "done" if here == mine else "never"


class StateBackend(Protocol):
    """Keys and values with compare-and-set. Every method raises `Unavailable` where the answer is not known; a
    swap may have happened then, and the next `load` tells by `Change.outcome`. Keys are texts of at most
    `KEY_LENGTH` characters."""

    async def load(self, key: str) -> Versioned | None:
        """The value; None where there is none, or its life has ended."""
        ...

    async def swap(self, key: str, change: Change) -> bool:
        """Where the present value is the expected one it becomes the wanted one; else nothing changes."""
        ...

    async def delete(self, key: str, expected: Versioned) -> bool:
        """Where the present value is the expected one it is removed; else nothing changes."""
        ...

    async def ping(self) -> None:
        """Raises `Unavailable` where the backend cannot be used."""
        ...

    async def close(self) -> None:
        """Lets connections go."""
        ...


def check_key(key: str) -> None:
    """Raises `ValueError` for a text that cannot be a key everywhere."""
    if not 1 <= len(key) <= KEY_LENGTH or "\x00" in key:
        raise ValueError(f"key of {len(key)} characters: use 1 to {KEY_LENGTH}, none of them zero")


class Transactions:
    """Pure functions of a state, applied to it exactly once each; and the end of a state.

    The tasks of one `Transactions` take turns at a key, so that only processes contend with each other.
    """

    def __init__(self, backend: StateBackend, deadline_s: float = 30.0) -> None:
        """``deadline_s``: longest time that one change may take, attempts and waiting included."""
        self._backend = backend
        self._deadline_s = deadline_s
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def apply(
        self,
        key: str,
        operation: str,
        decide: Callable[[bytes | None], tuple[bytes | None, T]],
        ttl_ms: int | None = None,
    ) -> T:
        """Has ``decide`` look at the value (None: there is none) and give the next one (None: it stays) and a
        result; answers the result of the one attempt that came true.

        ``decide`` must be pure: it runs again on the newer value when another process was faster. Raises
        `Unavailable` past the deadline, when the change may have happened or may happen yet: call again with the same
        ``operation`` only where ``decide`` itself would notice a repetition. Raises it as well where nobody can say
        any more whether the change happened.
        """
        deadline = time.monotonic() + self._deadline_s
        async with self._turn(key, deadline):
            doubtful: tuple[Change, T] | None = None
            wait_s = _FIRST_WAIT_S
            while True:
                reason: Unavailable | None = None
                try:
                    now = await self._backend.load(key)
                    if doubtful is not None:
                        outcome = doubtful[0].outcome(now)
                        if outcome == "done":
                            return doubtful[1]
                        if outcome == "unknown":
                            break
                        if outcome == "never":
                            doubtful = None
                    value, result = decide(None if now is None else now.value)
                    if value is None:
                        return result
                    change = Change.by(operation, now, value, ttl_ms)
                    doubtful = doubtful or (change, result)
                    if await self._backend.swap(key, change):
                        return result
                    if doubtful[0] is change:
                        # This answer is sure, and no other attempt is.
                        doubtful = None
                except Unavailable as error:
                    reason = error
                wait_s = await self._pause(key, deadline, wait_s, reason)
        raise Unavailable(
            f"state {key!r}: whether operation {operation!r} happened cannot be told any more: its answer was lost, "
            f"and the value has been deleted or has changed more than {REMEMBERED} times since"
        )

    async def remove(self, key: str) -> None:
        """Removes the value, also while other processes change it. Raises `Unavailable` past the deadline, when it may
        be there or not; doing it again is safe."""
        deadline = time.monotonic() + self._deadline_s
        async with self._turn(key, deadline):
            wait_s = _FIRST_WAIT_S
            while True:
                reason: Unavailable | None = None
                try:
                    now = await self._backend.load(key)
                    if now is None or await self._backend.delete(key, now):
                        return
                except Unavailable as error:
                    reason = error
                wait_s = await self._pause(key, deadline, wait_s, reason)

    async def _pause(self, key: str, deadline: float, wait_s: float, reason: Unavailable | None) -> float:
        """Waits before the next attempt; how long to wait after it. Raises `Unavailable` past the deadline."""
        if time.monotonic() + wait_s > deadline:
            raise Unavailable(
                f"state {key!r}: not done within {self._deadline_s} s: {reason or 'others were faster'}"
            ) from reason
        await asyncio.sleep(wait_s * random.random())  # noqa: S311 (it spreads contenders)
        return min(2 * wait_s, _LONGEST_WAIT_S)

    @asynccontextmanager
    async def _turn(self, key: str, deadline: float) -> AsyncIterator[None]:
        lock = self._turns.get(key)
        if lock is None:
            lock = self._turns[key] = asyncio.Lock()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await lock.acquire()
        except TimeoutError as error:
            raise Unavailable(f"state {key!r}: not this task's turn within {self._deadline_s} s") from error
        try:
            yield
        finally:
            lock.release()


class InMemoryBackend:
    """A `StateBackend` of one process, for one event loop. Values whose life has ended are let go of now and then."""

    def __init__(self, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        """``clock_ms`` gives the time in milliseconds; only values with a time to live ask for it."""
        self._clock_ms = clock_ms
        self._values: dict[str, tuple[Versioned, int | None]] = {}
        self._sweep_at = _SWEEP_FROM

    async def load(self, key: str) -> Versioned | None:
        """See `StateBackend.load`."""
        check_key(key)
        return self._present(key)

    async def swap(self, key: str, change: Change) -> bool:
        """See `StateBackend.swap`."""
        check_key(key)
        if not _same(self._present(key), change.expected):
            return False
        ends = None if change.ttl_ms is None else self._clock_ms() + change.ttl_ms
        self._values[key] = change.wanted, ends
        if len(self._values) >= self._sweep_at:
            self._sweep()
        return True

    async def delete(self, key: str, expected: Versioned) -> bool:
        """See `StateBackend.delete`."""
        check_key(key)
        if not _same(self._present(key), expected):
            return False
        del self._values[key]
        return True

    async def ping(self) -> None:
        """Memory is always there."""

    async def close(self) -> None:
        """There are no connections to let go."""

    def _sweep(self) -> None:
        # Each time as many are there again as were left, so that a swap costs the same however many there are.
        now_ms = self._clock_ms()
        self._values = {
            key: (value, ends) for key, (value, ends) in self._values.items() if ends is None or ends > now_ms
        }
        self._sweep_at = max(_SWEEP_FROM, 2 * len(self._values))

    def _present(self, key: str) -> Versioned | None:
        value, ends = self._values.get(key, (None, None))
        if ends is not None and ends <= self._clock_ms():
            del self._values[key]
            return None
        return value


def _same(now: Versioned | None, expected: Versioned | None) -> bool:
    """Version and marks name a value; comparing the value itself would add nothing."""
    if now is None or expected is None:
        return now is expected
    return now.version == expected.version and now.marks == expected.marks
