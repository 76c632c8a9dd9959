"""The auditor's own books of a user shard: its shares of campaigns, and what it tells their treasuries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.simulation import audit_caps
from tests.simulation.audit_chain import Findings

from adgovernor.core.rules import Rules

Place = tuple[str, int]
"""Decision id and slot."""
_SLACK_MS = 5_000
"""What is due is done within so much virtual time."""


@dataclass(slots=True)
class Share:
    """A campaign as the shard was told of it."""

    data: dict[str, Any]
    zone: str
    treasury: str
    by_day: bool = False
    """Its account has a daily budget."""
    reasons: list[str] = field(default_factory=list)
    paused_day: int = 0
    """The last day that the pause is about, where it is about a day's money alone."""
    books: dict[int, list[int]] = field(default_factory=dict)
    """Day → lease, reserved, spent."""
    owed: dict[Place, tuple[int, int, int]] = field(default_factory=dict)
    """Late impressions not paid yet: place → day, amount, until."""
    asks: set[int] = field(default_factory=set)
    denied: dict[int, int] = field(default_factory=dict)
    holds: dict[tuple[int, int], int] = field(default_factory=dict)
    """(Until, day) → reserved for late events in general."""

    def book(self, day: int) -> list[int]:
        """The day's money."""
        return self.books.setdefault(day, [0, 0, 0])

    def paused_on(self, day: int) -> bool:
        """Whether it is paused for requests of a day."""
        return bool(self.reasons) and (not self.paused_day or day <= self.paused_day)

    def held(self) -> int:
        """All money here."""
        return sum(map(sum, self.books.values()))


@dataclass(frozen=True, slots=True)
class Told:
    """What a shard had of a campaign when it last sent its treasury something about it."""

    directives: int
    """How many of the treasury's directives it had taken."""
    leases: dict[int, int]
    """Day → idle money."""


class ShareAudit:
    """The money of one user shard."""

    def __init__(self, shard: str, rules: Rules, findings: Findings) -> None:
        self.shard = shard
        self.rules = rules
        self.findings = findings
        self.shares: dict[str, Share] = {}
        self.watermark_ms = 0
        self.told: dict[tuple[str, int], dict[str, Told]] = {}
        """(Treasury, number of a message) → campaign → what the treasury knows of it by that message."""
        self.taken: dict[str, int] = {}
        self._where = ""
        self._record: dict[str, Any] = {}
        self._returned: dict[tuple[str, int], int] = {}

    def fail(self, rule: str, text: str) -> None:
        """Notes a violation at the present record."""
        self.findings.fail(rule, f"{self._where}: {text}")

    def check(self, holds: bool, rule: str, text: str) -> None:
        """Notes a violation at the present record unless ``holds``."""
        if not holds:
            self.fail(rule, text)

    # --- Books ------------------------------------------------------------------------------------------------

    def _move(self, campaign: str, day: int, lease: int, reserved: int, spent: int) -> None:
        book = self.shares[campaign].book(day)
        book[0] += lease
        book[1] += reserved
        book[2] += spent
        self.check(min(book) >= 0, "no amount is negative", f"{campaign} {day}: {book}")

    def _close_day(self, campaign: str, day: int) -> None:
        """Money that nothing moves any more is kept as a sum."""
        share, rules = self.shares[campaign], self.rules
        book = share.books.pop(day, [0, 0, 0])
        owed = any(entry[0] == day for entry in share.owed.values())
        self.check(
            not (book[0] or book[1] or owed), "only a settled day is closed", f"{campaign} {day}: {book}"
        )
        until_ms = audit_caps.day_end_ms(day, share.zone) + max(rules.day_grace_ms, rules.dedupe_ms)
        self.check(until_ms <= self.watermark_ms, "a day is closed after every grace", f"{campaign} {day}")
        share.denied.pop(day, None)
        if book[2]:
            share.book(-1)[2] += book[2]

    def _hold(self, name: str, campaign: str, day: int, until_ms: int, amount: int) -> None:
        """Money kept back for late events is reserved for a while, and returns."""
        held = self.shares[campaign].holds
        moved = amount if name == "hold" else -amount
        held[until_ms, day] = held.get((until_ms, day), 0) + moved
        self.check(held[until_ms, day] >= 0, "what is kept back returns once", f"{campaign} {day} {until_ms}")
        self._move(campaign, day, -moved, moved, 0)

    def _asked(self, campaign: str, day: int, price: int) -> None:
        share = self.shares[campaign]
        owed = any(entry[0] == day for entry in share.owed.values())
        self.check(
            owed or not share.paused_on(day),
            "a paused campaign asks for what it owes alone",
            f"{campaign} {day}",
        )
        self.check(day not in share.asks or bool(share.owed), "one ask at a time", f"{campaign} {day}")
        until_ms = share.denied.get(day, 0)
        self.check(
            self.watermark_ms >= until_ms,
            "ask cool-down",
            f"{campaign} {day} asks at {self.watermark_ms}, denied until {until_ms}",
        )
        share.asks.add(day)

    def _pay(self, name: str, decision: str, slot: int, campaign: str, day: int, amount: int) -> None:
        share = self.shares[campaign]
        owed = share.owed.pop((decision, slot), None)
        if owed is None or owed[:2] != (day, amount):
            self.fail(
                "a late impression is paid or given up once", f"{name} {decision} {slot}: owed was {owed}"
            )
            return
        over = owed[2] <= self.watermark_ms
        self.check(
            over == (name == "unfund"),
            "owed is paid within the tombstone's life",
            f"{name} {decision} {slot}",
        )
        if name == "paid":
            self._move(campaign, day, -amount, 0, amount)

    # --- Messages to treasuries -------------------------------------------------------------------------------

    def _check_messages(self, record: dict[str, Any]) -> None:
        """What is reported is true, and what was returned is in the message."""
        for destination, number, _, payload in record.get("send", ()):
            for item in payload["items"]:
                share = self.shares.get(item["campaign_id"])
                for day, amount in item.get("returned", ()):
                    left = self._returned.pop((item["campaign_id"], day), 0)
                    refused = item["campaign_id"] in record["result"].get("refused", ())
                    self.check(left == amount or refused, "what is returned arrives", f"{item}: {left}")
                for row in item.get("books", ()):
                    held = None if share is None else share.books.get(row[0])
                    self.check(held == row[1:], "reports tell the truth", f"{item}: {held}")
                for ask in item.get("asks", ()):
                    owed = [] if share is None else share.owed.values()
                    left = sum(entry[1] for entry in owed if entry[0] == ask["day"])
                    self.check(ask.get("owed", 0) >= left, "an ask names what is owed", f"{item}: {left}")
            told = dict(self.told.get((destination, number - 1), {}))
            for item in payload["items"]:
                name = item["campaign_id"]
                books = self.shares[name].books if name in self.shares else {}
                leases = {day: book[0] for day, book in books.items() if book[0]}
                told[name] = Told(self.taken.get(destination, 0), leases)
            self.told[destination, number] = told
        self.check(not self._returned, "what is returned arrives", f"{self._returned} is in no message")

    def _check_grants(self, record: dict[str, Any]) -> None:
        """A grant pays first what is owed; the answer to a recall leaves nothing idle."""
        granted = {(delta[1], delta[2]) for delta in record["deltas"] if delta[0] == "grant"}
        for campaign, day in granted:
            share = self.shares[campaign]
            owed = [e for e in share.owed.values() if e[0] == day and e[2] > self.watermark_ms]
            self.check(
                not owed or owed[0][1] > share.book(day)[0],
                "owed is paid first by the next grant",
                f"{campaign} {day}: {owed} of {share.book(day)[0]}",
            )
        for _, _, _, payload in record.get("send", ()):
            for item in payload["items"]:
                name = item["campaign_id"]
                if "round" in item and name in self.shares and not any(name == c for c, _ in granted):
                    idle = sum(book[0] for book in self.shares[name].books.values())
                    self.check(not idle, "a recall returns all idle money", f"{name} keeps {idle}")

    # --- In the end -------------------------------------------------------------------------------------------

    def _finish_shares(self, now_ms: int) -> None:
        """What must be so once everything has come to rest."""
        due_ms = now_ms - self.rules.lateness_ms - _SLACK_MS
        for name, share in self.shares.items():
            stale = [entry for entry in share.owed.values() if entry[2] <= due_ms]
            self.check(not stale, "a late impression is paid or given up once", f"{name} still owes {stale}")
            kept = [key for key, held in share.holds.items() if held and key[0] <= due_ms]
            self.check(not kept, "what is kept back returns once", f"{name} still keeps {kept}")
            for day, (lease, _, _) in share.books.items():
                over = day > 0 and audit_caps.day_end_ms(day, share.zone) <= due_ms
                self.check(
                    not (lease and over), "an old day's idle money is returned", f"{name} {day}: {lease}"
                )
                self.check(
                    not (lease and share.paused_on(day)), "paused: idle money is returned", f"{name}: {lease}"
                )
