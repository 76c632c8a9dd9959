"""What a ledger says was published, and whether a message on a topic is that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import ReadBlock
from adgovernor.contracts.sealing import is_sealed
from adgovernor.runtime.outputs import outputs_of
from adgovernor.runtime.ports import Output
from adgovernor.subscribe.kafka import RawMessage

_EXPLAINS = "ag_message"
"""May quote the person's input, so it is sealed with it."""
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Promise:
    """An output that a block has. A shard's are in memory until its topics were read, so of each there is a digest."""

    height: int
    topic: str
    digest: bytes
    erased: Output | None = None
    """Where it is about somebody who was erased since: whom it names is not known any more, what it says otherwise
    is."""

    @classmethod
    def of(cls, height: int, output: Output, *, erased: bool) -> Promise:
        """The promise of an output."""
        digest = _digest(output.key, output.value, output.headers)
        return cls(height, output.topic, digest, output if erased else None)

    def kept_by(self, message: RawMessage) -> bool:
        """Whether the message is this output."""
        wanted = self.erased
        if wanted is None:
            return self.digest == _digest(message.key, message.value, message.headers)
        if wanted.topic.endswith(topics.DLQ):
            # Its key and value are the input's own bytes, which nobody can read any more.
            return _without_message(message.headers) == _without_message(wanted.headers)
        try:
            said, promised = orjson.loads(message.value or b""), orjson.loads(wanted.value or b"")
            routing = said.pop("routing_id")
            promised.pop("routing_id")
            names = str(routing).encode()
        except (orjson.JSONDecodeError, AttributeError, KeyError):
            return False
        return bool(
            said == promised and message.key == names and list(message.headers) == list(wanted.headers)
        )


def promises_of(block: ReadBlock) -> list[Promise]:
    """All public outputs of a block, in order."""
    height = block.header.height
    known = outputs_of(block)
    promises: list[Promise] = []
    at = 0
    for output in outputs_of(block, fill=True) if any(map(is_sealed, block.records)) else known:
        erased = at == len(known) or output != known[at]
        at += not erased
        if output.topic not in topics.SIDE_TOPICS:
            promises.append(Promise.of(height, output, erased=erased))
    return promises


def _digest(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> bytes:
    """Of a message: its parts are preceded by their lengths, so that no other parts give the same bytes."""
    found = blake2b(digest_size=_DIGEST_BYTES)
    for part in (key, value, *(part for name, told in headers for part in (name.encode(), told))):
        found.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return found.digest()


def _without_message(headers: Any) -> dict[str, bytes]:
    return {name: value for name, value in headers if name != _EXPLAINS}
