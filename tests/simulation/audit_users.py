"""The auditor's own replay of a user shard: what each record was allowed to do, given the records before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation import audit_caps, audit_people
from tests.simulation.audit_caps import SHOWN, Show
from tests.simulation.audit_chain import Findings
from tests.simulation.audit_people import Person
from tests.simulation.audit_shares import Place, Share, ShareAudit

from adgovernor.core.rules import Rules


class UserAudit(ShareAudit):
    """One user shard. `degraded` and `late` count what may break caps, and is listed apart."""

    def __init__(
        self, shard: str, partition_of: Callable[[str], int], rules: Rules, findings: Findings
    ) -> None:
        super().__init__(shard, rules, findings)
        self.people: dict[str, Person] = {}
        self.open: dict[Place, tuple[int, str, int, int]] = {}
        """Reservations: place → deadline, campaign, day, price."""
        self.waiting: set[tuple[str, int | None]] = set()
        """Pods that wait for impressions: decision and number."""
        self.forgotten: dict[Place, str] = {}
        """Reservations of people of whom nothing may be kept, and what each is paid on."""
        self._beside: list[Show] = []
        """What of such people the request at hand has reserved."""
        self.degraded = 0
        self.late = 0
        self.settled: set[Place] = set()
        self._mine = partition_of
        self._now_ms = 0

    # --- One record -------------------------------------------------------------------------------------------

    def take(self, height: int, now_ms: int, record: dict[str, Any]) -> None:
        """Replays one record."""
        self._where = f"{self.shard} {height} {record['topic']} {record['offset']}"
        self._now_ms = now_ms
        self._record = record
        self._returned = {}
        self._beside = []
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
            elif name == "rules":
                self.rules = Rules.from_dict(args[0])
            elif name == "seen":
                seen = (args[0], args[1])
                if person is not None and audit_people.remembered(record["personal"]["value"]):
                    person.requests[args[0]] = args[1]
            elif name == "reserve":
                assert seen is not None
                self._reserve(person, seen, *args)
                reserved += 1
            elif name == "pod":
                assert seen is not None
                if args[-1]:
                    self.waiting.add((seen[0], args[0]))
            elif name == "pod_end":
                self.waiting.remove((args[0], args[1]))
            else:
                self._apply(person, name, args)
        self.check(not due, "expiry in order, before all else", f"{due} did not expire")
        if record["topic"] == "ad-requests":
            self._judge_request(record, person, before_ms, expected, reserved)
        elif record["topic"] == "user-events":
            self._hear(record, person)
        elif expected is not None:
            kind = record["result"]["kind"]
            self.check(kind == expected, "what an impression becomes", f"{kind}, expected {expected}")
        self._check_messages(record)
        self._check_grants(record)

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
        self.forgotten.pop(place, None)
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
        self.check(
            not share.paused_on(day), "a paused campaign is not served", f"{campaign} {day}: {share.reasons}"
        )
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
        kept = audit_people.remembered(request)
        show = Show(
            time_ms,
            decision,
            slot,
            creative,
            campaign,
            account,
            categories,
            labels,
            request.get("session_id") if kept else None,
            shown_by_ms if pays_on else deadline_ms,
            day,
            price,
            deadline_ms,
            pays_on or "impression",
            audit_people.identities_of(request),
        )
        if person is None:
            self.fail("only a person of this shard is served", decision)
            return
        before = person.shows if kept else self._beside
        if self._record.get("assumed") is None:
            self._judge_person(person, show, share, before)
        else:
            self.degraded += 1
        if not kept:
            self.forgotten[place] = show.pays_on
        if not kept or self._record.get("assumed") is None:
            # Where it is rightly decided again (see `_expect`) nobody remembers it: a person was erased, say.
            self.settled.discard(place)
        before.append(show)

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

    def _judge_person(self, person: Person, show: Show, share: Share, before: list[Show]) -> None:
        caps = share.data.get("caps", [])
        policies = share.data.get("policies", {})
        routing, request = self._record["personal"]["routing"], self._record["personal"]["value"]
        self.check(
            not audit_people.unknown_to_caps(caps, request, policies),
            "nobody known: campaigns with caps skip",
            f"{show.campaign} in {show.decision_id}",
        )
        for broken in audit_people.broken_caps(caps, request, show, before, self.watermark_ms, share.zone):
            self.fail("caps", f"{show.decision_id} {show.slot} of {routing} at {show.time_ms}: {broken}")
        self.check(
            not person.refuses(show.account, show.categories),
            "what people refuse is honoured",
            f"{show.campaign} of {show.account}, {show.categories}: {person.words}",
        )
        self.check(
            audit_people.personal(request) or not policies.get("personalised", False),
            "personalised campaigns need consent",
            f"{show.campaign} in {show.decision_id}",
        )

    def _hear(self, record: dict[str, Any], person: Person | None) -> None:
        if person is not None and record["result"]["kind"] != "poison":
            person.hear(record["personal"]["value"])

    # --- Everything else that a delta may do ------------------------------------------------------------------

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
            campaign, _, reasons, *until = args
            share = self.shares[campaign]
            share.reasons = reasons
            share.paused_day = until[0] if until else 0
            about_days = set(reasons) <= {"day", "account_day"}
            self.check(not until or about_days, "only a day's pause ends with it", f"{campaign}: {reasons}")
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
            # Of somebody who was erased meanwhile, or of another person: one name, one reservation, one pod.
            known = known or any(name == value["request_id"] for name, _ in (*self.open, *self.waiting))
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
        if place in self.forgotten and entry is not None and entry[0] > watermark_ms:
            pays_on = self.forgotten[place]
            return "settled" if kind == pays_on else "counted" if kind == "impression" else kind
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
        refusals = {slot.get("no_fill") for slot in decision["slots"]} - {None, "no_candidate", "too_far"}
        for slot in filled:
            # A break comes at its place in the programme, or later by the ads that play before it.
            self.check(
                slot.get("offset_ms", 0) + self.rules.reservation_ms <= self.rules.dedupe_ms,
                "a break that comes when its decision is forgotten is not sold",
                str(slot),
            )
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
            if person is not None and record.get("assumed") is None:
                self._judge_refusal(person, request, loser)

    def _judge_refusal(self, person: Person, request: dict[str, Any], loser: dict[str, Any]) -> None:
        """Nobody is said to have refused what they did not refuse."""
        share = self.shares.get(loser["campaign_id"])
        codes = {reason["code"] for reason in loser["reasons"]}
        if share is None or not codes & {"opted_out", "no_consent"}:
            return
        candidate = request["candidates"][loser["candidate"]]
        categories = [*share.data.get("categories", ()), *candidate.get("categories", ())]
        self.check(
            "opted_out" not in codes or person.refuses(share.data["account_id"], categories),
            "the most specific word decides",
            f"{loser}: {person.words}",
        )
        self.check(
            "no_consent" not in codes or not audit_people.personal(request), "consent is asked", str(loser)
        )

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

    # --- In the end -------------------------------------------------------------------------------------------

    def finish(self, now_ms: int) -> None:
        """What must be so once everything has come to rest."""
        self._where = f"{self.shard} in the end"
        self.check(not self.open, "every reservation ends", str(self.open))
        self._finish_shares(now_ms)
        self.check(not self.forgotten, "every reservation ends", str(self.forgotten))
