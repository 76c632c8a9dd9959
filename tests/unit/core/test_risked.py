"""At the end of a day or flight of few ads, one of those that may still be shown is sold again: never a second one."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import DAY, MINUTE, SECOND, T0, World, known_to_treasury, state_of, winner_of

from adgovernor.contracts.ledger import Draft
from adgovernor.core import links

GUESS = 1_000_000
"""Everything is taken to come late at first, as by default."""
MIDNIGHT = T0 // DAY * DAY + DAY


class Evening(World):
    """A small day is sold out twenty minutes before its end, and none of its ads has been shown in time."""

    def __init__(
        self, partitions: int = 2, ads: int = 4, until_end_ms: int = 25 * MINUTE, **fields: Any
    ) -> None:
        super().__init__(partitions, lateness_ms=0, late_prior_ppm=GUESS, now_ms=MIDNIGHT - until_end_ms)
        self.sold: list[tuple[str, str]] = []
        self.campaign(**{"budget_micros": 100_000, "daily_budget_micros": ads * 1_000, **fields})
        assert self.sell(self.now_ms + 5 * MINUTE, 40, "r") == min(ads, 40)
        self.settle(self.now_ms + 2 * MINUTE)

    def sell(self, at_ms: int, count: int, prefix: str) -> int:
        """So many requests by as many people; how many were filled."""
        before = len(self.sold)
        for number in range(count):
            user = f"user{number}"
            if winner_of(self.request(f"{prefix}{number}", at_ms + number * SECOND, "c1", user=user)):
                self.sold.append((f"{prefix}{number}", user))
        self.check_money()
        return len(self.sold) - before


def _proved(one: World) -> None:
    for shard, machine in one.machines.items():
        assert state_of(one.folded(shard)) == state_of(machine) == state_of(one.decided_again(shard))


@pytest.mark.parametrize("partitions", [1, 2, 4])
def test_one_price_is_sold_again_and_no_second(partitions: int) -> None:
    """Of four ads that may still be shown one is sold again, whichever shards they are on; when all are shown, one of
    five is not billed."""
    one = Evening(partitions)
    assert one.sell(MIDNIGHT - 17 * MINUTE, 200, "again") == 1
    assert known_to_treasury(one).risked_day == 20231114
    for decision_id, user in one.sold:
        one.show(decision_id, MIDNIGHT - 10 * MINUTE, user=user)
        one.check_money()
    one.settle(MIDNIGHT + DAY)
    assert (one.money()["spent"], one.money()["unfunded"]) == (4_000, 1_000)
    _proved(one)


def test_the_next_day_has_a_risk_of_its_own() -> None:
    """Each day one price may be risked."""
    one = Evening()
    assert one.sell(MIDNIGHT - 17 * MINUTE, 20, "again") == 1
    assert one.sell(MIDNIGHT + DAY - 20 * MINUTE, 40, "next") == 4
    one.settle(MIDNIGHT + DAY - 18 * MINUTE)
    assert one.sell(MIDNIGHT + DAY - 17 * MINUTE, 40, "nextagain") == 1


def test_a_day_is_not_risked_again_after_the_next() -> None:
    """A shard that is behind may say of the day before, too late, that an ad of it could be sold again."""
    one = Evening()
    assert one.sell(MIDNIGHT - 17 * MINUTE, 20, "again") == 1
    assert one.sell(MIDNIGHT + DAY - 20 * MINUTE, 40, "next") == 4
    one.settle(MIDNIGHT + DAY - 18 * MINUTE)
    assert known_to_treasury(one).risked_day == 20231115
    behind, treasury = one.users[0], one.users[0].shares["c1"].treasury
    item = {"campaign_id": "c1", "risk": [20231114]}
    late = links.next_message(behind.links, treasury, {"watermark_ms": behind.watermark_ms, "items": [item]})
    one._collect(behind.shard, Draft({}, send=[late]), "")
    assert ["risked", "c1", 20231114] not in one.deliver(behind.shard, treasury).deltas
    assert known_to_treasury(one).risked_day == 20231115


def test_nothing_is_risked_while_there_is_time() -> None:
    """What is free again long enough before the end to be sold then is not risked, nor what the next day can sell."""
    early = Evening(until_end_ms=50 * MINUTE)
    assert early.sell(MIDNIGHT - 42 * MINUTE, 40, "again") == 0
    assert early.sell(MIDNIGHT - 13 * MINUTE, 40, "free") == 4
    rolling = Evening(daily_policy="rollover")
    assert rolling.sell(MIDNIGHT - 17 * MINUTE, 40, "again") == 0


def test_a_flight_that_ends_has_one_risk() -> None:
    """At the end of a flight without a daily budget it is the same."""
    one = Evening(daily_budget_micros=None, budget_micros=4_000, end_ms=MIDNIGHT)
    assert one.sell(MIDNIGHT - 17 * MINUTE, 60, "again") == 1
    assert known_to_treasury(one).risked_day == 0
    _proved(one)


def test_of_many_ads_none_is_risked() -> None:
    """Of a thousand ads or more one unsold is no more than a thousandth, and so many are kept back as are expected."""
    one = Evening(ads=1_000, budget_micros=10_000_000)
    assert one.money()["reserved"] == 0
    assert known_to_treasury(one).risked_day == -1
