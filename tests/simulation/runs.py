"""Running seeds, alone or with a rule broken."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from tests.simulation.audit import Audit
from tests.simulation.mutation import Mutation, Outdated
from tests.simulation.themes import BROAD, THEMES
from tests.simulation.world import SimWorld

MUTATION_SEEDS = 2_000
"""A broken rule is noticed within so many seeds."""


SEEDS = 500
"""What every run of the tests goes through."""
BATCH = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a seed."""

    seed: int
    problems: tuple[str, ...]
    fingerprint: str


def run_seed(
    seed: int, mutation: Mutation | None = None, *, sealed: bool = False, theme: str = ""
) -> Verdict:
    """Runs and judges one seed, which leans to a theme (empty: the broad mix). An auditor that cannot make sense of
    what it reads has found something, too."""
    with mutation.applied() if mutation is not None else contextlib.nullcontext():
        world = SimWorld(seed, sealed=sealed, theme=THEMES[theme] if theme else BROAD)
        world.run()
    problems = world.problems
    if not problems:
        try:
            problems = Audit(world).run()
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, AssertionError) as error:
            if mutation is None:
                raise
            problems = [f"the ledger makes no sense: {error!r}"]
    return Verdict(seed, tuple(problems), world.fingerprint())


def first_failure(mutation: Mutation, first: int, count: int) -> Verdict | None:
    """The first of ``count`` seeds that notices a broken rule; None where none does."""
    for seed in range(first, first + count):
        verdict = run_seed(seed, mutation, sealed=mutation.sealed, theme=mutation.theme)
        if any("NameError(" in problem for problem in verdict.problems):
            raise Outdated(f"{mutation.name}: {verdict.problems[0]}")
        if verdict.problems:
            return verdict
    return None


def how_to_repeat(sealed: bool, theme: str) -> str:
    """The words that a run needs besides its seed."""
    return (" --sealed" if sealed else "") + (f" --theme {theme}" if theme else "")


def check_clean(first: int, *, sealed: bool = False, theme: str = "") -> None:
    """Runs a batch of seeds; fails with the first that is not clean, and says how to run it again."""
    for seed in range(first, first + BATCH):
        problems = run_seed(seed, sealed=sealed, theme=theme).problems
        how = how_to_repeat(sealed, theme)
        assert not problems, (
            f"again: python -m tests.simulation --from {seed} --seeds 1 -v{how}; {problems[0]}"
        )
