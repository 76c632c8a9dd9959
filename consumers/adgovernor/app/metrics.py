"""Prometheus metrics of a worker, fed by the engines block by block; and the few log lines that belong to them.

Counters have no shard in their labels, so that a worker's series stay few; gauges of a shard go when it goes.
Amounts are in micro-units, times in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from adgovernor.contracts import topics
from adgovernor.runtime.counts import Counts
from adgovernor.runtime.observer import Observer

log = structlog.get_logger("adgovernor.shard")

_LATENCY_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TAKEOVER_S: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_EVENTS: Final = (1, 5, 10, 50, 100, 250, 500, 1_000, 2_000, 5_000)
_KNOWN_CAMPAIGNS: Final = 100_000
"""How many campaigns' currencies are remembered, so that spend can be counted by currency."""
UNKNOWN_CURRENCY: Final = "unknown"


class Metrics(Observer):
    """A worker's metrics; an `Observer` of its engines."""

    def __init__(self, *, process: bool = True) -> None:
        registry = self.registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"adgovernor_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"adgovernor_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"adgovernor_{name}", text, labels, buckets=buckets, registry=registry)

        self._requests = counter("requests", "Ad requests handled, repeated ones included.")
        self._records = counter("records", "Ledger records by what happened.", "kind")
        self._decisions = counter("decisions", "Decisions: filled, partial or no_fill.", "outcome")
        self._degraded = counter("degraded_decisions", "Decisions made without the person's history.")
        self._no_fills = counter("no_fill_slots", "Slots that stayed empty, by reason.", "reason")
        self._reasons = counter("candidate_reasons", "Reasons against losing candidates.", "reason")
        self._reserved = counter("reserved_micros", "Money reserved by decisions.", "currency")
        self._spent = counter("spent_micros", "Money spent by impressions.", "currency")
        self._reservations = counter(
            "reservations",
            "Reservations: opened, settled, expired; late impressions: late, owed, paid, unfunded.",
            "event",
        )
        self._events = counter("public_events", "Events published, by topic.", "topic")
        self._dead = counter("dead_letters", "Inputs that could not be used, by reason.", "reason")
        self._blocks = counter("blocks", "Appends by their verdict: accepted, void or unknown.", "verdict")
        self._bytes = counter("ledger_bytes", "Bytes of accepted blocks, before compression.")
        self._per_block = histogram("block_events", "Inputs in a block.", _EVENTS)
        self._chunk = histogram(
            "chunk_seconds", "From the first cold read to the acknowledged append.", _LATENCY_S
        )
        self._stages = histogram(
            "stage_seconds", "A block's stages: read, decide, append.", _LATENCY_S, "stage"
        )
        self._publish = histogram("publish_seconds", "Acknowledging a block's outputs.", _LATENCY_S)
        self._outputs = counter("outputs", "Output and side messages acknowledged.")
        self._store = histogram("store_write_seconds", "Writing changes to the store.", _LATENCY_S)
        self._fields = counter("store_fields", "Fields written to the store.")
        self._trail = gauge("store_trail_blocks", "How many blocks the store is behind.", "shard")
        self._dirty = gauge("store_dirty_states", "States not yet in the store.", "shard")
        self._away = gauge(
            "store_away", "1 while the store does not answer, or refuses what is written.", "shard"
        )
        self._wanted = counter("cache_wanted", "Inputs of blocks that needed a cold read.")
        self._missed = counter("cache_missed", "States that were not in memory.")
        self._lag = gauge("lag_events", "Inputs not yet handled.", "topic", "partition")
        self._owned = gauge("shard_owned", "1 while the shard's state is in memory here.", "shard")
        self._height = gauge("shard_height", "Height of the shard's last block.", "shard")
        self._halted = gauge("shard_halted", "1 where a person has to look.", "shard", "reason")
        self._takeovers = counter("takeovers", "Times a shard was taken into memory, by why.", "reason")
        self._takeover = histogram("takeover_seconds", "Taking a shard into memory.", _TAKEOVER_S)
        self._currencies: dict[str, str] = {}
        self._lags: dict[str, set[str]] = {}
        self._heights: dict[str, int] = {}
        self._halts: dict[str, str] = {}
        self._without_store: set[str] = set()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def without_store(self) -> list[str]:
        """The shards whose store does not answer."""
        return sorted(self._without_store)

    # --- Observer -----------------------------------------------------------------------------------------

    def block_accepted(
        self,
        shard: str,
        *,
        height: int,
        events: int,
        size: int,
        counts: Counts,
        read_s: float,
        decide_s: float,
        append_s: float,
    ) -> None:
        """See `Observer`."""
        self._blocks.labels("accepted").inc()
        self._bytes.inc(size)
        self._per_block.observe(events)
        self._chunk.observe(read_s + decide_s + append_s)
        for stage, seconds in (("read", read_s), ("decide", decide_s), ("append", append_s)):
            self._stages.labels(stage).observe(seconds)
        self._show_height(shard, height)
        self._count(counts)

    def published(self, shard: str, *, height: int, outputs: int, seconds: float) -> None:
        """See `Observer`."""
        self._outputs.inc(outputs)
        self._publish.observe(seconds)

    def block_void(self, shard: str, *, height: int) -> None:
        """See `Observer`."""
        self._blocks.labels("void").inc()
        log.warning("another owner's block came first", shard=shard, height=height)

    def append_unknown(self, shard: str, *, height: int, error: str) -> None:
        """See `Observer`."""
        self._blocks.labels("unknown").inc()
        log.warning("an append was not acknowledged", shard=shard, height=height, error=error)

    def took_over(self, shard: str, *, height: int, folded: int, seconds: float, reason: str) -> None:
        """See `Observer`."""
        # What follows a colon is one error's own words, and would make a series of its own.
        self._takeovers.labels(reason.split(":")[0]).inc()
        self._takeover.observe(seconds)
        self._owned.labels(shard).set(1)
        self._show_height(shard, height)
        log.info(
            "took the shard over",
            shard=shard,
            height=height,
            folded=folded,
            seconds=round(seconds, 3),
            reason=reason,
        )

    def halted(self, shard: str, *, reason: str, message: str) -> None:
        """See `Observer`."""
        self._halted.labels(shard, reason).set(1)
        self._halts[shard] = reason
        log.error("the shard halted", shard=shard, reason=reason, message=message)

    def halt_left(self, shard: str) -> None:
        """See `Observer`."""
        self._halted.remove(shard, self._halts.pop(shard))

    def store_written(self, shard: str, *, height: int, fields: int, seconds: float) -> None:
        """See `Observer`."""
        self._fields.inc(fields)
        self._store.observe(seconds)
        if shard in self._heights:
            self._trail.labels(shard).set(max(0, self._heights[shard] - height))

    def store_trail(self, shard: str, *, blocks: int, dirty: int, away: bool) -> None:
        """See `Observer`."""
        self._trail.labels(shard).set(blocks)
        self._dirty.labels(shard).set(dirty)
        self._away.labels(shard).set(away)
        (self._without_store.add if away else self._without_store.discard)(shard)

    def cold_read(self, shard: str, *, wanted: int, asked: int) -> None:
        """See `Observer`."""
        self._wanted.inc(wanted)
        self._missed.inc(asked)

    def lag(self, shard: str, lags: Mapping[str, int]) -> None:
        """See `Observer`."""
        partition = str(topics.partition_of_shard(shard))
        known = self._lags.setdefault(shard, set())
        for topic, behind in lags.items():
            known.add(topic)
            self._lag.labels(topic, partition).set(behind)

    def released(self, shard: str) -> None:
        """See `Observer`."""
        partition = str(topics.partition_of_shard(shard))
        self._heights.pop(shard, None)
        self._without_store.discard(shard)
        for topic in self._lags.pop(shard, set()):
            self._lag.remove(topic, partition)
        for gauge in (self._trail, self._dirty, self._away, self._owned, self._height):
            _forget(gauge, shard)
        log.info("let the shard go", shard=shard)

    def _show_height(self, shard: str, height: int) -> None:
        self._heights[shard] = height
        self._height.labels(shard).set(height)

    # --- Counting -------------------------------------------------------------------------------------------

    def _count(self, counts: Counts) -> None:
        """One update of each series that a block touches."""
        known = self._currencies
        for campaign, currency in counts.currencies.items():
            if campaign not in known and len(known) < _KNOWN_CAMPAIGNS:
                known[campaign] = currency
        for campaign, amount in counts.spent.items():
            self._spent.labels(known.get(campaign, UNKNOWN_CURRENCY)).inc(amount)
        self._requests.inc(counts.kinds.get("decided", 0) + counts.repeated)
        self._degraded.inc(counts.degraded)
        for series, tally in (
            (self._records, counts.kinds),
            (self._decisions, counts.outcomes),
            (self._no_fills, counts.no_fills),
            (self._reasons, counts.reasons),
            (self._reserved, counts.reserved),
            (self._reservations, counts.reservations),
            (self._events, counts.events),
            (self._dead, counts.dead),
        ):
            for label, amount in tally.items():
                series.labels(label).inc(amount)


def _forget(gauge: Gauge, label: str) -> None:
    # A shard that was never seen by this gauge has nothing to forget.
    try:
        gauge.remove(label)
    except KeyError:
        return
