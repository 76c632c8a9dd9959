"""From an accepted block to the messages that leave it. Pure, and the same for live work, takeover and audit."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

import orjson
from msgspec import Struct

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import BlockHeader, ReadBlock, ReadRecord
from adgovernor.contracts.sealing import is_sealed, key_names
from adgovernor.core.links import message_of
from adgovernor.core.machine import Input
from adgovernor.runtime.ports import Output

Row = tuple[int, list[Any], list[Any], str | None, Input | ReadRecord | None]
"""A record that sends something: its index, its ``out`` (a body may be JSON already) and ``send``, the routing id of
its personal part, and what its input's bytes can be had from. A body of None takes a number and sends nothing."""

_CE_ID: Final = 3


ERASED: Final = "erased"
"""In place of a routing id that nobody can read any more."""


def outputs_of(block: ReadBlock, *, fill: bool = False, lost: Container[str] = ()) -> list[Output]:
    """All messages of a block that was read back, in order. Of records whose key is gone nothing is said again; with
    ``fill`` their numbers are taken by messages that name nobody, so that a reader who misses them goes on. The same is
    done for records whose key is one of ``lost``: no erasure ended it, so they may never have been published."""
    rows: list[Row] = []
    for index, record in enumerate(block.records):
        out, send = record.data.get("out", []), record.data.get("send", [])
        if out and is_sealed(record) and (fill or key_names(record)[0] in lost):
            rows.append((index, out, send, ERASED, record))
            continue
        if out and is_sealed(record):
            # Its key is gone, so its outputs were acknowledged (see `keyring`); their numbers are taken.
            out = [(topic, key, None if key is None else body) for topic, key, body in out]
        if out or send:
            rows.append((index, out, send, record.personal.get("routing"), record))
    return messages(block.header, block.chain, rows)


def messages(header: BlockHeader, chain: str, rows: Iterable[Row]) -> list[Output]:
    """The messages of a block's records, in order. Numbers start at the header's ``dn``."""
    outbox = Outbox(header.prefix, header.shard, header.height, header.now_ms, header.dn)
    for index, out, send, routing, source in rows:
        for topic, key, body in out:
            outbox.put(index, topic, key, body, routing, source)
        if send:
            outbox.send(send)
    return outbox.messages(chain)


def said_lost(block: ReadBlock, lost: Iterable[list[Any]]) -> list[Output]:
    """In place of side messages that the ledger does not know any more, as ``send`` has them: that they are lost."""
    header = block.header
    outbox = Outbox(header.prefix, header.shard, header.height, header.now_ms, header.dn)
    outbox.send([[*one, True] for one in lost])
    return outbox.messages(block.chain)


class _Lane(Struct):
    """What the messages of one topic have in common."""

    first: int
    """Number of the block's first message."""
    dn: int
    """Number of the next one."""
    headers: list[tuple[str, bytes]] | None
    """None: dead letters, each of which has its own."""
    id_form: bytes


class Outbox:
    """The messages of a block in the making: each is written when its record is, while that is at hand."""

    __slots__ = (
        "_ahead",
        "_first",
        "_height",
        "_lanes",
        "_now_ms",
        "_partition",
        "_place",
        "_prefix",
        "_shard",
    )

    def __init__(self, prefix: str, shard: str, height: int, now_ms: int, dn: Mapping[str, int]) -> None:
        """``dn``: the next number of each output topic; of one that is not there, 1."""
        self._prefix = prefix
        self._shard = shard
        self._height = height
        self._now_ms = now_ms
        self._first = dn
        self._partition = topics.partition_of_shard(shard)
        self._place = b',"shard":"%b","height":%d,"index":' % (shard.encode(), height)
        self._lanes: dict[str, _Lane] = {}
        self._ahead: list[Output | list[Any]] = []
        """Messages, and what goes to other shards, which needs the block's chain."""

    @property
    def dn(self) -> dict[str, int]:
        """The number of the first message of each topic that has any."""
        return {topic: lane.first for topic, lane in self._lanes.items()}

    @property
    def counts(self) -> dict[str, int]:
        """How many numbers each topic has used."""
        return {topic: lane.dn - lane.first for topic, lane in self._lanes.items()}

    def put(
        self,
        index: int,
        topic: str,
        key: str | None,
        body: Any,
        routing: str | None,
        source: Input | ReadRecord | None,
    ) -> None:
        """A public event of the record at ``index``; for the arguments see `Row`."""
        lane = self._lanes.get(topic)
        if lane is None:
            lane = self._lanes[topic] = self._lane(topic)
        dn = lane.dn
        lane.dn = dn + 1
        if body is None:
            return
        if lane.headers is None:
            self._ahead.append(self._dead_letter(topic, index, dn, body, source))
            return
        headers = lane.headers.copy()
        headers[_CE_ID] = ("ce_id", lane.id_form % dn)
        text = body if isinstance(body, bytes) else orjson.dumps(body)
        if key is None:
            value = b'%b%b%d,"dn":%d,"routing_id":%b}' % (
                text[:-1],
                self._place,
                index,
                dn,
                orjson.dumps(routing),
            )
            key = routing
        else:
            value = b'%b%b%d,"dn":%d}' % (text[:-1], self._place, index, dn)
        self._ahead.append(
            Output(topic, self._partition, None if key is None else key.encode(), value, headers)
        )

    def _lane(self, topic: str) -> _Lane:
        headers = None
        if topic not in topics.DLQS:
            headers = topics.cloud_headers(topic, event_source(self._prefix, self._shard), "")
        first = self._first.get(topic, 1)
        return _Lane(first, first, headers, b"%b-%%d" % topic.encode())

    def send(self, send: list[Any]) -> None:
        """Side messages of a record."""
        self._ahead.append(send)

    def messages(self, chain: str) -> list[Output]:
        """All messages, in order, once the block's chain is known."""
        found: list[Output] = []
        for each in self._ahead:
            if isinstance(each, Output):
                found.append(each)
            else:
                found += [self._side_message(chain, message) for message in each]
        return found

    def _side_message(self, chain: str, sent: list[Any]) -> Output:
        side = topics.side_topic(self._shard)
        destination, number = sent[:2]
        return Output(
            side,
            topics.partition_of_shard(destination),
            self._shard.encode(),
            orjson.dumps(message_of(self._shard, sent, {"height": self._height, "chain": chain})),
            topics.cloud_headers(side, event_source(self._prefix, self._shard), f"{destination}-{number}"),
        )

    def _dead_letter(
        self, topic: str, index: int, dn: int, body: dict[str, Any], source: Input | ReadRecord | None
    ) -> Output:
        key, value = (source.key, source.value) if isinstance(source, Input) else (None, None)
        offset = source.offset if source is not None else -1
        if isinstance(source, ReadRecord):
            key, value = source.key(), source.value()
        fields: dict[str, Any] = {
            "reason": body.get("reason", ""),
            "message": body.get("message", ""),
            "topic": topics.letters_about(topic),
            "partition": self._partition,
            "offset": offset,
            "time_ms": self._now_ms,
            "shard": self._shard,
            "height": self._height,
            "index": index,
            "dn": dn,
        }
        headers = [(f"ag_{name}", str(v).encode()) for name, v in fields.items()]
        return Output(topic, self._partition, key, value, headers)


def event_source(prefix: str, shard: str) -> str:
    """The CloudEvents ``source`` of a shard's messages."""
    return f"/adgovernor/{prefix}/{shard}"


def place_of(
    headers: Iterable[tuple[str, bytes]], value: bytes | None, dead_letter: bool
) -> dict[str, Any] | None:
    """``shard``, ``height`` and ``dn`` of an output message; None where it has none (somebody else wrote it)."""
    if dead_letter:
        found = {name[3:]: raw.decode("utf-8", "replace") for name, raw in headers if name.startswith("ag_")}
        try:
            return {"shard": found["shard"], "height": int(found["height"]), "dn": int(found["dn"])}
        except (KeyError, ValueError):
            return None
    try:
        body = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    if (
        not isinstance(body, dict)
        or not isinstance(body.get("dn"), int)
        or not isinstance(body.get("height"), int)
    ):
        return None
    return {"shard": body.get("shard"), "height": body["height"], "dn": body["dn"]}
