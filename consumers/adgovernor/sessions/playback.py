"""Playing resolved ads: tell the chain that an ad was shown, and the governor that its money is spent."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from adgovernor.contracts.ads import Ad, PlayableAd
from adgovernor.contracts.events import Click, Impression
from adgovernor.publish import Publisher
from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.cookies import CookieJars
from adgovernor.sessions.fetch import Fetcher, FetchLimits
from adgovernor.sessions.request_macros import RequestMacros, ad_values, transaction_of
from adgovernor.sessions.retry import RetryPolicy
from adgovernor.sessions.tracking import TrackingLimits, TrackingSender, TrackingStats
from adgovernor.sessions.transport import Transport
from adgovernor.stores.clock import wall_clock_ms
from adgovernor.video import MacroValue, TrackedUri


class Playback:
    """Fires the tracking of resolved ads, and publishes their impressions and clicks.

    Each session has its own cookies, and its requests carry the device's headers as far as the context knows them.

    An async context manager; tracking that waits is sent when the context ends, within its bound. The impression is
    published first and waited for: the shard counts it once, however often it comes.
    """

    def __init__(
        self,
        publisher: Publisher,
        transport: Transport,
        *,
        retry: RetryPolicy | None = None,
        fetch: FetchLimits | None = None,
        tracking: TrackingLimits | None = None,
        max_sessions: int = 10_000,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._publisher = publisher
        self._clock_ms = clock_ms
        self._transport = transport
        self._fetch = fetch
        self._jars = CookieJars(max_sessions)
        self._sender = TrackingSender(Fetcher(transport, fetch), dict, retry=retry, limits=tracking)

    async def __aenter__(self) -> Self:
        await self._sender.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was shown is told, whatever became of the caller.
        await self._sender.__aexit__(None, None, None)

    @property
    def stats(self) -> TrackingStats:
        """What became of the addresses so far."""
        return self._sender.stats

    async def fire_impression(
        self,
        ad: Ad,
        place: int = 0,
        *,
        context: SessionContext | None = None,
        price_micros: int | None = None,
    ) -> int:
        """An ad of the slot was shown: publish the impression, and fire every Impression of its chain, once.

        Args:
            place: which of the slot's ads; the slot's money is spent with the first that is shown.
            context: the viewer's, for macros; left out: what is known from the decision.
            price_micros: the price really paid; left out: the reserved one.

        Returns how many addresses were queued. Raises `Unavailable` where Kafka does not take the impression.
        """
        shown = ad.ads[place]
        await self._publisher.impression(
            Impression(
                decision_id=ad.decision_id,
                slot=ad.slot,
                routing_id=ad.routing_id,
                time_ms=self._clock_ms(),
                price_micros=price_micros,
            )
        )
        return self._fire(ad, place, "impression", shown.impressions, context)

    async def fire_click(self, ad: Ad, place: int = 0, *, context: SessionContext | None = None) -> int:
        """An ad of the slot was clicked: publish the click, and fire the ClickTracking of its chain, once."""
        await self._publisher.click(
            Click(
                type="click",
                decision_id=ad.decision_id,
                slot=ad.slot,
                routing_id=ad.routing_id,
                time_ms=self._clock_ms(),
            )
        )
        return self._fire(ad, place, "click", ad.ads[place].click_tracking, context)

    def fire_event(
        self,
        ad: Ad,
        event: str,
        place: int = 0,
        *,
        overlay: bool = False,
        context: SessionContext | None = None,
    ) -> int:
        """Fire the tracking of an event (``start``, ``progress@00:00:10``) of the whole chain, once.

        ``overlay``: what happened to the ad's overlay, where it is shown instead of a linear ad.
        """
        shown = ad.ads[place]
        tracking = shown.overlay_tracking if overlay else shown.tracking
        uris = tuple(found.uri for found in tracking if found.event == event)
        return self._fire(ad, place, f"overlay/{event}" if overlay else event, uris, context)

    def _fire(
        self, ad: Ad, place: int, event: str, uris: tuple[str, ...], context: SessionContext | None
    ) -> int:
        known = context or SessionContext.create(
            session_id=ad.session_id, request_id=ad.decision_id, user_id=ad.routing_id
        )
        tracked = tuple(TrackedUri(uri, uri) for uri in uris)
        return self._sender.fire(
            tracked,
            (ad.decision_id, ad.slot, place, event),
            _own_values(ad.ads[place]),
            macros=RequestMacros(known, transaction_id=transaction_of(ad.decision_id, ad.slot)),
            fetcher=Fetcher(self._transport, self._fetch, self._jars.of(known.session_id)),
            headers=known.device_headers(),
        )


def _own_values(ad: PlayableAd) -> dict[str, MacroValue]:
    return ad_values(
        ad.sequence, ad.ad_serving_id, ((found.registry, found.value) for found in ad.universal_ad_ids)
    )
