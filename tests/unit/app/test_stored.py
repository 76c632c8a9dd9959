"""What the store is read to say: a person's caps and from when on they count, and campaigns whose id is another's."""

from __future__ import annotations

import pytest

from adgovernor.app.embedded import Embedded
from adgovernor.app.stored import StoredState, caps_of
from adgovernor.contracts.campaigns import Campaign, Cap, UpsertCampaign
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.runtime.clock import WallClock

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def define(account: str, *caps: Cap) -> UpsertCampaign:
    campaign = Campaign(
        campaign_id="c1", account_id=account, budget_micros=100_000, price_micros=1_000, caps=caps
    )
    return UpsertCampaign(command="upsert", command_id=account, account_id=account, campaign=campaign)


def request() -> AdRequest:
    ad = Candidate(campaign_id="c1", creative_id="a")
    return AdRequest(request_id="r1", time_ms=WallClock().now_ms(), user_id="ann", candidates=(ad,))


async def test_a_cap_says_from_when_on_it_counts() -> None:
    """That is the beginning of its window, or later where what was older had been forgotten by then; a cap that counts
    all there ever was has no such time."""
    caps = (
        Cap(scope="campaign", window="rolling", length_ms=HOUR_MS, limit=2),
        Cap(scope="campaign", window="calendar", length_ms=DAY_MS, limit=3),
        Cap(scope="campaign", window="lifetime", limit=4),
    )
    async with Embedded(partitions=1) as governor:
        await governor.command(define("acme", *caps))
        await governor.decide(request())
        await governor.settle()
        found = await StoredState(governor.store, 1).find("ann")
    share, now = found.machine.shares["c1"], found.machine.watermark_ms

    def told(since_ms: int) -> list[int | None]:
        return [row["since_ms"] for row in caps_of(found.person, share, now, None, since_ms)]

    # A serving exactly one window old counts no longer.
    assert told(0) == [now - HOUR_MS + 1, now - now % DAY_MS, None]
    assert told(now - 5) == [now - 5, now - 5, None]
    rows = caps_of(found.person, share, now, None, 0)
    assert [(row["limit"], row["used"], row["left"]) for row in rows] == [(2, 1, 1), (3, 1, 2), (4, 1, 3)]


async def test_of_two_accounts_campaigns_of_one_id_the_later_is_never_served() -> None:
    """Whoever asks for the id is told to say whose, and which of both the shards have."""
    async with Embedded(partitions=2) as governor:
        # Treasuries know their own accounts only, so both take the definition.
        for account in ("a0", "a1"):
            assert (await governor.command(define(account))).accepted
            await governor.settle()
        state = StoredState(governor.store, 2)
        with pytest.raises(BadInput, match=r"a1 \(never served\)"):
            await state.campaign("c1")
        first, second = await state.campaign("c1", "a0"), await state.campaign("c1", "a1")
    assert (first.row()["status"], first.row()["taken_by"]) == ("active", None)
    assert (second.row()["status"], second.row()["taken_by"]) == ("never served", "a0")


async def test_a_campaigns_money_adds_up() -> None:
    """What was given is unleased, under way, leased, reserved or spent; what is neither reserved nor spent is left."""
    async with Embedded(partitions=2) as governor:
        await governor.command(define("acme"))
        await governor.shown(await governor.decide(request()))
        await governor.settle()
        row = (await StoredState(governor.store, 2).campaign("c1")).row()
    parts = ("unleased", "in_flight", "lease", "reserved", "spent")
    assert row["topped_up_micros"] == 100_000 == sum(row[f"{part}_micros"] for part in parts)
    assert (row["in_flight_micros"], row["spent_micros"], row["left_micros"]) == (0, 1_000, 99_000)
