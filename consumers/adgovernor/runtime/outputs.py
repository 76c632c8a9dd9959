"""From an accepted block to the messages that leave it. Pure, and the same for live work, takeover and audit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import BlockHeader, ReadBlock, ReadRecord
from adgovernor.contracts.sealing import is_sealed
from adgovernor.core.machine import Input
from adgovernor.runtime.ports import Output

Row = tuple[int, list[Any], list[Any], str | None, Input | ReadRecord | None]
"""A record that sends something: its index, its ``out`` (a body may be JSON already) and ``send``, the routing id of
its personal part, and what its input's bytes can be had from. A body of None takes a number and sends nothing."""

DLQ: Final = ".dlq"
_CE_ID: Final = 3


ERASED: Final = "erased"
"""In place of a routing id that nobody can read any more."""


def outputs_of(block: ReadBlock, *, fill: bool = False) -> list[Output]:
    """All messages of a block that was read back, in order. Of records whose key is gone nothing is said again; with
    ``fill`` their numbers are taken by messages that name nobody, so that a reader who misses them goes on."""
    rows: list[Row] = []
    for index, record in enumerate(block.records):
        out, send = record.data.get("out", []), record.data.get("send", [])
        if out and is_sealed(record) and fill:
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
    shard, height = header.shard, header.height
    place = b',"shard":"%b","height":%d,"index":' % (shard.encode(), height)
    partition = topics.partition_of_shard(shard)
    numbers = dict(header.dn)
    side = topics.side_topic(shard)
    shells: dict[str, list[tuple[str, bytes]]] = {}
    result: list[Output] = []
    for index, out, send, routing, source in rows:
        for topic, key, body in out:
            dn = numbers[topic]
            numbers[topic] = dn + 1
            if body is None:
                continue
            if topic.endswith(DLQ):
                result.append(_dead_letter(header, topic, partition, index, dn, body, source))
                continue
            shell = shells.get(topic)
            if shell is None:
                shell = shells[topic] = topics.cloud_headers(topic, event_source(header.prefix, shard), "")
            headers = shell.copy()
            headers[_CE_ID] = ("ce_id", b"%b-%d" % (topic.encode(), dn))
            text = body if isinstance(body, bytes) else orjson.dumps(body)
            if key is None:
                key = routing
                value = b'%b%b%d,"dn":%d,"routing_id":%b}' % (
                    text[:-1],
                    place,
                    index,
                    dn,
                    orjson.dumps(routing),
                )
            else:
                value = b'%b%b%d,"dn":%d}' % (text[:-1], place, index, dn)
            result.append(Output(topic, partition, None if key is None else key.encode(), value, headers))
        for destination, number, digest, payload in send:
            message = {
                "source": shard,
                "destination": destination,
                "number": number,
                "hash": digest,
                "height": height,
                "chain": chain,
                "payload": payload,
            }
            result.append(
                Output(
                    side,
                    topics.partition_of_shard(destination),
                    shard.encode(),
                    orjson.dumps(message),
                    topics.cloud_headers(side, event_source(header.prefix, shard), f"{destination}-{number}"),
                )
            )
    return result


def event_source(prefix: str, shard: str) -> str:
    """The CloudEvents ``source`` of a shard's messages."""
    return f"/adgovernor/{prefix}/{shard}"


def _dead_letter(
    header: BlockHeader,
    topic: str,
    partition: int,
    index: int,
    dn: int,
    body: dict[str, Any],
    source: Input | ReadRecord | None,
) -> Output:
    key, value = (source.key, source.value) if isinstance(source, Input) else (None, None)
    offset = source.offset if source is not None else -1
    if isinstance(source, ReadRecord):
        key, value = source.key(), source.value()
    fields: dict[str, Any] = {
        "reason": body.get("reason", ""),
        "message": body.get("message", ""),
        "topic": topic.removesuffix(DLQ),
        "partition": partition,
        "offset": offset,
        "time_ms": header.now_ms,
        "shard": header.shard,
        "height": header.height,
        "index": index,
        "dn": dn,
    }
    return Output(
        topic, partition, key, value, [(f"ag_{name}", str(v).encode()) for name, v in fields.items()]
    )


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
