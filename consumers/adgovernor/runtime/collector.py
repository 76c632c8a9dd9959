"""How Python's cyclic collector is kept off a large heap that has next to no cycles.

What an event leaves behind is freed by its reference counts: of 150,000 requests, the collector finds a thousand
objects that are not. It would walk people's states and the events in flight again and again for them, which costs a
tenth of all time. So it is off, and `sweep` looks for cycles where it disturbs least: while a group decides, and now
and then.
"""

from __future__ import annotations

import gc
import time
from typing import Final

_EVERY_S: Final = 600.0
"""How long cycles may wait: at full load tens of megabytes, found in a third of a second where 50,000 people are in
memory."""


class Collector:
    """The collector of a process that works."""

    def __init__(self) -> None:
        gc.collect()
        gc.disable()
        self._swept_s = time.monotonic()

    def sweep(self) -> None:
        """Looks for cycles."""
        gc.collect()
        self._swept_s = time.monotonic()

    def look(self) -> None:
        """As `sweep`, where the last time is long ago."""
        if time.monotonic() - self._swept_s >= _EVERY_S:
            self.sweep()

    def close(self) -> None:
        """Back to what Python does by itself."""
        gc.enable()
