"""Which candidate gets which slot, and why the others do not.

For one ad the highest price wins, ties in the order given; pods are filled by `podrequests`.
Every losing candidate gets every reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.core import caps
from adgovernor.core.history import Person
from adgovernor.core.leases import STATUS_CODES, CampaignShare
from adgovernor.core.podrequests import PodRequest

if TYPE_CHECKING:
    from adgovernor.core.user_shard import UserShard

_NO_CATEGORIES: Final[list[str]] = []
_OUTBID: Final = [{"code": "outbid"}]
_UNKNOWN: Final = [{"code": "unknown_campaign"}]


class Candidacy:
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
    """Finds and reserves the winner of a request for one ad; judges the candidates of any."""

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
        known = bool(request.household_id or request.user_id or request.device_id)
        if (
            request.slots is not None
            or request.pod is not None
            or request.breaks is not None
            or request.pod_rules is not None
        ):
            # An audit judges by what was assumed; what this request reserves itself belongs to that too.
            own = shard.persons.get(routing) is person
            return PodRequest(shard, self, request, person, context, own).decide(known, degraded)
        entries = self.candidacies(request)
        for entry in entries:
            self.judge(entry, person, context, known, degraded)
        slots: list[dict[str, Any]] = []
        winner = _dearest(entries)
        if winner is None:
            slots.append({"slot": 0, "no_fill": "no_candidate"})
        else:
            winner.won = True
            slots.append({"slot": 0, "winner": self.reserve(0, winner, labels, time_ms)})
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

    def candidacies(self, request: AdRequest) -> list[Candidacy]:
        shares = self._shard.shares
        time_ms = request.time_ms
        entries = []
        for candidate in request.candidates:
            share = shares.get(candidate.campaign_id)
            entry = Candidacy(candidate, share)
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

    def reserve(
        self, slot: int, entry: Candidacy, labels: tuple[str, ...], time_ms: int, wait_ms: int = 0
    ) -> dict[str, Any]:
        """Reserves a winner's price; the winner as the decision names it. ``wait_ms``: how long after the request its
        time to be shown comes."""
        shard = self._shard
        share = entry.share
        assert share is not None
        campaign = share.campaign
        candidate = entry.candidate
        deadline_ms = shown_by_ms = time_ms + shard.rules.reservation_ms
        if share.life_ms is not None:
            deadline_ms = time_ms + min(share.life_ms, shard.rules.longest_reservation_ms())
        if wait_ms:
            last_ms = time_ms + shard.rules.longest_reservation_ms()
            shown_by_ms = min(shown_by_ms + wait_ms, last_ms)
            deadline_ms = min(deadline_ms + wait_ms, last_ms)
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

    def judge(
        self, entry: Candidacy, person: Person, context: caps.Context, known: bool, degraded: bool
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


def _dearest(entries: list[Candidacy]) -> Candidacy | None:
    """For one unrestricted slot the highest price wins, ties in the order given."""
    best: Candidacy | None = None
    highest = -1
    for entry in entries:
        if entry.reasons is None and entry.value > highest:
            best, highest = entry, entry.value
    return best


def _expect(entry: Candidacy, share: CampaignShare) -> None:
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
