"""The error tree, divided by who is at fault.

    AdGovernorError
    ├── BadInput             what somebody gave us is wrong; says what, where and how to mend it
    │   ├── Undecodable      an event that is not what its topic promises (goes to the DLQ)
    │   └── BadSettings      a setting, or the set-up of a server, is wrong (nothing starts)
    │       └── NoTopics     topics are missing; somebody may be about to create them
    ├── Halted               a shard must not go on until a person has looked
    ├── Gap                  a reader misses messages of an output topic that no longer come
    ├── Unavailable          a server did not do what was asked; trying again later may help
    │   └── NoKafka          no broker could be talked to
    └── SessionError         of sessions with upstream ad servers: `adgovernor.sessions.errors` has the tree

Expected refusals (a cap, an exhausted budget) are values, never exceptions. Anything that is not in this tree is a bug
of ours; only `adgovernor.video`, which stands alone, has errors of its own, for documents that are not what they should
be.
"""

from __future__ import annotations

import re
from typing import Final


class AdGovernorError(Exception):
    """The root of every error that this project raises on purpose."""


class BadInput(AdGovernorError):
    """What somebody gave us is wrong. The message says what, where, and how to mend it."""


class Undecodable(BadInput):
    """An event's bytes are not what its topic promises.

    Attributes:
        reason: a short machine-readable code, such as ``not_json`` or ``invalid``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadSettings(BadInput):
    """A setting or a server's set-up is wrong, so the program refuses to start."""


class NoTopics(BadSettings):
    """Topics of a deployment do not exist, or not yet."""


class Halted(AdGovernorError):
    """A shard stopped because going on could lose or double money.

    Attributes:
        shard: the shard, such as ``u3`` or ``t0``.
        reason: a short machine-readable code, such as ``ledger_truncated``.
    """

    def __init__(self, shard: str, reason: str, message: str) -> None:
        super().__init__(f"shard {shard} halted ({reason}): {message}")
        self.shard = shard
        self.reason = reason


class Gap(AdGovernorError):
    """Messages of an output topic are missing and no longer come: the topic lost or expired them.

    Attributes:
        topic: the logical name.
        partition: where they are missing.
        expected: the number that should come next.
        seen: the least number beyond it that was seen; None where the topic ends before the reader's position.
    """

    def __init__(self, topic: str, partition: int, expected: int, seen: int | None, message: str) -> None:
        super().__init__(f"{topic}[{partition}]: {message}")
        self.topic = topic
        self.partition = partition
        self.expected = expected
        self.seen = seen


class Unavailable(AdGovernorError):
    """A server could not be reached, or did not answer before the deadline."""


class NoKafka(Unavailable):
    """No broker could be talked to. Whether it was the password, a certificate or the address, the Kafka client
    says only in its log (logger ``aiokafka``).

    Attributes:
        tls: whether it was tried with TLS.
    """

    def __init__(self, message: str, *, tls: bool) -> None:
        super().__init__(message)
        self.tls = tls


_NO_BROKER: Final = re.compile(r"Unable to bootstrap from \[.*\]")


def told_by(error: Exception) -> str:
    """What a client's error says. One of a wait that took too long says nothing by itself, and the Kafka client's of
    brokers that it could not talk to says its tries as Python writes them."""
    if isinstance(error, TimeoutError):
        return str(error) or "no answer in time"
    return _NO_BROKER.sub("no broker can be talked to", str(error)) or repr(error)
