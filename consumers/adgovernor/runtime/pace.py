"""When a shard's next block may begin.

A block costs about the same whatever is in it. Shards with a few events each would keep a machine busy with blocks of
two, and all of them would wait for that.
"""

from __future__ import annotations

from typing import Final

from adgovernor.runtime.settings import EngineSettings

_BUSY_EVENTS: Final = 4
"""A shard whose last block had so many events is busy: more are on their way."""
_REST_BEATS: Final = 2
"""A shard that began no block for so many beats has rested."""


def pause_s(settings: EngineSettings, now_s: float, began_s: float, events: int) -> float:
    """How long a shard waits before its next block; 0 where it need not.

    The first event after a rest is not held up, nor is anything behind a block that was not small. A busy shard waits
    for the beat, which all shards of a worker have in common.

    Args:
        settings: what `gather_s` and `beat_s` are taken from.
        now_s: the event loop's clock.
        began_s: when the shard's last block began, by the same clock.
        events: how many it had.
    """
    if events >= settings.max_events // 4:
        return 0.0
    beat_s = settings.beat_s
    if beat_s and events >= _BUSY_EVENTS and now_s < began_s + _REST_BEATS * beat_s:
        return beat_s - now_s % beat_s
    return max(0.0, began_s + settings.gather_s - now_s)
