"""Pacing: how much of a budget the treasury has released at a moment. What was not spent stays released, so
under-delivery is caught up."""

from __future__ import annotations

from adgovernor.contracts import zones
from adgovernor.contracts.campaigns import Campaign

HOUR_MS = 3_600_000


def released_micros(
    campaign: Campaign, budget_micros: int, day: int, time_zone: str, watermark_ms: int
) -> int:
    """The part of ``budget_micros`` released at the watermark.

    The span is the account day, or the flight where there is no daily budget; a flight without an end cannot
    be paced and releases all at once.
    """
    pacing = campaign.pacing
    if pacing.mode == "asap":
        return budget_micros
    if day:
        start_ms, end_ms = zones.day_bounds(day, time_zone)
    elif campaign.start_ms is not None and campaign.end_ms is not None:
        start_ms, end_ms = campaign.start_ms, campaign.end_ms
    else:
        return budget_micros
    if watermark_ms >= end_ms:
        return budget_micros
    if watermark_ms <= start_ms:
        return 0
    passed, length = watermark_ms - start_ms, end_ms - start_ms
    if pacing.mode == "even":
        return budget_micros * passed // length
    if pacing.mode == "front_loaded":
        # x + 4·lead·x·(1 − x): ahead of even by the lead at the middle, never falling for a lead up to 1/4.
        extra = 4 * pacing.lead_percent * passed * (length - passed)
        return budget_micros * (100 * passed * length + extra) // (100 * length * length)
    total = reached = 0
    at = start_ms
    while at < end_ms:
        # Hours follow the account's clock: a skipped one is not there, a repeated one counts twice.
        weight = pacing.hourly_weights[zones.hour_of(at, time_zone)]
        hour_end = min(at + HOUR_MS, end_ms)
        total += weight * HOUR_MS
        reached += weight * max(0, min(hour_end, watermark_ms) - at)
        at = hour_end
    return budget_micros * reached // total if total else budget_micros
