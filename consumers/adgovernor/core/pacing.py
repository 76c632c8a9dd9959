"""Pacing: how much of a budget the treasury has released at a moment.

The plan is a curve from nothing at the start of the span to the whole budget shortly before its end; the span is the
account day, or the flight where the campaign has no daily budget, and the day's part of the flight where it has both.
What traffic did not use is carried over up to a small part of the budget, so that bursts within minutes do no harm;
what was missed beyond that is spread over what remains of the curve, by giving the plan a new beginning: the *anchor*.

Money is released in whole prices, each a little early rather than late, and all of it a little before the end, so that
the last price can still be spent and its reservation settled or given to somebody else. Where events come late, of what
is sold last it is not known by the end what will be shown. A great budget needs no more than to expect the right share
of that; a small one is sold so much earlier that next to nothing is in doubt.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from math import isqrt

from adgovernor.contracts import zones
from adgovernor.contracts.campaigns import Campaign

FINISH_DIVISOR = 200
"""The plan is complete a 200th of the span before its end: about 7 minutes of a day."""
_HURRY_MS = 3_600_000
"""At most the last hour goes faster than the curve, so that all others are as planned,"""
_HURRY_DIVISOR = 4
"""and at most the last quarter of a short flight."""
_EARLY_PERCENT = 62
"""And at most so much of that is left without a plan."""
_DEVIATIONS = 3
"""So many standard deviations of what is in doubt must be within a thousandth of the budget, beside one that each shard
keeps back."""
_FEW_PPM = 50_000
"""Or so many millionths of one ad are in doubt."""
CARRY_DIVISOR = 200
"""At most a 200th of the budget (and at least one price) is released ahead of what was leased."""
_QUARTER_MS = 900_000
"""Every zone's clock is a whole number of quarters ahead of or behind UTC, so hours begin on quarters."""
_DAY_UNITS = 10**12
"""What one whole day counts for in an hourly curve."""

Anchor = tuple[int, int]
"""(moment, micros): the plan begins anew at that moment, with so much released already."""
Settling = tuple[int, int, int]
"""How long it takes until the fate of what is sold is known (ms); how many of a million ads are in doubt for so long;
how many shards sell them."""
NOTHING_DOUBTFUL: Settling = (0, 0, 1)


def released_micros(
    campaign: Campaign,
    budget_micros: int,
    day: int,
    time_zone: str,
    at_ms: int,
    anchor: Anchor | None = None,
    settling: Settling = NOTHING_DOUBTFUL,
) -> int:
    """How much of ``budget_micros`` the plan has released at a moment of the account day (0: of the flight)."""
    span = _span_of(campaign, day, time_zone)
    if span is None:
        return budget_micros
    start_ms, end_ms = span
    finish = _finish(campaign, budget_micros, (start_ms, end_ms), time_zone, anchor, settling)
    at_ms = _hurried(at_ms, end_ms, finish)
    if at_ms >= end_ms:
        return budget_micros
    if at_ms <= start_ms:
        return 0
    done, whole = _progress(campaign, start_ms, end_ms, time_zone, at_ms)
    if anchor is None:
        return budget_micros * done // whole
    since_ms, base = anchor
    base = min(base, budget_micros)
    since_ms = min(max(_hurried(since_ms, end_ms, finish), start_ms), at_ms)
    before, _ = _progress(campaign, start_ms, end_ms, time_zone, since_ms)
    if before >= whole:
        return budget_micros
    return base + (budget_micros - base) * (done - before) // (whole - before)


def _span_of(campaign: Campaign, day: int, time_zone: str) -> tuple[int, int] | None:
    """[start, end) of the plan, in ms; None where all is released at once: ``asap``, and a flight without an end."""
    if campaign.pacing.mode == "asap":
        return None
    start_ms, end_ms = campaign.start_ms, campaign.end_ms
    if campaign.daily_budget_micros is None:
        return None if start_ms is None or end_ms is None else (start_ms, end_ms)
    first, after = zones.day_bounds(day, time_zone)
    if start_ms is not None:
        first = max(first, start_ms)
    if end_ms is not None:
        after = min(after, end_ms)
    return (first, after) if first < after else None


def _finish(
    campaign: Campaign,
    budget_micros: int,
    span: tuple[int, int],
    time_zone: str,
    anchor: Anchor | None,
    settling: Settling,
) -> tuple[int, int]:
    """(How long before the end the curve begins to go faster, how long before it the curve is complete), in ms."""
    start_ms, end_ms = span
    span_ms = end_ms - start_ms
    early_ms = span_ms // FINISH_DIVISOR
    settle_ms, doubt_ppm, shards = settling
    if settle_ms <= early_ms or not doubt_ppm or not budget_micros:
        return 2 * early_ms, early_ms
    hurry_ms = min(_HURRY_MS, span_ms // _HURRY_DIVISOR)
    last_ms = max(start_ms, end_ms - max(settle_ms, hurry_ms))
    since_ms, base = anchor or (start_ms, 0)
    before, whole = _progress(campaign, start_ms, end_ms, time_zone, min(max(since_ms, start_ms), end_ms))
    done, _ = _progress(campaign, start_ms, end_ms, time_zone, last_ms)
    # What of the budget is to be sold from then on: much of it where much was missed before.
    rest, left = max(0, budget_micros - base), whole - max(done, before)
    last_ppm = 1_000_000 * rest * left // (budget_micros * (whole - before)) if before < whole else 1_000_000
    lawful_ppm = _lawful_ppm(max(1, budget_micros // max(1, campaign.one_price())), doubt_ppm, shards)
    if last_ppm <= lawful_ppm:
        return 2 * early_ms, early_ms
    needed_ms = settle_ms
    if settle_ms < hurry_ms:
        # What is sold in the last hurry_ms is sold evenly until the curve is complete.
        needed_ms = (settle_ms * last_ppm - hurry_ms * lawful_ppm) // (last_ppm - lawful_ppm)
    needed_ms = min(needed_ms, hurry_ms * _EARLY_PERCENT // 100)
    return (hurry_ms, needed_ms) if needed_ms > early_ms else (2 * early_ms, early_ms)


def _lawful_ppm(prices: int, doubt_ppm: int, shards: int) -> int:
    """How much of a budget of so many prices (in millionths) may be sold so late that its fate is not known by the end.

    Of n ads in doubt no more than √n / 2 is the standard deviation of how many are shown. Each shard keeps back one of
    its own besides, which of all of them together is √shards as much."""
    spread = (_DEVIATIONS + isqrt(shards - 1) + 1) ** 2
    by_chance = 4 * 1_000_000 * prices // (doubt_ppm * spread)
    next_to_none = 1_000_000 * _FEW_PPM // (doubt_ppm * prices)
    return max(by_chance, next_to_none)


def _hurried(at_ms: int, end_ms: int, finish: tuple[int, int]) -> int:
    """The moment of the curve at a moment of the clock: they are the same until shortly before the end, where the
    curve goes faster to be complete in time."""
    hurry_ms, early_ms = finish
    since_ms = end_ms - hurry_ms
    if at_ms <= since_ms:
        return at_ms
    return min(end_ms, since_ms + (at_ms - since_ms) * hurry_ms // (hurry_ms - early_ms))


def _progress(campaign: Campaign, start_ms: int, end_ms: int, time_zone: str, at_ms: int) -> tuple[int, int]:
    """How far the mode's curve is at a moment, as (part, whole)."""
    pacing = campaign.pacing
    passed, length = at_ms - start_ms, end_ms - start_ms
    if pacing.mode == "front_loaded":
        # x + 4·lead·x·(1 − x): ahead of even by the lead at the middle, never falling for a lead up to 1/4.
        extra = 4 * pacing.lead_percent * passed * (length - passed)
        return 100 * passed * length + extra, 100 * length * length
    if pacing.mode == "hourly":
        weights = tuple(pacing.hourly_weights)
        several = zones.day_of(start_ms, time_zone) != zones.day_of(end_ms - 1, time_zone)
        whole = _weighed(weights, time_zone, start_ms, end_ms, several)
        if whole:
            return _weighed(weights, time_zone, start_ms, at_ms, several), whole
        # A flight that lies in hours without weight only: there is no curve to follow.
    return passed, length


def _weighed(weights: tuple[int, ...], time_zone: str, start_ms: int, end_ms: int, whole_days: bool) -> int:
    """The weight of the time between two moments: within a day as it stands; over several each day counts the
    same, however many hours it has."""
    if not whole_days:
        table = _day_table(weights, time_zone, zones.day_of(start_ms, time_zone))
        return _reached(table, end_ms) - _reached(table, start_ms)
    return _position(weights, time_zone, end_ms) - _position(weights, time_zone, start_ms)


def _position(weights: tuple[int, ...], time_zone: str, at_ms: int) -> int:
    day = zones.day_of(at_ms, time_zone)
    table = _day_table(weights, time_zone, day)
    total = _reached(table, zones.day_bounds(day, time_zone)[1])
    part = _DAY_UNITS * _reached(table, at_ms) // total if total else 0
    return zones.day_ordinal(day) * _DAY_UNITS + part


_Table = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@lru_cache(maxsize=4096)
def _day_table(weights: tuple[int, ...], time_zone: str, day: int) -> _Table:
    """Where the weight changes, the weight reached there, and the weight from there on. A skipped hour is not
    there, a repeated one counts twice."""
    start_ms, end_ms = zones.day_bounds(day, time_zone)
    starts: list[int] = []
    reached: list[int] = []
    slopes: list[int] = []
    total, at_ms = 0, start_ms
    while at_ms < end_ms:
        weight = weights[zones.hour_of(at_ms, time_zone)]
        if not slopes or slopes[-1] != weight:
            starts.append(at_ms)
            reached.append(total)
            slopes.append(weight)
        next_ms = min(at_ms - at_ms % _QUARTER_MS + _QUARTER_MS, end_ms)
        total += weight * (next_ms - at_ms)
        at_ms = next_ms
    return tuple(starts), tuple(reached), tuple(slopes)


def _reached(table: _Table, at_ms: int) -> int:
    starts, reached, slopes = table
    place = bisect_right(starts, at_ms) - 1
    return reached[place] + slopes[place] * (at_ms - starts[place]) if place >= 0 else 0
