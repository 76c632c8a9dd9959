"""What of a resolved chain is on ``ads``: everything that a player needs, absolute."""

from __future__ import annotations

from vast_documents import TableTransport, inline, vast, wrapper

from adgovernor.contracts.ads import AdResource, PlayableAd
from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.fetch import Fetcher
from adgovernor.sessions.playable import playable_ads
from adgovernor.sessions.resolver import ChainResolver
from adgovernor.sessions.retry import NO_RETRY
from adgovernor.sessions.upstream import UpstreamSession

OUTER, INNER = "http://outer.example/a", "http://inner.example/b"


async def playable(creatives: str, *, extra: str = "", of_wrapper: str = "") -> PlayableAd:
    """The ad of one InLine below one Wrapper."""
    transport = TableTransport(
        {
            OUTER: vast(wrapper("w", INNER, extra=of_wrapper)),
            INNER: vast(inline("1", creatives=creatives, extra=extra)),
        }
    )
    (ad,) = playable_ads(await ChainResolver(Fetcher(transport)).resolve(OUTER, dict))
    return ad


async def test_all_files_of_a_linear_ad_and_what_its_code_is_given() -> None:
    """Media, mezzanine and interactive files, captions and parameters."""
    ad = await playable(
        "<Creative><Linear><AdParameters>p=1</AdParameters><MediaFiles><MediaFile>/m</MediaFile>"
        "<Mezzanine>/z</Mezzanine><InteractiveCreativeFile apiFramework='SIMID'>/s</InteractiveCreativeFile>"
        "<ClosedCaptionFiles><ClosedCaptionFile language='de'>/c</ClosedCaptionFile></ClosedCaptionFiles>"
        "</MediaFiles></Linear></Creative>"
    )
    files = (*ad.media_files, *ad.mezzanines, *ad.interactive_files)
    assert [file.uri for file in files] == [f"http://inner.example/{name}" for name in "mzs"]
    assert ad.captions[0].uri == "http://inner.example/c"
    assert (ad.interactive_files[0].api_framework, ad.captions[0].language) == ("SIMID", "de")
    assert ad.parameters == "p=1"


async def test_resources_say_what_they_are_and_what_runs_them() -> None:
    """A player learns an image's type, and which of a vendor's scripts is for the measuring that it has."""
    ad = await playable(
        "<Creative><CompanionAds><Companion><StaticResource creativeType='image/png'>/i</StaticResource></Companion>"
        "</CompanionAds></Creative>",
        extra="<AdVerifications><Verification vendor='v'>"
        "<JavaScriptResource apiFramework='omid'>/o.js</JavaScriptResource>"
        "<ExecutableResource apiFramework='other'>/x</ExecutableResource></Verification></AdVerifications>",
    )
    (image,) = ad.companions[0].resources
    assert (image.type, image.api_framework) == ("image/png", None)
    codes = ad.verifications[0].resources
    assert [(code.kind, code.type, code.api_framework) for code in codes] == [
        ("javascript", None, "omid"),
        ("executable", None, "other"),
    ]


async def test_an_overlay_carries_the_tracking_of_its_chain() -> None:
    """Resources and its own clicks, those of the Wrappers above it, and the events of all."""
    wrapped = (
        "<Creatives><Creative><NonLinearAds><TrackingEvents><Tracking event='expand'>/far</Tracking></TrackingEvents>"
        "<NonLinear><NonLinearClickTracking>/click</NonLinearClickTracking></NonLinear></NonLinearAds></Creative>"
        "</Creatives>"
    )
    ad = await playable(
        "<Creative><NonLinearAds><TrackingEvents><Tracking event='expand'>/near</Tracking></TrackingEvents>"
        "<NonLinear width='3' apiFramework='VPAID' minSuggestedDuration='00:00:15'>"
        "<StaticResource>/i.png</StaticResource>"
        "<NonLinearClickThrough>/go</NonLinearClickThrough><NonLinearClickTracking>/own</NonLinearClickTracking>"
        "<AdParameters>p</AdParameters></NonLinear></NonLinearAds></Creative>",
        of_wrapper=wrapped,
    )
    (overlay,) = ad.overlays
    assert overlay.resources == (AdResource(kind="static", value="http://inner.example/i.png"),)
    assert overlay.click_tracking == ("http://inner.example/own", "http://outer.example/click")
    assert (overlay.width, overlay.min_duration_ms, overlay.api_framework) == (3, 15_000, "VPAID")
    assert (overlay.click_through, overlay.parameters) == ("http://inner.example/go", "p")
    assert [told.uri for told in ad.overlay_tracking] == [
        "http://inner.example/near",
        "http://outer.example/far",
    ]


async def test_an_event_of_an_overlay_is_another_than_the_ad_s() -> None:
    """Both are fired once each, and each tells its own trackers."""
    events = "<TrackingEvents><Tracking event='close'>{}</Tracking></TrackingEvents>"
    creatives = (
        f"<Creative><Linear>{events.format('/linear')}</Linear></Creative>"
        f"<Creative><NonLinearAds>{events.format('/overlay')}</NonLinearAds></Creative>"
    )
    transport = TableTransport({OUTER: vast(inline("1", creatives=creatives))})
    async with UpstreamSession(OUTER, transport=transport, retry=NO_RETRY) as session:
        await session.create_session(SessionContext.create())
        (ad,) = (await session.fetch_pod()).ads
        fired = [session.fire_event(ad, "close", overlay=overlay) for overlay in (True, True, False)]
    assert fired == [1, 0, 1]
    assert sorted(transport.urls[1:]) == ["http://outer.example/linear", "http://outer.example/overlay"]


async def test_of_a_program_the_icon_nearest_the_ad_is_shown() -> None:
    """An icon of another program, or of none, is shown beside it; each is resolved against its own document."""

    def icons(*programs: str) -> str:
        each = "".join(
            f"<Icon {program}><IFrameResource>/f</IFrameResource><IconViewTracking>/v</IconViewTracking></Icon>"
            for program in programs
        )
        return f"<Creative><Linear><Icons>{each}</Icons></Linear></Creative>"

    ad = await playable(
        icons("program='AdChoices'", ""),
        of_wrapper="".join(
            ("<Creatives>", icons("program='ADCHOICES'", "program='other'", ""), "</Creatives>")
        ),
    )
    assert [icon.program for icon in ad.icons] == ["AdChoices", None, "other", None]
    assert [icon.resources[0].value for icon in ad.icons] == [
        *["http://inner.example/f"] * 2,
        *["http://outer.example/f"] * 2,
    ]
    assert ad.icons[2].view_tracking == ("http://outer.example/v",)


async def test_an_icon_says_when_and_how_long_it_is_shown() -> None:
    """Offset and duration are milliseconds; what is missing or no time is left to the ad's start and end."""
    icons = "<Icon offset='00:00:02.5' duration='00:00:10' apiFramework='omid'/><Icon offset='soon'/>"
    ad = await playable(f"<Creative><Linear><Icons>{icons}</Icons></Linear></Creative>")
    assert [(icon.offset_ms, icon.duration_ms, icon.api_framework) for icon in ad.icons] == [
        (2_500, 10_000, "omid"),
        (None, None, None),
    ]


async def test_the_identities_of_what_is_played() -> None:
    """Every UniversalAdId of the linear creative goes along, not those of other creatives."""
    ids = "<UniversalAdId idRegistry='{}'>{}</UniversalAdId>"
    ad = await playable(
        f"<Creative>{ids.format('a', 1)}<CompanionAds/></Creative>"
        f"<Creative>{ids.format('ad-id.org', 8465)}{ids.format('foo', 9)}<Linear/></Creative>"
    )
    assert [(found.registry, found.value) for found in ad.universal_ad_ids] == [
        ("ad-id.org", "8465"),
        ("foo", "9"),
    ]


async def test_what_a_wrapper_brings_is_resolved_against_the_wrapper_s_document() -> None:
    """Companions and measurement code, their clicks and their tracking; markup is left alone."""
    companion = (
        "<Creatives><Creative><CompanionAds><Companion><StaticResource>/p.png</StaticResource>"
        "<HTMLResource>/b</HTMLResource><CompanionClickThrough>/go</CompanionClickThrough></Companion></CompanionAds>"
        "</Creative></Creatives>"
    )
    code = (
        "<AdVerifications><Verification vendor='v'><JavaScriptResource>/o.js</JavaScriptResource><TrackingEvents>"
        "<Tracking event='verificationNotExecuted'>/not?[REASON]</Tracking></TrackingEvents></Verification>"
        "</AdVerifications>"
    )
    ad = await playable("<Creative><Linear/></Creative>", of_wrapper=companion + code)
    assert [found.value for found in ad.companions[0].resources] == ["http://outer.example/p.png", "/b"]
    assert ad.companions[0].click_through == "http://outer.example/go"
    assert ad.verifications[0].resources[0].value == "http://outer.example/o.js"
    assert ad.verifications[0].tracking[0].uri == "http://outer.example/not?[REASON]"
