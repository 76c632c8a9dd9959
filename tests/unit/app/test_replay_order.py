"""The blocks of several ledgers, put in one order to be replayed."""

from __future__ import annotations

import pytest

from adgovernor.app.embedded import Embedded
from adgovernor.app.replay_commands import in_order
from adgovernor.audit.history import MemoryHistory
from adgovernor.contracts import topics
from adgovernor.contracts.events import Erasure
from adgovernor.contracts.requests import AdRequest
from adgovernor.core.rules import Rules
from adgovernor.runtime.clock import WallClock

PEOPLE = ("ann", "bob", "cy", "dee", "eli", "fay")


def request(name: str, number: int) -> AdRequest:
    return AdRequest(request_id=f"{name}-{number}", time_ms=WallClock().now_ms(), user_id=name)


@pytest.mark.parametrize("sealed", [False, True])
async def test_every_input_comes_once_in_the_order_of_the_clocks(sealed: bool) -> None:
    """Ledgers are merged by their owners' clocks, each in its own order; of a sealed one, what a person asked to be
    forgotten has neither key nor value any more."""
    async with Embedded(partitions=3, prefix="p", rules=Rules(sealing=sealed)) as governor:
        for number in range(2):
            for name in PEOPLE:
                await governor.decide(request(name, number))
        forgotten = Erasure(type="erasure", routing_id="bob", time_ms=WallClock().now_ms())
        await governor.publisher.user_event(forgotten)
        await governor.settle()
        blocks = [block async for block in in_order(MemoryHistory(governor.broker), "p")]
    places = [(block.header.shard, block.header.height) for block in blocks]
    assert {shard for shard, _ in places} == {
        make(p) for make in (topics.user_shard, topics.treasury_shard) for p in range(3)
    }
    # Shards are taken over at time 0. Of one time the treasuries' blocks come first: commands before requests.
    assert [shard for shard, _ in places[:6]] == ["t0", "t1", "t2", "u0", "u1", "u2"]
    for shard in {shard for shard, _ in places}:
        heights = [height for name, height in places if name == shard]
        assert heights == list(range(1, len(heights) + 1))
    clocks = [block.header.now_ms for block in blocks]
    assert clocks == sorted(clocks)
    inputs = [
        record.key() for block in blocks for record in block.records if record.topic == topics.AD_REQUESTS
    ]
    wanted = sorted(2 * [name.encode() for name in PEOPLE if not (sealed and name == "bob")])
    assert sorted(key for key in inputs if key is not None) == wanted
    assert len(inputs) == 2 * len(PEOPLE)
