"""Calendars in time zones, from the pinned ``tzdata`` package and never from the machine's own tables.

A decision must come out the same on every machine and in every replay, so the zone tables are a part of the
rules: they change with a release of this project, not with a system's update.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib import resources
from typing import Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

Unit = Literal["day", "week", "month"]


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The zone of an IANA name.

    Raises:
        ZoneInfoNotFoundError: when there is none.
    """
    parts = name.split("/")
    if not all(
        part and part.replace("_", "a").replace("-", "a").replace("+", "a").isalnum() for part in parts
    ):
        raise ZoneInfoNotFoundError(f"no time zone is called {name!r}")
    try:
        with resources.files("tzdata.zoneinfo").joinpath(*parts).open("rb") as file:
            return ZoneInfo.from_file(file, key=name)
    except (OSError, ValueError) as error:
        raise ZoneInfoNotFoundError(f"no time zone is called {name!r}") from error


def _start_ms(day: date, tz: ZoneInfo) -> int:
    # A midnight that a clock change skips starts the day at the first instant that exists after it: fold=0
    # maps the gap to the offset before the change, and going through UTC lands behind it.
    local = datetime(day.year, day.month, day.day, tzinfo=tz)
    return int(local.astimezone(UTC).timestamp()) * 1000


@lru_cache(maxsize=65536)
def _bounds(name: str, unit: Unit, ordinal: int) -> tuple[int, int]:
    tz = zone(name)
    day = date.fromordinal(ordinal)
    if unit == "day":
        first, after = day, day + timedelta(days=1)
    elif unit == "week":
        first = day - timedelta(days=day.weekday())
        after = first + timedelta(days=7)
    else:
        first = day.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    return _start_ms(first, tz), _start_ms(after, tz)


def _ordinal(time_ms: int, name: str) -> int:
    ordinal = datetime.fromtimestamp(time_ms // 1000, tz=zone(name)).date().toordinal()
    # Clocks that go back over midnight show the old date again, but the new day has begun: days have no gaps.
    return ordinal + 1 if time_ms >= _bounds(name, "day", ordinal)[1] else ordinal


_recent: Final[dict[tuple[str, Unit], tuple[int, int]]] = {}
"""The window last found for a zone and unit: most questions are about now. Windows divide all time, so which one was
found last does not matter to the answer."""


def window_of(time_ms: int, time_zone: str, unit: Unit) -> tuple[int, int]:
    """The calendar window around ``time_ms`` as ``[start_ms, end_ms)``: the zone's day (23 to 25 hours), ISO
    week (from Monday) or month."""
    window = _recent.get((time_zone, unit))
    if window is None or not window[0] <= time_ms < window[1]:
        window = _recent[time_zone, unit] = _bounds(time_zone, unit, _ordinal(time_ms, time_zone))
    return window


def day_of(time_ms: int, time_zone: str) -> int:
    """The zone's calendar day of ``time_ms`` as the number YYYYMMDD."""
    return _number_of(time_zone, window_of(time_ms, time_zone, "day")[0])


@lru_cache(maxsize=65536)
def _number_of(name: str, start_ms: int) -> int:
    """The number of the day that starts then."""
    day = date.fromordinal(_ordinal(start_ms, name))
    return day.year * 10000 + day.month * 100 + day.day


def day_ordinal(day: int) -> int:
    """The day YYYYMMDD counted from the calendar's first day, so that days can be subtracted."""
    return date(day // 10000, day // 100 % 100, day % 100).toordinal()


def day_bounds(day: int, time_zone: str) -> tuple[int, int]:
    """The day YYYYMMDD in the zone as ``[start_ms, end_ms)``."""
    return _bounds(time_zone, "day", day_ordinal(day))


def hour_of(time_ms: int, time_zone: str) -> int:
    """The hour, 0 to 23, that the zone's clocks show."""
    return datetime.fromtimestamp(time_ms // 1000, tz=zone(time_zone)).hour
