"""What is done about a log that lost acknowledged messages, undone one rule at a time."""

from __future__ import annotations

from typing import Any, Final

from tests.simulation.mutation import Mutation

from adgovernor.core import links
from adgovernor.core.treasury import Treasury
from adgovernor.runtime import recover, witnesses
from adgovernor.runtime.engine import ShardEngine


def one(name: str, rule: str, owner: Any, function: str, old: str, new: str) -> Mutation:
    return Mutation(name, rule, owner, function, ((old, new),), theme="losses")


LOSS: Final = (
    one(
        "stale-owner-believed",
        "A stale owner's decision that makes no sense is no bug, and no reason to halt",
        ShardEngine,
        "_prove_end",
        "        await commit(self._world, memory.walk, data, chain)\n",
        "",
    ),
    one(
        "witness-ignored",
        "A witness ahead of the ledger means that the log lost its tail: halt",
        witnesses,
        "ahead_of",
        "for witness in witnesses\n",
        "for witness in ()\n",
    ),
    one(
        "own-word-forgotten",
        "An owner remembers how far its ledger reached",
        witnesses,
        "check_reached",
        "    epoch, height, chain = world.reached\n",
        '    epoch, height, chain = 0, 0, ""\n',
    ),
    one(
        "lost-money-comes-back",
        "After an accepted loss: what nobody remembers to have leased is not money",
        Treasury,
        "_take_back",
        "leased = min(amount, known.leased.get(shard, {}).get(day, 0))",
        "leased = amount",
    ),
    one(
        "lost-history-is-required",
        "After an accepted loss: the next message of a shard that lost its own counts",
        recover,
        "_rejoin",
        "if not sources:",
        "if sources or not sources:",
    ),
    one(
        "numbers-of-lost-outputs-again",
        "After an accepted loss: outputs go on behind what was published",
        recover,
        "_ahead",
        "dn[witness.topic] = witness.number + 1",
        "pass",
    ),
    one(
        "numbers-of-lost-messages-again",
        "After an accepted loss: side messages go on behind what was sent",
        recover,
        "_ahead",
        "jumped[witness.destination] = (witness.number, witness.digest)",
        "pass",
    ),
    one(
        "lost-messages-waited-for",
        "What ledger and side topic both lost is said to be lost",
        links,
        "lost_messages",
        "for lost in range(sent.get(destination, FIRST)[0] + 1, number + 1)",
        "for lost in ()",
    ),
    one(
        "missing-not-sent-again",
        "What a side topic lost is sent again",
        recover,
        "resend",
        "await world.log.publish(outputs, world.settings.publish_deadline_s)",
        "pass",
    ),
)
