"""The auditor's own judgement of frequency caps: brute force over every serving that a person ever had."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

SHOWN = 0


@dataclass(slots=True)
class Show:
    """One serving as the ledger tells of it."""

    time_ms: int
    decision_id: str
    slot: int
    creative: str
    campaign: str
    account: str
    categories: list[str]
    labels: list[str]
    session: str | None
    deadline_ms: int
    """`SHOWN` once the impression came."""
    day: int
    price: int
    billing_ms: int
    """The deadline of its money; `SHOWN` once it is paid."""
    pays_on: str
    ids: dict[str, str] = field(default_factory=dict)
    """To whom, by kind of identity."""
    marks: set[str] = field(default_factory=set)
    """Clicked, seen to its end."""

    def counts(self, watermark_ms: int) -> bool:
        """Shown, or reserved and not expired."""
        return self.deadline_ms == SHOWN or self.deadline_ms > watermark_ms


@lru_cache(maxsize=4096)
def day_of(time_ms: int, zone: str) -> int:
    """The calendar day as YYYYMMDD."""
    day = datetime.fromtimestamp(time_ms // 1000, tz=ZoneInfo(zone))
    return day.year * 10_000 + day.month * 100 + day.day


def day_start_ms(day: int, zone: str) -> int:
    """When a day begins."""
    start = datetime(day // 10_000, day // 100 % 100, day % 100, tzinfo=ZoneInfo(zone))
    return int(start.timestamp()) * 1000


def day_end_ms(day: int, zone: str) -> int:
    """When the next day begins."""
    noon = datetime(day // 10_000, day // 100 % 100, day % 100, 12, tzinfo=ZoneInfo(zone))
    after = noon + timedelta(days=1)
    return day_start_ms(after.year * 10_000 + after.month * 100 + after.day, zone)


@lru_cache(maxsize=4096)
def _bucket(time_ms: int, zone: str, length_ms: int) -> tuple[int, ...]:
    """The name of the calendar window that a moment is in."""
    local = datetime.fromtimestamp(time_ms // 1000, tz=ZoneInfo(zone))
    if length_ms == 86_400_000:
        return (local.year, local.month, local.day)
    if length_ms == 604_800_000:
        return tuple(local.isocalendar()[:2])
    return (local.year, local.month)


def _in_scope(cap: dict[str, Any], show: Show) -> list[str]:
    """The words that name what the cap counts for this serving."""
    scope = cap.get("scope", "campaign")
    if scope == "label":
        return ["label:" + cap["label"]] if cap["label"] in show.labels else []
    if scope == "category":
        return ["category:" + name for name in show.categories if cap.get("label") in (None, name)]
    word = {"campaign": show.campaign, "creative": show.creative, "advertiser": show.account}[scope]
    return [f"{scope}:{word}"]


def _is_in(word: str, show: Show) -> bool:
    scope, _, name = word.partition(":")
    if scope == "label":
        return name in show.labels
    if scope == "category":
        return name in show.categories
    return name == {"campaign": show.campaign, "creative": show.creative, "advertiser": show.account}[scope]


def violations(
    caps: list[dict[str, Any]], new: Show, before: list[Show], watermark_ms: int, zone: str
) -> list[str]:
    """The caps that one more serving breaks, in words."""
    found = []
    counting = [show for show in before if show.counts(watermark_ms)]
    for cap in caps:
        for word in _in_scope(cap, new):
            others = [show for show in counting if _is_in(word, show)]
            count = _count(cap, new, others, zone)
            if count + 1 > cap["limit"]:
                found.append(f"{word} {cap}: {count} before it")
    return found


def _count(cap: dict[str, Any], new: Show, others: list[Show], zone: str) -> int:
    window = cap.get("window", "rolling")
    if window == "lifetime":
        return len(others)
    if window == "pod":
        return sum(1 for show in others if show.decision_id == new.decision_id)
    if window == "stream":
        return sum(1 for show in others if new.session and show.session == new.session)
    length = cap["length_ms"]
    if window == "calendar":
        bucket = _bucket(new.time_ms, zone, length)
        return sum(1 for show in others if _bucket(show.time_ms, zone, length) == bucket)
    fullest = 0
    for end in [new.time_ms, *[show.time_ms for show in others]]:
        if new.time_ms <= end < new.time_ms + length:
            fullest = max(fullest, sum(1 for show in others if end - length < show.time_ms <= end))
    return fullest
