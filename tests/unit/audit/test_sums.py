"""What all shards together must agree on, and does not where somebody tampered with one of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from core_kit import World

from adgovernor.audit.followed import Followed
from adgovernor.audit.report import Report
from adgovernor.audit.sums import check_links, check_money


def followed(world: World) -> dict[str, Followed]:
    """The shards of a world as an audit has followed them to their ends."""
    return {
        shard: cast(
            Followed,
            SimpleNamespace(shard=shard, machine=machine, broken=False, spine=SimpleNamespace(epoch=0)),
        )
        for shard, machine in world.machines.items()
    }


def served() -> World:
    """An account with a budget of its own, and a campaign of which one impression was paid and one is reserved."""
    world = World()
    world.command(
        "account", account={"account_id": "a1", "time_zone": "UTC", "currency": "EUR", "budget_micros": 9_000}
    )
    world.campaign(budget_micros=5_000, price_micros=1_000, currency="EUR")
    world.settle()
    world.request("r1", world.now_ms, "c1")
    world.show("r1", world.now_ms)
    world.request("r2", world.now_ms, "c1")
    world.settle()
    return world


def money_faults(world: World) -> list[str]:
    """What is said of the money."""
    report = Report()
    check_money(followed(world), report)
    return [finding.message for finding in report.findings]


def test_a_true_world_adds_up() -> None:
    """Nothing is said of what nobody touched."""
    assert money_faults(served()) == []


def test_money_spent_twice_is_red() -> None:
    """What is spent and reserved must be within what was given, whatever else adds up."""
    world = served()
    (share,) = (user.shares["c1"] for user in world.users)
    next(iter(share.books.values())).reserved += 5_000
    assert "spent 1000 + reserved 6000 of 5000" in money_faults(world)


def test_an_account_leased_beyond_its_budget_is_red() -> None:
    """Campaigns' leases together are within their account's money."""
    world = served()
    (treasury,) = world.treasuries
    fund = treasury.accounts["a1"]
    fund.topped_up = fund.leased - 1
    assert f"its campaigns were leased {fund.leased} of {fund.leased - 1}" in money_faults(world)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((0, "another"), "was taken with another content than it was sent with"),
        ((1, ""), "was taken, but only"),
        ((0, ""), ""),
        ((-1, ""), ""),
    ],
)
def test_messages_are_taken_as_they_were_sent(change: tuple[int, str], said: str) -> None:
    """A message taken with another content, or never sent, is a fault; one that is under way is not."""
    world = served()
    number, digest = world.machines["u0"].links.taken["t0"]
    world.machines["u0"].links.taken["t0"] = number + change[0], change[1] or digest
    report = Report()
    check_links(followed(world), report)
    assert [said in finding.message for finding in report.findings] == [True] * bool(said)
    assert (report.notes == ["t0 to u0: 1 messages are under way"]) == (change[0] < 0)
