"""The pod fill: its rules, one sentence each, and its exactness against a yardstick that tries everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pod_yardstick import best_row, is_lawful, play_order, preference, rows

from adgovernor.contracts.errors import BadInput
from adgovernor.core.podfill import (
    MAX_ADS,
    DurationFloor,
    PodCandidate,
    PodFill,
    PodNeighbour,
    PodSegment,
    PodSpec,
    Separation,
    fill,
)

EXACT = 1_000_000
"""Steps enough to prove every pod of these tests."""


def ad(name: str, price: int, seconds: int = 15, **more: Any) -> PodCandidate:
    return PodCandidate(name, price, seconds * 1000, **more)


def slots(count: int, **more: Any) -> tuple[PodSegment, ...]:
    return tuple(PodSegment(f"s{number}", **more) for number in range(1, count + 1))


def part(seconds: int, **more: Any) -> PodSegment:
    return PodSegment("part", total_ms=seconds * 1000, **more)


def names(filled: PodFill) -> list[str]:
    return [place.candidate.candidate_id for place in filled.placements]


def reasons(filled: PodFill) -> dict[str, tuple[str, ...]]:
    return {loser.candidate.candidate_id: loser.reasons for loser in filled.losers}


durations = st.sampled_from([5_000, 10_000, 15_000, 30_000])
words = st.sampled_from(["a", "b", "c"])
positions = st.sampled_from([0, 0, 0, 0, 0, 1, -1, 2])


@st.composite
def candidates_of(draw: st.DrawFn) -> list[PodCandidate]:
    count = draw(st.integers(0, 6))
    return [
        PodCandidate(
            candidate_id=f"c{number}",
            price_micros=draw(st.integers(0, 12)),
            duration_ms=draw(durations),
            creative_id=draw(st.sampled_from(["", "x", "y", f"own{number}"])),
            media_url=draw(st.sampled_from(["", "m", f"own{number}"])),
            advertiser_domains=tuple(
                draw(st.sets(st.sampled_from(["a.com", "b.com", "shop.b.com"]), max_size=2))
            ),
            categories=tuple(draw(st.sets(st.sampled_from(["IAB1", "IAB2", "IAB2-1"]), max_size=2))),
            segments=draw(st.sampled_from([(), (), (), ("s1",), ("s2", "p1"), ("nowhere",)])),
            position=draw(positions),
            floor_micros=draw(st.sampled_from([None, None, 5])),
            cap_keys=tuple(draw(st.sets(words, max_size=2))),
            funds=tuple(draw(st.sets(words, max_size=1))),
            charge_micros=draw(st.sampled_from([None, 3])),
        )
        for number in range(count)
    ]


@st.composite
def segments_of(draw: st.DrawFn) -> tuple[PodSegment, ...]:
    fixed = [
        PodSegment(
            f"s{number + 1}",
            min_ms=draw(st.sampled_from([0, 0, 10_000])),
            max_ms=draw(st.sampled_from([0, 15_000, 30_000])),
            durations_ms=draw(st.sampled_from([(), (), (15_000, 30_000)])),
            floor_micros=draw(st.sampled_from([0, 0, 4])),
            floor_per_second_micros=draw(st.sampled_from([0, 0, 1])),
            duration_floors=draw(st.sampled_from([(), (DurationFloor(10_000, 15_000, 6),)])),
            position=draw(positions),
        )
        for number in range(draw(st.integers(0, 3)))
    ]
    parts = [
        PodSegment(
            f"p{number + 1}",
            max_ms=draw(st.sampled_from([0, 15_000])),
            floor_micros=draw(st.sampled_from([0, 4])),
            position=draw(positions),
            total_ms=draw(st.sampled_from([15_000, 30_000, 60_000])),
            max_ads=draw(st.sampled_from([0, 1, 2, 3])),
        )
        for number in range(draw(st.integers(0 if fixed else 1, 1 if len(fixed) > 1 else 2)))
    ]
    made = fixed + parts
    return tuple(draw(st.permutations(made)))


@st.composite
def pods(draw: st.DrawFn) -> PodSpec:
    neighbour = st.sampled_from([None, None, PodNeighbour(("a.com",), ("IAB1",))])
    kinds: list[Separation] = ["none", "adjacent", "pod"]
    separation = st.sampled_from(kinds)
    return PodSpec(
        segments=draw(segments_of()),
        max_ads=draw(st.sampled_from([0, 0, 2])),
        total_ms=draw(st.sampled_from([0, 0, 45_000])),
        repeat_creatives=draw(st.booleans()),
        separate_media=draw(st.booleans()),
        advertiser_separation=draw(separation),
        category_separation=draw(separation),
        before=draw(neighbour),
        after=draw(neighbour),
        blocked_categories=frozenset(draw(st.sets(st.sampled_from(["IAB2", "IAB1-9"]), max_size=1))),
        blocked_advertisers=frozenset(draw(st.sets(st.sampled_from(["b.com"]), max_size=1))),
        caps_left=draw(st.dictionaries(words, st.integers(0, 2), max_size=2)),
        available_micros=draw(st.dictionaries(words, st.integers(0, 12), max_size=2)),
    )


relaxed = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def row_of(pod: PodSpec, filled: PodFill) -> tuple[tuple[int, int], ...]:
    order = [segment.segment_id for segment in play_order(pod)]
    return tuple((order.index(place.segment_id), place.index) for place in filled.placements)


@relaxed
@given(pods(), candidates_of())
def test_fill_is_the_best_lawful_row(pod: PodSpec, candidates: list[PodCandidate]) -> None:
    """Under every mixture of rules the fill is lawful, and exactly the one that trying everything prefers."""
    filled = fill(pod, candidates, max_nodes=EXACT)
    row = row_of(pod, filled)
    relevant = candidates
    assert is_lawful(pod, row, candidates)
    first = pod.segments[0]
    if len(pod.segments) == 1 and (not first.total_ms or 1 in (first.max_ads, pod.max_ads)):
        # Where one ad is all that the pod takes, ties go to the order given: no time is weighed.
        candidates = [replace(candidate, duration_ms=0) for candidate in relevant]
        lawful = [other for other in rows(pod, relevant) if is_lawful(pod, other, relevant)]
        assert preference(row, candidates) == max(preference(other, candidates) for other in lawful)
    else:
        assert preference(row, candidates) == best_row(pod, candidates)
    assert filled.proven
    assert filled.value_micros == filled.bound_micros == preference(row, candidates)[0]


@relaxed
@given(pods(), candidates_of(), st.integers(0, 3))
def test_an_interrupted_search_is_lawful_and_bounds_the_best(
    pod: PodSpec, candidates: list[PodCandidate], nodes: int
) -> None:
    """A search that is cut short still gives a lawful fill, and its bound is never below the best value."""
    filled = fill(pod, candidates, max_nodes=nodes)
    best = best_row(pod, candidates)[0]
    assert is_lawful(pod, row_of(pod, filled), candidates)
    assert filled.value_micros <= best <= filled.bound_micros
    assert filled.proven == (filled.value_micros == filled.bound_micros)


@relaxed
@given(pods(), candidates_of())
def test_every_candidate_is_placed_once_or_has_a_reason(pod: PodSpec, candidates: list[PodCandidate]) -> None:
    """Each candidate is either placed once or named as a loser with at least one reason, in the order given."""
    filled = fill(pod, candidates)
    placed = [place.index for place in filled.placements]
    lost = [loser.index for loser in filled.losers]
    assert sorted(placed + lost) == list(range(len(candidates)))
    assert lost == sorted(lost)
    assert all(loser.reasons for loser in filled.losers)
    assert [place.position for place in filled.placements] == list(range(1, len(placed) + 1))


@relaxed
@given(pods(), candidates_of())
def test_fill_is_deterministic(pod: PodSpec, candidates: list[PodCandidate]) -> None:
    """The same pod and candidates give the same fill, to the last field."""
    assert fill(pod, candidates) == fill(pod, list(candidates))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_one_slot_takes_the_highest_price_first_given_wins(prices: list[int]) -> None:
    """With one slot the highest price wins, and of equal prices the candidate given first, however long."""
    candidates = [ad(f"c{at}", price, seconds=30 - at) for at, price in enumerate(prices)]
    filled = fill(PodSpec(slots(1)), candidates)
    assert filled.placements[0].index == prices.index(max(prices))
    assert filled.nodes == 0


def test_value_beats_first_fit() -> None:
    """Two short ads replace a dearer long one when together they are worth more."""
    filled = fill(PodSpec((part(30),)), [ad("long", 100, 30), ad("one", 60, 15), ad("two", 50, 15)])
    assert sorted(names(filled)) == ["one", "two"]
    assert reasons(filled) == {"long": ("outbid",)}


def test_equal_value_goes_to_fewer_ads() -> None:
    """Of two fills of one value the one with fewer ads wins."""
    filled = fill(PodSpec((part(30),)), [ad("one", 50, 15), ad("two", 50, 15), ad("long", 100, 30)])
    assert names(filled) == ["long"]


def test_equal_value_and_count_go_to_the_shorter() -> None:
    """Of two fills of one value and one number of ads the shorter wins."""
    filled = fill(PodSpec((part(45),), max_ads=2), [ad("a", 10, 30), ad("b", 10, 15), ad("c", 10, 10)])
    assert sorted(names(filled)) == ["b", "c"]


def test_full_ties_go_to_the_order_given() -> None:
    """Of fills that are alike in value, count and time the candidates given first play, first given first."""
    filled = fill(PodSpec(slots(2)), [ad(name, 10) for name in ("a", "b", "c")])
    assert names(filled) == ["a", "b"]


def test_free_ads_do_not_play() -> None:
    """An ad without a price adds nothing and stays out."""
    assert reasons(fill(PodSpec(slots(2)), [ad("a", 0)])) == {"a": ("no_value",)}


@pytest.mark.parametrize(
    ("pod", "loser", "reason"),
    [
        (PodSpec(slots(2, max_ms=10_000)), ad("x", 5, 15), "duration"),
        (PodSpec(slots(2, durations_ms=(15_000,))), ad("x", 5, 14), "duration"),
        (PodSpec(slots(2, max_ms=10_000)), ad("x", 5, 0), "duration"),
        (PodSpec(slots(2, floor_micros=6)), ad("x", 5), "floor"),
        (PodSpec(slots(2)), ad("x", 5, floor_micros=6), "floor"),
        (PodSpec(slots(2)), ad("x", 5, segments=("else",)), "no_segment"),
        (
            PodSpec(slots(2), blocked_categories=frozenset({"IAB7"})),
            ad("x", 5, categories=("IAB7-3",)),
            "blocked_category",
        ),
        (
            PodSpec(slots(2), blocked_advertisers=frozenset({"b.com"})),
            ad("x", 5, advertiser_domains=("shop.b.com",)),
            "blocked_advertiser",
        ),
        (PodSpec(slots(2), caps_left={"k": 0}), ad("x", 5, cap_keys=("k",)), "capped"),
        (PodSpec(slots(2), available_micros={"f": 4}), ad("x", 5, funds=("f",)), "funds"),
    ],
)  # fmt: skip
def test_a_candidate_that_may_play_nowhere_says_why(pod: PodSpec, loser: PodCandidate, reason: str) -> None:
    """Each rule that shuts a candidate out by itself is named, whatever the others bid."""
    filled = fill(pod, [loser])
    assert reasons(filled) == {"x": (reason,)}
    assert filled.placements == ()


@pytest.mark.parametrize(
    ("pod", "one", "two", "reason"),
    [
        (PodSpec(slots(2)), {"creative_id": "c"}, {"creative_id": "c"}, "creative_repeated"),
        (PodSpec(slots(2), separate_media=True), {"media_url": "u"}, {"media_url": "u"}, "media_repeated"),
        (
            PodSpec(slots(2)),
            {"advertiser_domains": ("a.com",)},
            {"advertiser_domains": ("a.com",)},
            "advertiser_separation",
        ),
        (PodSpec(slots(2)), {"categories": ("IAB1",)}, {"categories": ("IAB1",)}, "category_separation"),
        (PodSpec(slots(2)), {"position": 1}, {"position": 1}, "position"),
        (PodSpec(slots(2), caps_left={"k": 1}), {"cap_keys": ("k",)}, {"cap_keys": ("k",)}, "capped"),
        (PodSpec(slots(2), available_micros={"f": 15}), {"funds": ("f",)}, {"funds": ("f",)}, "funds"),
    ],
)
def test_a_loser_names_the_rule_that_it_would_break(
    pod: PodSpec, one: dict[str, Any], two: dict[str, Any], reason: str
) -> None:
    """A candidate that cannot play beside the winner names the rule, and the dearer of the two plays."""
    filled = fill(pod, [ad("cheap", 9, **one), ad("dear", 10, **two)])
    assert names(filled) == ["dear"]
    assert reasons(filled) == {"cheap": (reason,)}


def test_separation_that_is_switched_off_lets_both_play() -> None:
    """With no separation and creatives that may repeat, two ads of one advertiser and creative both play."""
    pod = PodSpec(slots(2), repeat_creatives=True, advertiser_separation="none", category_separation="none")
    same: dict[str, Any] = {"creative_id": "c", "advertiser_domains": ("a.com",), "categories": ("IAB1",)}
    assert names(fill(pod, [ad("one", 9, **same), ad("two", 10, **same)])) == ["two", "one"]


def test_adjacent_separation_puts_another_ad_between() -> None:
    """Two ads of one advertiser may share the pod when another ad keeps them apart."""
    pod = PodSpec(slots(3), advertiser_separation="adjacent")
    filled = fill(
        pod,
        [
            ad("a1", 10, advertiser_domains=("a.com",)),
            ad("a2", 9, advertiser_domains=("a.com",)),
            ad("b", 1, advertiser_domains=("b.com",)),
        ],
    )
    assert names(filled) == ["a1", "b", "a2"]


def test_neighbours_of_the_pod_count() -> None:
    """The ad before the pod keeps its advertiser from being first, and the ad after from being last."""
    a, b = ad("a", 10, advertiser_domains=("a.com",)), ad("b", 5, advertiser_domains=("b.com",))
    before = PodSpec(slots(2), before=PodNeighbour(("a.com",)))
    assert names(fill(before, [a, b])) == ["b", "a"]
    alone = fill(replace(before, segments=slots(1)), [a, b])
    assert names(alone) == ["b"]
    assert reasons(alone) == {"a": ("advertiser_separation",)}


def test_guaranteed_positions_are_kept() -> None:
    """An ad that insists on the last place plays last, one that insists on the first plays first."""
    pod = PodSpec((part(60),))
    filled = fill(pod, [ad("last", 30, position=-1), ad("any", 20), ad("first", 10, position=1)])
    assert names(filled) == ["first", "any", "last"]


def test_hybrid_pod_fills_slot_and_time() -> None:
    """A hybrid pod plays its guaranteed first slot, then the time behind it, dearest first."""
    pod = PodSpec(
        (part(60, max_ads=4, floor_micros=8), PodSegment("one", 15_000, 15_000, floor_micros=15, position=1))
    )
    filled = fill(
        pod,
        [ad("b", 9, segments=("part",)), ad("a", 20, segments=("one",)), ad("c", 10, segments=("part",))],
    )
    assert [(place.segment_id, place.candidate.candidate_id) for place in filled.placements] == [
        ("one", "a"),
        ("part", "c"),
        ("part", "b"),
    ]


def test_floor_precedence() -> None:
    """A deal's floor comes before the floor by second or by duration, and these before the plain floor."""
    segment = PodSegment("s", floor_micros=100, duration_floors=(DurationFloor(1, 15_000, 10),))
    assert segment.floor_for(15_000) == 10
    assert segment.floor_for(16_000) == 100
    assert PodSegment("s", floor_micros=100, floor_per_second_micros=3).floor_for(5_500) == 17
    pod = PodSpec((segment,))
    assert names(fill(pod, [ad("deal", 7, 30, floor_micros=7)])) == ["deal"]


def test_fallback_is_reported_with_a_bound() -> None:
    """Without a single step the greedy fill stands, and the bound says how much better another could be."""
    candidates = [
        ad(f"c{at}", 50 + 7 * at, 5 + 4 * at, categories=(f"k{at % 5}", f"k{at % 7}")) for at in range(30)
    ]
    short = fill(PodSpec((part(90, max_ads=6),)), candidates, max_nodes=0)
    full = fill(PodSpec((part(90, max_ads=6),)), candidates, max_nodes=EXACT)
    assert full.proven
    assert short.value_micros <= full.value_micros <= short.bound_micros
    assert short.value_micros >= full.value_micros * 4 // 5


def test_a_pod_takes_a_bounded_number_of_ads() -> None:
    """A day of time takes no more than the bound, and a pod of more segments than that is refused."""
    filled = fill(PodSpec((part(86_400),)), [ad(f"c{at}", 1 + at) for at in range(1_000)])
    assert sorted(place.index for place in filled.placements) == list(range(1_000 - MAX_ADS, 1_000))
    with pytest.raises(BadInput, match="65 segments"):
        fill(PodSpec(slots(MAX_ADS + 1)), [])
