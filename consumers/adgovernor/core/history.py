"""What is remembered of a person: the servings themselves, request ids, totals, opt-outs.

A reservation's end needs no write here: a serving that is reserved counts while its deadline is ahead of the
watermark, and is expired from then on. Whoever reads it later sees the same, whether it stayed in memory or
came back from the store.

Stored form: one JSON object, the keys short because there is one a person::

    {"q": {request id: [time_ms, height, index]},
     "s": [[time_ms, decision id, slot, creative, campaign, account, [categories], [labels], session,
            deadline_ms, day, price_micros(, [pays_on, billing deadline_ms, {event: time_ms}])], ...],
     "t": {scope, or event@scope: lifetime total of servings no longer in "s"},
     "o": [[scope, value], ...],
     "v": [requests, impressions, [positions], spent micros, until_ms, [change ids]], of a session,
     "p": {decision id: [pods of a stream, see `podstate.person_row`]}}
"""

from __future__ import annotations

from typing import Any

import orjson

NEVER = 2**62
MOST_CHANGES = 256
"""Changes of one session whose repetition is noticed; a player makes a few at a time."""
SHOWN = 0
"""``deadline_ms`` of a serving that was shown: it counts for good."""


class Events:
    """What else than its impression matters of a serving. Most have none of it."""

    __slots__ = ("deadline_ms", "marks", "pays_on")

    def __init__(self, pays_on: str = "", deadline_ms: int = 0, marks: dict[str, int] | None = None) -> None:
        self.pays_on = pays_on
        """``click`` or ``view`` where these are paid for; empty: the impression."""
        self.deadline_ms = deadline_ms
        """Of the reservation for that; `SHOWN` once it is paid."""
        self.marks = marks or {}
        """``click`` and ``view`` → when it happened first."""


class Serving:
    """One ad shown, or about to be, to a person."""

    __slots__ = (
        "account",
        "campaign",
        "categories",
        "creative",
        "day",
        "deadline_ms",
        "decision_id",
        "events",
        "labels",
        "price_micros",
        "session",
        "slot",
        "time_ms",
    )

    def __init__(
        self,
        time_ms: int,
        decision_id: str,
        slot: int,
        creative: str,
        campaign: str,
        account: str,
        categories: list[str],
        labels: list[str],
        session: str | None,
        deadline_ms: int,
        day: int,
        price_micros: int,
        events: list[Any] | None = None,
    ) -> None:
        self.time_ms = time_ms
        self.decision_id = decision_id
        self.slot = slot
        self.creative = creative
        self.campaign = campaign
        self.account = account
        self.categories = categories
        self.labels = labels
        self.session = session
        self.deadline_ms = deadline_ms
        self.day = day
        self.price_micros = price_micros
        self.events = None if events is None else Events(*events)

    @property
    def pays_on(self) -> str:
        """The event that is paid for: ``impression``, ``click`` or ``view``."""
        return "impression" if self.events is None else self.events.pays_on or "impression"

    @property
    def billing_deadline_ms(self) -> int:
        """The deadline of the money reserved for it; `SHOWN` once it is paid."""
        events = self.events
        return self.deadline_ms if events is None or not events.pays_on else events.deadline_ms

    def marked(self, event: str) -> int | None:
        """When it was clicked (``click``) or had played to its end (``view``)."""
        return None if self.events is None else self.events.marks.get(event)

    def lasts(self) -> bool:
        """Whether it is remembered beyond its request: it was shown, clicked or seen to its end."""
        return self.deadline_ms == SHOWN or (self.events is not None and bool(self.events.marks))

    def counts(self, watermark_ms: int) -> bool:
        """Whether it counts towards caps: shown, or reserved and not expired."""
        return self.deadline_ms == SHOWN or self.deadline_ms > watermark_ms

    def scopes(self) -> list[str]:
        """Every scope that it counts in."""
        return [
            "creative:" + self.creative,
            "campaign:" + self.campaign,
            "advertiser:" + self.account,
            *["category:" + category for category in self.categories],
            *["label:" + label for label in self.labels],
        ]

    def row(self) -> list[Any]:
        """The stored form."""
        row = [
            self.time_ms,
            self.decision_id,
            self.slot,
            self.creative,
            self.campaign,
            self.account,
            self.categories,
            self.labels,
            self.session,
            self.deadline_ms,
            self.day,
            self.price_micros,
        ]
        events = self.events
        if events is not None:
            row.append([events.pays_on, events.deadline_ms, events.marks])
        return row


class Visit:
    """What a session with upstream ad servers has done, where the person is one."""

    __slots__ = ("changes", "impressions", "pod_positions", "requests", "spend_micros", "until_ms")

    def __init__(
        self,
        requests: int = 0,
        impressions: int = 0,
        pod_positions: list[int] | None = None,
        spend_micros: int = 0,
        until_ms: int = 0,
        changes: list[str] | None = None,
    ) -> None:
        self.requests = requests
        self.impressions = impressions
        self.pod_positions = pod_positions or []
        self.spend_micros = spend_micros
        self.until_ms = until_ms
        """The watermark at which it is forgotten."""
        self.changes = changes or []

    def add(
        self,
        change_id: str,
        requests: int,
        impressions: int,
        pod_positions: list[int],
        spend_micros: int,
        until_ms: int,
    ) -> None:
        """Counts a change, unless it is among the last."""
        if change_id in self.changes:
            return
        self.requests += requests
        self.impressions += impressions
        self.pod_positions = sorted({*self.pod_positions, *pod_positions})
        self.spend_micros += spend_micros
        self.until_ms = max(self.until_ms, until_ms)
        self.changes = [*self.changes, change_id][-MOST_CHANGES:]

    def row(self) -> list[Any]:
        """The stored form."""
        return [
            self.requests,
            self.impressions,
            self.pod_positions,
            self.spend_micros,
            self.until_ms,
            self.changes,
        ]


class Person:
    """One person's state. Mutated by folds only."""

    __slots__ = (
        "by_scope",
        "next_prune_ms",
        "ops",
        "opt_outs",
        "pods",
        "requests",
        "servings",
        "totals",
        "visit",
    )

    def __init__(self) -> None:
        self.requests: dict[str, tuple[int, int, int]] = {}
        self.servings: list[Serving] = []
        self.totals: dict[str, int] = {}
        self.opt_outs: list[tuple[str, str | None]] = []
        self.by_scope: dict[str, list[Serving]] = {}
        self.pods: dict[str, list[list[Any]]] = {}
        """Decision id → the pods of a stream that it filled (see `podstate.person_row`)."""
        self.visit: Visit | None = None
        self.next_prune_ms = 0
        self.ops: list[tuple[Any, ...]] | None = None
        """Folded while the stored part was unknown, to be applied again on top of it; None once it is known."""

    @classmethod
    def decode(cls, value: bytes | None) -> Person:
        """From the stored form; None: a person never seen."""
        person = cls()
        if value is not None:
            data = orjson.loads(value)
            person.requests = {key: tuple(entry) for key, entry in data.get("q", {}).items()}
            for row in data.get("s", ()):
                person.add(Serving(*row))
            person.totals = data.get("t", {})
            person.pods = data.get("p", {})
            if "v" in data:
                person.visit = Visit(*data["v"])
            person.opt_outs = [(scope, word) for scope, word in data.get("o", ())]
        return person

    def encode(self) -> bytes | None:
        """The stored form; None where there is nothing to remember."""
        data: dict[str, Any] = {}
        if self.requests:
            data["q"] = self.requests
        if self.servings:
            data["s"] = [serving.row() for serving in self.servings]
        if self.totals:
            data["t"] = self.totals
        if self.opt_outs:
            data["o"] = self.opt_outs
        if self.pods:
            data["p"] = self.pods
        if self.visit is not None:
            data["v"] = self.visit.row()
        return orjson.dumps(data) if data else None

    def add(self, serving: Serving) -> None:
        """Takes a serving."""
        self.servings.append(serving)
        by_scope = self.by_scope
        for scope in serving.scopes():
            if scope in by_scope:
                by_scope[scope].append(serving)
            else:
                by_scope[scope] = [serving]

    def find(self, decision_id: str, slot: int) -> Serving | None:
        """The serving of a decision's slot, newest first."""
        for serving in reversed(self.servings):
            if serving.decision_id == decision_id and serving.slot == slot:
                return serving
        return None

    def opted_out(self, account: str, categories: list[str]) -> str | None:
        """The opt-out that forbids an ad, such as ``advertiser:a1``, or None."""
        for scope, word in self.opt_outs:
            if scope == "all":
                return "all"
            if scope == "advertiser" and word == account:
                return f"advertiser:{word}"
            if scope == "category" and word in categories:
                return f"category:{word}"
        return None

    def prune(self, watermark_ms: int, dedupe_ms: int, horizon_ms: int) -> None:
        """Forgets what can matter no more: request ids with their tombstones at request time + ``dedupe_ms``,
        servings at ``horizon_ms`` (they move into the lifetime totals), expired reservations with their
        request."""
        if watermark_ms < self.next_prune_ms:
            return
        if self.visit is not None and self.visit.until_ms <= watermark_ms:
            self.visit = None
        forgotten = watermark_ms - dedupe_ms
        if any(entry[0] <= forgotten for entry in self.requests.values()):
            self.requests = {key: entry for key, entry in self.requests.items() if entry[0] > forgotten}
            if self.pods:
                self.pods = {key: rows for key, rows in self.pods.items() if key in self.requests}
        oldest = watermark_ms - max(horizon_ms, dedupe_ms)
        kept: list[Serving] = []
        for serving in self.servings:
            if serving.time_ms <= forgotten and not serving.counts(watermark_ms) and not serving.lasts():
                continue
            if serving.time_ms <= oldest and serving.lasts():
                self._add_to_totals(serving)
                continue
            kept.append(serving)
        if len(kept) != len(self.servings):
            self.servings = []
            self.by_scope = {}
            for serving in kept:
                self.add(serving)
        due = [entry[0] + dedupe_ms for entry in self.requests.values()]
        due += [
            serving.time_ms + (max(horizon_ms, dedupe_ms) if serving.lasts() else dedupe_ms)
            for serving in self.servings
        ]
        if self.visit is not None:
            due.append(self.visit.until_ms)
        self.next_prune_ms = min(due, default=NEVER)

    def _add_to_totals(self, serving: Serving) -> None:
        totals = self.totals
        prefixes = ["" if serving.deadline_ms == SHOWN else None]
        if serving.events is not None:
            prefixes += [event + "@" for event in serving.events.marks]
        for scope in serving.scopes():
            for prefix in prefixes:
                if prefix is not None:
                    totals[prefix + scope] = totals.get(prefix + scope, 0) + 1

    def expect_prune(self, time_ms: int) -> None:
        """Something may be forgotten from this watermark on."""
        if time_ms < self.next_prune_ms:
            self.next_prune_ms = time_ms
