"""An ad server on the SDKs: ask, take the answer, say that it was shown.

    python deploy/examples/ad_server.py                       in one process, without servers
    python deploy/examples/ad_server.py HOST:PORT PREFIX      on a deployment whose workers run

It offers the campaign `coffee`, which it defines first. The three lines that matter are those of `serve`.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid

from adgovernor import subscribe
from adgovernor.app.embedded import Embedded
from adgovernor.contracts.campaigns import Campaign, UpsertCampaign
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.events import Impression
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.publish import Publisher


def now_ms() -> int:
    """The time, in the unit of every event."""
    return time.time_ns() // 1_000_000


class AdServer:
    """Answers pages; one task listens to the decisions for all of them."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.answers: dict[str, asyncio.Future[Decision]] = {}

    async def listen(self, decisions: subscribe.Subscriber[Decision]) -> None:
        """Hands each decision to the page that waits for it. Kept positions would let it start where it ended."""
        async for decision in decisions:
            answer = self.answers.pop(decision.decision_id, None)
            if answer is not None:
                answer.set_result(decision)

    async def serve(self, person: str) -> str:
        """The creative to show to a person; empty where there is none."""
        request = AdRequest(
            request_id=str(uuid.uuid4()),
            time_ms=now_ms(),
            user_id=person,
            candidates=(Candidate(campaign_id="coffee", creative_id="coffee-1"),),
        )
        answer = self.answers[request.request_id] = asyncio.get_running_loop().create_future()
        await self.publisher.ad_request(request)
        decision = await asyncio.wait_for(answer, 10.0)
        winner = decision.slots[0].winner
        if winner is None:
            return ""
        await self.publisher.impression(
            Impression(decision_id=decision.decision_id, routing_id=decision.routing_id, time_ms=now_ms())
        )
        return str(winner.creative_id)


async def run(log: str | Embedded, prefix: str) -> None:
    """Serves five people. ``log``: Kafka's address, or a deployment in this process."""
    coffee = Campaign(
        campaign_id="coffee", account_id="roastery", price_micros=20_000, budget_micros=10_000_000
    )
    async with (
        Publisher(log, prefix=prefix) as publisher,
        subscribe.campaign_changes(log, prefix=prefix) as changes,
        subscribe.decisions(log, prefix=prefix) as decisions,
    ):
        command = UpsertCampaign(
            command="upsert", command_id=str(uuid.uuid4()), account_id="roastery", campaign=coffee
        )
        await publisher.command(command)
        async for change in changes:
            if change.command_id == command.command_id:
                print(f"campaign accepted: {change.accepted}")
                break
        server = AdServer(publisher)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(server.listen(decisions))
            for person in ("ann", "bob", "cy", "dee", "eli"):
                print(f"{person} sees {await server.serve(person) or 'nothing'}")
            listening.cancel()


async def main() -> None:
    """On Kafka where one is named, else in this process."""
    if len(sys.argv) > 1:
        address, prefix = (*sys.argv[1:], "adgovernor")[:2]
        await run(address, prefix)
    else:
        async with Embedded() as governor:
            await run(governor, "")


if __name__ == "__main__":
    asyncio.run(main())
