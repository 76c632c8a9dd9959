"""Which network addresses may be contacted, and how a host name becomes one.

Every connection asks here, so every hop of a chain and every redirect is checked, on the address that is then
connected to: a name that resolves differently a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from adgovernor.sessions.errors import AddressRefusedError, HostUnresolvedError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]

_Question = tuple[asyncio.AbstractEventLoop, str, int]
_Answer = tuple[list[str], str]
# The lookups under way: threads are the process's, so their bound is, too.
_asked: dict[_Question, asyncio.Future[_Answer]] = {}
_MOST_LOOKUPS = 64

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_OVERRIDE = re.compile(
    r"(?P<host>[^=\s]+)=(?P<address>\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f.:]+?)(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and port to connect to."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class HostOverride:
    """Connect to *address* (and *port*, where given) instead of what the host's name resolves to."""

    address: str
    port: int | None = None


def parse_override(text: str) -> tuple[str, HostOverride]:
    """Read ``HOST=ADDRESS:PORT`` (IPv6 in brackets; ``:PORT`` may be left out).

    Raises :class:`ValueError` that says how it is written.
    """
    message = (
        f"{text!r} is not HOST=ADDRESS:PORT, for example ads.example=127.0.0.1:8080 or ads.example=[::1]:8080"
    )
    match = _OVERRIDE.fullmatch(text.strip())
    if match is None:
        raise ValueError(message)
    try:
        address = ipaddress.ip_address(match["address"].strip("[]"))
    except ValueError as error:
        raise ValueError(message) from error
    port = int(match["port"]) if match["port"] is not None else None
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"{text!r}: the port must be 1 to 65535")
    return match["host"].lower().rstrip("."), HostOverride(str(address), port)


def is_public(address: IpAddress) -> bool:
    """Whether *address* is one of the public internet, also inside IPv6's ways of carrying IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Turns a host into endpoints that may be connected to.

    *allow_private* admits private, loopback and link-local addresses. *overrides* replaces the name service for the
    hosts it names, and only that: the address still has to be allowed.
    """

    allow_private: bool = False
    overrides: Mapping[str, HostOverride] = field(default_factory=lambda: MappingProxyType({}))
    resolve: Resolve | None = None

    async def endpoints(self, host: str, port: int) -> list[Endpoint]:
        """The endpoints of *host* that may be contacted, in the name service's order.

        Raises :class:`HostUnresolvedError` and :class:`AddressRefusedError`.
        """
        name = host.lower().rstrip(".").strip("[]")
        override = self.overrides.get(name)
        if override is not None:
            addresses, port = [override.address], override.port or port
        else:
            addresses = await (self.resolve or resolve_host)(name, port)
        allowed = [text for text in addresses if self._is_allowed(text)]
        if not allowed:
            message = (
                f"{host} is at {', '.join(addresses)}, which is not a public address; "
                "allow private, loopback and link-local ones first (allow_private, --allow-private)"
            )
            raise AddressRefusedError(message)
        return [Endpoint(address, port) for address in allowed]

    def _is_allowed(self, text: str) -> bool:
        address = ipaddress.ip_address(text)
        if is_public(address):
            return True
        return self.allow_private and not address.is_multicast and str(address) != "255.255.255.255"


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses of *host* by the system's name service; raises :class:`HostUnresolvedError`.

    The name service cannot be interrupted, so it is asked on a daemon thread: a caller whose deadline passes goes on,
    and a process that ends does not wait for an answer that nobody wants. Callers who want the same name at the same
    time share the answer, and a name service that hangs holds up no more threads than a process can afford.
    """
    loop = asyncio.get_running_loop()
    question = (loop, host, port)
    answer = _asked.get(question)
    if answer is None:
        if len(_asked) >= _MOST_LOOKUPS:
            raise HostUnresolvedError(
                f"{host!r} was not looked up: {_MOST_LOOKUPS} other names wait for the name service"
            )
        answer = _asked[question] = loop.create_future()
        threading.Thread(
            target=_look_up, args=(question, answer), name=f"resolve {host}", daemon=True
        ).start()
    addresses, reason = await asyncio.shield(answer)
    if not addresses:
        raise HostUnresolvedError(f"no address is known for {host!r}: {reason}")
    return addresses


def _look_up(question: _Question, answer: asyncio.Future[_Answer]) -> None:
    loop, host, port = question
    addresses: list[str] = []
    reason = ""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    except (OSError, UnicodeError) as error:
        reason = str(error)
    finally:
        del _asked[question]
        # A loop that is closed has nobody who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, answer, (addresses, reason))


def _settle(answer: asyncio.Future[_Answer], found: _Answer) -> None:
    if not answer.done():
        answer.set_result(found)
