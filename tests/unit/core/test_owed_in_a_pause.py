"""What was shown before a pause is billed after it, as long as there is money for it."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import DAY, MINUTE, SECOND, T0, World, known_to_treasury, state_of

from adgovernor.contracts.ledger import Draft
from adgovernor.core import links


def _sold(partitions: int = 1, **fields: Any) -> World:
    """A campaign that sold four ads, whose reservations have expired with nothing kept back for them."""
    one = World(partitions, lateness_ms=0)
    one.campaign(**fields)
    for number in range(4):
        assert "winner" in one.request(f"r{number}", T0, "c1")["slots"][0]
    one.settle(T0 + 2 * MINUTE)
    return one


def _show_late(one: World) -> int:
    for number in range(4):
        one.show(f"r{number}", one.now_ms + SECOND)
        one.check_money()
    return int(one.money()["spent"])


def _proved(one: World) -> None:
    for shard, machine in one.machines.items():
        assert state_of(one.folded(shard)) == state_of(machine) == state_of(one.decided_again(shard))


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("command", ["pause", "archive"])
def test_late_impressions_of_a_paused_campaign_are_billed(partitions: int, command: str) -> None:
    """A campaign that was paused by hand, or ended for good, still pays for what it showed: the shard asks for what it
    owes though it sells nothing."""
    one = _sold(partitions)
    one.command(command, campaign_id="c1", time_ms=one.now_ms)
    one.settle()
    assert one.money()["lease"] == 0
    assert _show_late(one) == 4_000
    one.settle(one.now_ms + SECOND)
    assert (one.money()["lease"], one.money()["unleased"]) == (0, 996_000)
    assert not known_to_treasury(one).asks
    _proved(one)


@pytest.mark.parametrize("daily", [None, 100_000])
def test_late_impressions_after_the_flight_are_billed(daily: int | None) -> None:
    """Impressions that come late after the flight's end are paid from the money that the flight left."""
    one = _sold(end_ms=T0 + 3 * MINUTE, daily_budget_micros=daily)
    one.settle(T0 + 4 * MINUTE)
    assert one.of("campaign-paused")[-1]["reasons"] == ["flight"]
    assert _show_late(one) == 4_000
    _proved(one)


def test_an_ask_that_waited_until_a_pause_is_denied() -> None:
    """A day was sold out, a shard asked for the next, and then the campaign was paused by hand, too: it owes nothing,
    so it is leased nothing."""
    one = World()
    one.campaign(daily_budget_micros=1_000)
    one.request("r1", T0, "c1")
    one.show("r1", T0 + SECOND)
    one.request("r2", T0 + MINUTE, "c1")
    assert one.of("campaign-paused")[-1]["reasons"] == ["day"]
    user, treasury = one.users[0], one.users[0].shares["c1"].treasury
    tomorrow = user.shares["c1"].day_of(T0 + DAY)
    item = {"campaign_id": "c1", "asks": [{"day": tomorrow, "level": 2_000, "empty": True}]}
    early = links.next_message(user.links, treasury, {"watermark_ms": user.watermark_ms, "items": [item]})
    one._collect(user.shard, Draft({}, send=[early]), "")
    one.settle()
    assert known_to_treasury(one).asks
    one.command("pause", campaign_id="c1", time_ms=one.now_ms)
    one.settle()
    assert not known_to_treasury(one).asks
    said = b"".join(record.line for block in one.blocks[treasury] for record in block.records)
    assert (said.count(b'["grant","c1"'), said.count(b'["denied","c1"')) == (1, 1)


def test_a_pause_for_lack_of_money_pays_no_more_than_there_is() -> None:
    """What a campaign owes that is sold out waits for money to come back, and no ask is left unanswered."""
    one = World(lateness_ms=0)
    one.campaign(budget_micros=2_000)
    for number in range(2):
        one.request(f"r{number}", T0, "c1")
    one.settle(T0 + 2 * MINUTE)
    for number in range(2, 4):
        one.request(f"r{number}", T0 + 2 * MINUTE, "c1")
        one.show(f"r{number}", T0 + 2 * MINUTE)
    one.settle(T0 + 3 * MINUTE)
    assert one.of("campaign-paused")[-1]["reasons"] == ["exhausted"]
    one.show("r0", T0 + 4 * MINUTE)
    one.check_money()
    assert one.money()["spent"] == 2_000
    assert not known_to_treasury(one).asks
    one.command("top-up", campaign_id="c1", amount_micros=1_000, time_ms=one.now_ms)
    assert one.money()["spent"] == 3_000
    one.show("r1", one.now_ms + SECOND)
    one.settle(T0 + DAY)
    assert one.money()["unfunded"] == 1_000
    one.check_money()
    _proved(one)
