"""Caps against an oracle that looks at every window one by one, written from the promise and not from the code."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from core_kit import DAY, HOUR, MINUTE, SECOND, World, reasons_of
from hypothesis import given, settings
from hypothesis import strategies as st

from adgovernor.contracts import zones

START = 1_711_753_200_000
"""2024-03-29 23:00 UTC: two days before clocks go forward in Berlin."""
ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu")
CATEGORIES = ("cars", "toys")
LABELS = ("live", "vod")


@dataclass
class Served:
    """What the oracle remembers of one serving."""

    time_ms: int
    deadline_ms: int
    shown: bool
    request: str
    session: str | None
    scopes: set[str]


def _calendar_day(time_ms: int, zone: str) -> datetime:
    return datetime.fromtimestamp(time_ms // 1000, tz=ZoneInfo(zone))


def _same_calendar_window(one_ms: int, other_ms: int, unit: str, zone: str) -> bool:
    one, other = _calendar_day(one_ms, zone), _calendar_day(other_ms, zone)
    if unit == "day":
        return one.date() == other.date()
    if unit == "week":
        return one.isocalendar()[:2] == other.isocalendar()[:2]
    return (one.year, one.month) == (other.year, other.month)


def oracle_count(
    served: list[Served], cap: dict[str, Any], scope: str, request: dict[str, Any], wm: int, zone: str
) -> int:
    """The servings in the fullest window of the cap that a serving at the request's time would be in."""
    live = [s for s in served if scope in s.scopes and (s.shown or s.deadline_ms > wm)]
    time_ms: int = request["time_ms"]
    window: str = cap["window"]
    if window == "lifetime":
        return len(live)
    if window == "pod":
        return sum(s.request == request["request_id"] for s in live)
    if window == "stream":
        session = request.get("session_id")
        return sum(s.session == session for s in live) if session else 0
    if window == "rolling":
        length: int = cap["length_ms"]
        # A window (end - length, end] holds the request if it ends at or after it and begins before it. The
        # fullest ends at the request or at a serving.
        ends = [time_ms, *(s.time_ms for s in live)]
        return max(
            sum(end - length < s.time_ms <= end for s in live)
            for end in ends
            if end - length < time_ms <= end
        )
    return sum(_same_calendar_window(s.time_ms, time_ms, window, zone) for s in live)


def oracle_scopes(
    cap: dict[str, Any], campaign: str, account: str, creative: str, categories: list[str], labels: list[str]
) -> list[str]:
    """The scopes in which the cap would count the serving."""
    scope = cap["scope"]
    if scope == "category":
        return [f"category:{c}" for c in categories if cap.get("label") in (None, c)]
    if scope == "label":
        return [f"label:{cap['label']}"] if cap["label"] in labels else []
    return [f"{scope}:" + {"campaign": campaign, "advertiser": account, "creative": creative}[scope]]


@st.composite
def caps(draw: st.DrawFn) -> dict[str, Any]:
    """Any cap."""
    cap: dict[str, Any] = {
        "scope": draw(st.sampled_from(("creative", "campaign", "advertiser", "category", "label"))),
        "window": draw(
            st.sampled_from(
                ("rolling", "rolling", "rolling", "day", "week", "month", "lifetime", "pod", "stream")
            )
        ),
        "limit": draw(st.integers(0, 4)),
    }
    if cap["window"] == "rolling":
        cap["length_ms"] = draw(
            st.sampled_from((1, SECOND, 10 * SECOND, 90 * SECOND, 10 * MINUTE, HOUR, DAY, 3 * DAY))
            | st.integers(1, 4 * DAY)
        )
    if cap["scope"] == "label":
        cap["label"] = draw(st.sampled_from(LABELS))
    if cap["scope"] == "category" and draw(st.booleans()):
        cap["label"] = draw(st.sampled_from(CATEGORIES))
    return cap


STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "campaign": st.sampled_from(("c1", "c2", "c3")),
            "creative": st.sampled_from(("x", "y")),
            "categories": st.lists(st.sampled_from(CATEGORIES), max_size=2),
            "labels": st.lists(st.sampled_from(LABELS), max_size=2),
            "session": st.sampled_from((None, "s1", "s2")),
            "user": st.sampled_from(("ann", "ann", "ann", "bob")),
            "ahead_ms": st.sampled_from((0, 0, 1, 999, SECOND, 9 * SECOND, MINUTE, HOUR, 10 * HOUR, DAY)),
            "behind_ms": st.sampled_from((0, 0, 0, 1, SECOND, 5 * SECOND, 9 * SECOND, 5 * MINUTE)),
            "show": st.sampled_from((None, 0, 0, 0, SECOND, 2 * MINUTE, 20 * MINUTE)),
            "forget": st.booleans(),
        }
    ),
    min_size=1,
    max_size=30,
)


@given(
    own=st.lists(caps(), min_size=1, max_size=3),
    other=st.lists(caps(), max_size=2),
    zone=st.sampled_from(ZONES),
    lateness_ms=st.sampled_from((0, 10 * SECOND, 10 * MINUTE)),
    steps=STEPS,
)
@settings(max_examples=150, deadline=None)
def test_decisions_agree_with_an_oracle(
    own: list[dict[str, Any]],
    other: list[dict[str, Any]],
    zone: str,
    lateness_ms: int,
    steps: list[dict[str, Any]],
) -> None:
    """Every cap blocks exactly when one more serving would overfill some window, in any order of events, and the
    counts named are right, whether the person stayed in memory or came back from a store."""
    world = World(now_ms=START - DAY, lateness_ms=lateness_ms)
    world.command("account", account={"account_id": "a1", "time_zone": zone})
    owners = {"c1": "a1", "c2": "a1", "c3": "a2"}
    carried = {"c1": own, "c2": other, "c3": own}
    own_categories = {"c1": ["cars"], "c2": [], "c3": []}
    for campaign, account in owners.items():
        world.campaign(
            campaign,
            account,
            budget_micros=10**12,
            caps=carried[campaign],
            categories=own_categories[campaign],
        )
    user = world.users[0]
    served: dict[str, list[Served]] = {"ann": [], "bob": []}
    newest = START
    for number, step in enumerate(steps):
        newest += step["ahead_ms"]
        # A session is known as long as the history is kept: none here lasts longer.
        session = None if step["session"] is None else f"{step['session']}-{newest // (20 * HOUR)}"
        request: dict[str, Any] = {
            "request_id": f"r{number}",
            "time_ms": newest - step["behind_ms"],
            "labels": step["labels"],
        }
        if session is not None:
            request["session_id"] = session
        if request["time_ms"] < user.watermark_ms:
            continue
        campaign, person = step["campaign"], step["user"]
        account = owners[campaign]
        candidate = {
            "campaign_id": campaign,
            "creative_id": step["creative"],
            "categories": step["categories"],
        }
        categories = list(dict.fromkeys([*own_categories[campaign], *step["categories"]]))
        before_ms = user.watermark_ms
        decision = world.request(
            request["request_id"],
            request["time_ms"],
            candidate,
            user=person,
            labels=step["labels"],
            session_id=session,
        )
        wm = _judged_at(before_ms, world)
        expected = []
        for cap in carried[campaign]:
            for scope in oracle_scopes(cap, campaign, account, step["creative"], categories, step["labels"]):
                count = oracle_count(
                    served[person], cap, scope, request, wm, zone if account == "a1" else "UTC"
                )
                if count >= cap["limit"]:
                    expected.append((scope, cap["limit"], count))
        found = [(r["scope"], r["limit"], r["count"]) for r in reasons_of(decision) if r["code"] == "capped"]
        assert found == expected
        winner = decision["slots"][0].get("winner")
        assert (winner is not None) == (not expected)
        if winner is not None:
            scopes = {f"creative:{step['creative']}", f"campaign:{campaign}", f"advertiser:{account}"}
            scopes |= {f"category:{c}" for c in categories} | {f"label:{label}" for label in step["labels"]}
            entry = Served(
                request["time_ms"], winner["deadline_ms"], False, request["request_id"], session, scopes
            )
            served[person].append(entry)
            if step["show"] is not None:
                newest = max(newest, request["time_ms"] + step["show"])
                result = world.show(request["request_id"], request["time_ms"] + step["show"], user=person)
                assert result["kind"] in {"settled", "late_funded"}
                entry.shown = True
        if step["forget"]:
            world.forget()


def _judged_at(before_ms: int, world: World) -> int:
    """The watermark that the last request was judged at: the one that its own record left."""
    last = next(
        recorded
        for block in reversed(world.blocks["u0"])
        for recorded in block.records
        if recorded.event is not None and recorded.event.topic == "ad-requests"
    )
    moved = [delta[1] for delta in orjson.loads(last.line)["deltas"] if delta[0] == "wm"]
    return max(moved, default=before_ms)


@given(st.integers(2020, 2035), st.integers(1, 12), st.sampled_from(ZONES), st.integers(0, 31 * 24 * 60 - 1))
def test_calendar_windows_hold_their_own_times(year: int, month: int, zone: str, minute: int) -> None:
    """The day, week and month around a time begin at a local midnight, hold the time, and meet their neighbours."""
    time_ms = int(datetime(year, month, 1, tzinfo=ZoneInfo("UTC")).timestamp()) * 1000 + minute * MINUTE
    for unit in ("day", "week", "month"):
        start, end = zones.window_of(time_ms, zone, unit)
        assert start <= time_ms < end
        first, after = _calendar_day(start, zone), _calendar_day(end, zone)
        assert (first.hour, first.minute, after.hour, after.minute) == (0, 0, 0, 0)
        days = {"day": 1, "week": 7, "month": calendar.monthrange(first.year, first.month)[1]}[unit]
        assert after.date() - first.date() == timedelta(days=days)
        assert zones.window_of(end, zone, unit)[0] == end
        assert unit != "week" or first.weekday() == 0
        assert unit != "month" or first.day == 1
