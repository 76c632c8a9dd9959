"""The runner of the benchmarks: names, figures, and a standard output that holds one JSON document only."""

from __future__ import annotations

import json
import os
from types import ModuleType
from typing import Any

import pytest
from tests.bench import __main__ as bench


def benchmark(name: str, **attributes: Any) -> ModuleType:
    """A module as `discover` finds them."""
    module = ModuleType(name)
    for attribute, value in attributes.items():
        setattr(module, attribute, value)
    return module


def noisy() -> dict[str, Any]:
    """A benchmark that prints, as does its child process."""
    print("a progress line")
    os.system("echo a line of a child process")
    return {"requests_per_s": 20_000.0}


def test_json_is_all_that_standard_output_holds(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With --json what benchmarks and their child processes print goes to standard error."""
    monkeypatch.setattr(bench, "discover", lambda: {"noisy": benchmark("noisy", run=noisy)})
    assert bench.main(["noisy", "--json"]) == 0
    output, errors = capfd.readouterr()
    document = json.loads(output)
    assert document["benchmarks"]["noisy"]["requests_per_s"] == 20_000.0
    assert document["machine"]["cores"] >= 1
    assert "a line of a child process" in errors


def test_a_coroutine_is_measured_like_a_function() -> None:
    """An async `run` gives its figures and its duration."""

    async def run() -> dict[str, Any]:
        return {"raw_per_s": 1}

    figures = bench.measure(benchmark("pass_through", run=run))
    assert figures["raw_per_s"] == 1
    assert figures["took_s"] >= 0


def test_an_unknown_name_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark that does not exist ends the run with exit code 2 and the names that do."""
    monkeypatch.setattr(bench, "discover", lambda: {"end-to-end": benchmark("end_to_end", run=noisy)})
    with pytest.raises(SystemExit) as ending:
        bench.main(["end-to-emd"])
    assert ending.value.code == 2
    assert "no benchmark named end-to-emd; there are: end-to-end" in capsys.readouterr().err


def test_nested_figures_are_rows_under_dotted_names() -> None:
    """A table shows nested figures by dotted names, large ones without decimals."""
    figures = {"per_s": 23456.7, "stage": {"decide_us": 1.234}, "events": 100000}
    assert list(bench.flattened(figures)) == [
        ("per_s", "23,457"),
        ("stage.decide_us", "1.23"),
        ("events", "100,000"),
    ]
