"""A session's governor beside the stream: it reads the materialised state, and spends through the ledger.

Nothing is counted here. What is spent is an ad request and its impression, decided by the person's shard like any
other; what is asked is what the shards last wrote to the store.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import DAY_MS, Cap
from adgovernor.contracts.decisions import Decision, ReasonCode, reasons_of
from adgovernor.contracts.events import MOST_POSITIONS, Impression, SessionUpdate
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.contracts.routing import partition_of
from adgovernor.core.accounts import TreasuryCampaign
from adgovernor.core.caps import CompiledCap, Context, blockers, count
from adgovernor.core.history import Person, Visit
from adgovernor.core.leases import CampaignShare, sums_of
from adgovernor.core.machine import USERS
from adgovernor.core.rules import Rules
from adgovernor.core.user_shard import UserShard
from adgovernor.sessions.governor import (
    BudgetStanding,
    CapStanding,
    SessionChange,
    SessionState,
    Spend,
    change_id,
    describe,
)
from adgovernor.sessions.states import asking_state
from adgovernor.stores.base import Store
from adgovernor.stores.clock import wall_clock_ms

_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 0.8
"""Between two tries for a lease."""
_MOST_UNSEEN: Final = 10_000
"""The store is behind by a moment's changes; whatever is older is in it."""


class Decider(Protocol):
    """Who has requests decided by the stream: `StreamDecider`, or a deployment in this process."""

    async def decide(self, request: AdRequest) -> Decision:
        """Publishes a request and waits for its decision. Raises `Unavailable` when none comes in time."""
        ...

    async def tell(self, event: Impression | SessionUpdate) -> None:
        """Publishes what happened. Raises `Unavailable` where it cannot."""
        ...


class StreamGovernor:
    """The seam of `sessions.governor` over a deployment's store and log.

    The store trails the ledger by a moment, so a cap check and a budget are advice; the decision that a spend goes
    through is exact. What a session did is an event as well, and its state part of its shard's. A spend that is
    repeated after its answer was lost goes on where it stopped, once the store knows how far that was; before, it
    raises `StateUnavailableError`. Nothing is spent twice.
    """

    def __init__(
        self,
        store: Store,
        decider: Decider,
        *,
        window_ms: int = DAY_MS,
        lease_wait_s: float = 4.0,
        clock_ms: Callable[[], int] = wall_clock_ms,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """
        Args:
            window_ms: what a limit that a session names counts.
            lease_wait_s: how long a spend waits for its shard to get a lease, as it must where the campaign's last
                money is another shard's.
        """
        self._store = store
        self._decider = decider
        self._window_ms = window_ms
        self._lease_wait_s = lease_wait_s
        self._clock_ms = clock_ms
        self._sleep = sleep
        self._partitions = 0
        self._unseen: OrderedDict[tuple[str, str], SessionChange] = OrderedDict()
        """Changes that this governor published and the store did not show yet, by session and change id."""

    async def check_frequency_cap(self, user_id: str, campaign_id: str, limit: int) -> CapStanding:
        """See `SessionGovernor.check_frequency_cap`."""
        with asking_state():
            shard, machine, person = await self._person(user_id)
            _, (definition,) = await self._store.read_fields(shard, "campaigns", [campaign_id])
        context = Context("", max(self._clock_ms(), machine.watermark_ms), None, (), machine.watermark_ms)
        share = None if definition is None else CampaignShare.decode(definition)
        account = "" if share is None else share.campaign.account_id
        zone = "UTC" if share is None else share.time_zone
        wanted = Cap(scope="campaign", window="rolling", length_ms=self._window_ms, limit=limit)
        (scope,) = CompiledCap(wanted, campaign_id, account).scopes("", (), None)
        seen = count(person, wanted, scope, context, zone)
        found = [] if share is None else blockers(person, share.caps, "", share.categories, context, zone)
        return CapStanding(seen, limit, tuple(map(describe, reasons_of(found or ()))))

    async def remaining(self, user_id: str, campaign_id: str, limit: int) -> int:
        """See `SessionGovernor.remaining`."""
        return (await self.check_frequency_cap(user_id, campaign_id, limit)).remaining

    async def track_budget(
        self,
        session_id: str,
        campaign_id: str,
        price_micros: int,
        spend_id: str,
        *,
        user_id: str | None = None,
        creative_id: str = "",
    ) -> Spend:
        """See `SessionGovernor.track_budget`."""
        change = SessionChange(change_id("spend", spend_id), impressions=1, spend_micros=price_micros)
        with asking_state():
            if await self._went_on(user_id or session_id, session_id, spend_id, change):
                return Spend(True, await self._standing(campaign_id))
        reasons: tuple[str, ...] = ()
        attempt, waited_s, wait_s = 0, 0.0, _FIRST_WAIT_S
        while True:
            request = AdRequest(
                request_id=spend_id if not attempt else f"{spend_id}~{attempt}",
                time_ms=self._clock_ms(),
                user_id=user_id,
                session_id=session_id,
                candidates=(
                    Candidate(
                        campaign_id=campaign_id,
                        creative_id=creative_id or campaign_id,
                        price_micros=price_micros,
                    ),
                ),
            )
            with asking_state():
                decision = await self._decider.decide(request)
                if decision.slots[0].winner is not None:
                    await self._show(decision.decision_id, decision.routing_id)
            reasons = _reasons(decision)
            if reasons != (ReasonCode.NO_LEASE.value,) or waited_s + wait_s > self._lease_wait_s:
                break
            await self._sleep(wait_s)
            attempt, waited_s, wait_s = attempt + 1, waited_s + wait_s, min(2 * wait_s, _LONGEST_WAIT_S)
        if not reasons:
            with asking_state():
                await self._tell(session_id, change)
        return Spend(not reasons, await self._standing(campaign_id), reasons)

    async def get_budget(self, campaign_id: str) -> BudgetStanding | None:
        """See `SessionGovernor.get_budget`."""
        with asking_state():
            names = [topics.user_shard(number) for number in range(await self._count())]
            read = await asyncio.gather(
                *(self._store.read_fields(name, "campaigns", [campaign_id]) for name in names)
            )
            shares = [CampaignShare.decode(value) for _, (value,) in read if value is not None]
            if not shares:
                return None
            _, (value,) = await self._store.read_fields(shares[0].treasury, "campaigns", [campaign_id])
        if value is None:
            return None
        held = sums_of(shares)
        known = TreasuryCampaign.decode(value)
        return BudgetStanding(
            campaign_id, known.campaign.currency, known.topped_up, held.spent, held.reserved
        )

    async def remaining_budget(self, campaign_id: str) -> int:
        """See `SessionGovernor.remaining_budget`; 0 for a campaign that is unknown."""
        return (await self._standing(campaign_id)).remaining_micros

    async def get_session_state(self, session_id: str) -> SessionState | None:
        """See `SessionGovernor.get_session_state`."""
        with asking_state():
            _, machine, person = await self._person(session_id)
        visit = person.visit
        unseen = self._unseen_of(session_id, [] if visit is None else visit.changes)
        if visit is not None and visit.until_ms <= machine.watermark_ms:
            visit = None
        if visit is None and not unseen:
            return None
        known = visit or Visit()
        state = SessionState(
            known.requests, known.impressions, tuple(known.pod_positions), known.spend_micros
        )
        for change in unseen:
            state = state.plus(change)
        return state

    async def update_session_state(self, session_id: str, change: SessionChange) -> SessionState:
        """See `SessionGovernor.update_session_state`."""
        with asking_state():
            await self._tell(session_id, change)
        # Where the time to live is over already, the change stands alone.
        return await self.get_session_state(session_id) or SessionState().plus(change)

    async def _tell(self, session_id: str, change: SessionChange) -> None:
        await self._decider.tell(session_update(session_id, change, self._clock_ms()))
        self._unseen[session_id, change.change_id] = change
        if len(self._unseen) > _MOST_UNSEEN:
            self._unseen.popitem(last=False)

    def _unseen_of(self, session_id: str, seen: list[str]) -> list[SessionChange]:
        """The changes of a session that this governor made and the store does not show."""
        for found in seen:
            self._unseen.pop((session_id, found), None)
        return [change for (session, _), change in self._unseen.items() if session == session_id]

    async def _show(self, decision_id: str, routing_id: str) -> None:
        await self._decider.tell(
            Impression(decision_id=decision_id, routing_id=routing_id, time_ms=self._clock_ms())
        )

    async def _went_on(self, routing_id: str, session_id: str, spend_id: str, change: SessionChange) -> bool:
        """Whether the spend was decided before; what was left of it to do is then done."""
        if (session_id, change.change_id) in self._unseen:
            return True
        _, _, session = await self._person(session_id)
        if session.visit is not None and change.change_id in session.visit.changes:
            return True
        _, machine, person = await self._person(routing_id)
        tries = re.compile(re.escape(spend_id) + r"(?:~[0-9]+)?")
        for serving in person.servings:
            if tries.fullmatch(serving.decision_id) and serving.counts(machine.watermark_ms):
                await self._show(serving.decision_id, routing_id)
                await self._tell(session_id, change)
                return True
        return False

    async def _person(self, routing_id: str) -> tuple[str, UserShard, Person]:
        shard = topics.user_shard(partition_of(routing_id.encode(), await self._count()))
        machine = await self._core(shard)
        _, (stored,) = await self._store.read_fields(shard, USERS, [routing_id])
        return shard, machine, Person.decode(stored)

    async def _standing(self, campaign_id: str) -> BudgetStanding:
        return await self.get_budget(campaign_id) or BudgetStanding(campaign_id, "", 0, 0)

    async def _core(self, shard: str) -> UserShard:
        machine = UserShard(shard, Rules())
        _, fields = await self._store.read_buckets(shard, ("core",))
        machine.restore(fields)
        return machine

    async def _count(self) -> int:
        if not self._partitions:
            machine = await self._core(topics.user_shard(0))
            if not machine.has_rules:
                return 1
            self._partitions = machine.rules.partitions
        return self._partitions


def session_update(session_id: str, change: SessionChange, time_ms: int) -> SessionUpdate:
    """The event of a session's change; of countless positions it names the first."""
    return SessionUpdate(
        type="session",
        routing_id=session_id,
        change_id=change.change_id,
        time_ms=time_ms,
        requests=change.requests,
        impressions=change.impressions,
        pod_positions=change.pod_positions[:MOST_POSITIONS],
        spend_micros=change.spend_micros,
    )


def _reasons(decision: Decision) -> tuple[str, ...]:
    """Why the one candidate did not win; nothing where it did."""
    found = [reason.code.value for loser in decision.losers for reason in loser.reasons]
    if not found and decision.slots[0].no_fill is not None:
        found = [decision.slots[0].no_fill.value]
    return tuple(dict.fromkeys(found))
