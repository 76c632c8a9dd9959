"""What sessions ask: over library mode, and beside the stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
import pytest_asyncio
from vast_documents import TableTransport

from adgovernor import subscribe
from adgovernor.app.embedded import Embedded
from adgovernor.contracts.base import LONGEST_ID
from adgovernor.contracts.campaigns import Campaign, Cap, UpsertCampaign
from adgovernor.contracts.decisions import Decision, DecisionSlot, ReasonCode
from adgovernor.contracts.errors import Unavailable
from adgovernor.contracts.events import Impression, SessionUpdate
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.core.rules import Rules
from adgovernor.library import BudgetTracker, CampaignLimits, FrequencyCapper, limits
from adgovernor.publish import Publisher
from adgovernor.sessions import stream_governor
from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.decider import StreamDecider
from adgovernor.sessions.errors import (
    BudgetExceededError,
    CapExceededError,
    StateUnavailableError,
)
from adgovernor.sessions.governor import SessionChange, SessionGovernor, SessionState, change_id
from adgovernor.sessions.library_governor import LibraryGovernor
from adgovernor.sessions.states import SessionStates
from adgovernor.sessions.stream_governor import StreamGovernor
from adgovernor.sessions.upstream import SessionPolicies, UpstreamSession
from adgovernor.stores.backends import Change, InMemoryBackend, Versioned
from adgovernor.stores.database import DatabaseBackend
from adgovernor.stores.memory import MemoryStore

PRICE = 250_000
HOUR_MS = 3_600_000
CONTEXT = SessionContext.create(session_id="s", user_id="u")


class Failing(InMemoryBackend):
    """A backend that can be away."""

    away = False

    async def load(self, key: str) -> Versioned | None:
        """Unless it is away."""
        if self.away:
            raise Unavailable("gone")
        return await super().load(key)

    async def swap(self, key: str, change: Change) -> bool:
        """Unless it is away."""
        if self.away:
            raise Unavailable("gone")
        return await super().swap(key, change)


async def over_library(backend: InMemoryBackend) -> LibraryGovernor:
    tracker = BudgetTracker(backend, deadline_s=0.2)
    await tracker.set_budget("c", Decimal(1), "EUR")
    capper = FrequencyCapper(
        backend, [CampaignLimits("c", caps=limits(hour=3), advertiser_id="a")], deadline_s=0.2
    )
    return LibraryGovernor(capper, tracker, SessionStates(backend, deadline_s=0.2))


def campaign_c() -> Campaign:
    return Campaign(
        campaign_id="c",
        account_id="a",
        currency="EUR",
        budget_micros=1_000_000,
        price_micros=PRICE,
        caps=(Cap(length_ms=HOUR_MS, limit=3),),
    )


@pytest_asyncio.fixture(params=["library", "stream"])
async def governor(request: pytest.FixtureRequest) -> AsyncIterator[SessionGovernor]:
    """Campaign ``c``: a budget of 1 EUR, three impressions an hour for each person."""
    if request.param == "library":
        yield await over_library(InMemoryBackend())
        return
    async with Embedded(partitions=2) as embedded:
        await embedded.command(
            UpsertCampaign(command="upsert", command_id="1", account_id="a", campaign=campaign_c())
        )
        yield _Settled(embedded)


class _Settled(StreamGovernor):
    """A governor beside a stream that has come to rest whenever it is asked, so that answers are exact."""

    def __init__(self, embedded: Embedded) -> None:
        super().__init__(embedded.store, embedded)
        self._embedded = embedded

    async def _count(self) -> int:
        await self._embedded.settle()
        return await super()._count()


async def test_what_is_spent_counts_for_caps_money_and_session(governor: SessionGovernor) -> None:
    """An impression takes its price from the budget, counts for the person's caps, and is in the session's state."""
    spend = await governor.track_budget("s", "c", PRICE, "i1", user_id="u", creative_id="x")
    assert spend.accepted
    assert spend.reasons == ()
    assert (spend.standing.spent_micros, spend.standing.currency) == (PRICE, "EUR")
    assert await governor.remaining_budget("c") == 3 * PRICE
    standing = await governor.check_frequency_cap("u", "c", 2)
    assert (standing.seen, standing.remaining, standing.allowed) == (1, 1, True)
    assert await governor.remaining("u", "c", 5) in (2, 4)
    assert await governor.get_session_state("s") == SessionState(impressions=1, spend_micros=PRICE)


async def test_a_spend_is_done_once(governor: SessionGovernor) -> None:
    """The same spend again is accepted again and takes nothing more."""
    for _ in range(3):
        assert (await governor.track_budget("s", "c", PRICE, "i1", user_id="u")).accepted
    assert await governor.remaining_budget("c") == 3 * PRICE
    assert (await governor.check_frequency_cap("u", "c", 9)).seen == 1
    assert await governor.get_session_state("s") == SessionState(impressions=1, spend_micros=PRICE)


async def test_a_cap_is_told_from_an_exhausted_budget(governor: SessionGovernor) -> None:
    """The fourth impression of a person is capped, and takes nothing; the fifth of all finds no money."""
    for number in range(3):
        assert (await governor.track_budget("s", "c", PRICE, f"i{number}", user_id="u")).accepted
    capped = await governor.track_budget("s", "c", PRICE, "i3", user_id="u")
    assert (capped.accepted, capped.reasons) == (False, ("capped",))
    assert await governor.remaining_budget("c") == PRICE
    assert len((await governor.check_frequency_cap("u", "c", 9)).blocked_by) == 1
    assert (await governor.track_budget("s", "c", PRICE, "i4", user_id="other")).accepted
    last = await governor.track_budget("s", "c", PRICE, "i5", user_id="third")
    assert not last.accepted
    assert set(last.reasons) <= {"exhausted", "no_lease"}
    assert await governor.remaining_budget("c") == 0


async def test_an_unknown_campaign_has_no_money(governor: SessionGovernor) -> None:
    """A campaign that nobody defined has no budget, and nothing can be spent of it."""
    assert await governor.get_budget("nobody's") is None
    assert await governor.remaining_budget("nobody's") == 0
    assert not (await governor.track_budget("s", "nobody's", PRICE, "i")).accepted
    assert (await governor.check_frequency_cap("u", "nobody's", 1)).allowed


async def test_a_session_raises_the_limit_that_was_reached(governor: SessionGovernor) -> None:
    """Through a session a cap and a budget that are reached are errors of their own."""
    async with UpstreamSession(
        "http://ads.example/", transport=TableTransport(), governor=governor
    ) as session:
        await session.create_session(CONTEXT)
        for number in range(3):
            assert await session.track_budget("c", PRICE, f"i{number}") is not None
        with pytest.raises(CapExceededError):
            await session.track_budget("c", PRICE, "i3")
        with pytest.raises(CapExceededError):
            await session.check_frequency_cap(None, "c", 3)
    async with UpstreamSession(
        "http://ads.example/", transport=TableTransport(), governor=governor
    ) as session:
        await session.create_session(SessionContext.create(user_id="other"))
        await session.track_budget("c", PRICE)
        with pytest.raises(BudgetExceededError):
            await session.track_budget("c", PRICE)


async def test_caps_fail_open_and_money_does_not_stop_serving() -> None:
    """While the state is away sessions serve, flagged and counted; a campaign that is closed by policy does not."""
    backend = Failing()
    governor = await over_library(backend)
    backend.away = True
    policies = SessionPolicies(closed_campaigns=frozenset({"closed"}))
    async with UpstreamSession(
        "http://ads.example/", transport=TableTransport(), governor=governor, policies=policies
    ) as session:
        await session.create_session(CONTEXT)
        assert (await session.check_frequency_cap(None, "c", 1)).degraded
        assert await session.track_budget("c", PRICE) is None
        assert (session.stats.degraded_caps, session.stats.budget_errors) == (1, 1)
        with pytest.raises(StateUnavailableError):
            await session.check_frequency_cap(None, "closed", 1)
        with pytest.raises(StateUnavailableError):
            await session.track_budget("closed", PRICE)
        with pytest.raises(StateUnavailableError):
            await session.get_session_state()


async def test_a_spend_goes_on_where_it_stopped() -> None:
    """A spend that broke off after its serving was counted is finished by its repetition, whatever the cap says."""
    backend = InMemoryBackend()
    governor = await over_library(backend)
    tracker = BudgetTracker(backend)
    capper = FrequencyCapper(backend, [CampaignLimits("c", caps=limits(hour=1))])
    await tracker.reserve("c", Decimal("0.25"), "i")
    await capper.record("u", "c", serving_id="i")
    governor = LibraryGovernor(capper, tracker, SessionStates(backend))
    assert (await governor.track_budget("s", "c", PRICE, "i", user_id="u")).accepted
    assert await governor.remaining_budget("c") == 3 * PRICE


async def test_a_spend_whose_reservation_has_ended_is_paid_late() -> None:
    """A spend that broke off and comes again after its money was let go of is paid, as far as there is money."""
    backend = InMemoryBackend()
    governor = await over_library(backend)
    tracker = BudgetTracker(backend)
    await tracker.reserve("c", Decimal("0.25"), "i")
    assert await tracker.release("c", "i")
    assert (await governor.track_budget("s", "c", PRICE, "i")).accepted
    assert await governor.remaining_budget("c") == 3 * PRICE


def test_an_id_too_long_for_a_change_stands_in_it_as_its_digest() -> None:
    """Whatever a caller names a spend, its change has an id of lawful length, and another than any other's."""
    ids = [change_id("spend", name) for name in ("i1", "x" * LONGEST_ID, "x" * LONGEST_ID + "y")]
    assert ids[0] == "spend/i1"
    assert len(set(ids)) == 3
    assert all(len(each) <= LONGEST_ID for each in ids)


async def test_a_cap_that_another_reaches_meanwhile_costs_no_money(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a serving is refused after the spend was found allowed, what was set aside for it is free again."""
    backend = InMemoryBackend()
    await over_library(backend)
    capper = FrequencyCapper(backend, [CampaignLimits("c", caps=limits(hour=1))])
    governor = LibraryGovernor(capper, BudgetTracker(backend), SessionStates(backend))
    allowed = await capper.check("u", "c", serving_id="2")
    assert (await governor.track_budget("s", "c", PRICE, "1", user_id="u")).accepted

    async def check(*_: object, **__: object) -> object:
        return allowed

    monkeypatch.setattr(capper, "check", check)
    assert (await governor.track_budget("s", "c", PRICE, "2", user_id="u")).reasons == ("capped",)
    assert await governor.remaining_budget("c") == 3 * PRICE


async def test_beside_the_stream_a_spend_goes_on_where_it_stopped() -> None:
    """A spend that broke off after its decision is finished by another process, and a second time is nothing more."""
    async with Embedded(partitions=2) as embedded:
        await embedded.command(
            UpsertCampaign(command="upsert", command_id="1", account_id="a", campaign=campaign_c())
        )
        request = AdRequest(
            request_id="i~x",
            time_ms=time.time_ns() // 1_000_000,
            user_id="u",
            session_id="s",
            candidates=(Candidate(campaign_id="c", creative_id="c", price_micros=PRICE),),
        )
        assert (await embedded.decide(request)).slots[0].winner is not None
        for _ in range(2):
            governor = _Settled(embedded)
            assert (await governor.track_budget("s", "c", PRICE, "i~x", user_id="u")).accepted
            assert await governor.get_session_state("s") == SessionState(impressions=1, spend_micros=PRICE)
        standing = await _Settled(embedded).get_budget("c")
        assert standing is not None
        assert (standing.spent_micros, standing.reserved_micros) == (PRICE, 0)


async def test_beside_the_stream_a_session_ends() -> None:
    """A session's state is gone after its time to live, for whoever changed it and for others."""
    async with Embedded(partitions=2, rules=Rules(session_ttl_ms=0, lateness_ms=0)) as embedded:
        await embedded.command(
            UpsertCampaign(command="upsert", command_id="1", account_id="a", campaign=campaign_c())
        )
        governor = _Settled(embedded)
        assert (await governor.update_session_state("s", SessionChange("1", requests=1))).request_count == 1
        assert await governor.get_session_state("s") is None
        assert await _Settled(embedded).get_session_state("s") is None


async def test_a_session_survives_a_restart(tmp_path: Path) -> None:
    """Another process knows what a session has done, a repeated change counts once, and its time to live ends it."""
    now_ms = 1_000
    url = f"sqlite+aiosqlite:///{tmp_path}/state.db"
    first = DatabaseBackend(url, clock_ms=lambda: now_ms)
    await SessionStates(first, ttl_ms=500).update("s", SessionChange("1", requests=2, pod_positions=(3, 1)))
    await first.close()
    second = DatabaseBackend(url, clock_ms=lambda: now_ms)
    states = SessionStates(second, ttl_ms=500)
    await states.update("s", SessionChange("1", requests=2))
    state = await states.update("s", SessionChange("2", impressions=1, pod_positions=(2,)))
    assert state == await states.get("s") == SessionState(2, 1, (1, 2, 3), 0)
    now_ms += 500
    assert await states.get("s") is None
    await second.close()


async def test_a_session_remembers_its_last_changes_only() -> None:
    """What a session's value keeps to notice repetitions does not grow with the session."""
    backend = InMemoryBackend()
    states = SessionStates(backend)
    for number in range(300):
        await states.update("s", SessionChange(f"{number}", requests=1))
    stored = await backend.load("session/s")
    assert stored is not None
    assert orjson.loads(stored.value)["changes"] == [f"{number}" for number in range(44, 300)]
    assert (await states.update("s", SessionChange("299", requests=1))).request_count == 300


async def test_beside_the_stream_what_the_store_never_shows_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A governor adds what it published to what the store shows, the newest changes only: of a deployment whose store
    stands still, memory must not fill."""

    class Heard:
        """Hears what happened, and does nothing with it."""

        async def decide(self, request: AdRequest) -> Decision:
            raise AssertionError("nothing is to be decided")

        async def tell(self, event: Impression | SessionUpdate) -> None:
            """Not to be seen in the store."""

    monkeypatch.setattr(stream_governor, "_MOST_UNSEEN", 3)
    governor = StreamGovernor(MemoryStore(), Heard())
    counts = [
        (await governor.update_session_state("s", SessionChange(f"{n}", requests=1))).request_count
        for n in range(5)
    ]
    assert counts == [1, 2, 3, 3, 3]


async def test_beside_the_stream_a_spend_waits_so_long_for_a_lease() -> None:
    """Each try is a request of its own and waits longer than the one before; then the spend is refused."""
    asked: list[str] = []
    waited: list[float] = []

    class WithoutLease:
        """Never has money."""

        async def decide(self, request: AdRequest) -> Decision:
            asked.append(request.request_id)
            return Decision(
                decision_id=request.request_id,
                routing_id="u",
                time_ms=request.time_ms,
                slots=(DecisionSlot(slot=0, no_fill=ReasonCode.NO_LEASE),),
                shard="u0",
                height=0,
                index=0,
                dn=1,
            )

        async def tell(self, event: Impression | SessionUpdate) -> None:
            raise AssertionError("nothing happened")

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    governor = StreamGovernor(MemoryStore(), WithoutLease(), lease_wait_s=0.4, sleep=sleep)
    spend = await governor.track_budget("s", "c", PRICE, "i", user_id="u")
    assert (spend.accepted, spend.reasons) == (False, ("no_lease",))
    assert (asked, waited) == (["i", "i~1", "i~2", "i~3"], [0.05, 0.1, 0.2])


async def test_decisions_come_to_whoever_asked() -> None:
    """Over the SDKs each request gets its own decision, a repeated one gets none in time."""
    async with (
        Embedded() as embedded,
        Publisher(embedded) as publisher,
        subscribe.decisions(embedded) as decisions,
        StreamDecider(publisher, decisions, answer_s=1.0) as decider,
    ):
        request = AdRequest(
            request_id="r",
            time_ms=time.time_ns() // 1_000_000,
            candidates=(Candidate(campaign_id="c", creative_id="x"),),
        )
        assert (await decider.decide(request)).decision_id == "r"
        with pytest.raises(Unavailable, match="repeated"):
            await decider.decide(request)
