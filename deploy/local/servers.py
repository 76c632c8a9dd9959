"""A real Kafka and a real Redis for the demo, the tests and the benchmarks.

    python deploy/local/servers.py prepare                  install and download what is missing
    python deploy/local/servers.py run -- COMMAND...        run COMMAND with the servers' addresses in its environment,
                                                            as tests read them
    python deploy/local/servers.py run --export app -- COMMAND...   the same, as adgovernor reads them

Each server comes from the first of: an address in the environment; a container; a local process. Missing system
packages are installed by root and named to everybody else. Nothing started here outlives the run, however it ends,
unless --keep is given. All messages go to standard error: standard output is the command's.

Exit codes of `run`: the command's own; 69 when servers cannot be had here (the command was not run); 70 when a
server failed to start.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import docker_servers
from local_kafka import (
    BENCH_HEAP_MB,
    OLDEST_JAVA,
    TEST_HEAP_MB,
    LocalKafka,
    fetch_jars,
    find_java,
    jar_folder,
    start_kafka,
)
from local_postgres import LocalPostgres, find_postgres, start_postgres
from local_redis import (
    LocalRedis,
    LocalSentinel,
    find_redis,
    redis_command,
    start_redis,
    start_redis_cluster,
    start_redis_sentinel,
)
from supervised import ServerFailed, Supervised, die_with_parent

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

__all__ = [
    "BENCH_HEAP_MB",
    "TEST_HEAP_MB",
    "LocalKafka",
    "LocalPostgres",
    "LocalRedis",
    "LocalSentinel",
    "Server",
    "ServerFailed",
    "ServersUnavailable",
    "Supervised",
    "obtain_kafka",
    "obtain_redis",
    "obtain_redis_cluster",
    "prepare",
    "redis_command",
    "require_local",
    "start_kafka",
    "start_postgres",
    "start_redis",
    "start_redis_cluster",
    "start_redis_sentinel",
]

KAFKA_VARIABLE = "ADGOVERNOR_TEST_KAFKA"
REDIS_VARIABLE = "ADGOVERNOR_TEST_REDIS"
REDIS_CLUSTER_VARIABLE = "ADGOVERNOR_TEST_REDIS_CLUSTER"
REQUIRE_VARIABLE = "ADGOVERNOR_TEST_REQUIRE_SERVERS"
"""Set for tests that run under this script: a server that cannot be had is then a failure, not a skip."""
APP_KAFKA_VARIABLE = "ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS"
APP_REDIS_VARIABLE = "ADGOVERNOR_REDIS__URL"
ACCEPTED: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "test": ([KAFKA_VARIABLE], [REDIS_VARIABLE]),
    "app": ([KAFKA_VARIABLE, APP_KAFKA_VARIABLE], [REDIS_VARIABLE, APP_REDIS_VARIABLE]),
}
"""Whose addresses in the environment are taken; tests never take those that the application would use."""
PROFILES: Mapping[str, int] = {"test": TEST_HEAP_MB, "bench": BENCH_HEAP_MB}

EXIT_UNAVAILABLE, EXIT_FAILED = 69, 70
_APT_TIMEOUT_S = 900
_COMMAND_STOP_TIMEOUT_S = 45.0
"""How long the command may take to end after a signal; a worker drains for up to 30 s."""


class ServersUnavailable(RuntimeError):
    """Servers cannot be had on this machine as it is; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers: its address, where it comes from, how to end it, and the shell command that does so."""

    address: str
    source: str
    stop: Callable[[], None]
    stop_command: str | None = None


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def obtain_kafka(
    *, profile: str = "test", kept: bool = False, variables: Sequence[str] = (KAFKA_VARIABLE,)
) -> Server:
    """Get a Kafka: from one of the environment's `variables`, a container or local processes.

    Raises ServersUnavailable when something must be installed first and may not be, ServerFailed when a start fails.
    """

    def in_container() -> Server:
        return _contained(*docker_servers.start_kafka_container(PROFILES[profile], kept=kept))

    def local() -> Server:
        require_local(kafka=True)
        kafka = start_kafka(heap_mb=PROFILES[profile], kept=kept)
        return _local(kafka.bootstrap, kafka.brokers, kafka.stop)

    return _from_environment(variables) or _container_or_local("Kafka", in_container, local)


def obtain_redis(*, kept: bool = False, variables: Sequence[str] = (REDIS_VARIABLE,)) -> Server:
    """Get a Redis, as `obtain_kafka` gets a Kafka; the address is a `redis://` URL."""

    def local() -> Server:
        require_local(redis=True)
        redis = start_redis(kept=kept)
        return _local(redis.url, redis.processes, redis.stop)

    return _from_environment(variables) or _container_or_local(
        "Redis", lambda: _contained(*docker_servers.start_redis_container(kept=kept)), local
    )


def obtain_redis_cluster() -> Server:
    """Get a Redis Cluster of three masters, as `obtain_redis` gets one server; the address is of one of its nodes."""

    def local() -> Server:
        require_local(redis=True)
        redis = start_redis_cluster()
        return _local(redis.url, redis.processes, redis.stop)

    return _from_environment([REDIS_CLUSTER_VARIABLE]) or _container_or_local(
        "Redis Cluster", lambda: _contained(*docker_servers.start_redis_cluster_container()), local
    )


def _from_environment(variables: Sequence[str]) -> Server | None:
    given = next((name for name in variables if os.environ.get(name)), None)
    return Server(os.environ[given], f"${given}", lambda: None) if given else None


def _container_or_local(what: str, in_container: Callable[[], Server], local: Callable[[], Server]) -> Server:
    if _docker_serves() and not _given_up:
        try:
            return in_container()
        except ServerFailed as error:
            say(f"{what}: {error}\ntrying a local process instead")
            _given_up.append(what)
    return local()


_given_up: list[str] = []
"""What could not be had in a container. The others are not tried any more: each may wait for a registry in vain."""


@functools.cache
def _docker_serves() -> bool:
    """Whether an engine answers; where one should and does not, the person at the terminal is told why, once."""
    reason = docker_servers.no_docker_because()
    if reason is not None and docker_servers.engine_wanted():
        say(f"no containers: {reason}")
    return reason is None


def _contained(address: str, container: DockerContainer) -> Server:
    # Its volumes have no names and stay behind unless they are named here.
    command = f"docker rm --force --volumes {container.get_wrapped_container().short_id}"
    return Server(address, "container", container.stop, command)


def _local(address: str, processes: Sequence[Supervised], stop: Callable[[], None]) -> Server:
    pids = " ".join(str(process.supervisor_pid) for process in processes)
    return Server(address, "local process", stop, f"kill {pids}")


def prepare(export: str = "test") -> None:
    """Install and download what servers need, so that starting them is all that is left. Raises ServersUnavailable."""
    kafka, redis = (_from_environment(names) is None for names in ACCEPTED[export])
    if not (kafka or redis):
        return
    if _docker_serves():
        images = [docker_servers.kafka_image()] * kafka + [docker_servers.REDIS_IMAGE] * redis
        try:
            docker_servers.pull(*images)
            return
        except ServerFailed as error:
            say(f"{error}\npreparing local processes instead")
    require_local(kafka=kafka, redis=redis)


def require_local(*, kafka: bool = False, redis: bool = False, postgres: bool = False) -> None:
    """See to it that local processes can be started: as root install what is missing, else say what to install."""
    missing = _missing_packages(kafka, redis, postgres)
    if missing:
        _install(missing)
        still = _missing_packages(kafka, redis, postgres)
        if still:
            raise ServersUnavailable(
                f"{', '.join(still)}: installed, yet not usable (no redis-server, no postgres, no mvn, or "
                f"no Java {OLDEST_JAVA}+ was found afterwards)"
            )
    if kafka:
        if not jar_folder().is_dir():
            say("fetching Apache Kafka's jars (44 MB, once)...")
        try:
            fetch_jars()
        except ServerFailed as error:
            raise ServersUnavailable(str(error)) from error


def _missing_packages(kafka: bool, redis: bool, postgres: bool) -> list[str]:
    missing = []
    if redis and find_redis() is None:
        missing.append("redis-server")
    if postgres and find_postgres() is None:
        missing.append("postgresql")
    if kafka and find_java() is None:
        missing.append("default-jre-headless")
    if kafka and not jar_folder().is_dir() and shutil.which("mvn") is None:
        missing.append("maven")
    return missing


def _install(packages: Sequence[str]) -> None:
    """Have apt-get install packages, without starting the services that they bring."""
    by_hand = f"apt-get install {' '.join(packages)}"
    reason = docker_servers.no_docker_because() or "no container can take their place"
    if shutil.which("apt-get") is None:
        raise ServersUnavailable(
            f"{reason}, and local servers need what Debian calls {', '.join(packages)}: install them"
        )
    if os.geteuid() != 0:
        raise ServersUnavailable(f"{reason}, and local servers need: sudo {by_hand}")
    say(f"installing {', '.join(packages)}...")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services_started():
        for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
            try:
                done = subprocess.run(
                    ["apt-get", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                    env=environment, timeout=_APT_TIMEOUT_S, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise ServersUnavailable(
                    f"apt-get {arguments[0]} took longer than {_APT_TIMEOUT_S} s"
                ) from None
            if done.returncode != 0:
                raise ServersUnavailable(f"`{by_hand}` failed:\n{(done.stdout + done.stderr)[-2000:]}")


@contextlib.contextmanager
def _no_services_started() -> Iterator[None]:
    """Keep Debian from starting an installed package's service: it would outlive the run and hold its port."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():  # Somebody else's policy stands.
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


def _run(options: argparse.Namespace) -> int:
    kafka_names, redis_names = ACCEPTED[options.export]
    # A SIGTERM while servers start must run the clean-up below, so it becomes an exception until the command runs.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop_starting)
    servers: list[Server] = []
    try:
        servers.append(obtain_kafka(profile=options.profile, kept=options.keep, variables=kafka_names))
        servers.append(obtain_redis(kept=options.keep, variables=redis_names))
        kafka, redis = servers
        say(
            f"Kafka at {kafka.address} ({kafka.source}), Redis at {_without_password(redis.address)} ({redis.source})"
        )
        exported = (
            {APP_KAFKA_VARIABLE: kafka.address, APP_REDIS_VARIABLE: redis.address}
            if options.export == "app"
            else {KAFKA_VARIABLE: kafka.address, REDIS_VARIABLE: redis.address, REQUIRE_VARIABLE: "1"}
        )
        return _run_command(options.command, {**os.environ, **exported})
    finally:
        stop_commands = [server.stop_command for server in servers if server.stop_command]
        if not options.keep:
            for server in servers:
                server.stop()
        elif stop_commands:
            say("the servers go on; stop them and delete their data with:")
            say("    " + "; ".join(stop_commands))


def _without_password(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _stop_starting(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command in the foreground, hand signals on to it and return its exit code as a shell would."""
    asked_to_end = False
    child = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent(signal.SIGTERM))

    def hand_on(number: int, _frame: FrameType | None) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        # A terminal has sent Ctrl-C to the command already; a second one would cut its clean-up short.
        if number != signal.SIGINT or not _in_foreground():
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, hand_on)
    ending_s = 0.0
    while True:
        try:
            code = child.wait(1.0)
        except subprocess.TimeoutExpired:
            ending_s += asked_to_end
            if ending_s > _COMMAND_STOP_TIMEOUT_S:
                say(f"the command did not end in {_COMMAND_STOP_TIMEOUT_S:.0f} s: killing it")
                child.kill()
        else:
            return code if code >= 0 else 128 - code


def _in_foreground() -> bool:
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="action")
    ready = commands.add_parser(
        "prepare", help="install and download what is missing; exit code 69 when it cannot"
    )
    run = commands.add_parser("run", help="run a command with the servers' addresses in its environment")
    for command in (ready, run):
        command.add_argument(
            "--export", choices=ACCEPTED, default="test",
            help=f"names of the addresses in the environment: test ({KAFKA_VARIABLE}, {REDIS_VARIABLE}; default) or "
            f"app ({APP_KAFKA_VARIABLE}, {APP_REDIS_VARIABLE})",
        )  # fmt: skip
    run.add_argument(
        "--profile", choices=PROFILES, default="test", help="size of the broker: 192 MB or 1 GB of heap"
    )
    run.add_argument("--keep", action="store_true", help="leave the servers running and say how to stop them")
    run.add_argument("command", nargs="+", metavar="COMMAND", help="the command and its arguments, after --")
    options = parser.parse_args(arguments)
    try:
        if options.action == "prepare":
            prepare(options.export)
            return 0
        return _run(options)
    except ServersUnavailable as error:
        say(f"servers cannot be had here: {error}")
        return EXIT_UNAVAILABLE
    except ServerFailed as error:
        say(str(error))
        return EXIT_FAILED


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
