"""What a publisher puts on its topics, in the order of the calls, whatever the calls have to wait for."""

from __future__ import annotations

import asyncio

import pytest
from taking_log import TakingLog

from adgovernor.contracts import topics
from adgovernor.contracts.decisions import Decision, DecisionSlot, ReasonCode, Winner
from adgovernor.contracts.errors import BadInput, BadSettings, Unavailable
from adgovernor.contracts.events import Impression
from adgovernor.publish import Bulk, Publisher
from adgovernor.publish import publisher as publisher_module
from adgovernor.publish.lanes import Published, Ticket


class Slow(TakingLog):
    """Its look-ups end in the opposite order of their beginnings, and it has room for three messages."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.stuck = False
        self._held: list[Ticket] = []

    async def partitions(self, full_name: str) -> int:
        self.looks += 1
        await asyncio.sleep(0.05 / self.looks)
        return 1

    def has_room(self) -> bool:
        return len(self._held) < 3 and not self.stuck

    def acknowledge(self, ticket: Ticket, place: Published) -> None:
        self._held.append(ticket)
        asyncio.get_running_loop().call_later(0.001, self._acknowledge_oldest, place)

    def _acknowledge_oldest(self, place: Published) -> None:
        self._held.pop(0).acknowledged(place)

    async def room(self, deadline_s: float) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                while not self.has_room():  # noqa: ASYNC110 - its own state, without an event
                    await asyncio.sleep(0.0005)
        except TimeoutError:
            raise Unavailable("no room") from None


async def test_calls_made_at_once_go_in_their_order() -> None:
    """The first calls, each of which would look the topic up, and those that wait for room, go in order."""
    log = Slow()
    values = [b"%d" % n for n in range(60)]
    async with Publisher(log) as publisher:
        await asyncio.gather(*(publisher.raw(topics.AD_REQUESTS, b"ann", value) for value in values))
    assert log.taken == values
    assert log.looks == 1


async def test_calls_behind_one_that_waits_end_in_time() -> None:
    """Where nothing is taken, every call ends within the deadline, not one after the other."""
    log = Slow()
    log.stuck = True
    async with asyncio.timeout(5), Publisher(log, deadline_s=0.1) as publisher:
        calls = (publisher.raw(topics.AD_REQUESTS, b"ann", b"x") for _ in range(100))
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [Unavailable] * 100


async def test_who_comes_when_there_is_room_again_waits_behind_who_waited() -> None:
    """A call does not overtake one that has not yet seen that there is room."""
    log = Slow()
    async with Publisher(log) as publisher:
        await publisher.raw(topics.AD_REQUESTS, b"ann", b"first")
        log.stuck = True
        waiting = asyncio.create_task(publisher.raw(topics.AD_REQUESTS, b"ann", b"waited"))
        await asyncio.sleep(0)
        log.stuck = False
        await asyncio.gather(publisher.raw(topics.AD_REQUESTS, b"ann", b"later"), waiting)
    assert log.taken == [b"first", b"waited", b"later"]


async def test_topics_that_disagree_are_not_published_to() -> None:
    """One person's events would meet on no shard where topics have different numbers of partitions."""

    class Uneven(TakingLog):
        async def partitions(self, full_name: str) -> int:
            return 2 if full_name.endswith(topics.IMPRESSIONS) else 1

    log = Uneven()
    async with Publisher(log) as publisher:
        await publisher.raw(topics.AD_REQUESTS, b"ann", b"x")
        with pytest.raises(BadSettings, match="has 2 partitions, the deployment has 1"):
            await publisher.raw(topics.IMPRESSIONS, b"ann", b"y")
    assert log.taken == [b"x"]


async def test_only_filled_slots_are_shown() -> None:
    """A slot without a winner was not shown."""
    winner = Winner(
        campaign_id="c", creative_id="x", account_id="a", price_micros=5, currency="USD", deadline_ms=61_000
    )
    slots = DecisionSlot(slot=0, no_fill=ReasonCode.CAPPED), DecisionSlot(slot=1, winner=winner)
    decision = Decision(
        decision_id="d", routing_id="u", time_ms=1, slots=slots, shard="u0", height=1, index=0, dn=1
    )
    log = TakingLog()
    async with Publisher(log) as publisher:
        assert await publisher.shown(decision, 2) == 1
    assert [Impression.model_validate_json(value or b"").slot for value in log.taken] == [1]


@pytest.mark.parametrize("partition", [-1, 1])
async def test_a_partition_that_is_not_there_is_refused(partition: int) -> None:
    """A partition that somebody names must be one of the topic's."""
    log = TakingLog()
    async with Publisher(log) as publisher:
        with pytest.raises(BadInput, match=f"has partitions 0 to 0, not {partition}"):
            await publisher.raw(topics.AD_REQUESTS, b"ann", b"x", partition=partition)
    assert log.taken == []


async def test_of_messages_under_way_none_counts_before_all_are_acknowledged() -> None:
    """How far a bulk has come is what Kafka has, so that nothing is left out when somebody goes on from there."""

    class Silent(TakingLog):
        """Acknowledges when it is told to."""

        def __init__(self) -> None:
            super().__init__()
            self.waiting: list[Ticket] = []

        def acknowledge(self, ticket: Ticket, place: Published) -> None:
            self.waiting.append(ticket)

    log = Silent()
    async with Publisher(log) as publisher:
        bulk = Bulk(publisher, topics.AD_REQUESTS)
        for value in (b"a", b"b"):
            await bulk.put(b"ann", value, [])
        seen = []
        for ticket in log.waiting:
            seen.append(bulk.reached())
            ticket.acknowledged(Published(topics.AD_REQUESTS, 0, 0))
        assert [*seen, bulk.reached()] == [0, 0, 2]
        await bulk.finish()
    assert bulk.acknowledged == 2


class Draining(TakingLog):
    """Counts how often it is waited for in the end."""

    drained = 0

    async def drain(self, deadline_s: float) -> None:
        self.drained += 1


async def test_whoever_leaves_by_an_error_waits_for_nothing() -> None:
    """A publisher's end waits for what is under way, but not where its caller has failed."""
    log = Draining()
    async with Publisher(log):
        pass
    assert log.drained == 1
    with pytest.raises(ZeroDivisionError):
        async with Publisher(log):
            raise ZeroDivisionError
    assert log.drained == 1


class Silent(TakingLog):
    """Takes everything and acknowledges nothing."""

    def acknowledge(self, ticket: Ticket, place: Published) -> None:
        pass


async def test_a_bulk_is_never_far_ahead_of_what_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever publishes many messages waits once so many slices are under way, so that memory stays bounded."""
    monkeypatch.setattr(publisher_module, "SLICE", 2)
    monkeypatch.setattr(publisher_module, "_SLICES_UNDER_WAY", 3)
    log = Silent()
    async with Publisher(log, deadline_s=0.05) as publisher:
        with pytest.raises(Unavailable, match="did not acknowledge"):
            await publisher.impressions(
                Impression(decision_id=f"d{number}", routing_id="ann", time_ms=1) for number in range(100)
            )
    assert len(log.taken) == 2 * (3 + 1)


class Refusing(TakingLog):
    """Refuses what is bad."""

    def acknowledge(self, ticket: Ticket, place: Published) -> None:
        if self.taken[-1] == b"bad":
            ticket.fail(Unavailable("refused"))
        else:
            super().acknowledge(ticket, place)


async def test_a_bulk_has_come_as_far_as_the_first_slice_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is acknowledged behind something that was not is published again, so it does not count."""
    monkeypatch.setattr(publisher_module, "SLICE", 2)
    async with Publisher(Refusing()) as publisher:
        bulk = Bulk(publisher, topics.AD_REQUESTS)
        for value in (b"1", b"2", b"bad", b"4", b"5", b"6"):
            await bulk.put(b"ann", value, [])
        await asyncio.sleep(0)
        assert bulk.reached() == 2
        with pytest.raises(Unavailable, match="refused"):
            await bulk.finish()
        bulk.abandon()
