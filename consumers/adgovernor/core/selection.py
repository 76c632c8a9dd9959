"""Which candidate gets which slot, and why the others do not.

For one slot the highest price wins, ties in the order given; several slots are filled together (`podplan`).
Every losing candidate gets every reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.core import caps, podplan
from adgovernor.core.history import Person, Serving
from adgovernor.core.leases import STATUS_CODES, CampaignShare

if TYPE_CHECKING:
    from adgovernor.core.user_shard import UserShard

_NO_CATEGORIES: Final[list[str]] = []
_OUTBID: Final = [{"code": "outbid"}]
_UNKNOWN: Final = [{"code": "unknown_campaign"}]


class _Entry:
    """A candidate under consideration."""

    __slots__ = ("_categories", "candidate", "day", "price", "reasons", "share", "value", "won")

    def __init__(self, candidate: Candidate, share: CampaignShare | None) -> None:
        self.candidate = candidate
        self.share = share
        self.won = False
        self.reasons: list[dict[str, Any]] | None = None
        self.day = 0
        self.price = 0
        """Of the billable event."""
        self.value = 0
        """The expected price of one impression: what candidates compete by."""
        self._categories: list[str] | None = None

    @property
    def categories(self) -> list[str]:
        """The campaign's categories and the creative's; most requests never need them for most candidates."""
        if self._categories is None:
            assert self.share is not None
            self._categories = self.share.categories
            if self.candidate.categories:
                self._categories = list(dict.fromkeys([*self._categories, *self.candidate.categories]))
        return self._categories


class Selector:
    """Fills the slots of a request, reserving as it goes."""

    def __init__(self, shard: UserShard) -> None:
        self._shard = shard

    def select(self, request: AdRequest, routing: str, person: Person, degraded: bool) -> dict[str, Any]:
        """The decision's body; reservations and asks are emitted."""
        shard = self._shard
        time_ms = request.time_ms
        labels = request.labels
        if request.placement:
            labels = (*labels, "placement:" + request.placement)
        if len(labels) > 1:
            labels = tuple(dict.fromkeys(labels))  # Said twice, it still counts once.
        context = caps.Context(request.request_id, time_ms, request.session_id, labels, shard.watermark_ms)
        entries = self._entries(request)
        known = bool(request.household_id or request.user_id or request.device_id)
        own = shard.persons.get(routing) is person
        for entry in entries:
            self._judge(entry, person, context, known, degraded)
        slots: list[dict[str, Any]] = []
        for slot, winner in self._choose(request, entries, person, context):
            if winner is None:
                slots.append({"slot": slot, "no_fill": "no_candidate"})
                continue
            entry = entries[winner]
            entry.won = True
            slots.append({"slot": slot, "winner": self._reserve(slot, entry, labels, time_ms)})
            if not own:
                # An audit judges by what was assumed; what this request reserved itself belongs to that too.
                person.add(Serving(*shard.reserved_row))
        body: dict[str, Any] = {"decision_id": request.request_id, "time_ms": time_ms, "slots": slots}
        losers = [
            {
                "candidate": place,
                "campaign_id": entry.candidate.campaign_id,
                "creative_id": entry.candidate.creative_id,
                "reasons": entry.reasons or _OUTBID,
            }
            for place, entry in enumerate(entries)
            if not entry.won
        ]
        if losers:
            body["losers"] = losers
        if degraded:
            body["degraded"] = True
        for entry in entries:
            if entry.share is None:
                continue
            if entry.won:
                shard.ask_for(entry.share, entry.day, 0)
            elif entry.reasons is not None and entry.reasons[-1]["code"] == "no_lease":
                shard.ask_for(entry.share, entry.day, entry.price)
        return body

    def _choose(
        self, request: AdRequest, entries: list[_Entry], person: Person, context: caps.Context
    ) -> list[tuple[int, int | None]]:
        """(slot, place of the winner). For one unrestricted slot the highest price wins, ties in the order given."""
        if request.slots is not None or request.pod is not None:
            return podplan.plan(request, entries, person, context)
        best: int | None = None
        highest = -1
        for place, entry in enumerate(entries):
            if entry.reasons is None and entry.value > highest:
                best, highest = place, entry.value
        return [(0, best)]

    def _entries(self, request: AdRequest) -> list[_Entry]:
        shares = self._shard.shares
        time_ms = request.time_ms
        entries = []
        for candidate in request.candidates:
            share = shares.get(candidate.campaign_id)
            entry = _Entry(candidate, share)
            entries.append(entry)
            if share is None:
                continue
            price = candidate.price_micros
            if price is None:
                price = candidate.price()
            entry.price = entry.value = share.price if price is None else price
            if share.pays_on:
                _expect(entry, share)
            if share.daily:
                entry.day = share.day_of(time_ms)
        return entries

    def _reserve(self, slot: int, entry: _Entry, labels: tuple[str, ...], time_ms: int) -> dict[str, Any]:
        shard = self._shard
        share = entry.share
        assert share is not None
        campaign = share.campaign
        candidate = entry.candidate
        deadline_ms = shown_by_ms = time_ms + shard.rules.reservation_ms
        if share.life_ms is not None:
            deadline_ms = time_ms + min(share.life_ms, shard.rules.longest_reservation_ms())
        delta: list[Any] = [
            "reserve",
            slot,
            campaign.campaign_id,
            entry.day,
            entry.price,
            deadline_ms,
            candidate.creative_id,
            campaign.account_id,
            entry.categories,
            list(labels),
        ]
        if share.pays_on:
            delta += [shown_by_ms, share.pays_on]
        shard.emit(delta)
        winner: dict[str, Any] = {
            "campaign_id": campaign.campaign_id,
            "creative_id": candidate.creative_id,
            "account_id": campaign.account_id,
            "price_micros": entry.price,
            "currency": campaign.currency,
            "deadline_ms": deadline_ms,
        }
        if share.pays_on:
            winner |= {
                "deadline_ms": shown_by_ms,
                "billable": share.pays_on,
                "billing_deadline_ms": deadline_ms,
            }
        if candidate.duration_ms is not None:
            winner["duration_ms"] = candidate.duration_ms
        if candidate.tag_url is not None:
            winner["tag_url"] = candidate.tag_url
        return winner

    def _judge(
        self, entry: _Entry, person: Person, context: caps.Context, known: bool, degraded: bool
    ) -> None:
        """Finds every reason against a candidate alone; none: ``reasons`` is None. A missing lease comes
        last, because it is what more money would mend."""
        share = entry.share
        if share is None:
            entry.reasons = _UNKNOWN
            return
        reasons: list[dict[str, Any]] = []
        paused = share.paused
        if paused:
            reasons.extend([{"code": STATUS_CODES[word]} for word in paused])
        if not share.start_ms <= context.time_ms < share.end_ms and "flight" not in paused:
            reasons.append({"code": "flight"})
        price = entry.price
        if price < share.least_price:
            reasons.append({"code": "price_below_minimum"})
        if person.opt_outs:
            word = person.opted_out(share.campaign.account_id, entry.categories)
            if word is not None:
                reasons.append({"code": "opted_out", "scope": word})
        if share.caps:
            if (not known or degraded) and (code := _unknowable(share, person, context, known, degraded)):
                reasons.append({"code": code})
            else:
                categories = entry.categories if share.caps_categories else _NO_CATEGORIES
                blocked = caps.blockers(
                    person, share.caps, entry.candidate.creative_id, categories, context, share.time_zone
                )
                if blocked is not None:
                    reasons.extend(blocked)
        if not paused:
            book = share.books.get(entry.day)
            if price > (0 if book is None else book.lease):
                reasons.append({"code": "no_lease"})
        entry.reasons = reasons or None


def _expect(entry: _Entry, share: CampaignShare) -> None:
    """The price by click or view, and what an impression is worth by the rate at which they are expected."""
    candidate = entry.candidate
    price, rate = candidate.price_micros, candidate.expected_rate_ppm
    entry.price = share.price if price is None else price
    entry.value = entry.price * (share.rate_ppm if rate is None else rate) // 1_000_000


def _unknowable(
    share: CampaignShare, person: Person, context: caps.Context, known: bool, degraded: bool
) -> str | None:
    """Why caps cannot be checked: nobody known to count for, or a history that is not known."""
    policies = share.campaign.policies
    if not known and share.knows_person and (policies.no_identity != "session" or not context.session):
        return "no_identity"
    if degraded and policies.degraded != "open":
        served = len(person.by_scope.get("campaign:" + share.campaign.campaign_id, ()))
        if policies.degraded == "closed" or served >= policies.degraded_limit:
            return "state_unknown"
    return None
