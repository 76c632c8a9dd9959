"""Apache Kafka brokers as local processes, from the jars that `pom.xml` names.

The jars are kept in the user's cache (44 MB) and fetched by Maven once for each content of `pom.xml`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from supervised import PortTaken, ServerFailed, Supervised, free_ports

_HERE = Path(__file__).resolve().parent
_POM = _HERE / "pom.xml"
_FETCH_TIMEOUT_S = 600.0
_PROPERTIES = "server.properties"
_FORMAT_TIMEOUT_S = 60.0
_READY_TIMEOUT_S = 90.0
"""Ports are up after 3-5 s on an idle machine; a machine at full load takes several times that."""
_PORT_ATTEMPTS = 3
OLDEST_JAVA = 17

BLOCK_LIMIT_BYTES = 12 * 1024 * 1024
"""Room for a ledger block of 8 MB and its framing."""

COMMON_SETTINGS: Mapping[str, str] = {
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(BLOCK_LIMIT_BYTES),
    "replica.fetch.max.bytes": str(BLOCK_LIMIT_BYTES),
    "replica.fetch.response.max.bytes": str(BLOCK_LIMIT_BYTES),
    "log.cleaner.dedupe.buffer.size": "16777216",
    # Tests make and drop many topics: few internal partitions, and the files of a dropped topic go soon.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    "log.segment.delete.delay.ms": "1000",
}
"""What every broker of tests, demo and benchmarks is given, in a container too."""


def internal_replication(brokers: int) -> dict[str, str]:
    """Replication of the broker's own topics, for that many brokers."""
    replication, in_sync = str(min(3, brokers)), str(2 if brokers >= 3 else 1)
    return {
        "offsets.topic.replication.factor": replication,
        "transaction.state.log.replication.factor": replication,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": replication,
        "share.coordinator.state.topic.min.isr": in_sync,
    }


TEST_HEAP_MB = 192
BENCH_HEAP_MB = 1024
JVM_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Of a broker that shares two cores with what is tested or measured, and lives for minutes: under full load its default
compiler and collector took 11 to 13 s of them where these took 7 s for the same messages."""


def heap_options(heap_mb: int) -> tuple[str, ...]:
    """The arguments of `java` for a heap of this size."""
    return f"-Xms{heap_mb}m", f"-Xmx{heap_mb}m"


def kafka_version() -> str:
    """The version of Apache Kafka that `pom.xml` names."""
    version = ElementTree.parse(_POM).findtext(".//{*}kafka.version")
    assert version, f"{_POM} names no kafka.version"
    return version


def find_java() -> Path | None:
    """A Java of version 17 or newer: of JAVA_HOME, of the path or of the system's folder, or None."""
    home, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    candidates = [Path(home) / "bin/java"] if home else []
    candidates += [Path(on_path)] if on_path else []
    candidates += sorted(Path("/usr/lib/jvm").glob("*/bin/java"))
    return next((java for java in candidates if _java_version(java) >= OLDEST_JAVA), None)


def _java_version(java: Path) -> int:
    try:
        told = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=30, check=False
        ).stderr
    except OSError:
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', told)
    return int(found[1]) if found else 0


def jar_folder() -> Path:
    """Where the jars are or will be: a folder of the user's cache that the content of `pom.xml` names."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    content = hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
    return cache / "adgovernor" / f"kafka-{kafka_version()}-{content}"


def fetch_jars() -> None:
    """Have Maven fetch the jars if they are not there; raises ServerFailed with Maven's words when it cannot."""
    folder = jar_folder()
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as partial:
        libraries = Path(partial) / "libs"
        # --strict-checksums: a jar that is not what its repository says is refused, not warned about.
        command = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", "--file", str(_POM),
                   "dependency:copy-dependencies", f"-DoutputDirectory={libraries}"]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_FETCH_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"Maven did not fetch Kafka's jars in {_FETCH_TIMEOUT_S:.0f} s") from None
        if done.returncode != 0:
            raise ServerFailed(f"Maven could not fetch Kafka's jars:\n{(done.stdout + done.stderr)[-3000:]}")
        try:
            libraries.rename(folder)
        except OSError:
            if not folder.is_dir():  # Otherwise another process was quicker; its jars are the same.
                raise


@dataclass(frozen=True, slots=True)
class LocalKafka:
    """Running brokers. Each of `brokers` can be killed, paused and started again on its data."""

    bootstrap: str
    brokers: tuple[Supervised, ...]
    ports: tuple[int, ...]
    listeners: Mapping[str, str] = field(default_factory=dict)
    """Bootstrap address of each further listener, by name."""

    def start_again(self, index: int) -> None:
        """Start a broker that died, on its data, and wait until it serves."""
        self.brokers[index].start()
        _wait_ready(self.brokers[index], self.ports[index])

    def stop(self) -> None:
        """Kill all brokers and delete their data."""
        for broker in self.brokers:
            broker.stop()


def start_kafka(
    brokers: int = 1,
    *,
    heap_mb: int = TEST_HEAP_MB,
    settings: Mapping[str, str] | None = None,
    kept: bool = False,
    listeners: Mapping[str, str] | None = None,
    scram_users: Mapping[str, str] | None = None,
) -> LocalKafka:
    """Start a cluster of combined brokers and controllers on free ports and wait until all serve.

    `settings` are laid over the broker's own; `listeners` are further ones of the first broker, name to security
    protocol; `scram_users` have these passwords. Raises ServerFailed when there is no Java, the jars cannot be fetched
    or a broker does not start, with the tail of its log.
    """
    fetch_jars()
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        try:
            return _start_kafka(brokers, heap_mb, settings or {}, kept, listeners or {}, scram_users or {})
        except PortTaken:
            if attempt == _PORT_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _start_kafka(
    count: int,
    heap_mb: int,
    settings: Mapping[str, str],
    kept: bool,
    listeners: Mapping[str, str],
    scram_users: Mapping[str, str],
) -> LocalKafka:
    chosen = free_ports(2 * count + len(listeners))
    ports, controller_ports = chosen[:count], chosen[count : 2 * count]
    further = dict(zip(listeners, chosen[2 * count :], strict=True))
    java = find_java()
    if java is None:
        raise ServerFailed(f"Kafka needs Java {OLDEST_JAVA} or newer and there is none")
    jvm = [
        str(java),
        *JVM_OPTIONS,
        "-cp",
        f"{jar_folder()}/*",
        f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}",
    ]
    storage = _storage_options(controller_ports, scram_users)
    started: list[Supervised] = []
    formatting: list[subprocess.Popen[bytes]] = []
    try:
        for node, (port, controller_port) in enumerate(zip(ports, controller_ports, strict=True), 1):
            values = {
                **COMMON_SETTINGS,
                **internal_replication(count),
                **(_SEVERAL_BROKERS if count > 1 else {}),
                "process.roles": "broker,controller",
                "node.id": str(node),
                "controller.quorum.bootstrap.servers": ",".join(f"127.0.0.1:{at}" for at in controller_ports),
                "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
                **(_with_listeners(port, controller_port, listeners, further) if node == 1 else {}),
                **settings,
            }
            broker = _describe(node, values, [*jvm, *heap_options(heap_mb)], kept=kept)
            started.append(broker)
            formatting.append(_format(broker, [*jvm, *heap_options(TEST_HEAP_MB)], storage))
        for broker, process in zip(started, formatting, strict=True):
            _wait_formatted(broker, process)
        for broker in started:
            broker.start()
        for broker, port in zip(started, ports, strict=True):
            _wait_ready(broker, port)
    except BaseException:
        for process in formatting:
            process.kill()
            process.wait()
        for broker in started:
            broker.stop()
        raise
    return LocalKafka(
        ",".join(f"127.0.0.1:{port}" for port in ports),
        tuple(started),
        tuple(ports),
        {name: f"127.0.0.1:{port}" for name, port in further.items()},
    )


def _describe(node: int, values: Mapping[str, str], java: Sequence[str], *, kept: bool) -> Supervised:
    """A broker with its settings in a directory of its own, not yet started."""
    directory = Path(tempfile.mkdtemp(prefix=f"adgovernor-kafka-{node}-"))
    properties = directory / _PROPERTIES
    written = {"log.dirs": str(directory / "data"), **values}
    properties.write_text("".join(f"{name}={value}\n" for name, value in written.items()))
    return Supervised(f"kafka-{node}", [*java, "kafka.Kafka", str(properties)], directory, kept=kept)


def _storage_options(controller_ports: Sequence[int], scram_users: Mapping[str, str]) -> list[str]:
    """What the storage of every broker of one cluster is formatted with."""
    voters = ",".join(
        f"{node}@127.0.0.1:{port}:{_kafka_id()}" for node, port in enumerate(controller_ports, 1)
    )
    users = [
        word
        for name, password in scram_users.items()
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for word in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
    ]
    return ["--cluster-id", _kafka_id(), "--initial-controllers", voters, *users]


def _format(broker: Supervised, java: Sequence[str], storage: Sequence[str]) -> subprocess.Popen[bytes]:
    """Begins to format a broker's storage."""
    tool = [*java, "kafka.tools.StorageTool", "format", *storage]
    with broker.log.open("wb") as log:
        return subprocess.Popen(
            [*tool, "--config", str(broker.directory / _PROPERTIES)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _wait_formatted(broker: Supervised, process: subprocess.Popen[bytes]) -> None:
    try:
        if process.wait(_FORMAT_TIMEOUT_S) == 0:
            return
        why = "could not be formatted"
    except subprocess.TimeoutExpired:
        why = f"was not formatted within {_FORMAT_TIMEOUT_S:.0f} s"
    raise ServerFailed(f"the storage of {broker.name} {why}\n{broker.log_tail()}")


def _with_listeners(
    port: int, controller_port: int, protocols: Mapping[str, str], ports: Mapping[str, int]
) -> dict[str, str]:
    """The settings of a broker with further listeners."""
    own = [f"PLAINTEXT://127.0.0.1:{port}", *(f"{name}://127.0.0.1:{at}" for name, at in ports.items())]
    protocol_map = [COMMON_SETTINGS["listener.security.protocol.map"]]
    protocol_map += [f"{name}:{protocol}" for name, protocol in protocols.items()]
    return {
        "listeners": ",".join([*own, f"CONTROLLER://127.0.0.1:{controller_port}"]),
        "advertised.listeners": ",".join(own),
        "listener.security.protocol.map": ",".join(protocol_map),
    }


_SEVERAL_BROKERS = {
    "num.network.threads": "2",
    "num.io.threads": "4",
    # A killed leader is replaced after 4-6 s instead of 9-10 s.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


def _kafka_id() -> str:
    """An id in Kafka's form, base64 of 16 bytes; one that begins with a dash would read as an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _wait_ready(broker: Supervised, port: int) -> None:
    def serves() -> bool:
        if "Kafka Server started" not in broker.output():
            return False
        with socket.socket() as connection:
            connection.settimeout(1.0)
            return connection.connect_ex(("127.0.0.1", port)) == 0

    broker.wait_ready(serves, _READY_TIMEOUT_S)
