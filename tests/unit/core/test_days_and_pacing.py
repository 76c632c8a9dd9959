"""Account days, time zones and the rate at which money is released."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from core_kit import DAY, HOUR, MINUTE, SECOND, World, codes_of, state_of, winner_of

BERLIN = "Europe/Berlin"


def _ms(zone: str, *parts: int) -> int:
    return int(datetime(*parts, tzinfo=ZoneInfo(zone)).timestamp()) * 1000  # type: ignore[arg-type,misc]


def _daily(start_ms: int, zone: str = "UTC", partitions: int = 1, **fields: Any) -> World:
    world = World(partitions, now_ms=start_ms, lateness_ms=0)
    world.command("account", time_ms=start_ms, account={"account_id": "a1", "time_zone": zone})
    world.campaign(**{"budget_micros": 100_000, "daily_budget_micros": 10_000, **fields})
    return world


def _used(world: World) -> dict[int, int]:
    used: dict[int, int] = {}
    for user in world.users:
        for day, book in user.shares["c1"].books.items():
            used[day] = used.get(day, 0) + book.reserved + book.spent
    return used


# ---------------------------------------------------------------------- days


def test_a_request_draws_on_the_day_of_its_event_time() -> None:
    """Around midnight each request uses the money of its own day, in any order."""
    midnight = _ms(BERLIN, 2024, 6, 2)
    world = _daily(midnight - 30 * SECOND, BERLIN)
    assert winner_of(world.request("r1", midnight - 1, "c1")) == "c1"
    assert winner_of(world.request("r2", midnight, "c1")) == "c1"
    assert _used(world) == {20240601: 1_000, 20240602: 1_000}


def test_settlement_and_expiry_book_to_the_reservations_day() -> None:
    """What was reserved before midnight is spent, or free, on the day before."""
    midnight = _ms(BERLIN, 2024, 6, 2)
    world = _daily(midnight - 30 * SECOND, BERLIN)
    world.request("r1", midnight - 10 * SECOND, "c1")
    world.request("r2", midnight - 10 * SECOND, "c1")
    world.show("r1", midnight + 10 * SECOND)
    world.settle(midnight + 10 * MINUTE)
    assert _used(world)[20240601] == 1_000
    assert _used(world).get(20240602, 0) == 0
    world.check_money()


def test_a_late_impression_books_to_its_own_day() -> None:
    """An impression the next morning of an ad of last night spends last night's budget."""
    midnight = _ms("UTC", 2024, 6, 2)
    world = _daily(midnight - 30 * SECOND)
    world.request("r1", midnight - 10 * SECOND, "c1")
    world.settle(midnight + 10 * MINUTE)
    assert world.show("r1", midnight + 10 * MINUTE)["kind"] in {"late_funded", "owed"}
    world.settle(midnight + 11 * MINUTE)
    assert _used(world)[20240601] == 1_000
    world.check_money()


def test_past_midnight_the_old_days_idle_money_returns() -> None:
    """When the watermark has passed midnight no shard holds idle money of the day before."""
    midnight = _ms(BERLIN, 2024, 6, 2)
    world = _daily(midnight - HOUR, BERLIN, partitions=4)
    world.request("r1", midnight - HOUR, "c1")
    world.settle(midnight + MINUTE)
    for user in world.users:
        assert user.shares["c1"].lease(20240601) == 0
        assert user.shares["c1"].lease(20240602) > 0
    world.check_money()


def test_the_next_day_is_leased_a_minute_early() -> None:
    """early_lease_ms before midnight the next day's first leases are there, and not before."""
    midnight = _ms("UTC", 2024, 6, 2)
    world = _daily(midnight - HOUR)
    share = world.users[0].shares["c1"]
    world.settle(midnight - MINUTE - 1)
    assert share.lease(20240602) == 0
    world.settle(midnight - MINUTE)
    assert share.lease(20240602) > 0
    assert share.lease(20240601) > 0


@pytest.mark.parametrize(("day", "hours"), [((2024, 3, 31), 23), ((2024, 10, 27), 25), ((2024, 6, 1), 24)])
def test_every_account_day_carries_the_full_budget(day: tuple[int, int, int], hours: int) -> None:
    """Days of 23 and 25 hours have exactly one daily budget, to their last millisecond."""
    start = _ms(BERLIN, *day)
    end = start + hours * HOUR
    world = _daily(start, BERLIN)
    sold = 0
    for number in range(30):
        time_ms = start + number * (end - 1 - start) // 29
        if winner_of(world.request(f"r{number}", time_ms, "c1")) is not None:
            sold += 1
            world.show(f"r{number}", time_ms)
    assert sold == 10
    # The first request of the new day tells the treasury that it has begun.
    world.request("tomorrow", end, "c1", user="bob")
    assert winner_of(world.request("tomorrow2", end, "c1", user="bob")) == "c1"
    assert world.money()["spent"] == 10_000


def test_a_refused_day_is_told_as_daily_budget() -> None:
    """When the day is sold out the reason is daily_budget, and the pause's reason is day."""
    start = _ms("UTC", 2024, 6, 1)
    world = _daily(start, daily_budget_micros=1_000)
    world.request("r1", start, "c1")
    world.show("r1", start)
    assert codes_of(world.request("r2", start + 1, "c1")) == ["daily_budget"]
    assert [list(event["reasons"]) for event in world.of("campaign-paused")] == [["day"]]


@pytest.mark.parametrize(("day", "hours"), [((2024, 3, 31), 23), ((2024, 10, 27), 25), ((2024, 6, 1), 24)])
@pytest.mark.parametrize("budget_of", ["campaign", "account"])
@pytest.mark.parametrize("partitions", [1, 4])
def test_a_sold_out_day_does_not_refuse_the_next_one(
    day: tuple[int, int, int], hours: int, budget_of: str, partitions: int
) -> None:
    """Right after midnight, before the watermark has passed it, a request is served from the new day's budget though
    the day before is sold out and paused; one of the old day is still refused."""
    start = _ms(BERLIN, *day)
    midnight = start + hours * HOUR
    world = World(partitions, now_ms=start)
    account: dict[str, Any] = {"account_id": "a1", "time_zone": BERLIN}
    campaign: dict[str, Any] = {"budget_micros": 1_000_000, "daily_budget_micros": 8_000}
    if budget_of == "account":
        account["daily_budget_micros"] = campaign.pop("daily_budget_micros")
    world.command("account", time_ms=start, account=account)
    world.campaign(**campaign)
    sold = 0
    for number in range(60):
        time_ms, user = start + number * SECOND, f"user{number}"
        if winner_of(world.request(f"r{number}", time_ms, "c1", user=user)) is not None:
            world.show(f"r{number}", time_ms, user=user)
            sold += 1
    word = "day" if budget_of == "campaign" else "account_day"
    assert (sold, [event["reasons"] for event in world.of("campaign-paused")]) == (8, [[word]])
    world.settle(midnight - 30 * SECOND)
    assert [user.shares["c1"].paused for user in world.users] == [(word,)] * partitions
    for number in range(20):
        user = f"user{number}"
        decision = world.request(f"n{number}", midnight + number * 100, "c1", user=user)
        if winner_of(decision) is None:
            assert set(codes_of(decision)) == {"no_lease"}
        else:
            world.show(f"n{number}", midnight + number * 100, user=user)
            sold += 1
        old = world.request(f"o{number}", midnight - 1, "c1", user=user)
        assert codes_of(old) == ["daily_budget" if budget_of == "campaign" else "account_budget"]
        world.check_money()
    assert sold == 16
    assert not world.of("campaign-resumed")
    world.settle(midnight + 11 * SECOND)
    world.settle(midnight + DAY - 2 * HOUR)
    assert sum(_used(world).values()) == 16_000
    for shard, machine in world.machines.items():
        assert state_of(world.folded(shard)) == state_of(world.decided_again(shard)) == state_of(machine)


def test_a_new_day_is_there_for_its_first_requests_however_late_events_may_come() -> None:
    """Where events may come later than next-day leases are early, a day is opened when its first requests can come."""
    midnight = _ms("UTC", 2024, 6, 2)
    world = World(now_ms=midnight - HOUR, lateness_ms=5 * MINUTE, early_lease_ms=0)
    world.campaign(daily_budget_micros=10_000)
    world.settle(midnight)
    assert winner_of(world.request("r1", midnight, "c1")) == "c1"
    assert _used(world) == {20240601: 0, 20240602: 1_000}


def test_a_pause_by_hand_holds_on_the_next_day_too() -> None:
    """Only the pause of a sold out day ends with it: paused by hand as well, the next day gets no money, and what it
    had been leased comes back."""
    midnight = _ms("UTC", 2024, 6, 2)
    world = World(now_ms=midnight - HOUR)
    world.campaign(daily_budget_micros=1_000)
    world.request("r1", midnight - HOUR, "c1")
    world.show("r1", midnight - HOUR)
    share = world.users[0].shares["c1"]
    world.settle(midnight - 20 * SECOND)
    assert share.lease(20240602) == 1_000
    world.command("pause", campaign_id="c1", time_ms=midnight - 20 * SECOND)
    assert share.lease(20240602) == 0
    assert codes_of(world.request("r2", midnight, "c1")) == ["daily_budget", "paused"]
    world.command("resume", campaign_id="c1", time_ms=midnight)
    assert codes_of(world.request("r3", midnight, "c1")) == ["no_lease"]
    assert winner_of(world.request("r4", midnight, "c1")) == "c1"
    world.check_money()


def test_even_pacing_begins_with_its_day() -> None:
    """What an evenly paced day has released by a request's own time can be had right after midnight, before the
    watermark has passed it; what rolled over is part of the day."""
    midnight = _ms("UTC", 2024, 6, 2)
    world = World(now_ms=midnight - HOUR)
    world.campaign(
        budget_micros=10**9,
        daily_budget_micros=1_440_000,
        daily_policy="rollover",
        pacing={"mode": "even"},
    )
    world.settle(midnight - 5 * SECOND)
    assert codes_of(world.request("r1", midnight + SECOND, "c1")) == ["no_lease"]
    assert winner_of(world.request("r2", midnight + 2 * SECOND, "c1")) == "c1"
    assert codes_of(world.request("r3", midnight + 3 * SECOND, "c1")) == ["no_lease"]
    assert _used(world)[20240602] == 1_000
    world.check_money()


@pytest.mark.parametrize(("hour", "resumed"), [(12, False), (23, True)])
def test_the_last_prices_of_a_day_are_sold_though_more_may_come_back(hour: int, resumed: bool) -> None:
    """While reservations may still give more money back, one price does not end a sold out day's pause; towards its
    end, when there is no time to wait for the rest, it does."""
    start = _ms("UTC", 2024, 6, 1, hour)
    world = World(2, now_ms=start, lateness_ms=0, late_prior_ppm=1_000_000)
    world.campaign(daily_budget_micros=10_000)
    sold = 0
    for number in range(40):
        time_ms, user = start + number * 30 * SECOND, f"user{number}"
        if winner_of(world.request(f"r{number}", time_ms, "c1", user=user)) is not None:
            sold += 1
            if sold not in (1, 10):
                world.show(f"r{number}", time_ms, user=user)
    assert sold == 10
    world.settle(start + 33 * MINUTE)
    assert world.money()["reserved"] == 1_000
    assert bool(world.of("campaign-resumed")) == resumed
    won = [
        winner_of(world.request(f"n{number}", start + (33 + number) * MINUTE, "c1", user=f"user{number}"))
        for number in range(4)
    ]
    assert won.count("c1") == resumed
    world.check_money()


def test_a_top_up_does_not_open_a_sold_out_day() -> None:
    """Money for the total is no money for the day."""
    start = _ms("UTC", 2024, 6, 1)
    world = _daily(start, daily_budget_micros=1_000)
    world.request("r1", start, "c1")
    world.show("r1", start)
    world.command("top-up", campaign_id="c1", amount_micros=50_000)
    assert codes_of(world.request("r2", start + 1, "c1")) == ["daily_budget"]
    world.campaign(budget_micros=100_000, daily_budget_micros=2_000)
    assert winner_of(world.request("r3", start + 2, "c1")) == "c1"


def test_a_new_time_zone_moves_the_days() -> None:
    """When an account moves, requests draw on the days of its new calendar, and no day is overspent."""
    start = _ms("UTC", 2024, 6, 1, 20)
    world = _daily(start)
    for number in range(4):
        world.request(f"r{number}", start, "c1")
        world.show(f"r{number}", start)
    world.command("account", time_ms=start, account={"account_id": "a1", "time_zone": "Asia/Tokyo"})
    assert winner_of(world.request("r9", start, "c1")) == "c1"
    assert _used(world) == {20240601: 4_000, 20240602: 1_000}
    world.command("account", time_ms=start, account={"account_id": "a1", "time_zone": "UTC"})
    # The day that seemed to be over had returned its money, so the first request asks for it again.
    assert codes_of(world.request("r10", start, "c1")) == ["no_lease"]
    assert winner_of(world.request("r11", start, "c1")) == "c1"
    assert _used(world) == {20240601: 5_000, 20240602: 1_000}
    world.check_money()


def test_an_unknown_time_zone_is_poison() -> None:
    """An account's zone must be in the calendar tables."""
    world = World()
    before = len(world.of("campaigns.dlq"))
    world.command("account", account={"account_id": "a1", "time_zone": "Mars/Olympus"})
    assert len(world.of("campaigns.dlq")) == before + 1


# ---------------------------------------------------------------------- pacing


@pytest.mark.parametrize(("seed", "partitions"), [(0, 1), (1, 2), (2, 4)])
def test_spend_follows_even_pacing(seed: int, partitions: int) -> None:
    """With steady demand the day's budget is spent, but for at most one price on each other shard, and never more; no
    hour runs further ahead of the curve than a finish in time and one price a shard explain."""
    start = _ms("UTC", 2024, 6, 1)
    budget, price = 200_000, 1_000
    world = _daily(
        start,
        partitions=partitions,
        budget_micros=10 * budget,
        daily_budget_micros=budget,
        pacing={"mode": "even"},
    )
    for number in range(24 * 30):
        time_ms = start + number * 2 * MINUTE
        user = f"user{(number + seed) % 17}"
        if winner_of(world.request(f"r{number}", time_ms, "c1", user=user)) is not None:
            world.show(f"r{number}", time_ms, user=user)
        curve = budget * (time_ms - start) // DAY
        assert world.money()["spent"] <= curve + budget // 50 + price * (partitions + 1)
    world.check_money()
    assert budget - price * (partitions - 1) <= world.money()["spent"] <= budget
