"""The user shard: ad requests become decisions, impressions become spend, directives become leases.

The state is people (`history`), the shard's share of each campaign (`leases`), open reservations and links.
Every change of it is a delta, applied by exactly one method of `UserState`; this module decides which.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from adgovernor.contracts import topics
from adgovernor.contracts.events import (
    Click,
    CompletedView,
    Erasure,
    Impression,
    OptIn,
    OptOut,
    Preference,
    SessionUpdate,
)
from adgovernor.contracts.ledger import Draft, ReadRecord
from adgovernor.contracts.money import sayable
from adgovernor.contracts.requests import AdRequest, AnyRequest, PlainRequest
from adgovernor.core import breaks, inputs, links, podevents
from adgovernor.core.history import SHOWN, Person, Serving
from adgovernor.core.lateness import late_until_ms
from adgovernor.core.leases import CampaignShare
from adgovernor.core.machine import Input, Poison, dead_letter
from adgovernor.core.person_events import NOTHING_KNOWN, PersonEvents
from adgovernor.core.rules import Rules
from adgovernor.core.selection import Selector
from adgovernor.core.user_state import open_key

_REQUESTS: Final = (PlainRequest, AdRequest)
_SALE_MS: Final = 360_000
"""What is free again later than so long before its day or flight ends may not be sold any more."""
_REMEMBERED: Final = 7
"""An open reservation has so many members, and one more where nobody remembers it."""


class UserShard(PersonEvents):
    """The machine (see `machine.Machine`) of one user shard."""

    def __init__(self, shard: str, rules: Rules) -> None:
        super().__init__(shard, rules)
        self._selector = Selector(self)
        self._items: dict[str, dict[str, dict[str, Any]]] = {}

    # ------------------------------------------------------------------ what the runtime asks

    def read(self, topic: str, offset: int, key: bytes | None, value: bytes | None) -> Input:
        """See `machine.Machine.read`."""
        return inputs.read(topic, offset, key, value)

    def missing(self, events: Iterable[Input]) -> list[str]:
        """See `machine.Machine.missing`."""
        persons = self.persons
        keys = dict.fromkeys([key for event in events if (key := event.state_key) and key not in persons])
        return [key for key in keys if self._is_mine(key)]

    def missing_for_fold(self, records: Iterable[ReadRecord]) -> list[str]:
        """See `machine.Machine.missing_for_fold`."""
        keys: dict[str, None] = {}
        for record in records:
            routing = record.personal.get("routing")
            if routing and routing not in self.persons and record.data["deltas"]:
                keys[routing] = None
        return [key for key in keys if self._is_mine(key)]

    def open_block(self, height: int, now_ms: int, drained: bool) -> Draft | None:
        """See `machine.Machine.open_block`."""
        self.begin_fold(height, now_ms, drained)
        draft = self._begin({"kind": "tick"})
        if self.configured != self.rules:
            draft.assumed = {"rules": self.configured.as_dict()}
            self.emit(["rules", self.configured.as_dict()])
        if drained:
            self._advance(now_ms - self.rules.lateness_ms)
            if now_ms >= self.last_report_ms + self.rules.report_interval_ms:
                self._tick_reports()
        self._flush()
        if not draft.deltas:
            self.index -= 1
            return None
        return draft

    def due(self, now_ms: int) -> bool:
        """See `machine.Machine.due`."""
        if self.configured != self.rules:
            return True
        target = max(self.watermark_ms, now_ms - self.rules.lateness_ms)
        if min(self.next_deadline_ms(), self.next_hold_ms(), self.next_pod_ms()) <= target:
            return True
        if now_ms < self.last_report_ms + self.rules.report_interval_ms:
            return False
        return self._agenda.next_ms() <= target

    def decide(self, event: Input, *, unknown: bool = False, assumed: dict[str, Any] | None = None) -> Draft:
        """See `machine.Machine.decide`."""
        draft = self._begin({})
        self._routing = event.routing
        self._session = event.session
        self._ids = event.ids
        what = event.event
        if isinstance(what, _REQUESTS):
            self._request(draft, what, event, unknown, assumed)
        elif isinstance(what, Poison):
            draft.result = {"kind": "poison", "reason": what.reason}
            # The explanation may quote the input, so it is in the message and not in the ledger's open part.
            draft.out.append(dead_letter(event.topic, what.reason, what.message))
        elif isinstance(what, Impression | Click | CompletedView):
            self._engagement(draft, what, event, unknown, assumed)
        elif isinstance(what, OptOut | OptIn | Preference):
            self._opt(draft, what, event, unknown, assumed)
        elif isinstance(what, Erasure):
            self._erase(draft, what, event, unknown)
        elif isinstance(what, SessionUpdate):
            self._visit(draft, what, event, unknown)
        else:
            assert isinstance(what, dict)
            self._directive(draft, what, event.offset)
        if self._items:
            self._flush()
        return draft

    # ------------------------------------------------------------------ shared steps

    def _begin(self, result: dict[str, Any]) -> Draft:
        self.index += 1
        self._routing = None
        self._session = None
        self._ids = None
        self._nobody = False
        self._draft = draft = Draft(result)
        return draft

    def publish(self, topic: str, key: str, body: dict[str, Any]) -> None:
        """Says something in public, under a key that is nobody's name."""
        self._draft.out.append([topic, key, body])

    def _advance(self, watermark_ms: int) -> None:
        """Moves the watermark, and lets expire what is then due, before anything else is decided."""
        if watermark_ms <= self.watermark_ms:
            return
        self.emit(["wm", watermark_ms])
        if self.next_deadline_ms() <= watermark_ms:
            self._expire()
        while (over := self.pop_hold()) is not None:
            self.emit(["lapse", *over])
        if self.open_pods:
            podevents.abandon_due(self)

    def _expire(self) -> None:
        """Ends the reservations that are due, then keeps back what late events are to be expected for."""
        expired = []
        while (due := self.pop_due()) is not None:
            expired.append(due)
            self.emit(["expire", *due[1:]])
        for deadline_ms, _, _, campaign, day, price in expired:
            until_ms = late_until_ms(deadline_ms, self.rules.late_grace_ms)
            # An event so late that it is not waited for needs nothing kept back.
            if until_ms > self.watermark_ms and self.keeps_back(campaign, day, until_ms, price):
                self.emit(["hold", campaign, day, until_ms, price])
                share = self.shares[campaign]
                if share.is_few(price) and share.is_lost_after(day, until_ms + _SALE_MS):
                    days = self._item(share).setdefault("risk", [])
                    if day not in days:
                        days.append(day)

    def _take_from_holds(self, share: CampaignShare, day: int, amount: int) -> None:
        """What was kept back for late events goes to one, oldest first."""
        for until_ms, held_day in sorted(share.holds):
            if held_day == day and amount > 0:
                taken = min(amount, share.holds[until_ms, day])
                self.emit(["lapse", share.campaign.campaign_id, day, until_ms, taken])
                amount -= taken

    # ------------------------------------------------------------------ ad requests

    def _request(
        self, draft: Draft, request: AnyRequest, event: Input, unknown: bool, assumed: dict[str, Any] | None
    ) -> None:
        person = self._person(event.routing, unknown)
        if person is None:
            draft.result = {"kind": "decided"}
            self._no_fill(draft, request, "misrouted")
            return
        degraded = person.ops is not None or assumed is not None
        if degraded:
            # What is known of the person is an input of this decision; an audit uses it instead of the truth.
            draft.assumed = (
                assumed if assumed is not None else {"history": (person.encode() or b"{}").decode()}
            )
            if assumed is not None:
                person = Person.decode(assumed["history"].encode())
        repeated = self._decided_before(request, person)
        if repeated is not None:
            draft.result = {"kind": "duplicate", "height": repeated[0], "index": repeated[1]}
            return
        draft.result = {"kind": "decided"}
        refusal = self._take_time(request)
        if isinstance(request, AdRequest) and request.consent is not None and not request.consent.storage:
            # Decided as somebody never seen; what they once refused stands.
            self.emit(["nobody"])
            person, known = Person(), person
            person.opt_outs, person.allows = known.opt_outs, known.allows
        self.emit(["seen", request.request_id, min(request.time_ms, self.now_ms + self.rules.skew_ms)])
        if refusal is not None:
            self._no_fill(draft, request, refusal)
            return
        body = self._selector.select(request, event.routing, person, degraded)
        draft.out.append([topics.DECISIONS, None, body])
        person.pack()

    def _decided_before(self, request: AnyRequest, person: Person) -> tuple[int, int] | None:
        """Height and index of the decision that a request repeats."""
        first = person.requests.get(request.request_id)
        if first is not None and first[0] + self.rules.dedupe_ms > self.watermark_ms:
            return first[1], first[2]
        # The person's own, where their history is not known, or another person's of the same id: two
        # reservations of one name would be one, and its money would be lost; two pods of one name as well.
        return self.decision_open(request.request_id)

    def _take_time(self, request: AnyRequest) -> str | None:
        """Moves the watermark as far as a request's time allows; why nothing of the request is filled, or None."""
        time_ms = request.time_ms
        if time_ms < self.watermark_ms:
            return "late"
        if time_ms > self.now_ms + self.rules.skew_ms:
            return "future"
        self._advance(time_ms - self.rules.lateness_ms)
        if request.deadline_ms is not None and request.deadline_ms < self.now_ms:
            return "deadline"
        return "too_large" if len(request.candidates) > self.rules.most_candidates else None

    def _no_fill(self, draft: Draft, request: AnyRequest, code: str) -> None:
        draft.out.append([topics.DECISIONS, None, self.refused(request, code)])

    def refused(self, request: AnyRequest, code: str) -> dict[str, Any]:
        """The body of a decision that fills nothing."""
        slots = range(breaks.slots_of(request))
        body: dict[str, Any] = {
            "decision_id": request.request_id,
            "time_ms": request.time_ms,
            "slots": [{"slot": slot, "no_fill": code} for slot in slots],
        }
        if self._draft.assumed is not None:
            body["degraded"] = True
        large = breaks.oversized(request, self.rules) if code == "too_large" else None
        if large is not None:
            body["refused"] = dict(zip(("field", "given", "most"), large, strict=True))
        return body

    # ------------------------------------------------------------------ impressions, clicks, views

    def _engagement(
        self,
        draft: Draft,
        what: Impression | Click | CompletedView,
        event: Input,
        unknown: bool,
        assumed: dict[str, Any] | None,
    ) -> None:
        person = self._about(draft, event, unknown)
        if person is None:
            return
        serving = None if assumed is not None else person.find(what.decision_id, what.slot)
        if serving is not None and serving.time_ms + self.rules.dedupe_ms <= self.watermark_ms:
            serving = None
        blind = serving is None and (person.ops is not None or assumed is not None)
        if blind:
            # Whether this person was served the ad cannot be known; an audit must not know it either.
            draft.assumed = NOTHING_KNOWN
        reservation = self._reservation(what, serving, blind)
        if reservation is not None:
            if (reservation[6] or "impression") != what.type:
                self._unpaid_event(draft, what, serving)
            else:
                if reservation[6]:
                    self._mark_event(what, serving)
                self._settle(draft, what, reservation)
        elif serving is None:
            draft.result = {"kind": "orphan", "event": what.type}
            return
        elif serving.pays_on != what.type:
            self._unpaid_event(draft, what, serving)
        elif serving.billing_deadline_ms == SHOWN:
            draft.result = {"kind": "duplicate", "event": what.type}
            return
        else:
            self._mark_event(what, serving)
            self._pay_late(draft, what, serving)
        if what.decision_id in self.open_pods and isinstance(what, Impression):
            # Each filled position once: what does not count has returned above, or was shown before.
            podevents.shown(self, what.decision_id, what.slot, what.time_ms)

    def _reservation(
        self, what: Impression | Click | CompletedView, serving: Serving | None, blind: bool
    ) -> tuple[Any, ...] | None:
        """The open reservation that an event is of: the person's own, one that nobody remembers, or, where the person
        is not known (``blind``), whichever has the name."""
        reservation = self.open.get(open_key(what.decision_id, what.slot))
        if reservation is None or blind or len(reservation) > _REMEMBERED:
            return reservation
        own = serving is not None and serving.billing_deadline_ms == reservation[0]
        return reservation if own else None

    def _unpaid_event(
        self, draft: Draft, what: Impression | Click | CompletedView, serving: Serving | None
    ) -> None:
        """An event that moves no money: it counts for caps, once."""
        place = [what.decision_id, what.slot]
        if isinstance(what, Impression):
            if serving is not None and serving.deadline_ms == SHOWN:
                draft.result = {"kind": "duplicate", "event": what.type}
                return
            self.emit(["shown", *place])
            draft.result = {"kind": "counted", "event": what.type}
        elif self._mark_event(what, serving):
            draft.result = {"kind": what.type, "event": what.type}
        else:
            draft.result = {"kind": "duplicate", "event": what.type}

    def _mark_event(self, what: Impression | Click | CompletedView, serving: Serving | None) -> bool:
        """Remembers a click or completed view; whether it is the first of its serving, as far as is known."""
        if isinstance(what, Impression) or (serving is not None and serving.marked(what.type) is not None):
            return False
        self.emit(["mark", what.decision_id, what.slot, what.type, what.time_ms])
        return True

    def _settle(
        self, draft: Draft, what: Impression | Click | CompletedView, reservation: tuple[Any, ...]
    ) -> None:
        """Reserved money is spent."""
        _, campaign, day, price, *_ = reservation
        charged = price if what.price_micros is None else min(price, what.price_micros)
        self.emit(["settle", what.decision_id, what.slot, campaign, day, price, charged])
        draft.result = {"kind": "settled", "campaign": campaign, "day": day, "charged_micros": charged}
        if what.price_micros is not None and what.price_micros > price:
            draft.result["flag"] = "price_above_reservation"
        if charged < price:
            self._ask(self.shares[campaign], day, 0)

    def _pay_late(self, draft: Draft, what: Impression | Click | CompletedView, serving: Serving) -> None:
        """The reservation has expired: pay from what is kept back, from the lease, or later."""
        share = self.shares[serving.campaign]
        price = serving.price_micros
        charged = price if what.price_micros is None else min(price, what.price_micros)
        place = [what.decision_id, what.slot, serving.campaign, serving.day, charged]
        if share.holds:
            self._take_from_holds(share, serving.day, charged)
        if share.lease(serving.day) >= charged:
            self.emit(["late", *place])
            outcome = "late_funded"
        else:
            self.emit(["owe", *place, serving.time_ms + self.rules.dedupe_ms])
            outcome = "owed"
            # An ask under way may wait for its turn; this one cannot.
            self._ask(share, serving.day, 0, again=True)
        draft.result = {
            "kind": outcome,
            "campaign": serving.campaign,
            "day": serving.day,
            "charged_micros": charged,
        }
        self._ask(share, serving.day, 0)

    # ------------------------------------------------------------------ money: directives, asks, reports

    def _directive(self, draft: Draft, message: dict[str, Any], offset: int) -> None:
        if self._taken("directive", draft, message, offset):
            for item in message["payload"]["items"]:
                self._obey(draft, message["source"], item)

    def _obey(self, draft: Draft, source: str, item: dict[str, Any]) -> None:
        what = item["do"]
        campaign = item["campaign_id"]
        share = self.shares.get(campaign)
        if what == "define":
            if share is not None and share.treasury != source:
                draft.result.setdefault("refused", []).append(campaign)
                return
            by_day = [True] if item.get("by_day") else []
            self.emit(["define", item["campaign"], item["time_zone"], source, *by_day])
        elif share is None or share.treasury != source:
            # Another treasury's campaign of the same id: its money goes straight back and its recalls are
            # answered, so that it never waits for what this shard does not have.
            draft.result.setdefault("refused", []).append(campaign)
            if what in {"grant", "recall"}:
                self._bounce(source, campaign, item)
        elif what == "grant":
            self.emit(["grant", campaign, item["day"], item["amount_micros"], item["asked"]])
            self._pay_owed(share, item["day"])
            if share.owed_on(item["day"]):
                self._ask(share, item["day"], 0)
        elif what == "deny":
            self.emit(["deny", campaign, item["day"], self.watermark_ms + self.rules.ask_cooldown_ms])
        elif what == "recall":
            self._return(share, item["round"], idle_only=False)
        elif what == "risk":
            self._take_risk(share, item["day"])
        else:
            assert what == "status", f"unknown directive {what}"
            until = [item["day"]] if "day" in item else []
            self.emit(["status", campaign, item["episode"], item["reasons"], *until])
            if share.paused:
                self._return(share, None, idle_only=True)
            for day in sorted({entry[2] for entry in share.owed}):
                self._ask(share, day, 0)

    def _take_risk(self, share: CampaignShare, day: int) -> None:
        """Sells one price again whose ad may still be shown: the one that would be free again last."""
        until_ms = max((until_ms for until_ms, held_day in share.holds if held_day == day), default=0)
        if until_ms:
            amount = min(share.one_price, share.holds[until_ms, day])
            self.emit(["lapse", share.campaign.campaign_id, day, until_ms, amount])

    def _pay_owed(self, share: CampaignShare, day: int) -> None:
        for entry in [entry for entry in share.owed if entry[2] == day]:
            decision_id, slot, _, amount, until_ms = entry
            place = [decision_id, slot, share.campaign.campaign_id, day, amount]
            if until_ms <= self.watermark_ms:
                self.emit(["unfund", *place])
            elif share.lease(day) >= amount:
                self.emit(["paid", *place])
            else:
                return

    def _ask(self, share: CampaignShare, day: int, price: int, *, again: bool = False) -> None:
        """Asks for money where there is too little for ``price``, for the low-water mark, or for what is owed."""
        lease, wanted = share.lease(day), max(price, share.low_water())
        if lease >= wanted and not share.owed:
            return
        paused = share.paused_on(day)
        if paused and not share.owed:
            return
        if (day in share.asks and not again) or self.watermark_ms < share.denied.get(day, 0):
            return
        owed = share.owed_on(day)
        # Nothing is sold in a pause, or after the day; what was shown is still paid for.
        over = paused or share.is_over(day, self.watermark_ms)
        if not owed and (over or lease >= wanted):
            return
        if over:
            level = lease
        elif price > lease:
            level = price
        else:
            # Nothing is refused yet: one price more than there is will do, or one price where there is none.
            level = share.one_price + (lease if lease >= share.one_price else 0)
        campaign = share.campaign.campaign_id
        self.emit(["asked", campaign, day, price])
        ask = {"day": day, "level": sayable(level + owed), "empty": lease < share.one_price}
        if owed:
            ask["owed"] = owed
        self._item(share).setdefault("asks", []).append(ask)

    def ask_for(self, share: CampaignShare, day: int, price: int) -> None:
        """What a decision found lacking."""
        self._ask(share, day, price)

    def ask_ahead(self, share: CampaignShare, day: int, price: int) -> Draft:
        """Asks for money before a request lacks it (see `direct`)."""
        draft = self._begin({"kind": "tick"})
        self._ask(share, day, price)
        self._flush()
        return draft

    def _item(self, share: CampaignShare) -> dict[str, Any]:
        """The campaign's part of the report that goes out with this record; money that moved rides on it."""
        campaign = share.campaign.campaign_id
        items = self._items.setdefault(share.treasury, {})
        if campaign not in items:
            items[campaign] = {"campaign_id": campaign}
        return items[campaign]

    def _idle(self, share: CampaignShare, watermark_ms: int) -> list[int]:
        """The days with money that this shard has no more use for."""
        return [
            day
            for day in sorted(share.books)
            if share.books[day].lease > 0 and share.idles_from_ms(day) <= watermark_ms
        ]

    def _return(self, share: CampaignShare, round_id: int | None, *, idle_only: bool) -> None:
        campaign = share.campaign.campaign_id
        item = self._item(share)
        days = self._idle(share, self.watermark_ms) if idle_only else sorted(share.books)
        for day in days:
            amount = share.lease(day)
            if amount:
                self.emit(["return", campaign, day, amount])
                item.setdefault("returned", []).append([day, amount])
        if round_id is not None:
            item["round"] = round_id

    def _bounce(self, source: str, campaign: str, order: dict[str, Any]) -> None:
        item = self._items.setdefault(source, {}).setdefault(campaign, {"campaign_id": campaign})
        if order["do"] == "recall":
            item["round"] = order["round"]
        else:
            item.setdefault("returned", []).append([order["day"], order["amount_micros"]])

    def _tick_reports(self) -> None:
        watermark_ms = self.watermark_ms
        for campaign in self._agenda.take(watermark_ms):
            share = self.shares[campaign]
            for entry in _unpaid(share, watermark_ms):
                self.emit(["unfund", entry[0], entry[1], campaign, entry[2], entry[3]])
            if self._idle(share, watermark_ms):
                self._return(share, None, idle_only=True)
            elif share.changed:
                self._item(share)
            for day, closes_ms in share.settling_days(self.rules).items():
                if closes_ms <= watermark_ms:
                    self.emit(["closed", campaign, day])
        if self._items:
            self.emit(["reported_at", self.now_ms])

    def _flush(self) -> None:
        """Sends what the record has to report: one message a treasury."""
        if not self._items:
            return
        for treasury in sorted(self._items, key=topics.partition_of_shard):
            items = self._items[treasury]
            for campaign, item in items.items():
                share = self.shares.get(campaign)
                if share is not None and share.treasury == treasury and share.changed:
                    item["books"] = share.rows(share.changed)
                    self.emit(["reported", campaign])
            payload: dict[str, Any] = {"watermark_ms": self.watermark_ms, "items": list(items.values())}
            prompt = self.fates.said(self.rules.late_prior_ppm)
            if prompt:
                payload["prompt"] = prompt
            self._draft.send.append(links.next_message(self.links, treasury, payload))
            self.touch_core()
        self._items = {}


def _unpaid(share: CampaignShare, watermark_ms: int) -> list[list[Any]]:
    """What is owed and can be paid no more."""
    return [entry for entry in share.owed if entry[4] <= watermark_ms]
