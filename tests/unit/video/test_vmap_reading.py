"""What is read from a VMAP document, and what is refused (VMAP 1.0.1)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adgovernor.video import VmapFormatError, parse_vmap
from adgovernor.video.vmap import (
    AdBreak,
    AdTag,
    CustomData,
    EndOffset,
    Offset,
    PercentOffset,
    PositionOffset,
    StartOffset,
    TimeOffset,
    VastData,
    parse_offset,
)

OPEN = '<vmap:VMAP xmlns:vmap="http://www.iab.net/videosuite/vmap" version="1.0">'


def break_of(body: str = "", attributes: str = 'timeOffset="start" breakType="linear"') -> AdBreak:
    """The only break of a document with *body* in it."""
    data = f"{OPEN}<vmap:AdBreak {attributes}>{body}</vmap:AdBreak></vmap:VMAP>"
    (found,) = parse_vmap(data.encode()).breaks
    return found


def source_of(content: str, attributes: str = "") -> AdBreak:
    """A break whose source holds *content*."""
    return break_of(f"<vmap:AdSource {attributes}>{content}</vmap:AdSource>")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("start", StartOffset()),
        ("end", EndOffset()),
        ("00:10:23.125", TimeOffset(623_125)),
        ("00:00:10", TimeOffset(10_000)),
        ("25%", PercentOffset(25)),
        ("0%", PercentOffset(0)),
        ("100%", PercentOffset(100)),
        ("#1", PositionOffset(1)),
        ("101%", None),
        ("-5%", None),
        ("#0", None),
        ("#x", None),
        ("10", None),
        ("soon", None),
    ],
)
def test_time_offsets(written: str, read: Offset | None) -> None:
    """start, end, hh:mm:ss(.mmm), n% of 0 to 100 and #m from 1; nothing else."""
    assert parse_offset(written) == read


def test_an_unreadable_offset_is_a_schema_error_of_its_break() -> None:
    """The break keeps what could be read and says 1000; a missing offset as well."""
    for attributes in ('timeOffset="soon" breakType="linear" breakId="b"', 'breakType="linear" breakId="b"'):
        found = break_of(attributes=attributes)
        assert found.fault is not None
        assert (found.fault.code, found.offset, found.break_id) == (1000, None, "b")


def test_out_of_range_seconds_are_accepted_with_a_warning() -> None:
    """Seconds past 59 count for what they say; 59 is in range, 60 is not."""
    for second, warnings in ((59, 0), (60, 1), (75, 1)):
        found = break_of(attributes=f'timeOffset="00:00:{second}" breakType="linear"')
        assert (found.offset, len(found.warnings), found.fault) == (TimeOffset(second * 1000), warnings, None)


def test_break_types_are_a_list() -> None:
    """Several types are read in order of preference; an unknown one beside them is a warning."""
    assert break_of(attributes='timeOffset="end" breakType="nonlinear,linear"').break_types == (
        "nonlinear",
        "linear",
    )
    found = break_of(attributes='timeOffset="end" breakType="linear,hologram"')
    assert (found.break_types, len(found.warnings), found.fault) == (("linear",), 1, None)


def test_a_break_of_unknown_type_only_is_1003() -> None:
    """AdBreak type not supported."""
    found = break_of(attributes='timeOffset="end" breakType="hologram"')
    assert found.fault is not None
    assert found.fault.code == 1003


def test_repeatafter_is_a_time() -> None:
    """repeatAfter is read as time; an unreadable one is ignored with a warning."""
    assert (
        break_of(attributes='timeOffset="end" breakType="linear" repeatAfter="00:15:00"').repeat_after_ms
        == 900_000
    )
    found = break_of(attributes='timeOffset="end" breakType="linear" repeatAfter="often"')
    assert (found.repeat_after_ms, len(found.warnings)) == (None, 1)


def test_the_three_kinds_of_source() -> None:
    """VASTAdData (also as VASTData), AdTagURI and CustomAdData."""
    for name in ("VASTAdData", "VASTData"):
        content = source_of(
            f'<vmap:{name}><VAST version="3.0"><Ad id="1"><InLine/></Ad></VAST></vmap:{name}>'
        ).source
        assert content is not None
        assert isinstance(content.content, VastData)
        assert [ad.id for ad in content.content.document.ads] == ["1"]
    tag = source_of('<vmap:AdTagURI templateType="vast3"><![CDATA[ http://t?a&b ]]></vmap:AdTagURI>').source
    assert tag is not None
    assert tag.content == AdTag("http://t?a&b", "vast3")
    custom = source_of('<vmap:CustomAdData templateType="own">x</vmap:CustomAdData>').source
    assert custom is not None
    assert custom.content == CustomData("x", "own")


def test_a_response_that_is_text_is_read_too() -> None:
    """VAST inside CDATA is read as if it were elements, with a warning; CustomAdData of VAST's templates likewise."""
    answer = '<![CDATA[<VAST version="2.0"><Ad id="1"><InLine/></Ad></VAST>]]>'
    found = source_of(f"<vmap:VASTAdData>{answer}</vmap:VASTAdData>")
    assert found.source is not None
    assert isinstance(found.source.content, VastData)
    assert [ad.id for ad in found.source.content.document.ads] == ["1"]
    assert found.warnings == ("VASTAdData holds its document as text, not as elements",)
    custom = source_of(f'<vmap:CustomAdData templateType="vast2">{answer}</vmap:CustomAdData>').source
    assert custom is not None
    assert isinstance(custom.content, CustomData)
    assert custom.content.document is not None
    assert [ad.id for ad in custom.content.document.ads] == ["1"]


def test_custom_data_of_a_vast_template_may_be_elements() -> None:
    """CustomAdData is meant to be text; a VAST response that stands in it as elements is read all the same."""
    answer = '<VAST version="2.0"><Ad id="1"><InLine/></Ad></VAST>'
    custom = source_of(f'<vmap:CustomAdData templateType="vast2">{answer}</vmap:CustomAdData>').source
    assert custom is not None
    assert isinstance(custom.content, CustomData)
    assert custom.content.document is not None
    assert [ad.id for ad in custom.content.document.ads] == ["1"]


def test_multiple_ads_and_redirects_are_allowed_unless_denied() -> None:
    """Both default to true; Booleans are read in any case."""
    tag = "<vmap:AdTagURI>http://t</vmap:AdTagURI>"
    allowed, denied = (
        source_of(tag).source,
        source_of(tag, 'allowMultipleAds="FALSE" followRedirects="0"').source,
    )
    assert allowed is not None
    assert denied is not None
    assert (allowed.allow_multiple_ads, allowed.follow_redirects) == (True, True)
    assert (denied.allow_multiple_ads, denied.follow_redirects) == (False, False)


def test_a_second_source_is_ignored_with_a_warning() -> None:
    """A break has one AdSource."""
    source = "<vmap:AdSource id='{}'><vmap:AdTagURI>http://t</vmap:AdTagURI></vmap:AdSource>"
    found = break_of(source.format(1) + source.format(2))
    assert found.source is not None
    assert (found.source.id, len(found.warnings), found.fault) == ("1", 1, None)


def test_a_break_without_source_is_fine() -> None:
    """Tracking alone is a valid break (§2.3.3)."""
    found = break_of(
        '<vmap:TrackingEvents><vmap:Tracking event="breakStart">http://s</vmap:Tracking></vmap:TrackingEvents>'
    )
    assert (found.source, found.trackers("breakStart"), found.fault) == (None, ("http://s",), None)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", 1000),
        ("<vmap:AdTagURI> </vmap:AdTagURI>", 1000),
        ("<vmap:VASTAdData/>", 1006),
        ("<vmap:VASTAdData><Foo/></vmap:VASTAdData>", 1006),
        ('<vmap:VASTAdData><VAST version="1.0"/></vmap:VASTAdData>', 102),
        ("<vmap:VASTAdData><VideoAdServingTemplate/></vmap:VASTAdData>", 102),
        ('<vmap:CustomAdData templateType="vast1"><VideoAdServingTemplate/></vmap:CustomAdData>', 102),
        ("<vmap:VASTAdData>no ad today</vmap:VASTAdData>", 1006),
        ("<vmap:VASTAdData><![CDATA[<html/>]]></vmap:VASTAdData>", 1006),
        ('<vmap:CustomAdData templateType="vast2">{}</vmap:CustomAdData>', 1006),
    ],
)
def test_a_source_without_a_usable_response_says_what_is_wrong(content: str, code: int) -> None:
    """A missing kind is a schema error, a response that is no VAST a parsing error, VAST's own errors its codes."""
    found = source_of(content)
    assert found.fault is not None
    assert found.fault.code == code


def test_trackers_and_extensions_are_kept() -> None:
    """Several addresses an event, in order; extensions as XML, of the break and of the document."""
    extension = '<vmap:Extensions><vmap:Extension type="t">x</vmap:Extension></vmap:Extensions>'
    tracking = "".join(f'<vmap:Tracking event="breakEnd">http://{n}</vmap:Tracking>' for n in (1, 2))
    data = (
        f'{OPEN}{extension}<vmap:AdBreak timeOffset="end" breakType="linear">'
        f"<vmap:TrackingEvents>{tracking}</vmap:TrackingEvents>{extension}</vmap:AdBreak></vmap:VMAP>"
    )
    document = parse_vmap(data.encode())
    assert document.breaks[0].trackers("breakEnd") == ("http://1", "http://2")
    assert [document.extensions[0].type, document.breaks[0].extensions[0].type] == ["t", "t"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 1002),
        (b"<vmap:VMAP>", 1002),
        (b"<!DOCTYPE x><VMAP/>", 1002),
        (b'<vmap:WRONG xmlns:vmap="http://www.iab.net/vmap-1.0" version="1.0"/>', 1000),
        (b"<html/>", 1000),
        (b'<VMAP version="2.0"/>', 1001),
    ],
)
def test_what_is_no_usable_vmap_is_refused_with_its_code(data: bytes, code: int) -> None:
    """1002 is not XML, 1000 another root, 1001 another version."""
    with pytest.raises(VmapFormatError) as refused:
        parse_vmap(data)
    assert refused.value.code == code


def test_an_undeclared_prefix_is_accepted_with_a_warning() -> None:
    """The vmap prefix itself, or any other, may be undeclared."""
    document = parse_vmap(
        b'<vmap:VMAP version="1.0"><vmap:AdBreak timeOffset="start" breakType="linear"/></vmap:VMAP>'
    )
    assert (len(document.breaks), document.warnings) == (1, ("undeclared namespace prefix 'vmap'",))


def test_names_match_without_a_namespace() -> None:
    """A document without any namespace is read without a warning."""
    document = parse_vmap(b'<VMAP version="1.0"><AdBreak timeOffset="start" breakType="linear"/></VMAP>')
    assert (len(document.breaks), document.warnings) == (1, ())


def test_the_old_namespace_is_a_warning() -> None:
    """vmap-1.0 was a misprint of version 1.0 and is still seen (VMAP 1.0.1 §6)."""
    document = parse_vmap(b'<v:VMAP xmlns:v="http://www.iab.net/vmap-1.0" version="1.0"/>')
    assert len(document.warnings) == 1


def test_an_empty_playlist_has_no_breaks() -> None:
    """A VMAP without breaks is a valid answer (§2.6)."""
    assert parse_vmap(f"{OPEN}</vmap:VMAP>".encode()).breaks == ()


def test_a_schedule_leaves_out_what_the_ads_are() -> None:
    """Read for its schedule alone, a document has the same breaks, without ads, trackers and extensions."""
    source = (
        '<AdSource id="s" allowMultipleAds="false"><VASTAdData><VAST version="9"/></VASTAdData></AdSource>'
    )
    tracking = '<TrackingEvents><Tracking event="breakStart">http://t/b</Tracking></TrackingEvents>'
    vendor = "<Extensions><Extension/></Extensions>"
    attributes = 'timeOffset="50%" breakType="linear,display" breakId="b" repeatAfter="00:01:00"'
    data = f'<VMAP version="1.0"><AdBreak {attributes}>{source}{tracking}{vendor}</AdBreak>{vendor}</VMAP>'.encode()
    whole, schedule = parse_vmap(data), parse_vmap(data, schedule_only=True)
    (one,) = whole.breaks
    assert one.fault is not None
    assert one.source is not None
    assert one.tracking
    assert one.extensions
    assert whole.extensions
    plain = replace(one, tracking=(), extensions=(), fault=None)
    assert schedule == replace(whole, extensions=(), breaks=(plain,))
