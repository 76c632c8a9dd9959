"""The wall clock. Nothing below the runtime reads it."""

from __future__ import annotations

from adgovernor.stores.clock import wall_clock_ms


class WallClock:
    """The machine's own time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        return wall_clock_ms()
