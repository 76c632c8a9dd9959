"""Whole workers, and the commands beside them, on every kind of server that settings can name: Redis behind Sentinel,
Redis Cluster, Redis with TLS and a password, Kafka with client certificates, Kafka with SASL."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates, needs_openssl
from deployments import Deployment, until
from required import required

import servers
from supervised import free_ports

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

PEOPLE = 40


class Site(Deployment):
    """A deployment that workers are started for and killed in."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(f"s{uuid.uuid4().hex[:10]}", folder, settings)
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self) -> subprocess.Popen[bytes]:
        """One more worker."""
        self.workers.append(self.start(f"worker-{len(self.workers)}", "run"))
        return self.workers[-1]

    def stop(self) -> None:
        """Ends what still runs."""
        for process in self.workers:
            process.kill()
            process.wait()

    def proved(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The audit's report, once it is green and says what is wanted."""
        return until(
            lambda: report if holds(report := self.json("audit")) else None, "what the audit should say"
        )

    def publish(self, first: int) -> None:
        """A request of each person, of an id of its own."""
        path = self.folder / f"requests-{first}.jsonl"
        with path.open("w") as file:
            for number in range(PEOPLE):
                request = {
                    "request_id": f"r{first + number}",
                    "time_ms": int(time.time() * 1000),
                    "user_id": f"user{number}",
                    "candidates": [{"campaign_id": "c1", "creative_id": "x"}],
                }
                file.write(json.dumps(request) + "\n")
        self.run("publish", "ad-requests", str(path))


Start = Callable[[dict[str, str]], Site]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Makes a site whose workers end with the test."""
    sites: list[Site] = []

    def make(settings: dict[str, str]) -> Site:
        sites.append(Site(tmp_path, settings))
        return sites[-1]

    yield make
    for site in sites:
        site.stop()


def decided(count: int) -> Callable[[dict[str, Any]], bool]:
    """Whether a report tells of so many decisions."""
    return lambda report: report["counted"].get("outputs on decisions", 0) == count


def assert_it_works(site: Site) -> None:
    """A worker decides, is killed; another takes its shards over and decides; the audit is green throughout, Redis
    included, and a cap that the first one counted for holds at the second."""
    site.run("topics", "create", "--partitions", "2")
    campaign = {
        "campaign_id": "c1",
        "account_id": "a1",
        "budget_micros": 10**9,
        "price_micros": 1000,
        "caps": [{"scope": "campaign", "window": "lifetime", "limit": 1}],
    }
    (site.folder / "campaigns.json").write_text(json.dumps([campaign]))
    first = site.start_worker()
    site.run("campaigns", "apply", "campaigns.json")
    site.proved(lambda report: report["campaigns"].get("c1", {}).get("lease_micros", 0) > 0)
    site.publish(0)
    report = site.proved(decided(PEOPLE))
    assert report["campaigns"]["c1"]["reserved_micros"] == PEOPLE * 1000
    first.kill()
    first.wait()
    site.publish(PEOPLE)
    site.start_worker()
    report = site.proved(decided(2 * PEOPLE))
    money = report["campaigns"]["c1"]
    assert money["reserved_micros"] + money["spent_micros"] <= PEOPLE * 1000
    assert "skipped" not in report["checks"]["store"]
    assert report["findings"] == []


def test_behind_sentinel(start: Start, kafka_bootstrap: str, own_sentinels: servers.LocalSentinel) -> None:
    """A worker whose Redis is named by its Sentinels."""
    hosts = ",".join(f"{host}:{port}" for host, port in own_sentinels.sentinels)
    url = f"redis+sentinel://{hosts}/{own_sentinels.master_name}"
    assert_it_works(start({"KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap, "REDIS__URL": url}))


def test_on_a_cluster(start: Start, kafka_bootstrap: str, redis_cluster_url: str) -> None:
    """A worker whose shards are spread over the masters of a Cluster."""
    url = redis_cluster_url.replace("redis://", "redis+cluster://").removesuffix("/0")
    assert_it_works(start({"KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap, "REDIS__URL": url}))


@needs_openssl
def test_redis_with_tls_and_a_password(start: Start, kafka_bootstrap: str, tmp_path: Path) -> None:
    """A worker that trusts one authority, shows a certificate and gives a password; without it nothing goes."""
    make_certificates(tmp_path)
    with required():
        servers.require_local(redis=True)
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    words = [word for kind, name in files.items() for word in (f"--tls-{kind}-file", str(tmp_path / name))]
    (port,) = free_ports(1)
    redis = servers.start_redis(settings=["--tls-port", str(port), *words])
    servers.redis_command(redis.ports[0], "CONFIG", "SET", "requirepass", "geheim")
    try:
        settings = {
            "KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap,
            "REDIS__URL": f"rediss://127.0.0.1:{port}/0",
            "REDIS__CA_FILE": str(tmp_path / "ca.pem"),
            "REDIS__CERT_FILE": str(tmp_path / "server.pem"),
            "REDIS__KEY_FILE": str(tmp_path / "server.key"),
        }
        assert "Authentication required" in start(settings).run("check", "--json", code=3)
        assert_it_works(start({**settings, "REDIS__PASSWORD": "geheim"}))
    finally:
        redis.stop()


@pytest.fixture(scope="module")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[servers.LocalKafka, Path]]:
    """A broker that clients reach by certificate (MTLS), by name and password over TLS (SASL) or without (PLAIN), and
    the folder of the certificates."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    with required():
        servers.require_local(kafka=True)
    (folder / "broker.pem").write_text(
        (folder / "server.key").read_text() + (folder / "server.pem").read_text()
    )
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    plain = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_worker="geheim";'
    kafka = servers.start_kafka(
        listeners={"MTLS": "SSL", "SASL": "SASL_SSL", "PLAIN": "SASL_PLAINTEXT"},
        scram_users={"worker": "geheim"},
        settings={
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(folder / "broker.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(folder / "ca.pem"),
            "listener.name.mtls.ssl.client.auth": "required",
            "listener.name.sasl.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.plain.plain.sasl.jaas.config": plain,
        },
    )
    yield kafka, folder
    kafka.stop()


@needs_openssl
def test_kafka_with_client_certificates(
    start: Start, secured_kafka: tuple[servers.LocalKafka, Path], redis_url: str
) -> None:
    """A worker that shows a certificate; without one the broker refuses it."""
    kafka, folder = secured_kafka
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": kafka.listeners["MTLS"],
        "KAFKA__CA_FILE": str(folder / "ca.pem"),
        "REDIS__URL": redis_url,
    }
    start(settings).run("topics", "list", code=3)
    certificate = {
        "KAFKA__CERT_FILE": str(folder / "server.pem"),
        "KAFKA__KEY_FILE": str(folder / "server.key"),
    }
    assert_it_works(start(settings | certificate))


@needs_openssl
def test_kafka_with_sasl(
    start: Start, secured_kafka: tuple[servers.LocalKafka, Path], redis_url: str
) -> None:
    """A worker that gives a name and a password over TLS (SCRAM); with a wrong password the broker refuses it."""
    kafka, folder = secured_kafka
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": kafka.listeners["SASL"],
        "KAFKA__CA_FILE": str(folder / "ca.pem"),
        "KAFKA__USERNAME": "worker",
        "REDIS__URL": redis_url,
    }
    start({**settings, "KAFKA__PASSWORD": "falsch"}).run("topics", "list", code=3)
    assert_it_works(start({**settings, "KAFKA__PASSWORD": "geheim"}))


@pytest.mark.parametrize(
    ("listener", "mechanism", "wrong"),
    [("SASL", "SCRAM-SHA-256", "PLAIN"), ("PLAIN", "PLAIN", "SCRAM-SHA-512")],
)
def test_each_mechanism_of_sasl(
    start: Start, secured_kafka: tuple[servers.LocalKafka, Path], listener: str, mechanism: str, wrong: str
) -> None:
    """SCRAM with the shorter digest, and PLAIN without TLS; `check` names the setting where the broker has another."""
    kafka, folder = secured_kafka
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": kafka.listeners[listener],
        "KAFKA__USERNAME": "worker",
        "KAFKA__PASSWORD": "geheim",
        **({"KAFKA__CA_FILE": str(folder / "ca.pem")} if listener == "SASL" else {}),
    }
    site = start({**settings, "KAFKA__SASL_MECHANISM": mechanism})
    site.run("topics", "create", "--partitions", "1")
    assert len(json.loads(site.run("topics", "list", "--json"))) > 20
    start({**settings, "KAFKA__SASL_MECHANISM": mechanism, "KAFKA__PASSWORD": "falsch"}).run(
        "topics", "list", code=3
    )
    told = start({**settings, "KAFKA__SASL_MECHANISM": wrong}).run("check", "--json", code=3)
    assert "sasl_mechanism" in told
