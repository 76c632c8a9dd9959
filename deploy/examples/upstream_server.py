"""The upstream ad server of the examples of sessions: documents on a free loopback port, and what it was told."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ONE_AD = """<VAST version="4.2"><Ad id="brand-1"><InLine><AdSystem>brand</AdSystem><AdTitle>Ten seconds</AdTitle>
  <Impression><![CDATA[/impression?cb=[CACHEBUSTING]]]></Impression>
  <Creatives><Creative><Linear><Duration>00:00:10</Duration><MediaFiles>
    <MediaFile type="video/mp4" width="1280" height="720" delivery="progressive">https://cdn.example/ten.mp4</MediaFile>
  </MediaFiles></Linear></Creative></Creatives></InLine></Ad></VAST>"""


@dataclass
class Upstream:
    """Where it is, and the addresses without a document that were asked for: what is tracked."""

    url: str
    heard: list[str] = field(default_factory=list)


@contextmanager
def upstream_server(documents: Mapping[str, str]) -> Iterator[Upstream]:
    """Serves documents by path until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = documents.get(self.path.partition("?")[0], "").encode()
            if not body:
                upstream.heard.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing; what was heard is kept."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    upstream = Upstream(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield upstream
    finally:
        server.shutdown()
        server.server_close()
