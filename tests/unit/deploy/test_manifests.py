"""What deploy/ has for other programs names what this one has: metrics, settings, paths, ports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

import docker_servers
from adgovernor.app.metrics import Metrics
from adgovernor.app.settings import ENVIRONMENT, Settings

DEPLOY = Path(__file__).parents[3] / "deploy"
MANIFEST = DEPLOY / "kubernetes" / "worker.yaml"
COMPOSE = DEPLOY / "compose.yaml"


@pytest.mark.parametrize("name", ["prometheus/alerts.yaml", "grafana/dashboard.json"])
def test_metrics_that_are_looked_at_are_served(name: str) -> None:
    """Every metric that an alert or a panel names is in the registry of a worker."""
    served = set(re.findall(r"^# TYPE (\S+)", Metrics().text().decode(), re.M))
    named = set(re.findall(r"\badgovernor_[a-z_]+", (DEPLOY / name).read_text()))
    named = {metric.removesuffix("_bucket") for metric in named}
    assert named
    assert named <= served, named - served


def test_panels_do_not_lie_on_each_other() -> None:
    """Each panel of the dashboard has a place and an id of its own, and asks something."""
    panels = orjson.loads((DEPLOY / "grafana" / "dashboard.json").read_bytes())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert all(target["expr"] for panel in panels for target in panel["targets"])


@pytest.mark.parametrize("path", [MANIFEST, COMPOSE], ids=lambda path: path.name)
def test_settings_that_are_given_exist(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the manifests put into the environment are settings, and are accepted."""
    given = _environment(path)
    assert given
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.kafka.bootstrap_servers.startswith("kafka:")


def test_services_give_pods_no_variables() -> None:
    """A Service named adgovernor would give its pods ADGOVERNOR_PORT and others, which are no settings and refused."""
    pods = [
        one["spec"]["template"]["spec"]
        for one in yaml.safe_load_all(MANIFEST.read_text())
        if "template" in one.get("spec", {})
    ]
    assert [pod["enableServiceLinks"] for pod in pods] == [False, False]


def test_pods_have_no_more_rights_than_they_need() -> None:
    """Every container is one that a namespace of the standard `restricted` with quotas takes: nobody's root, no
    capability, no token of the cluster's, and it says what it needs."""
    pods = [
        one["spec"]["template"]["spec"]
        for one in yaml.safe_load_all(MANIFEST.read_text())
        if "template" in one.get("spec", {})
    ]
    assert [pod["automountServiceAccountToken"] for pod in pods] == [False, False]
    for container in (each for pod in pods for each in pod["containers"]):
        rights = container["securityContext"]
        assert rights == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
    image = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert "\nUSER 10001\n" in image, "the image and the manifests name the same user"


def test_probes_ask_what_a_worker_answers() -> None:
    """Kubernetes asks the paths and the port that a worker serves by default."""
    container = _worker()["spec"]["template"]["spec"]["containers"][0]
    paths = {
        container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"/healthz", "/readyz"}
    assert container["ports"] == [{"name": "metrics", "containerPort": Settings().metrics_port}]
    asked = _services()["worker"]["healthcheck"]["test"][-1]
    assert f"http://127.0.0.1:{Settings().metrics_port}/readyz" in asked


def test_compose_runs_the_servers_that_tests_run() -> None:
    """The images of compose are those that the tests start."""
    assert _services()["kafka"]["image"] == docker_servers.kafka_image()
    assert _services()["redis"]["image"] == docker_servers.REDIS_IMAGE


def test_a_worker_has_time_to_drain() -> None:
    """Neither Kubernetes nor compose kills a worker that still hands its shards over."""
    drain_s = Settings().engine_for(8).stop_deadline_s
    assert _worker()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 2 * drain_s
    grace = _services()["worker"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > 2 * drain_s


def test_one_worker_has_memory_for_all_shards() -> None:
    """A worker that is left alone takes every shard over, and is not killed for the people that it then keeps."""
    (job,) = [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "Job"]
    partitions = int(job["spec"]["template"]["spec"]["containers"][0]["args"][-1])
    keep = Settings().engine_for(partitions).keep_states
    container = _worker()["spec"]["template"]["spec"]["containers"][0]
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    # People leave memory once an eighth too many are in it; 250 MB are for all else.
    assert partitions * (keep + keep // 8) * 8_192 + 250_000_000 < limit


def _worker() -> dict[str, Any]:
    (found,) = [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "Deployment"]
    return dict(found)


def _services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


def _environment(path: Path) -> dict[str, str]:
    """All settings that a file of manifests gives to this program."""
    found: dict[str, str] = {}

    def look(node: Any) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                if isinstance(name, str) and name.startswith(ENVIRONMENT):
                    found[name] = value
                look(value)
        elif isinstance(node, list):
            for each in node:
                look(each)

    for document in yaml.safe_load_all(path.read_text()):
        look(document)
    return found


def test_every_reason_of_a_halt_says_what_to_do() -> None:
    """A person who finds a shard halted finds its reason in OPERATIONS.md, and no reason there that never comes."""
    called = re.compile(r"""(?:\bhalt\(|\bHalted\(\s*[\w.]+,)\s*"([a-z_]+)",""")
    sources = (DEPLOY.parent / "consumers").rglob("*.py")
    halted = {reason for source in sources for reason in called.findall(source.read_text())}
    rows = re.findall(r"^\| (`.*?`) \|", (DEPLOY / "OPERATIONS.md").read_text(), re.M)
    assert halted == {reason.strip("` ") for row in rows for reason in row.split(",")}
    assert len(halted) > 10
