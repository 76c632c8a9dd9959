"""How to reach a deployment's Kafka: one value for everything that connects to it.

The value holds addresses and credentials and turns them into the options of the Kafka client. It never connects.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final, Literal

from adgovernor.contracts.errors import BadSettings, NoKafka, told_by

SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

_REQUEST_TIMEOUT_MS: Final = 10_000
"""Well below every deadline of ours, so that the client has time for a second try at another broker."""
FIND_TRIES: Final = 12
"""How often a topic that is missing is looked for: a broker may not know yet of one that was made a moment ago."""
FIND_TRY_S: Final = 0.25
_PLACE: Final = re.compile(r"(?:\[[^\[\]]+\]|[^\s:/\[\]]+)(?::([0-9]{1,5}))?")


def _names_a_place(server: str) -> bool:
    """Whether the Kafka client can read this as an address: a host, with or without a port."""
    if (found := _PLACE.fullmatch(server)) is not None:
        return found[1] is None or 0 < int(found[1]) < 65_536
    try:
        IPv6Address(server)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Where Kafka is, and who we are there. Paths are of PEM files.

    TLS is used where ``tls`` is true or a CA or certificate is given; SASL where a username is given.
    """

    bootstrap_servers: str = "127.0.0.1:9092"
    """``host:port``, several divided by commas."""
    tls: bool = False
    ca_file: str | None = None
    """Whom to trust; left out: the system's certificate authorities."""
    cert_file: str | None = None
    """Our certificate, where the broker asks for one; with ``key_file``."""
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    check_hostname: bool = True
    sasl_mechanism: SaslMechanism = "SCRAM-SHA-512"
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, connection: KafkaConnection | str) -> KafkaConnection:
        """The connection itself, or one to the bootstrap servers named."""
        return cls(bootstrap_servers=connection) if isinstance(connection, str) else connection

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls or self.ca_file is not None or self.cert_file is not None

    def unusable(self, error: Exception) -> NoKafka:
        """What to tell of a client that could not connect; ``error``: the client's own."""
        return NoKafka(
            f"Kafka at {self.bootstrap_servers} cannot be used ({told_by(error)}); is it running, and "
            "are address, TLS and credentials right?",
            tls=self.uses_tls,
        )

    def client_options(self) -> dict[str, Any]:
        """The options of an aiokafka client that connects so.

        Raises:
            BadSettings: where an address or a file cannot be read, or a username has no password.
        """
        servers = [server.strip() for server in self.bootstrap_servers.split(",") if server.strip()]
        if not servers:
            raise BadSettings("bootstrap_servers is empty; give host:port of at least one Kafka broker")
        for server in servers:
            if not _names_a_place(server):
                raise BadSettings(
                    f"bootstrap_servers: {server!r} is no host:port; write one such as 127.0.0.1:9092, without a "
                    "scheme, its port 1 to 65535"
                )
        options: dict[str, Any] = {
            "bootstrap_servers": servers,
            "request_timeout_ms": _REQUEST_TIMEOUT_MS,
        }
        if self.uses_tls:
            options["ssl_context"] = self._ssl_context()
        if self.username is not None:
            if self.password is None:
                raise BadSettings(
                    f"a Kafka username ({self.username!r}) is given without a password; give both"
                )
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self.password
        options["security_protocol"] = {
            (False, False): "PLAINTEXT",
            (True, False): "SSL",
            (False, True): "SASL_PLAINTEXT",
            (True, True): "SASL_SSL",
        }[self.uses_tls, self.username is not None]
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        for name, file in (("CA", self.ca_file), ("certificate", self.cert_file), ("key", self.key_file)):
            if file is not None and not Path(file).is_file():
                raise BadSettings(f"the Kafka {name} file {file} does not exist or is no file")
        if self.cert_file is None and self.key_file is not None:
            raise BadSettings("a Kafka key file is given without a certificate file; give both")
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file, self.key_password)
        except (ssl.SSLError, OSError) as error:
            raise BadSettings(
                f"the TLS files for Kafka cannot be used ({error}); they must be PEM, the key that of the "
                "certificate, and its password right"
            ) from error
        context.check_hostname = self.check_hostname
        return context
