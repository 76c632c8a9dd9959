"""What the C library's allocator does with what a worker frees.

A block's bytes, requests and answers are megabytes that live for some milliseconds. Left alone, glibc gives such memory
back to the system each time and asks for it anew, and the system clears every page of it again.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
"""As ``malloc.h`` of glibc numbers them."""
_LARGEST: Final = 32 << 20
"""The most that glibc takes as a threshold for memory of its own mapping."""
_KEPT: Final = 256 << 20
_STEP: Final = 16 << 20


def keep_freed_memory() -> None:
    """From now on up to 256 MB that this process has freed stay with it. Where there is no glibc, nothing changes."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_TOP_PAD, _STEP)
