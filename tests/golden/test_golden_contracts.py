"""Golden samples: what was written once can be read for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adgovernor.contracts import topics
from adgovernor.contracts.catalogue import CATALOGUE, contract_of
from adgovernor.contracts.export import VERSION
from adgovernor.contracts.ledger import Block, parse_block

GOLDEN = Path(__file__).parents[2] / "schemas" / "golden"
SAMPLES = sorted(path for path in GOLDEN.glob("v*/*.json") if not path.stem.startswith("ledger-block"))
BLOCKS = sorted(GOLDEN.glob("v*/ledger-block*.json"))


def _survives(old: Any, new: Any) -> bool:
    """Whether every field of the old document has its value in the new one, null counting as absent."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(value is None or (key in new and _survives(value, new[key])) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_survives, old, new))
    return type(old) is type(new) and bool(old == new)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_sample_is_read_and_written_again(path: Path) -> None:
    """A sample of any version is read, and written again loses no field and no value."""
    contract = contract_of(path.stem.split(".")[0])
    event = contract.parse(path.read_bytes())
    written = contract.encode(event)
    assert contract.parse(written) == event
    old = json.loads(path.read_bytes())
    if isinstance(old.get("slots"), int):
        # A bare number of slots is shorthand for as many free ones.
        old["slots"] = [{}] * old["slots"]
    assert _survives(old, json.loads(written))


def test_every_contract_has_a_sample_of_its_version() -> None:
    """No public topic, and no alternative of one, is without a golden sample of the present version."""
    names = {path.stem for path in (GOLDEN / f"v{VERSION}").glob("*.json")}
    assert {name.split(".")[0] for name in names} == {*CATALOGUE, "ledger-block"}
    kinds = {"impression", "click", "view", "opt-out", "opt-in", "preference", "erasure"}
    commands = {"account", "upsert", "top-up", "credit", "decrease", "pause", "resume", "archive"}
    assert kinds | commands <= {name.split(".")[-1] for name in names}


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.parent.name)
def test_ledger_block_is_read(path: Path) -> None:
    """A block of any version is read, its hash proved, and its inputs taken out byte for byte."""
    raw = path.read_bytes()
    block = parse_block(raw)
    assert (block.header.shard, block.header.height, len(block.records)) == ("u3", 2, 2)
    assert block.records[0].value() == b'{"request_id":"req-1", "time_ms":1767225600000,"user_id":"user-1"}'
    assert (block.records[1].value(), block.records[1].key()) == (b"\xff\x00", None)
    assert Block.model_validate_json(raw).chain == block.chain


def test_event_types_name_the_version() -> None:
    """The CloudEvents type of every public event ends in the contracts' version."""
    for topic in CATALOGUE:
        assert topics.event_type(topic).endswith(f".v{VERSION}")
