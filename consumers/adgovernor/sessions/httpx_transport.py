"""The transport over httpx, with every connection's address checked before it is made.

httpx asks httpcore for connections, and httpcore asks the backend here, which resolves the host, drops the addresses
that may not be contacted and connects to one of the rest. TLS still verifies the host's name, and connections are
shared per host name, never per address.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpcore
import httpx

from adgovernor.contracts.errors import BadSettings
from adgovernor.sessions.addresses import AddressPolicy
from adgovernor.sessions.errors import (
    BodyRefusedError,
    FetchError,
    FetchTimeoutError,
    UnreachableError,
    UriRefusedError,
)
from adgovernor.sessions.transport import HttpRequest, HttpResponse

# So many keep a pod's hops apart; beyond it requests wait for one another.
_MAX_REQUESTS = 100
_MAX_IDLE_CONNECTIONS = 100
# Below the five seconds after which many servers close: a request must not meet a connection that is going away.
_IDLE_S = 4.0
# An address that has not answered by then is left for the host's next one.
_NEXT_ADDRESS_S = 1.0
# Servers disagree about what "deflate" is, so it is understood and not asked for.
_ACCEPTED_ENCODINGS = "gzip"
# One piece of a compressed body is inflated to at most this much at a time, so that a bomb is met early.
_INFLATE_STEP_BYTES = 65_536


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that *policy* admits."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first endpoint of *host* that may be contacted and answers."""
        endpoints = await self._policy.endpoints(host, port)
        for endpoint in endpoints[:-1]:
            try:
                return await self._network.connect_tcp(
                    endpoint.address,
                    endpoint.port,
                    _NEXT_ADDRESS_S if timeout is None else min(timeout, _NEXT_ADDRESS_S),
                    local_address,
                    socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        last = endpoints[-1]
        return await self._network.connect_tcp(
            last.address, last.port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no ad is behind a Unix socket."""
        raise UriRefusedError(f"{path} is a Unix socket, which is never contacted")

    async def sleep(self, seconds: float) -> None:
        """Wait, as httpcore's own back-off asks."""
        await self._network.sleep(seconds)


class _PoolStream(httpx.AsyncByteStream):
    """A body that closes its connection's use when it is closed."""

    def __init__(self, stream: AsyncIterable[bytes], response: httpcore.Response) -> None:
        self._stream = stream
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()


class _CheckedPool(httpx.AsyncBaseTransport):
    """httpx's transport interface over a connection pool whose backend checks addresses."""

    def __init__(self, policy: AddressPolicy, tls: ssl.SSLContext) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            # Requests wait in front of the pool, never in it: one that is cancelled while it waits there may leave
            # a connection behind that is neither used nor closed, until the pool is full of them.
            max_connections=None,
            max_keepalive_connections=_MAX_IDLE_CONNECTIONS,
            keepalive_expiry=_IDLE_S,
            network_backend=CheckedBackend(policy),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raw = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        response = await self._pool.handle_async_request(raw)
        # httpcore types a body for both of its faces; this pool is the asynchronous one.
        assert isinstance(response.stream, AsyncIterable)
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_PoolStream(response.stream, response),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class HttpxTransport:
    """Sends requests with httpx to addresses that *policy* admits.

    *ca_file* names a PEM file of authorities to trust instead of the usual ones; *user_agent* says who asks where the
    request does not (the device's own goes in X-Device-User-Agent). Proxies and credentials from the
    environment are not used: a proxy would connect where the address check cannot see.

    Raises `BadSettings` for a *ca_file* without certificates.
    """

    def __init__(
        self,
        policy: AddressPolicy | None = None,
        *,
        ca_file: Path | None = None,
        user_agent: str = "adgovernor",
    ) -> None:
        try:
            tls = (
                ssl.create_default_context(cafile=str(ca_file))
                if ca_file is not None
                else httpx.create_ssl_context(trust_env=False)
            )
        except OSError as error:
            raise BadSettings(f"{ca_file} holds no certificates in PEM form: {error}") from error
        self._client = httpx.AsyncClient(
            transport=_CheckedPool(policy or AddressPolicy(), tls),
            follow_redirects=False,
            trust_env=False,
            headers={"User-Agent": user_agent},
            timeout=None,  # noqa: S113 - one deadline over the whole exchange is set around each request
        )
        self._gate = asyncio.Semaphore(_MAX_REQUESTS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def send(self, request: HttpRequest, *, timeout_s: float, max_body_bytes: int) -> HttpResponse:
        """Send *request*; see :class:`~adgovernor.sessions.transport.Transport`."""
        # httpx collects cookies in a jar of its own; they are the session's to send, so none may be added here.
        self._client.cookies.clear()
        try:
            # As bytes, because httpx takes text in ASCII alone; what came as Latin-1 goes back as that.
            headers = [
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in (*request.headers, ("Accept-Encoding", _ACCEPTED_ENCODINGS))
            ]
            raw = self._client.build_request(
                request.method, request.url, headers=headers, content=request.body or None
            )
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise UriRefusedError(f"{request.url!r} cannot be requested: {error}") from error
        try:
            async with asyncio.timeout(timeout_s), self._gate:
                response = await self._client.send(raw, stream=True)
                try:
                    body = await _read_body(response, max_body_bytes)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise FetchTimeoutError(f"{request.url} did not answer within {timeout_s:g} s") from error
        except FetchError:
            raise
        except (httpcore.TimeoutException, httpx.TimeoutException) as error:
            raise FetchTimeoutError(f"{request.url} did not answer in time") from error
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
            httpx.TransportError,
            ssl.SSLError,
            OSError,
        ) as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(f"{request.url} could not be reached: {reason}") from error
        answered = tuple(
            (key.decode("latin-1"), value.decode("latin-1")) for key, value in response.headers.raw
        )
        return HttpResponse(response.status_code, answered, body)


async def _read_body(response: httpx.Response, max_body_bytes: int) -> bytes:
    """The body, decompressed, refused as soon as either form exceeds *max_body_bytes*."""
    declared = response.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_body_bytes:
        raise BodyRefusedError(f"the body is {declared} bytes; {max_body_bytes} are allowed")
    inflater = _inflater(response.headers.get("content-encoding", "").strip().lower())
    body = bytearray()
    received = 0
    async for chunk in response.aiter_raw():
        received += len(chunk)
        if received > max_body_bytes:
            raise BodyRefusedError(f"the body is larger than the {max_body_bytes} bytes allowed")
        if inflater is None:
            body += chunk
            continue
        for piece in _inflate(inflater, chunk):
            body += piece
            if len(body) > max_body_bytes:
                raise BodyRefusedError(f"the body inflates to more than the {max_body_bytes} bytes allowed")
    if inflater is not None and received and not inflater.eof:
        raise BodyRefusedError("the compressed body is cut off")
    return bytes(body)


def _inflater(encoding: str) -> zlib._Decompress | None:
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        # 47: the widest window, header (gzip or zlib) found by itself.
        return zlib.decompressobj(47)
    raise BodyRefusedError(f"the body is encoded as {encoding!r}, which was not asked for")


def _inflate(inflater: zlib._Decompress, chunk: bytes) -> Iterable[bytes]:
    try:
        while chunk and not inflater.eof:
            yield inflater.decompress(chunk, _INFLATE_STEP_BYTES)
            chunk = inflater.unconsumed_tail
    except zlib.error as error:
        raise BodyRefusedError(f"the compressed body is broken: {error}") from error
