"""The state of a user shard, and what each delta does to it. Nothing else changes it.

Deltas (first word → what follows). Amounts are micros, times ms.

    rules        {parameters}                                  the rules in force from here on
    wm           watermark
    seen         request id, time                              a request is remembered
    reserve      slot, campaign, day, price, deadline, creative, account, [categories], [labels]
                 (, deadline of the impression, event paid for)
                                                               of the request seen just before: lease → reserved
    expire       decision id, slot, campaign, day, price       reserved → lease
    hold         campaign, day, until, amount                  lease → reserved: of what expired, for late events
    lapse        campaign, day, until, amount                  of that, reserved → lease
    settle       decision id, slot, campaign, day, price, charged   reserved → spent, the rest → lease
    late         decision id, slot, campaign, day, amount      lease → spent
    owe          decision id, slot, campaign, day, amount, until    remembered, to be paid by a grant
    paid         decision id, slot, campaign, day, amount      owed; lease → spent
    unfund       decision id, slot, campaign, day, amount      owed, never paid: over-delivery
    shown        decision id, slot                             an impression that is not what is paid for
    mark         decision id, slot, event, time                clicked, or seen to its end
    opt          opt-out | opt-in | allow | neither, scope, value
    nobody                                                    the rest of the record is remembered of nobody
    erase                                                     all that is remembered of the person is forgotten
    took         source, number, hash                          a side message was taken
    define       {campaign}, time zone, treasury(, whether its account has a daily budget)
    status       campaign, episode, [reasons](, day)           paused for these, up to this day; none: resumed
    grant        campaign, day, amount, asked                  → lease
    deny         campaign, day, watermark of the next ask
    return       campaign, day, amount                         lease → treasury
    asked        campaign, day, the price that was lacking (0: only the low-water mark was missed)
    closed       campaign, day                                 settled long ago: its spend goes into a sum
    reported     campaign                                      its changed books ride on this record's message
    reported_at  clock

Those of pods are in `podstate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, Final

from adgovernor.contracts.ledger import Draft
from adgovernor.contracts.money import sayable
from adgovernor.core import person_ops
from adgovernor.core.agenda import Agenda
from adgovernor.core.history import NEVER, Person
from adgovernor.core.lateness import Fates, late_until_ms
from adgovernor.core.leases import CampaignShare, campaign_of
from adgovernor.core.machine import USERS
from adgovernor.core.podstate import PodStates

_COUNTS_PROMPT: Final = 6
"""From these rules on it is counted how many events come in time."""


def open_key(decision_id: str, slot: int) -> str:
    """The name of a reservation."""
    return f"{slot}|{decision_id}"


class UserState(PodStates):
    """People, shares of campaigns, open reservations, pods, links."""

    def __init__(self, shard: str) -> None:
        super().__init__(shard)
        self.last_report_ms = 0
        self.shares: dict[str, CampaignShare] = {}
        self._agenda = Agenda(self._due_ms, self._settled_ms)
        """Campaigns by when their shares have something to report, and by when a day of theirs can be closed."""
        self.persons: dict[str, Person] = {}
        """Least recently used first."""
        self.open: dict[str, tuple[Any, ...]] = {}
        """Open reservations: name → (deadline, campaign, day, price, height and index of the decision, the event
        paid for where it is not the impression(, whether nobody remembers it))."""
        self.open_requests: dict[str, tuple[int, int, int]] = {}
        """Decision id → (how many of its reservations are open, height, index)."""
        self._deadlines: list[tuple[int, str, int]] = []
        self._holds: list[tuple[int, str, int]] = []
        """When money kept back for late events may go: (until, campaign, day)."""
        self.fates = Fates()
        """How much of what expires comes late."""
        self.horizon_ms = self.rules.history_ms
        self._looking_back: Counter[tuple[int, bool]] = Counter()
        """How many campaigns look back so far: thousands of them look back alike."""
        self.since_ms = 0
        """From when on every serving is remembered that a cap in force may look at; lifetime totals are, from the
        beginning."""
        self._routing: str | None = None
        self._session: str | None = None
        self._ids: Sequence[str | None] | None = None
        self._nobody = False
        """Nothing of this record is remembered of the person that it is about."""
        self._request_id = ""
        self._request_ms = 0
        self._pod_micros: dict[str, int] = {}
        """What the request at hand has reserved, by campaign."""
        self.reserved_row: tuple[Any, ...] = ()
        """The last serving reserved, as `Serving` takes it."""
        self._ops |= {
            "seen": self._on_seen,
            "reserve": self._on_reserve,
            "expire": self._on_expire,
            "hold": self._on_hold,
            "lapse": self._on_lapse,
            "settle": self._on_settle,
            "late": self._on_late,
            "owe": self._on_owe,
            "paid": self._on_paid,
            "unfund": self._on_unfund,
            "shown": self._on_shown,
            "mark": self._on_mark,
            "opt": self._on_opt,
            "erase": self._on_erase,
            "nobody": self._on_nobody,
            "visit": self._on_visit,
            "define": self._on_define,
            "status": self._on_status,
            "grant": self._on_grant,
            "deny": self._on_deny,
            "return": self._on_return,
            "asked": self._on_asked,
            "closed": self._on_closed,
            "reported": self._on_reported,
            "reported_at": self._on_reported_at,
            **self.pod_ops(),
        }

    # ------------------------------------------------------------------ folding

    def fold(
        self,
        draft: Draft,
        routing: str | None,
        session: str | None,
        ids: Sequence[str | None] | None = None,
    ) -> None:
        """See `machine.Machine.fold`."""
        self._routing = routing
        self._session = session
        self._ids = ids
        self._nobody = False
        self._fold(draft)

    def _share(self, campaign: str) -> CampaignShare:
        self._mark("campaigns", campaign)
        self._agenda.moved.add(campaign)
        return self.shares[campaign]

    def _of_person(self, op: Callable[..., None], *args: Any) -> None:
        """Applies an operation to the person that the record is about, where they are known."""
        routing = self._routing
        if routing is None:
            return
        person = self.persons.get(routing)
        if person is None:
            person = self.persons[routing] = Person()
            person.ops = []
        args += (self.watermark_ms, self.rules.dedupe_ms, self.horizon_ms)
        if person.ops is not None:
            person.ops.append((op, *args))
        op(person, *args)
        person.packed = None
        self._mark(USERS, routing)

    # ------------------------------------------------------------------ one method a delta

    def _on_rules(self, parameters: dict[str, Any]) -> None:
        super()._on_rules(parameters)
        self._agenda.moved.update(self.shares)  # How long a day is kept may have changed with the rules.
        self._set_horizon()
        for person in self.persons.values():
            person.next_prune_ms = 0  # What is forgotten when may have changed with the rules.

    def _on_wm(self, watermark_ms: int) -> None:
        super()._on_wm(watermark_ms)
        if watermark_ms >= self.fates.next_ms:
            self.fates.advance(watermark_ms)

    def _on_seen(self, request_id: str, time_ms: int) -> None:
        self._request_id = request_id
        self._request_ms = time_ms
        self._pod_micros = {}
        self._of_person(person_ops.seen, request_id, time_ms, self.height, self.index)

    def _on_reserve(
        self,
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
        share = self._share(campaign)
        share.book(day).reserve(price)
        share.changed.add(day)
        pod = self._pod_micros[campaign] = self._pod_micros.get(campaign, 0) + price
        if pod > share.dearest_micros:
            share.dearest_micros = pod
        decision_id = self._request_id
        name = open_key(decision_id, slot)
        entry = (deadline_ms, campaign, day, price, self.height, self.index, pays_on)
        # Of nobody's ad only the reservation knows; whoever names it settles it.
        self._open(decision_id, name, (*entry, True) if self._nobody else entry)
        heappush(self._deadlines, (deadline_ms, decision_id, slot))
        self._mark("open", name)
        row: tuple[Any, ...] = (
            self._request_ms,
            decision_id,
            slot,
            creative,
            campaign,
            account,
            categories,
            labels,
            self._session if self._ids is None else [self._session, *self._ids],
            deadline_ms,
            day,
            price,
        )
        if pays_on:
            row = (*row[:9], shown_by_ms, *row[10:], [pays_on, deadline_ms])
        self.reserved_row = row
        self._of_person(person_ops.reserve, row)

    def _on_expire(self, decision_id: str, slot: int, campaign: str, day: int, price: int) -> None:
        deadline_ms = self.open[open_key(decision_id, slot)][0]
        kind = self._close(decision_id, slot)
        share = self._share(campaign)
        share.book(day).move(reserved=-price, lease=price)
        share.changed.add(day)
        until_ms = late_until_ms(deadline_ms, self.rules.late_grace_ms)
        share.expired(until_ms, day, price, self.watermark_ms)
        self.fates.expired(kind, until_ms, counted=self.folded_rules >= _COUNTS_PROMPT)

    def _on_hold(self, campaign: str, day: int, until_ms: int, amount: int) -> None:
        share = self._share(campaign)
        share.hold(until_ms, day, amount)
        heappush(self._holds, (until_ms, campaign, day))

    def _on_lapse(self, campaign: str, day: int, until_ms: int, amount: int) -> None:
        self._share(campaign).hold(until_ms, day, -amount)

    def _on_settle(
        self, decision_id: str, slot: int, campaign: str, day: int, price: int, charged: int
    ) -> None:
        kind = self._close(decision_id, slot)
        if self.folded_rules >= _COUNTS_PROMPT:
            self.fates.came_in_time(kind)
            self.touch_core()
        share = self._share(campaign)
        share.book(day).move(reserved=-price, spent=charged, lease=price - charged)
        share.changed.add(day)
        self._of_person(person_ops.billed, decision_id, slot)

    def _on_late(self, decision_id: str, slot: int, campaign: str, day: int, amount: int) -> None:
        self._spend(campaign, day, amount)
        self._came_late(campaign, decision_id, slot, day, amount)

    def _on_owe(
        self, decision_id: str, slot: int, campaign: str, day: int, amount: int, until_ms: int
    ) -> None:
        self._share(campaign).owed.append([decision_id, slot, day, amount, until_ms])
        self._came_late(campaign, decision_id, slot, day, amount)

    def _on_paid(self, decision_id: str, slot: int, campaign: str, day: int, amount: int) -> None:
        self._spend(campaign, day, amount)
        self._settle_debt(campaign, decision_id, slot)

    def _on_unfund(self, decision_id: str, slot: int, campaign: str, day: int, amount: int) -> None:
        share = self._share(campaign)
        share.unfunded_micros = sayable(share.unfunded_micros + amount)
        self._settle_debt(campaign, decision_id, slot)

    def _came_late(self, campaign: str, decision_id: str, slot: int, day: int, amount: int) -> None:
        share = self.shares[campaign]
        share.came_late(day, amount)
        self.fates.of(share.pays_on).came()
        self.touch_core()
        self._of_person(person_ops.billed, decision_id, slot)

    def _on_shown(self, decision_id: str, slot: int) -> None:
        self._of_person(person_ops.shown, decision_id, slot)

    def _on_mark(self, decision_id: str, slot: int, event: str, time_ms: int) -> None:
        self._of_person(person_ops.mark, decision_id, slot, event, time_ms)

    def _on_opt(self, kind: str, scope: str, value: str | None) -> None:
        self._of_person(person_ops.opt, kind, scope, value)

    def _on_nobody(self) -> None:
        self._nobody = True
        self._routing = self._session = self._ids = None

    def _on_erase(self) -> None:
        self._of_person(person_ops.erase)

    def _on_visit(self, change_id: str, *counts_until: Any) -> None:
        *counts, until_ms = counts_until
        self._of_person(person_ops.visit, change_id, tuple(counts), until_ms)

    def _on_define(
        self, campaign: dict[str, Any], time_zone: str, treasury: str, by_day: bool = False
    ) -> None:
        definition = campaign_of(campaign)
        share = self.shares.get(definition.campaign_id)
        if share is None:
            share = CampaignShare(definition, time_zone, treasury, by_day)
            self.shares[definition.campaign_id] = share
        else:
            self._looking_back -= Counter((share.looks_back,))
            share.define(definition, time_zone, by_day)
        self._looking_back[share.looks_back] += 1
        self._mark("campaigns", definition.campaign_id)
        self._agenda.moved.add(definition.campaign_id)
        self._set_horizon()

    def _on_status(self, campaign: str, episode: int, reasons: list[str], day: int = 0) -> None:
        share = self._share(campaign)
        share.episode = episode
        share.paused = tuple(reasons)
        share.paused_day = day
        share.asks.clear()
        share.denied.clear()

    def _on_grant(self, campaign: str, day: int, amount: int, asked: bool) -> None:
        share = self._share(campaign)
        share.book(day).move(lease=amount)
        share.last_grant_micros = amount
        share.changed.add(day)
        if asked:
            share.asks.pop(day, None)

    def _on_deny(self, campaign: str, day: int, until_ms: int) -> None:
        share = self._share(campaign)
        share.asks.pop(day, None)
        share.denied[day] = until_ms
        # What cannot be had is not held out for: one absurd bid would have this shard ask on without end.
        share.dearest_micros = 0

    def _on_return(self, campaign: str, day: int, amount: int) -> None:
        share = self._share(campaign)
        share.book(day).move(lease=-amount)
        share.changed.add(day)

    def _on_asked(self, campaign: str, day: int, price: int) -> None:
        share = self._share(campaign)
        share.asks[day] = price
        share.denied.pop(day, None)
        share.dearest_micros = max(share.dearest_micros, price)

    def _on_closed(self, campaign: str, day: int) -> None:
        self._share(campaign).close_day(day)

    def _on_reported(self, campaign: str) -> None:
        self._share(campaign).changed.clear()

    def _on_reported_at(self, now_ms: int) -> None:
        self.last_report_ms = now_ms
        self.touch_core()

    def _open(self, decision_id: str, name: str, entry: tuple[Any, ...]) -> None:
        assert name not in self.open, "two reservations of one name"
        self.open[name] = entry
        before = self.open_requests.get(decision_id)
        count = 1 if before is None else before[0] + 1
        self.open_requests[decision_id] = (count, entry[4], entry[5])

    def _close(self, decision_id: str, slot: int) -> str:
        """Removes a reservation; the event that it was to be paid for."""
        name = open_key(decision_id, slot)
        pays_on: str = self.open.pop(name)[6]
        count, height, index = self.open_requests[decision_id]
        if count == 1:
            del self.open_requests[decision_id]
        else:
            self.open_requests[decision_id] = (count - 1, height, index)
        self._mark("open", name)
        return pays_on

    def _spend(self, campaign: str, day: int, amount: int) -> None:
        share = self._share(campaign)
        share.book(day).move(lease=-amount, spent=amount)
        share.changed.add(day)

    def _settle_debt(self, campaign: str, decision_id: str, slot: int) -> None:
        share = self.shares[campaign]
        share.owed = [entry for entry in share.owed if (entry[0], entry[1]) != (decision_id, slot)]

    def _set_horizon(self) -> None:
        longest = max((length_ms for length_ms, _ in self._looking_back), default=0)
        if any(counts_events for _, counts_events in self._looking_back):
            # A click comes after its serving, by as much as a serving is remembered for, and counts from then on.
            longest += self.rules.dedupe_ms
        horizon = max(self.rules.history_ms, longest)
        if horizon != self.horizon_ms:
            if horizon > self.horizon_ms:
                # What was forgotten under a shorter horizon does not come back with a longer cap.
                self.since_ms = max(
                    self.since_ms, self.watermark_ms - max(self.horizon_ms, self.rules.dedupe_ms)
                )
                self.touch_core()
            self.horizon_ms = horizon
            for person in self.persons.values():
                person.next_prune_ms = 0

    def decision_open(self, decision_id: str) -> tuple[int, int] | None:
        """Height and index of a decision that waits for anything: a reservation, or a pod for its impressions, which
        it does even after its clicks or views were paid, or can be no more."""
        opened = self.open_requests.get(decision_id)
        if opened is not None:
            return opened[1:]
        pods = self.open_pods.get(decision_id)
        return None if pods is None else (pods[0].height, pods[0].index)

    def keeps_back(self, campaign: str, day: int, until_ms: int, price: int) -> bool:
        """Whether less is kept back of a campaign's day than is to be expected for late events, in such prices."""
        if not price:
            return False
        share = self.shares[campaign]
        # Of a few ads each counts: as much is kept back in the end as ever, and the treasury says where one is risked.
        lost = not share.is_few(price) and share.is_lost_after(day, until_ms)
        awaited = share.awaited_on(day, self.watermark_ms)
        fates = self.fates.known_of(share.pays_on)
        if lost:
            ads = [(left_ms, amount // price) for left_ms, amount in awaited]
            expected_ppm = fates.expected_in_the_end_ppm(ads, self.rules.late_grace_ms)
        else:
            doubtful = sum(amount for _, amount in awaited) // price
            expected_ppm = fates.expected_ppm(doubtful, self.rules.late_prior_ppm)
        return expected_ppm - 1_000_000 * (share.held_back(day) // price) >= 500_000

    # ------------------------------------------------------------------ deadlines

    def _due_ms(self, campaign: str) -> int:
        return self.shares[campaign].due_ms()

    def _settled_ms(self, campaign: str) -> int:
        return min(self.shares[campaign].settling_days(self.rules).values(), default=NEVER)

    def next_deadline_ms(self) -> int:
        """The earliest deadline of an open reservation."""
        deadlines = self._deadlines
        while deadlines:
            deadline_ms, decision_id, slot = deadlines[0]
            entry = self.open.get(open_key(decision_id, slot))
            if entry is not None and entry[0] == deadline_ms:
                return deadline_ms
            heappop(deadlines)
        return NEVER

    def pop_due(self) -> tuple[int, str, int, str, int, int] | None:
        """The next reservation to expire, by (deadline, id): deadline, decision id, slot, campaign, day, price."""
        if self.next_deadline_ms() > self.watermark_ms:
            return None
        deadline_ms, decision_id, slot = heappop(self._deadlines)
        _, campaign, day, price, *_ = self.open[open_key(decision_id, slot)]
        return deadline_ms, decision_id, slot, campaign, day, price

    def next_hold_ms(self) -> int:
        """When the first money kept back for late events may go."""
        holds = self._holds
        while holds:
            until_ms, campaign, day = holds[0]
            if (until_ms, day) in self.shares[campaign].holds:
                return until_ms
            heappop(holds)
        return NEVER

    def pop_hold(self) -> tuple[str, int, int, int] | None:
        """The next money kept back that may go: campaign, day, until, amount."""
        if self.next_hold_ms() > self.watermark_ms:
            return None
        until_ms, campaign, day = heappop(self._holds)
        return campaign, day, until_ms, self.shares[campaign].holds[until_ms, day]
