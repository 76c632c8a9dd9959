"""An upstream session: its life, its requests, its limits."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from vast_documents import TableTransport, inline, vast, wrapper

from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.errors import (
    BudgetExceededError,
    CapExceededError,
    CircuitOpenError,
    SessionAlreadyStartedError,
    SessionError,
    SessionNotStartedError,
    StateUnavailableError,
    StatusError,
    UnreachableError,
    UriRefusedError,
    UsageError,
    UserMissingError,
)
from adgovernor.sessions.governor import BudgetStanding, CapStanding, SessionChange, SessionState, Spend
from adgovernor.sessions.retry import RetryPolicy
from adgovernor.sessions.transport import HttpRequest, HttpResponse
from adgovernor.sessions.upstream import SessionLimits, SessionPolicies, UpstreamSession, ad_macro_values
from adgovernor.video import VastError, VmapFormatError

URL = "http://ads.example/vast?zone=1"
CONTEXT = SessionContext.create(session_id="s1", user_id="u1", correlator=7, ip_address="192.0.2.7")


async def no_sleep(seconds: float) -> None:
    """Return at once: these tests are about what happens, not when."""


@asynccontextmanager
async def session_over(
    transport: TableTransport, context: SessionContext = CONTEXT, url: str = URL, **options: Any
) -> AsyncIterator[UpstreamSession]:
    """A started session."""
    defaults: dict[str, Any] = {"retry": RetryPolicy(3, 1, 1), "rng": random.Random(1), "sleep": no_sleep}
    async with UpstreamSession(url, transport=transport, **(defaults | options)) as session:
        await session.create_session(context)
        yield session


class AccountingGovernor:
    """A governor over plain numbers, which fails when told to; it stands for an implementation of the seam."""

    def __init__(self) -> None:
        self.seen = 0
        self.spent: dict[str, int] = {}
        self.budget_micros = 1_000
        self.state = SessionState()
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise StateUnavailableError("the state does not answer")

    def _standing(self, campaign_id: str) -> BudgetStanding:
        return BudgetStanding(campaign_id, "USD", self.budget_micros, sum(self.spent.values()))

    async def check_frequency_cap(self, user_id: str, campaign_id: str, limit: int) -> CapStanding:
        self._check()
        return CapStanding(self.seen, limit)

    async def remaining(self, user_id: str, campaign_id: str, limit: int) -> int:
        self._check()
        return CapStanding(self.seen, limit).remaining

    async def track_budget(
        self,
        session_id: str,
        campaign_id: str,
        price_micros: int,
        spend_id: str,
        *,
        user_id: str | None = None,
        creative_id: str = "",
    ) -> Spend:
        self._check()
        if spend_id not in self.spent:
            if price_micros > self._standing(campaign_id).remaining_micros:
                return Spend(False, self._standing(campaign_id))
            self.spent[spend_id] = price_micros
        return Spend(True, self._standing(campaign_id))

    async def get_budget(self, campaign_id: str) -> BudgetStanding | None:
        self._check()
        return self._standing(campaign_id)

    async def remaining_budget(self, campaign_id: str) -> int:
        self._check()
        return self._standing(campaign_id).remaining_micros

    async def get_session_state(self, session_id: str) -> SessionState | None:
        self._check()
        return self.state

    async def update_session_state(self, session_id: str, change: SessionChange) -> SessionState:
        self._check()
        self.state = self.state.plus(change)
        return self.state


async def test_a_session_that_is_not_started_says_so() -> None:
    """Every operation before create_session, and after close, is refused."""
    async with UpstreamSession(URL, transport=TableTransport(), governor=AccountingGovernor()) as session:
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            session.request,
            session.resolve,
            session.fetch_pod,
            session.close,
            session.get_session_state,
            lambda: session.update_session_state(SessionChange("1")),
            lambda: session.check_frequency_cap("u", "c", 1),
            lambda: session.remaining("u", "c", 1),
            lambda: session.track_budget("c", 1),
            lambda: session.get_budget("c"),
            lambda: session.remaining_budget("c"),
        )
        for call in calls:
            with pytest.raises(SessionNotStartedError):
                await call()
        await session.start_session(CONTEXT)
        await session.end_session()
        with pytest.raises(SessionNotStartedError):
            await session.fetch_with_session()


async def test_a_session_is_started_once() -> None:
    """A second start is refused; after the end another may begin."""
    async with UpstreamSession(URL, transport=TableTransport()) as session:
        await session.create_session(CONTEXT)
        with pytest.raises(SessionAlreadyStartedError, match="s1"):
            await session.create_session(CONTEXT)
        assert session.context is CONTEXT
        await session.close()
        await session.create_session(CONTEXT)


async def test_all_errors_are_of_one_tree() -> None:
    """A caller can catch everything a session raises by one name."""
    tree: list[type[Exception]] = [
        SessionNotStartedError,
        SessionAlreadyStartedError,
        UserMissingError,
        CapExceededError,
        BudgetExceededError,
        StateUnavailableError,
        StatusError,
        CircuitOpenError,
    ]
    assert all(issubclass(error, SessionError) for error in tree)


async def test_an_upstream_that_is_no_address_is_refused_at_once() -> None:
    """The mistake is found when the session is made."""
    with pytest.raises(UriRefusedError):
        UpstreamSession("ads.example/vast", transport=TableTransport())


async def test_a_request_carries_parameters_headers_and_the_device() -> None:
    """Parameters join the address's own, headers join the device's."""
    transport = TableTransport({"http://ads.example/vast?zone=1&a=x+y": b"ok"})
    async with session_over(transport) as session:
        fetched = await session.request(params={"a": "x y"}, headers={"Accept": "*/*"})
    assert fetched.body == b"ok"
    assert transport.requests[0].headers == (("X-Device-IP", "192.0.2.7"), ("Accept", "*/*"))


async def test_a_relative_path_is_below_the_upstream() -> None:
    """And an absolute one is itself."""
    transport = TableTransport({"http://ads.example/other?correlator=7": b"1", "http://x.example/": b"2"})
    async with session_over(transport) as session:
        assert (await session.request("/other?correlator=")).body == b"1"
        assert (await session.request("http://x.example/")).body == b"2"


async def test_parameters_stand_before_a_fragment() -> None:
    """What is behind a number sign is not sent, so it must not hold what is asked."""
    transport = TableTransport({"http://ads.example/a?b=1": b"ok"})
    async with session_over(transport) as session:
        assert (await session.request("/a#there", params={"b": "1"})).body == b"ok"


async def test_context_cookies_go_to_the_upstream_only() -> None:
    """A session's cookies are never sent to another host."""
    transport = TableTransport({URL: b"", "http://x.example/": b""})
    async with session_over(transport, SessionContext.create(cookies={"u": "1"})) as session:
        await session.request()
        await session.request("http://x.example/")
    assert [dict(request.headers).get("Cookie") for request in transport.requests] == ["u=1", None]


async def test_cookies_that_are_set_come_back_until_the_session_ends() -> None:
    """A new session begins with an empty jar."""
    transport = TableTransport({URL: HttpResponse(200, (("Set-Cookie", "id=9"),))})
    async with session_over(transport) as session:
        await session.request()
        await session.request()
        await session.close()
        await session.create_session(CONTEXT)
        await session.request()
    assert [dict(request.headers).get("Cookie") for request in transport.requests] == [None, "id=9", None]


async def test_outages_are_retried_and_then_fall_back() -> None:
    """The first upstream is tried as often as allowed, then the fallback answers."""
    transport = TableTransport({URL: UnreachableError("down"), "http://spare.example/vast": b"spare"})
    async with session_over(transport, fallback_url="http://spare.example/vast") as session:
        assert (await session.request()).body == b"spare"
    assert transport.urls == [URL] * 3 + ["http://spare.example/vast"]
    assert (session.stats.retries, session.stats.fallbacks) == (2, 1)


async def test_a_refusal_is_not_retried() -> None:
    """A 404 is final for its upstream; without a fallback it is the caller's."""
    transport = TableTransport()
    async with session_over(transport) as session:
        with pytest.raises(StatusError):
            await session.request()
    assert len(transport.requests) == 1


async def test_a_refusal_says_nothing_against_an_upstream() -> None:
    """It has answered, so the circuit stays closed."""
    transport = TableTransport()
    limits = SessionLimits(breaker_threshold=1)
    async with session_over(transport, limits=limits) as session:
        for _ in range(2):
            with pytest.raises(StatusError):
                await session.request()
    assert len(transport.requests) == 2


async def test_the_circuit_opens_after_failures_in_a_row() -> None:
    """An upstream that keeps failing is left alone until its time has passed."""
    now_s = 0.0
    transport = TableTransport({URL: UnreachableError("down")})
    limits = SessionLimits(breaker_threshold=3, breaker_open_ms=1_000)
    async with session_over(transport, limits=limits, clock=lambda: now_s) as session:
        with pytest.raises(UnreachableError):
            await session.request()
        with pytest.raises(CircuitOpenError):
            await session.request()
        assert len(transport.requests) == 3
        now_s = 1.0
        transport.replies[URL] = b"back"
        assert (await session.request()).body == b"back"


async def test_of_many_upstreams_those_asked_lately_are_known() -> None:
    """A session that is sent to ever new hosts remembers the health of some: its own upstream's, never all of them."""
    down = UnreachableError("down")
    up = {f"http://host{number}/": b"ok" for number in range(100)}
    transport = TableTransport({URL: down, "http://other/": down, **up})
    limits, once = SessionLimits(breaker_threshold=1), RetryPolicy(1, 1, 1)
    async with session_over(transport, limits=limits, retry=once, clock=lambda: 0.0) as session:
        for url in ("", "http://other/"):
            with pytest.raises(UnreachableError):
                await session.request(url)
        for number in range(100):
            await session.request(f"http://host{number}/")
            with pytest.raises(CircuitOpenError):
                await session.request()
        with pytest.raises(UnreachableError):
            await session.request("http://other/")


async def test_resolve_follows_wrappers_and_fires_errors() -> None:
    """The answer's chain is resolved, and what went wrong is told; every request speaks for the viewer's device."""
    transport = TableTransport({URL: vast(wrapper("w", "/gone"), inline("1")), "http://e/w?301": 200})
    async with session_over(transport) as session:
        found = await session.resolve()
        assert [ad.inline.id for ad in found.play] == ["1"]
    assert "http://e/w?301" in transport.urls
    assert [dict(request.headers).get("X-Device-IP") for request in transport.requests] == ["192.0.2.7"] * 3


async def test_a_pod_is_fetched_as_vast_or_vmap() -> None:
    """fetch_pod takes a VAST pod and a VMAP playlist alike, and the session's state has the positions it filled."""
    playlist = (
        b'<VMAP version="1.0"><AdBreak timeOffset="start" breakType="linear"><AdSource><AdTagURI>/tag</AdTagURI>'
        b'</AdSource></AdBreak><AdBreak timeOffset="end" breakType="linear"><AdSource><AdTagURI>/gone</AdTagURI>'
        b'</AdSource><TrackingEvents><Tracking event="error">http://b/[ERROR_CODE]</Tracking></TrackingEvents>'
        b"</AdBreak></VMAP>"
    )
    transport = TableTransport(
        {
            URL: vast(inline("2", 2), inline("1", 1)),
            "http://ads.example/vmap": playlist,
            "http://ads.example/tag": vast(inline("3")),
        }
    )
    async with session_over(transport, governor=AccountingGovernor()) as session:
        assert [ad.inline.id for ad in (await session.fetch_pod()).ads] == ["1", "2"]
        assert await session.get_session_state() == SessionState(request_count=1, pod_positions=(1, 2))
        pod = await session.fetch_pod("/vmap")
        assert [ad.inline.id for ad in pod.ads] == ["3"]
        transport.replies[URL] = b"<html/>"
        with pytest.raises(VmapFormatError):
            await session.fetch_pod()
        assert await session.get_session_state() == SessionState(request_count=3, pod_positions=(1, 2))
    assert "http://b/1008" in transport.urls


async def test_impressions_are_fired_once_for_each_ad() -> None:
    """Firing the same ad again is nothing; the same ad fetched again is another one."""
    transport = TableTransport({URL: vast(inline("1", extra="<AdServingId>x y</AdServingId>"))})
    async with session_over(transport) as session:
        for _ in range(2):
            (ad,) = (await session.fetch_pod()).ads
            assert session.fire_impression(ad) == 1
            assert session.fire_impression(ad) == 0
        assert session.fire_event(ad, "start") == 0
        assert session.fire_click(ad) == 0
        codes = (VastError.MEDIA_TIMEOUT, VastError.MEDIA_TIMEOUT, VastError.MEDIA_NOT_FOUND)
        assert [session.fire_error(ad, code) for code in codes] == [1, 0, 1]
        assert session.tracking_stats.duplicates == 3
        assert ad_macro_values(ad) == {"ADTYPE": "video", "ADSERVINGID": "x y"}
    assert transport.urls.count("http://i/1") == 2
    assert "http://e/1?402" in transport.urls


async def test_a_reached_cap_raises() -> None:
    """Below the limit the standing is returned, at it CapExceededError is raised."""
    governor = AccountingGovernor()
    async with session_over(TableTransport(), governor=governor) as session:
        assert (await session.check_frequency_cap(None, "c1", 2)).standing == CapStanding(0, 2)
        assert await session.remaining("u2", "c1", 2) == 2
        governor.seen = 2
        with pytest.raises(CapExceededError, match="2 of 2"):
            await session.check_frequency_cap("u1", "c1", 2)
        with pytest.raises(CapExceededError):
            await session.check_frequency_cap("u1", "c1", 0)


async def test_a_missing_user_is_an_error_of_its_own() -> None:
    """Nobody can be capped who is not known."""
    async with session_over(
        TableTransport(), SessionContext.create(), governor=AccountingGovernor()
    ) as session:
        with pytest.raises(UserMissingError):
            await session.check_frequency_cap(None, "c1", 2)


async def test_money_is_tracked_once_and_up_to_the_budget() -> None:
    """One spend id is one spend; what does not fit raises."""
    async with session_over(TableTransport(), governor=AccountingGovernor()) as session:
        for _ in range(2):
            standing = await session.track_budget("c1", 600, "spend-1")
            assert standing is not None
            assert standing.remaining_micros == 400
        assert await session.remaining_budget("c1") == 400
        with pytest.raises(BudgetExceededError, match="400 micros left"):
            await session.track_budget("c1", 401)
        with pytest.raises(ValueError, match="positive"):
            await session.track_budget("c1", -1)
        assert await session.get_budget("c1") == BudgetStanding("c1", "USD", 1_000, 600)


async def test_a_silent_state_fails_open_and_is_counted() -> None:
    """Caps serve degraded, money does not stop serving, requests go on; all of it is counted."""
    governor = AccountingGovernor()
    governor.down = True
    async with session_over(TableTransport({URL: b"ok"}), governor=governor) as session:
        assert (await session.check_frequency_cap(None, "c1", 1)).degraded
        assert await session.remaining(None, "c1", 1) is None
        assert await session.track_budget("c1", 1) is None
        assert (await session.request()).body == b"ok"
        assert (session.stats.degraded_caps, session.stats.budget_errors, session.stats.state_errors) == (
            2,
            1,
            1,
        )
        with pytest.raises(StateUnavailableError):
            await session.get_session_state()


async def test_a_campaign_can_be_closed_instead() -> None:
    """A campaign that must not be served unchecked raises while the state is silent."""
    governor = AccountingGovernor()
    governor.down = True
    policies = SessionPolicies(closed_campaigns=frozenset({"strict"}))
    async with session_over(TableTransport(), governor=governor, policies=policies) as session:
        with pytest.raises(StateUnavailableError):
            await session.check_frequency_cap(None, "strict", 1)
        with pytest.raises(StateUnavailableError):
            await session.track_budget("strict", 1)
        assert (await session.check_frequency_cap(None, "lenient", 1)).degraded


async def test_requests_are_counted_in_the_session_s_state() -> None:
    """Each answered request adds one; changes add up."""
    async with session_over(TableTransport({URL: b""}), governor=AccountingGovernor()) as session:
        await session.request()
        await session.request()
        await session.update_session_state(SessionChange("c", impressions=1))
        assert await session.get_session_state() == SessionState(request_count=2, impressions=1)


async def test_without_a_governor_limits_cannot_be_asked() -> None:
    """The session says what it lacks."""
    async with session_over(TableTransport()) as session:
        with pytest.raises(UsageError, match="governor="):
            await session.check_frequency_cap(None, "c1", 1)


async def test_the_request_of_an_abandoned_task_frees_the_circuit() -> None:
    """A cancelled request leaves no trace in the breaker."""

    def cancelled(request: HttpRequest) -> HttpResponse:
        raise KeyboardInterrupt

    transport = TableTransport({URL: UnreachableError("down")})
    limits = SessionLimits(breaker_threshold=1, breaker_open_ms=0)
    async with session_over(transport, limits=limits, retry=RetryPolicy(attempts=1)) as session:
        with pytest.raises(UnreachableError):
            await session.request()
        transport.replies[URL] = cancelled
        with pytest.raises(KeyboardInterrupt):
            await session.request()
        transport.replies[URL] = b"ok"
        assert (await session.request()).body == b"ok"
