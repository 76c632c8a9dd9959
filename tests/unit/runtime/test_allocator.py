"""What a worker frees stays with it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
from adgovernor.runtime.allocator import keep_freed_memory
if {kept}:
    keep_freed_memory()
buffers = [bytes([1]) * 1_000_000 for _ in range(100)]
del buffers
print(int(open("/proc/self/statm").read().split()[1]) * 4096)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such switches")
def test_freed_memory_stays_with_the_process() -> None:
    """A hundred megabytes that were freed are still the process's own, and were not without the switches."""
    without, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", _SCRIPT.format(kept=kept)], capture_output=True, check=True
            ).stdout
        )
        for kept in (False, True)
    )
    assert kept - without > 90_000_000
