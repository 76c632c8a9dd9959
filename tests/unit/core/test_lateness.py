"""What is kept back of expired reservations before, and after, it is known what becomes of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from core_kit import DAY, HOUR, MINUTE, SECOND, T0, World, fold_block, known_to_treasury, state_of

from adgovernor.contracts import zones
from adgovernor.core.lateness import Fates, Lateness
from adgovernor.core.pacing import NOTHING_DOUBTFUL, Settling, released_micros
from adgovernor.core.user_shard import UserShard

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
    """Where what is kept back for nothing is lost with its day, the margin is smaller, and a guess counts nothing; what
    has been waited for long is less likely to come."""
    lateness = Lateness(1_000, 500)
    assert lateness.expected_in_the_end_ppm([(MINUTE, 2)], MINUTE) > 1_500_000
    assert 50_000_000 < lateness.expected_in_the_end_ppm([(MINUTE, 100)], MINUTE) < 57_000_000
    assert lateness.expected_ppm(100, GUESS) > 64_000_000
    assert Lateness().expected_in_the_end_ppm([(MINUTE, 100)], MINUTE) == 0
    # Of 100 that have been waited for half the time 25 of the 50 are there, so 25 of the other 75 are to come.
    halfway = lateness.expected_in_the_end_ppm([(MINUTE // 2, 75)], MINUTE)
    assert 24_900_000 < halfway - 1_000_000 * 4 < 25_500_000
    both = [(MINUTE, 100), (MINUTE // 2, 75)]
    assert lateness.expected_in_the_end_ppm(both, MINUTE) < 50_000_000 + halfway + 5_000_000
    assert lateness.expected_in_the_end_ppm([(0, 75)], MINUTE) == 0


def test_what_came_late_is_not_waited_for_any_more() -> None:
    """What is kept back follows what may still come: late events and time take from both."""
    one = World(lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign(budget_micros=6_000)
    for number in range(6):
        assert "winner" in one.request(f"r{number}", T0 + number * SECOND, "c1")["slots"][0]
    one.settle(T0 + 10 * MINUTE)
    share = one.users[0].shares["c1"]

    def awaited() -> int:
        return sum(amount for _, amount in share.awaited_on(0, one.users[0].watermark_ms))

    assert (share.held_back(0), awaited()) == (6_000, 6_000)
    for number in range(4):
        one.show(f"r{number}", T0 + 11 * MINUTE)
        one.check_money()
    assert (share.held_back(0), awaited()) == (2_000, 2_000)
    one.settle(T0 + 40 * MINUTE)
    assert (share.held_back(0), awaited()) == (0, 0)
    assert one.money()["spent"] == 4_000


IN_DOUBT = 37 * MINUTE
FEW, MANY = 300, 10**6


def _planned(
    settling: Settling, *, hours: int = 24, prices: int = FEW, **fields: Any
) -> Callable[[int], int]:
    """How much of an evenly paced day in Berlin is released at so many minutes before its end."""
    start = {23: 1_711_839_600_000, 24: 1_717_192_800_000, 25: 1_729_980_000_000}[hours]
    one = World(now_ms=start)
    daily = 1_000 * prices
    one.campaign(
        **{"budget_micros": 9 * daily, "daily_budget_micros": daily, "pacing": {"mode": "even"}, **fields}
    )
    campaign = known_to_treasury(one).campaign
    day, end = zones.day_of(start, "Europe/Berlin"), start + hours * 60 * MINUTE
    return lambda left: released_micros(
        campaign, daily, day, "Europe/Berlin", end - left * MINUTE, None, settling
    )


@pytest.mark.parametrize(
    ("settling", "prices", "before", "until"),
    [
        (NOTHING_DOUBTFUL, FEW, 9, 6),
        ((IN_DOUBT, GUESS, 4), FEW, 39, 36),
        ((DAY, GUESS, 4), FEW, 40, 35),
        ((IN_DOUBT, 150_000, 4), FEW, 39, 36),
        ((IN_DOUBT, 500, 4), FEW, 9, 6),
        ((IN_DOUBT, 180_000, 4), 10, 9, 6),
        ((IN_DOUBT, GUESS, 4), 10_000, 38, 35),
        ((IN_DOUBT, 150_000, 4), 10_000, 31, 28),
        ((IN_DOUBT, 150_000, 64), 10_000, 36, 33),
        ((IN_DOUBT, GUESS, 4), MANY, 9, 6),
        ((IN_DOUBT, 150_000, 64), MANY, 9, 6),
    ],
)
@pytest.mark.parametrize("hours", [23, 24, 25])
def test_a_day_is_sold_the_earlier_the_more_an_ad_in_doubt_matters(
    settling: Settling, prices: int, before: int, until: int, hours: int
) -> None:
    """An evenly paced day is sold early in its last hour where it takes so long to know what is shown: the fewer ads
    it has, and the more of them are in doubt, the earlier. All hours but the last are as planned."""
    planned = _planned(settling, hours=hours, prices=prices)
    daily = 1_000 * prices
    for hour in range(hours):
        assert planned(60 * (hours - hour)) == daily * hour // hours
    assert planned(before) < daily == planned(until)


def test_an_hourly_curve_that_ends_late_is_in_more_doubt() -> None:
    """Where most of a day is to be sold in its last hour, more of it is in doubt, so it is sold earlier than an even
    one."""
    late = {"mode": "hourly", "hourly_weights": [1] * 23 + [50]}
    settling = (IN_DOUBT, 150_000, 4)
    assert _planned(settling, prices=40_000)(10) < 40_000_000
    assert _planned(settling, prices=40_000, pacing=late)(32) == 40_000_000


def test_a_day_that_catches_up_is_in_more_doubt() -> None:
    """Where most of a day was missed and is to be sold in the evening, more of it is in doubt at its end."""
    one = World(now_ms=T0 // DAY * DAY)
    one.campaign(budget_micros=10**9, daily_budget_micros=40_000_000, pacing={"mode": "even"})
    campaign, day = known_to_treasury(one).campaign, zones.day_of(one.now_ms, "UTC")
    end, settling = one.now_ms + DAY, (IN_DOUBT, 150_000, 4)
    for anchor, whole in ((None, False), ((end - 2 * HOUR, 200_000), True)):
        released = released_micros(campaign, 40_000_000, day, "UTC", end - 32 * MINUTE, anchor, settling)
        assert (released == 40_000_000) == whole


def test_a_short_flight_is_sold_early_in_its_last_hour() -> None:
    """Of a flight of six hours the last one is sold as early as that of a day; of two hours half an hour, at most."""
    for hours, early in ((6, 37), (2, 18)):
        one = World()
        one.campaign(start_ms=T0, end_ms=T0 + hours * HOUR, pacing={"mode": "even"})
        campaign, end = known_to_treasury(one).campaign, T0 + hours * HOUR
        for left, whole in ((early + 1, False), (early - 1, True)):
            released = released_micros(
                campaign, 300_000, 0, "UTC", end - left * MINUTE, None, (IN_DOUBT, GUESS, 4)
            )
            assert (released == 300_000) == whole


def test_a_treasury_knows_what_is_in_doubt() -> None:
    """Shards say, roughly, how often events come in time; together they say of how many ads the fate is not known by
    their deadline. Before anybody said anything that is all, or none where nothing is taken to come late."""
    one = World(2, lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign()
    treasury = next(t for t in one.treasuries if t.campaigns)
    campaign = treasury.campaigns["c1"].campaign
    settle_ms, doubt_ppm, shards = treasury.settling(campaign)
    assert (settle_ms > 31 * MINUTE, doubt_ppm, shards) == (True, GUESS, 2)
    for user, fates in zip(one.users, ([100, 50, [], 300, 100], [100, 0, [], 900, 100]), strict=True):
        user.fates = Fates({"": fates})
        for number in range(20):
            one.request(f"{user.shard}.{number}", T0, "c1", user=f"user{number}")
    # The second's are in no doubt: hardly any of those that expired came late.
    assert treasury.prompt == {"u0": {"": [256, 112]}, "u1": {"": [896, 0]}}
    assert treasury.settling(campaign)[1] == GUESS * 114 // 1_266
    assert state_of(one.folded(treasury.shard)) == state_of(treasury)
    clicks = treasury.settling(campaign.model_copy(update={"pricing": "cpc"}))
    assert (clicks[0] > 40 * MINUTE, clicks[1]) == (True, GUESS)
    sure = World(late_prior_ppm=0)
    sure.campaign()
    assert sure.treasuries[0].settling(campaign)[1] == 0


def test_what_comes_in_time_is_counted() -> None:
    """Of all reservations it is known how many were paid in time and how many expired; what is long ago counts half."""
    one = World(lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign()
    for number in range(6):
        one.request(f"r{number}", T0 + number * SECOND, "c1")
        if number < 4:
            one.show(f"r{number}", T0 + number * SECOND)
    one.settle(T0 + 5 * MINUTE)
    fates = one.users[0].fates.of("")
    assert (fates.prompt, fates.doubtful) == (4, 2)
    one.request("r6", one.now_ms, "c1")
    one.users[0].take_changes()
    one.users[0].apply(["settle", "r6", 0, "c1", 0, 1_000, 1_000])
    assert "core" in one.users[0].take_changes(), "it is stored"
    assert Lateness(*fates.row()).row() == fates.row()
    for _ in range(65_536):
        fates.came_in_time()
    assert 32_000 < fates.prompt < 33_000
    assert fates.doubtful == 1


def test_it_is_state_as_all_else_is() -> None:
    """What a shard has learned of late impressions is folded, decided again and stored like everything."""
    one = World(lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign()
    for number in range(6):
        one.request(f"r{number}", T0 + number * SECOND, "c1")
    one.show("r0", T0 + 5 * MINUTE)
    one.settle(T0 + 40 * MINUTE)
    live = one.users[0]
    assert live.fates.rows()[""] == [6, 1, [], 0, 6]
    assert state_of(one.folded("u0")) == state_of(live) == state_of(one.decided_again("u0"))


@pytest.mark.parametrize(("rules", "counted"), [(5, [0, 0]), (6, [1, 1])])
def test_what_earlier_rules_decided_is_folded_as_their_release_did(rules: int, counted: list[int]) -> None:
    """How many events come in time is counted of records since the rules that count it: of older ones a store that was
    upgraded does not know it either."""
    one = World(lateness_ms=0)
    one.campaign()
    one.request("r1", T0, "c1")
    one.request("r2", T0, "c1")
    one.show("r1", T0 + SECOND)
    one.settle(T0 + 10 * MINUTE)
    machine = one.twin("u0")
    for block in one.blocks["u0"]:
        fold_block(machine, block, rules)
    assert isinstance(machine, UserShard)
    known = machine.fates.known_of("")
    assert [known.prompt, known.doubtful] == counted
    assert sum(known.open.values()) == 1
