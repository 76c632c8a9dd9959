"""People: consent, preferences, several identities of one person, erasure, and caps that change in mid-flight."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from core_kit import DAY, HOUR, MINUTE, SECOND, T0, World, codes_of, reasons_of, state_of, winner_of
from hypothesis import given, settings
from hypothesis import strategies as st

from adgovernor.contracts import topics
from adgovernor.core.history import MOST_IDENTITIES, Person, Serving
from adgovernor.core.user_shard import UserShard

MEMBERS = ("mum", "kid")
DEVICES = ("tv", "phone")
CATEGORIES = ("toys", "toys-dolls", "IAB7", "IAB7-3")
SMALL = settings(max_examples=60, deadline=None)


def a_world(**campaign: Any) -> World:
    """A campaign without end for whoever asks."""
    world = World(lateness_ms=0)
    world.campaign("c1", "a1", budget_micros=10**9, **campaign)
    return world


def shard_of(world: World) -> UserShard:
    return world.users[0]


def prefer(world: World, choice: str, scope: str, value: str | None = None) -> None:
    body = {
        "type": "preference",
        "routing_id": "ann",
        "time_ms": world.now_ms,
        "choice": choice,
        "scope": scope,
    }
    world.put(topics.USER_EVENTS, "ann", body if value is None else {**body, "value": value})


# ---------------------------------------------------------------------- several identities


asks = st.lists(
    st.tuples(
        st.sampled_from((None, *MEMBERS)),
        st.sampled_from((None, *DEVICES)),
        st.sampled_from((0, SECOND, MINUTE, 20 * MINUTE)),
        st.booleans(),
    ),
    max_size=25,
)


@pytest.mark.parametrize("window", [{"window": "rolling", "length_ms": HOUR}, {"window": "lifetime"}])
@pytest.mark.parametrize("per", ["household", "user", "device"])
@given(asks=asks, limit=st.integers(1, 3))
@SMALL
def test_a_cap_per_identity_counts_that_identitys_servings(
    per: str, window: dict[str, Any], asks: list[tuple[str | None, str | None, int, bool]], limit: int
) -> None:
    """A cap per household, user or device refuses exactly when that identity has had its limit in the window."""
    world = a_world(caps=[{**window, "limit": limit, "per": per}])
    served: list[tuple[int, str | None, str | None]] = []
    time_ms = T0
    for number, (user, device, wait_ms, shown) in zip(count(), asks, strict=False):
        time_ms += wait_ms
        fields: dict[str, Any] = {
            name: word for name, word in (("user_id", user), ("device_id", device)) if word
        }
        decision = world.request(f"r{number}", time_ms, "c1", user=None, household_id="home", **fields)
        own = {"household": "home", "user": user, "device": device}[per]
        length = window.get("length_ms", 10**15)
        had = sum(
            1
            for at, *ids in served
            if at > time_ms - length and {"household": "home", "user": ids[0], "device": ids[1]}[per] == own
        )
        if own is None:
            assert codes_of(decision) == ["no_identity"]
        elif had >= limit:
            assert [(r["code"], r["per"], r["count"]) for r in reasons_of(decision)] == [("capped", per, had)]
        else:
            assert winner_of(decision) == "c1"
            served.append((time_ms, user, device))
            world.show(f"r{number}", time_ms, user="home")
        if shown:
            world.forget()


def test_a_serving_counts_once_for_all_identities() -> None:
    """A household's cap counts each impression once, whoever of its members and devices it was shown to."""
    world = a_world(caps=[{"window": "lifetime", "limit": 3}])
    for number, (user, device) in enumerate((("mum", "tv"), ("mum", "phone"), ("kid", "tv"))):
        fields: dict[str, Any] = {"household_id": "home", "user_id": user, "device_id": device}
        assert winner_of(world.request(f"r{number}", T0, "c1", user=None, **fields)) == "c1"
        world.show(f"r{number}", T0, user="home")
        world.show(f"r{number}", T0, user="home")
    decision = world.request("r9", T0, "c1", user=None, household_id="home")
    assert [(r["code"], r["count"]) for r in reasons_of(decision)] == [("capped", 3)]


def test_the_widest_identity_given_is_the_person() -> None:
    """A cap per user of a request without a household counts all that this user was served."""
    world = a_world(caps=[{"window": "lifetime", "limit": 1, "per": "user"}])
    assert winner_of(world.request("r1", T0, "c1", user="ann", device_id="tv")) == "c1"
    assert codes_of(world.request("r2", T0, "c1", user="ann", device_id="phone")) == ["capped"]
    assert winner_of(world.request("r3", T0, "c1", user="bob")) == "c1"


def test_a_device_may_be_the_widest_identity() -> None:
    """A cap per device of a request that names nothing wider counts all that this device was served."""
    world = a_world(caps=[{"window": "lifetime", "limit": 1, "per": "device"}])
    assert winner_of(world.request("r1", T0, "c1", user=None, device_id="tv")) == "c1"
    assert codes_of(world.request("r2", T0, "c1", user=None, device_id="tv")) == ["capped"]


def test_a_household_that_is_not_named_is_nobody_known() -> None:
    """A cap per household is not kept for a user alone: the campaign's policy for nobody known decides."""
    world = a_world(caps=[{"window": "lifetime", "limit": 1, "per": "household"}])
    assert codes_of(world.request("r1", T0, "c1")) == ["no_identity"]


def test_an_identity_that_is_not_named_can_be_replaced_by_the_session() -> None:
    """A cap per device counts by session where the request names no device and the campaign says so."""
    world = a_world(
        caps=[{"window": "lifetime", "limit": 1, "per": "device"}], policies={"no_identity": "session"}
    )
    ask: dict[str, Any] = {"household_id": "home", "user": None}
    assert winner_of(world.request("r1", T0, "c1", session_id="s1", **ask)) == "c1"
    assert codes_of(world.request("r2", T0, "c1", session_id="s1", **ask)) == ["capped"]
    assert winner_of(world.request("r3", T0, "c1", session_id="s2", **ask)) == "c1"
    assert codes_of(world.request("r4", T0, "c1", **ask)) == ["no_identity"]


def test_lifetime_totals_know_users_and_devices() -> None:
    """What has left the history still counts for whom it was served to, and for nobody else."""
    world = a_world(caps=[{"window": "lifetime", "limit": 1, "per": "device"}])
    ask: dict[str, Any] = {"household_id": "home", "user": None}
    world.request("r1", T0, "c1", device_id="tv", **ask)
    world.show("r1", T0, user="home")
    later = T0 + 3 * DAY
    assert winner_of(world.request("r2", later, "c1", device_id="phone", **ask)) == "c1"
    assert shard_of(world).persons["home"].totals["campaign:c1#device:tv"] == 1
    assert codes_of(world.request("r3", later, "c1", device_id="tv", **ask)) == ["capped"]


def test_the_open_part_of_a_record_names_no_identity() -> None:
    """Result, deltas and outputs hold none of the identities that a request names."""
    world = a_world(caps=[{"window": "lifetime", "limit": 5, "per": "device"}])
    who: dict[str, Any] = {"household_id": "home-17", "device_id": "tv-17", "session_id": "visit-17"}
    world.request("r1", T0, "c1", user="mum-17", **who)
    world.show("r1", T0, user="home-17")
    for block in world.blocks["u0"]:
        for recorded in block.records:
            opened, _, _ = recorded.line.partition(b',"personal":')
            assert b"-17" not in opened


# ---------------------------------------------------------------------- consent


@given(
    storage=st.lists(st.booleans(), min_size=1, max_size=8),
    caps=st.sampled_from(((), ({"window": "pod", "limit": 1},), ({"window": "lifetime", "limit": 2},))),
)
@SMALL
def test_nothing_is_remembered_of_who_refused_storage(
    storage: list[bool], caps: tuple[dict[str, Any], ...]
) -> None:
    """The person's state is what the requests with consent alone would have made it, and the money is billed."""
    world, other = a_world(caps=list(caps)), a_world(caps=list(caps))
    for number, consent in enumerate(storage):
        decision = world.request(f"r{number}", T0, "c1", consent={"storage": consent}, session_id="s")
        if consent:
            assert winner_of(other.request(f"r{number}", T0, "c1", session_id="s")) == winner_of(decision)
            if winner_of(decision):
                other.show(f"r{number}", T0)
        elif any(cap["window"] != "pod" for cap in caps):
            assert codes_of(decision) == ["no_identity"]
        else:
            assert winner_of(decision) == "c1"
        if winner_of(decision):
            assert world.show(f"r{number}", T0)["kind"] == "settled"
    mine, theirs = (shard_of(w).persons.get("ann") for w in (world, other))
    rows = [[list(serving) for serving in person.servings] if person else [] for person in (mine, theirs)]
    assert rows[0] == rows[1]
    assert (set(mine.requests) if mine else set()) == (set(theirs.requests) if theirs else set())
    world.check_money()


def test_a_session_does_not_stand_in_for_who_refused_storage() -> None:
    """A campaign that counts nobody known by session is not served without storage: the session is remembered, too."""
    world = a_world(caps=[{"window": "lifetime", "limit": 1}], policies={"no_identity": "session"})
    refused = {"storage": False}
    decision = world.request("r1", T0, "c1", user=None, session_id="s1", consent=refused)
    assert codes_of(decision) == ["no_identity"]
    assert winner_of(world.request("r2", T0, "c1", user=None, session_id="s1")) == "c1"


def test_an_ad_of_nobody_is_billed_while_it_is_reserved() -> None:
    """Without storage an impression settles once, before its reservation ends, and finds nobody afterwards."""
    world = a_world()
    for name, wait_ms in (("soon", SECOND), ("late", 2 * MINUTE)):
        assert winner_of(world.request(name, world.now_ms, "c1", consent={"storage": False})) == "c1"
        kinds = [world.show(name, world.now_ms + wait_ms)["kind"], world.show(name, world.now_ms)["kind"]]
        assert kinds == (["settled", "orphan"] if name == "soon" else ["orphan", "orphan"])
    world.check_money()
    assert state_of(world.folded("u0")) == world.state("u0")


def test_refusing_storage_keeps_what_was_refused_before() -> None:
    """An opt-out made with consent is honoured in a request without."""
    world = a_world()
    world.user_event("opt-out", T0)
    assert codes_of(world.request("r1", T0, "c1", consent={"storage": False})) == ["opted_out"]


@pytest.mark.parametrize(("refused", "personalised"), [(a, b) for a in (False, True) for b in (False, True)])
def test_personalised_campaigns_need_consent_to_it(refused: bool, personalised: bool) -> None:
    """A campaign chosen for the person is not served where personalisation is refused; all others are."""
    world = a_world(policies={"personalised": personalised})
    decision = world.request("r1", T0, "c1", consent={"personalisation": not refused})
    assert codes_of(decision) == (["no_consent"] if refused and personalised else [])


# ---------------------------------------------------------------------- preferences


words = st.dictionaries(
    st.sampled_from(
        (("all", None), ("advertiser", "a1"), ("advertiser", "a2"), *(("category", c) for c in CATEGORIES))
    ),
    st.sampled_from(("refuse", "allow", "neither")),
)


@given(words=words, own=st.sets(st.sampled_from(CATEGORIES)), order=st.randoms())
@SMALL
def test_the_most_specific_word_decides(
    words: dict[tuple[str, str | None], str], own: set[str], order: Any
) -> None:
    """Of the advertiser, else of the categories with a refusal before a permission, a part's own word before that of
    the whole, else of all; in any order said."""
    world = a_world(categories=sorted(own))
    said = list(words.items())
    order.shuffle(said)
    for (scope, value), choice in said:
        for before in order.sample(("refuse", "allow"), 2):
            prefer(world, before, scope, value)
        prefer(world, choice, scope, value)
    advertiser = words.get(("advertiser", "a1"))
    nothing = (None, "neither")
    about = {
        word
        if (word := words.get(("category", name))) not in nothing
        else words.get(("category", "IAB7" if name == "IAB7-3" else name))
        for name in own
    }
    if advertiser in ("refuse", "allow"):
        refused = advertiser == "refuse"
    elif about & {"refuse", "allow"}:
        refused = "refuse" in about
    else:
        refused = words.get(("all", None)) == "refuse"
    assert codes_of(world.request("r1", T0, "c1")) == (["opted_out"] if refused else [])
    world.forget()
    assert codes_of(world.request("r2", T0, "c1")) == (["opted_out"] if refused else [])


def test_a_preference_and_an_opt_out_are_one_word() -> None:
    """A preference to refuse is an opt-out: either takes the other back."""
    world = a_world()
    prefer(world, "refuse", "advertiser", "a1")
    world.user_event("opt-in", T0, scope="advertiser", value="a1")
    assert winner_of(world.request("r1", T0, "c1")) == "c1"
    world.user_event("opt-out", T0)
    prefer(world, "neither", "all")
    assert winner_of(world.request("r2", T0, "c1")) == "c1"


# ---------------------------------------------------------------------- erasure


@given(before=st.integers(0, 4), opted=st.booleans(), stored=st.booleans(), away=st.booleans())
@SMALL
def test_an_erased_person_is_as_one_never_seen(before: int, opted: bool, stored: bool, away: bool) -> None:
    """After an erasure the state is that of nobody, in memory or not, and reserved and spent money stays."""
    world = a_world(caps=[{"window": "lifetime", "limit": 2}])
    for number in range(before):
        world.request(f"r{number}", T0, "c1")
        world.show(f"r{number}", T0)
    world.request("open", T0, "c1", user="ann")
    if opted:
        prefer(world, "refuse", "all")
        prefer(world, "allow", "advertiser", "a1")
    if stored:
        world.forget()
    money = world.money("c1")
    body = {"type": "erasure", "routing_id": "ann", "time_ms": T0}
    world.put(topics.USER_EVENTS, "ann", body, unknown=away and stored)
    world.heal()
    assert shard_of(world).persons["ann"].encode() is None
    assert world.money("c1") == money
    assert [winner_of(world.request(f"s{n}", T0, "c1")) for n in range(3)] == ["c1", "c1", None]
    world.settle(T0 + HOUR)
    world.check_money()
    assert state_of(world.folded("u0")) == world.state("u0")


def test_an_impression_after_an_erasure_pays_nothing() -> None:
    """What was decided before the erasure finds nobody: its reservation expires and the money is free again."""
    world = a_world()
    world.request("r1", T0, "c1")
    world.user_event("erasure", T0)
    assert world.show("r1", T0 + SECOND)["kind"] == "orphan"
    world.settle(T0 + 2 * HOUR)
    money = world.money("c1")
    assert (money["reserved"], money["spent"]) == (0, 0)


def test_an_erasure_elsewhere_is_recorded_without_a_person() -> None:
    """An erasure that arrives at another shard changes no state, and still ends the key of what went astray there."""
    world = World(2)
    body = {"type": "erasure", "routing_id": "ann", "time_ms": T0}
    wrong = next(user.shard for user in world.users if not user._is_mine("ann"))
    draft = world.put(topics.USER_EVENTS, "ann", body, shard=wrong)
    assert draft.result == {"kind": "erasure", "misrouted": True}
    assert draft.deltas == []


# ---------------------------------------------------------------------- caps in mid-flight


def test_a_new_cap_counts_what_was_served_before_it() -> None:
    """A cap that is added to a running campaign counts the servings of its window that really happened."""
    world = a_world()
    for number in range(3):
        world.request(f"r{number}", T0 + number * HOUR, "c1")
        world.show(f"r{number}", T0 + number * HOUR)
    world.campaign("c1", "a1", budget_micros=10**9, caps=[{"length_ms": 6 * HOUR, "limit": 3}])
    decision = world.request("r3", T0 + 3 * HOUR, "c1")
    assert [(r["code"], r["count"]) for r in reasons_of(decision)] == [("capped", 3)]
    world.campaign("c1", "a1", budget_micros=10**9, caps=[{"length_ms": 6 * HOUR, "limit": 4}])
    assert winner_of(world.request("r4", T0 + 3 * HOUR, "c1")) == "c1"


def test_a_longer_cap_says_from_when_it_can_see() -> None:
    """What was forgotten before a cap was there does not come back, and the shard knows since when it remembers."""
    world = a_world()
    assert shard_of(world).since_ms == 0
    world.request("r1", T0, "c1")
    world.show("r1", T0)
    later = T0 + 10 * DAY
    world.request("r2", later, "c1")
    world.campaign("c1", "a1", budget_micros=10**9, caps=[{"length_ms": 30 * DAY, "limit": 1}])
    assert shard_of(world).since_ms == later - DAY
    restored = world.twin("u0")
    restored.restore({"core": {"state": state_of(shard_of(world))["core"]["state"] or b""}})
    assert isinstance(restored, UserShard)
    assert restored.since_ms == later - DAY
    world.campaign("c1", "a1", budget_micros=10**9, caps=[{"length_ms": 2 * DAY, "limit": 1}])
    world.campaign("c1", "a1", budget_micros=10**9, caps=[{"length_ms": 4 * DAY, "limit": 1}])
    assert shard_of(world).since_ms == later - DAY, "no more was forgotten meanwhile than before"


def test_the_longest_cap_of_all_campaigns_says_how_long_servings_are_kept() -> None:
    """Servings are kept for as long as the longest cap in force looks back, of whichever campaign, and no longer once
    the last of these is gone; a cap that counts clicks looks back further by as much as a click may come later."""
    world = a_world()

    def kept_ms(**caps_in_days: int) -> int:
        for campaign, days in caps_in_days.items():
            world.campaign(campaign, "a1", caps=[{"length_ms": days * DAY, "limit": 1}])
        stored = {
            bucket: {name: value for name, value in fields.items() if value is not None}
            for bucket, fields in world.state("u0").items()
        }
        restored = world.twin("u0")
        restored.restore(stored)
        assert isinstance(restored, UserShard)
        assert restored.horizon_ms == shard_of(world).horizon_ms
        return restored.horizon_ms

    assert kept_ms(c1=30, c2=30, c3=9) == 30 * DAY
    assert kept_ms(c1=2) == 30 * DAY
    assert kept_ms(c2=2) == 9 * DAY
    world.campaign("c2", "a1", caps=[{"length_ms": 2 * DAY, "limit": 1, "event": "click"}])
    assert kept_ms() == 9 * DAY + shard_of(world).rules.dedupe_ms
    assert kept_ms(c2=2) == 9 * DAY


# ---------------------------------------------------------------------- limits


def letters(world: World) -> list[dict[str, Any]]:
    return [body for topic, body in world.events if topic == topics.dlq(topics.USER_EVENTS)]


def test_a_refusal_too_many_takes_the_place_of_a_permission() -> None:
    """Whoever has said as much as is remembered is shown less than they allowed before they are shown what they refuse;
    without a permission to give up, what more they want goes to the dead letters and nothing that was said is lost."""
    world = World(most_preferences=2)
    prefer(world, "allow", "all")
    prefer(world, "allow", "category", "cars")
    prefer(world, "refuse", "category", "toys")
    ann = shard_of(world).persons["ann"]
    prefer(world, "refuse", "advertiser", "a1")
    assert ann.opt_outs == [("category", "toys"), ("advertiser", "a1")]
    assert ann.allows == [("all", None)]
    assert letters(world) == []

    prefer(world, "refuse", "advertiser", "a2")
    prefer(world, "allow", "advertiser", "a3")
    assert [body["reason"] for body in letters(world)] == ["too_many_preferences"] * 2
    assert ann.opt_outs == [("category", "toys"), ("advertiser", "a1")]
    prefer(world, "allow", "advertiser", "a1")
    prefer(world, "refuse", "all")
    assert ann.opt_outs == [("category", "toys"), ("all", None)]
    assert ann.allows == [("advertiser", "a1")]


def test_what_somebody_unknown_wants_counts() -> None:
    """While it cannot be read how much a person has said before, what they say counts, and is decided so again."""
    world = World(most_preferences=1)
    prefer(world, "refuse", "advertiser", "a1")
    world.forget()
    body = {"type": "opt-out", "routing_id": "ann", "time_ms": T0, "scope": "advertiser", "value": "a2"}
    world.put(topics.USER_EVENTS, "ann", body, unknown=True)
    world.heal()
    assert shard_of(world).persons["ann"].opt_outs == [("advertiser", "a1"), ("advertiser", "a2")]
    assert state_of(world.decided_again("u0")) == world.state("u0")


def test_devices_beyond_a_limit_share_one_lifetime_total() -> None:
    """However many devices a household names, a limited number is kept apart: of the others, each counts what all of
    them were shown, so that none gets more than its cap allows."""
    most = 20
    person = Person()
    for number in range(MOST_IDENTITIES + most):
        serving = [T0, "r", 0, "x", "c1", "a1", [], [], [None, None, f"d{number}"], 0, 0, 1]
        person.add(Serving(serving))
    person.next_prune_ms = 0
    person.prune(T0 + 9 * DAY, HOUR, DAY)
    assert person.lifetime_total("campaign:c1", "") == MOST_IDENTITIES + most
    assert person.lifetime_total("campaign:c1", "#device:d1") == 1
    assert person.lifetime_total("campaign:c1", f"#device:d{MOST_IDENTITIES + 1}") == most
    assert person.lifetime_total("campaign:c1", "#device:new") == most
    assert len(person.totals) == 3 * (MOST_IDENTITIES + 2)
