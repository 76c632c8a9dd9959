"""What is due when: an agenda, and the machines' agendas."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adgovernor.contracts import topics
from adgovernor.core.agenda import Agenda
from adgovernor.core.direct import Direct
from adgovernor.core.history import NEVER
from adgovernor.core.rules import Rules

T0 = 1_800_000_000_000
HOUR = 3_600_000
_TIMES = st.one_of(st.integers(0, 9), st.just(NEVER))


@given(
    st.lists(st.one_of(st.tuples(st.sampled_from("abcd"), _TIMES, _TIMES), st.integers(0, 9)), max_size=60)
)
def test_an_agenda_gives_what_is_due_by_its_latest_time(steps: list[tuple[str, int, int] | int]) -> None:
    """Each name has one time for each thing, the one that follows from how it is now; of things beside the first only
    taking tells. What was taken is looked at anew."""
    waited_for, besides = dict[str, int](), dict[str, int]()
    agenda = Agenda(waited_for.__getitem__, besides.__getitem__)
    for step in steps:
        if isinstance(step, tuple):
            name, waited_for[name], besides[name] = step
            agenda.moved.add(name)
        else:
            due = sorted(name for name in waited_for if min(waited_for[name], besides[name]) <= step)
            assert agenda.take(step) == due
            assert agenda.take(step) == due, "as long as nothing moved them on"
            for name in due[:1]:
                waited_for[name] = besides[name] = NEVER
        assert agenda.next_ms() == min(waited_for.values(), default=NEVER)


def test_an_agenda_does_not_grow_with_every_change() -> None:
    """A name that is put off again and again keeps next to nothing of its earlier times."""
    due_ms = 0
    agenda = Agenda(lambda _: due_ms)
    for due_ms in range(100_000):
        agenda.moved.add("a")
        assert agenda.next_ms() == due_ms
    assert len(agenda._things[0][1]._heap) < 100
    assert agenda.take(NEVER - 1) == ["a"]


@pytest.mark.parametrize("seed", range(2))
def test_machines_know_what_is_due_as_if_they_looked_at_all_campaigns(seed: int) -> None:
    """Whatever happened before: a machine has something to do at the same moments as one that was read from the store
    and has looked at everything, and it then does the same."""
    random = Random(seed)
    rules = Rules(partitions=2, report_interval_ms=0, ask_cooldown_ms=0)
    direct = Direct(rules)
    zones = ["UTC", "America/New_York", "Asia/Kathmandu"]
    for number, zone in enumerate(zones):
        account = {"account_id": f"a{number}", "time_zone": zone}
        _command(direct, f"a{number}", f"z{number}", command="account", account=account)
    for number in range(12):
        campaign = {
            "campaign_id": f"c{number}",
            "account_id": f"a{number % 3}",
            "currency": "EUR",
            "budget_micros": random.choice([3_000, 40_000, 400_000]),
            "price_micros": 1_000,
            "pricing": random.choice(["cpm", "cpc"]),
            "reservation_ms": random.choice([None, 5_000, 600_000]),
        }
        if number % 2:
            campaign |= {"daily_budget_micros": 5_000, "daily_policy": random.choice(["hard", "rollover"])}
        if number % 3 == 0:
            campaign |= {"start_ms": T0, "end_ms": T0 + random.randrange(20, 80) * HOUR}
            campaign["pacing"] = {"mode": "even"}
        _command(direct, f"a{number % 3}", f"d{number}", command="upsert", campaign=campaign)
    now_ms = T0
    differed = set()
    for number in range(350):
        # Steps of a second, of an hour, and past the days that are kept by themselves.
        now_ms += random.choice([1_000, 20_000, 20_000, HOUR]) if number % 60 != 59 else 9 * 24 * HOUR
        if number == 100:
            rules = replace(rules, early_lease_ms=2 * HOUR, day_grace_ms=4 * 24 * HOUR)
            for machine in direct._machines.values():
                machine.configured = rules  # type: ignore[attr-defined]
        _do_anything(direct, random, number, now_ms)
        fresh = Direct.restore(rules, direct.save())
        for machine, other in zip(direct._machines.values(), fresh._machines.values(), strict=True):
            for ahead_ms in (0, 30_000, HOUR, 24 * HOUR, 400 * 24 * HOUR):
                differed.add(machine.due(direct.now_ms + ahead_ms))
                assert machine.due(direct.now_ms + ahead_ms) == other.due(direct.now_ms + ahead_ms)
        direct.now_ms = fresh.now_ms = now_ms
        assert direct.tick() == fresh.tick()
        assert direct.save() == fresh.save()
    assert differed == {True, False}


def _do_anything(direct: Direct, random: Random, number: int, now_ms: int) -> None:
    campaign = random.randrange(12)
    names = {"account_id": f"a{campaign % 3}", "campaign_id": f"c{campaign}"}
    if random.random() < 0.15:
        word = random.choice(["pause", "resume", "top-up", "decrease"])
        amount = {} if word in ("pause", "resume") else {"amount_micros": 3_000}
        _command(
            direct, names["account_id"], f"o{number}", command=word, campaign_id=f"c{campaign}", **amount
        )
    offered = [
        {"campaign_id": f"c{offer}", "creative_id": "x", "price_micros": 1_000}
        for offer in random.sample(range(12), 4)
    ]
    asks = {"request_id": f"r{number}", "time_ms": now_ms, "user_id": "ann", "candidates": offered}
    direct.feed(topics.AD_REQUESTS, "ann", orjson.dumps(asks))
    if number and random.random() < 0.6:
        kind = random.choice(["impression", "click"])
        shown = {"type": kind, "decision_id": f"r{number - random.choice([0, 1])}", "slot": 0}
        shown |= {"routing_id": "ann", "time_ms": now_ms}
        direct.feed(topics.IMPRESSIONS, "ann", orjson.dumps(shown))


def _command(direct: Direct, key: str, name: str, **what: object) -> None:
    body = {"command_id": name, "account_id": key, **what}
    (changed,) = [
        event
        for topic, event in direct.feed(topics.CAMPAIGNS, key, orjson.dumps(body))
        if "accepted" in event
    ]
    assert changed["accepted"] or changed["reason"] == "too_little_unleased", changed
