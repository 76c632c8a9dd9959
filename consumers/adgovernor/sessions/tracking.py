"""Fires tracking addresses: bounded, retried, each once.

A player may report the same moment twice (a rebuffer, a resumed stream, a retried call); an ad server that counts
money must hear of it once. What has been fired is remembered by occasion, not by address, because addresses carry
fresh random numbers.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from adgovernor.sessions.errors import BodyRefusedError, FetchError, SessionNotStartedError
from adgovernor.sessions.fetch import Fetcher
from adgovernor.sessions.resolver import FiredError, MacroSource
from adgovernor.sessions.retry import RetryPolicy, is_retryable
from adgovernor.sessions.transport import Headers
from adgovernor.video import MacroValue, TrackedUri, expand, expand_error, resolve_uri

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TrackingLimits:
    """Bounds of a sender: addresses waiting, requests at once, occasions remembered, and the wait at the end."""

    max_queued: int = 2_000
    workers: int = 8
    max_remembered: int = 20_000
    close_timeout_ms: int = 5_000

    def __post_init__(self) -> None:
        if min(self.max_queued, self.workers, self.max_remembered) < 1 or self.close_timeout_ms < 0:
            raise ValueError("tracking limits are positive (close_timeout_ms may be 0)")


@dataclass(slots=True)
class TrackingStats:
    """What became of the addresses so far."""

    sent: int = 0
    failed: int = 0
    duplicates: int = 0
    dropped: int = 0
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class _Beacon:
    uri: TrackedUri
    macros: MacroSource
    values: Mapping[str, MacroValue]
    code: int | None
    message: str | None
    fetcher: Fetcher
    headers: Headers


class TrackingSender:
    """An async context manager that fires addresses in the background with *fetcher*.

    *macros* gives the values of each request; *headers* (the device's) go with it. What is still waiting when the
    context ends is sent within ``close_timeout_ms`` and then given up. An exception in a worker is a bug and ends the
    context that holds the sender.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        macros: MacroSource,
        *,
        headers: Headers = (),
        retry: RetryPolicy | None = None,
        limits: TrackingLimits | None = None,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.stats = TrackingStats()
        self._fetcher = fetcher
        self._macros = macros
        self._headers = headers
        self._retry = retry or RetryPolicy()
        self._limits = limits or TrackingLimits()
        self._sleep = sleep
        self._rng = rng or random.SystemRandom()
        self._queue: asyncio.Queue[_Beacon] = asyncio.Queue(self._limits.max_queued)
        self._fired: OrderedDict[Hashable, None] = OrderedDict()
        self._group: asyncio.TaskGroup | None = None
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._workers = [self._group.create_task(self._work()) for _ in range(self._limits.workers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._group is not None
        try:
            if kind is None:
                await self.drain(self._limits.close_timeout_ms / 1000)
        finally:
            for worker in self._workers:
                worker.cancel()
            group, self._group = self._group, None
            self.stats.dropped += self._queue.qsize()
            if kind is not None and not issubclass(kind, asyncio.CancelledError):
                # What the caller raised is the caller's own, and leaves here as it is.
                kind = error = traceback = None
            await group.__aexit__(kind, error, traceback)

    def fire(
        self,
        uris: Iterable[TrackedUri],
        occasion: Hashable,
        values: Mapping[str, MacroValue] | None = None,
        *,
        code: int | None = None,
        message: str | None = None,
        macros: MacroSource | None = None,
        fetcher: Fetcher | None = None,
        headers: Headers | None = None,
    ) -> int:
        """Queue *uris* for *occasion* (which ad, which event); returns how many were taken.

        The n-th address of an occasion is taken once, however often the occasion is fired. *values* add to the macros
        of the request; *code* and *message* fill in the error macros. *macros*, *fetcher* and *headers* are given where
        they are not the sender's own but another session's. A full queue drops and counts.

        Raises :class:`SessionNotStartedError` outside the context.
        """
        if self._group is None:
            raise SessionNotStartedError("the tracking sender is not running; use it inside 'async with'")
        taken = 0
        for index, uri in enumerate(uris):
            key = (occasion, index)
            if key in self._fired:
                self.stats.duplicates += 1
                continue
            try:
                self._queue.put_nowait(
                    _Beacon(
                        uri,
                        macros or self._macros,
                        values or {},
                        code,
                        message,
                        fetcher or self._fetcher,
                        self._headers if headers is None else headers,
                    )
                )
            except asyncio.QueueFull:
                self.stats.dropped += 1
                continue
            self._fired[key] = None
            if len(self._fired) > self._limits.max_remembered:
                self._fired.popitem(last=False)
            taken += 1
        return taken

    def fire_errors(self, errors: Iterable[FiredError], occasion: Hashable) -> int:
        """Queue the Error addresses of *errors*; *occasion* names the resolution they come from."""
        return sum(
            self.fire(error.uris, (occasion, "error", index), code=error.code, message=error.message)
            for index, error in enumerate(errors)
        )

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything queued has been sent or given up; False when *timeout_s* passed first."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._queue.join()
        except TimeoutError:
            return False
        return True

    async def _work(self) -> None:
        while True:
            beacon = await self._queue.get()
            try:
                await self._send(beacon)
            finally:
                self._queue.task_done()

    async def _send(self, beacon: _Beacon) -> None:
        written = beacon.uri.uri
        if beacon.code is not None:
            written = expand_error(written, beacon.code, beacon.message)
        url = resolve_uri(beacon.uri.base_url, expand(written, {**beacon.macros(), **beacon.values}))
        if url is None:
            self.stats.unreadable += 1
            return
        for attempt in range(1, self._retry.attempts + 1):
            try:
                await beacon.fetcher.fetch(url, beacon.headers)
            except BodyRefusedError:
                # The server answered, so it has heard; what it answers means nothing (VAST 4.3 §2.3.4).
                self.stats.sent += 1
                return
            except FetchError as error:
                if attempt == self._retry.attempts or not is_retryable(error):
                    self.stats.failed += 1
                    return
                await self._sleep(self._retry.delay_s(attempt, self._rng))
            else:
                self.stats.sent += 1
                return
