"""The alert rules name metrics that exist."""

from __future__ import annotations

import re
from pathlib import Path

from adgovernor.app.metrics import Metrics

ALERTS = Path(__file__).parents[3] / "deploy" / "prometheus" / "alerts.yaml"


def test_alerts_name_metrics_that_a_worker_serves() -> None:
    """Every adgovernor_ metric in an alert's expression is in the registry of a worker."""
    served = set(re.findall(r"^# TYPE (\S+)", Metrics().text().decode(), re.M))
    named = set(re.findall(r"\badgovernor_[a-z_]+", ALERTS.read_text()))
    assert named
    assert named <= served, named - served
