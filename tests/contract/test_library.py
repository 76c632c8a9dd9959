"""Library mode's fronts on every backend: the last impression has one winner, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import library_kit
import pytest
import pytest_asyncio
from backend_kit import RACERS, SERVERS, PassingBackend, address_of, backend_at
from library_kit import CAMPAIGN, PERSON, PRICE, race_for_money, race_for_showing
from racers import race_of_processes

from adgovernor.contracts.errors import Unavailable
from adgovernor.library import (
    AdPodManager,
    BudgetTracker,
    CampaignLimits,
    FrequencyCapper,
    PositionFilledError,
    limits,
)
from adgovernor.sessions.governor import SessionChange, SessionState
from adgovernor.sessions.states import SessionStates
from adgovernor.stores.backends import Change, InMemoryBackend, StateBackend

KEYS = (f"budget/{CAMPAIGN}", f"person/{PERSON}", "pod/p", "session/s")


async def clean(backend: StateBackend) -> None:
    """Removes what these tests keep."""
    for key in KEYS:
        now = await backend.load(key)
        if now is not None:
            await backend.delete(key, now)


@pytest_asyncio.fixture(params=["memory", "sqlite", *SERVERS])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateBackend]:
    """An empty backend of each kind."""
    made = backend_at(address_of(request.param, request, tmp_path), f"t{uuid.uuid4().hex[:12]}")
    yield made
    await clean(made)
    await made.close()


async def test_of_many_tasks_one_gets_the_last_impression(backend: StateBackend) -> None:
    """Of 64 tasks one spends the last price and one serves under the cap; all others hear why not."""
    await BudgetTracker(backend).set_budget(CAMPAIGN, PRICE, "EUR")
    assert await race_for_money(backend, "a") == {"won": 1, "exhausted": RACERS - 1}
    assert await race_for_showing(backend, "a") == {"won": 1, "capped": RACERS - 1}
    assert (await BudgetTracker(backend).status(CAMPAIGN)).spent == PRICE


@pytest.mark.parametrize("kind", ["sqlite", *SERVERS])
async def test_of_four_processes_one_gets_the_last_impression(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Of 64 tasks in each of four processes exactly one wins, and nobody is told of a contention."""
    address, prefix = address_of(kind, request, tmp_path), f"t{uuid.uuid4().hex[:12]}"
    shared = backend_at(address, prefix)
    # A remainder that no price fits into must not change what the losers hear.
    await BudgetTracker(shared).set_budget(CAMPAIGN, PRICE + Decimal("0.1"), "EUR")
    money: Counter[str] = Counter()
    showings: Counter[str] = Counter()
    for bought, shown in await race_of_processes(library_kit.__file__, address, prefix):
        money.update(bought)
        showings.update(shown)
    assert money == {"won": 1, "exhausted": 4 * RACERS - 1}
    assert showings == {"won": 1, "capped": 4 * RACERS - 1}
    status = await BudgetTracker(shared).status(CAMPAIGN)
    assert (status.spent, status.impressions) == (PRICE, 1)
    await clean(shared)
    await shared.close()


async def test_a_budget_lives_on_in_the_backend(backend: StateBackend) -> None:
    """Another process goes on where the first stopped: open reservation, spent money, names and all."""
    first = BudgetTracker(backend)
    await first.set_budget(CAMPAIGN, Decimal(10), "EUR")
    assert (await first.reserve(CAMPAIGN, Decimal(4), "r")).accepted
    second = BudgetTracker(backend)
    assert (await second.reserve(CAMPAIGN, Decimal(4), "r")).duplicate
    assert (await second.spend(CAMPAIGN, Decimal(3), "r")).remaining == Decimal(7)
    assert (await first.spend(CAMPAIGN, None, "r")).duplicate
    status = await first.status(CAMPAIGN)
    assert (status.spent, status.reserved, status.impressions) == (Decimal(3), Decimal(0), 1)


async def test_a_position_is_filled_once(backend: StateBackend) -> None:
    """Of two ads for one position one plays there, and the other's caller hears that it is filled."""
    pods = AdPodManager(backend)
    await pods.create("p", 2)
    results = await asyncio.gather(
        *(pods.record("p", 1, f"creative-{n}") for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, PositionFilledError) for result in results) == 7
    assert (await pods.status("p")).filled == (1,)


async def test_a_session_is_counted_from_everywhere(backend: StateBackend) -> None:
    """Changes of one session from many tasks are all counted, each once, and another process sees them."""
    states = SessionStates(backend, deadline_s=60.0)
    changes = [SessionChange(f"change-{n % 8}", requests=1, pod_positions=(n % 8,)) for n in range(16)]
    await asyncio.gather(*(states.update("s", change) for change in changes))
    assert await SessionStates(backend).get("s") == SessionState(8, 0, tuple(range(8)), 0)


class Forgetful(PassingBackend):
    """A backend over another that loses the answer of every other swap, which happens."""

    swaps = 0

    async def swap(self, key: str, change: Change) -> bool:
        """Done; every other time nobody is told."""
        done = await self.inner.swap(key, change)
        self.swaps += 1
        if self.swaps % 2:
            raise Unavailable("the answer is lost")
        return done


async def test_lost_answers_neither_double_nor_lose_money() -> None:
    """Where every other answer is lost, each impression is paid once and counted once."""
    inner = InMemoryBackend()
    backend = Forgetful(inner)
    tracker = BudgetTracker(backend)
    capper = FrequencyCapper(backend, [CampaignLimits(CAMPAIGN, caps=limits(day=100))])
    await tracker.set_budget(CAMPAIGN, Decimal(5), "EUR")
    for _ in range(10):
        assert (await tracker.spend(CAMPAIGN, PRICE)).accepted
        assert (await capper.record(PERSON, CAMPAIGN)).allowed
    assert await BudgetTracker(inner).remaining(CAMPAIGN) == Decimal("2.5")
    assert await capper.remaining(PERSON, CAMPAIGN) == 90


@pytest.mark.parametrize("key", KEYS[:2])
async def test_money_and_counts_have_no_time_to_live(key: str) -> None:
    """However long nobody asks, budgets and what people saw are there."""
    now_ms = 1_700_000_000_000
    backend = InMemoryBackend(lambda: now_ms)
    tracker = BudgetTracker(backend, clock_ms=lambda: now_ms)
    capper = FrequencyCapper(
        backend, [CampaignLimits(CAMPAIGN, caps=limits(lifetime=1))], clock_ms=lambda: now_ms
    )
    await tracker.set_budget(CAMPAIGN, PRICE, "EUR")
    await tracker.spend(CAMPAIGN, PRICE)
    await capper.record(PERSON, CAMPAIGN)
    now_ms += 10 * 365 * 86_400_000
    assert await backend.load(key) is not None
    assert (await tracker.spend(CAMPAIGN, PRICE)).reason == "exhausted"
    assert not (await capper.check(PERSON, CAMPAIGN)).allowed
