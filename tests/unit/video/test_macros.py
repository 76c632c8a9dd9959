"""Macros in addresses (VAST 4.3 §6, VMAP 1.0.1 §2.5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from adgovernor.video import STANDARD_MACROS, WITHHELD, MacroValue, expand, expand_error, timestamp


@pytest.mark.parametrize(
    ("written", "values", "expanded"),
    [
        (
            "http://h?a=[PAGEURL]",
            {"PAGEURL": "https://x/y?z=1&w"},
            "http://h?a=https%3A%2F%2Fx%2Fy%3Fz%3D1%26w",
        ),
        ("http://h?a=[EXTENSIONS]", {"EXTENSIONS": ("abc/def", "y=z")}, "http://h?a=abc%2Fdef,y%3Dz"),
        ("http://h?a=[DEVICEUA]", {"DEVICEUA": "A/1 (b; c)'!*~_-."}, "http://h?a=A%2F1%20(b%3B%20c)'!*~_-."),
        ("http://h?a=[LATLONG]", {"LATLONG": (51.004703, 3.754806)}, "http://h?a=51.004703,3.754806"),
        ("http://h?a=[IFA]", {}, "http://h?a=-1"),
        ("http://h?a=[IFA]", {"IFA": WITHHELD}, "http://h?a=-2"),
        ("http://h?a=[random]&b=[RANDOM]&c=[timestamp]", {}, "http://h?a=[random]&b=[RANDOM]&c=[timestamp]"),
        ("http://h?a=[]&b=[[IFA]]&c=[ IFA ]", {}, "http://h?a=[]&b=[-1]&c=[ IFA ]"),
        ("http://h?a={IFA}&b=%5BIFA%5D", {}, "http://h?a={IFA}&b=%5BIFA%5D"),
        ("http://[::1]/x?[ADCOUNT]", {"ADCOUNT": 2}, "http://[::1]/x?2"),
        ("http://h?c=[CORRELATOR]", {"CORRELATOR": 7}, "http://h?c=7"),
        ("http://h?correlator=", {"CORRELATOR": 7}, "http://h?correlator=7"),
        ("http://h?correlator=&x=1", {"CORRELATOR": 7}, "http://h?correlator=7&x=1"),
        ("http://h?x=1&correlator=#f", {"CORRELATOR": 7}, "http://h?x=1&correlator=7#f"),
        ("http://h?correlator=9&xcorrelator=", {"CORRELATOR": 7}, "http://h?correlator=9&xcorrelator="),
        ("http://h?correlator=", {}, "http://h?correlator="),
        ("http://h/[IFA]/[IFA]", {"IFA": "é"}, "http://h/%C3%A9/%C3%A9"),
    ],
)
def test_expansion(written: str, values: dict[str, MacroValue], expanded: str) -> None:
    """Known values are encoded one by one, unknown ones -1, withheld ones -2, foreign brackets stay."""
    assert expand(written, values) == expanded


def test_every_standard_macro_is_known() -> None:
    """Each of the IAB's 4.x macros is replaced even where no value is at hand."""
    listed = [
        "TIMESTAMP",
        "CACHEBUSTING",
        "CONTENTPLAYHEAD",
        "MEDIAPLAYHEAD",
        "BREAKPOSITION",
        "BLOCKEDADCATEGORIES",
        "ADCATEGORIES",
        "ADCOUNT",
        "TRANSACTIONID",
        "PLACEMENTTYPE",
        "ADTYPE",
        "UNIVERSALADID",
        "BREAKMAXDURATION",
        "BREAKMINDURATION",
        "BREAKMAXADS",
        "BREAKMINADLENGTH",
        "BREAKMAXADLENGTH",
        "IFA",
        "IFATYPE",
        "CLIENTUA",
        "SERVERUA",
        "DEVICEUA",
        "SERVERSIDE",
        "DEVICEIP",
        "LATLONG",
        "DOMAIN",
        "PAGEURL",
        "APPBUNDLE",
        "APPNAME",
        "STOREID",
        "STOREURL",
        "VASTVERSIONS",
        "APIFRAMEWORKS",
        "EXTENSIONS",
        "VERIFICATIONVENDORS",
        "OMIDPARTNER",
        "MEDIAMIME",
        "PLAYERCAPABILITIES",
        "CLICKTYPE",
        "PLAYERSTATE",
        "INVENTORYSTATE",
        "PLAYERSIZE",
        "ADPLAYHEAD",
        "ASSETURI",
        "CONTENTID",
        "CONTENTURI",
        "CONTENTCAT",
        "PLAYBACKMETHODS",
        "PODSEQUENCE",
        "ADSERVINGID",
        "CLICKPOS",
        "ERRORCODE",
        "REASON",
        "LIMITADTRACKING",
        "REGULATIONS",
        "GDPRCONSENT",
        "GPPSTRING",
        "GPPSECTIONID",
        "DSAREQUIRED",
        "DSAPUBRENDER",
        "DSAPARAMS",
    ]
    assert set(listed) == STANDARD_MACROS
    for name in listed:
        assert expand(f"[{name}]", {}) == "-1"


def test_a_value_is_not_expanded_again() -> None:
    """Brackets in a value are encoded, so no value can smuggle a macro in."""
    assert expand("[PAGEURL]", {"PAGEURL": "[IFA]", "IFA": "secret"}) == "%5BIFA%5D"


def test_error_macros_of_both_standards_are_replaced() -> None:
    """[ERRORCODE] and [ERROR_CODE] are both filled in, everything else stays as written."""
    assert expand_error("http://e?[ERRORCODE]&[ERROR_CODE]&[IFA]", 303) == "http://e?303&303&[IFA]"
    assert expand_error("http://e?[ERROR_MESSAGE]", 900, "no ad, a b") == "http://e?no%20ad%2C%20a%20b"


def test_timestamps_are_iso_8601_with_milliseconds_and_zone() -> None:
    """The moment is written as §6's example is, and its colons are encoded in an address."""
    moment = datetime(2016, 1, 17, 8, 15, 7, 127_000, tzinfo=timezone(timedelta(hours=-5)))
    assert timestamp(moment) == "2016-01-17T08:15:07.127-05:00"
    assert expand("[TIMESTAMP]", {"TIMESTAMP": timestamp(moment)}) == "2016-01-17T08%3A15%3A07.127-05%3A00"
    assert timestamp(datetime(2026, 1, 1, tzinfo=UTC)).endswith("+00:00")


def test_a_timestamp_without_zone_is_refused() -> None:
    """A naive datetime names no instant."""
    with pytest.raises(ValueError, match="time zone"):
        timestamp(datetime(2026, 1, 1))
