"""What the store is read to say: a person's caps and from when on they count, campaigns, and who writes which topic."""

from __future__ import annotations

import copy

import pytest

from adgovernor.app.embedded import Embedded
from adgovernor.app.starts import writer_of
from adgovernor.app.stored import CampaignMoney, StoredState, caps_of
from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import Campaign, Cap, UpsertCampaign
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.runtime.clock import WallClock
from adgovernor.stores.memory import MemoryStore

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


async def test_a_campaign_that_some_shards_have_is_served() -> None:
    """Where two accounts' definitions of one id raced, each is served by the shards that met it first."""
    async with Embedded(partitions=1) as governor:
        await governor.command(define("acme"))
        await governor.settle()
        found = await StoredState(governor.store, 1).campaign("c1")
    other = copy.copy(found.shares["u0"])
    other.treasury = "t1"
    raced = CampaignMoney.of(found.campaign, "t0", {"u0": found.shares["u0"], "u1": other})
    assert (list(raced.shares), raced.taken_by) == (["u0"], None)


async def test_a_shard_that_owes_is_shown() -> None:
    """A shard that has returned all its money and still owes for a late impression is among those that are told of; one
    that has neither is not."""
    async with Embedded(partitions=1) as governor:
        await governor.command(define("acme"))
        await governor.settle()
        found = await StoredState(governor.store, 1).campaign("c1")
    owing, idle = copy.copy(found.shares["u0"]), copy.copy(found.shares["u0"])
    owing.books, owing.owed = {}, [["r1", 0, 0, 1_000, 0]]
    idle.books, idle.owed = {}, []
    (told,) = CampaignMoney.of(found.campaign, "t0", {"u1": owing, "u2": idle}).details()["shards"]
    assert (told["shard"], told["days"], told["owed_micros"]) == ("u1", [], 1_000)


@pytest.mark.parametrize(
    ("topic", "shard"),
    [
        (topics.DECISIONS, "u3"),
        (topics.PODS, "u3"),
        (topics.BUDGET_EXHAUSTED, "t3"),
        (topics.CAMPAIGN_CHANGES, "t3"),
        (topics.dlq(topics.USER_EVENTS), "u3"),
        (topics.dlq(topics.DIRECTIVES), "u3"),
        (topics.dlq(topics.CAMPAIGNS), "t3"),
        (topics.dlq(topics.REPORTS), "t3"),
    ],
)
def test_each_output_has_its_writer(topic: str, shard: str) -> None:
    """What is about people is written by user shards, what is about campaigns by treasuries, and dead letters by
    whoever read the input; a reader that begins now takes the number from that shard's ledger."""
    assert writer_of(topic, 3) == shard


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


async def test_a_person_is_not_looked_for_where_there_is_nothing() -> None:
    """Of an empty name, or in a store in which nobody wrote, nothing is said of a person, but what is wrong."""
    state = StoredState(MemoryStore(), 2)
    with pytest.raises(BadInput, match="asked for is empty"):
        await state.find("")
    with pytest.raises(BadInput, match=r"nothing of shard u[01], to which ann belongs.*prefix"):
        await state.find("ann")
