"""The auditor's own reading of ledgers and topics: the chain, input positions, outputs, side messages.

Nothing of the engine or the core is called here: the rules are written down a second time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson
from tests.simulation.broker import Broker
from tests.simulation.sealed import opened_records

from adgovernor.runtime.ports import RawEvent

_SKEW_MS = 3_000
"""How far a worker's clock may be ahead of the broker's: what the settings allow, and how far it is off anyhow."""
_PUBLIC_INPUTS = ("ad-requests", "impressions", "user-events", "campaigns")


class Findings:
    """What is wrong, each with the rule that it breaks; bounded, since one fault shows in many places."""

    def __init__(self, limit: int = 25) -> None:
        self.found: list[str] = []
        self._limit = limit

    def fail(self, rule: str, text: str) -> None:
        """Notes a violation."""
        if len(self.found) < self._limit:
            self.found.append(f"{rule}: {text}")

    def check(self, holds: bool, rule: str, text: str) -> None:
        """Notes a violation unless ``holds``."""
        if not holds:
            self.fail(rule, text)


@dataclass(slots=True)
class AuditBlock:
    """A block of the chain, parsed."""

    shard: str
    data: dict[str, Any]
    offset: int
    moment: int
    """When it landed, in the order of all landings."""

    @property
    def height(self) -> int:
        """Its place in the chain."""
        return int(self.data["height"])

    @property
    def records(self) -> list[dict[str, Any]]:
        """Its records."""
        records: list[dict[str, Any]] = self.data["records"]
        return records


@dataclass(slots=True)
class Expected:
    """An output that the ledger promises."""

    shard: str
    height: int
    index: int
    body: dict[str, Any]
    key: bytes | None
    moment: int
    source: dict[str, Any]
    """The record."""
    landed: int = -1
    """When the message first landed."""


@dataclass(slots=True)
class Ledgers:
    """All chains of a run, and what they promise."""

    chains: dict[str, list[AuditBlock]] = field(default_factory=dict)
    outputs: dict[tuple[str, int], list[Expected]] = field(default_factory=dict)
    """(Topic, partition) → outputs in order; number 1 is the first."""
    sent: dict[tuple[str, str], list[tuple[dict[str, Any], int, int]]] = field(default_factory=dict)
    """(Source, destination) → (payload, height, moment) of each side message; number 1 is the first."""


def side_topic(shard: str) -> str:
    """Where a shard's side messages go."""
    return "directives" if shard.startswith("t") else "reports"


def inputs_of(shard: str) -> tuple[str, ...]:
    """What a shard reads."""
    if shard.startswith("t"):
        return ("reports", "campaigns")
    return ("directives", "user-events", "impressions", "ad-requests")


def walk(broker: Broker, prefix: str, shard: str, findings: Findings) -> list[AuditBlock]:
    """The blocks that count."""
    chain: list[AuditBlock] = []
    tip = ""
    moments = broker.moments.get((shard, 0), [])
    for entry in broker.ledgers.get(shard, []):
        try:
            data = orjson.loads(entry.value)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(data, dict) or "chain" not in data:
            continue
        body = entry.value[: entry.value.rindex(b',"chain":"')]
        if hashlib.sha256(body).hexdigest() != data["chain"]:
            continue
        if (data["prefix"], data["shard"], data["height"], data["prev_chain"]) != (
            prefix,
            shard,
            len(chain) + 1,
            tip,
        ):
            continue
        tip = data["chain"]
        if any(isinstance(record.get("personal"), str) for record in data["records"]):
            data["records"] = opened_records(broker, shard, entry.value)
        findings.check(
            data["now_ms"] <= entry.time_ms + _SKEW_MS,
            "no worker's clock gets into the ledger that is not the broker's",
            f"{shard} block {data['height']} is at {data['now_ms']}, and landed at {entry.time_ms}",
        )
        block = AuditBlock(shard, data, entry.offset, moments[entry.offset])
        if chain:
            findings.check(
                data["now_ms"] >= chain[-1].data["now_ms"],
                "time never goes back",
                f"{shard} block {data['height']} is at {data['now_ms']}, before the one before it",
            )
        chain.append(block)
    return chain


def read_ledgers(broker: Broker, prefix: str, partitions: int, findings: Findings) -> Ledgers:
    """Walks every ledger and checks it against the inputs."""
    ledgers = Ledgers()
    for partition in range(partitions):
        for shard in (f"u{partition}", f"t{partition}"):
            chain = walk(broker, prefix, shard, findings)
            ledgers.chains[shard] = chain
            _check_inputs(broker, shard, partition, chain, findings)
            _collect(ledgers, shard, partition, chain, findings)
    return ledgers


def _check_inputs(
    broker: Broker, shard: str, partition: int, chain: list[AuditBlock], findings: Findings
) -> None:
    """Exactly one record for each input position, in order, of the very bytes."""
    positions = dict.fromkeys(inputs_of(shard), 0)
    for block in chain:
        for record in block.records:
            topic, offset = record["topic"], record["offset"]
            if topic == "tick":
                continue
            if offset != positions[topic]:
                findings.fail(
                    "one record for each input position",
                    f"{shard} block {block.height} records {topic} {offset}, expected {positions[topic]}",
                )
            positions[topic] = offset + 1
            event = broker.topics[topic, partition][offset]
            h = hashlib.sha256((event.key or b"") + b"\0" + (event.value or b""))
            findings.check(
                record["digest"] == h.hexdigest()[:16],
                "records hold the input's bytes",
                f"{shard} {topic} {offset}: another digest",
            )
        findings.check(
            block.data["positions"] == positions,
            "a block's positions are those after it",
            f"{shard} block {block.height}: {block.data['positions']}, expected {positions}",
        )
    for topic, position in positions.items():
        end = broker.last_call.get((topic, partition), 0)
        findings.check(
            position >= end, "every input is consumed", f"{shard} {topic}: {position} of {end} are recorded"
        )


def _collect(
    ledgers: Ledgers, shard: str, partition: int, chain: list[AuditBlock], findings: Findings
) -> None:
    """What the chain promises to publish, and whether its numbers are contiguous."""
    for block in chain:
        first: dict[str, int] = {}
        for index, record in enumerate(block.records):
            personal = record.get("personal") or {}
            for topic, key, body in record.get("out", ()):
                lane = ledgers.outputs.setdefault((topic, partition), [])
                first.setdefault(topic, len(lane) + 1)
                word = personal.get("routing") if key is None else key
                raw = None if word is None else word.encode()
                lane.append(Expected(shard, block.height, index, body, raw, block.moment, record))
            for destination, number, _, payload in record.get("send", ()):
                pair = ledgers.sent.setdefault((shard, destination), [])
                findings.check(
                    number == len(pair) + 1,
                    "side messages are numbered without gaps",
                    f"{shard} block {block.height} sends {number} to {destination}, expected {len(pair) + 1}",
                )
                pair.append((payload, block.height, block.moment))
        findings.check(
            block.data["dn"] == first,
            "outputs are numbered without gaps",
            f"{shard} block {block.height} begins at {block.data['dn']}, expected {first}",
        )


# --- What was published -----------------------------------------------------------------------------------------


def check_outputs(broker: Broker, ledgers: Ledgers, findings: Findings) -> None:
    """A reader that takes last + 1 sees the ledger's outputs, each once and in order; nothing else is there."""
    names = (
        {topic for topic, _ in broker.topics} - set(_PUBLIC_INPUTS) - {"directives", "reports", "person-keys"}
    )
    for topic, partition in sorted({(t, p) for t, p in broker.topics if t in names} | set(ledgers.outputs)):
        lane = ledgers.outputs.get((topic, partition), [])
        taken = 0
        moments = broker.moments.get((topic, partition), [])
        for event in broker.topics.get((topic, partition), []):
            place = _place(topic, event)
            number = place["dn"]
            if not 0 < number <= len(lane):
                findings.fail(
                    "only what the ledger says is published", f"{topic} {partition} has number {number}"
                )
                continue
            expected = lane[number - 1]
            _check_output(topic, partition, event, place, expected, findings)
            moment = moments[event.offset]
            findings.check(
                moment > expected.moment,
                "outputs follow acceptance",
                f"{topic} {partition} number {number} was there before block {expected.height}",
            )
            if expected.landed < 0:
                expected.landed = moment
            if number == taken + 1:
                taken = number
        findings.check(
            taken == len(lane),
            "a reader that takes the last number + 1 sees every output",
            f"{topic} {partition}: {taken} of {len(lane)} were seen",
        )


def _place(topic: str, event: RawEvent) -> dict[str, Any]:
    if topic.endswith(".dlq"):
        headers = {name: value.decode() for name, value in event.headers}
        return {
            "dn": int(headers["ag_dn"]),
            "height": int(headers["ag_height"]),
            "index": int(headers["ag_index"]),
            "offset": int(headers["ag_offset"]),
            "reason": headers["ag_reason"],
        }
    body: dict[str, Any] = orjson.loads(event.value or b"")
    return body


def _check_output(
    topic: str, partition: int, event: RawEvent, place: dict[str, Any], expected: Expected, findings: Findings
) -> None:
    where = f"{topic} {partition} number {place['dn']}"
    same = (place["height"], place["index"]) == (expected.height, expected.index)
    if topic.endswith(".dlq"):
        same = same and place["offset"] == expected.source["offset"]
        same = same and place["reason"] == expected.body["reason"]
        h = hashlib.sha256((event.key or b"") + b"\0" + (event.value or b""))
        findings.check(
            h.hexdigest()[:16] == expected.source["digest"],
            "dead letters keep key and value byte for byte",
            where,
        )
    else:
        same = same and all(place.get(name) == value for name, value in expected.body.items())
        same = same and event.key == expected.key
    findings.check(same, "what is published is what the ledger says", f"{where}: {place}")


def check_published(broker: Broker, ledgers: Ledgers, findings: Findings) -> None:
    """``published`` is true: every output up to that height had landed when the block did."""
    for shard, chain in ledgers.chains.items():
        latest: dict[int, int] = {}
        for lane in ledgers.outputs.values():
            if lane[0].shard != shard:
                continue
            for expected in lane:
                moment = expected.landed if expected.landed >= 0 else 2**62
                latest[expected.height] = max(latest.get(expected.height, -1), moment)
        for destination in {to for source, to in ledgers.sent if source == shard}:
            landed = _first_landings(broker, shard, destination)
            for number, (_, height, _) in enumerate(ledgers.sent[shard, destination], 1):
                moment = landed.get(number, 2**62)
                latest[height] = max(latest.get(height, -1), moment)
        reached, so_far = 0, -1
        for block in chain:
            published = block.data["published"]
            findings.check(published < block.height, "published is behind the tip", f"{shard} {block.height}")
            while reached < published:
                reached += 1
                so_far = max(so_far, latest.get(reached, -1))
            findings.check(
                so_far < block.moment,
                "published says what is acknowledged",
                f"{shard} block {block.height} says that outputs up to {published} are out, and they were not",
            )


def _first_landings(
    broker: Broker, source: str, destination: str, until: int | None = None
) -> dict[int, int]:
    """Number → moment of a pair's side messages on the topic, before offset ``until``."""
    place = (side_topic(source), int(destination[1:]))
    found: dict[int, int] = {}
    for event, moment in zip(
        broker.topics.get(place, [])[:until], broker.moments.get(place, [])[:until], strict=True
    ):
        message = orjson.loads(event.value or b"")
        if message["source"] == source:
            found.setdefault(message["number"], moment)
    return found


def check_side_messages(broker: Broker, ledgers: Ledgers, findings: Findings) -> None:
    """Every side message on a topic is the sender's ledger's, and every one was taken exactly once, in order."""
    for (topic, partition), events in broker.topics.items():
        if topic not in ("directives", "reports"):
            continue
        destination = ("u" if topic == "directives" else "t") + str(partition)
        for event, moment in zip(events, broker.moments[topic, partition], strict=True):
            message = orjson.loads(event.value or b"")
            pair = ledgers.sent.get((message["source"], destination), [])
            number = message["number"]
            if message["destination"] != destination or not 0 < number <= len(pair):
                findings.fail("side messages are the ledger's", f"{topic} {partition} has {message}")
                continue
            payload, height, accepted = pair[number - 1]
            findings.check(
                payload == message["payload"] and height == message["height"] and accepted < moment,
                "side messages are the ledger's",
                f"{message['source']} to {destination} number {number} differs, or was early",
            )
    taken: Counter[tuple[str, str]] = Counter()
    for shard, chain in ledgers.chains.items():
        for block in chain:
            for record in block.records:
                for delta in record["deltas"]:
                    if delta[0] != "took":
                        continue
                    _, source, number, _ = delta
                    taken[source, shard] += 1
                    findings.check(
                        number == taken[source, shard],
                        "a side message is taken once and in order",
                        f"{shard} block {block.height} takes {number} of {source}, "
                        f"expected {taken[source, shard]}",
                    )
    for (source, destination), messages in ledgers.sent.items():
        place = (side_topic(source), int(destination[1:]))
        landed = _first_landings(broker, source, destination, broker.last_call.get(place, 0))
        findings.check(
            taken[source, destination] >= len(landed),
            "every side message is taken",
            f"{source} to {destination}: {taken[source, destination]} of {len(landed)}",
        )
        findings.check(
            len(_first_landings(broker, source, destination)) == len(messages),
            "every side message is sent",
            f"{source} to {destination}: {len(messages)} in the ledger",
        )
