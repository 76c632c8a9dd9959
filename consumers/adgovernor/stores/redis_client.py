"""How this project reaches a Redis: one server, one behind Sentinel, or a Cluster; nothing else knows how.

What lives here: addresses, credentials, time-outs, the one way to run a script, and the translation of the
client's errors into `Unavailable`. What never does: keys, layouts and rules.

Nothing is ever repeated here. A reply that was lost leaves open whether the command was carried out, and only the
caller can find out; the client's own retries are therefore off. Two answers say for certain that nothing happened
and are followed: a Cluster's redirection, and "no such script".
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, cast
from urllib.parse import unquote, urlsplit

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.typing import EncodableT

from adgovernor.contracts.errors import BadSettings, Unavailable
from adgovernor.stores.redis_batch import Batches
from adgovernor.stores.redis_cluster import Address, Cluster

Topology = Literal["single", "sentinel", "cluster"]
Argument = str | bytes | int

_SCHEMES: Final[dict[str, Topology]] = {
    "redis": "single",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
}
_RESP: Final = 2
"""The protocol's version. The second one has no push messages and every server here speaks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTls:
    """TLS to the servers, Sentinels included. Paths are of PEM files."""

    ca_file: str | None = None
    """Who is trusted; the system's authorities where it is None."""
    cert_file: str | None = None
    """This client's certificate, where the server asks for one."""
    key_file: str | None = None
    check_hostname: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig:
    """Where Redis is and how to speak with it.

    Attributes:
        hosts: (host, port): of the server, of the Sentinels, or of some nodes of the Cluster.
        master: the name that the Sentinels know the master by.
        db: the database's number; a Cluster has only 0.
        username: of the ACL user; None for the default user.
        sentinel_username: of the ACL user at the Sentinels.
        connections: most at once, to all servers together; further calls wait for one.
        connect_timeout_s: longest wait for a connection to be made.
        timeout_s: longest wait for a free connection, and for each reply.
    """

    hosts: tuple[Address, ...]
    topology: Topology = "single"
    master: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: RedisTls | None = None
    connections: int = 16
    connect_timeout_s: float = 2.0
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.hosts:
            raise BadSettings("Redis: name at least one host")
        if self.topology == "single" and len(self.hosts) != 1:
            raise BadSettings("Redis: several hosts need redis+cluster:// or redis+sentinel://")
        if (self.topology == "sentinel") != bool(self.master):
            raise BadSettings("Redis: a master's name belongs to Sentinel: redis+sentinel://host:26379/NAME")
        if self.topology == "cluster" and self.db:
            raise BadSettings(f"Redis: a Cluster has only database 0, not {self.db}")
        if self.connections < 1 or self.connect_timeout_s <= 0 or self.timeout_s <= 0:
            raise BadSettings("Redis: connections and time-outs must be above 0")

    @classmethod
    def from_url(cls, url: str, *, tls: RedisTls | None = None, **settings: Any) -> Self:
        """Reads an address.

            redis://USER:PASSWORD@HOST:PORT/DB
            redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT
            redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/MASTER/DB

        ``rediss`` in place of ``redis`` means TLS. User, password, port and database may be left out; special
        characters in user and password are percent-encoded. ``settings`` are further attributes, and win.
        Raises `BadSettings`, never showing the password.
        """
        scheme, credentials, places, path = _split(url)
        secure = scheme.startswith("rediss")
        topology = _SCHEMES.get("redis" + scheme.removeprefix("rediss" if secure else "redis"))
        if topology is None:
            raise BadSettings(
                f"Redis address: scheme {scheme!r}; use one of {', '.join(_SCHEMES)} or with rediss"
            )
        topology = settings.pop("topology", topology)
        steps = [step for step in path.split("/") if step]
        username, _, password = credentials.rpartition(":") if ":" in credentials else (credentials, "", "")
        values: dict[str, Any] = {
            "hosts": tuple(
                _place(place, 26379 if topology == "sentinel" else 6379) for place in places.split(",")
            ),
            "master": steps.pop(0) if topology == "sentinel" and steps else "",
            "db": _number(steps.pop(0), "database") if steps else 0,
            "username": unquote(username) or None,
            "password": unquote(password) or None,
            "tls": (tls or RedisTls()) if secure else tls,
        }
        if steps:
            raise BadSettings("Redis address: nothing may follow the database's number")
        return cls(topology=topology, **(values | settings))


def _split(url: str) -> tuple[str, str, str, str]:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise BadSettings(
            f"Redis address cannot be read: {error}; percent-encode special characters"
        ) from None
    credentials, _, places = parts.netloc.rpartition("@")
    if not places or parts.query or parts.fragment:
        raise BadSettings("Redis address: expected redis://USER:PASSWORD@HOST:PORT/DB, without ? and #")
    return parts.scheme, credentials, places, parts.path


def _place(text: str, default_port: int) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default_port)
    if not host:
        raise BadSettings("Redis address: a host is missing before its port, or @ after the password")
    return host.strip("[]"), _number(port, "port")


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit():
        # What is in the wrong place may be the password, so it is not shown.
        raise BadSettings(f"Redis address: the {what} is not a number")
    return int(text)


class Script:
    """A Lua script and the name under which servers keep it."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class RedisClient:
    """One deployment's Redis. Every call raises `Unavailable` where it has no answer."""

    def __init__(self, config: RedisConfig) -> None:
        self.config = config
        self._sentinel: Sentinel | None = None
        self._servers: Redis | Cluster = self._connect()
        self._batches = None if isinstance(self._servers, Cluster) else Batches(self._servers)
        self._gate = asyncio.Semaphore(config.connections)
        self._closed = False

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Runs a script once, in one round trip; in a second one where the server does not have it yet.

        Raises `Unavailable`: it ran, did not run, or runs later; nobody knows. Raises `ResponseError` with the
        message where the script itself refused.
        """
        call = (len(keys), *keys, *arguments)
        try:
            return await self._send(keys[0], ("EVALSHA", script.sha, *call))
        except NoScriptError:
            # This answer says for certain that nothing was done, so this is no blind repetition.
            return await self._send(keys[0], ("EVAL", script.source, *call))

    async def command(self, at: str | Address, *command: Argument) -> Any:
        """Sends one command, once: to the node of a key, or to a node that `nodes` named."""
        return await self._send(at, command)

    async def nodes(self) -> list[Address]:
        """The nodes that take writes. Behind Sentinel that is whoever is the master when it is asked."""
        if not isinstance(self._servers, Cluster):
            return [self.config.hosts[0]]
        async with self._asking():
            return await self._servers.nodes()

    def place(self) -> str:
        """Where Redis is, for people; without credentials."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.config.hosts)
        return f"{hosts}/{self.config.master}" if self.config.master else hosts

    async def close(self) -> None:
        """Lets all connections go. Calls after it raise `Unavailable`."""
        self._closed = True
        await (self._servers.close() if isinstance(self._servers, Cluster) else self._servers.aclose())
        if self._sentinel is not None:
            await self._sentinel.aclose()

    async def _send(self, at: str | Address, command: tuple[Argument, ...]) -> Any:
        async with self._asking():
            if self._batches is not None:
                return await self._batches.execute(command)
            assert isinstance(self._servers, Cluster)
            if isinstance(at, str):
                return await self._servers.execute(at, command)
            return await self._servers.execute_at(at, command)

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Waits for its turn, so that no pool ever runs out, and makes `Unavailable` of what is not an answer."""
        if self._closed:
            raise Unavailable("Redis: this client is closed")
        try:
            async with asyncio.timeout(self.config.timeout_s):
                await self._gate.acquire()
        except TimeoutError as error:
            raise Unavailable(f"Redis: all {self.config.connections} connections are busy") from error
        try:
            yield
        except NoScriptError:
            raise
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError) and refused_by_script(error):
                raise
            reason = str(error) or type(error).__name__
            raise Unavailable(f"Redis at {self.place()}: {reason}") from error
        finally:
            self._gate.release()

    def _connect(self) -> Redis | Cluster:
        config = self.config
        secure = config.tls is not None
        options = self._options() | {
            "username": config.username,
            "password": config.password,
            "db": config.db,
        }
        if config.topology == "sentinel":
            self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                config.hosts,
                sentinel_kwargs=self._options()
                | {"username": config.sentinel_username, "password": config.sentinel_password, "ssl": secure},
            )
            kind: type[Connection] = _PackedManagedSecure if secure else _PackedManaged
            return Redis.from_pool(
                SentinelConnectionPool(  # type: ignore[no-untyped-call]
                    config.master, self._sentinel, connection_class=kind, **options
                )
            )
        kind = _PackedSecure if secure else _Packed

        def connect(host: str, port: int) -> Redis:
            return Redis.from_pool(ConnectionPool(connection_class=kind, host=host, port=port, **options))

        return Cluster(config.hosts, connect) if config.topology == "cluster" else connect(*config.hosts[0])

    def _options(self) -> dict[str, Any]:
        """What is the same towards every server."""
        options: dict[str, Any] = {
            "protocol": _RESP,
            "retry": Retry(NoBackoff(), 0),
            "max_connections": self.config.connections,
            "socket_connect_timeout": self.config.connect_timeout_s,
            "socket_timeout": self.config.timeout_s,
            "socket_keepalive": True,
            "client_name": "adgovernor",
        }
        tls = self.config.tls
        if tls is not None:
            options |= {
                "ssl_ca_certs": tls.ca_file,
                "ssl_certfile": tls.cert_file,
                "ssl_keyfile": tls.key_file,
                "ssl_check_hostname": tls.check_hostname,
                "ssl_cert_reqs": "required",
            }
        return options


REFUSAL: Final = "ADGOVERNOR"
"""The first word of every error that this project's own scripts answer with."""


def refused_by_script(error: ResponseError) -> bool:
    """Whether one of our scripts found keys that are not as it left them; it had not written anything then."""
    # Redis 6.2 puts its own words before a script's.
    return REFUSAL in str(error) or "WRONGTYPE" in str(error)


class _PackedMixin:
    """Packs commands in C: a state write has thousands of arguments, and the client's own way takes five times
    as long."""

    def pack_command(self, *args: EncodableT) -> list[bytes]:
        head = args[0]
        if isinstance(head, str) and " " in head:
            # The client writes some commands of two words as one.
            args = (*head.split(), *args[1:])
        return [hiredis.pack_command(cast("Any", args))]


class _Packed(_PackedMixin, Connection):
    pass


class _PackedSecure(_PackedMixin, SSLConnection):
    pass


class _PackedManaged(_PackedMixin, SentinelManagedConnection):
    pass


class _PackedManagedSecure(_PackedMixin, SentinelManagedSSLConnection):
    pass
