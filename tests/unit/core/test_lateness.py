"""What is kept back of expired reservations before, and after, it is known what becomes of them."""

from __future__ import annotations

import random

from core_kit import DAY, MINUTE, SECOND, T0, World, state_of

from adgovernor.core.lateness import Lateness

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
    """Where a day or flight ends before what is kept back could be of use, a mere guess keeps nothing back."""
    one = World(lateness_ms=0, late_prior_ppm=GUESS)
    one.campaign(budget_micros=1_000, end_ms=T0 + 40 * MINUTE)
    one.request("r1", T0, "c1")
    one.settle(T0 + MINUTE)
    assert "winner" in one.request("r2", T0 + MINUTE, "c1")["slots"][0]
    day = World(lateness_ms=0, late_prior_ppm=GUESS, now_ms=T0 // DAY * DAY + DAY - 40 * MINUTE)
    day.campaign(budget_micros=5_000, daily_budget_micros=1_000)
    day.request("r1", day.now_ms, "c1")
    day.settle(day.now_ms + MINUTE)
    assert "winner" in day.request("r2", day.now_ms, "c1")["slots"][0]


def test_what_is_known_replaces_the_guess() -> None:
    """The more fates are known, the less the guess counts: of 98 of whom a quarter came late a little more than a
    quarter is expected."""
    lateness = Lateness()
    assert lateness.expected_ppm(GUESS) == 1_000_000
    for number in range(98):
        lateness.expired(MINUTE)
        if number % 4 == 0:
            lateness.came()
    assert lateness.expected_ppm(GUESS) == 1_000_000
    lateness.advance(MINUTE)
    assert lateness.expected_ppm(GUESS) == 297_000
    assert Lateness(*lateness.row()).row() == lateness.row()


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
