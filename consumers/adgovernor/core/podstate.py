"""The pods of a user shard: created, delivered position by position, completed or abandoned.

Two views, each kept where it is needed. The shard keeps every pod that still waits for an impression (`OpenPod`), so
that time alone can end it. A person keeps what a stream has been shown (`Person.pods`), for the neighbours of the next
pod, and forgets it with the request; what each position shows is their serving's to say.

Deltas:

    pod          number, {name, break_id, offset, offset_ms, sequence}, [order], deadline, unfilled, [positions]
                                                               of the request seen just before: a pod is created
    pod_shown    decision id, slot                             a filled position was shown
    pod_end      decision id, number, completed | abandoned    it waits for nothing more
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Final

import orjson

from adgovernor.contracts.kept import kept_json
from adgovernor.core.folded import FoldedState
from adgovernor.core.history import NEVER, Person, Serving
from adgovernor.core.podfill import PodNeighbour

COMPLETED: Final = "completed"
ABANDONED: Final = "abandoned"
OPEN: Final = "open"
EMPTY: Final = "empty"
"""Nothing was filled, so there is nothing to wait for."""

Order = tuple[int, int, int, int, int]
"""A pod's place in its stream: first, any or last; time; height and index of its decision; number."""


def pod_id(decision_id: str, number: int | None) -> str:
    """The pod's name: the decision's, with the number of the break (from 1) where there are breaks."""
    return decision_id if number is None else f"{decision_id}/{number}"


class OpenPod:
    """A pod with positions that were not shown yet. Mutated by folds only."""

    __slots__ = (
        "about",
        "deadline_ms",
        "height",
        "index",
        "number",
        "positions",
        "shown",
        "time_ms",
        "unfilled",
    )

    def __init__(
        self,
        number: int | None,
        time_ms: int,
        about: dict[str, Any],
        deadline_ms: int,
        unfilled: int,
        positions: list[list[Any]],
        shown: Iterable[int] = (),
        height: int = 0,
        index: int = 0,
    ) -> None:
        self.number = number
        self.time_ms = time_ms
        self.about = about
        self.deadline_ms = deadline_ms
        self.unfilled = unfilled
        self.positions = positions
        """In play order: [slot, campaign, creative, account, price_micros, currency, duration_ms, domain]."""
        self.shown = set(shown)
        """The slots that were shown."""
        self.height = height
        self.index = index
        """Of its decision."""

    def row(self) -> list[Any]:
        """The stored form."""
        return [
            self.number,
            self.time_ms,
            self.about,
            self.deadline_ms,
            self.unfilled,
            self.positions,
            sorted(self.shown),
            self.height,
            self.index,
        ]

    def waits_for(self, slot: int) -> bool:
        """Whether this is one of its positions, and was not shown yet."""
        return slot not in self.shown and any(position[0] == slot for position in self.positions)

    def is_complete(self) -> bool:
        """Whether every filled position was shown."""
        return len(self.shown) == len(self.positions)


class PodStates(FoldedState):
    """The part of a user shard's state that is about pods."""

    _routing: str | None
    _session: str | None
    _request_id: str
    _request_ms: int
    _of_person: Callable[..., None]

    def __init__(self, shard: str) -> None:
        super().__init__(shard)
        self.open_pods: dict[str, list[OpenPod]] = {}
        """Decision id → its pods that wait for impressions."""
        self._pod_deadlines: list[tuple[int, str, int]] = []

    def pod_ops(self) -> dict[str, Callable[..., None]]:
        """One method a delta."""
        return {"pod": self._on_pod, "pod_shown": self._on_pod_shown, "pod_end": self._on_pod_end}

    def _on_pod(
        self,
        number: int | None,
        about: dict[str, Any],
        order: list[int],
        deadline_ms: int,
        unfilled: int,
        positions: list[list[Any]],
    ) -> None:
        decision_id = self._request_id
        if positions:
            place = (self.height, self.index)
            pod = OpenPod(number, self._request_ms, about, deadline_ms, unfilled, positions, (), *place)
            self.open_pods.setdefault(decision_id, []).append(pod)
            heappush(self._pod_deadlines, (deadline_ms, decision_id, number or 0))
            self._mark("pods", decision_id)
        if self._session:
            row = person_row(number, about, order, deadline_ms, unfilled, positions, self._session)
            self._of_person(remember, decision_id, row)

    def _on_pod_shown(self, decision_id: str, slot: int) -> None:
        for pod in self.open_pods[decision_id]:
            if pod.waits_for(slot):
                pod.shown.add(slot)
        self._mark("pods", decision_id)

    def _on_pod_end(self, decision_id: str, number: int | None, state: str) -> None:
        left = [pod for pod in self.open_pods[decision_id] if pod.number != number]
        if left:
            self.open_pods[decision_id] = left
        else:
            del self.open_pods[decision_id]
        self._mark("pods", decision_id)
        if state == COMPLETED:
            # The record is its last impression's, so it is about the person. An abandoned one may be anybody's: its
            # end follows from its deadline.
            self._of_person(complete, decision_id, number)

    def next_pod_ms(self) -> int:
        """When the first pod that waits may be abandoned."""
        deadlines = self._pod_deadlines
        while deadlines:
            deadline_ms, decision_id, number = deadlines[0]
            if any((pod.number or 0) == number for pod in self.open_pods.get(decision_id, ())):
                return deadline_ms
            heappop(deadlines)
        return NEVER

    def pop_due_pod(self) -> tuple[str, OpenPod] | None:
        """The next pod whose reservations ended before all of it was shown, by (deadline, id, number)."""
        if self.next_pod_ms() > self.watermark_ms:
            return None
        _, decision_id, number = heappop(self._pod_deadlines)
        return decision_id, next(pod for pod in self.open_pods[decision_id] if (pod.number or 0) == number)

    def encode_pods(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """The stored form, by decision."""
        pods = self.open_pods
        return {
            name: kept_json([pod.row() for pod in pods[name]]) if name in pods else None for name in names
        }

    def restore_pods(self, fields: Mapping[str, bytes]) -> None:
        """From the stored form."""
        self.open_pods = {
            name: [OpenPod(*row) for row in orjson.loads(value)] for name, value in fields.items()
        }
        self._pod_deadlines = [
            (pod.deadline_ms, name, pod.number or 0) for name, pods in self.open_pods.items() for pod in pods
        ]
        heapify(self._pod_deadlines)


# --- What a person remembers of a stream -----------------------------------------------------------------------


def person_row(
    number: int | None,
    about: dict[str, Any],
    order: list[int],
    deadline_ms: int,
    unfilled: int,
    positions: list[list[Any]],
    session: str,
) -> list[Any]:
    """A pod as its person's state keeps it: [number, about, order, deadline, unfilled, completed, [[slot, duration_ms,
    domain] in play order], session]."""
    places = [[position[0], position[6], position[7]] for position in positions]
    return [number, about, order, deadline_ms, unfilled, False, places, session]


def remember(
    person: Person, decision_id: str, row: list[Any], watermark: int = 0, dedupe: int = 0, horizon: int = 0
) -> None:
    """A pod was created for the person's stream."""
    # The row may be another owner's too, and is changed when the pod completes.
    person.pods.setdefault(decision_id, []).append(list(row))


def complete(
    person: Person, decision_id: str, number: int | None, watermark: int, dedupe: int, horizon: int
) -> None:
    """All of its filled positions were shown."""
    for row in person.pods.get(decision_id, ()):
        if row[0] == number:
            row[5] = True


def state_of(row: list[Any], watermark_ms: int) -> str:
    """Completed, abandoned, open or empty; of a pod as a person keeps it."""
    if row[5]:
        return COMPLETED
    if not row[6]:
        return EMPTY
    return ABANDONED if row[3] <= watermark_ms else OPEN


def neighbours(
    person: Person, session: str, own: Order, watermark_ms: int, domains: Mapping[str, tuple[str, ...]]
) -> tuple[PodNeighbour | None, PodNeighbour | None]:
    """The ads that play in the stream right before and right after a pod: the last and the first position that was
    shown, or is about to be. A request for one ad is a pod of one; its ad's domain is not kept, so its advertiser is
    taken to have those that its account's candidates have now (``domains``, by account)."""
    before: tuple[tuple[int, ...], PodNeighbour] | None = None
    after: tuple[tuple[int, ...], PodNeighbour] | None = None
    for serving in person.servings:
        if serving.session != session or not serving.counts(watermark_ms):
            continue
        place, domain = place_of(person, serving)
        if place[:5] == own:
            continue
        names = domains.get(serving.account, ()) if domain is None else (domain,) if domain else ()
        ad = PodNeighbour(names, tuple(serving.categories))
        if place < own:
            if before is None or place > before[0]:
                before = (place, ad)
        elif after is None or place < after[0]:
            after = (place, ad)
    return before and before[1], after and after[1]


def place_of(person: Person, serving: Serving) -> tuple[tuple[int, ...], str | None]:
    """Where an ad plays in its stream - its pod's `Order`, and its place in it - and its advertiser's domain; None
    where that was not kept."""
    for row in person.pods.get(serving.decision_id, ()):
        for at, (slot, _, domain) in enumerate(row[6]):
            if slot == serving.slot:
                return (*row[2], at), domain
    _, height, index = person.requests.get(serving.decision_id, (0, 0, 0))
    return (1, serving.time_ms, height, index, 0, 0), None
