"""The cookie jar of a session (RFC 6265)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from adgovernor.sessions.cookies import CookieJar, CookieJars

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def jar_with(*headers: str, url: str = "http://ads.example.com/x/y") -> CookieJar:
    """A jar that has taken *headers* from *url*."""
    jar = CookieJar()
    jar.store(url, headers, NOW)
    return jar


def test_a_cookie_goes_back_to_its_host_and_to_no_other() -> None:
    """Without a Domain a cookie is its host's alone."""
    jar = jar_with("a=1; Path=/")
    assert jar.header("http://ads.example.com/", NOW) == "a=1"
    for other in (
        "http://example.com/",
        "http://x.ads.example.com/",
        "http://other.example/",
        "http://adsxexample.com/",
    ):
        assert jar.header(other, NOW) is None


def test_a_domain_cookie_reaches_subdomains() -> None:
    """A Domain that contains the host shares the cookie below it; a leading dot means nothing."""
    jar = jar_with("a=1; Domain=.Example.com; Path=/")
    assert jar.header("http://other.example.com/", NOW) == "a=1"
    assert jar.header("http://example.com/", NOW) == "a=1"
    assert jar.header("http://badexample.com/", NOW) is None


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("http://ads.example.com/", "other.example"),
        ("http://ads.example.com/", "x.ads.example.com"),
        ("http://ads.example.com/", "com"),
        ("http://ads.example.co.uk/", "co.uk"),
        ("http://10.0.0.1/", "0.0.1"),
    ],
)
def test_a_foreign_or_registry_domain_is_refused(url: str, domain: str) -> None:
    """A host sets cookies for itself and its own domain, never for a stranger's or a whole registry."""
    assert len(jar_with(f"a=1; Domain={domain}", url=url)) == 0


def test_paths_are_matched_by_segment() -> None:
    """/x matches /x and /x/z, not /xz; without a Path the request's directory counts."""
    jar = jar_with("a=1; Path=/x", "b=2")
    assert jar.header("http://ads.example.com/x", NOW) == "a=1; b=2"
    assert jar.header("http://ads.example.com/x/z", NOW) == "a=1; b=2"
    assert jar.header("http://ads.example.com/xz", NOW) is None


def test_longer_paths_come_first() -> None:
    """§5.4 orders by path length, then age."""
    jar = jar_with("a=1; Path=/", "b=2; Path=/x", "c=3; Path=/")
    assert jar.header("http://ads.example.com/x", NOW) == "b=2; a=1; c=3"


def test_a_cookie_that_is_set_again_keeps_its_age() -> None:
    """§5.3, step 11: the new one has the old one's creation time, so the order stays."""
    jar = jar_with("a=1", "b=2", "a=3", url="http://h/")
    assert jar.header("http://h/", NOW) == "a=3; b=2"


def test_secure_cookies_stay_on_https() -> None:
    """A secure cookie is not sent over http, and http cannot set one."""
    jar = jar_with("a=1; Secure; Path=/", url="https://ads.example.com/")
    assert jar.header("http://ads.example.com/", NOW) is None
    assert jar.header("https://ads.example.com/", NOW) == "a=1"
    assert len(jar_with("a=1; Secure")) == 0


@pytest.mark.parametrize(
    "attribute",
    ["Max-Age=60", "Expires=Sun, 01 Mar 2026 12:01:00 GMT", "Expires=Sun, 01-Mar-2026 12:01:00 GMT"],
)
def test_cookies_expire(attribute: str) -> None:
    """Max-Age and Expires end a cookie's life at the moment they name."""
    jar = jar_with(f"a=1; Path=/; {attribute}")
    assert jar.header("http://ads.example.com/", NOW + timedelta(seconds=59)) == "a=1"
    assert jar.header("http://ads.example.com/", NOW + timedelta(seconds=60)) is None


def test_max_age_beats_expires() -> None:
    """§5.3, step 3."""
    jar = jar_with("a=1; Path=/; Max-Age=60; Expires=Sun, 01 Mar 2020 00:00:00 GMT")
    assert jar.header("http://ads.example.com/", NOW) == "a=1"


def test_an_expired_cookie_deletes() -> None:
    """Max-Age of 0 removes what was set before."""
    jar = jar_with("a=1; Path=/", "a=; Path=/; Max-Age=0")
    assert len(jar) == 0


def test_a_cookie_is_replaced_by_name_domain_and_path() -> None:
    """The same name on another path is another cookie."""
    jar = jar_with("a=1; Path=/", "a=2; Path=/", "a=3; Path=/x")
    assert jar.header("http://ads.example.com/x", NOW) == "a=3; a=2"


@pytest.mark.parametrize("header", ["", "novalue", "=x", "a=1\r\nX: y", "a=" + "x" * 5_000])
def test_what_is_no_cookie_is_ignored(header: str) -> None:
    """Malformed, smuggled and oversized headers store nothing."""
    assert len(jar_with(header)) == 0


def test_the_jar_s_size_is_bounded() -> None:
    """Large cookies of many hosts are refused once they take what small ones of all hosts never would."""
    jar = CookieJar()
    for number in range(20):
        jar.store(f"http://h{number}.example/", ["a=" + "x" * 4_000], NOW)
    assert len(jar) == 8
    jar.store("http://h0.example/", ["a=1"], NOW)
    assert jar.header("http://h0.example/", NOW) == "a=1"


def test_the_jar_is_bounded() -> None:
    """A host cannot fill memory with cookies."""
    assert len(jar_with(*(f"c{n}=1" for n in range(200)))) == 50


def test_a_cookie_without_path_belongs_to_its_request_s_folder() -> None:
    """Set from the same folder again, it is the same cookie."""
    jar = CookieJar()
    for path in ("", "/", "/ad", "/pod/ad", "/pod/other"):
        jar.store(f"http://h.example{path}", [f"a={path}"], NOW)
    assert jar.header("http://h.example/x", NOW) == "a=/ad"
    assert jar.header("http://h.example/pod/x", NOW) == "a=/pod/other; a=/ad"


def test_the_jars_of_sessions_long_unused_are_forgotten() -> None:
    """Sessions that come and go do not fill memory."""
    jars = CookieJars(2)
    for session in ("a", "b"):
        jars.of(session).seed("h", [("u", "1")])
    for session in ("a", "c"):
        jars.of(session)
    assert [len(jars.of(session)) for session in ("a", "b")] == [1, 0]


def test_seeded_cookies_are_host_only() -> None:
    """A session's own cookies belong to its upstream host alone."""
    jar = CookieJar()
    jar.seed("ads.example.com", [("u", "1")])
    assert jar.header("http://ads.example.com/any", NOW) == "u=1"
    assert jar.header("http://x.ads.example.com/", NOW) is None


@pytest.mark.parametrize("attribute", ["Max-Age=999999999999", "Max-Age=x", "Expires=whenever", "Expires="])
def test_unreadable_lifetimes_make_session_cookies(attribute: str) -> None:
    """A lifetime that cannot be read, or is beyond the calendar, lasts as long as the session."""
    assert jar_with(f"a=1; Path=/; {attribute}").header("http://ads.example.com/", NOW) == "a=1"
