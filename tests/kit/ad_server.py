"""A real HTTP server on loopback for tests of what goes over the network: routes in, a log of requests out."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What a route answers; *delay_s* is waited before the first byte."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/xml"),)
    delay_s: float = 0.0


@dataclass
class Seen:
    """One request that arrived."""

    path: str
    headers: dict[str, str]

    def header(self, name: str) -> str | None:
        """The header called *name*, in any case."""
        return self.headers.get(name.lower())


Route = Answer | Callable[[Seen], Answer]


@dataclass
class AdServer:
    """The server's address, its routes (by path without query) and what it has seen."""

    port: int = 0
    routes: dict[str, Route] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The server's own address, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """The paths requested so far, with their queries."""
        return [request.path for request in self.seen]

    def answer(self, request: Seen) -> Answer:
        """What the route of *request* says; 404 without one."""
        self.seen.append(request)
        route = self.routes.get(request.path.partition("?")[0], Answer(b"", 404))
        return route(request) if callable(route) else route


@contextmanager
def ad_server(
    routes: dict[str, Route] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[AdServer]:
    """Serve *routes* on a free loopback port until the block ends."""
    server = AdServer(routes=dict(routes or {}))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            answer = server.answer(Seen(self.path, headers))
            if answer.delay_s:
                time.sleep(answer.delay_s)
            try:
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
            except (BrokenPipeError, ConnectionResetError):
                # The client's deadline passed; that is what such a test is about.
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing; the requests are in the log above."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that goes away in the middle is expected here."""

    http = Quiet(("127.0.0.1", 0), Handler)
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(5)
