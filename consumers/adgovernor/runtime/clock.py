"""The wall clock. Nothing below the runtime reads it."""

from __future__ import annotations

import time


class WallClock:
    """The machine's own time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000
