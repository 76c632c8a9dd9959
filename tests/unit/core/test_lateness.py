"""What is kept back of expired reservations before, and after, it is known what becomes of them."""

from __future__ import annotations

import random

import pytest
from core_kit import DAY, MINUTE, SECOND, T0, World, known_to_treasury, serve, state_of

from adgovernor.contracts import zones
from adgovernor.core.lateness import Fates, Lateness
from adgovernor.core.pacing import released_micros

GUESS = 1_000_000
"""Everything is taken to come late at first, as by default."""


def test_at_first_all_that_expires_is_kept_back() -> None:
    """Until anything is known of late impressions, the money of an expired ad waits for its own, and then is free."""
    one = World(lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign(budget_micros=1_000)
    assert "winner" in one.request("r1", T0, "c1")["slots"][0]
    one.settle(T0 + 10 * MINUTE)
    assert one.money()["reserved"] == 1_000
    one.check_money()
    one.settle(T0 + 33 * MINUTE)
    assert one.money()["reserved"] == 0
    assert "winner" in one.request("r2", T0 + 33 * MINUTE, "c1")["slots"][0]


def test_a_budget_spent_at_once_pays_its_late_impressions() -> None:
    """A campaign that is spent before any late impression was seen pays all of them, however late they come."""
    rng = random.Random(7)
    one = World(lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign(budget_micros=100_000)
    won: list[tuple[int, str]] = []
    at = T0
    for number in range(400):
        at += SECOND
        for due, name in [pair for pair in won if pair[0] <= at]:
            won.remove((due, name))
            one.show(name, due)
        if "winner" in one.request(f"r{number}", at, "c1")["slots"][0]:
            late = rng.random() < 0.15
            won.append((at + (rng.randrange(60, 1_800) if late else 1) * SECOND, f"r{number}"))
    for due, name in sorted(won):
        one.show(name, due)
    assert one.money()["unfunded"] == 0
    assert not one.users[0].shares["c1"].owed
    assert one.money()["spent"] == 100_000
    one.check_money()


def test_without_the_guess_expired_money_is_free_at_once() -> None:
    """A rule of 0 keeps nothing back until late impressions were seen."""
    one = World(lateness_ms=0, late_prior_ppm=0)
    one.campaign(budget_micros=1_000)
    one.request("r1", T0, "c1")
    one.settle(T0 + MINUTE)
    assert "winner" in one.request("r2", T0 + MINUTE, "c1")["slots"][0]


def test_money_that_could_not_be_used_again_is_not_kept_back() -> None:
    """Where a day or flight ends before what is kept back is free again, a mere guess keeps nothing back, and of fewer
    than a thousand ads nothing is; what is left of a day that rolls over is of use to the next."""
    one = World(lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign(budget_micros=1_000, end_ms=T0 + 30 * MINUTE)
    one.request("r1", T0, "c1")
    one.settle(T0 + MINUTE)
    assert "winner" in one.request("r2", T0 + MINUTE, "c1")["slots"][0]
    for fates, prices, won in (
        ([99, 90, []], 1, True),
        ([99, 90, []], 1_000, False),
        ([99, 0, []], 1_000, True),
    ):
        known = World(lateness_ms=0, late_prior_ppm=GUESS)
        known.campaign(budget_micros=prices * 1_000, end_ms=T0 + 30 * MINUTE)
        user = known.users[0]
        user.fates = Fates({"": fates})
        known.request("r1", T0, "c1")
        user.apply(["return", "c1", 0, user.shares["c1"].lease(0)])
        known.settle(T0 + MINUTE)
        assert (user.shares["c1"].held_back(0) == 0) == won
    for policy, won in (("hard", True), ("rollover", False)):
        day = World(lateness_ms=0, late_prior_ppm=GUESS, now_ms=T0 // DAY * DAY + DAY - 30 * MINUTE)
        day.campaign(budget_micros=5_000, daily_budget_micros=1_000, daily_policy=policy)
        day.request("r1", day.now_ms, "c1")
        day.settle(day.now_ms + MINUTE)
        assert ("winner" in day.request("r2", day.now_ms, "c1")["slots"][0]) == won


def test_what_is_known_replaces_the_guess() -> None:
    """The more fates are known, the less the guess counts: of 998 of whom a quarter came late a quarter is expected,
    and a margin that is all of a few and little of many."""
    lateness = Lateness()
    assert lateness.expected_ppm(3, GUESS) == 3_000_000
    for number in range(998):
        lateness.expired(MINUTE)
        if number % 4 == 0:
            lateness.came()
    assert lateness.expected_ppm(3, GUESS) == 3_000_000
    lateness.advance(MINUTE)
    share = 252_000
    assert lateness.expected_ppm(1, GUESS) == 1_000_000
    assert 100 * share < lateness.expected_ppm(100, GUESS) < 100 * share + 15_000_000
    assert 10_000 * share < lateness.expected_ppm(10_000, GUESS) < 10_000 * share * 118 // 100
    assert Lateness(*lateness.row()).row() == lateness.row()


def test_nothing_is_kept_back_where_nothing_comes_late() -> None:
    """Of a thousand that expired without a late event, hardly any of a hundred more is expected to come."""
    lateness = Lateness(1_000)
    assert lateness.expected_ppm(100, GUESS) < 2_000_000
    assert lateness.expected_ppm(100, 0) == 0


def test_where_it_is_lost_less_is_kept_back() -> None:
    """Where what is kept back for nothing is lost with its day, the margin is smaller, and a guess counts nothing."""
    lateness = Lateness(1_000, 500)
    assert lateness.expected_ppm(2, GUESS, True) > 1_500_000
    assert 50_000_000 < lateness.expected_ppm(100, GUESS, True) < 57_000_000
    assert lateness.expected_ppm(100, GUESS) > 64_000_000
    assert Lateness().expected_ppm(100, GUESS, True) == 0


def test_what_came_late_is_not_waited_for_any_more() -> None:
    """What is kept back follows what may still come: late events and time take from both."""
    one = World(lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign(budget_micros=6_000)
    for number in range(6):
        assert "winner" in one.request(f"r{number}", T0 + number * SECOND, "c1")["slots"][0]
    one.settle(T0 + 10 * MINUTE)
    share = one.users[0].shares["c1"]
    assert (share.held_back(0), share.awaited_on(0, one.now_ms)) == (6_000, 6_000)
    for number in range(4):
        one.show(f"r{number}", T0 + 11 * MINUTE)
        one.check_money()
    assert (share.held_back(0), share.awaited_on(0, one.now_ms)) == (2_000, 2_000)
    one.settle(T0 + 40 * MINUTE)
    assert (share.held_back(0), share.awaited_on(0, one.users[0].watermark_ms)) == (0, 0)
    assert one.money()["spent"] == 4_000


@pytest.mark.parametrize(("settle", "before", "until"), [(0, 9, 6), (37, 39, 35), (DAY // MINUTE, 40, 35)])
@pytest.mark.parametrize("hours", [23, 24, 25])
def test_a_day_is_sold_so_early_that_late_events_come_within_it(
    settle: int, before: int, until: int, hours: int
) -> None:
    """An evenly paced day is sold so long before its end as it takes to know the fate of what was sold, in its last
    hour; until then there is no difference."""
    start = {23: 1_711_839_600_000, 24: 1_717_192_800_000, 25: 1_729_980_000_000}[hours]
    one = World(now_ms=start)
    one.campaign(budget_micros=10**9, daily_budget_micros=10**8, pacing={"mode": "even"})
    campaign = known_to_treasury(one).campaign
    day = zones.day_of(start, "Europe/Berlin")

    def planned(minute: int) -> int:
        at_ms = start + minute * MINUTE
        return released_micros(campaign, 10**8, day, "Europe/Berlin", at_ms, None, settle * MINUTE)

    whole = hours * 60
    for hour in range(hours - 1):
        assert planned(hour * 60) == 10**8 * hour // hours
    assert abs(planned(whole - 60) - 10**8 * (whole - 60) // whole) <= 500_000
    assert planned(whole - before) < 10**8 == planned(whole - until)


def test_a_treasury_knows_whether_events_come_late() -> None:
    """A day is sold early until every shard says that next to nothing comes late of what is paid for."""
    one = World(2, lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign()
    treasury = next(t for t in one.treasuries if t.campaigns)
    campaign = treasury.campaigns["c1"].campaign
    assert treasury.settle_ms(campaign) > 31 * MINUTE
    for user, settled in zip(one.users, (False, True), strict=True):
        user.fates = Fates({"": [100, 0, []]})
        for number in range(20):
            one.request(f"{user.shard}.{number}", T0, "c1", user=f"user{number}")
        assert (treasury.settle_ms(campaign) == 0) == settled
    assert state_of(one.folded(treasury.shard)) == state_of(treasury)
    one.users[0].fates = Fates({"": [100, 50, []]})
    serve(one, 40)
    assert treasury.settle_ms(campaign) > 31 * MINUTE
    assert treasury.settle_ms(campaign.model_copy(update={"pricing": "cpc"})) > 40 * MINUTE


def test_it_is_state_as_all_else_is() -> None:
    """What a shard has learned of late impressions is folded, decided again and stored like everything."""
    one = World(lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign()
    for number in range(6):
        one.request(f"r{number}", T0 + number * SECOND, "c1")
    one.show("r0", T0 + 5 * MINUTE)
    one.settle(T0 + 40 * MINUTE)
    live = one.users[0]
    assert live.fates.rows()[""] == [6, 1, []]
    assert state_of(one.folded("u0")) == state_of(live) == state_of(one.decided_again("u0"))
