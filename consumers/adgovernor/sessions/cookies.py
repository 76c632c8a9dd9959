"""A session's cookies, by RFC 6265: stored with the host that set them, sent only where they belong.

The jar is the session's alone and dies with it. Time is passed in.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

# §6.1 asks for at least 50 cookies a host and 3000 in all; a session of ad requests needs far fewer, and a hostile
# server may not fill memory.
_MAX_COOKIES_PER_HOST = 50
_MAX_COOKIES = 500
_MAX_COOKIE_BYTES = 4096
# Ten thousand people's jars that an ad server filled on purpose fit into memory all the same.
_MAX_JAR_BYTES = 32_768

# A Domain that is itself a registry would be shared by strangers. Single labels are refused outright; these second
# levels are refused below a two-letter top level (co.uk, com.au), as every registry of that kind uses them.
_REGISTRY_LABELS = frozenset(
    {"ac", "co", "com", "edu", "gob", "gov", "go", "id", "mil", "ne", "net", "or", "org"}
)


@dataclass(frozen=True, slots=True)
class Cookie:
    """One stored cookie. *host_only* cookies go back to *domain* alone, others to its subdomains too."""

    name: str
    value: str
    domain: str
    path: str
    host_only: bool
    secure: bool
    expires: datetime | None
    created: int

    @property
    def size(self) -> int:
        """How many characters it takes."""
        return len(self.name) + len(self.value) + len(self.domain) + len(self.path)

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two cookies the same (§5.3, step 11)."""
        return self.name, self.domain, self.path


class CookieJar:
    """Cookies of one session."""

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str, str], Cookie] = {}
        self._created = 0

    def __len__(self) -> int:
        return len(self._cookies)

    def seed(self, host: str, cookies: Iterable[tuple[str, str]]) -> None:
        """Store *cookies* (name, value) as if *host* had set them for itself alone."""
        for name, value in cookies:
            self._store(Cookie(name, value, host.lower(), "/", True, False, None, self._next()))

    def store(self, url: str, set_cookie_headers: Iterable[str], now: datetime) -> None:
        """Take the Set-Cookie headers of the answer to *url* (§5.2, §5.3); what breaks a rule is ignored."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if not host:
            return
        for header in set_cookie_headers:
            cookie = self._parse(header, host, parts.path, parts.scheme == "https", now)
            if cookie is None:
                continue
            if cookie.expires is not None and cookie.expires <= now:
                self._cookies.pop(cookie.key, None)
            else:
                self._store(cookie)

    def header(self, url: str, now: datetime) -> str | None:
        """The Cookie header for a request to *url* (§5.4); None when no cookie belongs to it."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        found = []
        for key, cookie in list(self._cookies.items()):
            if cookie.expires is not None and cookie.expires <= now:
                del self._cookies[key]
            elif self._belongs(cookie, host, parts.path or "/", parts.scheme == "https"):
                found.append(cookie)
        # Longer paths first, then older cookies (§5.4, step 2).
        found.sort(key=lambda cookie: (-len(cookie.path), cookie.created))
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in found) or None

    def _next(self) -> int:
        self._created += 1
        return self._created

    def _store(self, cookie: Cookie) -> None:
        previous = self._cookies.pop(cookie.key, None)
        if (
            previous is None and self._is_full(cookie.domain)
        ) or self._bytes() + cookie.size > _MAX_JAR_BYTES:
            return
        created = previous.created if previous is not None else cookie.created
        self._cookies[cookie.key] = replace(cookie, created=created)

    def _bytes(self) -> int:
        return sum(cookie.size for cookie in self._cookies.values())

    def _is_full(self, domain: str) -> bool:
        of_domain = sum(1 for cookie in self._cookies.values() if cookie.domain == domain)
        return len(self._cookies) >= _MAX_COOKIES or of_domain >= _MAX_COOKIES_PER_HOST

    def _parse(self, header: str, host: str, request_path: str, secure: bool, now: datetime) -> Cookie | None:
        if len(header) > _MAX_COOKIE_BYTES or any(character in header for character in "\r\n\0"):
            return None
        pair, *attributes = header.split(";")
        name, equals, value = pair.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name:
            return None
        given = {
            key.strip().lower(): text.strip() for key, _, text in (part.partition("=") for part in attributes)
        }
        domain = given.get("domain", "").lstrip(".").lower().rstrip(".")
        if domain and domain != host and not _is_shareable(domain, host):
            return None
        if "secure" in given and not secure:
            # A plain connection cannot set what only a secure one may read (RFC 6265bis §5.7).
            return None
        path = given.get("path", "")
        return Cookie(
            name=name,
            value=value,
            domain=domain or host,
            path=path if path.startswith("/") else _default_path(request_path),
            host_only=not domain,
            secure="secure" in given,
            expires=_expiry(given, now),
            created=self._next(),
        )

    @staticmethod
    def _belongs(cookie: Cookie, host: str, path: str, secure: bool) -> bool:
        if cookie.secure and not secure:
            return False
        if cookie.domain != host and (cookie.host_only or not _is_within(host, cookie.domain)):
            return False
        if cookie.path == path:
            return True
        return path.startswith(cookie.path) and (cookie.path.endswith("/") or path[len(cookie.path)] == "/")


class CookieJars:
    """The jars of many sessions, the least recently used forgotten beyond *most*."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._jars: OrderedDict[str, CookieJar] = OrderedDict()

    def of(self, session_id: str) -> CookieJar:
        """The session's own jar."""
        jar = self._jars.setdefault(session_id, CookieJar())
        self._jars.move_to_end(session_id)
        if len(self._jars) > self._most:
            self._jars.popitem(last=False)
        return jar


def _is_within(host: str, domain: str) -> bool:
    """Domain-match (§5.1.3): *host* is below *domain*, and is a name, not an address."""
    return host.endswith("." + domain) and not _is_address(host)


def _is_shareable(domain: str, host: str) -> bool:
    labels = domain.split(".")
    if len(labels) < 2 or not _is_within(host, domain):
        return False
    return not (len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _REGISTRY_LABELS)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _default_path(request_path: str) -> str:
    """§5.1.4: the request's directory."""
    folder = request_path.rpartition("/")[0]
    return folder if folder.startswith("/") else "/"


def _expiry(given: dict[str, str], now: datetime) -> datetime | None:
    """§5.3, step 3: Max-Age before Expires; unreadable ones make a session cookie."""
    age = given.get("max-age")
    if age is not None and age.lstrip("-").isdigit() and len(age) <= 12:
        try:
            return datetime.fromtimestamp(now.timestamp() + int(age), tz=now.tzinfo)
        except (OverflowError, OSError, ValueError):
            # Further away than the calendar reaches: it outlives every session.
            return None
    text = given.get("expires")
    if text is None:
        return None
    try:
        expires = parsedate_to_datetime(text.replace("-", " "))
    except (TypeError, ValueError, IndexError):
        return None
    return expires if expires.tzinfo is not None else expires.replace(tzinfo=now.tzinfo)
