"""Small VAST documents, and a transport that answers from a table, for tests of chains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adgovernor.sessions.errors import FetchError
from adgovernor.sessions.transport import HttpRequest, HttpResponse

LINEAR = "<Creative><Linear><Duration>00:00:10</Duration></Linear></Creative>"


def vast(*ads: str, version: str | None = "4.2", errors: tuple[str, ...] = ()) -> bytes:
    """A VAST document of *ads*, with root *errors*."""
    attribute = "" if version is None else f' version="{version}"'
    roots = "".join(f"<Error><![CDATA[{uri}]]></Error>" for uri in errors)
    return f"<VAST{attribute}>{roots}{''.join(ads)}</VAST>".encode()


def _open(ad_id: str, sequence: int | None) -> str:
    place = "" if sequence is None else f' sequence="{sequence}"'
    return f'<Ad id="{ad_id}"{place}>'


def inline(ad_id: str, sequence: int | None = None, *, creatives: str = LINEAR, extra: str = "") -> str:
    """An InLine ad with one impression and one Error of its own."""
    return (
        f"{_open(ad_id, sequence)}<InLine><AdSystem>s</AdSystem><AdTitle>{ad_id}</AdTitle>"
        f"<Impression>http://i/{ad_id}</Impression><Error>http://e/{ad_id}?[ERRORCODE]</Error>{extra}"
        f"<Creatives>{creatives}</Creatives></InLine></Ad>"
    )


def wrapper(
    ad_id: str, uri: str | None, attributes: str = "", sequence: int | None = None, *, extra: str = ""
) -> str:
    """A Wrapper to *uri* with one impression and one Error of its own."""
    tag = "" if uri is None else f"<VASTAdTagURI><![CDATA[{uri}]]></VASTAdTagURI>"
    return (
        f"{_open(ad_id, sequence)}<Wrapper {attributes}><AdSystem>s</AdSystem>{tag}"
        f"<Impression>http://i/{ad_id}</Impression><Error>http://e/{ad_id}?[ERRORCODE]</Error>{extra}</Wrapper></Ad>"
    )


Reply = bytes | int | HttpResponse | FetchError | Callable[[HttpRequest], HttpResponse]


class TableTransport:
    """Answers from *replies* by address: bytes are a 200, a number is a status, an error is raised; else 404."""

    def __init__(
        self, replies: dict[str, Reply] | None = None, delays_s: dict[str, float] | None = None
    ) -> None:
        self.replies = dict(replies or {})
        self.delays_s = dict(delays_s or {})
        self.requests: list[HttpRequest] = []
        self.closed = False

    @property
    def urls(self) -> list[str]:
        """The addresses asked for so far."""
        return [request.url for request in self.requests]

    async def send(self, request: HttpRequest, *, timeout_s: float, max_body_bytes: int) -> HttpResponse:
        """Answer as the table says."""
        self.requests.append(request)
        if request.url in self.delays_s:
            await asyncio.sleep(self.delays_s[request.url])
        reply = self.replies.get(request.url, 404)
        if isinstance(reply, FetchError):
            raise reply
        if isinstance(reply, HttpResponse):
            return reply
        if callable(reply):
            return reply(request)
        return HttpResponse(reply) if isinstance(reply, int) else HttpResponse(200, (), reply)

    async def aclose(self) -> None:
        """Remember that it was closed."""
        self.closed = True
