"""What time alone will have something to do with, and when: so that a moment costs what is due in it, and not all that
there is."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from adgovernor.core.history import NEVER

_FEW: Final = 64


class Agenda:
    """Names, each with the times at which it is due for one thing or another. Follows from the state, so it is not
    stored. Whoever changes what a name's times follow from puts it into ``moved``; they are asked for when they matter.
    """

    __slots__ = ("_things", "moved")

    def __init__(self, *due_ms: Callable[[str], int]) -> None:
        """``due_ms``: when a name is due for each thing; ``NEVER``: not at all. The first is waited for; the others are
        done when something is done."""
        self.moved: set[str] = set()
        """Names whose times may have changed."""
        self._things = [(of_name, _Times()) for of_name in due_ms]

    def next_ms(self) -> int:
        """When the first name is due for what is waited for."""
        self._look_at_moved()
        return self._things[0][1].next_ms()

    def take(self, until_ms: int) -> list[str]:
        """The names that are due by then, for whatever it is, in order. They have moved."""
        self._look_at_moved()
        for _, times in self._things:
            self.moved.update(times.take(until_ms))
        return sorted(self.moved)

    def _look_at_moved(self) -> None:
        for due_ms, times in self._things:
            for name in self.moved:
                times.put(name, due_ms(name))
        self.moved.clear()


class _Times:
    """Names, each with one time."""

    __slots__ = ("_heap", "_times")

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        """What was put, earliest first; an entry that is not the name's present time counts no more."""

    def put(self, name: str, due_ms: int) -> None:
        """The name is due then, and not when it was before; ``NEVER``: not at all."""
        if due_ms == NEVER:
            self._times.pop(name, None)
        elif self._times.get(name) != due_ms:
            self._times[name] = due_ms
            heappush(self._heap, (due_ms, name))
            if len(self._heap) > 2 * len(self._times) + _FEW:
                self._heap = [(at_ms, name) for name, at_ms in self._times.items()]
                heapify(self._heap)

    def next_ms(self) -> int:
        """When the first is due."""
        heap, times = self._heap, self._times
        while heap:
            due_ms, name = heap[0]
            if times.get(name) == due_ms:
                return due_ms
            heappop(heap)
        return NEVER

    def take(self, until_ms: int) -> list[str]:
        """Whatever is due by then; it leaves, and is due again when it is put again."""
        taken = []
        while self.next_ms() <= until_ms:
            name = heappop(self._heap)[1]
            del self._times[name]
            taken.append(name)
        return taken
