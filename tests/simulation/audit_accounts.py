"""The auditor's own view of accounts with budgets, and of days that roll over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from tests.simulation import audit_caps

if TYPE_CHECKING:
    from tests.simulation.audit_treasury import Fund

_WITHOUT_END = 2**62


@dataclass(slots=True)
class Account:
    """An account's money as its treasury's records tell it."""

    data: dict[str, Any]
    topped_up: int = 0
    budget: int = 0
    highest_daily: int = 0
    """The highest daily budget that it ever had: a lower one takes nothing back of what is spent."""
    members: list[Fund] = field(default_factory=list)

    def define(self, data: dict[str, Any]) -> None:
        """Takes a new definition."""
        self.data = data
        self.highest_daily = max(self.highest_daily, data.get("daily_budget_micros") or 0)

    def leased(self, day: int | None = None) -> int:
        """Of all its campaigns, to all shards; of one day, or of all."""
        return sum(
            amount
            for fund in self.members
            for days in fund.leased.values()
            for at, amount in days.items()
            if day in (None, at)
        )

    def spent(self, day: int | None = None) -> int:
        """Of all its campaigns, as reported."""
        return sum(
            row[3]
            for fund in self.members
            for rows in fund.reports.values()
            for row in rows.values()
            if day in (None, row[0])
        )

    def room(self, day: int | None) -> int:
        """What its campaigns together could be leased: of the day's budget, or (None) of the whole."""
        if day is None:
            bounded = self.data.get("budget_micros") is not None
            return self.topped_up - self.leased() if bounded else _WITHOUT_END
        daily: int | None = self.data.get("daily_budget_micros")
        return _WITHOUT_END if daily is None or not day else max(0, daily - self.leased(day))


def by_account(command: dict[str, Any]) -> bool:
    """Whether a command is about an account's own money."""
    money = command["command"] in ("top-up", "credit", "decrease") and command.get("campaign_id") is None
    return money or command["command"] == "account"


def days_between(first: int, last: int) -> int:
    """How many calendar days from one to another, both counted."""
    return (_date(last) - _date(first)).days + 1


def _date(day: int) -> date:
    return date(day // 10_000, day // 100 % 100, day % 100)


def day_bounds(fund: Fund, days: Iterable[int]) -> list[tuple[list[int], int]]:
    """(Days, what may be leased or spent on them together) of a campaign with a daily budget."""
    daily: int = fund.data["daily_budget_micros"]
    known = sorted(days)
    first = fund.first_day
    if first and fund.data.get("start_ms") is not None:
        first = max(first, audit_caps.day_of(fund.data["start_ms"], fund.zone))
    if fund.data.get("daily_policy") != "rollover" or not first:
        return [([day], daily) for day in known]
    bounds = [([day], daily) for day in known if day < first]
    rolled = [day for day in known if day >= first]
    bounds += [(rolled[: number + 1], daily * days_between(first, day)) for number, day in enumerate(rolled)]
    return bounds


def unspent(fund: Fund, watermark_ms: int) -> Iterator[tuple[str, int]]:
    """What is left of a campaign's present day, of its account, and of the account's day, where they have budgets."""
    account, day = fund.account, audit_caps.day_of(watermark_ms, fund.zone)
    if fund.data.get("daily_budget_micros") is not None and watermark_ms:
        for together, most in day_bounds(fund, {day} | fund.days()):
            if together[-1] == day:
                spent = sum(rows[day][3] for rows in fund.reports.values() if day in rows)
                yield "the day", most - sum(map(fund.day_leased, together[:-1])) - spent
    if account is None:
        return
    if account.data.get("budget_micros") is not None:
        yield "the account", account.topped_up - account.spent()
    daily: int | None = account.data.get("daily_budget_micros")
    if daily is not None and watermark_ms:
        yield "the account's day", daily - account.spent(day)


def is_back(fund: Fund, partitions: int) -> bool:
    """Whether a campaign is paused for its account's money though enough of it has come back: much, or any when no
    more will come."""
    account = fund.account
    if account is None:
        return False
    enough = max(fund.one_price * partitions, account.topped_up // 100)
    for reason, day in (("account", None), ("account_day", fund.exhausted_day)):
        if reason in fund.reasons:
            budget = account.topped_up if day is None else account.data.get("daily_budget_micros") or 0
            spent = account.spent(day)
            room = min(account.room(day), budget - spent)
            if room >= enough or (room >= fund.one_price and account.leased(day) == spent):
                return True
    return False
