"""Frequency caps over a backend: what is counted, what blocks, what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from adgovernor.contracts.campaigns import Cap
from adgovernor.contracts.errors import BadInput, Unavailable
from adgovernor.library import CampaignLimits, FrequencyCapper, limits
from adgovernor.stores.backends import InMemoryBackend, Versioned

T0 = 1_700_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR


class Clock:
    """A clock in the test's hand."""

    def __init__(self) -> None:
        self.now_ms = T0

    def __call__(self) -> int:
        return self.now_ms


def capper(clock: Callable[[], int], *campaigns: CampaignLimits) -> FrequencyCapper:
    return FrequencyCapper(InMemoryBackend(), campaigns, clock_ms=clock)


async def test_a_rolling_limit_ends_to_the_millisecond() -> None:
    """The third serving of an hour is refused, and allowed exactly one hour after the first."""
    clock = Clock()
    caps = capper(clock, CampaignLimits("c", caps=limits(hour=2)))
    assert (await caps.record("u", "c")).allowed
    clock.now_ms += 10
    assert (await caps.record("u", "c")).allowed
    clock.now_ms = T0 + HOUR - 1
    assert not (await caps.record("u", "c")).allowed
    clock.now_ms += 1
    assert (await caps.record("u", "c")).allowed
    assert await caps.remaining("u", "c") == 0


def test_hours_have_no_calendar() -> None:
    """With ``calendar`` days and weeks are the zone's; an hour stays any stretch of that length."""
    found = limits(hour=1, day=2, week=3, lifetime=4, calendar=True)
    assert [cap.window for cap in found] == ["rolling", "calendar", "calendar", "lifetime"]


async def test_several_caps_are_all_named() -> None:
    """A refusal names every cap that blocked, with its window, limit and count."""
    caps = capper(
        Clock(), CampaignLimits("c", caps=limits(hour=1, day=1, week=5, lifetime=1), advertiser_id="a")
    )
    await caps.record("u", "c")
    answer = await caps.check("u", "c")
    assert not answer.allowed
    assert [(r.window, r.length_ms, r.limit, r.count) for r in answer.reasons] == [
        ("rolling", HOUR, 1, 1),
        ("rolling", DAY, 1, 1),
        ("lifetime", None, 1, 1),
    ]


async def test_limits_are_each_campaigns_own() -> None:
    """One campaign's limit does not bind another, and a campaign without limits is always allowed."""
    caps = capper(
        Clock(), CampaignLimits("one", caps=limits(day=1)), CampaignLimits("two", caps=limits(day=2))
    )
    for name in ("one", "two", "free"):
        assert (await caps.record("u", name)).allowed
    assert [await caps.remaining("u", name) for name in ("one", "two", "free")] == [0, 1, None]
    assert not (await caps.check("u", "one")).allowed
    assert (await caps.check("somebody else", "one")).allowed


async def test_creatives_advertisers_and_categories_are_counted_across_campaigns() -> None:
    """A creative's cap counts that creative, an advertiser's all its campaigns, a category's all who share it."""
    caps = capper(
        Clock(),
        CampaignLimits("c1", caps=limits(day=1, scope="creative"), advertiser_id="a"),
        CampaignLimits("c2", caps=limits(day=2, scope="advertiser"), advertiser_id="a"),
        CampaignLimits("c3", caps=limits(day=3, scope="category"), advertiser_id="b", categories=("IAB1",)),
    )
    await caps.record("u", "c1", creative_id="x")
    assert not (await caps.check("u", "c1", creative_id="x")).allowed
    assert (await caps.check("u", "c1", creative_id="y")).allowed
    assert await caps.remaining("u", "c2", creative_id="z") == 1
    await caps.record("u", "c1", creative_id="y", categories=["IAB1"])
    assert await caps.remaining("u", "c2", creative_id="z") == 0
    assert await caps.remaining("u", "c3") == 2
    reasons = (await caps.check("u", "c2")).reasons
    assert [reason.scope for reason in reasons] == ["advertiser:a"]


async def test_a_serving_is_counted_once() -> None:
    """Recording a serving's id again counts nothing, and says so; the cap does not turn it into a refusal."""
    caps = capper(Clock(), CampaignLimits("c", caps=limits(day=1)))
    assert not (await caps.record("u", "c", serving_id="s")).duplicate
    again = await caps.record("u", "c", serving_id="s")
    assert (again.allowed, again.duplicate) == (True, True)
    assert (await caps.check("u", "c")).reasons[0].count == 1


async def test_what_was_shown_counts_where_it_is_not_asked() -> None:
    """Without enforcement a serving beyond the cap is counted, and its answer still names the cap."""
    caps = capper(Clock(), CampaignLimits("c", caps=limits(lifetime=1)))
    await caps.record("u", "c")
    answer = await caps.record("u", "c", enforce=False)
    assert (answer.allowed, answer.reasons[0].count) == (False, 1)
    assert (await caps.check("u", "c")).reasons[0].count == 2


async def test_zero_means_never() -> None:
    """A limit of 0 refuses the first serving."""
    caps = capper(Clock(), CampaignLimits("c", caps=limits(day=0)))
    assert not (await caps.record("u", "c")).allowed
    assert await caps.remaining("u", "c") == 0


async def test_an_earlier_serving_counts_in_the_windows_that_hold_both() -> None:
    """An event that comes late is refused where a window that contains it is full already."""
    clock = Clock()
    caps = capper(clock, CampaignLimits("c", caps=limits(hour=1)))
    await caps.record("u", "c")
    assert not (await caps.record("u", "c", time_ms=T0 - HOUR + 1)).allowed
    assert (await caps.record("u", "c", time_ms=T0 - HOUR)).allowed


async def test_who_knows_shorter_caps_alone_forgets_nothing_that_others_need() -> None:
    """Of two processes with unlike campaigns on one backend, the one with the longest window says how long is kept."""
    clock, backend = Clock(), InMemoryBackend()
    week = CampaignLimits("c", caps=limits(week=5))
    long, short = (FrequencyCapper(backend, found, clock_ms=clock) for found in ([week], []))
    await long.record("u", "c")
    clock.now_ms += 3 * DAY
    await short.record("u", "c")
    assert await long.seen("u", "c", week.caps[0]) == 2


async def test_a_late_serving_does_not_turn_time_back() -> None:
    """Ids are known until the newest time that was seen is so much later, however late the last serving came."""
    caps = capper(Clock())
    await caps.record("u", "c")
    for late_ms, known in ((HOUR - 1, True), (2 * HOUR, False)):
        for _ in range(2):
            again = await caps.record("u", "c", serving_id=f"late by {late_ms}", time_ms=T0 - late_ms)
        assert again.duplicate == known


async def test_a_calendar_day_is_the_zones() -> None:
    """A calendar cap begins anew at the zone's midnight, not at UTC's."""
    clock = Clock()  # 22:13 UTC, 23:13 in Berlin
    caps = capper(clock, CampaignLimits("c", caps=limits(day=1, calendar=True), time_zone="Europe/Berlin"))
    assert (await caps.record("u", "c")).allowed
    clock.now_ms += HOUR // 2
    assert not (await caps.record("u", "c")).allowed
    clock.now_ms += HOUR // 2
    assert (await caps.record("u", "c")).allowed


async def test_lifetime_totals_outlive_the_servings() -> None:
    """A lifetime cap still counts what is no longer remembered one by one."""
    clock = Clock()
    caps = capper(clock, CampaignLimits("c", caps=limits(lifetime=3)))
    for _ in range(2):
        await caps.record("u", "c")
        clock.now_ms += 10 * DAY
    assert await caps.remaining("u", "c") == 1


async def test_a_cap_of_the_moment_is_added() -> None:
    """A cap given with the question holds beside the campaign's own."""
    caps = capper(Clock(), CampaignLimits("c", caps=limits(day=9)))
    await caps.record("u", "c")
    extra = (Cap(window="rolling", length_ms=DAY, limit=1),)
    assert not (await caps.check("u", "c", extra=extra)).allowed
    assert await caps.remaining("u", "c", extra=extra) == 0
    assert await caps.remaining("u", "c") == 8


async def test_a_person_can_be_forgotten() -> None:
    """Nothing of a person who was forgotten blocks any more."""
    caps = capper(Clock(), CampaignLimits("c", caps=limits(lifetime=1)))
    await caps.record("u", "c")
    await caps.forget("u")
    await caps.forget("u")
    assert (await caps.check("u", "c")).allowed


class Contended(InMemoryBackend):
    """Another process changes each value between a look at it and its removal, ``times`` times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def delete(self, key: str, expected: Versioned) -> bool:
        if self.times:
            self.times -= 1
            return False
        return await super().delete(key, expected)


async def test_a_person_is_forgotten_though_others_change_them() -> None:
    """Whoever records meanwhile delays forgetting, and does not prevent it."""
    caps = FrequencyCapper(Contended(3), [CampaignLimits("c", caps=limits(lifetime=1))])
    await caps.record("u", "c")
    await caps.forget("u")
    assert (await caps.check("u", "c")).allowed


async def test_forgetting_has_a_deadline() -> None:
    """Where others change a person again and again, the caller is told in time that forgetting failed."""
    caps = FrequencyCapper(Contended(10**9), deadline_s=0.05)
    await caps.record("u", "c")
    async with asyncio.timeout(5.0):
        with pytest.raises(Unavailable, match="others were faster"):
            await caps.forget("u")


@pytest.mark.parametrize("time_ms", [-1, T0 + 6_000])
async def test_an_impossible_time_is_refused(time_ms: int) -> None:
    """A time before 1970 or well ahead of the clock is the caller's error."""
    with pytest.raises(BadInput, match="time_ms"):
        await capper(Clock()).record("u", "c", time_ms=time_ms)


async def test_nobody_is_capped() -> None:
    """A cap without a person is the caller's error."""
    with pytest.raises(BadInput, match="user_id"):
        await capper(Clock()).check("", "c")
