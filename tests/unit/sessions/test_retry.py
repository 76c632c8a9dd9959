"""Retry delays and the circuit breaker."""

from __future__ import annotations

import random

import pytest

from adgovernor.sessions.errors import (
    AddressRefusedError,
    CircuitOpenError,
    FetchError,
    FetchTimeoutError,
    StatusError,
    UnreachableError,
    UriRefusedError,
)
from adgovernor.sessions.retry import CircuitBreaker, RetryPolicy, is_retryable


def test_delays_are_random_below_a_doubling_bound() -> None:
    """Full jitter: anywhere from nothing to a bound that doubles and then stays."""
    policy = RetryPolicy(attempts=9, base_ms=100, cap_ms=1_000)
    rng = random.Random(7)
    for failures, bound_s in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (60, 1.0)):
        delays_s = [policy.delay_s(failures, rng) for _ in range(200)]
        assert 0 <= min(delays_s) < bound_s / 4
        assert bound_s * 3 / 4 < max(delays_s) <= bound_s


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"base_ms": -1}, {"base_ms": 10, "cap_ms": 5}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    """At least one attempt, and bounds in order."""
    with pytest.raises(ValueError):
        RetryPolicy(**wrong)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (FetchTimeoutError("t"), True),
        (UnreachableError("u"), True),
        (StatusError(503, "s"), True),
        (StatusError(429, "s"), True),
        (StatusError(404, "s"), False),
        (UriRefusedError("r"), False),
        (AddressRefusedError("a"), False),
        (CircuitOpenError("c"), False),
    ],
)
def test_only_what_could_change_is_retried(error: FetchError, again: bool) -> None:
    """Refusals are final, outages are not."""
    assert is_retryable(error) is again


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_breaker_opens_tries_and_closes() -> None:
    """Open after the threshold, one try after the wait, closed by its success."""
    clock = Clock()
    breaker = CircuitBreaker(clock, threshold=2, open_ms=1_000)
    for _ in range(2):
        breaker.enter()
        breaker.failed()
    assert breaker.state == "open"
    with pytest.raises(CircuitOpenError):
        breaker.enter()
    clock.now_s = 1.0
    assert breaker.state == "half-open"
    breaker.enter()
    with pytest.raises(CircuitOpenError):
        breaker.enter()
    breaker.succeeded()
    assert breaker.state == "closed"


def test_a_failed_try_opens_the_breaker_again() -> None:
    """One failure is enough while half-open, and the wait begins anew."""
    clock = Clock()
    breaker = CircuitBreaker(clock, threshold=1, open_ms=1_000)
    breaker.enter()
    breaker.failed()
    clock.now_s = 1.0
    breaker.enter()
    breaker.failed()
    clock.now_s = 1.9
    assert breaker.state == "open"
    clock.now_s = 2.0
    assert breaker.state == "half-open"


def test_successes_between_failures_keep_the_breaker_closed() -> None:
    """Only failures in a row count."""
    breaker = CircuitBreaker(Clock(), threshold=2)
    for _ in range(5):
        breaker.enter()
        breaker.failed()
        breaker.enter()
        breaker.succeeded()
    assert breaker.state == "closed"


def test_an_abandoned_try_lets_the_next_one_through() -> None:
    """A caller that gave up says nothing about the upstream."""
    clock = Clock()
    breaker = CircuitBreaker(clock, threshold=1, open_ms=0)
    breaker.enter()
    breaker.failed()
    breaker.enter()
    breaker.abandoned()
    breaker.enter()
