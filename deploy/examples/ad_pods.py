"""A pod filled position by position, without a log: what does not fit is refused, with the rule's name.

python deploy/examples/ad_pods.py                       in memory
python deploy/examples/ad_pods.py redis://HOST:PORT     or postgresql+asyncpg://…, sqlite+aiosqlite:///FILE
"""

from __future__ import annotations

import asyncio
import sys
import uuid

from adgovernor.library import AdPodManager, PodError, open_backend

ADS = [
    (1, "coffee-30", 30_000, "roastery.example"),
    (1, "tea-15", 15_000, "leaves.example"),  # the position is filled
    (2, "coffee-30", 30_000, "roastery.example"),  # the creative is repeated
    (2, "coffee-15", 15_000, "roastery.example"),  # the advertiser is in the pod already
    (2, "car-60", 60_000, "cars.example"),  # together longer than the pod
    (2, "tea-15", 15_000, "leaves.example"),
    (3, "juice-15", 15_000, "juice.example"),
]


async def main(address: str) -> None:
    """A pod of three positions and a minute."""
    backend = open_backend(address)
    try:
        await backend.ping()
        pods = AdPodManager(backend, max_positions=6, ttl_ms=3_600_000)
        pod = f"break-{uuid.uuid4()}"
        await pods.create(pod, 3, total_ms=60_000)
        for position, creative, duration_ms, domain in ADS:
            try:
                await pods.record(pod, position, creative, duration_ms=duration_ms, advertiser_domain=domain)
            except PodError as refusal:
                print(f"{position} {creative}: {type(refusal).__name__}")
            else:
                print(f"{position} {creative}: plays")
        for name, positions in (("unknown", None), ("too-large", 7)):
            try:
                await (pods.status(f"{pod}-{name}") if positions is None else pods.create(name, positions))
            except PodError as refusal:
                print(f"{name}: {type(refusal).__name__}")
        status = await pods.status(pod)
        print(f"{len(status.filled)} ads, {status.duration_ms} ms, complete: {status.complete}")
    finally:
        await backend.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["memory"]))
