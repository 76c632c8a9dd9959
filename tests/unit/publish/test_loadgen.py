"""Generated traffic."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import UpsertAccount, UpsertCampaign
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.decisions import Decision, DecisionSlot, ReasonCode, Winner
from adgovernor.contracts.errors import Undecodable
from adgovernor.contracts.events import Impression
from adgovernor.contracts.requests import AdRequest
from adgovernor.publish.loadgen import Traffic, ad_requests, campaign_commands, follow_ups

FAULTY = Traffic(
    repeated_percent=20, out_of_order_percent=10, late_percent=2, poison_percent=1, users=500, campaigns=12
)


def test_same_seed_same_bytes() -> None:
    """One seed always gives the same messages, another seed others."""
    first = list(islice(ad_requests(FAULTY), 300))
    assert first == list(islice(ad_requests(FAULTY), 300))
    assert first != list(islice(ad_requests(Traffic(seed=2)), 300))
    assert campaign_commands(FAULTY) == campaign_commands(FAULTY)


def test_shares_of_faults() -> None:
    """Repetitions, disorder, lateness and poison have the shares asked for."""
    kinds = Counter[str](message.kind for message in islice(ad_requests(FAULTY), 20_000))
    for kind, percent in (("repeated", 20), ("out_of_order", 10), ("late", 2), ("poison", 1)):
        assert kinds[kind] / 200 == pytest.approx(percent, rel=0.2)


def test_every_request_but_poison_is_one() -> None:
    """Each message but poison is a valid ad request, keyed by its routing id, with distinct campaigns."""
    contract = contract_of(topics.AD_REQUESTS)
    for message in islice(ad_requests(FAULTY), 2_000):
        if message.kind == "poison":
            with pytest.raises(Undecodable):
                contract.parse(message.value)
            continue
        request: AdRequest = contract.parse(message.value)
        assert request.routing_id().encode() == message.key
        assert (request.time_ms, request.request_id) == (message.time_ms, message.event_id)
        assert len({candidate.campaign_id for candidate in request.candidates}) == 5


def test_late_and_disordered_against_their_neighbours() -> None:
    """Out of order stays within its bound behind the newest request; late is beyond its own."""
    newest = 0
    for message in islice(ad_requests(FAULTY), 5_000):
        if message.kind == "out_of_order":
            assert newest - message.time_ms <= FAULTY.out_of_order_ms
        elif message.kind == "late":
            assert newest - message.time_ms >= FAULTY.late_ms - 1_000
        newest = max(newest, message.time_ms)


def test_a_few_people_are_seen_often() -> None:
    """The most seen tenth of the people makes more than half of the requests."""
    seen = Counter(message.key for message in islice(ad_requests(Traffic(users=1_000)), 20_000))
    top = sum(count for _, count in seen.most_common(100))
    assert top > 10_000


def test_campaigns_of_the_candidates_exist() -> None:
    """Each campaign has an account, the caps asked for, and a budget of at least one price."""
    commands = campaign_commands(FAULTY)
    accounts = {c.account_id for c in commands if isinstance(c, UpsertAccount)}
    campaigns = [c.campaign for c in commands if isinstance(c, UpsertCampaign)]
    assert len(campaigns) == 12
    for campaign in campaigns:
        assert campaign.account_id in accounts
        assert len(campaign.caps) == 2
        assert campaign.budget_micros >= campaign.one_price() > 0


def _decision(filled: bool) -> Decision:
    winner = Winner(
        campaign_id="c1",
        creative_id="k1",
        account_id="a1",
        price_micros=5,
        currency="USD",
        deadline_ms=61_000,
    )
    slot = DecisionSlot(slot=0, winner=winner) if filled else DecisionSlot(slot=0, no_fill=ReasonCode.CAPPED)
    return Decision(
        decision_id="r1", routing_id="u:1", time_ms=1_000, slots=(slot,), shard="u0", height=1, index=0, dn=1
    )


def test_only_filled_slots_are_shown() -> None:
    """A filled slot's impression carries decision and routing id; a no-fill has none."""
    always = Traffic(shown_percent=100, click_percent=0)
    (message,) = follow_ups(always, _decision(True))
    impression = Impression.model_validate_json(message.value)
    assert (impression.decision_id, impression.routing_id, message.key) == ("r1", "u:1", b"u:1")
    assert 1_000 <= impression.time_ms <= 21_000
    assert follow_ups(always, _decision(False)) == []
    assert follow_ups(Traffic(shown_percent=0), _decision(True)) == []


def test_late_impressions_come_after_the_deadline() -> None:
    """An impression meant to be late lies behind its reservation's deadline."""
    late = Traffic(shown_percent=100, late_impression_percent=100)
    assert follow_ups(late, _decision(True))[0].time_ms > 61_000


@pytest.mark.parametrize(
    "wrong",
    [{"candidates": 60}, {"repeated_percent": 60.0, "poison_percent": 60.0}],
    ids=["candidates", "shares"],
)
def test_impossible_traffic_is_refused(wrong: dict[str, float]) -> None:
    """More candidates than campaigns, or shares above the whole, raise an error that says so."""
    with pytest.raises(ValueError, match=r"must be 1 to|at most 100"):
        Traffic(**wrong)  # type: ignore[arg-type]
