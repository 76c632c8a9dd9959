"""A yardstick for the pod fill: it tries every order of every set of ads and knows nothing of bounds or keys.

It reads the rules from the specification once more, in the plainest way, so that an error of the fill's own reading
shows. Only for pods of a few ads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adgovernor.core.podfill import PodCandidate, PodSegment, PodSpec

Row = tuple[tuple[int, int], ...]
"""(segment in play order, candidate) pairs."""


def play_order(pod: PodSpec) -> list[PodSegment]:
    """Guaranteed firsts, then the rest, then guaranteed lasts; "first or last" takes the front if it is free."""
    front = [s for s in pod.segments if s.position == 1]
    back = [s for s in pod.segments if s.position == -1]
    for segment in pod.segments:
        if segment.position == 2:
            (back if front else front).append(segment)
    return front + [s for s in pod.segments if s.position == 0] + back


def may_play(pod: PodSpec, segment: PodSegment, ad: PodCandidate) -> bool:
    """Tell whether the ad alone is lawful in the segment."""
    if ad.segments and segment.segment_id not in ad.segments:
        return False
    if segment.durations_ms and ad.duration_ms not in segment.durations_ms:
        return False
    if ad.duration_ms < segment.min_ms or (segment.max_ms and ad.duration_ms > segment.max_ms):
        return False
    if ad.price_micros <= 0:
        return False
    if ad.floor_micros is not None:
        floor = ad.floor_micros
    elif segment.floor_per_second_micros:
        if ad.price_micros * 1000 < segment.floor_per_second_micros * ad.duration_ms:
            return False
        floor = 0
    else:
        fitting = [
            f
            for f in segment.duration_floors
            if f.min_ms <= ad.duration_ms and (f.max_ms == 0 or ad.duration_ms <= f.max_ms)
        ]
        floor = fitting[0].floor_micros if fitting else segment.floor_micros
    if ad.price_micros < floor:
        return False
    for category in ad.categories:
        if category in pod.blocked_categories or category.split("-")[0] in pod.blocked_categories:
            return False
    for domain in ad.advertiser_domains:
        if any(domain == bad or domain.endswith("." + bad) for bad in pod.blocked_advertisers):
            return False
    return True


def is_lawful(pod: PodSpec, row: Sequence[tuple[int, int]], candidates: Sequence[PodCandidate]) -> bool:
    """Tell whether the ads may play in this order, by every rule of the pod."""
    segments = play_order(pod)
    ads = [candidates[index] for _, index in row]
    if len({index for _, index in row}) != len(row):
        return False
    if [place for place, _ in row] != sorted(place for place, _ in row):
        return False
    for number, segment in enumerate(segments):
        inside = [candidates[index] for place, index in row if place == number]
        if any(not may_play(pod, segment, ad) for ad in inside):
            return False
        if not segment.total_ms and len(inside) > 1:
            return False
        if segment.total_ms and sum(ad.duration_ms for ad in inside) > segment.total_ms:
            return False
        if segment.total_ms and segment.max_ads and len(inside) > segment.max_ads:
            return False
    if pod.max_ads and len(ads) > pod.max_ads:
        return False
    if pod.total_ms and sum(ad.duration_ms for ad in ads) > pod.total_ms:
        return False
    for at, ad in enumerate(ads):
        if ad.position == 1 and at != 0:
            return False
        if ad.position == -1 and at != len(ads) - 1:
            return False
        if ad.position == 2 and at not in (0, len(ads) - 1):
            return False
    if not pod.repeat_creatives and _repeats([ad.creative_id for ad in ads if ad.creative_id]):
        return False
    if pod.separate_media and _repeats([ad.media_url for ad in ads if ad.media_url]):
        return False
    if not _apart(pod.advertiser_separation, [set(ad.advertiser_domains) for ad in ads], pod, "domains"):
        return False
    if not _apart(pod.category_separation, [set(ad.categories) for ad in ads], pod, "categories"):
        return False
    for key, left in pod.caps_left.items():
        if sum(ad.cap_keys.count(key) for ad in ads) > left:
            return False
    for fund, available in pod.available_micros.items():
        charges = [ad.price_micros if ad.charge_micros is None else ad.charge_micros for ad in ads]
        if sum(charge for ad, charge in zip(ads, charges, strict=True) if fund in ad.funds) > available:
            return False
    return True


def _repeats(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def _apart(how: str, ads: list[set[str]], pod: PodSpec, what: str) -> bool:
    if how == "none" or not ads:
        return True
    before = after = set[str]()
    if pod.before is not None:
        before = set(pod.before.advertiser_domains if what == "domains" else pod.before.categories)
    if pod.after is not None:
        after = set(pod.after.advertiser_domains if what == "domains" else pod.after.categories)
    pairs = list(zip([before, *ads], [*ads, after], strict=True))
    if how == "pod":
        pairs += [(one, other) for at, one in enumerate(ads) for other in ads[at + 1 :]]
    return all(one.isdisjoint(other) for one, other in pairs)


def rows(pod: PodSpec, candidates: Sequence[PodCandidate]) -> Iterator[Row]:
    """Every row of at most as many ads as the places hold, lawful or not."""
    segments = play_order(pod)

    def extend(place: int, row: Row) -> Iterator[Row]:
        yield row
        for number in range(place, len(segments)):
            for index in range(len(candidates)):
                if index in {used for _, used in row}:
                    continue
                then = number if segments[number].total_ms else number + 1
                yield from extend(then, (*row, (number, index)))

    yield from extend(0, ())


def preference(row: Row, candidates: Sequence[PodCandidate]) -> tuple[int, int, int, tuple[int, ...]]:
    """The order of preference: value, fewer ads, less time, the candidates given first."""
    indices = sorted(index for _, index in row)
    order = tuple(1 if index in indices else 0 for index in range(len(candidates)))
    ads = [candidates[index] for index in indices]
    return sum(ad.price_micros for ad in ads), -len(ads), -sum(ad.duration_ms for ad in ads), order


def best_row(pod: PodSpec, candidates: Sequence[PodCandidate]) -> tuple[int, int, int, tuple[int, ...]]:
    """The preference of the best lawful row."""
    return max(
        preference(row, candidates) for row in rows(pod, candidates) if is_lawful(pod, row, candidates)
    )
