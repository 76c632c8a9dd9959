"""Treasuries: definitions, leases, asks, recalls, exhaustion, episodes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from core_kit import DAY, HOUR, MINUTE, SECOND, T0, World, codes_of, known_to_treasury, serve, winner_of

from adgovernor.contracts.routing import partition_of

# ---------------------------------------------------------------------- leases


@pytest.mark.parametrize("partitions", [1, 2, 4])
def test_a_definition_carries_a_first_lease_for_every_shard(partitions: int) -> None:
    """Every shard gets an equal first lease, in whole prices, and something is kept back."""
    world = World(partitions)
    world.campaign(budget_micros=100_500)
    leases = {user.shard: user.shares["c1"].lease(0) for user in world.users}
    assert len(set(leases.values())) == 1
    assert all(lease > 0 and lease % 1_000 == 0 for lease in leases.values())
    assert world.money()["unleased"] == 100_500 - sum(leases.values()) > 0
    world.check_money()


def test_the_last_prices_are_given_one_to_each_shard() -> None:
    """A budget of just one price a shard is leased whole."""
    world = World(4)
    world.campaign(budget_micros=4_000)
    assert [user.shares["c1"].lease(0) for user in world.users] == [1_000] * 4


def test_a_budget_below_one_price_a_shard_waits_for_asks() -> None:
    """Where not every shard can have a price, nobody gets one unasked: the reason is no_lease, never exhausted."""
    world = World(4)
    world.campaign(budget_micros=3_000)
    assert [user.shares["c1"].lease(0) for user in world.users] == [0] * 4
    world.instant = False
    decision = world.request("r1", T0, "c1")
    assert codes_of(decision) == ["no_lease"]
    world.settle()
    assert winner_of(world.request("r2", T0, "c1")) == "c1"


def test_a_shard_asks_before_it_is_empty() -> None:
    """Below its low-water mark a shard asks on, so that no request is refused while money is left."""
    world = World()
    world.campaign(budget_micros=100_000)
    assert serve(world, 100) == 100


def test_an_ask_is_not_repeated_while_it_is_open() -> None:
    """One ask for a campaign and day at a time."""
    world = World(4)
    world.campaign(budget_micros=3_000)
    world.instant = False
    for number in range(5):
        world.request(f"r{number}", T0 + number, "c1")
    asks = [
        item
        for messages in world.mail.values()
        for value in messages
        for item in orjson.loads(value)["payload"]["items"]
        if "asks" in item
    ]
    assert len(asks) == 1


def test_a_denied_shard_asks_again_only_after_the_cooldown() -> None:
    """After a deny the next ask waits ask_cooldown_ms of watermark."""
    world = World(lateness_ms=0, ask_cooldown_ms=10 * SECOND)
    world.campaign(budget_micros=10_000)
    dear = {"campaign_id": "c1", "price_micros": 50_000}
    assert codes_of(world.request("r1", T0, dear)) == ["no_lease"]
    share = world.users[0].shares["c1"]
    assert (share.asks, share.denied) == ({}, {0: T0 + 10 * SECOND})
    world.instant = False
    world.request("r2", T0 + 10 * SECOND - 1, dear)
    assert share.asks == {}
    world.request("r3", T0 + 10 * SECOND, dear)
    assert 0 in share.asks


def test_an_ask_that_cannot_be_met_while_a_price_is_left_is_denied() -> None:
    """A pod dearer than the whole budget neither recalls nor exhausts a campaign that has money for others."""
    world = World(2)
    world.campaign(budget_micros=10_000)
    world.request("r1", T0, {"campaign_id": "c1", "price_micros": 11_000})
    assert world.of("budget-exhausted") == []
    assert known_to_treasury(world).asks == {}
    assert winner_of(world.request("r2", T0, "c1")) == "c1"


def test_one_absurd_bid_does_not_make_a_shard_hoard() -> None:
    """A bid that no budget could meet is denied, and changes nothing about how much the shard asks for later."""
    leases = []
    for absurd in (False, True):
        world = World(2)
        world.campaign()
        if absurd:
            world.request("absurd", T0, {"campaign_id": "c1", "price_micros": 2**60}, user="user0")
        assert serve(world, 40, users=1, step_ms=100, start=20) == 40
        leases.append([user.shares["c1"].lease(0) for user in world.users])
    assert leases[0] == leases[1]


# ---------------------------------------------------------------------- recalls


def _one_shard_holds_all(world: World) -> tuple[str, str]:
    """The only two prices are leased, one to each shard; the users of each shard."""
    world.campaign(budget_micros=2_000)
    by_shard = {partition_of(f"user{n}".encode(), 2): f"user{n}" for n in range(20)}
    return by_shard[0], by_shard[1]


def test_an_empty_shard_has_the_others_idle_money_recalled() -> None:
    """An ask for an empty lease brings back what idles elsewhere, and is granted from it."""
    world = World(2)
    here, _ = _one_shard_holds_all(world)
    world.request("r1", T0, "c1", user=here)
    assert [user.shares["c1"].lease(0) for user in world.users] == [1_000, 0]
    assert winner_of(world.request("r2", T0, "c1", user=here)) == "c1"
    world.check_money()


@pytest.mark.parametrize("step_ms", [1, SECOND, 2 * MINUTE])
@pytest.mark.parametrize("order", [(0, 1), (0, 0, 1, 1), (0, 1, 1)])
def test_shards_that_ask_in_turn_do_not_keep_the_last_price_from_each_other(
    order: tuple[int, ...], step_ms: int
) -> None:
    """However the demand of two shards alternates, the last price is sold soon."""
    world = World(2)
    world.campaign(budget_micros=1_000)
    by_shard = {partition_of(f"user{n}".encode(), 2): f"user{n}" for n in range(20)}
    wins = [
        winner_of(
            world.request(
                f"r{number}", T0 + number * step_ms, "c1", user=by_shard[order[number % len(order)]]
            )
        )
        for number in range(8 * len(order))
    ]
    assert "c1" in wins


def test_a_recall_goes_only_to_shards_with_money_and_covers_earlier_grants() -> None:
    """Shards that hold nothing are not asked; a grant that is still under way comes back with the reply."""
    world = World(2)
    world.instant = False
    here, _ = _one_shard_holds_all(world)
    # The treasury's two messages (definition with lease) are on their way; u0 takes its own first.
    world.deliver("t0" if ("t0", "u0") in world.mail else "t1", "u0")
    treasury = next(t.shard for t in world.treasuries if t.campaigns)
    world.request("r1", T0, "c1", user=here)
    world.request("r2", T0, "c1", user=here)
    world.deliver("u0", treasury)
    assert known_to_treasury(world).round is not None
    assert known_to_treasury(world).round.waiting == ["u0", "u1"]
    world.deliver_all()
    world.check_money()
    assert world.users[0].shares["c1"].lease(0) == 1_000
    assert world.of("budget-exhausted") == []


def test_money_reserved_elsewhere_is_exhausted_after_a_clean_round() -> None:
    """When everything is reserved or spent, an ask for an empty lease ends in exhausted."""
    world = World(2)
    here, there = _one_shard_holds_all(world)
    # The first takes its shard's only price, so the other shard's idle one is recalled for it.
    assert winner_of(world.request("r1", T0, "c1", user=here)) == "c1"
    assert codes_of(world.request("r2", T0, "c1", user=there)) == ["no_lease"]
    assert world.of("budget-exhausted") == []
    # Whoever got it may keep it a while; then it comes back for the second asker.
    assert codes_of(world.request("r2b", T0 + 2 * SECOND, "c1", user=there)) == ["no_lease"]
    assert winner_of(world.request("r2c", T0 + 2 * SECOND, "c1", user=there)) == "c1"
    assert [event["scope"] for event in world.of("budget-exhausted")] == ["total"]
    event = world.of("budget-exhausted")[0]
    assert (event["topped_up_micros"], event["spent_micros"], event["reserved_micros"]) == (2_000, 0, 2_000)
    assert codes_of(world.request("r3", T0, "c1", user=here)) == ["exhausted"]


def test_a_dirty_round_does_not_declare_exhaustion() -> None:
    """Money granted during a round is not in the replies, so the round proves nothing and the last ask is denied."""
    world = World(2)
    here, there = _one_shard_holds_all(world)
    treasury = next(t.shard for t in world.treasuries if t.campaigns)
    world.instant = False
    assert winner_of(world.request("r1", T0, "c1", user=here)) == "c1"
    world.deliver("u0", treasury)
    # A top-up in the round answers the ask; the grant is behind the recall on its way.
    world.command("top-up", campaign_id="c1", amount_micros=1_000)
    assert known_to_treasury(world).round.dirty
    assert winner_of(world.request("r2", T0, "c1", user=there)) == "c1"
    for source, destination in (
        ("u1", treasury),
        (treasury, "u0"),
        ("u0", treasury),
        (treasury, "u1"),
        ("u1", treasury),
    ):
        world.deliver(source, destination)
    assert known_to_treasury(world).round is None
    assert world.of("budget-exhausted") == []
    world.deliver_all()
    assert winner_of(world.request("r3", T0, "c1", user=here)) == "c1"
    world.check_money()


def test_a_recall_before_the_definition_arrives_is_harmless() -> None:
    """Messages of a pair keep their order, so a shard knows a campaign before it is recalled."""
    world = World(2)
    world.instant = False
    world.campaign(budget_micros=2_000)
    world.command("decrease", campaign_id="c1", amount_micros=2_000)
    world.deliver_all()
    world.check_money()
    assert world.money()["topped_up"] == 0


# ---------------------------------------------------------------------- exhaustion and episodes


def test_exhausted_pauses_once_and_a_top_up_resumes() -> None:
    """One budget-exhausted and one campaign-paused an episode; a top-up of one price begins the next."""
    world = World(2)
    world.campaign(budget_micros=20_000)
    assert serve(world, 40) == 20
    assert [(e["episode"], e["scope"]) for e in world.of("budget-exhausted")] == [(1, "total")]
    assert [(e["episode"], e["reasons"]) for e in world.of("campaign-paused")] == [(1, ("exhausted",))] or [
        (e["episode"], list(e["reasons"])) for e in world.of("campaign-paused")
    ] == [(1, ["exhausted"])]
    world.command("top-up", campaign_id="c1", amount_micros=999)
    assert world.of("campaign-resumed") == []
    world.command("top-up", campaign_id="c1", amount_micros=1)
    assert [e["episode"] for e in world.of("campaign-resumed")] == [2]
    assert serve(world, 20, start=100) == 1
    assert [e["episode"] for e in world.of("budget-exhausted")] == [1, 2]
    assert [e["episode"] for e in world.of("campaign-paused")] == [1, 2]
    world.check_money()


def test_expired_reservations_resume_an_exhausted_campaign() -> None:
    """What was reserved and not shown comes back; when nothing else is outstanding, one price is enough to resume."""
    world = World(lateness_ms=0)
    world.campaign(budget_micros=2_000)
    assert serve(world, 2, show=False, step_ms=1) == 2
    assert codes_of(world.request("more", T0 + 2, "c1")) == ["exhausted"]
    world.settle(T0 + 2 * MINUTE)
    assert [e["episode"] for e in world.of("campaign-resumed")] == [2]
    assert winner_of(world.request("again", T0 + 2 * MINUTE, "c1")) == "c1"


def test_the_exhaustion_names_the_input_that_showed_it() -> None:
    """cause_topic and cause_offset are a position of the treasury's inputs."""
    world = World()
    world.campaign(budget_micros=1_000)
    serve(world, 2)
    event = world.of("budget-exhausted")[0]
    assert event["cause_topic"] in {"reports", "tick"}
    assert isinstance(event["cause_offset"], int)


def test_thresholds_are_passed_once_an_episode_in_order() -> None:
    """50, 80 and 100 percent of the budget are each told once."""
    world = World()
    world.campaign(budget_micros=10_000)
    serve(world, 30)
    assert [(e["percent"], e["episode"]) for e in world.of("budget-thresholds")] == [
        (50, 1),
        (80, 1),
        (100, 1),
    ]
    assert [e["spent_micros"] for e in world.of("budget-thresholds")] == [5_000, 8_000, 10_000]


def test_own_thresholds_are_told_even_where_a_report_passes_several() -> None:
    """Configured shares are told in rising order, each once, whatever order they were given in."""
    world = World(report_interval_ms=10_000_000)
    world.campaign(budget_micros=10_000, thresholds_percent=[90, 10, 30])
    serve(world, 30)
    assert [e["percent"] for e in world.of("budget-thresholds")] == [10, 30, 90]


def test_money_never_clears_a_manual_pause() -> None:
    """A campaign paused by hand stays paused whatever money comes; only resume ends it."""
    world = World()
    world.campaign(budget_micros=1_000)
    serve(world, 2)
    world.command("pause", campaign_id="c1")
    world.command("top-up", campaign_id="c1", amount_micros=5_000)
    assert codes_of(world.request("x", T0, "c1")) == ["paused"]
    assert world.of("campaign-resumed") == []
    world.command("resume", campaign_id="c1")
    assert [e["episode"] for e in world.of("campaign-resumed")] == [2]
    assert winner_of(world.request("y", T0, "c1")) == "c1"
    assert len(world.of("campaign-paused")) == 1


def test_resume_does_not_clear_an_empty_budget() -> None:
    """A campaign that is exhausted and paused by hand stays exhausted when the hand lets go."""
    world = World()
    world.campaign(budget_micros=1_000)
    serve(world, 2)
    world.command("pause", campaign_id="c1")
    world.command("resume", campaign_id="c1")
    assert codes_of(world.request("x", T0, "c1")) == ["exhausted"]
    assert world.of("campaign-resumed") == []
    assert len(world.of("campaign-paused")) == len(world.of("budget-exhausted")) == 1


def test_a_pause_returns_the_idle_money() -> None:
    """While paused, no shard holds idle money; what is reserved settles or expires and returns on a tick."""
    world = World(2, lateness_ms=0)
    world.campaign(budget_micros=100_000)
    serve(world, 4, show=False, step_ms=1)
    world.command("pause", campaign_id="c1")
    assert (world.money()["lease"], world.money()["reserved"]) == (0, 4_000)
    world.settle(T0 + 2 * MINUTE)
    assert world.money() == {**world.money(), "lease": 0, "reserved": 0, "unleased": 100_000}
    world.check_money()


def test_idle_money_returns_with_the_pause_itself() -> None:
    """The answer to a pause carries the idle money; it does not wait for a tick."""
    world = World()
    world.campaign()
    world.instant = False
    world.command("pause", campaign_id="c1")
    draft = world.deliver("t0", "u0")
    assert [delta[0] for delta in draft.deltas].count("return") == 1
    assert len(draft.send) == 1


def test_an_impression_during_a_pause_still_settles() -> None:
    """What was decided before a pause is paid."""
    world = World()
    world.campaign()
    world.request("r1", T0, "c1")
    world.command("pause", campaign_id="c1")
    assert world.show("r1", T0)["kind"] == "settled"
    world.check_money()


def test_archived_is_for_good() -> None:
    """An archived campaign serves nothing, returns its money, and refuses every further command."""
    world = World()
    world.campaign()
    world.command("archive", campaign_id="c1")
    assert codes_of(world.request("r1", T0, "c1")) == ["archived"]
    for change in (
        world.command("resume", campaign_id="c1"),
        world.command("top-up", campaign_id="c1", amount_micros=1),
        world.campaign(budget_micros=5),
    ):
        assert (change["accepted"], change["reason"]) == (False, "archived")
    assert world.money()["unleased"] == 1_000_000


def test_a_flight_ends_by_the_watermark_and_a_later_end_resumes_it() -> None:
    """At end_ms requests are refused at once and the campaign pauses; a new end takes the reason away."""
    world = World(lateness_ms=0)
    world.campaign(start_ms=T0, end_ms=T0 + HOUR)
    assert winner_of(world.request("r1", T0 + HOUR - 1, "c1")) == "c1"
    assert codes_of(world.request("r2", T0 + HOUR, "c1")) == ["flight"]
    assert [list(e["reasons"]) for e in world.of("campaign-paused")] == [["flight"]]
    assert codes_of(world.request("r3", T0 + HOUR, "c1")) == ["flight"]
    world.campaign(start_ms=T0, end_ms=T0 + DAY)
    assert [e["episode"] for e in world.of("campaign-resumed")] == [2]
    assert winner_of(world.request("r4", T0 + HOUR, "c1")) == "c1"


def test_a_flight_that_has_not_begun_is_refused_without_a_pause() -> None:
    """Before start_ms the reason is flight, and nothing is published about it."""
    world = World()
    world.campaign(start_ms=T0 + HOUR)
    assert codes_of(world.request("r1", T0 + HOUR - 1, "c1")) == ["flight"]
    assert winner_of(world.request("r2", T0 + HOUR, "c1")) == "c1"
    assert world.of("campaign-paused") == []


@pytest.mark.parametrize("slots", [None, 1])
def test_who_is_refused_for_something_else_asks_for_no_money(slots: int | None) -> None:
    """A candidate that more money would not help (here a capped one) asks for none; one that lacks only money does."""
    world = World()
    world.campaign(budget_micros=4_000, caps=[{"window": "lifetime", "limit": 1}])
    world.instant = False
    fields: dict[str, Any] = {} if slots is None else {"slots": slots}
    share = world.users[0].shares["c1"]
    world.request("r1", T0, "c1")
    world.deliver_all()
    world.users[0].apply(["return", "c1", 0, share.lease(0)])
    share.asks.clear()
    assert codes_of(world.request("r2", T0, "c1", **fields)) == ["capped", "no_lease"]
    assert not share.asks
    assert codes_of(world.request("r3", T0, "c1", user="bob", **fields)) == ["no_lease"]
    assert share.asks
