"""Side messages as witnesses: found behind those of others, sent again, and gone on behind after a loss."""

from __future__ import annotations

import orjson
import pytest
from engine_kit import Deployment, until
from faulty import FaultyLog, FaultyStore, Truncated

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted
from adgovernor.runtime.memory_log import MemoryBroker
from adgovernor.runtime.ports import RawEvent
from adgovernor.runtime.recover import recover, resend


def noise(deployment: Deployment, count: int) -> None:
    """What other treasuries send to the same shard."""
    for number in range(1, count + 1):
        message = {
            "source": "t1",
            "destination": "u0",
            "number": number,
            "hash": "",
            "height": 1,
            "chain": "x",
        }
        deployment.broker.produce(topics.DIRECTIVES, 0, b"t1", orjson.dumps(message))


@pytest.mark.parametrize("others", [0, 49, 50, 5_000])
async def test_the_last_side_message_is_found_behind_those_of_others(others: int) -> None:
    """However much others have sent since, a directive that the ledger does not know gives its lost tail away, and
    recovery goes on behind it."""
    deployment, sent = await without_last_directives()
    deployment.store = FaultyStore()
    noise(deployment, others)
    with pytest.raises(Halted) as halted:
        await deployment.engine("t0").run()
    assert halted.value.reason == "ledger_truncated"
    told = await recover(deployment.world("t0"), why="a disk was lost")
    assert told.sent == {"u0": (sent[-1]["number"], sent[-1]["hash"])}


async def test_the_search_for_side_messages_ends_where_they_are_older_than_the_ledger() -> None:
    """Messages from long before the ledger's last block cannot be ahead of it: they are not gone through."""
    deployment = Deployment(1, store_deadline_s=0.05, skew_ms=30_000)
    noise(deployment, 50_000)
    deployment.clock.time_ms += 600_000
    deployment.start(["t0"])
    await deployment.settle()
    await deployment.stop()
    deployment.clock.time_ms += 60_000
    noise(deployment, 3_000)
    asked: list[int] = []
    log = CountingLog(deployment.broker, "t0", asked)
    engine = deployment.engine("t0", log=log)
    deployment.run(engine)
    await until(lambda: engine.ready)
    await deployment.stop()
    assert asked == [52_950, 50_950]


class CountingLog(FaultyLog):
    """Remembers where it was asked for what is before."""

    def __init__(self, broker: MemoryBroker, shard: str, asked: list[int]) -> None:
        super().__init__(broker, shard)
        self._asked = asked

    async def before(self, topic: str, partition: int, offset: int, count: int) -> tuple[list[RawEvent], int]:
        self._asked.append(offset)
        return await super().before(topic, partition, offset, count)


async def without_last_directives() -> tuple[Deployment, list[dict[str, object]]]:
    """A stopped deployment whose treasury lost the blocks behind its last directives; and all directives sent."""
    deployment = Deployment(1, store_deadline_s=0.05)
    deployment.broker = Truncated(1, deployment.clock)
    deployment.campaign("c1")
    deployment.start()
    await deployment.settle()
    kept = deployment.broker.end(topics.TREASURY_LEDGER, 0)
    deployment.campaign("c2")
    await deployment.settle()
    await deployment.stop()
    deployment.broker.cut(topics.TREASURY_LEDGER, 0, kept)
    return deployment, [
        orjson.loads(event.value or b"") for event in deployment.broker.read(topics.DIRECTIVES, 0, 0, 1000)
    ]


async def test_recovery_goes_on_behind_directives_that_were_sent() -> None:
    """A treasury that lost its tail continues the numbers of its directives, so that user shards take the next ones,
    and decides again what its inputs still hold."""
    deployment, sent = await without_last_directives()
    with pytest.raises(Halted) as halted:
        await deployment.engine("t0").run()
    assert halted.value.reason == "ledger_truncated"
    told = await recover(deployment.world("t0"), why="a disk was lost")
    assert told.sent == {"u0": (sent[-1]["number"], sent[-1]["hash"])}
    deployment.start()
    await deployment.settle()
    deployment.request("r1", campaigns=("c2",))
    await deployment.settle()
    assert deployment.decisions()[-1]["slots"][0]["winner"]["campaign_id"] == "c2"
    await deployment.stop()


async def test_what_a_side_topic_lost_is_sent_again() -> None:
    """A directive that its topic lost leaves a gap, after which nothing is taken; sent again, everything is."""
    deployment = Deployment(1, store_deadline_s=0.05)
    deployment.broker = Truncated(1, deployment.clock)
    deployment.campaign("c1")
    deployment.start()
    await deployment.settle()
    await deployment.stop()
    kept = deployment.broker.end(topics.DIRECTIVES, 0)
    deployment.campaign("c2")
    deployment.start(["t0"])
    await deployment.settle()
    deployment.broker.cut(topics.DIRECTIVES, 0, kept)
    deployment.campaign("c3")
    deployment.start(["u0"])
    await deployment.settle()
    kinds = [record.data["result"]["kind"] for block in deployment.ledger("u0") for record in block.records]
    assert "directive_gap" in kinds
    assert await resend(deployment.world("t0"), 1) > 0
    await deployment.settle()
    deployment.request("r1", campaigns=("c2",))
    deployment.request("r2", campaigns=("c3",))
    await deployment.settle()
    winners = [body["slots"][0]["winner"]["campaign_id"] for body in deployment.decisions()]
    assert winners == ["c2", "c3"]
    await deployment.stop()


async def test_a_treasury_goes_on_when_money_comes_back_twice() -> None:
    """A user shard that lost the end of its ledger returns money again: the treasury takes what it had leased, and
    records the rest as unaccounted."""
    deployment = Deployment(1, store_deadline_s=0.05)
    deployment.broker = Truncated(1, deployment.clock)
    deployment.campaign("c1", budget=10_000)
    deployment.start()
    await deployment.settle()
    kept = deployment.broker.end(topics.LEDGER, 0)
    await pause(deployment, "first")
    await deployment.stop()
    deployment.broker.cut(topics.LEDGER, 0, kept)
    with pytest.raises(Halted):
        await deployment.engine("u0").run()
    told = await recover(deployment.world("u0"), why="a disk was lost")
    assert "t0" in told.sent
    deployment.start()
    await deployment.settle()
    records = [record for block in deployment.ledger("t0") for record in block.records]
    unaccounted = [r.data["result"]["unaccounted"] for r in records if "unaccounted" in r.data["result"]]
    assert len(unaccounted) == 1
    await deployment.stop()


async def pause(deployment: Deployment, command_id: str) -> None:
    """Pauses the campaign by hand, so that its idle money is returned."""
    command = {
        "command": "pause",
        "account_id": "account-c1",
        "command_id": command_id,
        "time_ms": deployment.clock.time_ms,
        "campaign_id": "c1",
    }
    deployment.broker.produce(topics.CAMPAIGNS, None, b"account-c1", orjson.dumps(command))
    await deployment.settle()
