"""The topics beside a ledger: a shard's inputs and outputs, read in step with its blocks.

What a block says is compared as soon as the block was decided again, so that of a history of any length a few blocks
and a few messages of each topic are in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from adgovernor.audit.history import History
from adgovernor.audit.report import Report
from adgovernor.contracts import topics
from adgovernor.contracts.ledger import ReadBlock
from adgovernor.contracts.sealing import is_sealed
from adgovernor.runtime.outputs import outputs_of
from adgovernor.runtime.ports import Output
from adgovernor.subscribe.kafka import RawMessage

_EXPLAINS: Final = "ag_message"
"""May quote the person's input, so it is sealed with it."""
_BEGINNING: Final = 64
"""Among so many messages of a topic whose beginning has expired one is looked for that the ledger promised."""


class Cause(NamedTuple):
    """What a record says of its input."""

    topic: str
    offset: int
    key: bytes | None
    value: bytes | None
    erased: bool
    """Nobody can read any more what it was."""


class Promise(NamedTuple):
    """A public output that a block has."""

    output: Output
    erased: bool
    """It is about somebody who was erased since: whom it names is not known any more, what it says otherwise is."""

    def kept_by(self, message: RawMessage) -> bool:
        """Whether the message is this output."""
        wanted = self.output
        if not self.erased:
            return (
                message.value == wanted.value
                and message.key == wanted.key
                and list(message.headers) == list(wanted.headers)
            )
        if wanted.topic in topics.DLQS:
            # Its key and value are the input's own bytes, which nobody can read any more.
            return _without_message(message.headers) == _without_message(wanted.headers)
        try:
            said, promised = orjson.loads(message.value or b""), orjson.loads(wanted.value or b"")
            routing = said.pop("routing_id")
            promised.pop("routing_id")
            names = str(routing).encode()
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
            return False
        return bool(
            said == promised and message.key == names and list(message.headers) == list(wanted.headers)
        )


def _without_message(headers: Any) -> dict[str, bytes]:
    return {name: value for name, value in headers if name != _EXPLAINS}


def promises_of(outputs: Iterable[Output]) -> list[Promise]:
    """The public ones among a block's outputs, in order."""
    return [Promise(output, False) for output in outputs if output.topic not in topics.SIDE_TOPICS]


def promises_with_erased(block: ReadBlock) -> list[Promise]:
    """All public outputs of a block with records that nobody can read any more, in order."""
    known = outputs_of(block)
    promises: list[Promise] = []
    at = 0
    for output in outputs_of(block, fill=True) if any(map(is_sealed, block.records)) else known:
        erased = at == len(known) or output != known[at]
        at += not erased
        if output.topic not in topics.SIDE_TOPICS:
            promises.append(Promise(output, erased))
    return promises


class _Reading:
    """A partition, read on as it is asked for."""

    def __init__(self, messages: AsyncIterator[RawMessage]) -> None:
        self._messages = messages
        self._ahead: deque[RawMessage] = deque()

    async def next(self) -> RawMessage | None:
        """The next message; None at the end."""
        return self._ahead.popleft() if self._ahead else await anext(self._messages, None)

    def put_back(self, messages: Iterable[RawMessage]) -> None:
        """These come next again, in this order."""
        self._ahead.extendleft(reversed(list(messages)))


class Inputs:
    """A shard's inputs: each has one record, with the input's bytes."""

    def __init__(self, history: History, shard: str, report: Report) -> None:
        self._report = report
        self._partition = topics.partition_of_shard(shard)
        self._readings = {
            topic: _Reading(history.messages(topic, self._partition)) for topic in topics.input_topics(shard)
        }
        self._next = dict.fromkeys(self._readings, 0)

    async def take(self, causes: Iterable[Cause], positions: Mapping[str, int], place: str) -> None:
        """Compares what a block's records say of their inputs. ``positions``: the block's own."""
        report, same = self._report, 0
        for topic, offset, key, value, erased in causes:
            if not self._next.get(topic, offset + 1) <= offset < positions.get(topic, 0):
                report.fault("inputs", place, f"{topic} offset {offset}: {self._misplaced(topic, offset)}")
                continue
            self._next[topic] = offset + 1
            message = await self._at(topic, offset)
            if message is None:
                continue  # The topic's retention has taken it.
            if erased:
                report.count("inputs of erased people")
            elif message.value == value and message.key == key:
                same += 1
            else:
                report.fault(
                    "inputs",
                    self._place(topic, offset),
                    "the input on the topic is not the one that the ledger recorded",
                )
        if same:
            report.count("inputs", same)

    def _misplaced(self, topic: str, offset: int) -> str:
        known = self._next.get(topic)
        if known is None:
            return "this is no input of the shard"
        return (
            "this input has a second record"
            if offset < known
            else "the record is beyond the block's positions"
        )

    async def _at(self, topic: str, offset: int) -> RawMessage | None:
        """The message at an offset; None where it is not on the topic. Those before it have no record."""
        reading = self._readings[topic]
        while (message := await reading.next()) is not None:
            if message.offset == offset:
                return message
            if message.offset > offset:
                reading.put_back((message,))
                return None
            self._unrecorded(topic, message.offset)
        return None

    def _unrecorded(self, topic: str, offset: int) -> None:
        self._report.fault("inputs", self._place(topic, offset), "this input has no record in the ledger")

    def _place(self, topic: str, offset: int) -> str:
        return f"{topic}[{self._partition}] offset {offset}"

    async def finish(self, positions: Mapping[str, int]) -> None:
        """Looks through what the topics have beyond the last record."""
        for topic, reading in self._readings.items():
            end, waiting = positions.get(topic, 0), 0
            while (message := await reading.next()) is not None:
                if message.offset < end:
                    self._unrecorded(topic, message.offset)
                else:
                    waiting += 1
            if waiting:
                self._report.notes.append(f"{topic}[{self._partition}]: {waiting} inputs are not handled yet")


class _OutputTopic:
    """One topic's part of `Outputs`."""

    def __init__(self, reading: _Reading, *, cut: bool) -> None:
        self._reading = reading
        self._beginning = cut
        """The topic's beginning has expired, and what is left has not been found among what was promised so far."""
        self._first: list[RawMessage] | None = None
        self._unmet: deque[int] = deque()
        """Heights of what was promised meanwhile and may not be published yet."""
        self.number = 0
        """Of the last output promised."""
        self.expired = 0
        self.kept = 0
        self.erased = 0
        self.missing: tuple[int, int] | None = None
        """Height and number of the first output that is not there."""

    async def expect(self, height: int, promise: Promise, published: int) -> None:
        """Finds the next output on the topic."""
        self.number += 1
        if self._beginning:
            await self._look_for_beginning(height, promise, published)
            return
        if self.missing is not None:
            return
        while (message := await self._reading.next()) is not None:
            if promise.kept_by(message):
                self._found(promise)
                return
        self.missing = (height, self.number)

    def _found(self, promise: Promise) -> None:
        self.kept += 1
        self.erased += promise.erased

    async def _look_for_beginning(self, height: int, promise: Promise, published: int) -> None:
        """What is left of the topic begins with some output, not with the first."""
        if self._first is None:
            self._first = []
            while len(self._first) < _BEGINNING and (message := await self._reading.next()) is not None:
                self._first.append(message)
        for at, message in enumerate(self._first):
            if promise.kept_by(message):
                self._reading.put_back(self._first[at + 1 :])
                self._beginning, self._first = False, None
                self.expired = self.number - 1
                self._found(promise)
                return
        self._unmet.append(height)
        self._expire(published)

    def _expire(self, published: int) -> None:
        while self._unmet and self._unmet[0] <= published:
            self._unmet.popleft()
            self.expired += 1

    def finish(self, published: int) -> None:
        """Where nothing of what is left was found, all that was published has expired."""
        if self._beginning:
            self._expire(published)
            if self._unmet:
                self.missing = (self._unmet[0], self.expired + 1)


class Outputs:
    """What a shard's blocks promised is on the public topics, each at least once and in order."""

    def __init__(self, history: History, shard: str, report: Report) -> None:
        self._history = history
        self._report = report
        self._partition = topics.partition_of_shard(shard)
        self._topics: dict[str, _OutputTopic] = {}

    async def take(self, height: int, promises: Iterable[Promise], published: int) -> None:
        """Compares a block's public outputs. ``published``: the height up to which all are acknowledged, as far as is
        known by then."""
        for promise in promises:
            name = promise.output.topic
            topic = self._topics.get(name)
            if topic is None:
                topic = self._topics[name] = _OutputTopic(
                    _Reading(self._history.messages(name, self._partition)),
                    cut=await self._history.first(name, self._partition) > 0,
                )
            await topic.expect(height, promise, published)

    def finish(self, published: int) -> None:
        """Says what was found. ``published``: the height up to which all outputs are acknowledged."""
        report = self._report
        for name, topic in self._topics.items():
            topic.finish(published)
            report.count(f"outputs on {name}", topic.kept)
            if topic.expired:
                report.notes.append(
                    f"{name}[{self._partition}]: {topic.expired} outputs have expired by the topic's retention, and "
                    "are not compared"
                )
            if topic.erased:
                report.count("outputs about erased people, compared but for whom they name", topic.erased)
            if topic.missing is None:
                continue
            height, number = topic.missing
            place = f"{name}[{self._partition}], number {number}"
            if height <= published:
                report.fault("outputs", place, f"the output of height {height} is not on the topic")
            else:
                left = topic.number - number + 1
                report.notes.append(f"{place} on: {left} outputs are not acknowledged yet")
