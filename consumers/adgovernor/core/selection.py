"""Which candidate gets which slot, and why the others do not.

For one ad the highest price wins, ties in the order given; pods are filled by `podrequests`.
Every losing candidate gets every reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import intern
from typing import TYPE_CHECKING, Any, Final

from adgovernor.contracts.requests import AdRequest, AnyCandidate, AnyRequest, Candidate
from adgovernor.core import caps
from adgovernor.core.history import Person
from adgovernor.core.identities import place_of
from adgovernor.core.leases import STATUS_CODES, CampaignShare
from adgovernor.core.losers import FEW, name_losers
from adgovernor.core.podrequests import PodRequest

if TYPE_CHECKING:
    from adgovernor.core.user_shard import UserShard

_NO_CATEGORIES: Final[list[str]] = []
_KNOWN_LABELS: Final = 1_000
_OUTBID: Final = [{"code": "outbid"}]
_UNKNOWN: Final = [{"code": "unknown_campaign"}]


class Candidacy:
    """A candidate of a request for pods, under consideration."""

    __slots__ = ("candidate", "categories", "day", "price", "reasons", "share", "value", "won")

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
        self.categories = _NO_CATEGORIES if share is None else categories_of(share, candidate)


class Selector:
    """Finds and reserves the winner of a request for one ad; judges the candidates of any."""

    def __init__(self, shard: UserShard) -> None:
        self._shard = shard
        self._known_labels: dict[tuple[tuple[str, ...], str | None], tuple[str, ...]] = {}

    def select(self, request: AnyRequest, routing: str, person: Person, degraded: bool) -> dict[str, Any]:
        """The decision's body; reservations and asks are emitted."""
        shard = self._shard
        context = caps.Context(
            request.request_id,
            request.time_ms,
            request.session_id,
            self._labels(request.labels, request.placement),
            shard.watermark_ms,
            0,
            bool(request.household_id or request.user_id or request.device_id),
            degraded,
            request,
        )
        if isinstance(request, AdRequest):
            if request.consent is not None:
                context.personal = request.consent.personalisation
                if not request.consent.storage:
                    context.known, context.session = False, None
            if (
                request.slots is not None
                or request.pod is not None
                or request.breaks is not None
                or request.pod_rules is not None
            ):
                # An audit judges by what was assumed; what this request reserves itself belongs to that too.
                own = shard.persons.get(routing) is person
                return PodRequest(shard, self, request, person, context, own).decide()
        return self._select_one(request, person, context)

    def _labels(self, said: tuple[str, ...], placement: str | None) -> tuple[str, ...]:
        """The labels that a request counts under. Few differ from request to request, so all servings share them."""
        key = (said, placement)
        labels = self._known_labels.get(key)
        if labels is None:
            # Said twice, it still counts once.
            labels = tuple(dict.fromkeys((*said, "placement:" + placement) if placement else said))
            if len(self._known_labels) >= _KNOWN_LABELS:
                self._known_labels.clear()
            self._known_labels[key] = labels
        return labels

    def _select_one(self, request: AnyRequest, person: Person, context: caps.Context) -> dict[str, Any]:
        """For one unrestricted slot the highest price wins, ties in the order given."""
        shard = self._shard
        shares = shard.shares
        time_ms = context.time_ms
        losers: list[dict[str, Any]] = []
        wanting: list[tuple[int, CampaignShare, int, int]] = []
        best, highest = -1, -1
        won: tuple[CampaignShare, int, int] | None = None
        currency = request.currency
        candidates: Sequence[AnyCandidate] = request.candidates
        for place, candidate in enumerate(candidates):
            campaign = candidate.campaign_id
            share = shares.get(campaign)
            reasons: list[dict[str, Any]] | None
            if share is None:
                reasons = _UNKNOWN
            else:
                price = candidate.price_micros
                if price is None or share.pays_on:
                    price, value = prices(candidate, share)
                else:
                    value = price  # As `prices` would say, for nearly every candidate.
                day = share.day_of(time_ms) if share.daily else 0
                reasons = judge(candidate, share, price, day, person, context)
                if share.currency != currency:
                    currency, reasons = _in_one_currency(currency, share, reasons)
                if reasons is None:
                    reasons = _OUTBID
                    if value > highest:
                        best, highest = place, value
                        won = share, day, price
                elif len(reasons) == 1 and reasons[0]["code"] == "no_lease":
                    # With more money it could have been served; one that is refused for something else needs none.
                    wanting.append((place, share, day, price))
            losers.append(
                {
                    "candidate": place,
                    "campaign_id": campaign,
                    "creative_id": candidate.creative_id,
                    "reasons": reasons,
                }
            )
        if won is None:
            slot: dict[str, Any] = {"slot": 0, "no_fill": "no_candidate"}
        else:
            del losers[best]
            share, day, price = won
            slot = {
                "slot": 0,
                "winner": self.reserve(0, candidates[best], share, day, price, context),
            }
            wanting.append((best, share, day, 0))
            if len(wanting) > 1:
                wanting.sort(key=_place)
        body: dict[str, Any] = {"decision_id": request.request_id, "time_ms": time_ms, "slots": [slot]}
        if len(losers) > FEW:
            name_losers(body, losers)
        elif losers:
            body["losers"] = losers
        if context.degraded:
            body["degraded"] = True
        for _, share, day, price in wanting:
            shard.ask_for(share, day, price)
        return body

    def candidacies(self, request: AdRequest, person: Person, context: caps.Context) -> list[Candidacy]:
        """The candidates of a request, each with what speaks against it alone."""
        shares = self._shard.shares
        entries = []
        currency = request.currency
        for candidate in request.candidates:
            share = shares.get(candidate.campaign_id)
            entry = Candidacy(candidate, share)
            entries.append(entry)
            if share is None:
                entry.reasons = _UNKNOWN
                continue
            entry.price, entry.value = prices(candidate, share)
            entry.day = share.day_of(context.time_ms)
            entry.reasons = judge(candidate, share, entry.price, entry.day, person, context)
            if share.currency != currency:
                currency, entry.reasons = _in_one_currency(currency, share, entry.reasons)
        return entries

    def reserve(
        self,
        slot: int,
        candidate: AnyCandidate,
        share: CampaignShare,
        day: int,
        price: int,
        context: caps.Context,
        wait_ms: int = 0,
    ) -> dict[str, Any]:
        """Reserves a winner's price; the winner as the decision names it. ``wait_ms``: how long after the request its
        turn to be shown comes at the latest."""
        shard = self._shard
        campaign = share.campaign
        time_ms = context.time_ms
        deadline_ms = shown_by_ms = time_ms + shard.rules.reservation_ms
        if share.life_ms is not None:
            deadline_ms = time_ms + min(share.life_ms, shard.rules.longest_reservation_ms())
        if wait_ms:
            last_ms = time_ms + shard.rules.longest_reservation_ms()
            shown_by_ms = min(shown_by_ms + wait_ms, last_ms)
            deadline_ms = min(deadline_ms + wait_ms, last_ms)
        creative = intern(candidate.creative_id)  # Everybody who was shown it remembers the same text.
        delta: list[Any] = [
            "reserve",
            slot,
            campaign.campaign_id,
            day,
            price,
            deadline_ms,
            creative,
            campaign.account_id,
            categories_of(share, candidate),
            context.labels,
        ]
        if share.pays_on:
            delta += [shown_by_ms, share.pays_on]
        shard.emit(delta)
        winner: dict[str, Any] = {
            "campaign_id": campaign.campaign_id,
            "creative_id": creative,
            "account_id": campaign.account_id,
            "price_micros": price,
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


def categories_of(share: CampaignShare, candidate: AnyCandidate) -> list[str]:
    """The campaign's categories and the creative's."""
    own = candidate.categories
    return list(dict.fromkeys([*share.categories, *own])) if own else share.categories


def prices(candidate: AnyCandidate, share: CampaignShare) -> tuple[int, int]:
    """The price of the billable event, and what one impression is worth: that price, or by click or view its share at
    the rate at which they are expected."""
    price = candidate.price_micros
    if share.pays_on:
        if price is None:
            price = share.price
        rate = candidate.expected_rate_ppm
        return price, price * (share.rate_ppm if rate is None else rate) // 1_000_000
    if price is None:
        price = candidate.price()
        if price is None:
            price = share.price
    return price, price


def judge(
    candidate: AnyCandidate,
    share: CampaignShare,
    price: int,
    day: int,
    person: Person,
    context: caps.Context,
) -> list[dict[str, Any]] | None:
    """Every reason against a candidate alone, or None. A missing lease comes last, because it is what more money would
    mend."""
    reasons: list[dict[str, Any]] | None = None
    paused = share.paused
    if paused:
        if share.paused_on(day):
            reasons = [{"code": STATUS_CODES[word]} for word in paused]
        else:
            # The day before is sold out. This one has begun for requests before it has for the watermark.
            paused = ()
    if not share.start_ms <= context.time_ms < share.end_ms and "flight" not in paused:
        reasons = _and(reasons, {"code": "flight"})
    if price < share.least_price:
        reasons = _and(reasons, {"code": "price_below_minimum"})
    if person.opt_outs:
        word = person.opted_out(share.campaign.account_id, categories_of(share, candidate))
        if word is not None:
            reasons = _and(reasons, {"code": "opted_out", "scope": word})
    if share.personalised and not context.personal:
        reasons = _and(reasons, {"code": "no_consent"})
    if share.caps:
        if (share.pers or not context.known or context.degraded) and (
            code := _unknowable(share, person, context)
        ):
            reasons = _and(reasons, {"code": code})
        elif person.totals or len(person.servings) >= share.least_limit:
            # Else no window of any cap can be full.
            categories = categories_of(share, candidate) if share.caps_categories else _NO_CATEGORIES
            blocked = caps.blockers(
                person, share.caps, candidate.creative_id, categories, context, share.time_zone
            )
            if blocked is not None:
                reasons = blocked if reasons is None else reasons + blocked
    if not paused:
        book = share.books.get(day)
        if price > (0 if book is None else book.lease):
            reasons = _and(reasons, {"code": "no_lease"})
    return reasons


def _in_one_currency(
    currency: str | None, share: CampaignShare, reasons: list[dict[str, Any]] | None
) -> tuple[str | None, list[dict[str, Any]] | None]:
    """The currency that the request's candidates compete in, and the reasons against one of another currency. The
    first one without a reason decides, where the request does not."""
    if currency is not None:
        return currency, [{"code": "currency"}, *(reasons or ())]
    return (share.currency if reasons is None else None), reasons


def _and(reasons: list[dict[str, Any]] | None, reason: dict[str, Any]) -> list[dict[str, Any]]:
    return [reason] if reasons is None else [*reasons, reason]


def _place(wanting: tuple[int, CampaignShare, int, int]) -> int:
    return wanting[0]


def _unknowable(share: CampaignShare, person: Person, context: caps.Context) -> str | None:
    """Why caps cannot be checked: nobody known to count for, or a history that is not known."""
    policies = share.campaign.policies
    known = context.known
    if known and share.pers and context.who is not None:
        known = all(place_of(context.who, per) is not None for per in share.pers)
    if not known and share.knows_person and (policies.no_identity != "session" or not context.session):
        return "no_identity"
    if context.degraded and policies.degraded != "open":
        served = len(person.served("campaign:" + share.campaign.campaign_id))
        if policies.degraded == "closed" or served >= policies.degraded_limit:
            return "state_unknown"
    return None
