"""Metrics and health over HTTP: ``/metrics``, ``/healthz`` (liveness: the worker makes progress) and ``/readyz``
(readiness: it has its shards and reaches its servers)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Self

import orjson

from adgovernor.contracts.errors import BadSettings

_REQUEST_S: Final = 5.0
_REQUEST_BYTES: Final = 16 * 1024
_CONNECTIONS: Final = 64
"""Probes and scrapers are few; more than this is somebody else."""


@dataclass(frozen=True, slots=True)
class Health:
    """An answer of ``/healthz`` or ``/readyz``."""

    ok: bool
    details: dict[str, Any] = field(default_factory=dict)


class HealthServer:
    """Serves metrics and health. ``live`` and ``ready`` are asked at each request and must return at once."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        metrics: Callable[[], bytes],
        live: Callable[[], Health],
        ready: Callable[[], Health],
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._metrics = metrics
        self._live = live
        self._ready = ready
        self._server: asyncio.Server | None = None
        self._open = 0

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._server is None:
            return self._wanted_port
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(
                self._serve, self._host, self._wanted_port, limit=_REQUEST_BYTES
            )
        except OSError as error:
            raise BadSettings(
                f"metrics cannot be served at {self._host}:{self._wanted_port} ({error.strerror}); set metrics_port to "
                "a free port, or to 0"
            ) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open > _CONNECTIONS:
                return
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # The other side went away or is no HTTP client; there is nobody to tell.
            return
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        path = rest.split(" ")[0].split("?")[0]
        kind = "application/json"
        if method not in ("GET", "HEAD"):
            status, body = HTTPStatus.METHOD_NOT_ALLOWED, b""
        elif path == "/metrics":
            status, body = HTTPStatus.OK, self._metrics()
            kind = "text/plain; version=0.0.4; charset=utf-8"
        elif path in ("/healthz", "/readyz"):
            health = self._live() if path == "/healthz" else self._ready()
            status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
            body = orjson.dumps({"ok": health.ok, **health.details})
        else:
            status, body = HTTPStatus.NOT_FOUND, b'{"paths":["/metrics","/healthz","/readyz"]}'
        header = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        return header.encode() + (b"" if method == "HEAD" else body)
