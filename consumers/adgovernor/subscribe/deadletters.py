"""Dead letters: inputs that a shard could not use, with their bytes untouched and the reason in the headers."""

from __future__ import annotations

from dataclasses import dataclass

from adgovernor.contracts.errors import Undecodable
from adgovernor.subscribe.kafka import RawMessage


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message of a ``.dlq`` topic.

    Attributes:
        reason: a short code, such as ``not_json``.
        topic: the input topic (logical name) that it came from; with ``partition`` and ``offset``.
        time_ms: when the shard met it.
        key: the input's key, and ``value`` its value, byte for byte.
        shard: who refused it; with ``height`` and ``index`` the place of the record in the ledger.
        dn: the letter's number in its partition of the dead-letter topic.
    """

    reason: str
    message: str
    topic: str
    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    shard: str
    height: int
    index: int
    dn: int


def dead_letter_of(message: RawMessage) -> DeadLetter:
    """The dead letter in a message.

    Raises:
        Undecodable: where the headers are not a worker's.
    """
    fields = {
        name[3:]: raw.decode("utf-8", "replace") for name, raw in message.headers if name.startswith("ag_")
    }
    try:
        return DeadLetter(
            reason=fields["reason"],
            message=fields["message"],
            topic=fields["topic"],
            partition=int(fields["partition"]),
            offset=int(fields["offset"]),
            time_ms=int(fields["time_ms"]),
            key=message.key,
            value=message.value,
            shard=fields["shard"],
            height=int(fields["height"]),
            index=int(fields["index"]),
            dn=int(fields["dn"]),
        )
    except (KeyError, ValueError) as error:
        raise Undecodable("invalid", f"no dead letter: its headers lack or spoil {error}") from error
