"""What a worker shows of itself."""

from __future__ import annotations

import asyncio
import socket

import pytest

from adgovernor.app import health
from adgovernor.app import metrics as metrics_module
from adgovernor.app.health import Health, HealthServer
from adgovernor.app.metrics import Metrics
from adgovernor.contracts.errors import BadSettings
from adgovernor.contracts.ledger import Draft
from adgovernor.runtime.counts import Counts


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def _block(metrics: Metrics, shard: str, height: int, drafts: list[Draft]) -> None:
    counts = Counts()
    for draft in drafts:
        counts.add(draft)
    metrics.block_accepted(
        shard,
        height=height,
        events=len(drafts),
        size=100,
        counts=counts,
        read_s=0.001,
        decide_s=0.002,
        append_s=0.003,
    )


def _decided(body: dict[str, object], *deltas: list[object]) -> Draft:
    return Draft({"kind": "decided"}, [list(d) for d in deltas], [["decisions", None, body]])


WINNER = {"campaign_id": "c1", "currency": "EUR", "price_micros": 5}


def test_decisions_are_counted_by_outcome_and_reason() -> None:
    """Filled, partial and empty decisions, their reasons, and what they reserve are each counted."""
    metrics = Metrics(process=False)
    losers = [{"reasons": [{"code": "capped"}, {"code": "capped"}]}, {"reasons": [{"code": "outbid"}]}]
    _block(
        metrics,
        "u0",
        7,
        [
            _decided(
                {"slots": [{"slot": 0, "winner": WINNER}], "losers": losers}, ["reserve", 0, "c1", 0, 5]
            ),
            _decided({"slots": [{"slot": 0, "winner": WINNER}, {"slot": 1, "no_fill": "no_candidate"}]}),
            _decided({"slots": [{"slot": 0, "no_fill": "late"}], "degraded": True}),
            Draft({"kind": "duplicate", "height": 1, "index": 0}),
            Draft({"kind": "duplicate", "event": "impression"}),
        ],
    )

    assert _value(metrics, "adgovernor_requests_total") == 4
    for outcome in ("filled", "partial", "no_fill"):
        assert _value(metrics, "adgovernor_decisions_total", outcome=outcome) == 1
    assert _value(metrics, "adgovernor_candidate_reasons_total", reason="capped") == 2
    assert _value(metrics, "adgovernor_no_fill_slots_total", reason="late") == 1
    assert _value(metrics, "adgovernor_reserved_micros_total", currency="EUR") == 10
    assert _value(metrics, "adgovernor_degraded_decisions_total") == 1
    assert _value(metrics, "adgovernor_reservations_total", event="opened") == 1
    assert _value(metrics, "adgovernor_stage_seconds_sum", stage="append") == pytest.approx(0.003)


def test_spend_is_counted_by_currency() -> None:
    """What is settled, late or paid afterwards counts in its campaign's currency, and what expires does not."""
    metrics = Metrics(process=False)
    _block(metrics, "u0", 1, [_decided({"slots": [{"slot": 0, "winner": WINNER}]})])
    deltas = [
        ["settle", "r1", 0, "c1", 0, 5, 4],
        ["late", "r2", 0, "c1", 0, 5],
        ["paid", "r3", 0, "c1", 0, 5],
        ["expire", "r4", 0, "c1", 0, 5],
        ["settle", "r5", 0, "other", 0, 9, 9],
    ]
    _block(metrics, "u0", 2, [Draft({"kind": "settled"}, deltas)])

    assert _value(metrics, "adgovernor_spent_micros_total", currency="EUR") == 14
    assert _value(metrics, "adgovernor_spent_micros_total", currency="unknown") == 9
    assert _value(metrics, "adgovernor_reservations_total", event="expired") == 1


def test_memory_of_currencies_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spend of campaigns beyond those that are remembered counts, in an unknown currency."""
    monkeypatch.setattr(metrics_module, "_KNOWN_CAMPAIGNS", 1)
    metrics = Metrics(process=False)
    for name in ("c1", "c2"):
        winner = {**WINNER, "campaign_id": name}
        _block(metrics, "u0", 1, [_decided({"slots": [{"slot": 0, "winner": winner}]})])
        _block(metrics, "u0", 2, [Draft({"kind": "settled"}, [["settle", "r", 0, name, 0, 5, 5]])])
    assert _value(metrics, "adgovernor_spent_micros_total", currency="EUR") == 5
    assert _value(metrics, "adgovernor_spent_micros_total", currency="unknown") == 5


def test_poison_is_counted_by_reason() -> None:
    """A dead letter counts with its reason."""
    metrics = Metrics(process=False)
    dead = Draft(
        {"kind": "poison", "reason": "not_json"}, [], [["ad-requests.dlq", None, {"reason": "not_json"}]]
    )
    _block(metrics, "u0", 1, [dead])
    assert _value(metrics, "adgovernor_dead_letters_total", reason="not_json") == 1


def test_a_shards_gauges_go_with_it() -> None:
    """When a shard goes to another worker, its lag and its other gauges go; counters stay."""
    metrics = Metrics(process=False)
    for shard in ("u3", "u4"):
        metrics.took_over(shard, height=1, folded=0, seconds=0.1, reason="unavailable: broker 7 said no")
        metrics.lag(shard, {"ad-requests": 5, "impressions": 0})
        metrics.store_trail(shard, blocks=2, dirty=3, away=False)
    metrics.released("u3")

    assert _value(metrics, "adgovernor_lag_events", topic="ad-requests", partition="3") is None
    assert _value(metrics, "adgovernor_store_trail_blocks", shard="u3") is None
    assert _value(metrics, "adgovernor_lag_events", topic="ad-requests", partition="4") == 5
    assert _value(metrics, "adgovernor_takeovers_total", reason="unavailable") == 2
    metrics.released("u9")


def test_the_trail_shrinks_when_the_store_is_written() -> None:
    """The store's trail is what is between the last block and the last write."""
    metrics = Metrics(process=False)
    _block(metrics, "u0", 9, [])
    metrics.store_trail("u0", blocks=4, dirty=1, away=False)
    metrics.store_written("u0", height=8, fields=3, seconds=0.001)
    assert _value(metrics, "adgovernor_store_trail_blocks", shard="u0") == 1


def test_a_store_that_is_away_is_known() -> None:
    """Which shards are without their store is known while it lasts, for readiness."""
    metrics = Metrics(process=False)
    for shard in ("u0", "u1", "u2"):
        metrics.store_trail(shard, blocks=1, dirty=1, away=True)
    metrics.store_trail("u1", blocks=0, dirty=0, away=False)
    metrics.released("u2")
    assert metrics.without_store() == ["u0"]


def test_void_blocks_and_halts_are_shown() -> None:
    """Void and unknown appends count beside accepted ones; a halted shard says why, until it goes elsewhere."""
    metrics = Metrics(process=False)
    metrics.block_void("u0", height=3)
    metrics.append_unknown("u0", height=4, error="timed out")
    metrics.halted("u1", reason="ledger_truncated", message="look")
    assert _value(metrics, "adgovernor_blocks_total", verdict="void") == 1
    assert _value(metrics, "adgovernor_blocks_total", verdict="unknown") == 1
    assert _value(metrics, "adgovernor_shard_halted", shard="u1", reason="ledger_truncated") == 1
    metrics.halt_left("u1")
    assert b"adgovernor_shard_halted{" not in metrics.text(), "another worker's to say now"


async def _ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_health_over_http() -> None:
    """Metrics, liveness and readiness each have a path; what is not well answers 503 with its details."""
    metrics = Metrics(process=False)
    metrics.block_void("u0", height=1)
    async with HealthServer(
        "127.0.0.1",
        0,
        metrics=metrics.text,
        live=lambda: Health(True),
        ready=lambda: Health(False, {"detail": "taking over: u0"}),
    ) as server:
        text = await _ask(server.port, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b'adgovernor_blocks_total{verdict="void"} 1.0' in text
        assert (await _ask(server.port, b"GET /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        ready = await _ask(server.port, b"GET /readyz?verbose HTTP/1.1\r\n\r\n")
        assert ready.startswith(b"HTTP/1.1 503")
        assert ready.endswith(b'{"ok":false,"detail":"taking over: u0"}')
        assert (await _ask(server.port, b"HEAD /healthz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")
        assert b" 404 " in await _ask(server.port, b"GET / HTTP/1.1\r\n\r\n")
        assert b" 405 " in await _ask(server.port, b"POST /metrics HTTP/1.1\r\n\r\n")


async def test_a_client_that_is_no_http_is_let_go() -> None:
    """Bytes that are no request, and too many of them, close the connection and nothing else."""
    async with HealthServer(
        "127.0.0.1", 0, metrics=bytes, live=lambda: Health(True), ready=lambda: Health(True)
    ) as server:
        assert await _ask(server.port, b"x" * 100_000) == b""
        assert (await _ask(server.port, b"GET /readyz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_connections_beyond_a_bound_are_let_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens connections and says nothing takes no more than a bounded part of a worker."""
    monkeypatch.setattr(health, "_CONNECTIONS", 2)
    async with HealthServer(
        "127.0.0.1", 0, metrics=bytes, live=lambda: Health(True), ready=lambda: Health(True)
    ) as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
        async with asyncio.timeout(2):
            assert await silent[2][0].read() == b""
        assert not silent[0][0].at_eof()
        for _, writer in silent:
            writer.close()


async def test_a_taken_port_is_named() -> None:
    """Where the port is taken the error says which, and what to set."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = HealthServer(
            "127.0.0.1",
            taken.getsockname()[1],
            metrics=bytes,
            live=lambda: Health(True),
            ready=lambda: Health(True),
        )
        with pytest.raises(BadSettings, match="set metrics_port"):
            async with server:
                pass
