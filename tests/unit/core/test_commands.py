"""Commands to treasuries, campaigns of one id in two of them, and side messages."""

from __future__ import annotations

import inspect
import re
from typing import Any

import orjson
import pytest
from core_kit import DAY, HOUR, MINUTE, SECOND, T0, World, serve, state_of, winner_of

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import REFUSALS
from adgovernor.contracts.routing import partition_of
from adgovernor.core.treasury import Treasury

# ---------------------------------------------------------------------- commands


def test_each_command_id_counts_once() -> None:
    """A repeated top-up, credit or decrease changes nothing and is refused as a duplicate."""
    world = World()
    world.campaign()
    for command in ("top-up", "credit", "decrease"):
        before = world.money()["topped_up"]
        first = world.command(command, campaign_id="c1", amount_micros=10_000, command_id=command)
        again = world.command(command, campaign_id="c1", amount_micros=10_000, command_id=command)
        assert (first["accepted"], again["accepted"], again["reason"]) == (True, False, "duplicate")
        assert abs(world.money()["topped_up"] - before) == 10_000


def test_command_ids_are_an_accounts_own() -> None:
    """Two accounts may use the same command id, whether they share a shard or not."""
    world = World()
    assert world.campaign("c1", "a1", command_id="k")["accepted"]
    assert world.campaign("c2", "a2", command_id="k")["accepted"]


def test_a_refused_command_may_be_given_again() -> None:
    """A command refused for an unknown campaign has not used its id up."""
    world = World()
    change = world.command("top-up", campaign_id="c1", amount_micros=5, command_id="k")
    assert (change["accepted"], change["reason"]) == (False, "unknown_campaign")
    world.campaign()
    assert world.command("top-up", campaign_id="c1", amount_micros=5, command_id="k")["accepted"]


@pytest.mark.parametrize("command", ["top-up", "credit"])
def test_a_top_up_or_credit_adds_to_the_budget(command: str) -> None:
    """Topped-up = budget + top-ups + credits."""
    world = World()
    world.campaign()
    change = world.command(command, campaign_id="c1", amount_micros=500)
    assert change["topped_up_micros"] == 1_000_500 == world.money()["topped_up"]


def test_an_upsert_moves_only_the_difference() -> None:
    """budget_micros is absolute and stands beside top-ups: the same definition again moves nothing."""
    world = World()
    world.campaign(budget_micros=10_000)
    world.command("top-up", campaign_id="c1", amount_micros=5_000)
    world.campaign(budget_micros=10_000)
    assert world.money()["topped_up"] == 15_000
    world.campaign(budget_micros=12_000)
    assert world.money()["topped_up"] == 17_000
    world.campaign(budget_micros=11_000)
    assert world.money()["topped_up"] == 16_000
    world.check_money()


def test_a_lower_budget_takes_only_what_is_unleased() -> None:
    """What shards hold is not taken by a definition; the change says so, and the rest may be lowered later."""
    world = World()
    world.campaign(budget_micros=10_000)
    unleased = world.money()["unleased"]
    change = world.campaign(budget_micros=0)
    assert (change["accepted"], change["reason"]) == (False, "too_little_unleased")
    assert world.money()["topped_up"] == 10_000 - unleased
    world.check_money()


def test_a_decrease_recalls_what_idles_and_refuses_the_rest() -> None:
    """A decrease takes unleased money at once, idle money after a recall, and never what is reserved or spent."""
    world = World(2)
    world.campaign(budget_micros=10_000)
    serve(world, 3, show=False)
    change = world.command("decrease", campaign_id="c1", amount_micros=9_000)
    assert (change["accepted"], change["reason"]) == (False, "too_little_unleased")
    assert world.money() == {
        **world.money(),
        "topped_up": 3_000,
        "reserved": 3_000,
        "unleased": 0,
        "lease": 0,
    }
    world.check_money()


def test_a_decrease_that_recall_can_cover_is_accepted() -> None:
    """Idle leases count for a decrease."""
    world = World(2)
    world.campaign(budget_micros=10_000)
    change = world.command("decrease", campaign_id="c1", amount_micros=10_000)
    assert (change["accepted"], change["topped_up_micros"]) == (True, 0)
    assert world.money()["topped_up"] == 0


def test_every_command_is_answered_once() -> None:
    """One campaign-change a command, accepted or refused, by its id."""
    world = World(2)
    world.campaign(budget_micros=10_000)
    world.command("decrease", campaign_id="c1", amount_micros=9_000)
    world.command("decrease", campaign_id="c1", amount_micros=9_000)
    world.command("pause", campaign_id="c1")
    world.command("resume", campaign_id="nobody")
    ids = [change["command_id"] for change in world.of("campaign-changes")]
    assert ids == ["k1", "k2", "k3", "k4", "k5"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"currency": "EUR"}, "other_currency"),
        ({"daily_budget_micros": 5_000}, "daily_budget_added_or_removed"),
    ],
)
def test_definitions_that_cannot_be_taken_are_refused(fields: dict[str, Any], reason: str) -> None:
    """Currency, and whether there is a daily budget, stay as first defined."""
    world = World()
    world.campaign()
    change = world.campaign(**fields)
    assert (change["accepted"], change["reason"]) == (False, reason)
    assert world.money()["topped_up"] == 1_000_000


def test_a_campaign_belongs_to_the_account_that_first_defined_it() -> None:
    """On one treasury another account's commands for it are refused."""
    world = World()
    world.campaign("c1", "a1")
    for change in (
        world.campaign("c1", "a2"),
        world.command("top-up", "a2", campaign_id="c1", amount_micros=5),
        world.command("pause", "a2", campaign_id="c1"),
    ):
        assert (change["accepted"], change["reason"]) == (False, "other_account")


def _two_treasuries() -> tuple[World, str, str]:
    world = World(2)
    accounts = {partition_of(f"acc{n}".encode(), 2): f"acc{n}" for n in range(20)}
    return world, accounts[0], accounts[1]


def test_another_treasurys_campaign_of_the_same_id_is_refused_and_its_money_bounced() -> None:
    """User shards keep the first definition; the second treasury gets all its money back and never loses any."""
    world, first, second = _two_treasuries()
    world.campaign("c1", first, budget_micros=10_000)
    world.campaign("c1", second, budget_micros=50_000, price_micros=2_000)
    for user in world.users:
        assert user.shares["c1"].treasury == "t0"
        assert user.shares["c1"].price == 1_000
    other = world.treasuries[1].campaigns["c1"]
    assert (other.unleased, other.outstanding) == (50_000, 0)
    world.check_money()
    assert winner_of(world.request("r1", T0, "c1")) == "c1"
    assert world.treasuries[1].campaigns["c1"].outstanding == 0


def test_a_bounced_campaigns_commands_do_not_touch_the_first() -> None:
    """Pause, resume and top-up of the refused definition leave the first one alone, and its money keeps bouncing."""
    world, first, second = _two_treasuries()
    world.campaign("c1", first, budget_micros=10_000)
    world.campaign("c1", second, budget_micros=50_000)
    world.command("pause", second, campaign_id="c1")
    assert winner_of(world.request("r1", T0, "c1")) == "c1"
    world.command("resume", second, campaign_id="c1")
    world.command("decrease", second, campaign_id="c1", amount_micros=50_000)
    assert world.treasuries[1].campaigns["c1"].topped_up == 0
    world.check_money()
    serve(world, 12, start=100)
    world.check_money()
    assert world.users[0].shares["c1"].treasury == "t0"


def test_a_refused_campaigns_recall_is_answered() -> None:
    """A decrease of the refused definition, given while its first leases are still on their way, is answered."""
    world, first, second = _two_treasuries()
    world.campaign("c1", first, budget_micros=10_000)
    world.instant = False
    world.campaign("c1", second, budget_micros=50_000)
    world.command("decrease", second, campaign_id="c1", amount_micros=50_000)
    world.settle()
    assert world.of("campaign-changes")[-1] == {
        **world.of("campaign-changes")[-1],
        "command": "decrease",
        "accepted": True,
        "topped_up_micros": 0,
    }


def test_a_misrouted_command_is_refused() -> None:
    """A command on another account's partition changes nothing."""
    world, first, second = _two_treasuries()
    value = {"command": "account", "command_id": "k", "account_id": first, "account": {"account_id": first}}
    draft = world.put(topics.CAMPAIGNS, first, value, shard="t1")
    assert draft.result["refused"] == "misrouted"
    assert second


def test_a_repeated_side_message_has_no_effect_and_a_gap_is_told() -> None:
    """Receivers take last + 1 only: repeats and gaps are records without deltas."""
    world = World()
    world.instant = False
    world.campaign()
    value = world.mail["t0", "u0"][0]
    world.deliver_all()
    before = world.money()
    draft = world.put(topics.DIRECTIVES, None, value, shard="u0")
    assert (draft.result["kind"], draft.deltas) == ("directive_repeated", [])
    message = {**orjson.loads(value), "number": 99}
    draft = world.put(topics.DIRECTIVES, None, message, shard="u0")
    assert (draft.result["kind"], draft.deltas) == ("directive_gap", [])
    draft = world.put(topics.DIRECTIVES, None, {**message, "destination": "u7"}, shard="u0")
    assert (draft.result["kind"], draft.deltas) == ("directive_astray", [])
    assert world.money() == before


def test_a_side_message_of_another_history_halts() -> None:
    """A message that does not continue the ones before it means that a ledger lost its tail."""
    from adgovernor.contracts.errors import Halted

    world = World()
    world.campaign()
    number = world.users[0].links.taken["t0"][0]
    message = {
        "source": "t0",
        "destination": "u0",
        "number": number + 1,
        "hash": "0" * 16,
        "payload": {"items": []},
    }
    with pytest.raises(Halted, match="adgovernor recover u0"):
        world.put(topics.DIRECTIVES, None, message, shard="u0")


@pytest.mark.parametrize("command", ["top-up", "credit", "upsert"])
def test_no_more_money_is_taken_than_an_amount_can_say(command: str) -> None:
    """What would bring a campaign's money above the largest amount is refused and moves nothing."""
    world = World()
    world.campaign("c1", budget_micros=1)
    assert world.command("top-up", campaign_id="c1", amount_micros=2**62 - 1)["accepted"]
    if command == "upsert":
        change = world.campaign("c1", budget_micros=2)
    else:
        change = world.command(command, campaign_id="c1", amount_micros=1)
    assert (change["accepted"], change["reason"]) == (False, "too_much_money")
    assert change["topped_up_micros"] == 2**62


@pytest.mark.parametrize("command", ["top-up", "upsert"])
def test_an_accounts_campaigns_together_have_no_more_than_an_amount_can_say(command: str) -> None:
    """What its campaigns spent together is published and stored, so their money together is bounded, too."""
    world = World()
    for number in range(4):
        assert world.campaign(f"c{number}", budget_micros=2**60)["accepted"]
    assert world.campaign("other", account="a2", budget_micros=2**62)["accepted"]
    if command == "upsert":
        change = world.campaign("c9", budget_micros=1)
    else:
        change = world.command(command, campaign_id="c0", amount_micros=1)
    assert (change["accepted"], change["reason"]) == (False, "too_much_money")
    assert world.campaign("c0", budget_micros=2**60 - 5)["accepted"]
    assert world.campaign("c9", budget_micros=5)["accepted"]


def test_what_is_owed_and_unpaid_stays_within_what_can_be_said() -> None:
    """However many dear ads are shown late and cannot be paid, every record and the state can be written."""
    world = World(lateness_ms=0, dedupe_ms=HOUR)
    world.campaign(budget_micros=2**62, price_micros=2**62)
    for number in range(6):
        time_ms = T0 + number * 2 * MINUTE
        assert "winner" in world.request(f"r{number}", time_ms, "c1")["slots"][0]
        world.settle(time_ms + 61 * SECOND)
    for number in range(6):
        world.show(f"r{number}", T0 + 13 * MINUTE)
    world.settle(T0 + 3 * HOUR)
    assert world.users[0].shares["c1"].unfunded_micros == 2**62
    assert world.money()["spent"] == 2**62
    assert state_of(world.folded("u0")) == state_of(world.users[0]) == state_of(world.decided_again("u0"))


def test_a_plan_of_many_days_stays_within_what_can_be_said() -> None:
    """Daily budgets that roll over for years add up to more than an amount can say; the plan is still written."""
    world = World(now_ms=T0 // DAY * DAY, lateness_ms=0)
    world.campaign(
        budget_micros=2**62,
        daily_budget_micros=2**62,
        daily_policy="rollover",
        price_micros=1_000,
        pacing={"mode": "even"},
    )
    world.request("r1", world.now_ms + HOUR, "c1")
    world.settle(world.now_ms + 2_000 * DAY + 12 * HOUR)
    world.request("r2", world.now_ms, "c1")
    assert "winner" in world.request("r3", world.now_ms, "c1")["slots"][0]
    assert world.users[0].shares["c1"].books
    state_of(world.treasuries[0])


def test_every_refusal_is_explained() -> None:
    """Each reason that a treasury gives for refusing a command has a sentence that says what to do."""
    texts = [
        inspect.getsource(method)
        for method in (Treasury._refusal, Treasury._too_much, Treasury._account_refusal, Treasury._upsert)
    ]
    given = {code for text in texts for code in re.findall(r'return .*?"([a-z_]+)"', text)}
    assert {"duplicate", "too_much_money", "too_little_unleased"} <= given
    assert given <= REFUSALS.keys()
