"""Rules broken on purpose: the simulation must notice."""

from __future__ import annotations

import pytest
from tests.simulation.mutations import MUTATIONS
from tests.simulation.runs import first_failure

_SAMPLE_SEEDS = 40
"""Mutations that so many seeds notice are broken in every run of the tests; `--mutations` breaks all of them."""
_SLOW = {
    "account-exhausted-too-soon",
    "an-end-is-the-end",
    "any-day-closed",
    "any-day-pays",
    "any-store-state",
    "day-never-begins",
    "debts-for-ever",
    "dirty-round-counts",
    "idle-not-counted",
    "lost-history-is-required",
    "lost-messages-waited-for",
    "lost-money-comes-back",
    "missing-not-sent-again",
    "money-lifts-manual",
    "never-exhausted",
    "no-catch-up",
    "old-answers-count",
    "old-day-keeps-money",
    "own-word-forgotten",
    "rolled-over-twice",
    "stale-owner-believed",
    "tombstone-before-outputs",
    "wider-word-decides",
}


_NOTICED_BY = {
    "account-spends-its-leases": 10,
    "another-identity-counts": 6,
    "exhausted-again": 38,
    "numbers-of-lost-messages-again": 14,
    "numbers-of-lost-outputs-again": 14,
    "permission-outlives-refusal": 25,
    "pod-all-at-once": 26,
    "pod-too-many": 15,
    "recall-in-plenty": 15,
    "reservations-too-long": 5,
    "reservations-uncapped": 17,
}
"""The seeds that noticed these rules when they were last looked for. They are tried first, to save those before them;
where one does not notice any more, all are tried."""


@pytest.mark.parametrize("name", sorted(set(MUTATIONS) - _SLOW))
def test_a_broken_rule_is_noticed(name: str) -> None:
    """A rule that is broken on purpose makes the simulation fail."""
    mutation = MUTATIONS[name]
    verdict = first_failure(mutation, _NOTICED_BY.get(name, 0), 1)
    verdict = verdict or first_failure(mutation, 0, _SAMPLE_SEEDS)
    assert verdict is not None, f"{mutation.rule}: not noticed within {_SAMPLE_SEEDS} seeds"


@pytest.mark.parametrize("name", sorted(_SLOW))
def test_a_rule_that_is_broken_elsewhere_is_still_there(name: str) -> None:
    """Rules whose breaking takes many seeds to show (`python -m tests.simulation --mutations`) can be broken."""
    original, broken = MUTATIONS[name].mutated()
    assert original.__code__.co_code != broken.__code__.co_code
