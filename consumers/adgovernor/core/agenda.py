"""What time alone will have something to do with, and when: so that a moment costs what is due in it, and not all that
there is."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from adgovernor.core.history import NEVER

_FEW: Final = 64


class Agenda:
    """Names, each with the time at which it is due. Follows from the state, so it is not stored."""

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
