"""Processes that begin together, so that what they share is really contended for."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Final

PROCESSES: Final = 4


async def race_of_processes(program: str | Path, *arguments: str) -> list[Any]:
    """What each process of ``program ARGUMENTS processN`` prints in the end, as JSON.

    A process prints ``ready``, waits for a line on its standard input, and races."""
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *(str(program), *arguments, f"process{number}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert await racer.stdout.readline() == b"ready\n"
        printed = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
        return [json.loads(answer.splitlines()[-1]) for answer, _ in printed]
    finally:
        for racer in racers:
            if racer.returncode is None:
                racer.kill()
            await racer.wait()
