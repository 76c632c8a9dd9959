"""What a caller gives wrongly is the caller's error, whose message names it, before anything is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from adgovernor.contracts.errors import BadInput
from adgovernor.library import AdPodManager, BudgetTracker, CampaignLimits, FrequencyCapper, limits
from adgovernor.stores.backends import InMemoryBackend

LONG = "x" * 257
ONE = Decimal(1)
Misuse = Callable[[FrequencyCapper, BudgetTracker, AdPodManager], Awaitable[Any]]

MISUSES: dict[str, tuple[Misuse, str]] = {
    "a person's name": (lambda caps, money, pods: caps.record(LONG, "c"), "user_id"),
    "a zero in a person's name": (lambda caps, money, pods: caps.check("u\x00", "c"), "user_id"),
    "whom to forget": (lambda caps, money, pods: caps.forget(""), "user_id"),
    "a serving's name": (lambda caps, money, pods: caps.record("u", "c", serving_id=LONG), "serving_id"),
    "a text for categories": (
        lambda caps, money, pods: caps.record("u", "c", categories="abc"),
        "categories",
    ),
    "a text for labels": (lambda caps, money, pods: caps.check("u", "c", labels="abc"), "labels"),
    "a campaign's name": (lambda caps, money, pods: money.set_budget(LONG, ONE), "campaign_id"),
    "no campaign": (lambda caps, money, pods: money.status(""), "campaign_id"),
    "a time zone": (lambda caps, money, pods: money.set_budget("c", ONE, time_zone="Mars"), "time_zone"),
    "a reservation's name": (lambda caps, money, pods: money.reserve("c", ONE, LONG), "name"),
    "a spend's name": (lambda caps, money, pods: money.spend("c", ONE, LONG), "name"),
    "a top-up's name": (lambda caps, money, pods: money.top_up("c", ONE, LONG), "name"),
    "no pod": (lambda caps, money, pods: pods.create("", 1), "pod_id"),
    "a pod's name": (lambda caps, money, pods: pods.status(LONG), "pod_id"),
    "a separation": (
        lambda caps, money, pods: pods.create("p", 1, category_separation="far"),  # type: ignore[arg-type]
        "'far'",
    ),
    "a negative duration": (
        lambda caps, money, pods: pods.record("p", 1, "a", duration_ms=-1),
        "duration_ms",
    ),
    "a text for an ad's categories": (
        lambda caps, money, pods: pods.record("p", 1, "a", categories="abc"),
        "categories",
    ),
}


@pytest.mark.parametrize("name", MISUSES)
async def test_what_cannot_be_is_refused_by_its_name(name: str) -> None:
    """Names that are too long or missing, texts in place of lists, unknown words and negative lengths."""
    backend = InMemoryBackend()
    misuse, said = MISUSES[name]
    with pytest.raises(BadInput, match=said):
        await misuse(FrequencyCapper(backend), BudgetTracker(backend), AdPodManager(backend))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: limits(hour=-1), "limit: "),
        (lambda: limits(lifetime=-1), "limit: "),
        (lambda: limits(day=1, scope="label"), "label"),
        (lambda: CampaignLimits("c", time_zone="Mars"), "limits of c: time_zone"),
        (lambda: CampaignLimits("c", categories="abc"), "categories"),  # type: ignore[arg-type]
    ],
)
def test_limits_that_cannot_be_are_refused_when_they_are_made(make: Callable[[], object], said: str) -> None:
    """Not when the first person is asked about, who may come days later."""
    with pytest.raises(BadInput, match=said):
        make()
