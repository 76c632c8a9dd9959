"""Frequency caps, by example: every window, every scope, and what counts."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from core_kit import DAY, HOUR, MINUTE, SECOND, T0, World, codes_of, reasons_of, winner_of

from adgovernor.contracts import topics


def _world(*caps: dict[str, Any], zone: str | None = None, **campaign: Any) -> World:
    world = World(now_ms=T0 - 365 * DAY, lateness_ms=10 * MINUTE)
    if zone is not None:
        world.command("account", account={"account_id": "a1", "time_zone": zone})
    world.campaign(caps=list(caps), **campaign)
    return world


def _ms(zone: str, *parts: int, fold: int = 0) -> int:
    return int(datetime(*parts, tzinfo=ZoneInfo(zone), fold=fold).timestamp()) * 1000  # type: ignore[arg-type,misc]


ROLLING = {"window": "rolling", "length_ms": HOUR, "limit": 1}


def test_rolling_window_is_half_open_to_the_millisecond() -> None:
    """A serving exactly one window old no longer counts; one millisecond younger, it does."""
    world = _world(ROLLING)
    assert winner_of(world.request("r1", T0, "c1")) == "c1"
    world.show("r1", T0)
    assert codes_of(world.request("r2", T0 + HOUR - 1, "c1")) == ["capped"]
    assert winner_of(world.request("r3", T0 + HOUR, "c1")) == "c1"


def test_rolling_window_holds_for_windows_that_end_later() -> None:
    """A request from before a serving is capped by it, where both would be in one window."""
    world = _world(ROLLING)
    assert winner_of(world.request("r1", T0 + 5 * MINUTE, "c1")) == "c1"
    assert codes_of(world.request("r2", T0, "c1")) == ["capped"]


def test_rolling_window_ignores_later_servings_one_window_away() -> None:
    """A later serving exactly one window ahead shares no window with the request."""
    world = _world({**ROLLING, "length_ms": MINUTE})
    assert winner_of(world.request("r1", T0 + MINUTE, "c1")) == "c1"
    assert codes_of(world.request("r2", T0 + 1, "c1")) == ["capped"]
    assert winner_of(world.request("r3", T0, "c1")) == "c1"


def test_rolling_window_counts_the_fullest_window_and_not_all_neighbours() -> None:
    """Servings before and after that are never in one window do not add up."""
    world = _world({**ROLLING, "length_ms": MINUTE, "limit": 2})
    for number, time_ms in enumerate((T0, T0 + MINUTE)):
        assert winner_of(world.request(f"r{number}", time_ms, "c1")) == "c1"
    decision = world.request("between", T0 + 40 * SECOND, "c1")
    assert winner_of(decision) == "c1"
    assert reasons_of(world.request("full", T0 + 50 * SECOND, "c1")) == [
        {
            "code": "capped",
            "scope": "campaign:c1",
            "window": "rolling",
            "length_ms": MINUTE,
            "limit": 2,
            "count": 2,
        }
    ]


@pytest.mark.parametrize(
    ("zone", "unit", "inside", "outside"),
    [
        ("Europe/Berlin", "day", (2023, 11, 15, 0, 0), (2023, 11, 16, 0, 0)),
        ("Asia/Kolkata", "day", (2023, 11, 15, 23, 59), (2023, 11, 16, 0, 0)),
        ("America/New_York", "week", (2023, 11, 19, 23, 59), (2023, 11, 20, 0, 0)),
        ("Pacific/Auckland", "month", (2023, 11, 30, 23, 59), (2023, 12, 1, 0, 0)),
        ("UTC", "week", (2023, 11, 15, 1, 0), (2023, 11, 20, 0, 0)),
    ],
)
def test_calendar_windows_are_of_the_accounts_zone(
    zone: str, unit: str, inside: tuple[int, ...], outside: tuple[int, ...]
) -> None:
    """A calendar cap counts from local midnight, Monday or the first of the month, up to the next one."""
    world = _world({"window": unit, "limit": 1}, zone=zone)
    first = _ms(zone, 2023, 11, 15, 0, 0)
    assert winner_of(world.request("r1", first, "c1")) == "c1"
    world.show("r1", first)
    assert codes_of(world.request("r2", _ms(zone, *inside), "c1")) == ["capped"]
    assert winner_of(world.request("r3", _ms(zone, *outside), "c1")) == "c1"


def test_calendar_day_of_23_hours_ends_at_its_own_midnight() -> None:
    """On the day that clocks go forward the calendar day has 23 hours."""
    zone = "Europe/Berlin"
    world = _world({"window": "day", "limit": 1}, zone=zone)
    midnight = _ms(zone, 2024, 3, 31)
    world.request("r1", midnight, "c1")
    world.show("r1", midnight)
    assert codes_of(world.request("r2", midnight + 23 * HOUR - 1, "c1")) == ["capped"]
    assert winner_of(world.request("r3", midnight + 23 * HOUR, "c1")) == "c1"


def test_calendar_day_of_25_hours_ends_at_its_own_midnight() -> None:
    """On the day that clocks go back the calendar day has 25 hours."""
    zone = "Europe/Berlin"
    world = _world({"window": "day", "limit": 1}, zone=zone)
    midnight = _ms(zone, 2023, 10, 29)
    world.request("r1", midnight, "c1")
    world.show("r1", midnight)
    assert codes_of(world.request("r2", midnight + 25 * HOUR - 1, "c1")) == ["capped"]
    assert winner_of(world.request("r3", midnight + 25 * HOUR, "c1")) == "c1"


@pytest.mark.parametrize("length_ms", [28 * DAY, 29 * DAY, 30 * DAY, 31 * DAY])
def test_calendar_month_counts_its_first_serving_on_its_last_day(length_ms: int) -> None:
    """However the month is named, a serving on the first is still known on the 31st."""
    world = _world({"window": "calendar", "length_ms": length_ms, "limit": 1}, zone="UTC")
    first = _ms("UTC", 2023, 12, 1)
    assert winner_of(world.request("r1", first, "c1")) == "c1"
    world.show("r1", first)
    last = _ms("UTC", 2023, 12, 31, 23, 0)
    # Somebody's request moves the watermark; the person's next event forgets what no cap needs any more.
    world.request("other", last + 30 * MINUTE, user="bob")
    assert codes_of(world.request("r2", last + 25 * MINUTE, "c1")) == ["capped"]
    assert codes_of(world.request("r3", last + 26 * MINUTE, "c1")) == ["capped"]


def test_a_serving_of_the_next_day_does_not_count_for_this_one() -> None:
    """A serving at the very midnight belongs to the new day: a late request of the old day is not capped by it."""
    world = _world({"window": "day", "limit": 1}, zone="UTC")
    midnight = _ms("UTC", 2023, 11, 16)
    assert winner_of(world.request("r1", midnight, "c1")) == "c1"
    assert winner_of(world.request("r2", midnight - 1, "c1")) == "c1"


def test_lifetime_cap_outlives_the_history() -> None:
    """A lifetime cap counts servings long after they themselves are forgotten."""
    world = _world({"window": "lifetime", "limit": 2}, end_ms=None)
    for day in (0, 3):
        assert winner_of(world.request(f"r{day}", T0 + day * DAY, "c1")) == "c1"
        world.show(f"r{day}", T0 + day * DAY)
    assert reasons_of(world.request("late", T0 + 400 * DAY, "c1"))[0]["count"] == 2
    assert [
        len(world.users[0].persons["ann"].servings),
        world.users[0].persons["ann"].totals["campaign:c1"],
    ] == [0, 2]
    assert winner_of(world.request("bob", T0 + 400 * DAY, "c1", user="bob")) == "c1"


def test_a_pod_cap_counts_another_request_of_a_forgotten_id_apart() -> None:
    """A request id that comes again after it was forgotten is another pod."""
    world = _world({"window": "pod", "limit": 1})
    assert winner_of(world.request("r1", T0, "c1")) == "c1"
    world.show("r1", T0)
    world.request("r2", T0 + 4 * HOUR, "c1")
    assert winner_of(world.request("r1", T0 + 5 * HOUR, "c1")) == "c1"


def test_pod_cap_counts_within_one_request_only() -> None:
    """A cap of window pod limits one request's slots and forgets them with it."""
    world = _world({"window": "pod", "limit": 1})
    candidates = [{"campaign_id": "c1", "creative_id": name} for name in ("x", "y")]
    decision = world.request("r1", T0, *candidates, slots=2)
    assert [winner_of(decision, slot) for slot in (0, 1)] == ["c1", None]
    assert reasons_of(decision, 1) == [
        {"code": "capped", "scope": "campaign:c1", "window": "pod", "limit": 1, "count": 1}
    ]
    assert winner_of(world.request("r2", T0, "c1")) == "c1"


def test_stream_cap_counts_within_one_session_only() -> None:
    """A cap of window stream limits one session of a person, and no other session of theirs."""
    world = _world({"window": "stream", "limit": 1})
    assert winner_of(world.request("r1", T0, "c1", session_id="s1")) == "c1"
    assert reasons_of(world.request("r2", T0 + HOUR, "c1", session_id="s1")) == []
    world.show("r2", T0 + HOUR)
    assert reasons_of(world.request("r3", T0 + HOUR, "c1", session_id="s1")) == [
        {"code": "capped", "scope": "campaign:c1", "window": "stream", "limit": 1, "count": 1}
    ]
    assert winner_of(world.request("r4", T0 + HOUR, "c1", session_id="s2")) == "c1"


@pytest.mark.parametrize(
    ("cap", "scope", "same", "other"),
    [
        ({"scope": "creative"}, "creative:x", {"creative_id": "x"}, {"creative_id": "y"}),
        (
            {"scope": "category"},
            "category:cars",
            {"creative_id": "z", "categories": ["cars"]},
            {"creative_id": "z"},
        ),
        (
            {"scope": "category", "label": "cars"},
            "category:cars",
            {"creative_id": "z", "categories": ["toys", "cars"]},
            {"creative_id": "z", "categories": ["toys"]},
        ),
    ],
)
def test_scopes_of_the_candidate(
    cap: dict[str, Any], scope: str, same: dict[str, Any], other: dict[str, Any]
) -> None:
    """Creative and category caps count servings of that creative or category and let others pass."""
    world = _world({**ROLLING, **cap})
    first = {"campaign_id": "c1", "creative_id": "x", "categories": ["cars"]}
    assert winner_of(world.request("r1", T0, first)) == "c1"
    assert reasons_of(world.request("r2", T0, {"campaign_id": "c1", **same}))[0]["scope"] == scope
    assert winner_of(world.request("r3", T0, {"campaign_id": "c1", **other})) == "c1"


def test_a_category_is_capped_by_its_own_name() -> None:
    """A part of a category is another category to a cap, unless the ad names both, while a refusal of the whole holds
    for its parts."""
    world = _world({**ROLLING, "scope": "category", "label": "IAB7"})
    part = {"campaign_id": "c1", "creative_id": "x", "categories": ["IAB7-3"]}
    both = {**part, "categories": ["IAB7-3", "IAB7"]}
    for number in range(2):
        assert winner_of(world.request(f"part{number}", T0, part)) == "c1"
    assert winner_of(world.request("both0", T0, both)) == "c1"
    assert codes_of(world.request("both1", T0, both), 0) == ["capped"]
    assert winner_of(world.request("part2", T0, part)) == "c1"
    refusal = {"type": "opt-out", "routing_id": "ann", "time_ms": T0, "scope": "category", "value": "IAB7"}
    world.put(topics.USER_EVENTS, "ann", refusal)
    assert codes_of(world.request("part3", T0, part), 0) == ["opted_out"]


def test_advertiser_cap_counts_every_campaign_of_the_account() -> None:
    """A cap of scope advertiser counts the account's other campaigns, and no other account's."""
    world = _world({**ROLLING, "scope": "advertiser"})
    world.campaign("c2")
    world.campaign("c3", account="a2")
    world.request("r1", T0, "c3")
    assert winner_of(world.request("r2", T0, "c1", user="bob")) == "c1"
    world.request("r3", T0, "c2")
    assert reasons_of(world.request("r4", T0, "c1"))[0]["scope"] == "advertiser:a1"


def test_a_cap_blocks_only_campaigns_that_carry_it() -> None:
    """A campaign without the cap is served, though its servings count for the one that has it."""
    world = _world({**ROLLING, "scope": "category", "label": "cars"}, categories=["cars"])
    world.campaign("c2", categories=["cars"])
    assert winner_of(world.request("r1", T0, "c2")) == "c2"
    decision = world.request("r2", T0, "c1", "c2")
    assert codes_of(decision, 0) == ["capped"]
    assert winner_of(decision) == "c2"


def test_label_cap_bears_on_requests_with_the_label_only() -> None:
    """A cap on placement:preroll counts prerolls and blocks prerolls."""
    world = _world({**ROLLING, "scope": "label", "label": "placement:preroll"})
    assert winner_of(world.request("r1", T0, "c1", placement="midroll")) == "c1"
    assert winner_of(world.request("r2", T0, "c1", placement="preroll")) == "c1"
    assert (
        reasons_of(world.request("r3", T0, "c1", placement="preroll"))[0]["scope"]
        == "label:placement:preroll"
    )
    assert codes_of(world.request("r4", T0, "c1", labels=["placement:preroll"])) == ["capped"]
    assert winner_of(world.request("r5", T0, "c1", placement="midroll")) == "c1"


def test_every_cap_that_blocks_is_named() -> None:
    """A refusal lists each cap that blocked with its scope, window, limit and count."""
    world = _world(
        ROLLING,
        {"window": "lifetime", "limit": 1},
        {"scope": "creative", "window": "day", "limit": 5},
        {"scope": "advertiser", "window": "rolling", "length_ms": DAY, "limit": 1},
    )
    world.request("r1", T0, "c1")
    assert reasons_of(world.request("r2", T0 + 1, "c1")) == [
        {
            "code": "capped",
            "scope": "campaign:c1",
            "window": "rolling",
            "length_ms": HOUR,
            "limit": 1,
            "count": 1,
        },
        {"code": "capped", "scope": "campaign:c1", "window": "lifetime", "limit": 1, "count": 1},
        {
            "code": "capped",
            "scope": "advertiser:a1",
            "window": "rolling",
            "length_ms": DAY,
            "limit": 1,
            "count": 1,
        },
    ]


@pytest.mark.parametrize("window", ["rolling", "day", "week", "month", "lifetime", "pod", "stream"])
@pytest.mark.parametrize("scope", ["creative", "campaign", "advertiser", "category", "label"])
def test_cap_of_zero_never_serves(scope: str, window: str) -> None:
    """A limit of 0 refuses the very first serving, in every scope and window."""
    cap: dict[str, Any] = {"scope": scope, "window": window, "limit": 0}
    if window == "rolling":
        cap["length_ms"] = HOUR
    if scope == "label":
        cap["label"] = "live"
    world = _world(cap, categories=["cars"])
    decision = world.request("r1", T0, "c1", labels=["live"], session_id="s1")
    assert [(reason["code"], reason["limit"], reason["count"]) for reason in reasons_of(decision)] == [
        ("capped", 0, 0)
    ]


@pytest.mark.parametrize(
    "cap",
    [
        ROLLING,
        {"window": "month", "limit": 1},
        {"window": "lifetime", "limit": 1},
        {"window": "stream", "limit": 1},
    ],
)
def test_an_open_reservation_counts_until_it_expires(cap: dict[str, Any]) -> None:
    """In every window a reserved ad counts; once its deadline is at the watermark it has stopped counting."""
    world = _world(cap)
    world.request("r1", T0, "c1", session_id="s1")
    deadline = T0 + MINUTE
    just_before = deadline - 1 + 10 * MINUTE
    assert codes_of(world.request("r2", just_before, "c1", session_id="s1")) == ["capped"]
    assert winner_of(world.request("r3", deadline + 10 * MINUTE, "c1", session_id="s1")) == "c1"


def test_a_late_impression_counts_again_at_its_requests_time() -> None:
    """An expired serving that was shown after all blocks the window around its request, not the impression's."""
    world = _world(ROLLING)
    world.request("r1", T0, "c1")
    world.request("other", T0 + 20 * MINUTE, user="bob")
    assert world.show("r1", T0 + 20 * MINUTE)["kind"] == "late_funded"
    assert codes_of(world.request("r2", T0 + HOUR - 1, "c1")) == ["capped"]
    assert winner_of(world.request("r3", T0 + HOUR, "c1")) == "c1"


def test_caps_count_each_person_alone() -> None:
    """Nobody is capped by what others saw."""
    world = _world(ROLLING)
    assert [winner_of(world.request(f"r-{user}", T0, "c1", user=user)) for user in ("ann", "bob", "cid")] == [
        "c1"
    ] * 3


def test_a_cap_edited_in_mid_flight_counts_what_was_served_before() -> None:
    """A new cap sees the servings that the history holds."""
    world = World()
    world.campaign()
    world.request("r1", T0, "c1")
    world.show("r1", T0)
    world.campaign(caps=[{"window": "rolling", "length_ms": 12 * HOUR, "limit": 1}])
    assert codes_of(world.request("r2", T0 + 12 * HOUR - 1, "c1")) == ["capped"]


def test_capped_money_is_not_touched() -> None:
    """A capped campaign reserves nothing."""
    world = _world({**ROLLING, "limit": 0})
    world.request("r1", T0, "c1")
    assert world.money()["reserved"] == 0


def test_the_next_best_candidate_wins_where_the_best_is_capped() -> None:
    """A capped candidate gives way to the next price; the loser says why it lost."""
    world = _world(ROLLING)
    world.campaign("c2", price_micros=900)
    world.request("r1", T0, "c1")
    decision = world.request("r2", T0, "c1", "c2")
    assert winner_of(decision) == "c2"
    assert codes_of(decision, 0) == ["capped"]
    assert codes_of(world.request("r3", T0, "c1", "c2", user="bob"), 1) == ["outbid"]


def test_a_label_or_category_said_twice_counts_once() -> None:
    """Repeating a label, a placement or a category does not count a serving twice."""
    caps = [
        {**ROLLING, "scope": "label", "label": "placement:preroll", "limit": 2},
        {**ROLLING, "scope": "category", "limit": 2},
    ]
    world = _world(*caps, categories=["cars", "cars"])
    labels = ["placement:preroll", "placement:preroll"]
    assert winner_of(world.request("r1", T0, "c1", labels=labels, placement="preroll")) == "c1"
    assert winner_of(world.request("r2", T0, "c1", labels=labels, placement="preroll")) == "c1"
    reasons = reasons_of(world.request("r3", T0, "c1", labels=labels, placement="preroll"))
    assert [(reason["scope"], reason["count"]) for reason in reasons] == [
        ("label:placement:preroll", 2),
        ("category:cars", 2),
    ]
