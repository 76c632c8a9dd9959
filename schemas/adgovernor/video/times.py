"""Times as VAST and VMAP write them: ``HH:MM:SS`` and ``HH:MM:SS.mmm``."""

from __future__ import annotations

import re

_TIME = re.compile(r"([0-9]{1,4}):([0-9]{1,2}):([0-9]{1,2})(?:\.([0-9]{1,9}))?")


def parse_time_ms(text: str | None) -> int | None:
    """*text* in milliseconds; None when it is no time (VAST 4.3 §3.8.1: an unreadable Duration is unknown).

    Minutes and seconds past 59 are counted for what they say; :func:`has_range_fault` tells.
    """
    match = _TIME.fullmatch(text.strip()) if text is not None else None
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups()
    whole_s = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return whole_s * 1000 + int((fraction or "0")[:3].ljust(3, "0"))


def has_range_fault(text: str) -> bool:
    """Whether *text* is a readable time whose minutes or seconds are past 59."""
    match = _TIME.fullmatch(text.strip())
    return match is not None and (int(match.group(2)) > 59 or int(match.group(3)) > 59)


def format_time(time_ms: int) -> str:
    """*time_ms* as ``HH:MM:SS.mmm``."""
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}.{milliseconds:03d}"
