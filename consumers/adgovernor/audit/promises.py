"""What a ledger says was published, and whether a message on a topic is that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import ReadBlock
from adgovernor.contracts.sealing import is_sealed
from adgovernor.runtime.outputs import outputs_of
from adgovernor.runtime.ports import Output
from adgovernor.subscribe.kafka import RawMessage

_EXPLAINS = "ag_message"
"""May quote the person's input, so it is sealed with it."""


@dataclass(frozen=True, slots=True)
class Promise:
    """An output that a block has."""

    height: int
    output: Output
    erased: bool = False
    """It is about somebody who was erased since: whom it names is not known any more, what it says otherwise is."""

    def kept_by(self, message: RawMessage) -> bool:
        """Whether the message is this output."""
        wanted = self.output
        if not self.erased:
            return (message.key, message.value) == (wanted.key, wanted.value) and (
                list(message.headers) == list(wanted.headers)
            )
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
            promises.append(Promise(height, output, erased))
    return promises


def _without_message(headers: Any) -> dict[str, bytes]:
    return {name: value for name, value in headers if name != _EXPLAINS}
