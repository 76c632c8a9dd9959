"""The tracking sender: bounded, retried, each address once."""

from __future__ import annotations

import asyncio
import random

import pytest
from vast_documents import TableTransport

from adgovernor.sessions.errors import (
    BodyRefusedError,
    SessionNotStartedError,
    StatusError,
    UnreachableError,
)
from adgovernor.sessions.fetch import Fetcher
from adgovernor.sessions.retry import RetryPolicy
from adgovernor.sessions.tracking import TrackingLimits, TrackingSender
from adgovernor.sessions.transport import HttpRequest, HttpResponse
from adgovernor.video import MacroValue, TrackedUri

BASE = "http://ads.example/dir/a.xml"


def uris(*written: str) -> tuple[TrackedUri, ...]:
    """Addresses of one document."""
    return tuple(TrackedUri(uri, BASE) for uri in written)


class Sleeps:
    """Remembers how long it was asked to sleep, and does not."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked_s.append(seconds)


def sender_over(
    transport: TableTransport,
    *,
    sleep: Sleeps | None = None,
    limits: TrackingLimits | None = None,
    attempts: int = 3,
) -> TrackingSender:
    """A sender with the values a test can predict."""
    values: dict[str, MacroValue] = {"CACHEBUSTING": "12345678"}
    return TrackingSender(
        Fetcher(transport),
        lambda: values,
        headers=(("X-Device-IP", "192.0.2.7"),),
        retry=RetryPolicy(attempts=attempts, base_ms=100, cap_ms=400),
        limits=limits,
        sleep=sleep or Sleeps(),
        rng=random.Random(1),
    )


async def test_addresses_are_expanded_resolved_and_sent_with_the_device() -> None:
    """Macros first, then RFC 3986 against the document, the device's headers with it."""
    transport = TableTransport({"http://ads.example/i?12345678&2": 200})
    async with sender_over(transport) as sender:
        assert sender.fire(uris("/i?[CACHEBUSTING]&[ADCOUNT]"), "start", {"ADCOUNT": 2}) == 1
    assert transport.urls == ["http://ads.example/i?12345678&2"]
    assert transport.requests[0].headers == (("X-Device-IP", "192.0.2.7"),)
    assert sender.stats.sent == 1


async def test_an_occasion_is_fired_once() -> None:
    """The same occasion fired again, by however many tasks, sends nothing more; another occasion does."""
    transport = TableTransport({"http://i/": 200})
    async with sender_over(transport) as sender:
        for _ in range(3):
            sender.fire(uris("http://i/"), ("ad", "start"))
        sender.fire(uris("http://i/"), ("ad", "complete"))
    assert len(transport.requests) == 2
    assert sender.stats.duplicates == 2


async def test_the_same_address_twice_in_one_occasion_is_two_calls() -> None:
    """Two elements with one address are two parties' counters."""
    transport = TableTransport({"http://i/": 200})
    async with sender_over(transport) as sender:
        assert sender.fire(uris("http://i/", "http://i/"), "start") == 2
    assert len(transport.requests) == 2


async def test_failures_are_retried_with_growing_waits() -> None:
    """A server that is down is asked again up to the limit, waiting longer each time."""
    sleep = Sleeps()
    transport = TableTransport({"http://i/": UnreachableError("down")})
    async with sender_over(transport, sleep=sleep) as sender:
        sender.fire(uris("http://i/"), "start")
    assert len(transport.requests) == 3
    assert sender.stats.failed == 1
    assert len(sleep.asked_s) == 2
    assert 0 <= sleep.asked_s[0] <= 0.1
    assert 0 <= sleep.asked_s[1] <= 0.2


async def test_a_retry_that_succeeds_counts_once() -> None:
    """A request that failed and then succeeded is sent, not failed."""
    answers = iter([UnreachableError("down"), None])

    def flaky(request: HttpRequest) -> HttpResponse:
        failure = next(answers)
        if failure is not None:
            raise failure
        return HttpResponse(200)

    async with sender_over(TableTransport({"http://i/": flaky})) as sender:
        sender.fire(uris("http://i/"), "start")
    assert (sender.stats.sent, sender.stats.failed) == (1, 0)


async def test_a_definite_refusal_is_not_retried() -> None:
    """A 404 would be a 404 again."""
    transport = TableTransport()
    async with sender_over(transport) as sender:
        sender.fire(uris("http://i/"), "start")
    assert (len(transport.requests), sender.stats.failed) == (1, 1)


async def test_an_answer_too_large_has_still_been_heard() -> None:
    """What the server answers means nothing; that it answered does."""
    async with sender_over(TableTransport({"http://i/": BodyRefusedError("big")})) as sender:
        sender.fire(uris("http://i/"), "start")
    assert sender.stats.sent == 1


async def test_a_full_queue_drops_and_counts_and_may_be_fired_again() -> None:
    """Beyond the bound nothing waits, and what was dropped is not remembered as fired."""
    transport = TableTransport({"http://i/": 200})
    async with sender_over(transport, limits=TrackingLimits(max_queued=2)) as sender:
        assert sender.fire(uris(*["http://i/"] * 5), "start") == 2
        assert sender.stats.dropped == 3
        assert await sender.drain(5)
        assert sender.fire(uris(*["http://i/"] * 5), "start") == 2


async def test_memory_of_occasions_is_bounded() -> None:
    """The oldest occasion is forgotten first."""
    transport = TableTransport({"http://i/": 200})
    async with sender_over(transport, limits=TrackingLimits(max_remembered=2)) as sender:
        taken = [sender.fire(uris("http://i/"), occasion) for occasion in ("a", "b", "c", "b", "c", "a")]
    assert taken == [1, 1, 1, 0, 0, 1]


async def test_error_macros_are_filled_in() -> None:
    """A code goes to both spellings of the error macro."""
    transport = TableTransport()
    async with sender_over(transport) as sender:
        sender.fire(uris("http://e/[ERRORCODE]/[ERROR_CODE]?[ERROR_MESSAGE]"), "e", code=303, message="no ad")
    assert transport.urls == ["http://e/303/303?no%20ad"]


async def test_an_address_that_cannot_be_read_is_counted() -> None:
    """No request is made of it."""
    transport = TableTransport()
    async with sender_over(transport) as sender:
        sender.fire(uris("http://[bad"), "start")
    assert (transport.requests, sender.stats.unreadable) == ([], 1)


async def test_closing_waits_no_longer_than_allowed() -> None:
    """What a dead server holds up is given up when the context ends."""
    transport = TableTransport({"http://slow/": 200}, {"http://slow/": 30.0})
    limits = TrackingLimits(workers=1, close_timeout_ms=50)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with sender_over(transport, limits=limits) as sender:
        sender.fire(uris("http://slow/", "http://never/"), "start")
    assert loop.time() - began_s < 5
    assert (sender.stats.sent, sender.stats.dropped) == (0, 1)


async def test_firing_outside_the_context_is_an_error() -> None:
    """A sender that is not running says so."""
    sender = sender_over(TableTransport())
    with pytest.raises(SessionNotStartedError):
        sender.fire(uris("http://i/"), "start")


async def test_what_the_caller_raises_leaves_as_it_is() -> None:
    """An exception inside the context is neither wrapped nor delayed by what waits to be sent."""
    transport = TableTransport(delays_s={"http://ads.example/slow": 60.0})

    async def fail() -> None:
        async with asyncio.timeout(10), sender_over(transport) as sender:
            sender.fire(uris("/slow"), "x")
            raise LookupError

    with pytest.raises(LookupError):
        await fail()


async def test_a_bug_in_a_worker_is_not_swallowed() -> None:
    """An exception that is no FetchError ends the context."""

    def broken(request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError

    async def fire_and_wait() -> None:
        async with sender_over(TableTransport({"http://i/": broken})) as sender:
            sender.fire(uris("http://i/"), "start")
            await asyncio.sleep(5)

    with pytest.raises(ExceptionGroup) as raised:
        await fire_and_wait()
    assert raised.group_contains(ZeroDivisionError)


def test_the_status_of_a_failure_is_kept() -> None:
    """A StatusError knows its status."""
    assert StatusError(503, "busy").status == 503
