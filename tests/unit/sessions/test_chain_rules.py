"""Every rule about VAST chains, each with the smallest documents that show it (VAST 4.3 §2.3.5, §3.3, §3.19)."""

from __future__ import annotations

import asyncio

import pytest
from chains import A, fired, ids, resolve
from vast_documents import Reply, TableTransport, inline, vast, wrapper

from adgovernor.sessions.errors import FetchTimeoutError, UnreachableError
from adgovernor.sessions.fetch import Fetcher
from adgovernor.sessions.resolver import ChainLimits, ChainResolver, report
from adgovernor.sessions.transport import HttpResponse
from adgovernor.video import VastError


async def test_an_inline_is_its_own_chain() -> None:
    """A document with an InLine is one request, one ad, no errors."""
    found = await resolve({"a.xml": vast(inline("1"))})
    assert (found.requested, ids(found), fired(found)) == ((A,), (["1"], ["1"]), [])


async def test_a_wrapper_adds_its_tracking_and_a_hop() -> None:
    """Impressions and Errors of the Wrapper join those of the InLine."""
    found = await resolve({"a.xml": vast(wrapper("w", "b.xml")), "b.xml": vast(inline("1"))})
    (ad,) = found.ads
    assert len(ad.hops) == 1
    assert [uri.uri for uri in ad.impressions] == ["http://i/1", "http://i/w"]
    assert [uri.uri for uri in ad.errors] == ["http://e/1?[ERRORCODE]", "http://e/w?[ERRORCODE]"]


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("b.xml", "http://ads.example/x/b.xml"),
        ("/b.xml", "http://ads.example/b.xml"),
        ("../b.xml?q=1", "http://ads.example/b.xml?q=1"),
        ("//cdn.example/b.xml", "http://cdn.example/b.xml"),
        ("?v=2", "http://ads.example/x/a.xml?v=2"),
        ("\n  https://other.example/b \n", "https://other.example/b"),
    ],
)
async def test_a_tag_address_is_resolved_against_its_document(written: str, asked: str) -> None:
    """VASTAdTagURI is trimmed and resolved by RFC 3986 against the address of the document that holds it."""
    entry = "http://ads.example/x/a.xml"
    found = await resolve({entry: vast(wrapper("w", written)), asked: vast(inline("1"))}, entry)
    assert found.requested == (entry, asked)
    assert ids(found)[0] == ["1"]


async def test_a_redirect_moves_the_base_of_relative_addresses() -> None:
    """After a redirect the answering address is the base; the address asked for is what is reported."""
    moved = HttpResponse(302, (("Location", "http://cdn.example/deep/a.xml"),))
    found = await resolve(
        {
            "a.xml": moved,
            "http://cdn.example/deep/a.xml": vast(wrapper("w", "b.xml")),
            "http://cdn.example/deep/b.xml": vast(inline("1")),
        }
    )
    assert found.requested == (A, "http://cdn.example/deep/b.xml")
    assert ids(found)[0] == ["1"]


async def test_vastadtagurl_and_its_url_element_are_read() -> None:
    """The spelling of VAST 1 and 2, with the address in a URL element, is followed."""
    old = "<Ad><Wrapper><VASTAdTagURL><URL><![CDATA[b.xml]]></URL></VASTAdTagURL></Wrapper></Ad>"
    found = await resolve({"a.xml": vast(old, version="2.0"), "b.xml": vast(inline("1"))})
    assert ids(found)[0] == ["1"]


async def test_five_wrappers_are_followed() -> None:
    """Five follow-ups, six documents, are within the limit."""
    chain: dict[str, Reply] = {f"{n}.xml": vast(wrapper(f"w{n}", f"{n + 1}.xml")) for n in range(5)}
    found = await resolve({**chain, "5.xml": vast(inline("1"))}, "http://ads.example/0.xml")
    assert len(found.requested) == 6
    assert len(found.ads[0].hops) == 5


async def test_a_loop_ends_at_the_limit_and_not_sooner() -> None:
    """A document that wraps itself is asked six times, then all six Wrappers hear 302."""
    found = await resolve({"a.xml": vast(wrapper("w", "a.xml"))})
    assert found.requested == (A,) * 6
    assert fired(found) == [(302, ["http://e/w?302"] * 6)]


async def test_the_wrapper_limit_is_configurable() -> None:
    """With no follow-up allowed the first Wrapper is one too many."""
    found = await resolve(
        {"a.xml": vast(wrapper("w", "b.xml")), "b.xml": vast(inline("1"))}, limits=ChainLimits(max_wrappers=0)
    )
    assert (found.requested, fired(found)) == ((A,), [(302, ["http://e/w?302"])])


async def test_documents_of_one_tag_are_bounded() -> None:
    """A document that fans out further than allowed has the rest refused with 302."""
    many = vast(*(wrapper(f"w{n}", f"{n}.xml") for n in range(5)))
    replies: dict[str, Reply] = {"a.xml": many, **{f"{n}.xml": vast(inline(str(n))) for n in range(5)}}
    found = await resolve(replies, limits=ChainLimits(max_documents=3))
    assert len(found.requested) == 3
    assert [code for code, _ in fired(found)] == [302, 302, 302]


async def test_what_a_few_large_documents_multiply_to_is_bounded() -> None:
    """Many ads below a Wrapper that holds much are refused as a whole, with 900, before anything is repeated."""
    outer = wrapper("w", "b.xml", 'allowMultipleAds="true"', extra="<Error>http://e/x</Error>" * 1_000)
    replies: dict[str, Reply] = {"a.xml": vast(outer), "b.xml": vast(*(inline(str(n)) for n in range(50)))}
    found = await resolve(replies, limits=ChainLimits(max_xml_bytes=1_000_000))
    assert (ids(found), [code for code, _ in fired(found)]) == (([], []), [900])
    found = await resolve(replies, limits=ChainLimits(max_xml_bytes=2_000_000))
    assert len(found.play) == 50


async def test_many_failures_below_many_errors_take_one_pass() -> None:
    """Each Error element hears the first failure alone, however many follow."""
    outer = wrapper("w", "b.xml", 'allowMultipleAds="true"', extra="<Error>x</Error>" * 20_000)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    found = await resolve(
        {"a.xml": vast(outer), "b.xml": vast("<Ad/>" * 2_000)}, limits=ChainLimits(max_xml_bytes=10**9)
    )
    assert [len(error.uris) for error in found.errors] == [20_001] + [0] * 1_999
    assert loop.time() - began_s < 10


async def test_by_default_only_the_first_stand_alone_ad_is_taken() -> None:
    """allowMultipleAds is false unless said: the first ad without sequence, whatever stands before it."""
    answer = vast(inline("pod", 1), inline("first"), inline("second"))
    found = await resolve({"a.xml": vast(wrapper("w", "b.xml")), "b.xml": answer})
    assert ids(found) == (["first"], ["first"])


async def test_a_pod_alone_is_no_ad_for_a_single_ad_wrapper() -> None:
    """Where all ads are sequenced and multiple ads are not allowed, there is no ad: 303."""
    found = await resolve(
        {"a.xml": vast(wrapper("w", "b.xml")), "b.xml": vast(inline("1", 1), inline("2", 2))}
    )
    assert (ids(found), fired(found)) == (([], []), [(303, ["http://e/w?303"])])


@pytest.mark.parametrize("value", ["true", "True", "TRUE", "1", " true "])
async def test_multiple_ads_are_taken_when_allowed_in_any_spelling(value: str) -> None:
    """Booleans are read in any case, and as 1."""
    outer = vast(wrapper("w", "b.xml", f'allowMultipleAds="{value}"'))
    found = await resolve({"a.xml": outer, "b.xml": vast(inline("2", 2), inline("1", 1), inline("spare"))})
    assert ids(found) == (["2", "1", "spare"], ["1", "2"])


@pytest.mark.parametrize("version", ["2.0", "2.0.1"])
async def test_a_vast_2_wrapper_takes_every_ad(version: str) -> None:
    """allowMultipleAds came with VAST 3; a VAST 2 Wrapper accepts all ads of its response."""
    outer = vast(wrapper("w", "b.xml", 'allowMultipleAds="false"'), version=version)
    found = await resolve({"a.xml": outer, "b.xml": vast(inline("1"), inline("2"))})
    assert ids(found) == (["1", "2"], ["1", "2"])


async def test_followadditionalwrappers_false_ignores_wrappers() -> None:
    """A Wrapper that allows no further Wrappers gets no ad from one: 303 to itself alone."""
    outer = vast(wrapper("w", "b.xml", 'followAdditionalWrappers="false"'))
    found = await resolve({"a.xml": outer, "b.xml": vast(wrapper("w2", "c.xml")), "c.xml": vast(inline("1"))})
    assert found.requested == (A, "http://ads.example/b.xml")
    assert fired(found) == [(303, ["http://e/w?303"])]


async def test_followadditionalwrappers_false_keeps_the_inlines() -> None:
    """Ignored Wrappers do not hide the InLine ads beside them."""
    outer = vast(wrapper("w", "b.xml", 'followAdditionalWrappers="0"'))
    found = await resolve({"a.xml": outer, "b.xml": vast(wrapper("w2", "c.xml"), inline("1"))})
    assert (ids(found), fired(found)) == ((["1"], ["1"]), [])


async def test_a_pod_plays_by_sequence_and_spares_wait() -> None:
    """Sequenced ads play in numerical order; the stand-alone ad beside them does not play."""
    found = await resolve(
        {"a.xml": vast(inline("ten", 10), inline("two", 2), inline("spare"), inline("one", 1))}
    )
    assert ids(found) == (["ten", "two", "spare", "one"], ["one", "two", "ten"])


async def test_stand_alone_ads_play_in_document_order() -> None:
    """Without a pod every ad plays, first to last."""
    found = await resolve({"a.xml": vast(inline("b"), inline("a"))})
    assert ids(found)[1] == ["b", "a"]


async def test_a_sequenced_wrapper_passes_on_its_sequence() -> None:
    """A Wrapper in a pod that yields one ad gives it the Wrapper's place."""
    found = await resolve(
        {
            "a.xml": vast(inline("first", 1), wrapper("w", "b.xml", sequence=2), inline("third", 3)),
            "b.xml": vast(inline("wrapped")),
        }
    )
    assert ids(found)[1] == ["first", "wrapped", "third"]
    assert [ad.sequence for ad in found.play] == [1, 2, 3]


async def test_a_stand_alone_wrapper_leaves_the_sequence_of_its_ad() -> None:
    """A Wrapper without a sequence has none to pass on: a pod of one ad below it stays a pod of one."""
    outer = vast(wrapper("w", "b.xml", 'allowMultipleAds="true"'))
    found = await resolve({"a.xml": outer, "b.xml": vast(inline("1", 1))})
    assert [ad.sequence for ad in found.play] == [1]


async def test_a_sequenced_wrapper_with_several_ads_keeps_their_sequences() -> None:
    """A pod within a pod plays in the Wrapper's place, in its own order."""
    found = await resolve(
        {
            "a.xml": vast(wrapper("w", "b.xml", 'allowMultipleAds="true"', 2), inline("first", 1)),
            "b.xml": vast(inline("y", 2), inline("x", 1)),
        }
    )
    assert ids(found)[1] == ["first", "x", "y"]
    assert [ad.sequence for ad in found.play] == [1, 1, 2]


async def test_a_pod_under_a_stand_alone_wrapper_stays_a_spare() -> None:
    """An inner pod does not take part in the outer document's pod."""
    found = await resolve(
        {
            "a.xml": vast(wrapper("w", "b.xml", 'allowMultipleAds="true"'), inline("outer", 1)),
            "b.xml": vast(inline("inner", 1)),
        }
    )
    assert ids(found) == (["inner", "outer"], ["outer"])


async def test_wrapper_tracking_is_repeated_for_each_ad_of_a_pod() -> None:
    """The Wrapper's impression belongs to every ad of the pod below it (§3.3.1)."""
    outer = vast(wrapper("w", "b.xml", 'allowMultipleAds="true"'))
    found = await resolve({"a.xml": outer, "b.xml": vast(inline("1", 1), inline("2", 2))})
    assert [[uri.uri for uri in ad.impressions] for ad in found.play] == [
        ["http://i/1", "http://i/w"],
        ["http://i/2", "http://i/w"],
    ]


@pytest.mark.parametrize(
    ("fallback", "plays"),
    [
        ('fallbackOnNoAd="true"', ["spare", "second"]),
        ('fallbackOnNoAd="1"', ["spare", "second"]),
        ('fallbackOnNoAd="false"', ["second"]),
        ("", ["second"]),
    ],
)
async def test_a_wrapper_without_ad_takes_a_spare_only_with_fallback(fallback: str, plays: list[str]) -> None:
    """A pod place whose Wrapper yields none is filled by the first spare with fallbackOnNoAd, else left out."""
    outer = vast(wrapper("w", "b.xml", fallback, 1), inline("spare"), inline("second", 2), inline("other"))
    found = await resolve({"a.xml": outer, "b.xml": vast()})
    assert ids(found)[1] == plays
    assert fired(found) == [(303, ["http://e/w?303"])]


async def test_each_spare_is_used_once() -> None:
    """Two empty places take two spares, in document order."""
    outer = vast(
        wrapper("w2", "b.xml", 'fallbackOnNoAd="true"', 2),
        wrapper("w1", "b.xml", 'fallbackOnNoAd="true"', 1),
        wrapper("w3", "b.xml", 'fallbackOnNoAd="true"', 3),
        inline("s1"),
        inline("s2"),
    )
    found = await resolve({"a.xml": outer, "b.xml": vast()})
    assert ids(found)[1] == ["s1", "s2"]


async def test_a_spare_may_be_behind_a_wrapper() -> None:
    """A stand-alone Wrapper's ad is a spare like any other."""
    outer = vast(wrapper("w1", "none.xml", 'fallbackOnNoAd="true"', 1), wrapper("s", "b.xml"))
    found = await resolve({"a.xml": outer, "none.xml": vast(), "b.xml": vast(inline("wrapped"))})
    assert ids(found)[1] == ["wrapped"]


async def test_an_unplayable_inline_of_a_pod_is_replaced_by_a_spare() -> None:
    """§3.3.1: an ad of the pod that fails is substituted by an unplayed stand-alone ad."""
    found = await resolve({"a.xml": vast(inline("bad", 1, creatives=""), inline("good", 2), inline("spare"))})
    assert ids(found)[1] == ["spare", "good"]
    assert fired(found) == [(101, ["http://e/bad?101"])]


async def test_no_ad_at_the_root_tells_the_root_errors() -> None:
    """A first document without ads fires its root Errors with 303."""
    found = await resolve({"a.xml": vast(errors=("http://r/1?[ERRORCODE]", "http://r/2"))})
    assert fired(found) == [(303, ["http://r/1?303", "http://r/2"])]


async def test_no_ad_below_wrappers_tells_wrappers_and_root() -> None:
    """303 goes to every Wrapper above, outermost first, and to the empty document's root Errors."""
    found = await resolve(
        {
            "a.xml": vast(wrapper("w1", "b.xml")),
            "b.xml": vast(wrapper("w2", "c.xml")),
            "c.xml": vast(errors=("http://r",)),
        }
    )
    assert fired(found) == [(303, ["http://e/w1?303", "http://e/w2?303", "http://r"])]


async def test_root_errors_of_a_document_with_ads_are_not_fired() -> None:
    """Root Errors report a response without ads, not a failed ad."""
    outer = vast(wrapper("w", "gone.xml"), errors=("http://r",))
    assert fired(await resolve({"a.xml": outer})) == [(301, ["http://e/w?301"])]


async def test_204_is_no_ad() -> None:
    """An answer without content is how servers say that they have no ad."""
    found = await resolve({"a.xml": vast(wrapper("w", "b.xml")), "b.xml": 204})
    assert fired(found) == [(303, ["http://e/w?303"])]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (404, 301),
        (500, 301),
        (FetchTimeoutError("late"), 301),
        (UnreachableError("gone"), 301),
        (b"{ vast: null }", 100),
        (b"", 100),
        (b"<!DOCTYPE VAST><VAST/>", 100),
        (b"<html/>", 101),
        (vast(inline("1"), version="1.0"), 102),
        (vast(inline("1"), version="5.0"), 102),
        (b"<VideoAdServingTemplate/>", 102),
        (vast('<Ad id="x"/>'), 101),
    ],
)
async def test_a_bad_answer_is_told_to_every_wrapper(reply: Reply, code: int) -> None:
    """Whatever is wrong with the answer, each Wrapper of the chain hears the code once."""
    found = await resolve(
        {"a.xml": vast(wrapper("w1", "b.xml")), "b.xml": vast(wrapper("w2", "c.xml")), "c.xml": reply}
    )
    assert fired(found) == [(code, [f"http://e/w1?{code}", f"http://e/w2?{code}"])]
    assert found.requested[2:] == ("http://ads.example/c.xml",)


async def test_an_unreachable_first_document_has_nobody_to_tell() -> None:
    """The entry that cannot be fetched is an error with no address to call."""
    found = await resolve({})
    assert (found.requested, fired(found)) == ((A,), [(301, [])])
    assert found.cause is not None


async def test_an_inline_without_creatives_tells_its_own_error_too() -> None:
    """101 for an InLine without creatives goes to the Wrappers and to the InLine's own Error."""
    found = await resolve({"a.xml": vast(wrapper("w", "b.xml")), "b.xml": vast(inline("1", creatives=""))})
    assert (ids(found), fired(found)) == (([], []), [(101, ["http://e/w?101", "http://e/1?101"])])


async def test_a_wrapper_without_address_is_a_wrong_structure() -> None:
    """A Wrapper with nothing to follow is told 101."""
    assert fired(await resolve({"a.xml": vast(wrapper("w", None))})) == [(101, ["http://e/w?101"])]


@pytest.mark.parametrize(
    "uri", ["file:///etc/passwd", "ftp://h/x", "javascript:1", "data:text/xml,x", "http:///x"]
)
async def test_an_address_that_may_not_be_asked_is_unavailable(uri: str) -> None:
    """Only http and https with a host are requested; everything else is 301."""
    assert fired(await resolve({"a.xml": vast(wrapper("w", uri))})) == [(301, ["http://e/w?301"])]


async def test_each_error_element_is_called_once() -> None:
    """Two failures below one Wrapper call the Wrapper's Error for the first only."""
    outer = vast(wrapper("w", "b.xml", 'allowMultipleAds="true"'))
    answer = vast(inline("1", 1, creatives=""), inline("2", 2, creatives=""))
    assert fired(await resolve({"a.xml": outer, "b.xml": answer})) == [
        (101, ["http://e/w?101", "http://e/1?101"]),
        (101, ["http://e/2?101"]),
    ]


async def test_the_same_address_in_two_elements_is_called_twice() -> None:
    """Once is per Error element, not per address."""
    error = "<Error>http://same</Error>"
    outer = f"<Ad><Wrapper><VASTAdTagURI>b.xml</VASTAdTagURI>{error}{error}</Wrapper></Ad>"
    assert fired(await resolve({"a.xml": vast(outer), "b.xml": vast()})) == [(303, ["http://same"] * 2)]


async def test_a_failed_ad_leaves_the_others_alone() -> None:
    """One dead Wrapper of a buffet does not take the other ads with it."""
    found = await resolve({"a.xml": vast(wrapper("w", "gone.xml"), inline("1"))})
    assert (ids(found), fired(found)) == ((["1"], ["1"]), [(301, ["http://e/w?301"])])


async def test_about_blank_and_empty_addresses_are_not_called() -> None:
    """Empty Errors and about:blank are placeholders (§3.4.4)."""
    outer = (
        "<Ad><Wrapper><VASTAdTagURI>gone.xml</VASTAdTagURI><Error/><Error> about:blank </Error>"
        "<Error>http://e</Error><Impression>about:blank</Impression></Wrapper></Ad>"
    )
    assert fired(await resolve({"a.xml": vast(outer)})) == [(301, ["http://e"])]


async def test_the_outcome_is_in_document_order_whatever_is_fast() -> None:
    """Wrappers are followed at once; a slow first one does not change the order of anything."""
    replies: dict[str, Reply] = {
        "a.xml": vast(wrapper("w1", "slow.xml"), wrapper("w2", "fast.xml")),
        "slow.xml": vast(inline("slow")),
        "fast.xml": vast(inline("fast")),
    }
    found = await resolve(replies, delays_s={"http://ads.example/slow.xml": 0.05})
    assert ids(found) == (["slow", "fast"], ["slow", "fast"])
    assert [url.rsplit("/", 1)[1] for url in found.requested] == ["a.xml", "slow.xml", "fast.xml"]


async def test_the_total_deadline_ends_a_slow_chain() -> None:
    """When the time of the whole resolution is up, the hop in progress is unavailable."""
    replies: dict[str, Reply] = {"a.xml": vast(wrapper("w", "b.xml")), "b.xml": vast(inline("1"))}
    limits = ChainLimits(total_timeout_ms=50)
    began_s = asyncio.get_running_loop().time()
    found = await resolve(replies, limits=limits, delays_s={"http://ads.example/b.xml": 5})
    assert asyncio.get_running_loop().time() - began_s < 4
    assert fired(found) == [(301, ["http://e/w?301"])]


async def test_clickthrough_and_companions_nearest_the_inline_win() -> None:
    """ClickThrough and companions of the nearest Wrapper stand in where the InLine has none (§2.3.5.2)."""

    def extra(name: str) -> str:
        return (
            f"<Creatives><Creative><Linear><VideoClicks><ClickThrough>http://{name}</ClickThrough>"
            f"<ClickTracking>http://t/{name}</ClickTracking></VideoClicks></Linear></Creative><Creative><CompanionAds>"
            f'<Companion id="{name}"><StaticResource>http://r</StaticResource></Companion></CompanionAds></Creative>'
            "</Creatives>"
        )

    found = await resolve(
        {
            "a.xml": vast(wrapper("w1", "b.xml", extra=extra("far"))),
            "b.xml": vast(wrapper("w2", "c.xml", extra=extra("near"))),
            "c.xml": vast(inline("1")),
        }
    )
    (ad,) = found.ads
    assert ad.click_through is not None
    assert ad.click_through.uri == "http://near"
    assert [companion.value.id for companion in ad.companions] == ["near"]
    assert [uri.uri for uri in ad.click_tracking] == ["http://t/near", "http://t/far"]
    assert ad.inline_companions == ()


async def test_viewability_and_verification_gather_along_the_chain() -> None:
    """ViewableImpression and AdVerifications of InLine and Wrappers all count."""
    extra = (
        "<ViewableImpression><Viewable>http://v</Viewable><NotViewable>http://n</NotViewable></ViewableImpression>"
        '<AdVerifications><Verification vendor="v"/></AdVerifications>'
    )
    found = await resolve(
        {"a.xml": vast(wrapper("w", "b.xml", extra=extra)), "b.xml": vast(inline("1", extra=extra))}
    )
    (ad,) = found.ads
    assert (len(ad.viewable), len(ad.not_viewable), len(ad.view_undetermined)) == (2, 2, 0)
    assert [verification.value.vendor for verification in ad.verifications] == ["v", "v"]


async def test_a_player_s_error_is_told_along_the_chain() -> None:
    """A media error found later goes to every Error of the chain, outermost Wrapper first."""
    found = await resolve({"a.xml": vast(wrapper("w", "b.xml")), "b.xml": vast(inline("1"))})
    assert report(found.ads[0], VastError.MEDIA_NOT_FOUND).written_urls == (
        "http://e/w?401",
        "http://e/1?401",
    )


async def test_macros_are_filled_in_before_a_tag_is_asked() -> None:
    """Tag addresses take the request's macros, and BLOCKEDADCATEGORIES those of the Wrappers."""
    outer = wrapper(
        "w",
        "b.xml?cb=[CACHEBUSTING]&blocked=[BLOCKEDADCATEGORIES]&x=[foreign]&correlator=",
        extra="<BlockedAdCategories>IAB1-6,IAB7/8</BlockedAdCategories>",
    )
    transport = TableTransport({A: vast(outer)})
    resolver = ChainResolver(Fetcher(transport))
    await resolver.resolve(A, lambda: {"CACHEBUSTING": "12345678", "CORRELATOR": 42})
    expected = "b.xml?cb=12345678&blocked=IAB1-6,IAB7%2F8&x=[foreign]&correlator=42"
    assert transport.urls[1] == f"http://ads.example/{expected}"


async def test_a_url_is_asked_again_and_nothing_is_cached() -> None:
    """Two Wrappers to one address are two requests."""
    found = await resolve(
        {"a.xml": vast(wrapper("1", "b.xml"), wrapper("2", "b.xml")), "b.xml": vast(inline("x"))}
    )
    assert len(found.requested) == 3
    assert ids(found)[0] == ["x", "x"]


async def test_an_ad_with_countless_events_and_categories_is_read_in_one_pass() -> None:
    """Tens of thousands of distinct events and categories take moments, not minutes."""
    events = "".join(f'<Tracking event="progress" offset="{n}%">http://p</Tracking>' for n in range(15_000))
    creative = f"<Creative><Linear><TrackingEvents>{events}</TrackingEvents></Linear></Creative>"
    categories = "".join(f"<Category>c{n}</Category>" for n in range(15_000))
    blocked = ",".join(f"b{n}" for n in range(100_000))
    outer = wrapper("w", "b.xml", extra=f"<BlockedAdCategories>{blocked}</BlockedAdCategories>")
    answer = vast(inline("1", creatives=creative, extra=categories))
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    found = await resolve({"a.xml": vast(outer), "b.xml": answer})
    assert len(found.ads[0].tracking) == 15_000
    assert loop.time() - began_s < 10
