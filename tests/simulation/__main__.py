"""Runs the simulation: `python -m tests.simulation --seeds N [--from S] [--sealed] [--theme NAME]
[--mutations [NAME...]] [-v]`.

Without `--mutations` every seed must be clean; what is wrong with one is printed with the command that repeats it.
With it, each broken rule (all, or those named) must be noticed within `--seeds` seeds (2,000 unless told), in runs that
lean to the rule's theme, or to the one that is named.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from tests.simulation.mutations import MUTATIONS, UNNEEDED
from tests.simulation.runs import MUTATION_SEEDS, Verdict, first_failure, how_to_repeat, run_seed
from tests.simulation.themes import THEMES


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many seeds (500; with --mutations 2000 for each)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument(
        "--mutations", nargs="*", metavar="NAME", help="break these rules, one at a time (none named: all)"
    )
    parser.add_argument("--sealed", action="store_true", help="sealed ledgers, and people who are forgotten")
    parser.add_argument("--theme", choices=sorted(THEMES), default="", help="what the runs lean to")
    parser.add_argument("-v", "--verbose", action="store_true", help="one line a seed, and every violation")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    return parser.parse_args(words)


def _seed(task: tuple[int, bool, str]) -> Verdict:
    seed, sealed, theme = task
    return run_seed(seed, sealed=sealed, theme=theme)


def _mutation(task: tuple[str, int, int, str]) -> tuple[str, Verdict | None, float]:
    name, first, count, theme = task
    mutation = MUTATIONS[name]
    if theme:
        mutation = replace(mutation, theme=theme)
    began = time.process_time()
    return name, first_failure(mutation, first, count), time.process_time() - began


def _run_seeds(options: argparse.Namespace, pool: ProcessPoolExecutor) -> int:
    count, bad, began = options.seeds or 500, 0, time.monotonic()
    tasks = [(seed, options.sealed, options.theme) for seed in range(options.first, options.first + count)]
    how = how_to_repeat(options.sealed, options.theme)
    for verdict in pool.map(_seed, tasks, chunksize=4):
        if verdict.problems:
            bad += 1
            print(f"seed {verdict.seed}: {verdict.problems[0]}")
            for problem in verdict.problems[1:] if options.verbose else ():
                print(f"    {problem}")
            print(f"    again: python -m tests.simulation --from {verdict.seed} --seeds 1 -v{how}")
        elif options.verbose:
            print(f"seed {verdict.seed}: clean ({verdict.fingerprint})")
    last = options.first + count - 1
    print(
        f"{count - bad} of {count} seeds ({options.first} to {last}) clean in {time.monotonic() - began:.0f} s"
    )
    return 1 if bad else 0


def _run_mutations(options: argparse.Namespace, pool: ProcessPoolExecutor) -> int:
    names = options.mutations or list(MUTATIONS)
    unknown = [name for name in names if name not in MUTATIONS]
    if unknown:
        print(f"no such mutation: {', '.join(unknown)}; there are: {', '.join(MUTATIONS)}", file=sys.stderr)
        return 2
    count, missed, began = options.seeds or MUTATION_SEEDS, 0, time.monotonic()
    tasks = [(name, options.first, count, options.theme) for name in names]
    for name, verdict, seconds in pool.map(_mutation, tasks):
        if verdict is None:
            missed += 1
            print(f"{name}: NOT NOTICED in {count} seeds ({MUTATIONS[name].rule})")
            continue
        tried = verdict.seed - options.first + 1
        print(
            f"{name}: noticed by seed {verdict.seed} ({tried} tried, {seconds:.1f} s): {verdict.problems[0]}"
        )
    print(
        f"{len(names) - missed} of {len(names)} broken rules were noticed in {time.monotonic() - began:.0f} s"
    )
    if options.mutations == []:
        for rule, reason in UNNEEDED.items():
            print(f"not broken: {rule}: {reason}")
    return 1 if missed else 0


def main(words: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for; 0 where all was as it should be."""
    options = _arguments(words)
    with ProcessPoolExecutor(max_workers=options.jobs) as pool:
        if options.mutations is not None:
            return _run_mutations(options, pool)
        return _run_seeds(options, pool)


if __name__ == "__main__":
    sys.exit(main())
