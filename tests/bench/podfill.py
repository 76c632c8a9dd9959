"""The pod fill against an exact solver of another kind, and its time: `python -m tests.bench podfill`.

The yardstick is a plain dynamic programme over the advertisers, with the categories taken, the slots and the time left
as its state; it shares no code with the fill. Pods are random, from a fixed seed; prices are CPM micros. The ratio is
the value of the fill over the exact value, at the default number of search steps.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from adgovernor.core.podfill import PodCandidate, PodSegment, PodSpec, fill

SEED = 2_026
SIZES = ((6, 30), (12, 100))
EXACT_PODS = 20
TIMED_PODS = 150
DURATIONS_MS = (5_000, 10_000, 15_000, 20_000, 30_000)

Pod = tuple[PodSpec, list[PodCandidate]]
State = tuple[int, tuple[int, ...], int, int]
"""Categories taken (bits), ads that each segment still takes, milliseconds left, ads that the time still takes."""


def _ads(rng: random.Random, count: int, advertisers: int, categories: int) -> list[PodCandidate]:
    return [
        PodCandidate(
            candidate_id=f"ad{number}",
            price_micros=rng.randint(500_000, 20_000_000),
            duration_ms=rng.choice(DURATIONS_MS),
            creative_id=f"creative{number}",
            advertiser_domains=(f"advertiser{rng.randrange(advertisers)}.com",),
            categories=(f"IAB{rng.randrange(categories)}",) if categories else (),
        )
        for number in range(count)
    ]


def alike(rng: random.Random, slots: int, ads: int) -> Pod:
    """Alike slots, one ad of an advertiser and of each of twelve categories."""
    return PodSpec(tuple(PodSegment(f"s{n}", max_ms=30_000) for n in range(slots))), _ads(
        rng, ads, ads // 4, 12
    )


def unlike(rng: random.Random, slots: int, ads: int) -> Pod:
    """Slots of three lengths, some with a floor; eight categories."""
    lengths = [(15_000, 20_000, 30_000)[n % 3] for n in range(slots)]
    segments = [PodSegment(f"s{n}", max_ms=ms, floor_micros=ms * 100) for n, ms in enumerate(lengths)]
    return PodSpec(tuple(segments)), _ads(rng, ads, ads // 4, 8)


def dynamic(rng: random.Random, slots: int, ads: int) -> Pod:
    """Time to fill, fifteen seconds for each ad; eight categories."""
    part = PodSegment("time", total_ms=slots * 15_000, max_ads=slots, floor_per_second_micros=50_000)
    return PodSpec((part,)), _ads(rng, ads, ads // 4, 8)


def hybrid(rng: random.Random, slots: int, ads: int) -> Pod:
    """Half slots, half time; advertisers are kept apart, categories are not."""
    half = slots // 2
    segments = [PodSegment(f"s{n}", max_ms=20_000) for n in range(half)]
    part = PodSegment("time", total_ms=(slots - half) * 15_000, max_ads=slots - half)
    return PodSpec((*segments, part), category_separation="none"), _ads(rng, ads, ads // 4, 8)


FAMILIES: dict[str, Callable[[random.Random, int, int], Pod]] = {
    "alike": alike,
    "unlike": unlike,
    "dynamic": dynamic,
    "hybrid": hybrid,
}


def exact_value(pod: PodSpec, candidates: Sequence[PodCandidate]) -> int:
    """The best value of a pod of one advertiser and one category an ad, by dynamic programming."""
    kinds = sorted({(s.max_ms, s.floor_micros) for s in pod.segments if not s.total_ms})
    parts = [s for s in pod.segments if s.total_ms]
    part = parts[0] if parts else None
    room = tuple(
        sum((s.max_ms, s.floor_micros) == kind and not s.total_ms for s in pod.segments) for kind in kinds
    )
    groups: dict[str, list[PodCandidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.advertiser_domains[0], []).append(candidate)
    names = sorted({candidate.categories[0] for candidate in candidates})
    bits = {name: 1 << number if pod.category_separation == "pod" else 0 for number, name in enumerate(names)}
    start: State = (0, room, part.total_ms if part else 0, part.max_ads if part else 0)
    states: dict[State, int] = {start: 0}
    for group in groups.values():
        reached = dict(states)
        for ad in group:
            bit, price, length = bits[ad.categories[0]], ad.price_micros, ad.duration_ms
            lawful = [n for n, (most, floor) in enumerate(kinds) if length <= most and price >= floor]
            timed = part is not None and price * 1000 >= part.floor_per_second_micros * length
            for (taken, left, ms, ads), value in states.items():
                if taken & bit:
                    continue
                then: list[State] = [
                    (taken | bit, (*left[:n], left[n] - 1, *left[n + 1 :]), ms, ads)
                    for n in lawful
                    if left[n]
                ]
                if timed and ads and ms >= length:
                    then.append((taken | bit, left, ms - length, ads - 1))
                for state in then:
                    if reached.get(state, -1) < value + price:
                        reached[state] = value + price
        states = reached
    return max(states.values())


def _measure(
    make: Callable[[random.Random, int, int], Pod], slots: int, ads: int, exact: int
) -> dict[str, Any]:
    rng = random.Random(SEED)
    pods = [make(rng, slots, ads) for _ in range(TIMED_PODS)]
    spent, filled = [], []
    for pod, candidates in pods:
        # The faster of two runs, so that what else the machine does counts less.
        runs = []
        for _ in range(2):
            began = time.perf_counter()
            outcome = fill(pod, candidates)
            runs.append((time.perf_counter() - began) * 1000)
        filled.append(outcome)
        spent.append(min(runs))
    ratios = [
        outcome.value_micros / exact_value(pod, candidates)
        for outcome, (pod, candidates) in zip(filled[:exact], pods, strict=False)
    ]
    return {
        "median_ms": round(statistics.median(spent), 3),
        "p99_ms": round(sorted(spent)[len(spent) * 99 // 100], 3),
        "ratio_mean": round(statistics.mean(ratios), 5),
        "ratio_min": round(min(ratios), 5),
        "proven": round(sum(outcome.proven for outcome in filled) / len(filled), 3),
        "_spent": spent,
        "_ratios": ratios,
    }


def run(exact: int = EXACT_PODS) -> dict[str, Any]:
    """Measure every family at both sizes; `exact` is the number of pods that the yardstick solves for each."""
    figures: dict[str, Any] = {}
    for slots, ads in SIZES:
        size = f"{slots}_slots_{ads}_ads"
        every = {name: _measure(make, slots, ads, exact) for name, make in FAMILIES.items()}
        spent = [ms for family in every.values() for ms in family.pop("_spent")]
        ratios = [ratio for family in every.values() for ratio in family.pop("_ratios")]
        figures[f"{size}_median_ms"] = round(statistics.median(spent), 3)
        figures[f"{size}_ratio_to_exact_mean"] = round(statistics.mean(ratios), 5)
        figures[f"{size}_ratio_to_exact_min"] = round(min(ratios), 5)
        for name, family in every.items():
            figures.update({f"{size}_{name}_{key}": value for key, value in family.items()})
    return figures
