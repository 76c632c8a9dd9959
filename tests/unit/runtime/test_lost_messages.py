"""Side messages that a topic lost after the ledger of their sender had lost them, too."""

from __future__ import annotations

import pytest
from engine_kit import Deployment
from faulty import Truncated

from adgovernor.audit.history import MemoryHistory
from adgovernor.audit.verify import audit
from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted
from adgovernor.runtime.recover import recover, resend


async def test_messages_that_nobody_has_any_more_are_given_up_by_sending_again() -> None:
    """A receiver that waits for messages which neither the sender's ledger nor the topic has goes on when the sender
    sends again: they are recorded as lost, what they were about is decided anew, and every cent is accounted for."""
    deployment = Deployment(1, store_deadline_s=0.05)
    broker = deployment.broker = Truncated(1, deployment.clock)
    deployment.campaign("c1")
    deployment.start()
    await deployment.settle()
    await deployment.stop()
    ledger, side = broker.end(topics.TREASURY_LEDGER, 0), broker.end(topics.DIRECTIVES, 0)
    deployment.campaign("c2")
    deployment.start(["t0"])
    await deployment.settle()
    await deployment.stop()
    broker.cut(topics.TREASURY_LEDGER, 0, ledger)
    with pytest.raises(Halted):
        await deployment.engine("t0").run()
    assert "u0" in (await recover(deployment.world("t0"), why="a disk was lost")).sent
    broker.cut(topics.DIRECTIVES, 0, side)

    deployment.start()
    await deployment.settle()
    assert "directive_gap" in _kinds(deployment)
    await resend(deployment.world("t0"), 1)
    await deployment.settle()
    deployment.request("r1", campaigns=("c2",))
    await deployment.settle()
    assert deployment.decisions()[-1]["slots"][0]["winner"]["campaign_id"] == "c2"
    assert "directive_lost" in _kinds(deployment)
    await deployment.stop()
    report = await audit(MemoryHistory(broker), "test", deployment.store)
    assert report.found["links"] == report.found["money"] == 0
    assert not [note for note in report.notes if "under way" in note]


def _kinds(deployment: Deployment) -> list[str]:
    return [record.data["result"]["kind"] for block in deployment.ledger("u0") for record in block.records]
