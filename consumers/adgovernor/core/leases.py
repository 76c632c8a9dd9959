"""A user shard's share of a campaign: its definition, its status, and the money that it may spend.

Money moves between three amounts for each account day (day 0 where the campaign has no daily budget):
``lease`` (free to spend), ``reserved`` (promised to a decision, or kept back for late events) and ``spent``. Only a
grant adds to their sum, only a return takes from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson

from adgovernor.contracts import zones
from adgovernor.contracts.campaigns import Campaign
from adgovernor.contracts.kept import kept_json
from adgovernor.contracts.money import sayable
from adgovernor.core.caps import CompiledCap, horizon_ms
from adgovernor.core.history import NEVER
from adgovernor.core.rules import Rules

CLICK_LIFE_MS = 600_000
"""How long a price is reserved for a click or completed view, where the campaign does not say."""
PAYS_ON = {"cpm": "", "cpc": "click", "cpcv": "view"}
"""What is paid for: ``click`` or ``view``; empty: impressions."""
_MANY_PRICES = 1_000
_MANY_CAMPAIGNS = 20_000
EARLIER_DAYS = -1
"""In place of a day: all days that are over and settled, together. There is nothing idle or reserved."""
STATUS_CODES = {
    "exhausted": "exhausted",
    "day": "daily_budget",
    "account": "account_budget",
    "account_day": "account_budget",
    "manual": "paused",
    "flight": "flight",
    "archived": "archived",
}
"""What a request is told for each reason of a pause."""
DAY_WORDS = frozenset(("day", "account_day"))
"""Reasons of a pause that are about one account day."""


def last_paused_day(reasons: Iterable[str], exhausted_day: int) -> int:
    """The last account day that a pause for these reasons concerns: what a day's money ends, the next day's begins
    anew. 0: it concerns all days."""
    return exhausted_day if DAY_WORDS.issuperset(reasons) else 0


def concerns(last_paused: int, day: int) -> bool:
    """Whether a pause whose last day this is (see `last_paused_day`) concerns a day."""
    return not last_paused or day <= last_paused


class Book:
    """The money of one campaign and account day on one shard, in micros."""

    __slots__ = ("lease", "reserved", "spent")

    def __init__(self, lease: int = 0, reserved: int = 0, spent: int = 0) -> None:
        self.lease = lease
        self.reserved = reserved
        self.spent = spent

    def reserve(self, amount: int) -> None:
        """Promises so much of the lease to a decision."""
        self.lease -= amount
        self.reserved += amount
        assert self.lease >= 0 <= amount, "money became negative"

    def move(self, lease: int = 0, reserved: int = 0, spent: int = 0) -> None:
        """Adds these amounts; none may become negative."""
        self.lease += lease
        self.reserved += reserved
        self.spent += spent
        assert min(self.lease, self.reserved, self.spent) >= 0, "money became negative"


class CampaignShare:
    """One campaign as a user shard knows it. Mutated by folds only."""

    __slots__ = (
        "_day",
        "_encoded",
        "asks",
        "awaited",
        "books",
        "by_day",
        "campaign",
        "caps",
        "caps_categories",
        "categories",
        "changed",
        "currency",
        "daily",
        "dearest_micros",
        "denied",
        "end_ms",
        "episode",
        "holds",
        "knows_person",
        "last_grant_micros",
        "least_limit",
        "least_price",
        "life_ms",
        "looks_back",
        "one_price",
        "owed",
        "paused",
        "paused_day",
        "pays_on",
        "pers",
        "personalised",
        "price",
        "rate_ppm",
        "start_ms",
        "time_zone",
        "treasury",
        "unfunded_micros",
    )

    def __init__(self, campaign: Campaign, time_zone: str, treasury: str, by_day: bool = False) -> None:
        self.define(campaign, time_zone, by_day)
        self.treasury = treasury
        self.episode = 0
        self.paused: tuple[str, ...] = ()
        self.paused_day = 0
        """The last day that the pause concerns; 0: all days."""
        self.books: dict[int, Book] = {}
        self.asks: dict[int, int] = {}
        """Outstanding asks: day → the price asked for."""
        self.denied: dict[int, int] = {}
        """Day → the watermark from which on it may ask again."""
        self.owed: list[list[Any]] = []
        """Late impressions that no lease could pay: [decision id, slot, day, amount, until_ms]."""
        self.dearest_micros = 0
        self.last_grant_micros = 0
        self.unfunded_micros = 0
        """Over-delivery: late impressions that were never paid."""
        self.holds: dict[tuple[int, int], int] = {}
        """(Until when, day) → money of expired reservations kept back for late events; part of ``reserved``."""
        self.awaited: dict[tuple[int, int], int] = {}
        """(Until when, day) → money of expired reservations whose events may come late."""
        self.changed: set[int] = set()
        """The days whose money moved since the last report."""

    def define(self, campaign: Campaign, time_zone: str, by_day: bool = False) -> None:
        """Takes a new definition. ``by_day``: its account has a daily budget, so its money is booked by day."""
        self.by_day = by_day
        self.campaign = campaign
        self._encoded = orjson.Fragment(kept_json(campaign_data(campaign)))
        self.time_zone = time_zone
        self.currency = campaign.currency
        self.price = campaign.price()
        self.least_price = campaign.least_price()
        self.one_price = campaign.one_price()
        self.pays_on = PAYS_ON[campaign.pricing]
        """``click`` or ``view`` where these are paid for; empty: impressions."""
        rate = campaign.expected_rate_ppm
        self.rate_ppm = 1_000_000 if rate is None else rate
        self.life_ms = campaign.reservation_ms
        if self.life_ms is None and self.pays_on:
            self.life_ms = CLICK_LIFE_MS
        self.categories = list(dict.fromkeys(campaign.categories))
        self.daily = by_day or campaign.daily_budget_micros is not None
        self.start_ms = 0 if campaign.start_ms is None else campaign.start_ms
        self.end_ms = NEVER if campaign.end_ms is None else campaign.end_ms
        self.caps = tuple(
            CompiledCap(cap, campaign.campaign_id, campaign.account_id) for cap in campaign.caps
        )
        self.caps_categories = any(cap.scope == "category" for cap in campaign.caps)
        self.knows_person = any(cap.window != "pod" for cap in campaign.caps)
        """Its caps need to know whom they count for."""
        self.pers = frozenset(cap.per for cap in campaign.caps if cap.per is not None and cap.window != "pod")
        """And these of their identities."""
        self.personalised = campaign.policies.personalised
        self.least_limit = min((cap.limit for cap in campaign.caps), default=0)
        """Whoever was shown fewer ads than this, of any kind, is not capped."""
        self.looks_back = (horizon_ms(campaign.caps), any(cap.event is not None for cap in self.caps))
        """How far back its caps can look, and whether any of them counts clicks or views."""
        self._day = (0, 0, 0)

    def day_of(self, time_ms: int) -> int:
        """The account day whose money a request of this time draws on; 0 without a daily budget."""
        if not self.daily:
            return 0
        start, end, day = self._day
        if not start <= time_ms < end:
            day = zones.day_of(time_ms, self.time_zone)
            self._day = (*zones.day_bounds(day, self.time_zone), day)
        return day

    def paused_on(self, day: int) -> bool:
        """Whether the pause concerns requests of this day."""
        return bool(self.paused) and concerns(self.paused_day, day)

    def book(self, day: int) -> Book:
        """The day's money, begun at nothing."""
        if day in self.books:
            return self.books[day]
        book = self.books[day] = Book()
        return book

    def lease(self, day: int) -> int:
        """What may still be spent on the day, in micros."""
        book = self.books.get(day)
        return 0 if book is None else book.lease

    def low_water(self) -> int:
        """Below this, more is asked for: the dearest request seen, or a quarter of the last grant."""
        return max(self.one_price, self.dearest_micros, self.last_grant_micros // 4)

    def is_over(self, day: int, watermark_ms: int) -> bool:
        """Whether the account day has passed."""
        return day != 0 and zones.day_bounds(day, self.time_zone)[1] <= watermark_ms

    def idles_from_ms(self, day: int) -> int:
        """From when on (by the watermark) money of the day is of no use here: at once in a pause, else past the day."""
        if self.paused_on(day):
            return 0
        return zones.day_bounds(day, self.time_zone)[1] if day else NEVER

    def due_ms(self) -> int:
        """From when on (by the watermark) time alone gives a reason to report."""
        if self.changed:
            return 0
        unpaid = [until_ms for _, _, _, _, until_ms in self.owed]
        idle = [self.idles_from_ms(day) for day, book in self.books.items() if book.lease > 0]
        return min(unpaid + idle, default=NEVER)

    def settling_days(self, rules: Rules) -> dict[int, int]:
        """The days whose money nothing can move any more once they are over for longer than any grace: all is spent or
        returned, and reported. Day → from when on (by the watermark), oldest first."""
        if len(self.books) + len(self.denied) < 2:
            return {}
        days = sorted({day for day in (*self.books, *self.denied) if day > 0})
        return {
            day: rules.keeps_day_until_ms(zones.day_bounds(day, self.time_zone)[1])
            for day in days
            if day not in self.changed
            and day not in self.asks
            and not self.owed_on(day)
            and ((book := self.books.get(day)) is None or book.lease == book.reserved == 0)
        }

    def close_day(self, day: int) -> None:
        """Keeps of a settled day only its part of the sum."""
        self.denied.pop(day, None)
        book = self.books.pop(day, None)
        if book is not None and book.spent:
            self.book(EARLIER_DAYS).move(spent=book.spent)

    def held_back(self, day: int) -> int:
        """What of the day's reserved money is kept back for late events."""
        return sum(amount for (_, held_day), amount in self.holds.items() if held_day == day)

    def expired(self, until_ms: int, day: int, amount: int, watermark_ms: int) -> None:
        """Money of a reservation is free whose event may come late until then."""
        if (until_ms, day) not in self.awaited:
            # A new moment, of which there are few: time to let go of those that have passed.
            self.awaited = {key: left for key, left in self.awaited.items() if key[0] > watermark_ms}
        self.awaited[until_ms, day] = self.awaited.get((until_ms, day), 0) + amount

    def came_late(self, day: int, amount: int) -> None:
        """One of these events came; the oldest is as good as any."""
        for key in sorted(key for key in self.awaited if key[1] == day):
            taken = min(amount, self.awaited[key])
            amount -= taken
            self.awaited[key] -= taken
            if self.awaited[key]:
                return
            del self.awaited[key]

    def awaited_on(self, day: int, watermark_ms: int) -> list[tuple[int, int]]:
        """The day's money whose events may still come late: (how long, amount)."""
        return [
            (until_ms - watermark_ms, amount)
            for (until_ms, of_day), amount in self.awaited.items()
            if of_day == day and until_ms > watermark_ms
        ]

    def defined_budget(self) -> int:
        """What it may spend in a day, or (without a daily budget) at all, as defined; top-ups apart."""
        daily = self.campaign.daily_budget_micros
        return self.campaign.budget_micros if daily is None else daily

    def is_few(self, price: int) -> bool:
        """Whether one price is more than a thousandth of the budget, so that no ad of it may be left unsold."""
        return self.defined_budget() < _MANY_PRICES * price

    def is_lost_after(self, day: int, at_ms: int) -> bool:
        """Whether money of the day that comes back at that time can be spent no more."""
        if at_ms >= self.end_ms:
            return True
        return self.campaign.daily_policy != "rollover" and self.is_over(day, at_ms)

    def hold(self, until_ms: int, day: int, amount: int) -> None:
        """Keeps back so much more (or less) until then."""
        key = (until_ms, day)
        left = self.holds.get(key, 0) + amount
        if left:
            self.holds[key] = left
        else:
            del self.holds[key]
        self.book(day).move(lease=-amount, reserved=amount)
        self.changed.add(day)

    def owed_on(self, day: int) -> int:
        """What late impressions of the day are owed."""
        if not self.owed:
            return 0
        return sayable(sum(entry[3] for entry in self.owed if entry[2] == day))

    def held(self) -> int:
        """All money here, whatever its day and kind: what was granted less what was returned."""
        return sum(book.lease + book.reserved + book.spent for book in self.books.values())

    def rows(self, days: Iterable[int]) -> list[list[int]]:
        """[day, lease, reserved, spent] for reports."""
        return [
            [day, book.lease, book.reserved, book.spent]
            for day in sorted(days)
            if (book := self.books.get(day)) is not None
        ]

    def encode(self) -> bytes:
        """The stored form."""
        return kept_json(
            {
                "campaign": self._encoded,
                "time_zone": self.time_zone,
                "treasury": self.treasury,
                "by_day": self.by_day,
                "episode": self.episode,
                "paused": self.paused,
                "paused_day": self.paused_day,
                "books": self.rows(self.books),
                "asks": sorted(self.asks.items()),
                "denied": sorted(self.denied.items()),
                "owed": self.owed,
                "dearest_micros": self.dearest_micros,
                "last_grant_micros": self.last_grant_micros,
                "unfunded_micros": self.unfunded_micros,
                "holds": [[*key, amount] for key, amount in sorted(self.holds.items())],
                "awaited": [[*key, amount] for key, amount in sorted(self.awaited.items())],
                "changed": sorted(self.changed),
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> CampaignShare:
        """From the stored form."""
        data = orjson.loads(value)
        share = cls(campaign_of(data["campaign"]), data["time_zone"], data["treasury"], data["by_day"])
        share.episode = data["episode"]
        share.paused = tuple(data["paused"])
        share.paused_day = data.get("paused_day", 0)
        share.books = {day: Book(lease, reserved, spent) for day, lease, reserved, spent in data["books"]}
        share.asks = dict(data["asks"])
        share.denied = dict(data["denied"])
        share.owed = data["owed"]
        share.dearest_micros = data["dearest_micros"]
        share.last_grant_micros = data["last_grant_micros"]
        share.unfunded_micros = data["unfunded_micros"]
        share.holds = {(until_ms, day): amount for until_ms, day, amount in data["holds"]}
        share.awaited = {(until_ms, day): amount for until_ms, day, amount in data.get("awaited", ())}
        share.changed = set(data["changed"])
        return share


def campaign_of(data: dict[str, Any]) -> Campaign:
    """A definition from the plain data of a record, a message or a store."""
    return _defined(kept_json(data))


@lru_cache(maxsize=_MANY_CAMPAIGNS)
def _defined(text: bytes) -> Campaign:
    """Every shard of a worker knows every campaign, and reading one takes longer than all else of defining it."""
    return Campaign.model_validate_json(text)


def campaign_data(campaign: Campaign) -> dict[str, Any]:
    """A definition as plain data, short."""
    return campaign.model_dump(mode="json", exclude_defaults=True)


def sums_of(shares: Iterable[CampaignShare]) -> Book:
    """The money of one campaign on these shards, all days together."""
    books = [book for share in shares for book in share.books.values()]
    return Book(
        sum(book.lease for book in books),
        sum(book.reserved for book in books),
        sum(book.spent for book in books),
    )
