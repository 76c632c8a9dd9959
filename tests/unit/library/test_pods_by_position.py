"""Pods that are filled position by position."""

from __future__ import annotations

import pytest

from adgovernor.contracts.errors import BadInput
from adgovernor.library import (
    AdPodManager,
    CreativeRepeatedError,
    PodExistsError,
    PodRuleError,
    PodTooLargeError,
    PositionFilledError,
    UnknownPodError,
)
from adgovernor.stores.backends import InMemoryBackend


@pytest.fixture
def pods() -> AdPodManager:
    return AdPodManager(InMemoryBackend(), max_positions=4)


async def test_a_pod_is_filled_to_the_end(pods: AdPodManager) -> None:
    """Status tells the filled and open positions, what plays where, and how long the pod has become."""
    await pods.create("p", 2)
    status = await pods.record("p", 2, "b", duration_ms=15_000)
    assert (status.filled, status.open, status.complete) == ((2,), (1,), False)
    status = await pods.record("p", 1, "a", duration_ms=30_000, advertiser_domain="a.example")
    assert status == await pods.status("p")
    assert status.complete
    assert status.duration_ms == 45_000
    assert [place.creative_id for place in status.positions] == ["a", "b"]


async def test_each_misuse_has_its_own_error(pods: AdPodManager) -> None:
    """Too large, filled, repeated, unknown and existing are told apart, and change nothing."""
    with pytest.raises(PodTooLargeError, match="at most 4"):
        await pods.create("p", 5)
    with pytest.raises(UnknownPodError):
        await pods.record("p", 1, "a")
    with pytest.raises(UnknownPodError):
        await pods.status("p")
    await pods.create("p", 3)
    before = await pods.record("p", 1, "a")
    with pytest.raises(PositionFilledError, match="position 1"):
        await pods.record("p", 1, "b")
    with pytest.raises(CreativeRepeatedError, match="creative a"):
        await pods.record("p", 2, "a")
    with pytest.raises(PodExistsError):
        await pods.create("p", 4)
    assert await pods.create("p", 3) == before
    with pytest.raises(BadInput):
        await pods.create("q", 0)


@pytest.mark.parametrize(
    ("rules", "ad", "reason"),
    [
        ({}, {"position": 4}, "no_segment"),
        ({"max_ms": 20_000}, {"duration_ms": 30_000}, "duration"),
        ({"durations_ms": [15_000]}, {"duration_ms": 14_000}, "duration"),
        ({"total_ms": 40_000}, {"duration_ms": 30_000}, "no_room"),
        ({}, {"advertiser_domain": "A.example"}, "advertiser_separation"),
        ({"category_separation": "pod"}, {"categories": ["IAB1"]}, "category_separation"),
    ],
)
async def test_other_rules_are_named(
    pods: AdPodManager, rules: dict[str, object], ad: dict[str, object], reason: str
) -> None:
    """Durations, the pod's whole length and separation forbid an ad by the fill's own reasons."""
    await pods.create("p", 3, **rules)  # type: ignore[arg-type]
    first = {"duration_ms": 15_000, "advertiser_domain": "a.example", "categories": ["IAB1"]}
    await pods.record("p", 1, "a", **first)  # type: ignore[arg-type]
    with pytest.raises(PodRuleError) as refusal:
        await pods.record("p", **{"position": 2, "creative_id": "b", "duration_ms": 15_000, **ad})  # type: ignore[arg-type]
    assert refusal.value.reasons == (reason,)


async def test_a_pod_is_forgotten_after_its_time() -> None:
    """A pod that nobody changes is gone after its time to live."""
    now_ms = 1_000
    pods = AdPodManager(InMemoryBackend(lambda: now_ms), ttl_ms=100)
    await pods.create("p", 2)
    now_ms += 99
    await pods.record("p", 1, "a")
    now_ms += 99
    assert (await pods.status("p")).filled == (1,)
    now_ms += 1
    with pytest.raises(UnknownPodError):
        await pods.status("p")


def test_a_manager_of_impossible_pods_is_refused() -> None:
    """A bound that no pod can have is an error of settings."""
    with pytest.raises(BadInput, match="max_positions"):
        AdPodManager(InMemoryBackend(), max_positions=65)
