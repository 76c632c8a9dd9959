"""Calendars: from the pinned tables, right on the days when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfoNotFoundError, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adgovernor.contracts import zones
from adgovernor.contracts.base import LATEST_MS

HOUR = 3_600_000


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    ("zone", "day", "start", "hours"),
    [
        ("UTC", 20240229, "2024-02-29T00:00", 24),
        ("Europe/Berlin", 20240331, "2024-03-30T23:00", 23),
        ("Europe/Berlin", 20241027, "2024-10-26T22:00", 25),
        ("America/New_York", 20240310, "2024-03-10T05:00", 23),
        ("Australia/Lord_Howe", 20240407, "2024-04-06T13:00", 24.5),
        ("Asia/Kathmandu", 20240101, "2023-12-31T18:15", 24),
        ("America/Sao_Paulo", 20181104, "2018-11-04T03:00", 23),
        ("Asia/Beirut", 20240331, "2024-03-30T22:00", 23),
        ("America/Havana", 20241103, "2024-11-03T04:00", 25),
        ("Pacific/Apia", 20111231, "2011-12-30T10:00", 24),
    ],
)
def test_days_begin_at_the_first_instant_of_their_date(zone: str, day: int, start: str, hours: float) -> None:
    """Days that clocks shorten, lengthen or rob of their midnight have the right bounds."""
    begin, end = zones.day_bounds(day, zone)
    assert begin == _ms(start)
    assert end - begin == hours * HOUR
    assert zones.day_of(begin, zone) == day
    assert zones.day_of(end - 1, zone) == day
    assert zones.day_of(begin - 1, zone) < day < zones.day_of(end, zone)


def test_clocks_that_go_back_over_midnight_leave_no_gap() -> None:
    """Where 00:01 became 23:01 again, the hour that shows the old date belongs to the day that had begun."""
    begun, again = _ms("2010-11-07T02:30"), _ms("2010-11-07T03:00")
    for first in (_ms("2010-11-06T12:00"), _ms("2010-11-07T12:00")):
        zones.window_of(first, "America/St_Johns", "day")
        start, end = zones.window_of(again, "America/St_Johns", "day")
        assert start == begun < again < end
    assert zones.day_of(again, "America/St_Johns") == 20101107
    assert zones.day_of(begun - 1, "America/St_Johns") == 20101106


def test_weeks_are_iso_weeks() -> None:
    """A week begins on Monday, also around the new year."""
    start, end = zones.window_of(_ms("2021-01-02T12:00"), "UTC", "week")
    assert (start, end) == (_ms("2020-12-28T00:00"), _ms("2021-01-04T00:00"))


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        ("2024-02-15T00:00", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("2023-12-31T23:59", "2023-12-01T00:00", "2024-01-01T00:00"),
        ("2024-01-31T00:00", "2024-01-01T00:00", "2024-02-01T00:00"),
    ],
)
def test_months_are_calendar_months(at: str, start: str, end: str) -> None:
    """A month goes from its first to the next month's first."""
    assert zones.window_of(_ms(at), "UTC", "month") == (_ms(start), _ms(end))


@given(
    st.integers(0, LATEST_MS),
    st.sampled_from(("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin")),
)
def test_every_time_that_contracts_allow_has_a_calendar(time_ms: int, zone: str) -> None:
    """From 1970 to the last time allowed, each moment is in its day, week and month."""
    for unit in ("day", "week", "month"):
        start, end = zones.window_of(time_ms, zone, unit)
        assert start <= time_ms < end
    assert 0 <= zones.hour_of(time_ms, zone) <= 23


@pytest.mark.parametrize("time_ms", [0, LATEST_MS])
def test_the_ends_of_time_are_in_every_zone(time_ms: int) -> None:
    """The first and last moments allowed have a day and a month in all zones of the tables."""
    for name in sorted(available_timezones() - {"localtime"}):
        try:
            start, end = zones.window_of(time_ms, name, "month")
        except ZoneInfoNotFoundError:
            continue  # The machine knows a zone that the pinned tables do not.
        assert start <= time_ms < end


@pytest.mark.parametrize(
    "name", ["", "Nowhere", "Europe/", "/etc/passwd", "../zones", "Europe/../UTC", "zone.tab", "Europe"]
)
def test_what_is_no_zone_is_refused(name: str) -> None:
    """Names that are no zone, and paths out of the tables, are unknown."""
    with pytest.raises(ZoneInfoNotFoundError):
        zones.zone(name)
