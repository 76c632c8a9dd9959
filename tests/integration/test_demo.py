"""The demonstration, run as a person would run it: the story in its order, and totals that agree."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from deployments import PROGRAM, plain_environment

from adgovernor.app.demo_plan import HANDLED, TINY
from adgovernor.app.demo_workers import Workers

_DEMO = [sys.executable, "-m", PROGRAM, "demo"]


def run(
    *arguments: str, folder: Path, timeout_s: float, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_DEMO, *arguments],
        cwd=folder,
        env=plain_environment() | variables,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def positions(lines: list[str], *wanted: str) -> list[int]:
    """Where each line first begins so, after the one before it."""
    found: list[int] = []
    at = 0
    for text in wanted:
        at = next((n for n in range(at, len(lines)) if lines[n].startswith(text)), -1)
        assert at >= 0, f"no {text!r} after line {found[-1] if found else 0}:\n" + "\n".join(lines[-40:])
        found.append(at)
    return found


def test_the_embedded_story_is_told_in_its_order(tmp_path: Path) -> None:
    """One plain line an event: exhausted, paused, topped up, resumed; paused and resumed by hand; all agrees."""
    done = run("--embedded", "--seconds", "5", folder=tmp_path, timeout_s=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    lines = done.stdout.splitlines()
    positions(
        lines,
        f"campaign-change {TINY}: upsert accepted",
        "decision ",
        f"budget-exhausted {TINY}: total",
        f"campaign-paused {TINY}: exhausted (episode 1)",
        f"campaign-change {TINY}: top-up accepted",
        f"campaign-resumed {TINY}: episode 2",
        f"campaign-paused {HANDLED}: manual (episode 1)",
        f"campaign-resumed {HANDLED}: episode 2",
        "audit chain: holds",
        "the totals agree with the ledger: ",
    )
    assert any("outbid" in line for line in lines)
    assert any("capped campaign:coffee-club 2/2 rolling" in line for line in lines)
    assert any(line.startswith("dead-letter ad-requests[") for line in lines)
    assert done.stderr == ""


def test_json_totals_are_those_of_the_decisions_shown(tmp_path: Path) -> None:
    """With --json every line is an object, and counting the decisions again gives the totals at the end."""
    done = run("--embedded", "--json", "--requests", "120", "--seed", "7", folder=tmp_path, timeout_s=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    rows: list[dict[str, Any]] = [orjson.loads(line) for line in done.stdout.splitlines()]
    totals = rows[-1]
    assert totals["type"] == "totals"
    assert (totals["agree"], totals["differences"]) == (True, [])
    audit = rows[-2]
    assert (audit["type"], audit["green"]) == ("audit", True)
    decisions = [row for row in rows if row["type"] == "decision"]
    assert len(decisions) == len({row["decision_id"] for row in decisions}) == totals["decisions"]
    assert totals["decisions"] + totals["dead_letters"] <= 120
    won: dict[str, int] = {}
    for row in decisions:
        for slot in row["slots"]:
            if "winner" in slot:
                won[slot["winner"]["campaign_id"]] = won.get(slot["winner"]["campaign_id"], 0) + 1
    assert won == {name: row["decisions"] for name, row in totals["campaigns"].items() if row["decisions"]}
    for row in totals["campaigns"].values():
        parts = ("unleased", "in_flight", "lease", "reserved", "spent")
        assert row["topped_up_micros"] == sum(row[f"{part}_micros"] for part in parts)


def test_a_signal_ends_it_at_once(tmp_path: Path) -> None:
    """SIGTERM in the middle of the story ends the process within seconds, with the shell's code for it."""
    with subprocess.Popen(
        [*_DEMO, "--embedded"], cwd=tmp_path, env=plain_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("decision"):
                break
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(30) == 128 + signal.SIGTERM


def test_servers_that_are_not_there_are_named(tmp_path: Path) -> None:
    """Without Redis the demonstration says where it looked, and ends with the code for servers."""
    done = run(folder=tmp_path, timeout_s=120, ADGOVERNOR_REDIS__URL="redis://127.0.0.1:1/0")
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_worker_may_be_ended_before_it_listens() -> None:
    """Whoever leaves while workers are still starting hears of no failure."""
    async with Workers(plain_environment()) as workers:
        await workers.start()
    assert workers.alive == []


# --- On servers ------------------------------------------------------------------------------------------------------


def on_servers(folder: Path, kafka: str, redis: str, *arguments: str) -> subprocess.Popen[str]:
    """The demonstration with workers of its own."""
    servers = {"ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS": kafka, "ADGOVERNOR_REDIS__URL": redis}
    return subprocess.Popen(
        [*_DEMO, *arguments], cwd=folder, env=plain_environment() | servers, stdout=subprocess.PIPE, text=True
    )


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def workers_of(lines: Iterator[str]) -> tuple[list[int], list[str]]:
    """The process ids of both workers, and the lines up to the first decision."""
    seen, pids = [], []
    for line in lines:
        seen.append(line)
        if line.startswith("-- worker ") and "starts (process " in line:
            pids.append(int(line.split("process ")[1].rstrip(")\n")))
        if line.startswith("decision"):
            break
    assert len(pids) == 2, seen
    return pids, seen


@pytest.mark.slow
def test_the_story_on_servers_survives_a_kill(kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> None:
    """Two workers, one of them killed: the other takes over, the totals agree, and no process is left behind."""
    with on_servers(tmp_path, kafka_bootstrap, redis_url, "--seconds", "6") as process:
        assert process.stdout is not None
        pids, lines = workers_of(iter(process.stdout))
        lines += process.stdout.readlines()
        assert process.wait(60) == 0, "".join(lines[-40:])
    positions(
        [line.rstrip() for line in lines],
        f"budget-exhausted {TINY}: total",
        f"campaign-paused {TINY}: exhausted (episode 1)",
        f"campaign-resumed {TINY}: episode 2",
        f"campaign-paused {HANDLED}: manual (episode 1)",
        f"campaign-resumed {HANDLED}: episode 2",
        f"-- worker 2 (process {pids[1]}) is killed with SIGKILL",
        "-- worker 1 has taken over",
        "decision ",
        "audit store: holds",
        "the totals agree with the ledger: ",
    )
    assert [pid for pid in pids if alive(pid)] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_do_not_outlive_it(
    number: signal.Signals, kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    """However the demonstration ends, its workers end."""
    with on_servers(tmp_path, kafka_bootstrap, redis_url) as process:
        assert process.stdout is not None
        pids, _ = workers_of(iter(process.stdout))
        process.send_signal(number)
        process.stdout.read()
        code = process.wait(60)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    until = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert [pid for pid in pids if alive(pid)] == []
