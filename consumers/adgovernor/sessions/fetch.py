"""Fetches one document: redirects followed and checked, cookies kept, deadlines and sizes held.

What every request of a session passes through, so that a rule about safety is written once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urldefrag, urlsplit

from adgovernor.sessions.cookies import CookieJar
from adgovernor.sessions.errors import (
    BodyRefusedError,
    FetchTimeoutError,
    StatusError,
    TooManyRedirectsError,
    UriRefusedError,
)
from adgovernor.sessions.transport import Headers, HttpRequest, HttpResponse, Transport
from adgovernor.video import resolve_uri

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
_CHARSET = "charset="
Now = Callable[[], datetime]


def utc_now() -> datetime:
    """The present time, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bounds of one fetch. A hop is one document with all its redirects.

    *max_tags* bounds the markup in a body, because reading an element takes hundreds of times as long as reading its
    bytes: two megabytes of the shortest elements would hold up everybody else for seconds. Real responses have one tag
    for every fifty bytes or more.
    """

    hop_timeout_ms: int = 5_000
    max_body_bytes: int = 2 * 1024 * 1024
    max_tags: int = 100_000
    max_url_chars: int = 16_384
    max_redirects: int = 5

    def __post_init__(self) -> None:
        positive = (self.hop_timeout_ms, self.max_body_bytes, self.max_tags, self.max_url_chars)
        if min(positive) < 1 or self.max_redirects < 0:
            raise ValueError("fetch limits are positive (max_redirects may be 0)")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document as it arrived. *url* is the one that answered, after redirects; *charset* its Content-Type's."""

    url: str
    status: int
    body: bytes
    charset: str | None = None
    headers: Headers = ()


def check_url(url: str, limits: FetchLimits) -> None:
    """Raise :class:`UriRefusedError` unless *url* is an http(s) address with a host, no longer than allowed."""
    if len(url) > limits.max_url_chars:
        raise UriRefusedError(f"the address has {len(url)} characters; {limits.max_url_chars} are allowed")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UriRefusedError(f"{url!r} is not an address: {error}") from error
    if parts.scheme.lower() not in ("http", "https"):
        raise UriRefusedError(f"{url!r} is not an http or https address")
    if not host:
        raise UriRefusedError(f"{url!r} names no host")


class Fetcher:
    """Requests over *transport* within *limits*, with one session's *cookies*; *now* dates them."""

    def __init__(
        self,
        transport: Transport,
        limits: FetchLimits | None = None,
        cookies: CookieJar | None = None,
        now: Now = utc_now,
    ) -> None:
        self.limits = limits or FetchLimits()
        self.cookies = cookies if cookies is not None else CookieJar()
        self._transport = transport
        self._now = now

    async def fetch(self, url: str, headers: Headers = (), *, timeout_s: float | None = None) -> Fetched:
        """Get *url*, following redirects, within the hop deadline (or the sooner *timeout_s*).

        Any 2xx is an answer; everything else raises a :class:`~adgovernor.sessions.errors.FetchError`.
        """
        deadline_s = self.limits.hop_timeout_ms / 1000
        if timeout_s is not None:
            deadline_s = min(deadline_s, timeout_s)
        if deadline_s <= 0:
            raise FetchTimeoutError(f"no time was left to request {url}")
        try:
            async with asyncio.timeout(deadline_s):
                return await self._follow(url, headers, deadline_s)
        except TimeoutError as error:
            raise FetchTimeoutError(f"{url} did not answer within {deadline_s:g} s") from error

    async def _follow(self, url: str, headers: Headers, deadline_s: float) -> Fetched:
        current = url
        for _ in range(self.limits.max_redirects + 1):
            response = await self._send(current, headers, deadline_s)
            location = response.header("location") if response.status in _REDIRECTS else None
            if location is not None:
                target = resolve_uri(current, location.strip())
                if target is None:
                    raise TooManyRedirectsError(f"{current} redirects to {location!r}, which is no address")
                if _origin(target) != _origin(current):
                    # What proves the caller to one server is not another's to have (RFC 9110 §15.4).
                    headers = tuple(header for header in headers if header[0].lower() not in _CREDENTIALS)
                current = target
                continue
            if not 200 <= response.status < 300:
                raise StatusError(response.status, f"{current} answered {response.status}")
            if response.body.count(b"<") > self.limits.max_tags:
                raise BodyRefusedError(
                    f"the body of {current} has more than the {self.limits.max_tags} tags allowed"
                )
            return Fetched(current, response.status, response.body, _charset(response), response.headers)
        raise TooManyRedirectsError(f"{url} redirected more than {self.limits.max_redirects} times")

    async def _send(self, url: str, headers: Headers, deadline_s: float) -> HttpResponse:
        check_url(url, self.limits)
        cookie = self.cookies.header(url, self._now())
        sent = headers if cookie is None else (*headers, ("Cookie", cookie))
        # A fragment is the client's own and is never sent (RFC 9110 §7.1).
        request = HttpRequest(urldefrag(url).url, headers=sent)
        response = await self._transport.send(
            request, timeout_s=deadline_s, max_body_bytes=self.limits.max_body_bytes
        )
        self.cookies.store(url, response.all_headers("set-cookie"), self._now())
        return response


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _charset(response: HttpResponse) -> str | None:
    content_type = response.header("content-type") or ""
    for part in content_type.split(";")[1:]:
        text = part.strip()
        if text.lower().startswith(_CHARSET):
            return text[len(_CHARSET) :].strip().strip("\"'") or None
    return None
