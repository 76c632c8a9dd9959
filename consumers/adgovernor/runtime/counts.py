"""What the records of a block say, for metrics: counted one by one, while each is at hand.

Counting a whole block's records afterwards would touch them all once more, when a processor has long forgotten them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import Draft

_RESERVATION_EVENTS: Final = {
    "reserve": "opened",
    "settle": "settled",
    "expire": "expired",
    "late": "late",
    "owe": "owed",
    "paid": "paid",
    "unfund": "unfunded",
}
"""Deltas of a user shard that move a reservation; see `core.user_state`."""
_PAID: Final = {"settle": 6, "late": 5, "paid": 5}
"""Where such a delta has the amount spent; its campaign is at 3."""


class Counts:
    """How often each thing happened.

    Attributes:
        kinds: records by what happened.
        repeated: ad requests among the duplicates.
        degraded: decisions made without the person's history.
        outcomes: decisions that are ``filled``, ``partial`` or ``no_fill``.
        no_fills: empty slots by reason.
        reasons: reasons against losing candidates.
        reservations: what became of reservations.
        events: public events by topic.
        dead: inputs that could not be used, by reason.
        reserved: micros reserved by currency.
        spent: micros spent by campaign.
        currencies: of the campaigns that won.
    """

    __slots__ = (
        "currencies",
        "dead",
        "degraded",
        "events",
        "kinds",
        "no_fills",
        "outcomes",
        "reasons",
        "repeated",
        "reservations",
        "reserved",
        "spent",
    )

    def __init__(self) -> None:
        self.kinds: dict[str, int] = defaultdict(int)
        self.repeated = 0
        self.degraded = 0
        self.outcomes: dict[str, int] = defaultdict(int)
        self.no_fills: dict[str, int] = defaultdict(int)
        self.reasons: dict[str, int] = defaultdict(int)
        self.reservations: dict[str, int] = defaultdict(int)
        self.events: dict[str, int] = defaultdict(int)
        self.dead: dict[str, int] = defaultdict(int)
        self.reserved: dict[str, int] = defaultdict(int)
        self.spent: dict[str, int] = defaultdict(int)
        self.currencies: dict[str, str] = {}

    def add(self, draft: Draft) -> None:
        """Counts a record."""
        result = draft.result
        kind = result["kind"]
        self.kinds[kind] += 1
        if kind == "duplicate" and "event" not in result:
            # A repeated impression is a duplicate too, but its record names the event.
            self.repeated += 1
        for delta in draft.deltas:
            name = delta[0]
            event = _RESERVATION_EVENTS.get(name)
            if event is not None:
                self.reservations[event] += 1
                if name in _PAID:
                    self.spent[delta[3]] += delta[_PAID[name]]
        for topic, _, body in draft.out:
            self.events[topic] += 1
            if topic == topics.DECISIONS:
                self._decision(body)
            elif topic in topics.DLQS:
                self.dead[body.get("reason", "")] += 1

    def _decision(self, body: Mapping[str, Any]) -> None:
        slots = body["slots"]
        filled = 0
        for slot in slots:
            if "winner" in slot:
                winner = slot["winner"]
                filled += 1
                self.reserved[winner["currency"]] += winner["price_micros"]
                self.currencies[winner["campaign_id"]] = winner["currency"]
            else:
                self.no_fills[slot["no_fill"]] += 1
        self.outcomes["no_fill" if not filled else "filled" if filled == len(slots) else "partial"] += 1
        if "degraded" in body:
            self.degraded += 1
        reasons = self.reasons
        for loser in body.get("losers", ()):
            for reason in loser["reasons"]:
                reasons[reason["code"]] += 1
