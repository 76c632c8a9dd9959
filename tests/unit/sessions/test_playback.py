"""Playback: what was shown is told to the chain, of each viewer apart, and to the shard."""

from __future__ import annotations

import orjson
import pytest
from shown_ads import Deaf, shown_ad, until
from taking_log import TakingLog
from vast_documents import TableTransport

from adgovernor.contracts.ads import Ad, AdTracking, AdUniversalId, PlayableAd
from adgovernor.publish import Publisher
from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.playback import Playback
from adgovernor.sessions.retry import NO_RETRY
from adgovernor.sessions.transport import HttpResponse


def resolved() -> Ad:
    """A slot's ad with an overlay, both tracked."""
    return shown_ad(
        "d",
        PlayableAd(
            tracking=(AdTracking(event="close", uri="http://t/linear"),),
            overlay_tracking=(AdTracking(event="close", uri="http://t/overlay"),),
        ),
    )


async def test_playback_tells_the_overlay_s_trackers_of_its_events() -> None:
    """As in a session: an overlay's event is an event of its own."""
    transport, ad = TableTransport(), resolved()
    # No impression is published here.
    async with Playback(None, transport, retry=NO_RETRY) as playback:  # type: ignore[arg-type]
        fired = [playback.fire_event(ad, "close", overlay=overlay) for overlay in (True, True, False)]
    assert fired == [1, 0, 1]
    assert sorted(transport.urls) == ["http://t/linear", "http://t/overlay"]


async def test_playback_fills_in_what_the_ad_says_of_itself() -> None:
    """Tracking of an ad with registered identities names them, each encoded by itself."""
    ids = (AdUniversalId(registry="ad-id.org", value="A/1"), AdUniversalId(registry="x", value="2"))
    told = AdTracking(event="start", uri="http://t/?u=[UNIVERSALADID]&s=[PODSEQUENCE]")
    shown = resolved().ads[0].model_copy(update={"universal_ad_ids": ids, "tracking": (told,), "sequence": 3})
    transport = TableTransport()
    async with Playback(None, transport, retry=NO_RETRY) as playback:  # type: ignore[arg-type]
        playback.fire_event(resolved().model_copy(update={"ads": (shown,)}), "start")
    assert transport.urls == ["http://t/?u=ad-id.org%20A%2F1,x%202&s=3"]


async def test_an_impression_says_what_was_really_paid() -> None:
    """The price that the player gives goes to the shard; without one the reserved price is paid."""
    log = TakingLog()
    async with (
        Publisher(log) as publisher,
        Playback(publisher, TableTransport(), retry=NO_RETRY) as playback,
    ):
        await playback.fire_impression(resolved(), price_micros=500)
        await playback.fire_impression(shown_ad("e", PlayableAd()))
    told = [orjson.loads(value or b"") for value in log.taken]
    assert [(one["decision_id"], one.get("price_micros")) for one in told] == [("d", 500), ("e", None)]


async def test_what_was_shown_is_told_also_where_the_player_fails() -> None:
    """Tracking that waits when the caller raises is sent, and the caller's error leaves as it is."""
    transport = TableTransport()

    async def play() -> None:
        async with Playback(None, transport, retry=NO_RETRY) as playback:  # type: ignore[arg-type]
            playback.fire_event(resolved(), "close")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await play()
    assert transport.urls == ["http://t/linear"]


async def test_tracking_of_two_viewers_is_apart() -> None:
    """A viewer's tracking carries their device's headers, and only the cookies that were set for them."""
    transport = TableTransport({"http://i/": HttpResponse(200, (("set-cookie", "seen=1; Path=/"),), b"")})
    shown = PlayableAd(ad_id="1", wrappers=0, impressions=("http://i/",), errors=())
    viewers = [SessionContext.create(session_id=name, ip_address=f"192.0.2.{name}") for name in ("1", "2")]
    async with Playback(Deaf(), transport) as playback:  # type: ignore[arg-type]
        for number, viewer in enumerate((*viewers, viewers[0])):
            ad = shown_ad(f"d{number}", shown, viewer.session_id)
            assert await playback.fire_impression(ad, context=viewer) == 1
            await until_sent(playback, number + 1)
    sent = [dict(request.headers) for request in transport.requests]
    assert [headers.get("Cookie") for headers in sent] == [None, None, "seen=1"]
    assert [headers["X-Device-IP"] for headers in sent] == ["192.0.2.1", "192.0.2.2", "192.0.2.1"]


async def until_sent(playback: Playback, number: int) -> None:
    """Until so many addresses have answered."""
    await until(lambda: playback.stats.sent == number)
