"""The auditor's own replay of a user shard: what each record was allowed to do, given the records before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation import audit_caps
from tests.simulation.audit_caps import SHOWN, Show
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

    def held(self) -> int:
        """All money here."""
        return sum(map(sum, self.books.values()))


@dataclass(slots=True)
class Person:
    """What somebody asked for and saw."""

    requests: dict[str, int] = field(default_factory=dict)
    shows: list[Show] = field(default_factory=list)
    opt_outs: set[tuple[str, str | None]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Told:
    """What a shard had of a campaign when it last sent its treasury something about it."""

    directives: int
    """How many of the treasury's directives it had taken."""
    leases: dict[int, int]
    """Day → idle money."""


class UserAudit:
    """One user shard. `degraded` and `late` count what may break caps, and is listed apart."""

    def __init__(
        self, shard: str, partition_of: Callable[[str], int], rules: Rules, findings: Findings
    ) -> None:
        self.shard = shard
        self.rules = rules
        self.findings = findings
        self.shares: dict[str, Share] = {}
        self.people: dict[str, Person] = {}
        self.open: dict[Place, tuple[int, str, int, int]] = {}
        """Reservations: place → deadline, campaign, day, price."""
        self.watermark_ms = 0
        self.told: dict[tuple[str, int], dict[str, Told]] = {}
        """(Treasury, number of a message) → campaign → what the treasury knows of it by that message."""
        self.taken: dict[str, int] = {}
        self.degraded = 0
        self.late = 0
        self.settled: set[Place] = set()
        self._mine = partition_of
        self._where = ""
        self._now_ms = 0
        self._record: dict[str, Any] = {}
        self._returned: dict[tuple[str, int], int] = {}

    def fail(self, rule: str, text: str) -> None:
        """Notes a violation at the present record."""
        self.findings.fail(rule, f"{self._where}: {text}")

    def check(self, holds: bool, rule: str, text: str) -> None:
        """Notes a violation at the present record unless ``holds``."""
        if not holds:
            self.fail(rule, text)

    # --- One record -------------------------------------------------------------------------------------------

    def take(self, height: int, now_ms: int, record: dict[str, Any]) -> None:
        """Replays one record."""
        self._where = f"{self.shard} {height} {record['topic']} {record['offset']}"
        self._now_ms = now_ms
        self._record = record
        self._returned = {}
        before_ms = self.watermark_ms
        person = self._person()
        expected = self._expect(record, person)
        seen: tuple[str, int] | None = None
        due: list[Place] = []
        reserved = 0
        for name, *args in record["deltas"]:
            if due and name != "expire":
                self.fail("expiry in order, before all else", f"{name} came before {due} expired")
                due = []
            if name == "wm":
                self.check(args[0] > self.watermark_ms, "the watermark never goes back", str(args[0]))
                self.watermark_ms = args[0]
                due = self._due()
            elif name == "expire":
                self._expire(due, *args)
            elif name == "seen":
                seen = (args[0], args[1])
                if person is not None:
                    person.requests[args[0]] = args[1]
            elif name == "reserve":
                assert seen is not None
                self._reserve(person, seen, *args)
                reserved += 1
            else:
                self._apply(person, name, args)
        self.check(not due, "expiry in order, before all else", f"{due} did not expire")
        if record["topic"] == "ad-requests":
            self._judge_request(record, person, before_ms, expected, reserved)
        elif expected is not None:
            kind = record["result"]["kind"]
            self.check(kind == expected, "what an impression becomes", f"{kind}, expected {expected}")
        self._check_messages(record)
        self._check_grants(record)

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

    def _person(self) -> Person | None:
        routing = (self._record.get("personal") or {}).get("routing")
        if not routing or self._mine(routing) != int(self.shard[1:]):
            return None
        return self.people.setdefault(routing, Person())

    def _due(self) -> list[Place]:
        found = [place for place, entry in self.open.items() if entry[0] <= self.watermark_ms]
        return sorted(found, key=lambda place: (self.open[place][0], *place))

    # --- Reservations -----------------------------------------------------------------------------------------

    def _expire(
        self, due: list[Place], decision: str, slot: int, campaign: str, day: int, price: int
    ) -> None:
        place = (decision, slot)
        if not due or due[0] != place:
            self.fail("expiry in order, before all else", f"{place} expired, due were {due}")
        else:
            due.pop(0)
        self._close(place, campaign, day, price)
        self._move(campaign, day, price, -price, 0)

    def _close(self, place: Place, campaign: str, day: int, price: int) -> None:
        entry = self.open.pop(place, None)
        self.check(
            entry is not None and entry[1:] == (campaign, day, price),
            "an amount is settled or expired as it was reserved",
            f"{place} closes {(campaign, day, price)}, reserved was {entry}",
        )

    def _reserve(
        self,
        person: Person | None,
        seen: tuple[str, int],
        slot: int,
        campaign: str,
        day: int,
        price: int,
        deadline_ms: int,
        creative: str,
        account: str,
        categories: list[str],
        labels: list[str],
        shown_by_ms: int = 0,
        pays_on: str = "",
    ) -> None:
        share = self.shares[campaign]
        decision, time_ms = seen
        place = (decision, slot)
        request = self._record["personal"]["value"]
        self.check(place not in self.open, "a reservation is made once", str(place))
        self.check(not share.reasons, "a paused campaign is not served", f"{campaign}: {share.reasons}")
        self.check(share.book(day)[0] >= price, "only leased money is reserved", f"{campaign} {share.books}")
        daily = share.by_day or share.data.get("daily_budget_micros") is not None
        own_day = audit_caps.day_of(request["time_ms"], share.zone) if daily else 0
        self.check(day == own_day, "a request draws on its own day", f"{campaign} {day}, not {own_day}")
        self._judge_deadlines(share, request["time_ms"], slot, deadline_ms, shown_by_ms, pays_on)
        least = share.data.get("min_price_micros", share.data.get("price_micros", 0))
        self.check(price >= least, "a price below the least is refused", f"{campaign}: {price} < {least}")
        start, end = share.data.get("start_ms") or 0, share.data.get("end_ms") or 2**62
        self.check(start <= time_ms < end, "only within the flight", f"{campaign} at {time_ms}")
        self._move(campaign, day, -price, price, 0)
        self.open[place] = (deadline_ms, campaign, day, price)
        show = Show(
            time_ms,
            decision,
            slot,
            creative,
            campaign,
            account,
            categories,
            labels,
            request.get("session_id"),
            shown_by_ms if pays_on else deadline_ms,
            day,
            price,
            deadline_ms,
            pays_on or "impression",
        )
        if person is None:
            self.fail("only a person of this shard is served", decision)
            return
        if self._record.get("assumed") is None:
            self._judge_caps(person, show, share)
        else:
            self.degraded += 1
        person.shows.append(show)

    def _judge_deadlines(
        self, share: Share, time_ms: int, slot: int, deadline_ms: int, shown_by_ms: int, pays_on: str
    ) -> None:
        """Money waits for what is paid for, an ad counts until it should have been shown: in a pod from its turn on."""
        rules, by_event = self.rules, {"cpm": "", "cpc": "click", "cpcv": "view"}
        expected = by_event[share.data.get("pricing", "cpm")]
        self.check(pays_on == expected, "what is paid for", f"{pays_on}, expected {expected}")
        own_ms = share.data.get("reservation_ms", 600_000 if pays_on else None)
        longest_ms = rules.dedupe_ms - rules.lateness_ms - rules.late_grace_ms
        life_ms = rules.reservation_ms if own_ms is None else min(own_ms, longest_ms)
        turn_ms = self._turn_ms(slot)
        self.check(
            deadline_ms == time_ms + min(life_ms + turn_ms, longest_ms),
            "a reservation's deadline",
            f"{deadline_ms} of a request at {time_ms}",
        )
        if pays_on:
            self.check(
                shown_by_ms == time_ms + min(rules.reservation_ms + turn_ms, longest_ms),
                "shown by",
                f"{shown_by_ms} of {time_ms}",
            )

    def _turn_ms(self, slot: int) -> int:
        """How long the ads play that come before a slot in its pod."""
        for name, *rest in self._record["deltas"]:
            if name == "pod":
                in_play = [(position[0], position[6]) for position in rest[-1]]
                places = [place for place, _ in in_play]
                if slot in places:
                    return sum(30_000 if ms is None else ms for _, ms in in_play[: places.index(slot)])
        return 0

    def _judge_caps(self, person: Person, show: Show, share: Share) -> None:
        caps = share.data.get("caps", [])
        routing, request = self._record["personal"]["routing"], self._record["personal"]["value"]
        known = request.keys() & {"household_id", "user_id", "device_id"}
        if not known and any(cap.get("window") != "pod" for cap in caps):
            by_session = share.data.get("policies", {}).get("no_identity") == "session" and show.session
            self.check(bool(by_session), "nobody known: campaigns with caps skip", f"{show.campaign}")
        for broken in audit_caps.violations(caps, show, person.shows, self.watermark_ms, share.zone):
            self.fail("caps", f"{show.decision_id} {show.slot} of {routing} at {show.time_ms}: {broken}")
        for scope, value in person.opt_outs:
            against = (
                scope == "all"
                or (scope == "advertiser" and value == show.account)
                or (scope == "category" and value in show.categories)
            )
            self.check(not against, "opt-outs are honoured", f"{show.campaign}: {scope} {value}")

    # --- Everything else that a delta may do ------------------------------------------------------------------

    def _move(self, campaign: str, day: int, lease: int, reserved: int, spent: int) -> None:
        book = self.shares[campaign].book(day)
        book[0] += lease
        book[1] += reserved
        book[2] += spent
        self.check(min(book) >= 0, "no amount is negative", f"{campaign} {day}: {book}")

    def _apply(self, person: Person | None, name: str, args: list[Any]) -> None:
        if name == "settle":
            decision, slot, campaign, day, price, charged = args
            self.check(
                0 <= charged <= price, "at most the reserved price is charged", f"{charged} of {price}"
            )
            self._close((decision, slot), campaign, day, price)
            self._move(campaign, day, price - charged, -price, charged)
            self._billed(person, decision, slot)
        elif name in ("hold", "lapse"):
            self._hold(name, *args)
        elif name in ("late", "owe"):
            decision, slot, campaign, day, amount = args[:5]
            self.late += 1
            self._billed(person, decision, slot)
            if name == "late":
                self._move(campaign, day, -amount, 0, amount)
            else:
                share = self.shares[campaign]
                self.check(share.book(day)[0] < amount, "late is paid where it can be", f"{campaign} {args}")
                share.owed[decision, slot] = (day, amount, args[5])
        elif name == "shown":
            self._shown(person, (args[0], args[1]))
        elif name == "mark":
            for show in self._shows(person, (args[0], args[1])):
                blind = self._record.get("assumed") is not None
                self.check(blind or args[2] not in show.marks, "an event counts once", f"{args}")
                show.marks.add(args[2])
        elif name in ("paid", "unfund"):
            self._pay(name, *args)
        elif name == "opt":
            kind, scope, value = args
            if person is not None:
                (person.opt_outs.discard if kind == "opt-in" else person.opt_outs.add)((scope, value))
        elif name == "erase":
            if person is not None:
                self.people[self._record["personal"]["routing"]] = Person()
        elif name == "define":
            data, zone, treasury, *by_day = args
            known = self.shares.get(data["campaign_id"])
            if known is None:
                known = self.shares[data["campaign_id"]] = Share(data, zone, treasury)
            else:
                self.check(known.treasury == treasury, "a campaign keeps its treasury", data["campaign_id"])
                known.data, known.zone = data, zone
            known.by_day = bool(by_day)
        elif name == "status":
            campaign, _, reasons = args
            share = self.shares[campaign]
            share.reasons = reasons
            share.asks.clear()
            share.denied.clear()
        elif name == "grant":
            campaign, day, amount, asked = args
            self._move(campaign, day, amount, 0, 0)
            if asked:
                self.shares[campaign].asks.discard(day)
        elif name == "deny":
            campaign, day, until_ms = args
            self.check(
                until_ms >= self.watermark_ms + self.rules.ask_cooldown_ms,
                "ask cool-down",
                f"until {until_ms}",
            )
            self.shares[campaign].asks.discard(day)
            self.shares[campaign].denied[day] = until_ms
        elif name == "closed":
            self._close_day(*args)
        elif name == "return":
            campaign, day, amount = args
            self._move(campaign, day, -amount, 0, 0)
            self._returned[campaign, day] = self._returned.get((campaign, day), 0) + amount
        elif name == "asked":
            self._asked(*args)
        elif name == "took":
            self.taken[args[0]] = args[1]

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
        self.check(not share.reasons, "a paused campaign does not ask", campaign)
        self.check(day not in share.asks or bool(share.owed), "one ask at a time", f"{campaign} {day}")
        until_ms = share.denied.get(day, 0)
        self.check(
            self.watermark_ms >= until_ms,
            "ask cool-down",
            f"{campaign} {day} asks at {self.watermark_ms}, denied until {until_ms}",
        )
        share.asks.add(day)

    def _billed(self, person: Person | None, decision: str, slot: int) -> None:
        place = (decision, slot)
        self.check(place not in self.settled, "what is paid for is booked once", str(place))
        self.settled.add(place)
        for show in self._shows(person, place):
            show.billing_ms = SHOWN
            if show.pays_on == "impression":
                show.deadline_ms = SHOWN

    def _shown(self, person: Person | None, place: Place) -> None:
        blind = self._record.get("assumed") is not None
        for show in self._shows(person, place):
            self.check(
                blind or (show.pays_on != "impression" and show.deadline_ms != SHOWN),
                "an impression that moves no money counts once",
                str(place),
            )
            show.deadline_ms = SHOWN

    def _shows(self, person: Person | None, place: Place) -> list[Show]:
        if person is None:
            return []
        return [show for show in person.shows if (show.decision_id, show.slot) == place]

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

    # --- What a record should have been -----------------------------------------------------------------------

    def _expect(self, record: dict[str, Any], person: Person | None) -> str | None:
        """The kind that an impression's record must have; None where another check judges."""
        if record["result"]["kind"] == "poison" or "personal" not in record:
            return None
        value: dict[str, Any] = record["personal"].get("value")
        if record["topic"] == "ad-requests":
            if person is None:
                return "decided"
            first_ms = person.requests.get(value["request_id"])
            known = first_ms is not None and first_ms + self.rules.dedupe_ms > self.watermark_ms
            # Of somebody who was erased meanwhile, or of another person: one name, one reservation.
            known = known or any(decision == value["request_id"] for decision, _ in self.open)
            return None if record.get("assumed") is not None else "duplicate" if known else "decided"
        if record["topic"] != "impressions":
            return None
        if record.get("assumed") is not None:
            return None
        if person is None:
            return "misrouted"
        kind = value.get("type", "impression")
        watermark_ms = self._watermark_after(value["time_ms"])
        place = (value["decision_id"], value["slot"])
        entry = self.open.get(place)
        show = next(reversed(self._shows(person, place)), None)
        if show is None or show.time_ms + self.rules.dedupe_ms <= watermark_ms:
            return "orphan"
        if kind != show.pays_on:
            if kind == "impression":
                return "duplicate" if show.deadline_ms == SHOWN else "counted"
            return "duplicate" if kind in show.marks else kind
        if entry is not None and entry[0] > watermark_ms:
            return "settled"
        if show.billing_ms == SHOWN:
            return "duplicate"
        price = value.get("price_micros")
        charged = show.price if price is None else min(price, show.price)
        share = self.shares[show.campaign]
        lease = share.book(show.day)[0] + sum(
            held for (_, day), held in share.holds.items() if day == show.day
        )
        freed = sum(
            e[3] for e in self.open.values() if e[0] <= watermark_ms and e[1:3] == (show.campaign, show.day)
        )
        return "late_funded" if lease + freed >= charged else "owed"

    def _watermark_after(self, time_ms: int) -> int:
        """Where an event that is never refused leaves the watermark."""
        if time_ms > self._now_ms + self.rules.skew_ms:
            return self.watermark_ms
        return max(self.watermark_ms, time_ms - self.rules.lateness_ms)

    def _judge_request(
        self,
        record: dict[str, Any],
        person: Person | None,
        before_ms: int,
        expected: str | None,
        reserved: int,
    ) -> None:
        kind = record["result"]["kind"]
        decisions = [body for topic, _, body in record.get("out", ()) if topic == "decisions"]
        if kind == "poison":
            return
        self.check(expected in (None, kind), "a request id is decided once", f"{kind}, expected {expected}")
        self.check(
            len(decisions) == (kind == "decided"),
            "every request but a duplicate gets one decision",
            f"{kind}",
        )
        request = record["personal"]["value"]
        if not decisions:
            return
        decision = decisions[0]
        filled = [slot for slot in decision["slots"] if slot.get("winner") is not None]
        self.check(len(filled) == reserved, "every filled slot is reserved", str(decision))
        refusals = {slot.get("no_fill") for slot in decision["slots"]} - {None, "no_candidate"}
        time_ms = request["time_ms"]
        refusal = None
        if person is None:
            refusal = "misrouted"
        elif time_ms < before_ms:
            refusal = "late"
        elif time_ms > self._now_ms + self.rules.skew_ms:
            refusal = "future"
        elif "deadline_ms" in request and request["deadline_ms"] < self._now_ms:
            refusal = "deadline"
        self.check(
            refusals == ({refusal} - {None}), "refused for its time", f"{refusals}, expected {refusal}"
        )
        self._judge_pod(request, filled)
        for loser in decision.get("losers", ()):
            self._judge_loser(loser, filled)

    def _judge_pod(self, request: dict[str, Any], filled: list[dict[str, Any]]) -> None:
        """What several ads of one request may be together."""
        pod, slots = request.get("pod"), request.get("slots")
        if pod is None and slots is None:
            return
        offered = {c["creative_id"]: c for c in request["candidates"]}
        creatives = [slot["winner"]["creative_id"] for slot in filled]
        self.check(len(creatives) == len(set(creatives)), "no creative twice in a pod", f"{creatives}")
        domains = [offered[name].get("advertiser_domain") for name in creatives]
        apart = pod is None or pod["separate_advertisers"]
        if apart and None not in domains:
            self.check(len(domains) == len(set(domains)), "advertisers are apart in a pod", f"{domains}")
        if pod is None:
            return
        dynamic = [slot["winner"] for slot in filled if slot["slot"] >= (slots or 0)]
        self.check(len(dynamic) <= pod["max_ads"], "no more ads than a pod takes", f"{dynamic}")
        length_ms = sum(winner["duration_ms"] for winner in dynamic)
        self.check(length_ms <= pod["total_duration_ms"], "a pod is no longer than its time", f"{dynamic}")
        for winner in dynamic:
            data = self.shares[winner["campaign_id"]].data
            rate = data["expected_rate_ppm"] if "pricing" in data else 1_000_000
            value = winner["price_micros"] * rate // 1_000_000
            self.check(value >= pod["floor_micros"], "no ad below a pod's floor", f"{winner}")

    def _judge_loser(self, loser: dict[str, Any], filled: list[dict[str, Any]]) -> None:
        share = self.shares.get(loser["campaign_id"])
        codes = {reason["code"] for reason in loser["reasons"]}
        paused = set() if share is None else set(share.reasons)
        self.check("exhausted" not in codes or "exhausted" in paused, "no lease is not exhausted", str(loser))
        self.check("outbid" not in codes or bool(filled), "outbid by somebody", str(loser))

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
            told = dict(self.told.get((destination, number - 1), {}))
            for item in payload["items"]:
                name = item["campaign_id"]
                books = self.shares[name].books if name in self.shares else {}
                leases = {day: book[0] for day, book in books.items() if book[0]}
                told[name] = Told(self.taken.get(destination, 0), leases)
            self.told[destination, number] = told
        self.check(not self._returned, "what is returned arrives", f"{self._returned} is in no message")

    # --- In the end -------------------------------------------------------------------------------------------

    def finish(self, now_ms: int) -> None:
        """What must be so once everything has come to rest."""
        self._where = f"{self.shard} in the end"
        self.check(not self.open, "every reservation ends", str(self.open))
        due_ms = now_ms - self.rules.lateness_ms - _SLACK_MS
        for name, share in self.shares.items():
            stale = [entry for entry in share.owed.values() if entry[2] <= due_ms]
            self.check(not stale, "a late impression is paid or given up once", f"{name} still owes {stale}")
            for day, (lease, _, _) in share.books.items():
                over = day > 0 and audit_caps.day_end_ms(day, share.zone) <= due_ms
                self.check(
                    not (lease and over), "an old day's idle money is returned", f"{name} {day}: {lease}"
                )
                self.check(
                    not (lease and share.reasons), "paused: idle money is returned", f"{name}: {lease}"
                )
