"""A process that races for the last impression through library mode's fronts."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from decimal import Decimal

from backend_kit import RACERS, backend_at

from adgovernor.library import BudgetTracker, CampaignLimits, FrequencyCapper, limits
from adgovernor.stores.backends import StateBackend

PRICE = Decimal("0.25")
CAMPAIGN = "last"
PERSON = "somebody"
_PATIENCE_S = 120.0


async def race_for_money(backend: StateBackend, name: str) -> Counter[str]:
    """What the racers of one process were told about the price that is left."""
    tracker = BudgetTracker(backend, deadline_s=_PATIENCE_S)
    answers = await asyncio.gather(*(tracker.spend(CAMPAIGN, PRICE, f"{name}.{n}") for n in range(RACERS)))
    return Counter("won" if answer.accepted else "+".join(answer.reasons) for answer in answers)


async def race_for_showing(backend: StateBackend, name: str) -> Counter[str]:
    """What the racers of one process were told about the one serving that the cap leaves."""
    capper = FrequencyCapper(backend, [CampaignLimits(CAMPAIGN, caps=limits(day=1))], deadline_s=_PATIENCE_S)
    answers = await asyncio.gather(
        *(capper.record(PERSON, CAMPAIGN, serving_id=f"{name}.{n}") for n in range(RACERS))
    )
    return Counter("won" if a.allowed else "+".join(r.code.value for r in a.reasons) for a in answers)


async def _racer(address: str, prefix: str, name: str) -> None:
    backend = backend_at(address, prefix)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print(
        json.dumps([await race_for_money(backend, name), await race_for_showing(backend, name)]), flush=True
    )
    await backend.close()


if __name__ == "__main__":
    asyncio.run(_racer(*sys.argv[1:4]))
