"""Events out of a log: the end that is meant, what comes before a gap, and ads that come twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import pytest

from adgovernor.contracts import topics
from adgovernor.contracts.ads import Ad
from adgovernor.contracts.decisions import Decision, DecisionSlot, ReasonCode
from adgovernor.contracts.errors import BadInput, Undecodable
from adgovernor.subscribe import AdReader, Gap, Position, SharedSubscriber, Subscriber
from adgovernor.subscribe.kafka import RawMessage


class Kept:
    """A topic of one partition that holds these values; what it reads at once is all of them."""

    full_name = "kept"

    def __init__(self, values: Sequence[bytes], end: int | None = None) -> None:
        self._values = values
        self._end = len(values) if end is None else end
        """The end that it tells; what is behind came later."""
        self.next = {0: 0}
        self.beginnings = {0: 0}

    def reader(self, topic: str) -> Self:
        """Itself."""
        return self

    async def open(self) -> list[int]:
        return [0]

    async def close(self) -> None:
        pass

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, self._end)

    async def read_from(self, offsets: Mapping[int, int]) -> None:
        self.next = dict(offsets)

    async def read(self, max_messages: int, wait_s: float) -> list[RawMessage]:
        first, self.next = self.next[0], {0: len(self._values)}
        return [
            RawMessage(0, offset, 0, None, value, ())
            for offset, value in enumerate(self._values)
            if offset >= first
        ]


def decision(number: int) -> bytes:
    """The decision with this number in its partition."""
    found = Decision(
        decision_id=f"d{number}",
        routing_id="u",
        time_ms=1,
        slots=(DecisionSlot(slot=0, no_fill=ReasonCode.CAPPED),),
        shard="u0",
        height=1,
        index=0,
        dn=number,
    )
    return found.model_dump_json().encode()


def ad(decision_id: str) -> bytes:
    """What the first slot of this decision came to."""
    found = Ad(
        decision_id=decision_id,
        slot=0,
        routing_id="u",
        time_ms=1,
        deadline_ms=2,
        campaign_id="c",
        creative_id="x",
        tag_url="http://tag/",
        session_id="u",
        resolved_ms=1,
    )
    return found.model_dump_json().encode()


async def test_reading_stops_at_the_end_that_there_was() -> None:
    """What came while it was read is left for the next reading."""
    kept = Kept([decision(1), decision(2), decision(3)], end=2)
    async with Subscriber[Decision](kept, topics.DECISIONS, until_end=True) as decisions:
        assert [found.decision_id async for found in decisions] == ["d1", "d2"]
        assert decisions.positions()[0].offset == 2


async def test_what_is_before_a_gap_is_delivered() -> None:
    """A missing event ends the reading once everything before it was delivered."""
    kept = Kept([decision(1), decision(3)])
    async with Subscriber[Decision](kept, topics.DECISIONS, gap_patience_s=0.0) as decisions:
        events = aiter(decisions)
        assert (await anext(events)).decision_id == "d1"
        with pytest.raises(Gap, match="number 2 is missing"):
            await anext(events)


async def test_a_start_behind_the_end_is_told_at_once() -> None:
    """A position that the topic has not reached is of another topic, or of one that lost its tail."""
    with pytest.raises(Gap, match="the start given is offset 5, but the topic ends at 1"):
        async with Subscriber[Decision](Kept([decision(1)]), topics.DECISIONS, start={0: Position(5, 5)}):
            pass


async def test_an_event_that_only_a_newer_release_understands_ends_the_reading() -> None:
    """It has the next number, so passing over it would lose it; what has no number of ours is somebody else's."""
    kept = Kept([b"hello", b'{"dn":1,"whatever":true}', decision(2)])
    async with Subscriber[Decision](kept, topics.DECISIONS) as decisions:
        with pytest.raises(Undecodable, match=r"offset 1: .*a newer release wrote it"):
            await anext(aiter(decisions))
        assert decisions.foreign == 1


async def test_a_batch_that_was_given_is_not_given_again() -> None:
    """Whoever stops taking batches and begins again goes on behind the last."""
    kept = Kept([decision(1), decision(2)])
    async with Subscriber[Decision](kept, topics.DECISIONS, until_end=True) as decisions:
        async for batch in decisions.batches():
            assert [found.decision_id for found in batch] == ["d1", "d2"]
            break
        assert [batch async for batch in decisions.batches()] == []


async def test_an_ad_that_comes_again_is_known_for_a_while() -> None:
    """Of the latest ads a repetition is not delivered; memory holds no more of them than it was given room for."""
    kept = Kept([ad(name) for name in ("a", "b", "b", "c", "b", "a")])
    async with AdReader(kept, until_end=True, remembered=2) as ads:
        assert [found.decision_id async for found in ads] == ["a", "b", "c", "a"]
        assert ads.repeated == 2


async def test_ads_are_read_to_the_end_that_there_was() -> None:
    """Ads that came while the topic was read are left for the next reading."""
    kept = Kept([ad("d1"), ad("d2"), ad("d3")], end=2)
    async with AdReader(kept, until_end=True) as ads:
        assert [found.decision_id async for found in ads] == ["d1", "d2"]


@pytest.mark.parametrize(("start", "first"), [(None, "d3"), ({0: 1}, "d2")])
async def test_ads_are_read_from_now_on_where_no_start_is_named(
    start: dict[int, int] | None, first: str
) -> None:
    """Whoever wants only what comes next passes over what is there, but for partitions whose start is given."""
    kept = Kept([ad("d1"), ad("d2"), ad("d3")], end=2)
    async with AdReader(kept, start=start, from_end=True) as ads:
        assert (await anext(aiter(ads))).decision_id == first


async def test_a_subscriber_is_read_inside_its_own_context() -> None:
    """Reading one that was never opened says what is missing, and asks no server."""
    decisions = Subscriber[Decision]("127.0.0.1:1", topics.DECISIONS)
    with pytest.raises(BadInput, match="inside its own `async with`"):
        await anext(aiter(decisions))
    await decisions._reader.close()


def test_a_start_or_group_that_says_nothing_is_refused() -> None:
    """A word in place of positions, and a group without a name, are told before anything connects."""
    with pytest.raises(BadInput, match="start is 'now'; give positions by partition"):
        Subscriber[Decision]("127.0.0.1:1", topics.DECISIONS, start="now")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="group is empty; name it"):
        Subscriber[Decision]("127.0.0.1:1", topics.DECISIONS, group="")
    with pytest.raises(BadInput, match="group is empty; name it"):
        SharedSubscriber[Decision]("127.0.0.1:1", topics.DECISIONS, group="")
