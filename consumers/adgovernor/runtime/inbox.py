"""Inputs that were read and not yet handled, and the order in which they are handled.

Order in a chunk: what has no event time first (directives, reports, poison), then the head with the lowest event
time; ties by `topics.input_topics`. No event is handled while another input of the shard has messages that are
not in the buffer: after a restart an impression would else overtake its request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from adgovernor.core.machine import Input
from adgovernor.runtime.ports import Fetch

_VIEWS: Final = 8
"""Sights of every input's end that wait to be handled; more would only make `covered_ms` a little newer."""
Read = Callable[[str, int, bytes | None, bytes | None], Input]


def shares(available: Mapping[str, int], max_events: int) -> dict[str, int]:
    """How many events of each topic a fetch gives, where so many are there: all get the same, and what one does not
    need the others may have, so that none starves another and none holds another back."""
    result: dict[str, int] = {}
    left = max_events
    for turn, name in enumerate(sorted(available, key=lambda name: available[name])):
        result[name] = min(available[name], max(1, left // (len(available) - turn)))
        left -= result[name]
    return result


class Inbox:
    """The buffers of one shard's input topics, bounded by what `wanted` asks for."""

    __slots__ = ("_covered_ms", "_names", "_views", "ends", "fetched", "queues")

    def __init__(self, names: Sequence[str], positions: Mapping[str, int]) -> None:
        self._names = tuple(names)
        self.queues: dict[str, deque[Input]] = {name: deque() for name in names}
        self.fetched = {name: positions.get(name, 0) for name in names}
        """The next offset to fetch, by topic."""
        self.ends: dict[str, int] = {}
        self._views: deque[tuple[int, dict[str, int]]] = deque(maxlen=_VIEWS)
        self._covered_ms: int | None = None

    def wanted(self, limit: int) -> dict[str, int]:
        """Where to fetch from: the topics with room for more."""
        return {name: self.fetched[name] for name in self._names if len(self.queues[name]) < limit}

    def take(self, fetch: Fetch, read: Read, began_ms: int) -> int:
        """Decodes and keeps what was fetched; how many that were. ``began_ms`` is when the fetch began."""
        count = 0
        for name, events in fetch.events.items():
            if not events:
                continue
            queue = self.queues[name]
            for event in events:
                queue.append(read(name, event.offset, event.key, event.value))
            self.fetched[name] = events[-1].offset + 1
            count += len(events)
        self.ends.update(fetch.ends)
        if all(fetch.ends.get(name, self.fetched[name] + 1) <= self.fetched[name] for name in self._names):
            self._views.append((began_ms, dict(self.fetched)))
        return count

    def pick(self, limit: int) -> list[Input]:
        """The next inputs in order, at most ``limit``; they leave the buffer."""
        picked: list[Input] = []
        queues = self.queues
        while len(picked) < limit:
            heads: list[tuple[int, int]] = []
            for order, name in enumerate(self._names):
                queue = queues[name]
                if queue:
                    heads.append((queue[0].time_ms, order))
                elif self.unread(name):
                    return picked
            if not heads:
                return picked
            heads.sort()
            order = heads[0][1]
            queue = queues[self._names[order]]
            if len(heads) == 1:
                room = limit - len(picked)
                while queue and room:
                    picked.append(queue.popleft())
                    room -= 1
                continue
            bound, rival = heads[1]
            if order < rival:
                bound += 1
            while queue and queue[0].time_ms < bound and len(picked) < limit:
                picked.append(queue.popleft())
        return picked

    def unread(self, name: str) -> bool:
        """Whether a topic has, or may have, messages that are not in the buffer."""
        end = self.ends.get(name)
        return end is None or end > self.fetched[name]

    def put_back(self, inputs: Sequence[Input]) -> None:
        """Returns the rest of a pick that a block had no room for."""
        for event in reversed(inputs):
            self.queues[event.topic].appendleft(event)

    def handled(self, positions: Mapping[str, int]) -> None:
        """Inputs before ``positions`` are in the ledger."""
        while self._views:
            seen_ms, view = self._views[0]
            if any(positions.get(name, 0) < offset for name, offset in view.items()):
                return
            self._covered_ms = seen_ms
            self._views.popleft()

    @property
    def covered_ms(self) -> int | None:
        """The latest time at which every input that existed is known to have been handled by now."""
        return self._covered_ms

    @property
    def empty(self) -> bool:
        """Whether nothing is buffered."""
        return not any(self.queues.values())

    def lags(self, positions: Mapping[str, int]) -> dict[str, int]:
        """Inputs not yet handled, by topic, as far as ends are known."""
        return {name: max(0, end - positions.get(name, 0)) for name, end in self.ends.items()}
