"""The clock of a shard's owner, which somebody may move while it owns the shard."""

from __future__ import annotations

import asyncio

from adgovernor.runtime.world import StartOver, World


class WatchedClock:
    """The owner's clock, from when it is compared with the broker's."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._began_s = asyncio.get_running_loop().time()
        self._began_ms = world.clock.now_ms()

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC.

        Raises:
            StartOver: when somebody has moved the clock meanwhile; it is then compared again, before any of that gets
                into the ledger.
        """
        now_ms, settings = self._world.clock.now_ms(), self._world.settings
        moved_ms = now_ms - self._began_ms - int((asyncio.get_running_loop().time() - self._began_s) * 1000)
        if abs(moved_ms) > settings.skew_ms and settings.clock == "wall":
            raise StartOver("clock", f"the worker's clock was moved by {moved_ms} ms", claim=True)
        return now_ms
