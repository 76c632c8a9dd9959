"""An account as its treasury knows it: its calendar and, where it has a budget of its own, the money above its
campaigns.

    topped_up = room + Σ over its campaigns of leased

A campaign's lease takes from both, its own money and its account's, so whichever is less decides.
"""

from __future__ import annotations

from typing import Any

import orjson

from adgovernor.contracts.campaigns import Account
from adgovernor.contracts.kept import kept_json
from adgovernor.contracts.money import MOST_MICROS

WORDS = frozenset(("account", "account_day"))
"""Reasons of a pause that are about the account's money."""


class AccountFund:
    """One account. Mutated by folds only. Amounts are micros."""

    __slots__ = (
        "account",
        "budget",
        "data",
        "decreases",
        "dirty",
        "leased",
        "leased_by_day",
        "patience",
        "put_off",
        "recall",
        "topped_up",
        "used_micros",
    )

    def __init__(self, account: Account) -> None:
        self.topped_up = 0
        self.budget = 0
        """The budget as defined, so far as it was accepted."""
        self.decreases: list[list[Any]] = []
        """Decreases that wait for a recall: [command id, command, amount still to take]."""
        self.recall: list[str] | None = None
        """The campaigns whose recalls make up the account's, while it is under way."""
        self.dirty = False
        """A grant was made meanwhile."""
        self.patience = 0
        self.used_micros = 0
        self.put_off: dict[str, int] = {}
        """As in a campaign (see `TreasuryCampaign`), by "shard|campaign"."""
        self.leased = 0
        self.leased_by_day: dict[int, int] = {}
        """Of all its campaigns; follows from theirs, so it is not stored."""
        self.define(account)

    def define(self, account: Account) -> None:
        """Takes a new definition; its budget is not looked at."""
        self.account = account
        self.data = account_data(account)

    @property
    def governs(self) -> bool:
        """Whether it has money of its own."""
        return self.account.budget_micros is not None or self.account.daily_budget_micros is not None

    def total_room(self) -> int:
        """What its campaigns together could still be leased."""
        return MOST_MICROS if self.account.budget_micros is None else self.topped_up - self.leased

    def day_room(self, day: int) -> int:
        """What its campaigns together could still be leased for the day."""
        daily = self.account.daily_budget_micros
        return MOST_MICROS if daily is None or not day else max(0, daily - self.leased_by_day.get(day, 0))

    def room(self, day: int) -> int:
        """The less of both."""
        return min(self.total_room(), self.day_room(day))

    def unspent(self, day: int, spent: int) -> int:
        """What is not yet spent of the day's budget, or (0) of all."""
        budget = self.account.daily_budget_micros if day else self.account.budget_micros
        if budget is None:
            return MOST_MICROS
        return (budget if day else self.topped_up) - spent

    def lease(self, day: int, amount: int) -> None:
        """A campaign's money was leased; a negative amount came back."""
        self.leased += amount
        self.leased_by_day[day] = self.leased_by_day.get(day, 0) + amount

    def close_day(self, day: int, into: int, amount: int) -> None:
        """What a campaign was leased for a settled day is part of a sum from now on."""
        self.lease(day, -amount)
        self.lease(into, amount)
        if not self.leased_by_day[day]:
            del self.leased_by_day[day]

    def encode(self) -> bytes:
        """The stored form."""
        return kept_json(
            {
                "account": self.data,
                "topped_up": self.topped_up,
                "budget": self.budget,
                "decreases": self.decreases,
                "recall": self.recall,
                "dirty": self.dirty,
                "patience": self.patience,
                "used_micros": self.used_micros,
                "put_off": self.put_off,
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> AccountFund:
        """From the stored form; what its campaigns were leased is added by them."""
        data = orjson.loads(value)
        self = cls(account_of(data["account"]))
        self.topped_up = data["topped_up"]
        self.budget = data["budget"]
        self.decreases = data["decreases"]
        self.recall = data["recall"]
        self.dirty = data["dirty"]
        self.patience = data["patience"]
        self.used_micros = data["used_micros"]
        self.put_off = data["put_off"]
        return self


def account_of(data: dict[str, Any]) -> Account:
    """A definition from the plain data of a record or a store."""
    return Account.model_validate_json(orjson.dumps(data))


def account_data(account: Account) -> dict[str, Any]:
    """A definition as plain data, short."""
    return account.model_dump(mode="json", exclude_defaults=True)
