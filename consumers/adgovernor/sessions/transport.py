"""The small protocol between sessions and an HTTP client: one request, one bounded answer, no policy.

Redirects, cookies, retries and macros are the session's, so that they mean the same over every client. An
implementation must check the address it connects to, keep no cookies, follow no redirects, and read no further than
asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request; *url* is absolute, http or https."""

    url: str
    method: str = "GET"
    headers: Headers = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One HTTP answer; *body* is decompressed and complete."""

    status: int
    headers: Headers = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first header called *name*, in any case."""
        return next(self.all_headers(name), None)

    def all_headers(self, name: str) -> Iterator[str]:
        """Every header called *name*, in any case."""
        wanted = name.lower()
        return (value for key, value in self.headers if key.lower() == wanted)


@runtime_checkable
class Transport(Protocol):
    """Sends one request over the network."""

    async def send(self, request: HttpRequest, *, timeout_s: float, max_body_bytes: int) -> HttpResponse:
        """Send *request* and read the whole answer within *timeout_s*.

        Raises a :class:`~adgovernor.sessions.errors.FetchError` other than StatusError: every status is an answer.
        """

    async def aclose(self) -> None:
        """Close the connections that are kept open."""
