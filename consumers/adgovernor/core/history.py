"""What is remembered of a person: the servings themselves, request ids, totals, opt-outs.

A reservation's end needs no write here: a serving that is reserved counts while its deadline is ahead of the
watermark, and is expired from then on. Whoever reads it later sees the same, whether it stayed in memory or
came back from the store.

In place of a serving's session may be [session, user, device], where these are narrower than the routing id.

Stored form: one JSON object, the keys short because there is one a person::

    {"q": {request id: [time_ms, height, index]},
     "s": [[time_ms, decision id, slot, creative, campaign, account, [categories], [labels], session,
            deadline_ms, day, price_micros(, [pays_on, billing deadline_ms, {event: time_ms}])], ...],
     "t": {scope, event@scope, or either with #user:id or #device:id: lifetime total of servings no longer in "s"; at
           most one number for each creative, campaign, account, category and label that was ever shown, and that for
           MOST_IDENTITIES users and devices (all others: #user: or #device:)},
     "o": [[scope, value], ...], "a": the same, of what is allowed,
     "v": [requests, impressions, [positions], spent micros, until_ms, [change ids]], of a session,
     "p": {decision id: [pods of a stream, see `podstate.person_row`]}}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Final

import orjson

from adgovernor.contracts.categories import whole_of
from adgovernor.contracts.kept import kept_json
from adgovernor.contracts.money import sayable

NEVER = 2**62
MOST_IDENTITIES = 128
"""Users and devices whose lifetime totals a routing id keeps apart. Those beyond share one count, so that a cap per
user or device may refuse one of them too early, and never too late."""
MOST_CHANGES = 256
"""Changes of one session whose repetition is noticed; a player makes a few at a time."""
_IDENTITY: Final = re.compile("#(?:user|device):")
SHOWN = 0
"""``deadline_ms`` of a serving that was shown: it counts for good."""
_DEADLINE: Final = 9
_WHO: Final = 8
_EVENTS: Final = 12
"""Where a serving has, if it needs it, what else than its impression matters: [the event paid for where it is not the
impression, the deadline of the money reserved for that (`SHOWN` once it is paid), {event: when it happened first}]."""
PLACES: Final = {"creative": 3, "campaign": 4, "advertiser": 5, "category": 6, "label": 7}
"""Where a serving has what a scope of each kind names."""
_LISTS: Final = 6
"""From here on these places have lists."""
_FEW: Final = 8
"""Servings that are looked through; of more, an index is kept."""


def scopes_of(
    creative: str, campaign: str, account: str, categories: Iterable[str], labels: Iterable[str]
) -> list[str]:
    """Every scope that an ad counts in."""
    return [
        "creative:" + creative,
        "campaign:" + campaign,
        "advertiser:" + account,
        *["category:" + category for category in categories],
        *["label:" + label for label in labels],
    ]


def _at(index: int) -> Any:
    return property(itemgetter(index))


class Serving(list[Any]):
    """One ad shown, or about to be, to a person. The list is the stored form itself, so that a person is written
    without making each of their servings anew."""

    __slots__ = ()

    time_ms: int = _at(0)
    decision_id: str = _at(1)
    slot: int = _at(2)
    creative: str = _at(3)
    campaign: str = _at(4)
    account: str = _at(5)
    categories: list[str] = _at(6)
    labels: list[str] = _at(7)
    deadline_ms: int = _at(_DEADLINE)
    """Of the reservation, or of the impression where something else is paid for; `SHOWN` once it was shown."""
    day: int = _at(10)
    price_micros: int = _at(11)

    @classmethod
    def of(cls, row: Sequence[Any]) -> Serving:
        """From a row that others go on to use."""
        serving = cls(row)
        if len(serving) > _EVENTS:
            pays_on, deadline_ms, *marks = serving[_EVENTS]
            serving[_EVENTS] = [pays_on, deadline_ms, dict(*marks)]
        return serving

    @property
    def session(self) -> str | None:
        """The stream or visit that it was served in."""
        who: Any = self[_WHO]
        found: str | None = who[0] if isinstance(who, list) else who
        return found

    @property
    def ids(self) -> Sequence[str | None]:
        """User and device that it was served to, where they are narrower than the routing id; else nothing."""
        who = self[_WHO]
        return who[1:] if isinstance(who, list) else ()

    @property
    def pays_on(self) -> str:
        """The event that is paid for: ``impression``, ``click`` or ``view``."""
        return "impression" if len(self) == _EVENTS else self[_EVENTS][0] or "impression"

    @property
    def billing_deadline_ms(self) -> int:
        """The deadline of the money reserved for it; `SHOWN` once it is paid."""
        if len(self) > _EVENTS and self[_EVENTS][0]:
            return int(self[_EVENTS][1])
        return self.deadline_ms

    def marked(self, event: str) -> int | None:
        """When it was clicked (``click``) or had played to its end (``view``)."""
        return self[_EVENTS][2].get(event) if len(self) > _EVENTS else None

    def marks(self) -> Iterable[str]:
        """What else than its impression has happened: ``click``, ``view``."""
        return self[_EVENTS][2] if len(self) > _EVENTS else ()

    def mark(self, event: str, time_ms: int) -> None:
        """It was clicked, or seen to its end; the first time counts."""
        if len(self) == _EVENTS:
            self.append(["", 0, {}])
        self[_EVENTS][2].setdefault(event, time_ms)

    def show(self) -> None:
        """It was shown."""
        self[_DEADLINE] = SHOWN

    def bill(self) -> None:
        """What it is paid for has happened."""
        if len(self) > _EVENTS and self[_EVENTS][0]:
            self[_EVENTS][1] = SHOWN
        else:
            self[_DEADLINE] = SHOWN

    def lasts(self) -> bool:
        """Whether it is remembered beyond its request: it was shown, clicked or seen to its end."""
        return self[_DEADLINE] == SHOWN or bool(self.marks())

    def counts(self, watermark_ms: int) -> bool:
        """Whether it counts towards caps: shown, or reserved and not expired."""
        deadline_ms = self[_DEADLINE]
        return bool(deadline_ms == SHOWN or deadline_ms > watermark_ms)

    def scopes(self) -> list[str]:
        """Every scope that it counts in."""
        return scopes_of(self.creative, self.campaign, self.account, self.categories, self.labels)


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
        self.spend_micros = sayable(self.spend_micros + spend_micros)
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
        "_by_scope",
        "allows",
        "next_prune_ms",
        "ops",
        "opt_outs",
        "packed",
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
        self.allows: list[tuple[str, str | None]] = []
        """What they allow in spite of a wider opt-out."""
        self._by_scope: dict[str, list[Serving]] | None = None
        self.pods: dict[str, list[list[Any]]] = {}
        """Decision id → the pods of a stream that it filled (see `podstate.person_row`)."""
        self.visit: Visit | None = None
        self.next_prune_ms = NEVER
        self.ops: list[tuple[Any, ...]] | None = None
        """Folded while the stored part was unknown, to be applied again on top of it; None once it is known."""
        self.packed: bytes | None = None
        """The stored form, where it was made after the last change."""

    @classmethod
    def decode(cls, value: bytes | None) -> Person:
        """From the stored form; None: a person never seen."""
        person = cls()
        if value is not None:
            data = orjson.loads(value)
            person.next_prune_ms = 0
            person.requests = {key: tuple(entry) for key, entry in data.get("q", {}).items()}
            for row in data.get("s", ()):
                person.add(Serving(row))
            person.totals = data.get("t", {})
            person.pods = data.get("p", {})
            if "v" in data:
                person.visit = Visit(*data["v"])
            person.opt_outs = [(scope, word) for scope, word in data.get("o", ())]
            if "a" in data:
                person.allows = [(scope, word) for scope, word in data["a"]]
        return person

    def encode(self) -> bytes | None:
        """The stored form; None where there is nothing to remember."""
        data: dict[str, Any] = {}
        if self.requests:
            data["q"] = self.requests
        if self.servings:
            data["s"] = self.servings
        if self.totals:
            data["t"] = self.totals
        if self.opt_outs:
            data["o"] = self.opt_outs
        if self.allows:
            data["a"] = self.allows
        if self.pods:
            data["p"] = self.pods
        if self.visit is not None:
            data["v"] = self.visit.row()
        return kept_json(data) if data else None

    def stored(self) -> bytes | None:
        """As `encode`, made beforehand by `pack` where nothing has changed since."""
        packed, self.packed = self.packed, None
        return self.encode() if packed is None else packed

    def pack(self) -> None:
        """Makes the stored form now, while all of the person is at hand, rather than when it is asked for."""
        self.packed = self.encode()

    def served(self, scope: str) -> Sequence[Serving]:
        """The servings that count in a scope. Most people are shown little: an index of so few would take more memory
        than they do, and more time than to look through them."""
        by_scope = self._by_scope
        if by_scope is None:
            if len(self.servings) <= _FEW:
                kind, _, word = scope.partition(":")
                at = PLACES[kind]
                if at >= _LISTS:
                    return [serving for serving in self.servings if word in serving[at]]
                return [serving for serving in self.servings if serving[at] == word]
            by_scope = self._by_scope = {}
            for serving in self.servings:
                _index(by_scope, serving)
        return by_scope.get(scope, ())

    def has_fewer(self, limit: int, place: int, word: str) -> bool:
        """Whether it is seen at once that fewer than ``limit`` servings have a word at a place; of many it is not."""
        servings = self.servings
        if len(servings) > _FEW:
            return False
        for serving in servings:
            if serving[place] == word:
                limit -= 1
        return limit > 0

    def add(self, serving: Serving) -> None:
        """Takes a serving."""
        self.servings.append(serving)
        if self._by_scope is not None:
            _index(self._by_scope, serving)

    def erase(self) -> None:
        """Forgets everything."""
        self.requests = {}
        self.servings = []
        self._by_scope = None
        self.totals = {}
        self.opt_outs = []
        self.allows = []
        self.pods = {}
        self.visit = None

    def find(self, decision_id: str, slot: int) -> Serving | None:
        """The serving of a decision's slot, newest first."""
        for serving in reversed(self.servings):
            if serving.decision_id == decision_id and serving.slot == slot:
                return serving
        return None

    def has_room(self, scope: str, value: str | None, most: int) -> bool:
        """Whether one more word is remembered: a new advertiser or category only below ``most``."""
        if scope == "all" or (scope, value) in self.opt_outs or (scope, value) in self.allows:
            return True
        return sum(entry[0] != "all" for words in (self.opt_outs, self.allows) for entry in words) < most

    def opted_out(self, account: str, categories: list[str]) -> str | None:
        """The opt-out that forbids an ad, such as ``advertiser:a1``, or None. The most specific word decides: of its
        advertiser, else of its categories (a refusal before a permission), else of all. Of a part of a category, such
        as IAB7-3 of IAB7, its own word decides, else that of the whole."""
        if ("advertiser", account) in self.opt_outs:
            return f"advertiser:{account}"
        if ("advertiser", account) in self.allows:
            return None
        allowed = False
        for category in categories:
            for name in (category, whole_of(category)):
                if ("category", name) in self.opt_outs:
                    return f"category:{name}"
                if ("category", name) in self.allows:
                    allowed = True
                    break
        if allowed:
            return None
        return "all" if any(scope == "all" for scope, _ in self.opt_outs) else None

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
            self.servings = kept
            self._by_scope = None
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
        prefixes = [""] if serving.deadline_ms == SHOWN else []
        prefixes += [event + "@" for event in serving.marks()]
        named = zip(("#user:", "#device:"), serving.ids, strict=False)
        suffixes = ["", *[self._own_total(kind, word) for kind, word in named if word]]
        for scope in serving.scopes():
            for name in [prefix + scope + suffix for prefix in prefixes for suffix in suffixes]:
                totals[name] = totals.get(name, 0) + 1

    def _own_total(self, kind: str, word: str) -> str:
        """Under which suffix a user's or device's lifetime totals are kept."""
        if len(self.totals) < MOST_IDENTITIES:
            return kind + word
        known = {name[found.start() :] for name in self.totals if (found := _IDENTITY.search(name))}
        return kind + word if kind + word in known or len(known) < MOST_IDENTITIES else kind

    def lifetime_total(self, scope: str, suffix: str) -> int:
        """What is counted of servings that are remembered no more: of all (``suffix`` is empty), or of one identity; of
        who is not kept apart, together with all others that are not."""
        totals = self.totals
        found = totals.get(scope + suffix)
        if found is not None or not suffix:
            return found or 0
        shared = totals.get(scope + suffix[: suffix.index(":") + 1], 0)
        return 0 if shared and any(name.endswith(suffix) for name in totals) else shared

    def expect_prune(self, time_ms: int) -> None:
        """Something may be forgotten from this watermark on."""
        if time_ms < self.next_prune_ms:
            self.next_prune_ms = time_ms


def _index(by_scope: dict[str, list[Serving]], serving: Serving) -> None:
    for scope in serving.scopes():
        if scope in by_scope:
            by_scope[scope].append(serving)
        else:
            by_scope[scope] = [serving]
