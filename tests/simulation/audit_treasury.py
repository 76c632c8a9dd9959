"""The auditor's own replay of a treasury: money, recalls, episodes, and whether what it declares is so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.simulation import audit_accounts, audit_caps
from tests.simulation.audit_accounts import Account
from tests.simulation.audit_chain import Findings
from tests.simulation.audit_decreases import Decreases, holders
from tests.simulation.audit_shares import Told

from adgovernor.core.rules import Rules

_EXHAUSTED = {"exhausted": "total", "day": "day", "account": "account", "account_day": "account"}
"""Reasons of money → the scope of their event."""
_BY_DAY = {"day", "account_day"}


@dataclass(slots=True)
class Fund:
    """A campaign's money as its treasury's records tell it."""

    data: dict[str, Any]
    zone: str
    by_day: bool = False
    """Its account has a daily budget."""
    account: Account | None = None
    closed_day: int = 0
    """The last day of which only sums are kept."""
    first_day: int = 0
    """The first day that was opened."""
    topped_up: int = 0
    unleased: int = 0
    budget: int = 0
    """The budget of the definition, so far as it was accepted."""
    episode: int = 1
    reasons: set[str] = field(default_factory=set)
    leased: dict[str, dict[int, int]] = field(default_factory=dict)
    reports: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    asks: dict[tuple[str, int], tuple[int, bool, int]] = field(default_factory=dict)
    round: int = 0
    waiting: set[str] | None = None
    """Shards that have not answered the recall under way."""
    granted: list[tuple[str, int, int, int]] = field(default_factory=list)
    """Shard, number of the message, day, amount."""
    exhausted_day: int = 0
    exhausted: set[int] = field(default_factory=set)
    """Episodes in which exhaustion was declared."""
    thresholds: set[tuple[int, int]] = field(default_factory=set)
    risked: set[int] = field(default_factory=set)
    public_paused: bool = False

    @property
    def one_price(self) -> int:
        """The least that one impression can cost."""
        least: int = self.data.get("min_price_micros", self.data.get("price_micros", 0))
        return least if least or not self.data["budget_micros"] else 1

    def paused_on(self, day: int) -> bool:
        """Whether it is paused for requests of a day: a sold out day says nothing of those after it."""
        return bool(self.reasons - _BY_DAY) or (bool(self.reasons) and day <= self.exhausted_day)

    def days(self) -> set[int]:
        """The days that money was leased for."""
        return {day for days in self.leased.values() for day in days}

    def day_leased(self, day: int) -> int:
        """Leased to all shards for a day."""
        return sum(days.get(day, 0) for days in self.leased.values())

    def room(self, day: int) -> int:
        """What could be leased for a day."""
        room = self.own_room(day)
        if self.account is not None:
            room = min(room, self.account.room(None), self.account.room(day))
        return max(0, room)

    def own_room(self, day: int) -> int:
        """As if its account had all money."""
        if not day or self.data.get("daily_budget_micros") is None:
            return self.unleased
        days = {day} | self.days()
        room = self.unleased
        for together, most in audit_accounts.day_bounds(self, days):
            if day in together:
                room = min(room, most - sum(map(self.day_leased, together)))
        return max(0, room)

    def spent(self) -> int:
        """As reported."""
        return sum(row[3] for rows in self.reports.values() for row in rows.values())


class TreasuryAudit:
    """One treasury."""

    def __init__(
        self,
        shard: str,
        rules: Rules,
        findings: Findings,
        partition_of: Callable[[str], int],
        told: Callable[[str, int, str], Told | None],
    ) -> None:
        self.shard = shard
        self.rules = rules
        self.findings = findings
        self.funds: dict[str, Fund] = {}
        self.accounts: dict[str, Account] = {}
        self.watermark_ms = 0
        self.taken: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.commands: set[str] = set()
        self._decreases = Decreases(self.funds, self.accounts)
        self.changes: dict[str, int] = {}
        self.asked_changes: dict[str, int] = {}
        self._mine = partition_of
        self._told = told
        """(User shard, number of its message, campaign) → what it had told this treasury by then."""
        self._where = ""
        self._record: dict[str, Any] = {}

    def fail(self, rule: str, text: str) -> None:
        """Notes a violation at the present record."""
        self.findings.fail(rule, f"{self._where}: {text}")

    def check(self, holds: bool, rule: str, text: str) -> None:
        """Notes a violation at the present record unless ``holds``."""
        if not holds:
            self.fail(rule, text)

    # --- One record -------------------------------------------------------------------------------------------

    def take(self, height: int, record: dict[str, Any]) -> None:
        """Replays one record. Public events are judged in the state in which they were declared."""
        self._where = f"{self.shard} {height} {record['topic']} {record['offset']}"
        self._record = record
        exhausted = [body for topic, _, body in record.get("out", ()) if topic == "budget-exhausted"]
        before = {name: set(fund.reasons) for name, fund in self.funds.items()}
        unleased = {name: fund.unleased for name, fund in self.funds.items()}
        rooms = {name: account.room(None) for name, account in self.accounts.items()}
        money: dict[str, list[int]] = {}
        for name, *args in record["deltas"]:
            if name == "status":
                campaign, episode, reasons, day = args
                self.funds[campaign].exhausted_day = day
                gained = set(reasons) - self.funds[campaign].reasons
                if gained & _EXHAUSTED.keys():
                    self._judge_exhaustion(campaign, gained, exhausted)
                self._status(campaign, episode, set(reasons))
            elif name == "rules":
                self.rules = Rules.from_dict(args[0])
            elif name == "money":
                money.setdefault(args[0], []).append(args[1])
                self._fund(args[0]).topped_up += args[1]
                self._fund(args[0]).unleased += args[1]
            elif name == "account_money":
                money.setdefault("account " + args[0], []).append(args[1])
                self.accounts[args[0]].topped_up += args[1]
            else:
                self._apply(name, args)
        for fund in self.funds.values():
            self.check(
                fund.unleased >= 0 and fund.topped_up >= 0, "no amount is negative", str(fund.unleased)
            )
        for account in self.accounts.values():
            self.check(
                account.room(None) >= 0, "an account's leases are within its budget", f"{account.data}"
            )
        self._judge_command(record, money, unleased, rooms)
        command = self._message() if record["topic"] == "campaigns" else {}
        for wrong in self._decreases.judge(record, command, money):
            self.fail("a decrease takes what it says", wrong)
        self._judge_reasons(record, before)
        self._judge_events(record)
        self._judge_messages(record)
        for destination, number, _, _ in record.get("send", ()):
            self.sent[destination] = number

    def _fund(self, campaign: str) -> Fund:
        return self.funds[campaign]

    def _message(self) -> dict[str, Any]:
        """The input, where it is a JSON object."""
        value = (self._record.get("personal") or {}).get("value")
        return value if isinstance(value, dict) else {}

    def _apply(self, name: str, args: list[Any]) -> None:
        if name == "wm":
            self.check(args[0] > self.watermark_ms, "the watermark never goes back", str(args[0]))
            self.watermark_ms = args[0]
        elif name == "took":
            self.taken[args[0]] = args[1]
        elif name == "command":
            command = self._message()
            own = f"{command.get('account_id')} {command.get('command_id')}"
            self.check(own not in self.commands, "a command counts once", own)
            self.commands.add(own)
        elif name == "define":
            data, zone, *by_day = args
            known = self.funds.get(data["campaign_id"])
            if known is None:
                known = self.funds[data["campaign_id"]] = Fund(data, zone)
                self._join(known, data["account_id"])
            known.data, known.zone, known.by_day = data, zone, bool(by_day)
        elif name == "account":
            self._define_account(args[0])
        elif name == "closed":
            self._close_day(*args)
        elif name == "opened" and args[1] > 1:
            self._fund(args[0]).first_day = self._fund(args[0]).first_day or args[1]
        elif name == "grant":
            self._grant(*args)
        elif name == "returned":
            campaign, shard, day, amount = args
            item = self._item(campaign)
            self.check(
                [day, amount] in item.get("returned", ()), "what comes back was sent", f"{args}: {item}"
            )
            self._lease(self._fund(campaign), shard, day, -amount)
        elif name == "report":
            campaign, shard, row = args
            self.check(row in self._item(campaign).get("books", ()), "reports are what was sent", f"{args}")
            self._fund(campaign).reports.setdefault(shard, {})[row[0]] = row
        elif name == "ask":
            campaign, shard, day, level, empty, *owed = args
            self._fund(campaign).asks[shard, day] = (level, empty, owed[0] if owed else 0)
        elif name == "denied":
            campaign, shard, day = args
            if self._fund(campaign).asks.pop((shard, day), None) is None:
                self.fail("only an ask is denied", f"{args}")
        elif name in ("round", "replied", "round_end"):
            self._recall(name, args)
        elif name == "threshold":
            self._threshold(*args)
        elif name == "risked":
            fund = self._fund(args[0])
            self.check(args[1] not in fund.risked, "one price of a day is risked at most", f"{args}")
            fund.risked.add(args[1])

    def _close_day(self, campaign: str, day: int) -> None:
        """Only of days that are spent, or returned, to the last cent."""
        fund, rules = self._fund(campaign), self.rules
        for shard, days in fund.leased.items():
            row = fund.reports.get(shard, {}).get(day, [day, 0, 0, 0])
            settled = row[1] == row[2] == 0 and days.get(day, 0) == row[3]
            self.check(settled, "only a settled day is closed", f"{campaign} {day} {shard}: {days}, {row}")
        until_ms = audit_caps.day_end_ms(day, fund.zone) + max(rules.day_grace_ms, rules.dedupe_ms)
        self.check(until_ms <= self.watermark_ms, "a day is closed after every grace", f"{campaign} {day}")
        self.check(day > fund.closed_day, "days are closed in order, once", f"{campaign} {day}")
        fund.closed_day = day

    def _define_account(self, data: dict[str, Any]) -> None:
        name = data["account_id"]
        known = self.accounts.get(name)
        if known is None:
            known = self.accounts[name] = Account(data)
            for fund in self.funds.values():
                if fund.data["account_id"] == name:
                    self._join(fund, name)
        known.define(data)

    def _join(self, fund: Fund, account: str) -> None:
        fund.account = self.accounts.get(account)
        if fund.account is not None:
            fund.account.members.append(fund)

    def _item(self, campaign: str) -> dict[str, Any]:
        items = self._message()["payload"]["items"]
        return next((item for item in items if item["campaign_id"] == campaign), {})

    # --- Money ------------------------------------------------------------------------------------------------

    def _lease(self, fund: Fund, shard: str, day: int, amount: int) -> None:
        fund.unleased -= amount
        days = fund.leased.setdefault(shard, {})
        days[day] = days.get(day, 0) + amount
        self.check(days[day] >= 0 and fund.unleased >= 0, "no amount is negative", f"{shard} {day} {amount}")

    def _grant(self, campaign: str, shard: str, day: int, amount: int, asked: bool) -> None:
        fund = self._fund(campaign)
        owed = fund.asks.get((shard, day), (0, False, 0))[2] if asked else 0
        self.check(
            not fund.paused_on(day) or amount <= owed,
            "a paused campaign gets no money but what it owes",
            f"{campaign} {day} {amount} of {owed} {fund.reasons}",
        )
        self.check(
            0 < amount <= fund.room(day), "a lease is within budget and day", f"{campaign} {day} {amount}"
        )
        self.check(not day or day > fund.closed_day, "no money for a closed day", f"{campaign} {day}")
        by_day = fund.by_day or fund.data.get("daily_budget_micros") is not None
        self.check((day != 0) == by_day, "a grant belongs to one account day", f"{campaign} {day}")
        if day:
            opens_ms = audit_caps.day_start_ms(day, fund.zone)
            self.check(
                self.watermark_ms + max(self.rules.early_lease_ms, self.rules.lateness_ms) >= opens_ms,
                "a day is leased a little early at most",
                f"{campaign} {day} at {self.watermark_ms}",
            )
        self._lease(fund, shard, day, amount)
        fund.granted.append((shard, self.sent.get(shard, 0) + 1, day, amount))
        if asked:
            fund.asks.pop((shard, day), None)

    def _judge_command(
        self,
        record: dict[str, Any],
        money: Mapping[str, list[int]],
        unleased: Mapping[str, int],
        rooms: Mapping[str, int],
    ) -> None:
        """A command moves the money that it names, once. ``unleased``, ``rooms``: of campaigns and accounts before."""
        if record["topic"] != "campaigns" or record["result"]["kind"] != "command":
            waited = any(delta[0] in ("decreased", "account_decreased") for delta in record["deltas"])
            if record["topic"] != "reports" or not waited:
                self.check(not money, "only commands move a budget", f"{money}")
            return
        command = self._message()
        word, name = command["command"], command["command_id"]
        own = f"{command['account_id']} {name}"
        self.asked_changes[name] = self.asked_changes.get(name, 0) + 1
        about = "account " + command["account_id"] if audit_accounts.by_account(command) else None
        moved = sum(money.get(about or command.get("campaign_id", ""), ()))
        self.check(len(money) <= 1, "a command moves one budget", f"{name}: {money}")
        first = any(delta[0] == "command" for delta in record["deltas"])
        mine = self._mine(command["account_id"]) == int(self.shard[1:])
        fund = self.funds.get(command.get("campaign_id", ""))
        sound = mine and fund is not None and fund.data["account_id"] == command["account_id"]
        refused = record["result"].get("refused")
        self.check((refused is None) == first, "a command is taken or refused", f"{word}: {refused}")
        if refused is not None:
            self.check(not money, "a refused command moves nothing", f"{money}")
            fair = refused == "archived" or (refused == "duplicate" and own in self.commands) or not sound
            fair = fair or word in ("upsert", "account")
            self.check(fair, "no command is refused without a reason", f"{word} {name}: {refused}")
        elif word in ("top-up", "credit"):
            self.check(moved == command["amount_micros"], "a top-up is money, once", f"{name}: {money}")
        elif word == "decrease":
            self.check(
                -command["amount_micros"] <= moved <= 0, "a decrease takes at most its amount", f"{money}"
            )
        elif word == "account":
            account = self.accounts[command["account_id"]]
            budget = command["account"].get("budget_micros")
            asked = 0 if budget is None else budget - account.budget
            expected = max(asked, -max(0, rooms.get(command["account_id"], 0)))
            self.check(
                moved == expected, "an upsert moves the difference", f"{name}: {moved}, not {expected}"
            )
            account.budget += moved
        elif word == "upsert":
            name = command["campaign"]["campaign_id"]
            asked = command["campaign"]["budget_micros"] - self.funds[name].budget
            moved = sum(money.get(name, ()))
            expected = max(asked, -unleased.get(name, 0))
            self.check(
                moved == expected, "an upsert moves the difference", f"{name}: {moved}, not {expected}"
            )
            self.funds[name].budget += moved
        else:
            self.check(not money, "only commands move a budget", f"{money}")

    # --- Recalls ----------------------------------------------------------------------------------------------

    def _recall(self, name: str, args: list[Any]) -> None:
        fund = self._fund(args[0])
        if name == "round":
            self.check(fund.waiting is None, "one recall at a time", args[0])
            fund.round += 1
            fund.waiting = set(args[1])
            self.check(fund.waiting == holders(fund), "a recall goes to every holder", f"{args}")
            wanted = any(
                empty and fund.room(day) < fund.one_price for (_, day), (_, empty, _) in fund.asks.items()
            )
            others = fund.account.members if fund.account is not None else []
            wanted = wanted or any(
                empty and other.room(day) < other.one_price
                for other in others
                for (_, day), (_, empty, _) in other.asks.items()
            )
            decrease = any(delta[0] in ("decrease", "account_decrease") for delta in self._record["deltas"])
            self.check(wanted or decrease, "only an ask for an empty lease recalls", f"{fund.asks}")
        elif name == "replied":
            shard = args[1]
            if fund.waiting is None or shard not in fund.waiting:
                self.fail("a recall is answered once", f"{args}")
            else:
                fund.waiting.remove(shard)
            item = self._item(args[0])
            self.check(item.get("round") == fund.round, "an answer belongs to its recall", f"{args}: {item}")
        else:
            self.check(
                fund.waiting == set(), "a recall ends when all have answered", f"{args}: {fund.waiting}"
            )
            fund.waiting = None

    # --- Episodes ---------------------------------------------------------------------------------------------

    def _left(self, fund: Fund, campaign: str, day: int | None) -> int:
        """What could truly still be spent, on the cut through history that the treasury has heard of."""
        left = fund.unleased if day is None else fund.own_room(day)
        return left + self._out(fund, campaign, day)

    def _account_left(self, account: Account, day: int | None) -> int:
        """As `_left`, of an account's money."""
        left = account.room(day) + sum(
            self._out(fund, fund.data["campaign_id"], day) for fund in account.members
        )
        if day is None:
            return left
        # Of a daily budget that was lowered, more may be leased than may be spent.
        return min(left, int(account.data["daily_budget_micros"]) - account.spent(day))

    def _out(self, fund: Fund, campaign: str, day: int | None) -> int:
        """Idle money that shards have, or that is on its way to them."""
        left = 0
        for shard in {shard for shard, *_ in fund.granted}:
            told = self._told(shard, self.taken.get(shard, 0), campaign)
            reached = 0 if told is None else told.directives
            if told is not None:
                left += sum(amount for at, amount in told.leases.items() if day in (None, at))
            left += sum(
                amount
                for to, number, at, amount in fund.granted
                if to == shard and number > reached and day in (None, at)
            )
        return left

    def _judge_exhaustion(self, campaign: str, gained: set[str], events: list[dict[str, Any]]) -> None:
        fund = self._fund(campaign)
        mine = [body for body in events if body["campaign_id"] == campaign]
        if len(mine) != 1:
            self.fail("exactly one budget-exhausted", f"{campaign} {gained}: {len(mine)} events")
            return
        body = mine[0]
        self.check(
            fund.episode not in fund.exhausted and body["episode"] == fund.episode,
            "budget-exhausted once an episode",
            f"{campaign} episode {fund.episode}",
        )
        fund.exhausted.add(fund.episode)
        self.check(not fund.reasons, "a paused campaign is not exhausted again", f"{campaign} {fund.reasons}")
        scopes = {_EXHAUSTED[reason] for reason in gained & _EXHAUSTED.keys()}
        self.check(scopes == {body["scope"]}, "the scope of exhaustion", f"{gained}: {body}")
        self.check(("day" in body) == bool(gained & _BY_DAY), "the scope of exhaustion", f"{gained}: {body}")
        if body["scope"] != "account":
            left, topped_up = self._left(fund, campaign, body.get("day")), fund.topped_up
            members = [fund]
        elif fund.account is None:
            self.fail("the scope of exhaustion", f"{campaign} has no account: {body}")
            return
        else:
            left, topped_up = self._account_left(fund.account, body.get("day")), fund.account.topped_up
            members = fund.account.members
        self.check(
            left < fund.one_price,
            "exhausted only when less than one price is left",
            f"{campaign} {body['scope']}: {left} left, one price is {fund.one_price}",
        )
        rows = [row for member in members for days in member.reports.values() for row in days.values()]
        totals = [topped_up, sum(row[3] for row in rows), sum(row[2] for row in rows)]
        told = [body["topped_up_micros"], body["spent_micros"], body["reserved_micros"]]
        self.check(told == totals, "events name true totals", f"{campaign}: {told}, not {totals}")

    def _status(self, campaign: str, episode: int, reasons: set[str]) -> None:
        fund = self._fund(campaign)
        resumed = bool(fund.reasons) and not reasons
        self.check(
            episode == fund.episode + resumed, "an episode ends with a resume", f"{campaign} {episode}"
        )
        if bool(fund.reasons) != bool(reasons):
            fund.asks.clear()
        fund.episode = episode
        fund.reasons = reasons

    def _judge_reasons(self, record: dict[str, Any], before: Mapping[str, set[str]]) -> None:
        """A manual pause is lifted by hand only, and an archived campaign stays so."""
        command = self._message() if record["topic"] == "campaigns" else {}
        word = command.get("command")
        for name, fund in self.funds.items():
            was = before.get(name, set())
            lifted = was - fund.reasons
            by_hand = word == "resume" and command.get("campaign_id") == name
            self.check("manual" not in lifted or by_hand, "money never lifts a manual pause", name)
            self.check("archived" not in lifted, "archived for good", name)
            if "exhausted" in lifted:
                self.check(
                    fund.topped_up > 0 and self._released(fund), "exhausted leaves when money is back", name
                )

    def _released(self, fund: Fund) -> bool:
        """Whether there was at least one price to begin the next episode with."""
        fresh = sum(
            amount for shard, number, _, amount in fund.granted if number == self.sent.get(shard, 0) + 1
        )
        return fund.unleased + fresh >= fund.one_price

    def _judge_events(self, record: dict[str, Any]) -> None:
        for topic, _, body in record.get("out", ()):
            fund = self.funds.get(body.get("campaign_id", ""))
            if topic == "campaign-changes":
                name = body["command_id"]
                self.changes[name] = self.changes.get(name, 0) + 1
            elif topic == "campaign-paused" and fund is not None:
                self.check(not fund.public_paused, "pauses and resumes alternate", str(body))
                fund.public_paused = True
            elif topic == "campaign-resumed" and fund is not None:
                self.check(fund.public_paused, "pauses and resumes alternate", str(body))
                self.check(body["episode"] == fund.episode, "events name their episode", str(body))
                fund.public_paused = False
        for name, fund in self.funds.items():
            self.check(
                fund.public_paused == bool(fund.reasons), "every pause and resume is published", f"{name}"
            )

    def _threshold(self, campaign: str, percent: int) -> None:
        fund = self._fund(campaign)
        key = (fund.episode, percent)
        self.check(key not in fund.thresholds, "a threshold is passed once an episode", f"{campaign} {key}")
        fund.thresholds.add(key)
        self.check(
            fund.spent() * 100 >= fund.topped_up * percent,
            "a threshold is passed when it is",
            f"{campaign} {key}",
        )

    # --- Messages ---------------------------------------------------------------------------------------------

    def _judge_messages(self, record: dict[str, Any]) -> None:
        """What is granted by the record is what its messages say."""
        granted: dict[tuple[str, str, int], int] = {}
        for name, *args in record["deltas"]:
            if name == "grant":
                key = (args[1], args[0], args[2])
                granted[key] = granted.get(key, 0) + args[3]
        for destination, _, _, payload in record.get("send", ()):
            for item in payload["items"]:
                if item["do"] == "grant":
                    key = (destination, item["campaign_id"], item["day"])
                    granted[key] = granted.get(key, 0) - item["amount_micros"]
        self.check(not any(granted.values()), "what is granted is sent", f"{granted}")

    # --- In the end -------------------------------------------------------------------------------------------

    def finish(self, now_ms: int) -> None:
        """What must be so once everything has come to rest; ``now_ms`` leaves time for it."""
        self._where = f"{self.shard} in the end"
        self.check(self.changes == self.asked_changes, "every command is answered once", f"{self.changes}")
        for name, fund in self.funds.items():
            self.check(fund.waiting is None, "a recall comes to its end", f"{name} waits for {fund.waiting}")
            paced = fund.data.get("pacing", {}).get("mode", "asap") != "asap"
            for (shard, day), ask in fund.asks.items():
                early = day and audit_caps.day_start_ms(day, fund.zone) > self.watermark_ms
                self.check(bool(paced or early), "every ask is answered", f"{name} {shard} {day}: {ask}")
            one = fund.one_price
            outstanding = fund.topped_up - fund.unleased - fund.spent()
            if not fund.reasons and one:
                self.check(
                    fund.topped_up - fund.spent() >= one,
                    "what is spent up is exhausted",
                    f"{name} is not paused",
                )
                for whose, left in audit_accounts.unspent(fund, self.watermark_ms):
                    self.check(left >= one, "what is spent up is exhausted", f"{whose} of {name}")
            if fund.reasons & _BY_DAY and "archived" not in fund.reasons:
                self.check(
                    audit_caps.day_end_ms(fund.exhausted_day, fund.zone) > now_ms,
                    "a new day lifts the pause of the old one",
                    f"{name} is paused for {fund.exhausted_day}",
                )
            self._finish_flight(fund, name)
            self.check(
                not audit_accounts.is_back(fund, self.rules.partitions),
                "exhausted leaves when money is back",
                f"{name} is paused: {fund.reasons}",
            )
            if "exhausted" in fund.reasons:
                enough = max(one * self.rules.partitions, fund.topped_up // 100)
                back = fund.unleased >= enough or (fund.unleased >= one and not outstanding)
                self.check(not back, "exhausted leaves when money is back", f"{name} has {fund.unleased}")

    def _finish_flight(self, fund: Fund, name: str) -> None:
        """Its end is said, and every threshold that it has passed, in some episode: a new one says it when next met."""
        end_ms, spent = fund.data.get("end_ms"), fund.spent()
        over = end_ms is not None and end_ms <= self.watermark_ms
        if "archived" not in fund.reasons:
            self.check(
                over == ("flight" in fund.reasons), "a flight's end pauses", f"{name} {end_ms} {fund.reasons}"
            )
        for percent in fund.data.get("thresholds_percent", ()):
            passed = 0 < fund.topped_up * percent <= spent * 100
            self.check(
                not passed or any(percent == said for _, said in fund.thresholds),
                "a threshold is passed when it is",
                f"{name}: {percent} % of {fund.topped_up}, {spent} is spent",
            )
