"""Rules broken on purpose: the simulation must notice."""

from __future__ import annotations

import pytest
from tests.simulation.mutations import MUTATIONS
from tests.simulation.runs import first_failure

_SAMPLE_SEEDS = 40
"""Every rule that is broken is noticed by one of so many seeds, or by the one named below;
`python -m tests.simulation --mutations` tries more."""

_NOTICED_BY = {
    "account-day-unbounded": 5,
    "account-dirty-counts": 5,
    "account-never-resumes": 6,
    "another-identity-counts": 6,
    "caps-look-back-only": 4,
    "debts-for-ever": 8,
    "debts-never-end": 6,
    "ended-keys-come-back": 23,
    "erased-in-part": 5,
    "flight-ignored": 7,
    "forgotten-while-away": 6,
    "lost-messages-waited-for": 30,
    "no-tombstone-again": 4,
    "opt-outs-ignored": 4,
    "own-word-forgotten": 114,
    "released-money-waits": 6,
    "share-forgets": 15,
    "shorter-topic-of-keys-believed": 6,
    "stale-owner-believed": 6,
    "store-forgets-links": 11,
}
"""The seeds that noticed these rules when they were last looked for. They are tried first, to save those before them;
where one does not notice any more, all are tried."""


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_broken_rule_is_noticed(name: str) -> None:
    """A rule that is broken on purpose makes the simulation fail."""
    mutation = MUTATIONS[name]
    verdict = first_failure(mutation, _NOTICED_BY.get(name, 0), 1)
    verdict = verdict or first_failure(mutation, 0, _SAMPLE_SEEDS)
    assert verdict is not None, f"{mutation.rule}: not noticed within {_SAMPLE_SEEDS} seeds"
