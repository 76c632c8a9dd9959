"""What is read from a VAST document, and what is refused."""

from __future__ import annotations

import gzip
import time

import pytest

from adgovernor.video import BrokenAd, InLine, VastDocument, VastFormatError, Wrapper, parse_vast
from adgovernor.video.model import Tracking


def inline_of(body: str, version: str = "4.2") -> InLine:
    """The only InLine of a document with *body* in it."""
    document = parse_vast(
        f'<VAST version="{version}"><Ad id="1"><InLine>{body}</InLine></Ad></VAST>'.encode()
    )
    (ad,) = document.ads
    assert isinstance(ad, InLine)
    return ad


def linear_of(body: str) -> object:
    """The linear creative with *body* in it."""
    ad = inline_of(f"<Creatives><Creative><Linear>{body}</Linear></Creative></Creatives>")
    return ad.creatives[0].linear


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 100),
        (b"not xml", 100),
        (b"<VAST>", 100),
        (b'<VAST version="4.0"><Ad></VAST>', 100),
        (b'\n<?xml version="1.0"?><VAST version="4.0"/>', 100),
        (b'<VAST version="4.0">&nbsp;</VAST>', 100),
        (b'<!DOCTYPE VAST><VAST version="4.0"/>', 100),
        (b'<?xml version="1.0"?><!-- x --><!doctype VAST SYSTEM "file:///etc/passwd"><VAST/>', 100),
        (b'<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><VAST>&b;</VAST>', 100),
        ('<!DOCTYPE VAST><VAST version="4.0"/>'.encode("utf-16"), 100),
        (b"<html><body/></html>", 101),
        (b"<vast version='4.0'/>", 101),
        (b'<VAST version="1.0"/>', 102),
        (b'<VAST version="5.0"/>', 102),
        (b'<VAST version="new"/>', 102),
        (b"<VideoAdServingTemplate/>", 102),
        (b"<VAST>" + b"<a>" * 300 + b"</a>" * 300 + b"</VAST>", 100),
    ],
)
def test_what_is_no_usable_vast_is_refused_with_its_code(data: bytes, code: int) -> None:
    """100 is not XML (any DOCTYPE included), 101 another root, 102 a version that is not 2 to 4."""
    with pytest.raises(VastFormatError) as refused:
        parse_vast(data)
    assert refused.value.code == code


def test_a_compressed_document_is_told_to_be_one() -> None:
    """A file that is still packed is called that, rather than XML that does not begin."""
    with pytest.raises(VastFormatError, match="it is compressed with gzip") as caught:
        parse_vast(gzip.compress(b'<VAST version="4.0"/>', mtime=0))
    assert caught.value.code == 100


@pytest.mark.parametrize("version", ["2.0", "2.0.1", "3.0", "3.0+", "4", "4.0", "4.1", "4.2", "4.3"])
def test_versions_2_to_4_are_read(version: str) -> None:
    """Every published version from 2.0 to 4.3 is accepted, as servers write it."""
    assert parse_vast(f'<VAST version="{version}"/>'.encode()).version == version


def test_a_missing_version_is_accepted() -> None:
    """Many real responses forget the version."""
    assert parse_vast(b"<VAST/>") == VastDocument(None, 4, ())


@pytest.mark.parametrize(
    "opening",
    [
        '<VAST xmlns="http://www.iab.com/VAST" version="4.2">',
        '<VAST xmlns="http://www.iab.net/VAST" version="3.0">',
        '<VAST xmlns="http://someone.example/own" version="3.0">',
        '<VAST version="2.0">',
    ],
)
def test_names_match_with_and_without_a_namespace(opening: str) -> None:
    """The IAB's namespaces, none, and the document's own all name the same elements."""
    data = f"{opening}<Ad id='1'><InLine><Impression>http://i</Impression></InLine></Ad></VAST>"
    (ad,) = parse_vast(data.encode()).ads
    assert [impression.uri for impression in ad.impressions] == ["http://i"]


def test_prefixed_elements_are_matched() -> None:
    """A prefix bound to the IAB namespace changes nothing."""
    data = (
        b'<v:VAST xmlns:v="http://www.iab.com/VAST" version="4.1"><v:Ad id="1"><v:Wrapper/></v:Ad></v:VAST>'
    )
    assert [type(ad) for ad in parse_vast(data).ads] == [Wrapper]


def test_elements_of_other_vocabularies_are_not_vast() -> None:
    """An Error of a foreign namespace is somebody else's."""
    ad = inline_of('<x:Error xmlns:x="http://x.example/">http://not</x:Error><Error>http://e</Error>')
    assert ad.errors == ("http://e",)


def test_an_undeclared_prefix_is_accepted_with_a_warning() -> None:
    """A prefix that nobody declared is the one fault of form that is forgiven."""
    data = b'<VAST version="3.0" xsi:schemaLocation="vast.xsd"><Ad id="1"><InLine/></Ad></VAST>'
    document = parse_vast(data)
    assert (len(document.ads), document.warnings) == (1, ("undeclared namespace prefix 'xsi'",))


def test_an_undeclared_prefix_excuses_nothing_else() -> None:
    """A document that is also broken in another way is not XML."""
    with pytest.raises(VastFormatError) as refused:
        parse_vast(b'<VAST version="3.0" xsi:x="y"><Ad></VAST>')
    assert refused.value.code == 100


def test_countless_undeclared_prefixes_are_refused() -> None:
    """Past the parser's log nobody can tell whether prefixes are the only fault."""
    with pytest.raises(VastFormatError):
        parse_vast(b"<VAST>" + b"<a:b/>" * 200 + b"</VAST>")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "iso-8859-1"])
def test_encodings_are_read_by_mark_declaration_or_transport(codec: str) -> None:
    """Byte-order marks, unmarked UTF-16 and the transport's charset all find the text."""
    data = '<VAST version="4.0"><Ad id="é"><InLine/></Ad></VAST>'.encode(codec)
    charset = "iso-8859-1" if codec == "iso-8859-1" else None
    assert parse_vast(data, charset).ads[0].id == "é"


def test_the_document_s_own_encoding_beats_the_transport_s() -> None:
    """An encoding in the XML declaration is believed over the Content-Type."""
    data = '<?xml version="1.0" encoding="UTF-8"?><VAST version="4.0"><Ad id="é"/></VAST>'.encode()
    assert parse_vast(data, "iso-8859-1").ads[0].id == "é"


def test_an_unknown_charset_is_no_reason_to_refuse() -> None:
    """A charset that nobody knows is ignored."""
    assert parse_vast(b'<VAST version="4.0"/>', "x-nobody").version == "4.0"


def test_a_charset_in_which_the_bytes_are_no_xml_is_ignored() -> None:
    """A Content-Type that names UTF-16 for a plain document is mistaken, and the document is read."""
    assert parse_vast(b'<VAST version="4.0"/>', "utf-16").version == "4.0"


@pytest.mark.parametrize("label", ["utf-16", "UTF-16LE", "ISO-10646-UCS-2"])
def test_bytes_that_say_of_themselves_that_they_are_wide_are_read(label: str) -> None:
    """A document of UTF-8 whose declaration names an encoding of 16 bits, as some servers' text writers put there, is
    read for what it is."""
    document = f'<?xml version="1.0" encoding="{label}"?><VAST version="4.0"><Error>http://e/é</Error></VAST>'
    for charset in (None, "utf-8", "utf-16"):
        assert parse_vast(document.encode(), charset).errors == ("http://e/é",)


def test_a_refusal_says_where_and_names_no_parser_input() -> None:
    """What is not well-formed is refused with line and column, in words for the sender."""
    with pytest.raises(VastFormatError, match=r"line 1, column [0-9]+\Z"):
        parse_vast(b'<VAST version="4.0"><Ad></VAST>')


def test_a_refusal_names_the_fault_that_is_not_excused() -> None:
    """Beside an undeclared prefix, which would be accepted, the real fault is named."""
    with pytest.raises(VastFormatError, match="mismatch: Ad"):
        parse_vast(b'<VAST version="4.0" xsi:schemaLocation="vast.xsd"><Ad></VAST>')


@pytest.mark.parametrize(
    "written",
    [
        " http://i?a=1&amp;b=2 ",
        "\n<![CDATA[http://i?a=1&b=2]]>\n",
        "<![CDATA[ http://i?a=1]]><![CDATA[&b=2 ]]>",
        "http://i<!-- why not -->?a=1&#38;b=2",
    ],
)
def test_addresses_are_trimmed_and_cdata_joined(written: str) -> None:
    """CDATA, entities, comments and blanks around an address all give the same address."""
    assert inline_of(f"<Error>{written}</Error>").errors == ("http://i?a=1&b=2",)


@pytest.mark.parametrize("written", ["", "  ", "<![CDATA[]]>", "about:blank", " ABOUT:BLANK "])
def test_empty_and_placeholder_addresses_are_no_addresses(written: str) -> None:
    """Empty elements and about:blank are not to be called (§3.4.4)."""
    ad = inline_of(f"<Impression>{written}</Impression><Error>{written}</Error>")
    assert (ad.impressions, ad.errors) == ((), ())


@pytest.mark.parametrize(
    ("written", "duration_ms"),
    [
        ("00:00:30", 30_000),
        ("00:00:22.342", 22_342),
        ("00:00:30.0", 30_000),
        ("01:01:01.5", 3_661_500),
        (" 00:00:05 ", 5_000),
        ("00:00:00", 0),
        ("00:00:75", 75_000),
        ("30", None),
        ("00:30", None),
        ("undefined", None),
        ("-00:00:05", None),
        ("00:00:05:00", None),
        ("", None),
    ],
)
def test_an_unreadable_duration_is_unknown_and_the_ad_kept(written: str, duration_ms: int | None) -> None:
    """HH:MM:SS with or without a fraction is read; anything else is None."""
    linear = linear_of(f"<Duration>{written}</Duration>")
    assert linear.duration_ms == duration_ms  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "read"), [("true", True), ("TRUE", True), ("1", True), ("False", False), ("0", False)]
)
def test_booleans_are_read_in_any_case(value: str, read: bool) -> None:
    """true, false, 1 and 0, whatever their case."""
    data = (
        f'<VAST version="4.0"><Ad><Wrapper fallbackOnNoAd="{value}" allowMultipleAds="{value}"/></Ad></VAST>'
    )
    (ad,) = parse_vast(data.encode()).ads
    assert isinstance(ad, Wrapper)
    assert (ad.fallback_on_no_ad, ad.allow_multiple_ads) == (read, read)


def test_a_wrapper_s_defaults_are_the_standard_s() -> None:
    """followAdditionalWrappers true, allowMultipleAds false, fallbackOnNoAd unsaid; nonsense counts as unsaid."""
    for attributes in ("", 'followAdditionalWrappers="yes" allowMultipleAds="" fallbackOnNoAd="maybe"'):
        (ad,) = parse_vast(f'<VAST version="4.0"><Ad><Wrapper {attributes}/></Ad></VAST>'.encode()).ads
        assert isinstance(ad, Wrapper)
        assert ad.follow_additional_wrappers
        assert not ad.allow_multiple_ads
        assert ad.fallback_on_no_ad is None


@pytest.mark.parametrize(
    ("written", "read"), [("2", 2), ("0", None), ("-1", None), ("x", None), ("", None), ("1.5", None)]
)
def test_a_sequence_is_a_positive_integer_or_none(written: str, read: int | None) -> None:
    """Only a number above zero makes an ad part of a pod (§3.3.2)."""
    (ad,) = parse_vast(f'<VAST version="4.0"><Ad sequence="{written}"><InLine/></Ad></VAST>'.encode()).ads
    assert ad.sequence == read


def test_an_ad_with_neither_inline_nor_wrapper_is_kept_as_broken() -> None:
    """The caller has to report it."""
    assert parse_vast(b'<VAST version="4.0"><Ad id="x"><Foo/></Ad></VAST>').ads == (BrokenAd(id="x"),)


def test_progress_events_are_told_apart_by_offset() -> None:
    """The key of a progress event carries its offset as written; other events ignore one."""
    tracking = (
        '<TrackingEvents><Tracking event="start" offset="00:00:01">http://s</Tracking>'
        '<Tracking event="progress" offset=" 60% ">http://p</Tracking><Tracking event="progress">http://q</Tracking>'
        "<Tracking>http://none</Tracking><Tracking event='mute'> </Tracking></TrackingEvents>"
    )
    linear = linear_of(tracking)
    found: tuple[Tracking, ...] = linear.tracking  # type: ignore[attr-defined]
    assert [tracking.key for tracking in found] == ["start", "progress@60%", "progress"]


def test_the_creatives_of_a_full_ad_are_read() -> None:
    """Linear, overlay and companion parts each land in their place."""
    ad = inline_of(
        """<AdServingId>srv-1</AdServingId><Category authority="a">c1</Category><Pricing model="cpm" currency="USD">
        1.5</Pricing><Expires>60</Expires><Extensions><Extension type="x"><Deep a="1">t</Deep></Extension></Extensions>
        <Creatives><Creative id="c" AdID="legacy" sequence="1"><UniversalAdId idRegistry="r">u</UniversalAdId>
        <Linear skipoffset="00:00:05"><MediaFiles>
        <MediaFile type="video/mp4" width="640" height="360" bitrate="500" delivery="progressive">http://m</MediaFile>
        <MediaFile> </MediaFile><Mezzanine type="video/mov">http://z</Mezzanine>
        <InteractiveCreativeFile apiFramework="SIMID">http://s</InteractiveCreativeFile>
        <ClosedCaptionFiles><ClosedCaptionFile language="en">http://cc</ClosedCaptionFile></ClosedCaptionFiles>
        </MediaFiles><Icons><Icon program="AdChoices"><StaticResource>http://icon</StaticResource><IconClicks>
        <IconClickThrough>http://ic</IconClickThrough></IconClicks></Icon></Icons></Linear></Creative>
        <Creative><NonLinearAds><NonLinear width="300" height="50" minSuggestedDuration="00:00:15"><HTMLResource>
        <![CDATA[<b>x</b>]]></HTMLResource></NonLinear><TrackingEvents><Tracking event="start">http://ns</Tracking>
        </TrackingEvents></NonLinearAds></Creative>
        <Creative><CompanionAds required="all"><Companion width="300" height="250"><StaticResource creativeType="i/p">
        http://co</StaticResource><AltText>alt</AltText></Companion></CompanionAds></Creative></Creatives>"""
    )
    linear = ad.creatives[0].linear
    assert linear is not None
    assert [media.uri for media in linear.media_files] == ["http://m"]
    assert (linear.mezzanines[0].uri, linear.interactive_files[0].api_framework) == ("http://z", "SIMID")
    assert (linear.closed_captions[0].language, linear.icons[0].click_through) == ("en", "http://ic")
    assert (ad.creatives[0].ad_id, ad.creatives[0].universal_ad_ids[0].value) == ("legacy", "u")
    overlay = ad.creatives[1].nonlinears[0]
    assert (overlay.resources[0].value, overlay.min_suggested_duration_ms) == ("<b>x</b>", 15_000)
    assert ad.creatives[1].nonlinear_tracking[0].uri == "http://ns"
    assert ad.creatives[2].companions[0].alt_text == "alt"
    assert (ad.ad_serving_id, ad.expires_s, ad.categories[0].authority) == ("srv-1", 60, "a")
    assert ad.pricing is not None
    assert (ad.pricing.value, ad.pricing.currency) == ("1.5", "USD")
    assert ad.extensions[0].xml == '<Extension type="x"><Deep a="1">t</Deep></Extension>'


def test_a_universal_id_is_the_content_or_else_the_value_of_vast_4_0() -> None:
    """What neither says is "unknown", as the standard has it for creatives without such an id."""
    ad = inline_of(
        """<Creatives><Creative><UniversalAdId idRegistry="r" idValue="old">new</UniversalAdId>
        <UniversalAdId idRegistry="r" idValue="old"/><UniversalAdId/></Creative></Creatives>"""
    )
    found = [(identity.registry, identity.value) for identity in ad.creatives[0].universal_ad_ids]
    assert found == [("r", "new"), ("r", "old"), ("unknown", "unknown")]


def test_verification_in_an_extension_counts() -> None:
    """VAST 2 and 3 carry AdVerifications in an extension of that type."""
    ad = inline_of(
        '<Extensions><Extension type="AdVerifications"><AdVerifications><Verification vendor="v">'
        '<JavaScriptResource apiFramework="omid">http://js</JavaScriptResource></Verification></AdVerifications>'
        "</Extension></Extensions>",
        version="3.0",
    )
    assert [(found.vendor, found.resources[0].value) for found in ad.verifications] == [("v", "http://js")]


def test_a_vast_1_impression_with_several_urls_is_several_impressions() -> None:
    """Each URL element is an address of its own."""
    ad = inline_of("<Impression><URL>http://1</URL><URL>http://2</URL></Impression>", version="2.0")
    assert [impression.uri for impression in ad.impressions] == ["http://1", "http://2"]


def test_a_container_that_stands_twice_is_read_twice() -> None:
    """Servers that splice documents repeat containers; what is in the second one counts as well."""
    ad = inline_of(
        "<Creatives><Creative><Linear><MediaFiles><MediaFile>http://1</MediaFile></MediaFiles>"
        "<MediaFiles><MediaFile>http://2</MediaFile></MediaFiles></Linear></Creative></Creatives>"
        "<Creatives><Creative><CompanionAds><Companion/></CompanionAds><CompanionAds><Companion/></CompanionAds>"
        "<NonLinearAds><NonLinear/></NonLinearAds><NonLinearAds><NonLinear/></NonLinearAds></Creative></Creatives>"
    )
    assert ad.creatives[0].linear is not None
    assert [file.uri for file in ad.creatives[0].linear.media_files] == ["http://1", "http://2"]
    assert (len(ad.creatives[1].companions), len(ad.creatives[1].nonlinears)) == (2, 2)


@pytest.mark.parametrize(("slot", "skip"), [("adSlotId", "skipoffset"), ("adSlotID", "skipOffset")])
def test_attributes_that_are_spelt_in_two_ways_are_read_in_both(slot: str, skip: str) -> None:
    """VAST 3 wrote adSlotID, VAST 4 writes adSlotId, and servers write skipoffset as they like."""
    ad = inline_of(
        f'<Creatives><Creative><Linear {skip}="20%"/></Creative>'
        f'<Creative><CompanionAds><Companion {slot}="top"/></CompanionAds></Creative></Creatives>'
    )
    assert ad.creatives[0].linear is not None
    assert (ad.creatives[0].linear.skip_offset, ad.creatives[1].companions[0].ad_slot_id) == ("20%", "top")


def test_countless_namespaces_around_countless_ads_take_moments() -> None:
    """What a document declares is not written again for each ad and extension in it."""
    declared = " ".join(f'xmlns:n{number}="http://n{number}.example/"' for number in range(10_000))
    extension = '<Extension type="x"><n7:Deep n8:a="1"/></Extension>'
    ad = f"<Ad><InLine><Extensions>{extension * 10}</Extensions></InLine></Ad>"
    began_s = time.monotonic()
    found = parse_vast(f'<VAST version="4.0" {declared}>{ad * 1_000}</VAST>'.encode()).ads
    assert time.monotonic() - began_s < 20
    used = " ".join(f'xmlns:n{number}="http://n{number}.example/"' for number in (7, 8))
    assert found[-1].extensions[-1].xml == f'<Extension {used} type="x"><n7:Deep n8:a="1"/></Extension>'
