"""A session with an upstream ad server: requests, ads, tracking, and the limits of one viewer.

async with UpstreamSession("https://ads.example/vast", transport=transport) as session:
    await session.create_session(SessionContext.create(user_id="u1"))
    pod = await session.fetch_pod(params={"slots": "3"})
    for ad in pod.ads:
        session.fire_impression(ad)
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Self, TypeVar
from urllib.parse import urlencode, urlsplit

import structlog

from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.cookies import CookieJar
from adgovernor.sessions.errors import (
    BudgetExceededError,
    CapExceededError,
    FetchError,
    SessionAlreadyStartedError,
    SessionNotStartedError,
    StateUnavailableError,
    UriRefusedError,
    UsageError,
    UserMissingError,
)
from adgovernor.sessions.fetch import Fetched, Fetcher, FetchLimits, Now, check_url, utc_now
from adgovernor.sessions.governor import (
    BudgetStanding,
    CapStanding,
    SessionChange,
    SessionGovernor,
    SessionState,
)
from adgovernor.sessions.pods import Pod, read_pod
from adgovernor.sessions.request_macros import RequestMacros, ad_values
from adgovernor.sessions.resolver import ChainLimits, ChainResolver, Resolution, report
from adgovernor.sessions.retry import CircuitBreaker, Clock, RetryPolicy, is_retryable
from adgovernor.sessions.tracking import Sleep, TrackingLimits, TrackingSender, TrackingStats
from adgovernor.sessions.transport import Headers, Transport
from adgovernor.video import (
    Expectations,
    MacroValue,
    ResolvedAd,
    TrackedUri,
    VastError,
    VmapFormatError,
    expand,
    resolve_uri,
)

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
# Origins of one session with a circuit breaker; the session's own upstreams are asked most and stay.
_MAX_BREAKERS = 64


@dataclass(frozen=True, slots=True)
class SessionPolicies:
    """What happens when the governor's state does not answer.

    Caps fail open (serve, flagged and counted) and money does not stop serving, unless the campaign is named in
    *closed_campaigns*: then the error is the caller's.
    """

    caps_fail_open: bool = True
    budget_errors_stop: bool = False
    closed_campaigns: frozenset[str] = frozenset()

    def caps_open(self, campaign_id: str) -> bool:
        """Whether *campaign_id* is served while caps cannot be asked."""
        return self.caps_fail_open and campaign_id not in self.closed_campaigns

    def money_open(self, campaign_id: str) -> bool:
        """Whether *campaign_id* is served while its budget cannot be asked."""
        return not self.budget_errors_stop and campaign_id not in self.closed_campaigns


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """All bounds of a session in one value."""

    fetch: FetchLimits = field(default_factory=FetchLimits)
    chain: ChainLimits = field(default_factory=ChainLimits)
    tracking: TrackingLimits = field(default_factory=TrackingLimits)
    breaker_threshold: int = 5
    breaker_open_ms: int = 10_000


@dataclass(frozen=True, slots=True)
class CapCheck:
    """A serving that is allowed. *degraded* says that the state did not answer and *standing* is unknown."""

    standing: CapStanding | None
    degraded: bool = False


@dataclass(slots=True)
class SessionStats:
    """What happened in a session that no answer shows."""

    requests: int = 0
    retries: int = 0
    fallbacks: int = 0
    degraded_caps: int = 0
    budget_errors: int = 0
    state_errors: int = 0


@dataclass(slots=True)
class _Running:
    """What exists only while the session is started."""

    context: SessionContext
    macros: RequestMacros
    fetcher: Fetcher
    resolver: ChainResolver
    sender: TrackingSender
    stack: AsyncExitStack


class UpstreamSession:
    """One viewer's session with the ad server at *url*, *fallback_url* being asked when it fails.

    An async context manager; it ends the session when the block ends. *governor* answers for caps, money and state;
    the methods that need it raise :class:`UsageError` without one. *clock*, *now*, *rng* and *sleep* are the time and
    the chance it uses.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: Transport,
        fallback_url: str | None = None,
        governor: SessionGovernor | None = None,
        policies: SessionPolicies | None = None,
        limits: SessionLimits | None = None,
        retry: RetryPolicy | None = None,
        expected: Expectations | None = None,
        clock: Clock = time.monotonic,
        now: Now = utc_now,
        rng: random.Random | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.stats = SessionStats()
        self._url = url
        self._fallback_url = fallback_url
        self._transport = transport
        self._governor = governor
        self._policies = policies or SessionPolicies()
        self._limits = limits or SessionLimits()
        self._retry = retry or RetryPolicy()
        self._expected = expected
        self._clock = clock
        self._now = now
        self._rng = rng or random.SystemRandom()
        self._sleep = sleep
        self._running: _Running | None = None
        self._breakers: OrderedDict[str, CircuitBreaker] = OrderedDict()
        for upstream in filter(None, (url, fallback_url)):
            check_url(upstream, self._limits.fetch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running is not None:
            await self.close()

    # ------------------------------------------------------------------------------------------------ life

    @property
    def context(self) -> SessionContext:
        """The running session's context."""
        return self._started().context

    @property
    def tracking_stats(self) -> TrackingStats:
        """What became of the tracking addresses."""
        return self._started().sender.stats

    async def create_session(self, context: SessionContext) -> None:
        """Start the session for *context*; raises :class:`SessionAlreadyStartedError` when one is running."""
        if self._running is not None:
            raise SessionAlreadyStartedError(
                f"session {self._running.context.session_id} is running; end it before starting another"
            )
        jar = CookieJar()
        for upstream in filter(None, (self._url, self._fallback_url)):
            jar.seed(urlsplit(upstream).hostname or "", context.cookies)
        macros = RequestMacros(context, now=self._now, rng=self._rng)
        fetcher = Fetcher(self._transport, self._limits.fetch, jar, self._now)
        headers = context.device_headers()
        sender = TrackingSender(
            fetcher,
            macros,
            headers=headers,
            retry=self._retry,
            limits=self._limits.tracking,
            sleep=self._sleep,
            rng=self._rng,
        )
        stack = AsyncExitStack()
        await stack.enter_async_context(sender)
        resolver = ChainResolver(fetcher, self._limits.chain, headers=headers, expected=self._expected)
        self._running = _Running(context, macros, fetcher, resolver, sender, stack)

    start_session = create_session

    async def close(self) -> None:
        """End the session: send the tracking that waits, within its bound, and forget the cookies.

        Raises :class:`SessionNotStartedError` when none is running.
        """
        running = self._started()
        self._running = None
        await running.stack.aclose()

    end_session = close

    def _started(self) -> _Running:
        if self._running is None:
            raise SessionNotStartedError("no session is running; call create_session(context) first")
        return self._running

    # ------------------------------------------------------------------------------------------------ requests

    async def request(
        self,
        path: str = "",
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Fetched:
        """Get *path* (relative to the upstream, or absolute) with *params* added, macros filled in.

        Retried with back-off while that can help, then asked of the fallback upstream. Raises the last
        :class:`~adgovernor.sessions.errors.FetchError`.
        """
        running = self._started()
        fetched = await self._ask(running, path, params, headers)
        await self._count(running)
        return fetched

    async def _ask(
        self,
        running: _Running,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> Fetched:
        sent = (*running.context.device_headers(), *(headers or {}).items())
        failure: FetchError | None = None
        for index, upstream in enumerate(filter(None, (self._url, self._fallback_url))):
            if index:
                self.stats.fallbacks += 1
            url = self._address(upstream, path, params, running.macros)
            try:
                return await self._attempt(running, url, sent)
            except FetchError as error:
                failure = error
        assert failure is not None
        raise failure

    fetch_with_session = request

    async def resolve(
        self,
        path: str = "",
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Resolution:
        """Get a VAST response, follow its Wrappers and fire the errors that come up.

        Raises :class:`~adgovernor.sessions.errors.FetchError` when neither upstream answers.
        """
        running = self._started()
        fetched = await self.request(path, params=params, headers=headers)
        resolution = await running.resolver.resolve_fetched(fetched, running.macros)
        running.sender.fire_errors(resolution.errors, uuid.uuid4())
        return resolution

    async def fetch_pod(
        self,
        path: str = "",
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Pod:
        """Get a pod: a VAST response with several ads, or a VMAP playlist with every break's ads.

        Errors that come up are fired. Raises :class:`~adgovernor.sessions.errors.FetchError` when neither upstream
        answers, and :class:`~adgovernor.video.VmapFormatError` for an answer that is neither VAST nor VMAP.
        The positions that were filled, counted from 1 in play order, become part of the session's state.
        """
        running = self._started()
        fetched = await self._ask(running, path, params, headers)
        try:
            pod = await read_pod(fetched, running.resolver, running.macros)
        except VmapFormatError:
            await self._count(running)
            raise
        await self._count(running, tuple(range(1, len(pod.ads) + 1)))
        running.sender.fire_errors(pod.errors, uuid.uuid4())
        return pod

    def _address(
        self, upstream: str, path: str, params: Mapping[str, str] | None, macros: RequestMacros
    ) -> str:
        url = resolve_uri(upstream, expand(path, macros())) if path else expand(upstream, macros())
        if url is None:
            raise UriRefusedError(f"{path!r} cannot be read as an address")
        if not params:
            return url
        bare, mark, fragment = url.partition("#")
        joint = "&" if "?" in bare else "?"
        return f"{bare}{joint}{urlencode(params)}{mark}{fragment}"

    def _breaker(self, url: str) -> CircuitBreaker:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        found = self._breakers.get(origin)
        if found is None:
            found = self._breakers[origin] = CircuitBreaker(
                self._clock, threshold=self._limits.breaker_threshold, open_ms=self._limits.breaker_open_ms
            )
            if len(self._breakers) > _MAX_BREAKERS:
                self._breakers.popitem(last=False)
        self._breakers.move_to_end(origin)
        return found

    async def _attempt(self, running: _Running, url: str, headers: Headers) -> Fetched:
        breaker = self._breaker(url)
        for attempt in range(1, self._retry.attempts + 1):
            breaker.enter()
            self.stats.requests += 1
            try:
                fetched = await running.fetcher.fetch(url, headers)
            except FetchError as error:
                if not is_retryable(error):
                    # The upstream answered, or was never asked: nothing is known against its health.
                    breaker.abandoned()
                    raise
                breaker.failed()
                if attempt == self._retry.attempts:
                    raise
                self.stats.retries += 1
                await self._sleep(self._retry.delay_s(attempt, self._rng))
            except BaseException:
                breaker.abandoned()
                raise
            else:
                breaker.succeeded()
                return fetched
        raise AssertionError("the last attempt returns or raises")

    # ------------------------------------------------------------------------------------------------ tracking

    def fire_impression(self, ad: ResolvedAd) -> int:
        """Fire the impressions of *ad* and of the Wrappers above it, once; returns how many were queued."""
        return self._fire(ad, "impression", ad.impressions)

    def fire_event(self, ad: ResolvedAd, key: str, *, overlay: bool = False) -> int:
        """Fire the event *key* (``start``, ``progress@00:00:10``) of the whole chain, once; of its *overlay* if so."""
        if overlay:
            return self._fire(ad, f"overlay/{key}", ad.nonlinear_tracking.get(key, ()))
        return self._fire(ad, key, ad.tracking_for(key))

    def fire_click(self, ad: ResolvedAd) -> int:
        """Fire the ClickTracking of the whole chain, once."""
        return self._fire(ad, "click", ad.click_tracking)

    def fire_error(self, ad: ResolvedAd, code: VastError, message: str = "") -> int:
        """Tell the chain's Error addresses that *ad* could not be played."""
        found = report(ad, code, message)
        return self._started().sender.fire(
            found.uris,
            (ad.element, "error", int(code)),
            ad_macro_values(ad),
            code=code,
            message=found.message,
        )

    def _fire(self, ad: ResolvedAd, event: str, uris: tuple[TrackedUri, ...]) -> int:
        return self._started().sender.fire(uris, (ad.element, event), ad_macro_values(ad))

    # ------------------------------------------------------------------------------------------------ limits

    async def check_frequency_cap(self, user_id: str | None, campaign_id: str, limit: int) -> CapCheck:
        """Ask whether *user_id* (the session's user when None) may see *campaign_id* once more.

        Raises :class:`CapExceededError` when not, :class:`UserMissingError` when nobody is known.
        """
        user = self._user(user_id)
        governor = self._governor_for(campaign_id)
        standing = await self._caps(
            campaign_id, lambda: governor.check_frequency_cap(user, campaign_id, limit)
        )
        if standing is None:
            return CapCheck(None, degraded=True)
        if not standing.allowed:
            causes = ", ".join(standing.blocked_by) or f"{standing.seen} of {standing.limit} servings"
            raise CapExceededError(f"campaign {campaign_id} is capped for this user: {causes}")
        return CapCheck(standing)

    async def remaining(self, user_id: str | None, campaign_id: str, limit: int) -> int | None:
        """How many more servings the user may see; None when the state does not answer and caps fail open."""
        user = self._user(user_id)
        governor = self._governor_for(campaign_id)
        return await self._caps(campaign_id, lambda: governor.remaining(user, campaign_id, limit))

    async def track_budget(
        self, campaign_id: str, price_micros: int, spend_id: str | None = None, *, creative_id: str = ""
    ) -> BudgetStanding | None:
        """Spend *price_micros* of the campaign's money for one impression, once for *spend_id*.

        The impression counts for the caps of the session's user. Raises :class:`BudgetExceededError` when the money
        does not reach and :class:`CapExceededError` when a cap forbids it. None when the state does not answer and
        serving goes on (logged and counted).
        """
        running = self._started()
        governor = self._governor_for(campaign_id)
        if price_micros < 0:
            raise ValueError(f"price_micros is {price_micros}; money is spent in positive amounts")
        identity = spend_id or str(uuid.uuid4())
        spend = await self._money(
            campaign_id,
            lambda: governor.track_budget(
                running.context.session_id,
                campaign_id,
                price_micros,
                identity,
                user_id=running.context.user_id,
                creative_id=creative_id,
            ),
        )
        if spend is None:
            return None
        if not spend.accepted:
            if "capped" in spend.reasons:
                raise CapExceededError(f"campaign {campaign_id} is capped for this user")
            left, causes = spend.standing.remaining_micros, ", ".join(spend.reasons) or "they do not fit"
            raise BudgetExceededError(
                f"campaign {campaign_id} has {left} micros left; {price_micros} were refused: {causes}"
            )
        return spend.standing

    async def get_budget(self, campaign_id: str) -> BudgetStanding | None:
        """The campaign's budget; None when it has none or the state does not answer."""
        self._started()
        governor = self._governor_for(campaign_id)
        return await self._money(campaign_id, lambda: governor.get_budget(campaign_id))

    async def remaining_budget(self, campaign_id: str) -> int | None:
        """What is left of the campaign's budget in micros; None when the state does not answer."""
        self._started()
        governor = self._governor_for(campaign_id)
        return await self._money(campaign_id, lambda: governor.remaining_budget(campaign_id))

    async def get_session_state(self) -> SessionState | None:
        """The session's state; None when nothing is known of it. Raises :class:`StateUnavailableError`."""
        context = self._started().context
        return await self._governor_for("session state").get_session_state(context.session_id)

    async def update_session_state(self, change: SessionChange) -> SessionState:
        """Add *change* to the session's state. Raises :class:`StateUnavailableError`."""
        context = self._started().context
        return await self._governor_for("session state").update_session_state(context.session_id, change)

    def _user(self, user_id: str | None) -> str:
        user = user_id or self._started().context.user_id
        if not user:
            raise UserMissingError(
                "a frequency cap needs a user; give one, or create the context with user_id"
            )
        return user

    def _governor_for(self, subject: str) -> SessionGovernor:
        if self._governor is None:
            raise UsageError(
                f"{subject}: this session has no governor to ask; create UpstreamSession with governor="
            )
        return self._governor

    async def _caps(self, campaign_id: str, ask: Callable[[], Awaitable[_T]]) -> _T | None:
        self._started()
        try:
            return await ask()
        except StateUnavailableError as error:
            if not self._policies.caps_open(campaign_id):
                raise
            self.stats.degraded_caps += 1
            _log.warning("cap not checked", campaign_id=campaign_id, reason=str(error))
            return None

    async def _money(self, campaign_id: str, ask: Callable[[], Awaitable[_T]]) -> _T | None:
        try:
            return await ask()
        except StateUnavailableError as error:
            if not self._policies.money_open(campaign_id):
                raise
            self.stats.budget_errors += 1
            _log.error("budget not reached", campaign_id=campaign_id, reason=str(error))
            return None

    async def _count(self, running: _Running, positions: tuple[int, ...] = ()) -> None:
        if self._governor is None:
            return
        change = SessionChange(change_id=str(uuid.uuid4()), requests=1, pod_positions=positions)
        try:
            await self._governor.update_session_state(running.context.session_id, change)
        except StateUnavailableError as error:
            # The ads are here; a count that is missing must not withhold them.
            self.stats.state_errors += 1
            _log.warning(
                "session state not updated", session_id=running.context.session_id, reason=str(error)
            )


def ad_macro_values(ad: ResolvedAd) -> Mapping[str, MacroValue]:
    """What *ad* itself says about the standard macros of its tracking."""
    ids = (
        (universal.registry, universal.value)
        for creative in ad.inline.creatives
        if creative.linear is not None
        for universal in creative.universal_ad_ids
    )
    own = ad_values(ad.sequence, ad.inline.ad_serving_id, ids)
    return MappingProxyType({"ADTYPE": ad.inline.ad_type or "video", **own})
