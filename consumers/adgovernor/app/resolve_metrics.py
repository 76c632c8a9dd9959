"""Prometheus metrics of the ``resolve`` stage."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from adgovernor.sessions.resolve_stage import Outcome, ResolveObserver, Retried

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0)


class ResolveMetrics(ResolveObserver):
    """A `ResolveObserver` that counts."""

    def __init__(self, *, process: bool = True) -> None:
        registry = self.registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
        self._resolved = Counter(
            "adgovernor_resolved_tags",
            "Tags followed: ad, no_ad; stale: too old to be.",
            ["outcome"],
            registry=registry,
        )
        self._errors = Counter(
            "adgovernor_resolve_errors", "Errors along chains, by VAST's code.", ["code"], registry=registry
        )
        self._seconds = Histogram(
            "adgovernor_resolve_seconds", "Following one tag to its end.", buckets=_SECONDS, registry=registry
        )
        self._pending = Gauge("adgovernor_resolve_pending", "Decisions being worked on.", registry=registry)
        self._partitions = Gauge(
            "adgovernor_resolve_partitions", "This stage's share of the decisions.", registry=registry
        )
        self._retries = Counter(
            "adgovernor_resolve_retries", "What failed and was tried again.", ["what"], registry=registry
        )

    def resolved(self, outcome: Outcome, seconds: float, codes: tuple[int, ...]) -> None:
        """See `ResolveObserver.resolved`."""
        self._resolved.labels(outcome).inc()
        if outcome != "stale":
            self._seconds.observe(seconds)
        for code in codes:
            self._errors.labels(str(code)).inc()

    def pending(self, decisions: int) -> None:
        """See `ResolveObserver.pending`."""
        self._pending.set(decisions)

    def share(self, partitions: int) -> None:
        """See `ResolveObserver.share`."""
        self._partitions.set(partitions)

    def retried(self, what: Retried) -> None:
        """See `ResolveObserver.retried`."""
        self._retries.labels(what).inc()

    def text(self) -> bytes:
        """What a scraper reads."""
        return generate_latest(self.registry)
