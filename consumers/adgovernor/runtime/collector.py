"""How Python's cyclic collector is kept off a large heap that has next to no cycles.

What an event leaves behind is freed by its reference counts. The collector would only walk it: the events in flight
many times over, and people's states again and again. So it runs rarely, over what came since the last time, and what it
finds alive then it never looks at again. Cycles that die later are found by `sweep`, at moments when nobody works.
"""

from __future__ import annotations

import gc
from typing import Final

_YOUNG_OBJECTS: Final = 200_000
"""So many new containers before the collector looks at them: about ten milliseconds, twice a minute at a thousand
requests a second."""


def tune() -> None:
    """Sets the collector up for a process that works from now on."""
    if _keep not in gc.callbacks:
        gc.callbacks.append(_keep)
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)
    gc.collect()


def sweep() -> None:
    """Finds all cycles that are garbage. Takes up to seconds where many people are in memory."""
    gc.unfreeze()
    gc.collect()


def _keep(phase: str, info: dict[str, int]) -> None:
    if phase == "stop":
        gc.freeze()
