"""Ad requests and people: refusals for time and routing, duplicates, identity, opt-outs, poison."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import DAY, HOUR, MINUTE, SECOND, T0, World, codes_of, reasons_of, winner_of

from adgovernor.contracts import topics
from adgovernor.contracts.requests import AdRequest
from adgovernor.contracts.routing import partition_of
from adgovernor.core.rules import Rules

CAP = {"window": "rolling", "length_ms": HOUR, "limit": 1}


def _world(partitions: int = 1, **rules: int) -> World:
    world = World(partitions, **rules)
    world.campaign()
    return world


def _no_fill(decision: dict[str, Any]) -> list[str | None]:
    return [slot.get("no_fill") for slot in decision["slots"]]


# ---------------------------------------------------------------------- time


def test_a_request_at_the_watermark_is_served_and_one_before_it_is_late() -> None:
    """Watermark = newest time − lateness; only a request strictly before it is late."""
    world = _world(lateness_ms=10 * SECOND)
    world.request("r1", T0 + HOUR, "c1")
    assert winner_of(world.request("r2", T0 + HOUR - 10 * SECOND, "c1")) == "c1"
    assert _no_fill(world.request("r3", T0 + HOUR - 10 * SECOND - 1, "c1")) == ["late"]


def test_a_late_request_gets_one_decision_for_every_slot_it_asked_for() -> None:
    """A refused request of three slots is answered with three no-fills and reserves nothing."""
    world = _world()
    world.request("r1", T0 + HOUR, "c1")
    assert _no_fill(world.request("r2", T0, "c1", slots=3)) == ["late"] * 3
    assert world.money()["reserved"] == 1_000


def test_a_request_ahead_of_the_clock_by_more_than_the_skew_is_future() -> None:
    """A request may be ahead of the worker's clock by the allowed skew, and not by a millisecond more."""
    world = _world(skew_ms=5 * SECOND)
    world.follow_events = False
    assert winner_of(world.request("r1", world.now_ms + 5 * SECOND, "c1")) == "c1"
    watermark = world.users[0].watermark_ms
    assert _no_fill(world.request("r2", world.now_ms + 5 * SECOND + 1, "c1")) == ["future"]
    assert world.users[0].watermark_ms == watermark


def test_a_future_impression_settles_and_moves_no_watermark() -> None:
    """An impression is never refused for its time, but a future one ages nobody."""
    world = _world()
    world.follow_events = False
    world.request("r1", T0, "c1")
    watermark = world.users[0].watermark_ms
    assert world.show("r1", T0 + 10 * DAY)["kind"] == "settled"
    assert world.users[0].watermark_ms == watermark


def test_a_request_past_its_deadline_reserves_nothing() -> None:
    """A request whose deadline lies before the worker's clock is a no-fill; at the clock it is still served."""
    world = _world()
    world.now_ms = T0 + SECOND
    assert _no_fill(world.request("r1", T0, "c1", deadline_ms=T0 + SECOND - 1)) == ["deadline"]
    assert world.money()["reserved"] == 0
    assert winner_of(world.request("r2", T0, "c1", deadline_ms=T0 + SECOND)) == "c1"


def test_what_a_request_expires_is_free_before_it_is_judged() -> None:
    """Reservations that the request's own watermark expires give their money back first."""
    world = World(lateness_ms=0, dedupe_ms=2 * HOUR)
    world.campaign(budget_micros=1_000)
    world.instant = False
    world.request("r1", T0, "c1")
    assert codes_of(world.request("r0", T0 + MINUTE - 1, "c1")) == ["no_lease"]
    assert winner_of(world.request("r2", T0 + MINUTE, "c1")) == "c1"


def test_reservations_expire_in_order_of_deadline_and_id() -> None:
    """What one event expires is recorded by (deadline, id), whatever the order of the decisions."""
    world = _world(lateness_ms=HOUR, dedupe_ms=3 * HOUR)
    for request_id, time_ms in (("b", T0 + 2), ("z", T0 + 1), ("a", T0 + 2), ("c", T0)):
        world.request(request_id, time_ms, "c1")
    world.instant = False
    draft = world.put(
        topics.AD_REQUESTS,
        "bob",
        {"request_id": "r", "user_id": "bob", "time_ms": T0 + 3 * HOUR, "candidates": []},
    )
    assert [delta[1] for delta in draft.deltas if delta[0] == "expire"] == ["c", "z", "a", "b"]


def test_a_tick_moves_the_watermark_only_when_everything_was_read() -> None:
    """A block that is not drained never ages anything, however late its clock."""
    world = _world(lateness_ms=0)
    world.request("r1", T0, "c1")
    user = world.users[0]
    assert user.open_block(100, T0 + HOUR, False) is None
    assert user.watermark_ms == T0
    draft = user.open_block(101, T0 + HOUR, True)
    assert draft is not None
    assert [delta[0] for delta in draft.deltas][:2] == ["wm", "expire"]
    assert user.watermark_ms == T0 + HOUR


# ---------------------------------------------------------------------- duplicates


def test_a_duplicate_points_to_the_first_decision_and_decides_nothing() -> None:
    """A request id seen before gets a record with the place of its decision, and no second decision."""
    world = _world()
    world.request("r1", T0, "c1")
    place = world.blocks["u0"][-1]
    decided = next(
        block
        for block in world.blocks["u0"]
        if any(r.event and r.event.topic == "ad-requests" for r in block.records)
    )
    assert place.height >= decided.height
    assert world.request("r1", T0 + 5, "c1") == {
        "kind": "duplicate",
        "height": decided.height,
        "index": len(decided.records) - 1,
    }
    assert len(world.of("decisions")) == 1
    assert world.money()["reserved"] == 1_000


def test_a_duplicate_of_a_refused_request_decides_nothing_either() -> None:
    """A future request was answered; its repetition is a duplicate."""
    world = _world()
    world.follow_events = False
    assert _no_fill(world.request("r1", T0 + DAY, "c1")) == ["future"]
    assert world.request("r1", T0 + DAY, "c1")["kind"] == "duplicate"


def test_a_request_id_is_forgotten_with_its_tombstone() -> None:
    """Until request time + dedupe_ms the id is a duplicate; from then on it is a new request."""
    world = _world(lateness_ms=0)
    dedupe = world.rules.dedupe_ms
    world.request("r1", T0, "c1")
    world.show("r1", T0)
    world.request("tick", T0 + dedupe - 1, user="bob")
    assert world.request("r1", T0 + dedupe - 1, "c1")["kind"] == "duplicate"
    assert world.show("r1", T0 + dedupe - 1)["kind"] == "duplicate"
    world.request("tock", T0 + dedupe, user="bob")
    assert world.show("r1", T0 + dedupe)["kind"] == "orphan"
    assert winner_of(world.request("r1", T0 + dedupe, "c1")) == "c1"


def test_new_rules_hold_for_people_in_memory_as_for_those_in_the_store() -> None:
    """After a shorter dedupe_ms a person in memory is forgotten as much of as one who comes back from the store."""
    worlds = [_world(), _world()]
    shorter: dict[str, Any] = {"lateness_ms": 0, "late_grace_ms": 0, "dedupe_ms": 2 * MINUTE}
    for number, world in enumerate(worlds):
        world.request("r1", T0, "c1")
        world.show("r1", T0)
        if number:
            world.forget()
        world.users[0].configured = Rules(partitions=1, report_interval_ms=0, **shorter)
        world.request("other", T0 + 5 * MINUTE, user="bob")
        world.request("r2", T0 + 5 * MINUTE, "c1")
    states = [world.state("u0")["users"]["ann"] for world in worlds]
    assert states[0] == states[1]


def test_one_persons_request_id_does_not_touch_anothers_money() -> None:
    """While a decision is open, another person's request of its id is a duplicate; afterwards it is their own, and
    an impression repeated by the first person does not settle it."""
    world = _world()
    world.request("same", T0, "c1", user="ann")
    assert world.request("same", T0, "c1", user="bob")["kind"] == "duplicate"
    world.check_money()
    world.show("same", T0, user="ann")
    assert winner_of(world.request("same", T0, "c1", user="bob")) == "c1"
    assert world.show("same", T0, user="ann")["kind"] == "duplicate"
    assert world.show("same", T0, user="bob")["kind"] == "settled"
    world.check_money()
    assert (world.money()["reserved"], world.money()["spent"]) == (0, 2_000)


def test_a_strangers_impression_settles_nothing() -> None:
    """An impression filed under a person who never made the request is an orphan."""
    world = _world()
    world.request("r1", T0, "c1", user="ann")
    assert world.show("r1", T0, user="bob")["kind"] == "orphan"
    assert world.money()["reserved"] == 1_000


# ---------------------------------------------------------------------- routing and identity


def test_a_request_on_a_partition_that_is_not_its_persons_is_misrouted() -> None:
    """Elsewhere a request gets one no-fill decision and touches no state."""
    world = _world(4)
    home = partition_of(b"ann", 4)
    elsewhere = f"u{(home + 1) % 4}"
    assert _no_fill(world.request("r1", T0, "c1", shard=elsewhere)) == ["misrouted"]
    assert world.machines[elsewhere].watermark_ms < T0
    assert winner_of(world.request("r1", T0, "c1")) == "c1"


@pytest.mark.parametrize(
    ("topic", "value"),
    [
        (topics.IMPRESSIONS, {"decision_id": "r1", "routing_id": "ann", "time_ms": T0}),
        (topics.USER_EVENTS, {"type": "opt-out", "routing_id": "ann", "time_ms": T0}),
    ],
)
def test_other_events_elsewhere_are_recorded_as_misrouted(topic: str, value: dict[str, Any]) -> None:
    """An impression or user event on a foreign partition is a record without effect."""
    world = _world(4)
    world.request("r1", T0, "c1")
    elsewhere = f"u{(partition_of(b'ann', 4) + 1) % 4}"
    draft = world.put(topic, "ann", value, shard=elsewhere)
    assert (draft.result, draft.deltas, draft.out) == ({"kind": "misrouted"}, [], [])


@pytest.mark.parametrize(
    ("given", "counted"),
    [
        ({"household_id": "home", "user_id": "ann"}, "home"),
        ({"user_id": "ann", "device_id": "tv"}, "ann"),
        ({"device_id": "tv", "session_id": "s1"}, "tv"),
        ({"session_id": "s1"}, "s1"),
        ({}, "r1"),
    ],
)
def test_a_person_is_filed_under_the_widest_identity(given: dict[str, str], counted: str) -> None:
    """Household, else user, device, session, else the request id names the person and goes out as routing id."""
    world = _world()
    value = {
        "request_id": "r1",
        "time_ms": T0,
        "candidates": [{"campaign_id": "c1", "creative_id": "x"}],
        **given,
    }
    world.put(topics.AD_REQUESTS, counted, value)
    assert world.of("decisions")[0]["routing_id"] == counted
    assert counted in world.users[0].persons


def test_nobody_known_skips_campaigns_with_caps_and_serves_others() -> None:
    """Without identity a capped campaign is skipped by default, one without caps is served."""
    world = _world()
    world.campaign("c2", caps=[CAP], price_micros=2_000)
    decision = world.request("r1", T0, "c2", "c1", user=None, session_id="s1")
    assert codes_of(decision, 0) == ["no_identity"]
    assert winner_of(decision) == "c1"


def test_session_policy_caps_by_session_where_nobody_is_known() -> None:
    """With the session policy, caps count within the session; without a session the campaign is skipped."""
    world = World()
    world.campaign(caps=[CAP], policies={"no_identity": "session"})
    assert winner_of(world.request("r1", T0, "c1", user=None, session_id="s1")) == "c1"
    assert codes_of(world.request("r2", T0, "c1", user=None, session_id="s1")) == ["capped"]
    assert winner_of(world.request("r3", T0, "c1", user=None, session_id="s2")) == "c1"
    assert codes_of(world.request("r4", T0, "c1", user=None)) == ["no_identity"]
    assert codes_of(world.request("r5", T0, "c1", user=None, session_id="")) == ["no_identity"]


def test_pod_caps_need_no_identity() -> None:
    """A campaign whose only cap is within the request is served to anybody."""
    world = World()
    world.campaign(caps=[{"window": "pod", "limit": 1}])
    assert winner_of(world.request("r1", T0, "c1", user=None)) == "c1"


# ---------------------------------------------------------------------- opt-outs


@pytest.mark.parametrize(
    ("opt", "scope", "refused"),
    [
        ({}, "all", ["c1", "c2", "c3"]),
        ({"scope": "advertiser", "value": "a1"}, "advertiser:a1", ["c1", "c2"]),
        ({"scope": "category", "value": "cars"}, "category:cars", ["c2"]),
    ],
)
def test_an_opt_out_is_honoured_from_the_next_event_on(
    opt: dict[str, str], scope: str, refused: list[str]
) -> None:
    """An opt-out forbids all ads, an advertiser's or a category's; an opt-in of the same takes it back."""
    world = World()
    world.campaign("c1", "a1")
    world.campaign("c2", "a1", categories=["cars"])
    world.campaign("c3", "a2")
    assert winner_of(world.request("before", T0, "c2")) == "c2"
    world.user_event("opt-out", T0, **opt)
    for campaign in ("c1", "c2", "c3"):
        decision = world.request(f"out-{campaign}", T0, campaign)
        expected = [{"code": "opted_out", "scope": scope}] if campaign in refused else []
        assert reasons_of(decision) == expected
    assert winner_of(world.request("bob", T0, "c2", user="bob")) == "c2"
    world.user_event("opt-in", T0, **opt)
    assert winner_of(world.request("after", T0, "c2")) == "c2"


def test_an_opt_out_covers_a_candidates_own_categories() -> None:
    """A category opt-out looks at the creative's categories as well as the campaign's."""
    world = _world()
    world.user_event("opt-out", T0, scope="category", value="cars")
    decision = world.request("r1", T0, {"campaign_id": "c1", "categories": ["cars"]})
    assert codes_of(decision) == ["opted_out"]


def test_opting_out_twice_is_taken_back_once() -> None:
    """A repeated opt-out is one; one opt-in ends it."""
    world = _world()
    world.user_event("opt-out", T0)
    world.user_event("opt-out", T0)
    world.user_event("opt-in", T0)
    assert winner_of(world.request("r1", T0, "c1")) == "c1"


def test_a_word_beside_all_does_not_keep_an_opt_out_from_being_taken_back() -> None:
    """An opt-out of all ends with an opt-in of all, whatever value was given beside either."""
    world = _world()
    world.user_event("opt-out", T0, scope="all", value="newsletter")
    world.user_event("opt-in", T0)
    assert winner_of(world.request("r1", T0, "c1")) == "c1"


@pytest.mark.parametrize("kind", ["opt-out", "opt-in", "preference"])
@pytest.mark.parametrize(("scope", "what"), [("advertiser", "account id"), ("category", "category")])
def test_a_wish_that_does_not_say_whose_ads_is_refused(kind: str, scope: str, what: str) -> None:
    """A user event about one advertiser or category that does not name it is poison that says so."""
    value = {"type": kind, "routing_id": "ann", "time_ms": T0, "scope": scope, "choice": "refuse"}
    draft = _world().put(topics.USER_EVENTS, "ann", value)
    assert draft.result == {"kind": "poison", "reason": "invalid"}
    assert f"scope {scope} needs a value, the {what}" in draft.out[0][2]["message"]


# ---------------------------------------------------------------------- candidates and prices


def test_the_highest_price_wins_and_ties_go_to_the_first_given() -> None:
    """For one slot the best price wins; of equal prices, the first candidate."""
    world = _world()
    world.campaign("c2")
    world.campaign("c3", price_micros=2_000)
    assert winner_of(world.request("r1", T0, "c1", "c3", "c2")) == "c3"
    assert winner_of(world.request("r2", T0, "c2", "c1")) == "c2"


def test_a_candidates_price_overrides_its_campaigns_and_a_cheaper_one_is_refused() -> None:
    """A bid at the campaign's least price is taken, one below it is refused."""
    world = World()
    world.campaign(min_price_micros=800)
    cheap = {"campaign_id": "c1", "price_micros": 799}
    assert codes_of(world.request("r1", T0, cheap)) == ["price_below_minimum"]
    decision = world.request("r2", T0, {"campaign_id": "c1", "price_micros": 800})
    assert decision["slots"][0]["winner"]["price_micros"] == 800
    decision = world.request("r3", T0, {"campaign_id": "c1", "cpm_micros": 1_234_500})
    assert decision["slots"][0]["winner"]["price_micros"] == 1_235


def test_every_reason_of_a_loser_is_given() -> None:
    """A candidate that fails several rules is told each of them."""
    world = World()
    world.campaign(caps=[{**CAP, "limit": 0}], start_ms=T0 + DAY, categories=["cars"])
    world.user_event("opt-out", T0)
    decision = world.request("r1", T0, {"campaign_id": "c1", "price_micros": 1})
    assert codes_of(decision) == ["flight", "price_below_minimum", "opted_out", "capped"]


def test_an_unknown_campaign_and_no_candidates_are_no_fills() -> None:
    """A campaign that nobody defined loses as unknown; a request without candidates is a no-fill."""
    world = _world()
    decision = world.request("r1", T0, "nobody")
    assert (codes_of(decision), _no_fill(decision)) == (["unknown_campaign"], ["no_candidate"])
    assert _no_fill(world.request("r2", T0)) == ["no_candidate"]


def test_slots_ask_for_durations_and_floors() -> None:
    """A slot takes only creatives of its durations and prices of at least its floor."""
    world = _world()

    def codes(slot: dict[str, Any], duration_ms: int | None) -> list[str]:
        candidate = {"campaign_id": "c1", **({} if duration_ms is None else {"duration_ms": duration_ms})}
        return codes_of(world.request(f"r{len(world.events)}", T0, candidate, slots=[slot]))

    assert codes({"allowed_durations_ms": [15_000, 30_000]}, 30_000) == []
    assert codes({"allowed_durations_ms": [15_000, 30_000]}, 20_000) == ["duration"]
    assert codes({"min_duration_ms": 10_000, "max_duration_ms": 20_000}, 20_000) == []
    assert codes({"min_duration_ms": 10_000, "max_duration_ms": 20_000}, 20_001) == ["duration"]
    assert codes({"min_duration_ms": 10_000}, 9_999) == ["duration"]
    assert codes({"max_duration_ms": 10_000}, None) == ["duration"]
    assert codes({"floor_micros": 1_000}, None) == []
    assert codes({"floor_micros": 1_001}, None) == ["floor"]


# ---------------------------------------------------------------------- poison


@pytest.mark.parametrize("topic", topics.PUBLIC_INPUTS)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"not json", "not_json"),
        (b"\xff\xfe{}", "not_json"),
        (b"[1,2]", "invalid"),
        (b"{}", "invalid"),
        (b"[" * 100_000, "not_json"),
        (b'"' + b"x" * 600_000 + b'"', "too_large"),
    ],
)
def test_poison_is_a_record_and_goes_to_the_dead_letters(
    topic: str, value: bytes | None, reason: str
) -> None:
    """What is not what its topic promises is recorded with a reason, goes to the DLQ, and the shard goes on."""
    world = _world()
    draft = world.put(topic, "ann", value)
    assert draft.result == {"kind": "poison", "reason": reason}
    assert draft.deltas == []
    assert [(out[0], out[2]["reason"]) for out in draft.out] == [(topic + ".dlq", reason)]
    assert winner_of(world.request("r1", T0, "c1")) == "c1"


@pytest.mark.parametrize(
    "change",
    [
        {"time_ms": "now"},
        {"time_ms": -1},
        {"time_ms": 2**62},
        {"request_id": ""},
        {"slots": 0},
        {"slots": []},
        {"candidates": [{"campaign_id": "c1"}]},
        {"candidates": [{"campaign_id": "c1", "creative_id": "x", "price_micros": 1.5}]},
        {"candidates": [{"campaign_id": "c1", "creative_id": "x", "price_micros": -1}]},
    ],
)
def test_a_request_that_breaks_its_contract_is_poison(change: dict[str, Any]) -> None:
    """Wrong types and impossible amounts are poison, never a guess."""
    world = _world()
    value = {"request_id": "r1", "time_ms": T0, "user_id": "ann", "candidates": [], **change}
    assert world.put(topics.AD_REQUESTS, "ann", value).result == {"kind": "poison", "reason": "invalid"}


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"source": "t0"},
        [],
        {"source": "t0", "destination": "u0", "number": "1", "hash": "", "payload": {}},
    ],
)
def test_a_forged_side_message_is_poison(message: Any) -> None:
    """What does not even look like a side message is recorded as poison."""
    world = _world()
    draft = world.put(topics.DIRECTIVES, None, message, shard="u0")
    assert draft.result == {"kind": "poison", "reason": "invalid"}


def test_a_click_is_recorded_and_moves_no_money() -> None:
    """Clicks and completed views of a known ad are records; of an unknown one, orphans."""
    world = _world()
    world.request("r1", T0, "c1")
    for kind in ("click", "view"):
        assert world.show("r1", T0, type=kind) == {"kind": kind, "event": kind}
        assert world.show("r9", T0, type=kind) == {"kind": "orphan", "event": kind}
    assert world.money() == {**world.money(), "reserved": 1_000, "spent": 0}


def test_the_farthest_time_that_a_contract_allows_is_survived() -> None:
    """A request as far in the future as the contract allows does not break calendars, whatever the clock."""
    limit = AdRequest.model_json_schema()["properties"]["time_ms"]["maximum"]
    world = World()
    world.campaign(daily_budget_micros=1_000_000, caps=[{"window": "month", "limit": 1}])
    world.request("r1", T0, "c1")
    decision = world.request("r2", limit, "c1")
    assert "slots" in decision


# ---------------------------------------------------------------------- currencies


def _two_currencies() -> World:
    world = World()
    world.campaign("usd", price_micros=1_000)
    world.campaign("eur", price_micros=5_000, currency="EUR")
    world.campaign("eur2", price_micros=6_000, currency="EUR")
    return world


@pytest.mark.parametrize("pod", [{}, {"slots": 2}], ids=["one", "pod"])
def test_prices_of_two_currencies_do_not_compete(pod: dict[str, Any]) -> None:
    """The first candidate without another reason says the currency; dearer ones of another are refused and named."""
    world = _two_currencies()
    decision = world.request("r1", T0, "usd", "eur", "eur2", **pod)
    assert winner_of(decision) == "usd"
    assert codes_of(decision, 1) == codes_of(decision, 2) == ["currency"]
    world.command("pause", campaign_id="usd")
    decision = world.request("r2", T0 + SECOND, "usd", "eur", "eur2")
    assert winner_of(decision) == "eur2"
    assert (codes_of(decision, 0), codes_of(decision, 1)) == (["paused"], ["outbid"])


@pytest.mark.parametrize("pod", [{}, {"slots": 2}], ids=["one", "pod"])
def test_a_request_may_say_its_currency(pod: dict[str, Any]) -> None:
    """Then candidates of other currencies are refused, whatever else speaks against them, first or not."""
    world = _two_currencies()
    world.command("pause", campaign_id="usd")
    decision = world.request("r1", T0, "usd", "eur", currency="EUR", **pod)
    assert winner_of(decision) == "eur"
    assert codes_of(decision, 0) == ["currency", "paused"]
    assert _no_fill(world.request("r2", T0, "eur", currency="GBP")) == ["no_candidate"]


def test_a_price_below_the_campaigns_own_least_is_refused() -> None:
    """A candidate cheaper than the least price is refused; a campaign cheaper than its own never begins."""
    world = World()
    assert world.campaign("c0", price_micros=900, min_price_micros=1_000)["reason"] == "price_below_minimum"
    assert world.campaign("c1", price_micros=1_000, min_price_micros=1_000)["accepted"]
    assert codes_of(world.request("r1", T0, {"campaign_id": "c1", "price_micros": 999})) == [
        "price_below_minimum"
    ]
    assert winner_of(world.request("r2", T0, {"campaign_id": "c1", "price_micros": 1_000})) == "c1"
