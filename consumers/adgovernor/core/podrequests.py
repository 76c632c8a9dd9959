"""Requests for pods: each pod that is asked for is planned, reserved and created, one after the other.

A later break of the same request sees what the earlier ones took: their money, their servings, and the ad that plays
last before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from adgovernor.contracts import topics
from adgovernor.contracts.pod_requests import PodRules
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.core import podstate
from adgovernor.core.breaks import PodAsk, oversized, pods_of
from adgovernor.core.caps import Context
from adgovernor.core.history import Person, Serving
from adgovernor.core.losers import name_losers
from adgovernor.core.podevents import created
from adgovernor.core.podfill import PodNeighbour
from adgovernor.core.podplan import Filled, keeps_apart, plan
from adgovernor.core.podstate import OpenPod, Order, pod_id
from adgovernor.video.vmap import EndOffset, StartOffset

if TYPE_CHECKING:
    from adgovernor.core.selection import Candidacy, Selector
    from adgovernor.core.user_shard import UserShard

_FREE: Final = PodRules()
_USUAL_AD_MS: Final = 30_000
"""How long an ad of unknown length is taken to play: as long as most do at most."""
_SEQUENCES: Final = {"first": 0, "any": 1, "last": 2}
_TOO_FAR: Final = "too_far"


class PodRequest:
    """One request for pods, while it is decided."""

    def __init__(
        self,
        shard: UserShard,
        selector: Selector,
        request: AdRequest,
        person: Person,
        context: Context,
        own: bool,
    ) -> None:
        """``own``: the person is the shard's; else it is what an audit assumes, and is told here what is reserved."""
        self._shard = shard
        self._selector = selector
        self._request = request
        self._person = person
        self._context = context
        self._own = own
        self._rules = request.pod_rules or _FREE
        self._slots: list[dict[str, Any]] = []
        self._losers: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._played_ms = 0
        """How long the ads play that are decided already."""

    def decide(self) -> dict[str, Any]:
        """The decision's body; reservations, pods and their events are emitted."""
        request = self._request
        if oversized(request, self._shard.rules) is not None:
            return self._shard.refused(request, "too_large")
        wanting: dict[int, Candidacy] = {}
        at_ms = request.time_ms
        several = request.breaks is not None
        for place, ask in enumerate(pods_of(request)):
            number = place + 1 if several else None
            # Where a break has no time of its own it comes right after the one before it.
            at_ms = max(at_ms, request.time_ms + (ask.offset_ms or 0))
            if self._outlives_decision(ask, self._played_ms):
                # A later request, nearer to the break, can sell it: nothing is planned here, and nothing lost.
                empty = Filled([(slot, None) for slot in range(ask.least_slots())], [], {}, None)
                self._take(ask, number, self._order(ask, number, at_ms), [], empty, code=_TOO_FAR)
                continue
            context = replace(self._context, first_slot=len(self._slots))
            entries = self._selector.candidacies(request, self._person, context)
            order = self._order(ask, number, at_ms)
            filled = plan(
                ask,
                self._rules,
                self._shard.rules.most_ads,
                entries,
                self._person,
                context,
                self._around(ask, order, entries),
            )
            self._take(ask, number, order, entries, filled)
            for index, entry in enumerate(entries):
                if not entry.won:
                    self._lose(index, entry, number)
                if entry.won or _lacks_money_alone(entry):
                    wanting[index] = entry
        self._ask_for_money(wanting)
        for event in self._events:
            self._shard.publish(topics.PODS, event["decision_id"], event)
        body: dict[str, Any] = {
            "decision_id": request.request_id,
            "time_ms": request.time_ms,
            "slots": self._slots,
        }
        name_losers(body, self._losers)
        if self._context.degraded:
            body["degraded"] = True
        return body

    def _order(self, ask: PodAsk, number: int | None, at_ms: int) -> Order:
        sequence = _SEQUENCES[self._rules.sequence]
        if sequence == 1 and isinstance(ask.offset, StartOffset):
            sequence = 0
        elif sequence == 1 and isinstance(ask.offset, EndOffset):
            sequence = 2
        return sequence, at_ms, self._shard.height, self._shard.index, number or 0

    def _around(
        self, ask: PodAsk, order: Order, entries: list[Candidacy]
    ) -> tuple[PodNeighbour | None, PodNeighbour | None]:
        session = self._context.session
        if not session or keeps_apart(ask, self._rules) == ("none", "none"):
            return None, None
        domains: dict[str, tuple[str, ...]] = {}
        for entry in entries:
            domain = (entry.candidate.advertiser_domain or "").lower()
            if entry.share is not None and domain:
                account = entry.share.campaign.account_id
                domains[account] = (*domains.get(account, ()), domain)
        return podstate.neighbours(self._person, session, order, self._context.watermark_ms, domains)

    def _take(
        self,
        ask: PodAsk,
        number: int | None,
        order: Order,
        entries: list[Candidacy],
        filled: Filled,
        *,
        code: str = "no_candidate",
    ) -> None:
        """Reserves the winners in slot order, and creates the pod. ``code``: why its other slots stay empty."""
        shard, request = self._shard, self._request
        first = len(self._slots)
        about = self._about(ask)
        waits, too_far = self._waits(ask, entries, filled)
        shared = {"pod_id": pod_id(request.request_id, number)}
        shared |= {
            f"break_{name}" if name == "offset" else name: about[name]
            for name in ("break_id", "offset", "offset_ms")
            if name in about
        }
        in_play = {slot: place for place, slot in enumerate(filled.in_play, 1)}
        positions: dict[int, list[Any]] = {}
        deadline_ms = request.time_ms
        unfilled = 0
        for slot, index in filled.slots:
            row: dict[str, Any] = {"slot": first + slot}
            self._slots.append(row)
            if index is None or slot in too_far:
                row |= {"no_fill": code if index is None else _TOO_FAR, **shared}
                unfilled += 1
                continue
            winner = self._win(first + slot, entries[index], waits[slot])
            row |= {"winner": winner, "position": in_play[slot], **shared}
            if slot in filled.part_of:
                row["part"] = filled.part_of[slot]
            deadline_ms = max(deadline_ms, winner["deadline_ms"])
            positions[slot] = _position(first + slot, winner, entries[index].candidate)
        rows = [positions[slot] for slot in filled.in_play if slot in positions]
        shard.emit(["pod", number, about, list(order), deadline_ms, unfilled, rows])
        if not self._own and (session := self._context.session):
            seen = podstate.person_row(number, about, list(order), deadline_ms, unfilled, rows, session)
            podstate.remember(self._person, request.request_id, seen)
        pod = OpenPod(number, request.time_ms, about, deadline_ms, unfilled, rows)
        self._events.append(created(request.request_id, pod, filled.bound_micros))

    def _win(self, slot: int, entry: Candidacy, wait_ms: int) -> dict[str, Any]:
        """Reserves an entry's price for a slot; the winner as the decision names it."""
        assert entry.share is not None
        entry.won = True
        winner = self._selector.reserve(
            slot, entry.candidate, entry.share, entry.day, entry.price, self._context, wait_ms
        )
        if not self._own:
            self._person.add(Serving.of(self._shard.reserved_row))
        return winner

    def _waits(
        self, ask: PodAsk, entries: list[Candidacy], filled: Filled
    ) -> tuple[dict[int, int], frozenset[int]]:
        """How long after the request each slot's turn comes at the latest: when its break does, and the ads before it
        have played; and the slots whose turn comes too late to be sold."""
        latest_ms = ask.latest_ms()
        most_ms = self._shard.rules.break_wait_ms
        before_ms = most_ms if latest_ms is None else min(latest_ms, most_ms)
        placed = dict(filled.slots)
        waits = {}
        too_far = set()
        for slot in filled.in_play:
            waits[slot] = before_ms + self._played_ms
            index = placed[slot]
            assert index is not None
            if self._outlives_decision(ask, self._played_ms):
                too_far.add(slot)
                entries[index].reasons = [{"code": _TOO_FAR}]
                continue
            self._played_ms += entries[index].candidate.duration_ms or _USUAL_AD_MS
        return waits, frozenset(too_far)

    def _outlives_decision(self, ask: PodAsk, played_ms: int) -> bool:
        """Whether an ad is known to be shown so late that its decision is forgotten by then, so that it could never be
        billed. Where nobody knows when a break comes, it may come in time."""
        offset_ms = ask.offset_ms if ask.spec is not None else 0
        rules = self._shard.rules
        return offset_ms is not None and offset_ms + played_ms + rules.reservation_ms > rules.dedupe_ms

    def _about(self, ask: PodAsk) -> dict[str, Any]:
        about: dict[str, Any] = {}
        if self._rules.name is not None:
            about["name"] = self._rules.name
        if self._rules.sequence != "any":
            about["sequence"] = self._rules.sequence
        if ask.spec is not None:
            if ask.spec.break_id is not None:
                about["break_id"] = ask.spec.break_id
            about["offset"] = ask.spec.offset
            if ask.offset_ms is not None:
                about["offset_ms"] = ask.offset_ms
        return about

    def _lose(self, index: int, entry: Candidacy, number: int | None) -> None:
        loser = {
            "candidate": index,
            "campaign_id": entry.candidate.campaign_id,
            "creative_id": entry.candidate.creative_id,
            "reasons": entry.reasons or [{"code": "outbid"}],
        }
        if number is not None:
            loser["pod_id"] = pod_id(self._request.request_id, number)
        self._losers.append(loser)

    def _ask_for_money(self, entries: dict[int, Candidacy]) -> None:
        for entry in entries.values():
            if entry.share is not None:
                self._shard.ask_for(entry.share, entry.day, 0 if entry.won else entry.price)


def _position(slot: int, winner: dict[str, Any], candidate: Candidate) -> list[Any]:
    """A filled position as a pod keeps it; see `podstate.OpenPod.positions`."""
    return [
        slot,
        winner["campaign_id"],
        winner["creative_id"],
        winner["account_id"],
        winner["price_micros"],
        winner["currency"],
        winner.get("duration_ms"),
        (candidate.advertiser_domain or "").lower(),
    ]


def _lacks_money_alone(entry: Candidacy) -> bool:
    """Whether more money would have let it be considered: one that is refused for something else needs none."""
    return entry.reasons is not None and len(entry.reasons) == 1 and entry.reasons[0]["code"] == "no_lease"
