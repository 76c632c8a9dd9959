"""Which candidate gets which slot, and why the others do not.

For one slot the highest price wins, ties in the order given. Several slots are filled in order, each by the
same rule, under the constraints of the pod. Every losing candidate gets every reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adgovernor.contracts.requests import AdRequest, Candidate, SlotSpec
from adgovernor.core import caps
from adgovernor.core.history import Person
from adgovernor.core.leases import STATUS_CODES, CampaignShare

if TYPE_CHECKING:
    from adgovernor.core.user_shard import UserShard

_IDENTITIES = ("h:", "u:", "d:")
_ANY_SLOT = SlotSpec()


class _Entry:
    """A candidate under consideration."""

    __slots__ = ("candidate", "categories", "day", "place", "price", "reasons", "share")

    def __init__(self, place: int, candidate: Candidate, share: CampaignShare | None, time_ms: int) -> None:
        self.place = place
        self.candidate = candidate
        self.share = share
        self.reasons: list[dict[str, Any]] = []
        self.day = 0
        self.price = 0
        self.categories: list[str] = []
        if share is None:
            return
        price = candidate.price()
        self.price = share.price if price is None else price
        self.day = share.day_of(time_ms)
        if candidate.categories:
            self.categories = list(dict.fromkeys([*share.categories, *candidate.categories]))
        else:
            self.categories = share.categories


class Selector:
    """Fills the slots of a request, reserving as it goes."""

    def __init__(self, shard: UserShard) -> None:
        self._shard = shard

    def select(self, draft: Any, request: AdRequest, person: Person, degraded: bool) -> dict[str, Any]:
        """The decision's body; reservations and asks are emitted."""
        shard = self._shard
        time_ms = request.time_ms
        labels = request.labels
        if request.placement:
            labels = (*labels, "placement:" + request.placement)
        context = caps.Context(request.request_id, time_ms, request.session_id, labels, shard.watermark_ms)
        shares = shard.shares
        entries = [
            _Entry(place, candidate, shares.get(candidate.campaign_id), time_ms)
            for place, candidate in enumerate(request.candidates)
        ]
        routing = request.routing_id()
        specs = request.slots or (_ANY_SLOT,)
        slots: list[dict[str, Any]] = []
        winners: set[int] = set()
        lacking: dict[str, tuple[CampaignShare, int, int]] = {}
        shown: list[_Entry] = []
        for slot, spec in enumerate(specs):
            best: _Entry | None = None
            for entry in entries:
                if entry.place in winners:
                    continue
                self._judge(entry, spec, person, context, routing, degraded, shown)
                if not entry.reasons:
                    if best is None or entry.price > best.price:
                        best = entry
                elif entry.reasons[-1]["code"] == "no_lease" and entry.share is not None:
                    lacking[entry.candidate.campaign_id] = (entry.share, entry.day, entry.price)
            if best is None:
                slots.append({"slot": slot, "no_fill": "no_candidate"})
                shard.count("no_fill:no_candidate")
                continue
            winners.add(best.place)
            shown.append(best)
            slots.append({"slot": slot, "winner": self._reserve(slot, best, labels, time_ms)})
        losers = []
        for entry in entries:
            if entry.place in winners:
                continue
            losers.append(
                {
                    "candidate": entry.place,
                    "campaign_id": entry.candidate.campaign_id,
                    "creative_id": entry.candidate.creative_id,
                    "reasons": entry.reasons or [{"code": "outbid"}],
                }
            )
            for reason in entry.reasons:
                shard.count("reason:" + reason["code"])
        for entry in shown:
            assert entry.share is not None
            shard.ask_for(entry.share, entry.day, 0)
        for share, day, price in lacking.values():
            shard.ask_for(share, day, price)
        body: dict[str, Any] = {"decision_id": request.request_id, "time_ms": time_ms, "slots": slots}
        if losers:
            body["losers"] = losers
        if degraded:
            body["degraded"] = True
        return body

    def _reserve(self, slot: int, entry: _Entry, labels: tuple[str, ...], time_ms: int) -> dict[str, Any]:
        shard = self._shard
        share = entry.share
        assert share is not None
        campaign = share.campaign
        candidate = entry.candidate
        deadline_ms = time_ms + shard.rules.reservation_ms
        shard.emit(
            [
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
        )
        winner: dict[str, Any] = {
            "campaign_id": campaign.campaign_id,
            "creative_id": candidate.creative_id,
            "account_id": campaign.account_id,
            "price_micros": entry.price,
            "currency": campaign.currency,
            "deadline_ms": deadline_ms,
        }
        if candidate.duration_ms is not None:
            winner["duration_ms"] = candidate.duration_ms
        shard.count("filled")
        return winner

    def _judge(
        self,
        entry: _Entry,
        spec: SlotSpec,
        person: Person,
        context: caps.Context,
        routing: str,
        degraded: bool,
        shown: list[_Entry],
    ) -> None:
        """Finds every reason against a candidate for a slot."""
        reasons: list[dict[str, Any]] = []
        entry.reasons = reasons
        share = entry.share
        if share is None:
            reasons.append({"code": "unknown_campaign"})
            return
        campaign = share.campaign
        candidate = entry.candidate
        time_ms = context.time_ms
        if share.paused:
            reasons.extend({"code": STATUS_CODES[word]} for word in share.paused)
        if (campaign.start_ms is not None and time_ms < campaign.start_ms) or (
            campaign.end_ms is not None and time_ms >= campaign.end_ms and "flight" not in share.paused
        ):
            reasons.append({"code": "flight"})
        if entry.price < share.least_price:
            reasons.append({"code": "price_below_minimum"})
        if spec is not _ANY_SLOT:
            _judge_slot(reasons, spec, candidate.duration_ms, entry.price)
        if shown and any(other.candidate.creative_id == candidate.creative_id for other in shown):
            reasons.append({"code": "creative_repeated"})
        if shown and candidate.advertiser_domain is not None:
            domain = candidate.advertiser_domain
            if any(other.candidate.advertiser_domain == domain for other in shown):
                reasons.append({"code": "advertiser_separation"})
        if person.opt_outs and (word := person.opted_out(campaign.account_id, entry.categories)) is not None:
            reasons.append({"code": "opted_out", "scope": word})
        if campaign.caps:
            self._judge_caps(reasons, entry, share, person, context, routing, degraded)
        if not share.paused and share.lease(entry.day) < entry.price:
            reasons.append({"code": "no_lease"})

    def _judge_caps(
        self,
        reasons: list[dict[str, Any]],
        entry: _Entry,
        share: CampaignShare,
        person: Person,
        context: caps.Context,
        routing: str,
        degraded: bool,
    ) -> None:
        campaign = share.campaign
        if not routing.startswith(_IDENTITIES):
            by_session = campaign.policies.no_identity == "session" and context.session is not None
            if not by_session and any(cap.window != "pod" for cap in campaign.caps):
                reasons.append({"code": "no_identity"})
                return
        if degraded:
            policies = campaign.policies
            servings = person.by_scope.get("campaign:" + campaign.campaign_id, ())
            if policies.degraded == "closed" or (
                policies.degraded == "bounded" and len(servings) >= policies.degraded_limit
            ):
                reasons.append({"code": "state_unknown"})
                return
        reasons.extend(
            caps.blockers(
                person,
                campaign.caps,
                entry.candidate.creative_id,
                campaign.campaign_id,
                campaign.account_id,
                entry.categories,
                context,
                share.time_zone,
            )
        )


def _judge_slot(reasons: list[dict[str, Any]], spec: SlotSpec, duration_ms: int | None, price: int) -> None:
    if price < spec.floor_micros:
        reasons.append({"code": "floor"})
    if spec.min_duration_ms is None and spec.max_duration_ms is None and not spec.allowed_durations_ms:
        return
    if (
        duration_ms is None
        or (spec.min_duration_ms is not None and duration_ms < spec.min_duration_ms)
        or (spec.max_duration_ms is not None and duration_ms > spec.max_duration_ms)
        or (spec.allowed_durations_ms and duration_ms not in spec.allowed_durations_ms)
    ):
        reasons.append({"code": "duration"})
