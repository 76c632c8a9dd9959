"""How often, how long apart and whether at all an upstream is asked again.

Pure policies over a clock and a random source that are passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from adgovernor.sessions.errors import (
    AddressRefusedError,
    BodyRefusedError,
    CircuitOpenError,
    FetchError,
    StatusError,
    TooManyRedirectsError,
    UriRefusedError,
)

Clock = Callable[[], float]
"""Seconds on a clock that never goes back (``time.monotonic``)."""

# The answer would be the same again.
_FINAL = (
    UriRefusedError,
    AddressRefusedError,
    TooManyRedirectsError,
    BodyRefusedError,
    CircuitOpenError,
)
_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


def is_retryable(error: FetchError) -> bool:
    """Whether asking again could help: time-outs, broken connections, and statuses that say "later"."""
    if isinstance(error, StatusError):
        return error.status in _RETRIED_STATUSES
    return not isinstance(error, _FINAL)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most *attempts* tries, the waits between them random up to a bound that doubles from *base_ms* to *cap_ms*."""

    attempts: int = 3
    base_ms: int = 100
    cap_ms: int = 2_000

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.base_ms < 0 or self.cap_ms < self.base_ms:
            raise ValueError("a retry policy needs attempts >= 1 and 0 <= base_ms <= cap_ms")

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """The wait in seconds after the *failures*-th failure (from 1), with full jitter."""
        bound_ms = min(self.cap_ms, self.base_ms * 2 ** min(failures - 1, 30))
        return rng.uniform(0, bound_ms) / 1000


NO_RETRY = RetryPolicy(attempts=1)


class CircuitBreaker:
    """Leaves an upstream alone for *open_ms* after *threshold* failures in a row, then lets one request try.

    closed --threshold failures--> open --open_ms--> half-open --success--> closed
                                                             --failure--> open
    """

    def __init__(self, clock: Clock, *, threshold: int = 5, open_ms: int = 10_000) -> None:
        if threshold < 1 or open_ms < 0:
            raise ValueError("a circuit breaker needs threshold >= 1 and open_ms >= 0")
        self._clock = clock
        self._threshold = threshold
        self._open_s = open_ms / 1000
        self._failures = 0
        self._opened_at_s: float | None = None
        self._trying = False

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self._opened_at_s is None:
            return "closed"
        return "half-open" if self._clock() - self._opened_at_s >= self._open_s else "open"

    def enter(self) -> None:
        """Ask to make a request; raises :class:`CircuitOpenError` when the upstream is to be left alone."""
        state = self.state
        if state == "closed":
            return
        if state == "open" or self._trying:
            raise CircuitOpenError(
                f"the upstream failed {self._failures} times in a row and is left alone for now"
            )
        self._trying = True

    def succeeded(self) -> None:
        """The request that entered got an answer."""
        self._failures = 0
        self._opened_at_s = None
        self._trying = False

    def failed(self) -> None:
        """The request that entered failed."""
        self._failures += 1
        if self._failures >= self._threshold:
            self._opened_at_s = self._clock()
        self._trying = False

    def abandoned(self) -> None:
        """The request that entered was given up by its caller, which says nothing of the upstream."""
        self._trying = False
