"""What a session never contacts, and how much it never reads; over real sockets where sockets matter."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ipaddress
import socket
import ssl
import subprocess
import threading
import zlib
from pathlib import Path

import pytest
from ad_server import Answer, Seen, ad_server
from vast_documents import TableTransport, inline, vast, wrapper

from adgovernor.sessions.addresses import (
    AddressPolicy,
    Endpoint,
    HostOverride,
    is_public,
    parse_override,
    resolve_host,
)
from adgovernor.sessions.errors import (
    AddressRefusedError,
    BodyRefusedError,
    FetchError,
    FetchTimeoutError,
    HostUnresolvedError,
    StatusError,
    TooManyRedirectsError,
    UnreachableError,
    UriRefusedError,
)
from adgovernor.sessions.fetch import Fetcher, FetchLimits
from adgovernor.sessions.httpx_transport import HttpxTransport
from adgovernor.sessions.resolver import ChainResolver
from adgovernor.sessions.transport import HttpResponse, Transport

LOOPBACK = AddressPolicy(allow_private=True)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:10.0.0.1%2",
        "2002:7f00:1::",
        "64:ff9b::a00:1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    """Private, loopback, link-local, shared, multicast, reserved, and IPv4 of that kind inside IPv6."""
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(address: str) -> None:
    """The internet's own, and IPv4 of that kind inside IPv6."""
    assert is_public(ipaddress.ip_address(address))


async def test_only_the_public_addresses_of_a_host_are_used() -> None:
    """A name that resolves to a public and a private address is contacted at the public one alone."""

    async def both(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "8.8.8.8"]

    assert await AddressPolicy(resolve=both).endpoints("h.example", 80) == [Endpoint("8.8.8.8", 80)]


@pytest.mark.parametrize("address", ["224.0.0.1", "ff02::1", "255.255.255.255"])
async def test_allowing_private_addresses_allows_no_group_of_hosts(address: str) -> None:
    """Multicast and broadcast are never contacted."""
    policy = AddressPolicy(allow_private=True, overrides={"h": HostOverride(address)})
    with pytest.raises(AddressRefusedError):
        await policy.endpoints("h", 80)


async def test_an_override_replaces_the_name_and_not_the_check() -> None:
    """--resolve maps a host to an address and port; the address must still be allowed."""
    overrides = {"h.example": HostOverride("127.0.0.1", 81)}
    with pytest.raises(AddressRefusedError, match="not a public address"):
        await AddressPolicy(overrides=overrides).endpoints("H.example.", 80)
    allowed = AddressPolicy(allow_private=True, overrides=overrides)
    assert await allowed.endpoints("H.example.", 80) == [Endpoint("127.0.0.1", 81)]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("t=127.0.0.1:8080", ("t", HostOverride("127.0.0.1", 8080))),
        ("T.Example=[::1]:80", ("t.example", HostOverride("::1", 80))),
        ("t=127.0.0.1", ("t", HostOverride("127.0.0.1", None))),
    ],
)
def test_overrides_are_read(written: str, read: tuple[str, HostOverride]) -> None:
    """HOST=ADDRESS:PORT, IPv6 in brackets, the port optional."""
    assert parse_override(written) == read


@pytest.mark.parametrize(
    "written", ["", "t", "t=", "=1.2.3.4:1", "t=host:80", "t=1.2.3.4:0", "t=1.2.3.4:70000", "t=1.2.3:1"]
)
def test_overrides_that_cannot_be_read_say_how(written: str) -> None:
    """A mistake is answered with the form."""
    with pytest.raises(ValueError, match=r"HOST=ADDRESS:PORT|port must be"):
        parse_override(written)


async def test_a_name_that_does_not_exist_is_unresolved() -> None:
    """The name service's answer is an error of its own."""
    with pytest.raises(HostUnresolvedError):
        await resolve_host("no-such-host.invalid", 80)


async def test_a_name_service_that_hangs_is_asked_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Callers of one name share one question, a caller may give up, and beyond so many names none is asked."""
    released = threading.Event()
    questions: list[str] = []

    def hang(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        questions.append(host)
        released.wait(10)
        return [(2, 1, 6, "", ("8.8.8.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    callers = [asyncio.create_task(resolve_host("same.example", 80)) for _ in range(5)]
    callers += [asyncio.create_task(resolve_host(f"{n}.example", 80)) for n in range(63)]
    await asyncio.sleep(0)
    with pytest.raises(HostUnresolvedError, match="64 other names"):
        await resolve_host("one-too-many.example", 80)
    callers[0].cancel()
    released.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [["8.8.8.8"]] * 67
    assert len(questions) == 64
    assert await resolve_host("later.example", 80) == ["8.8.8.8"]


def test_the_transport_keeps_the_protocol() -> None:
    """The httpx transport is one of the protocol's implementations."""
    assert isinstance(HttpxTransport(), Transport)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]"])
async def test_loopback_is_refused_however_it_is_spelt(host: str) -> None:
    """The resolved address is what is checked, so no spelling of it slips through."""
    with ad_server({"/x": Answer(b"secret")}) as server:
        async with HttpxTransport() as transport:
            with pytest.raises(
                (AddressRefusedError, HostUnresolvedError, UnreachableError, UriRefusedError)
            ) as refused:
                await Fetcher(transport).fetch(f"http://{host}:{server.port}/x")
        assert server.seen == []
    if host in ("127.0.0.1", "localhost"):
        assert isinstance(refused.value, AddressRefusedError)


async def test_a_redirect_to_a_private_address_is_refused() -> None:
    """The check is made again for every redirect, here from an allowed host to one that is not."""

    class Mixed(AddressPolicy):
        async def endpoints(self, host: str, port: int) -> list[Endpoint]:
            allowed = AddressPolicy(allow_private=host == "public.example", overrides=self.overrides)
            return await allowed.endpoints(host, port)

    with ad_server({"/inner": Answer(b"secret")}) as server:
        overrides = {
            name: HostOverride("127.0.0.1", server.port) for name in ("public.example", "inner.example")
        }
        server.routes["/go"] = Answer(status=302, headers=(("Location", "http://inner.example/inner"),))
        async with HttpxTransport(Mixed(overrides=overrides)) as transport:
            with pytest.raises(AddressRefusedError):
                await Fetcher(transport).fetch("http://public.example/go")
        assert server.paths == ["/go"]


async def test_every_hop_of_a_chain_is_checked() -> None:
    """A Wrapper that points inside is unavailable, and nothing inside is asked."""
    with ad_server({"/secret": Answer(vast(inline("1")))}) as server:
        async with HttpxTransport() as transport:
            inside = f"{server.url}/secret"

            class Outside(TableTransport):
                async def send(self, request, *, timeout_s, max_body_bytes):  # type: ignore[no-untyped-def]
                    if request.url == inside:
                        return await transport.send(
                            request, timeout_s=timeout_s, max_body_bytes=max_body_bytes
                        )
                    return await super().send(request, timeout_s=timeout_s, max_body_bytes=max_body_bytes)

            entry = "http://ads.example/a.xml"
            resolver = ChainResolver(Fetcher(Outside({entry: vast(wrapper("w", inside))})))
            found = await resolver.resolve(entry, dict)
        assert ([error.code for error in found.errors], found.ads, server.seen) == ([301], (), [])


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "file:///etc/passwd", "gopher://h", "http://", "//h/x", "http://[::1", "h"]
)
async def test_only_http_and_https_with_a_host_are_requested(url: str) -> None:
    """Any other scheme, or none, never reaches the transport."""
    transport = TableTransport()
    with pytest.raises(UriRefusedError):
        await Fetcher(transport).fetch(url)
    assert transport.requests == []


async def test_credentials_stay_with_the_server_that_they_are_for() -> None:
    """A redirect within an origin keeps them; one to another origin, be it only the scheme, does without."""
    transport = TableTransport(
        {
            "https://h/": HttpResponse(302, (("Location", "/2"),)),
            "https://h/2": HttpResponse(302, (("Location", "http://h/3"),)),
            "http://h/3": HttpResponse(302, (("Location", "https://h/4"),)),
            "https://h/4": b"<VAST/>",
        }
    )
    await Fetcher(transport).fetch("https://h/", (("Authorization", "secret"), ("X-Device-IP", "1.2.3.4")))
    names = [[name for name, _ in request.headers] for request in transport.requests]
    assert names == [["Authorization", "X-Device-IP"]] * 2 + [["X-Device-IP"]] * 2


async def test_a_redirect_to_another_scheme_is_refused() -> None:
    """A server cannot redirect to a file."""
    moved = HttpResponse(302, (("Location", "file:///etc/passwd"),))
    with pytest.raises(UriRefusedError):
        await Fetcher(TableTransport({"http://h/": moved})).fetch("http://h/")


async def test_addresses_have_a_length_limit() -> None:
    """An address longer than allowed is refused unsent."""
    with pytest.raises(UriRefusedError, match="characters"):
        await Fetcher(TableTransport(), FetchLimits(max_url_chars=50)).fetch("http://h/" + "x" * 50)


async def test_redirects_are_counted() -> None:
    """The limit of redirects holds, also for a server that redirects to itself."""
    transport = TableTransport({"http://h/": HttpResponse(302, (("Location", "/"),))})
    with pytest.raises(TooManyRedirectsError):
        await Fetcher(transport, FetchLimits(max_redirects=3)).fetch("http://h/")
    assert len(transport.requests) == 4


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_every_kind_of_redirect_is_followed(status: int) -> None:
    """All redirect statuses lead on, relative targets included."""
    transport = TableTransport(
        {"http://h/a/b": HttpResponse(status, (("location", "../c#f"),)), "http://h/c": b"x"}
    )
    fetched = await Fetcher(transport).fetch("http://h/a/b")
    assert (fetched.body, fetched.url) == (b"x", "http://h/c#f")


async def test_an_error_status_is_an_error() -> None:
    """Everything but 2xx raises with its status; a redirect status without a target as well."""
    for status in (304, 302, 404, 500):
        with pytest.raises(StatusError) as failed:
            await Fetcher(TableTransport({"http://h/": status})).fetch("http://h/")
        assert failed.value.status == status


async def fetch_from(answer: Answer, limits: FetchLimits | None = None) -> bytes:
    """The body of *answer* as a fetcher reads it over a real socket."""
    with ad_server({"/": answer}) as server:
        async with HttpxTransport(LOOPBACK) as transport:
            return (await Fetcher(transport, limits).fetch(f"{server.url}/")).body


async def test_a_body_larger_than_allowed_is_refused() -> None:
    """By its declared length, before reading it."""
    with pytest.raises(BodyRefusedError):
        await fetch_from(Answer(b"x" * 2_000), FetchLimits(max_body_bytes=1_000))


async def test_a_body_of_unsaid_length_is_refused_once_it_is_too_large() -> None:
    """A server that names no length is read no further than allowed."""
    sent = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent < 64 * 1024 * 1024:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536
        writer.close()

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    async with server, HttpxTransport(AddressPolicy(allow_private=True)) as transport:
        fetcher = Fetcher(transport, FetchLimits(max_body_bytes=1_000))
        with pytest.raises(BodyRefusedError):
            await fetcher.fetch(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert sent < 32 * 1024 * 1024


async def test_a_body_of_countless_tags_is_refused() -> None:
    """Markup costs far more to read than its bytes, so it is counted before anything is read."""
    with pytest.raises(BodyRefusedError, match="more than the 9 tags"):
        await fetch_from(Answer(b"<a/>" * 10), FetchLimits(max_tags=9))
    assert await fetch_from(Answer(b"<a/>" * 9), FetchLimits(max_tags=9)) == b"<a/>" * 9


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed_bodies_are_read(encoding: str) -> None:
    """What was asked for is understood."""
    packed = gzip.compress(b"<VAST/>") if encoding == "gzip" else zlib.compress(b"<VAST/>")
    assert await fetch_from(Answer(packed, headers=(("Content-Encoding", encoding),))) == b"<VAST/>"


async def test_a_compression_bomb_is_refused() -> None:
    """A small body that inflates beyond the limit is given up while it inflates."""
    packed = gzip.compress(b"\0" * 50_000_000)
    with pytest.raises(BodyRefusedError, match="inflates"):
        await fetch_from(
            Answer(packed, headers=(("Content-Encoding", "gzip"),)), FetchLimits(max_body_bytes=100_000)
        )


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not gzip", "gzip"),
        (gzip.compress(b"x" * 999, mtime=0)[:-9], "gzip"),
        (b"x", "br"),
        (b"x", "gzip, gzip"),
    ],
)
async def test_broken_or_unasked_compression_is_refused(body: bytes, encoding: str) -> None:
    """A body that cannot be inflated is no body."""
    with pytest.raises(BodyRefusedError):
        await fetch_from(Answer(body, headers=(("Content-Encoding", encoding),)))


async def test_a_slow_server_meets_the_hop_deadline() -> None:
    """One document, redirects and body included, has one deadline."""
    with pytest.raises(FetchTimeoutError):
        await fetch_from(Answer(b"late", delay_s=1.0), FetchLimits(hop_timeout_ms=100))


async def test_a_closed_port_is_unreachable() -> None:
    """A refused connection is reported with its address."""
    with ad_server() as server:
        port = server.port
    async with HttpxTransport(LOOPBACK) as transport:
        with pytest.raises(UnreachableError, match=str(port)):
            await Fetcher(transport).fetch(f"http://127.0.0.1:{port}/")


async def test_requests_that_are_given_up_leave_their_connections_to_others() -> None:
    """When many callers give up at once, as when an upstream hangs, the next request finds a connection."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        if path == b"/ok":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0, backlog=500)
    async with server, HttpxTransport(LOOPBACK) as transport:
        fetcher = Fetcher(transport)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        callers = [asyncio.create_task(fetcher.fetch(f"{url}/hang")) for _ in range(250)]
        await asyncio.sleep(0.1)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        assert (await fetcher.fetch(f"{url}/ok")).body == b"ok"


async def test_an_address_that_does_not_answer_is_left_for_the_next() -> None:
    """A host whose first address swallows connections is reached at its second, well within the deadline."""

    async def two(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    with ad_server({"/": Answer(b"ok")}) as server, contextlib.ExitStack() as held:
        silent = held.enter_context(socket.socket())
        silent.bind(("127.0.0.2", server.port))
        silent.listen(0)
        for _ in range(3):
            # The queue of connections is full with these, and nobody takes them.
            caller = held.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.2", server.port))
        async with HttpxTransport(AddressPolicy(True, resolve=two)) as transport:
            answer = await Fetcher(transport).fetch(f"http://h.example:{server.port}/")
    assert answer.body == b"ok"


async def test_the_host_header_is_the_name_that_was_asked() -> None:
    """An override changes where the connection goes and nothing that the server sees."""
    with ad_server({"/x": Answer(b"ok")}) as server:
        policy = AddressPolicy(True, {"ads.example": HostOverride("127.0.0.1", server.port)})
        async with HttpxTransport(policy) as transport:
            await Fetcher(transport).fetch("http://ads.example/x")
        assert server.seen[0].header("host") == "ads.example"
        assert server.seen[0].header("user-agent") == "adgovernor"


async def test_cookies_of_one_session_do_not_reach_another() -> None:
    """Two fetchers over one transport keep their cookies apart, and the transport keeps none."""

    def remember(request: Seen) -> Answer:
        return Answer(b"", headers=(("Set-Cookie", "id=1"),))

    with ad_server({"/": remember}) as server:
        async with HttpxTransport(LOOPBACK) as transport:
            first, second = Fetcher(transport), Fetcher(transport)
            await first.fetch(f"{server.url}/")
            await first.fetch(f"{server.url}/")
            await second.fetch(f"{server.url}/")
        assert [request.header("cookie") for request in server.seen] == [None, "id=1", None]


async def test_a_cookie_of_any_bytes_goes_back_as_it_came() -> None:
    """What a server puts into a cookie is its own matter, and spoils no later request."""

    def remember(request: Seen) -> Answer:
        return Answer(b"", headers=(("Set-Cookie", "id=caf\xe9"),))

    with ad_server({"/": remember}) as server:
        async with HttpxTransport(LOOPBACK) as transport:
            fetcher = Fetcher(transport)
            await fetcher.fetch(f"{server.url}/")
            await fetcher.fetch(f"{server.url}/")
        assert server.seen[1].header("cookie") == "id=caf\xe9"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for ads.example, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=ads.example",
    ]
    command += ["-addext", "subjectAltName=DNS:ads.example", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return certificate, key


async def test_tls_is_verified_for_the_name_and_the_authority(certificate: tuple[Path, Path]) -> None:
    """--cacert makes a private authority trusted, for its own names only; without it the connection fails."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    with ad_server({"/": Answer(b"ok")}, tls) as server:
        overrides = {
            name: HostOverride("127.0.0.1", server.port) for name in ("ads.example", "other.example")
        }
        policy = AddressPolicy(True, overrides)
        async with HttpxTransport(policy, ca_file=certificate[0]) as transport:
            assert (await Fetcher(transport).fetch("https://ads.example/")).body == b"ok"
            with pytest.raises(UnreachableError, match=r"(?i)certificate"):
                await Fetcher(transport).fetch("https://other.example/")
        async with HttpxTransport(policy) as transport:
            with pytest.raises(FetchError, match=r"(?i)certificate"):
                await Fetcher(transport).fetch("https://ads.example/")
