"""The auditor of runs whose log lost what it had acknowledged, and a person accepted that.

What was lost happened, and is known to nobody's ledger: decisions may be made again, and money that the lost messages
moved may be spent again. Everything else holds: every chain is one, every input that is left is recorded once, readers
of outputs read on, shards understand each other again, the store is the ledger's fold, and no more is overspent than
the lost messages had moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson
from tests.simulation.audit_chain import AuditBlock, Findings, inputs_of, side_topic, walk
from tests.simulation.broker import Broker

from adgovernor.runtime.ports import RawEvent


class LossAudit:
    """The judgement of one run with losses."""

    def __init__(
        self, broker: Broker, prefix: str, partitions: int, findings: Findings, *, hung: bool
    ) -> None:
        """``hung``: some workers hung while a person accepted a loss, and sent what was lost after it."""
        self._hung = hung
        self.broker = broker
        self.findings = findings
        self.chains: dict[str, list[AuditBlock]] = {
            shard: walk(broker, prefix, shard, findings)
            for partition in range(partitions)
            for shard in (f"u{partition}", f"t{partition}")
        }
        self.lost: dict[str, list[dict[str, Any]]] = {
            shard: [
                data
                for entry in (*broker.lost_entries.get(shard, []), *broker.ledgers.get(shard, []))
                if (data := _block(entry))["shard"] == shard
                and data["chain"] not in {block.data["chain"] for block in chain}
            ]
            for shard, chain in self.chains.items()
        }
        """Blocks that were lost, or followed lost ones; and some that never counted."""

    def run(self) -> None:
        """Notes all violations."""
        for shard, chain in self.chains.items():
            self._check_inputs(shard, chain)
            self._check_outputs(shard, chain)
        self._check_links()

    # --- Inputs -----------------------------------------------------------------------------------------------

    def _check_inputs(self, shard: str, chain: list[AuditBlock]) -> None:
        """Exactly one record for each position, in order, of bytes that were there; a new epoch may move back to
        where a topic ends."""
        partition = int(shard[1:])
        positions = dict.fromkeys(inputs_of(shard), 0)
        for block in chain:
            for record in block.records:
                topic, offset = record["topic"], record["offset"]
                if topic == "tick":
                    continue
                self.findings.check(
                    offset == positions[topic],
                    "one record for each input position",
                    f"{shard} block {block.height} records {topic} {offset}, expected {positions[topic]}",
                )
                positions[topic] = offset + 1
                digests = {_digest(event) for event in self._events(topic, partition, offset)}
                self.findings.check(
                    record["digest"] in digests, "records hold the input's bytes", f"{shard} {topic} {offset}"
                )
            if block.data.get("recovery") is not None:
                moved = {name for name, at in block.data["positions"].items() if at != positions[name]}
                self.findings.check(
                    all((name, partition) in self.broker.lost_events for name in moved),
                    "only what is lost is passed over",
                    f"{shard} block {block.height}: {moved}",
                )
                positions = dict(block.data["positions"])
            self.findings.check(
                block.data["positions"] == positions, "a block's positions are those after it", f"{shard}"
            )
        for topic, position in positions.items():
            end = self.broker.last_call.get((topic, partition), 0)
            self.findings.check(
                position >= end, "every input is consumed", f"{shard} {topic}: {position} of {end}"
            )

    def _events(self, topic: str, partition: int, offset: int) -> Iterator[RawEvent]:
        place = (topic, partition)
        yield from self.broker.topics.get(place, [])[offset : offset + 1]
        yield from (event for event in self.broker.lost_events.get(place, []) if event.offset == offset)

    # --- Outputs ----------------------------------------------------------------------------------------------

    def _check_outputs(self, shard: str, chain: list[AuditBlock]) -> None:
        """A reader that takes last + 1 comes to the end of what the ledger promises, and reads nothing that no block
        said, kept or lost."""
        promised: dict[str, dict[int, list[tuple[int, int]]]] = {}
        last: dict[str, int] = {}
        kept_by: dict[str, dict[int, tuple[int, int]]] = {}
        for block in chain:
            for topic, numbers in _numbers(block.data).items():
                promised.setdefault(topic, {})
                kept_by.setdefault(topic, {}).update(numbers)
                for number, place in numbers:
                    promised[topic].setdefault(number, []).append(place)
                    last[topic] = number
        for data in self.lost[shard]:
            for topic, numbers in _numbers(data).items():
                for number, place in numbers:
                    promised.setdefault(topic, {}).setdefault(number, []).append(place)
        for topic, end in last.items():
            taken, said = 0, kept_by[topic]
            for event in self.broker.topics.get((topic, int(shard[1:])), []):
                number, place = _place(topic, event)
                self.findings.check(
                    place in promised[topic].get(number, ()),
                    "only what a ledger said is published",
                    f"{shard} {topic} {number} of {place}",
                )
                if number == taken + 1:
                    taken = number
                    kept = said.get(number)
                    self.findings.check(
                        kept is None or kept == place or self._hung,
                        "a reader sees what the ledger says, not what it lost",
                        f"{shard} {topic} {number} of {place}, the ledger has {kept}",
                    )
            self.findings.check(
                taken >= end,
                "a reader that takes the last number + 1 sees every output",
                f"{shard} {topic}: {taken} of {end}",
            )

    # --- Between shards ---------------------------------------------------------------------------------------

    def _check_links(self) -> None:
        """Messages are taken in order, each once; in the end all that were sent and that anything has kept."""
        sent: dict[tuple[str, str], int] = {}
        taken: dict[tuple[str, str], int] = {}
        for shard, chain in self.chains.items():
            for block in chain:
                recovery = block.data.get("recovery") or {}
                for destination, (number, _) in recovery.get("sent", {}).items():
                    sent[shard, destination] = max(number, sent.get((shard, destination), 0))
                for record in block.records:
                    for destination, number, _, _ in record.get("send", ()):
                        expected = sent.get((shard, destination), 0) + 1
                        self.findings.check(
                            number == expected,
                            "side messages are numbered without gaps",
                            f"{shard} block {block.height} sends {number} to {destination}, expected {expected}",
                        )
                        sent[shard, destination] = number
                    for delta in record["deltas"]:
                        if delta[0] == "took":
                            pair = (delta[1], shard)
                            self.findings.check(
                                delta[2] == taken.get(pair, 0) + 1,
                                "a side message is taken once and in order",
                                f"{shard} block {block.height} takes {delta}",
                            )
                            taken[pair] = delta[2]
                for source, (number, _) in (block.data.get("recovery") or {}).get("taken", {}).items():
                    taken[source, shard] = number
        for (source, destination), number in sent.items():
            late = self._after_the_end(source, destination)
            self.findings.check(
                taken.get((source, destination), 0) >= number - late,
                "every side message is taken",
                f"{source} to {destination}: {taken.get((source, destination), 0)} of {number}",
            )

    def _after_the_end(self, source: str, destination: str) -> int:
        """How many messages were sent only when all were being stopped."""
        place = (side_topic(source), int(destination[1:]))
        events = self.broker.topics.get(place, [])[self.broker.last_call.get(place, 0) :]
        return sum(1 for event in events if orjson.loads(event.value or b"")["source"] == source)

    # --- Money ------------------------------------------------------------------------------------------------

    def check_money(self, stored: dict[str, dict[str, bytes]]) -> None:
        """``stored``: shard → campaign → its state. No more is overspent than lost messages had moved."""
        moved = self._moved()
        for shard in (name for name in stored if name.startswith("t")):
            for name, raw in stored[shard].items():
                data = orjson.loads(raw)
                used = 0
                for user in (user for user in stored if user.startswith("u") and name in stored[user]):
                    share = orjson.loads(stored[user][name])
                    if share["treasury"] == shard:
                        used += sum(reserved + spent for _, _, reserved, spent in share["books"])
                lost = moved.get(name, 0)
                self.findings.check(
                    used <= data["topped_up"] + lost,
                    "no more is overspent than was lost",
                    f"{name}: {used} of {data['topped_up']}, lost {lost}",
                )

    def _moved(self) -> dict[str, int]:
        """Campaign → what lost messages had granted or returned."""
        moved: dict[str, int] = {}
        lost = [record for blocks in self.lost.values() for data in blocks for record in data["records"]]
        payloads = [send[3] for record in lost for send in record.get("send", ())]
        for events in self.broker.lost_events.values():
            for event in events:
                message = _json(event.value)
                payloads.append(message.get("payload", {}))
                if "amount_micros" in message:  # A command that counted, and is not on its topic any more.
                    name = message.get("campaign_id", "")
                    moved[name] = moved.get(name, 0) + message["amount_micros"]
        for payload in payloads:
            for item in payload.get("items", ()):
                amount = item.get("amount_micros", 0) + sum(sum(row[1:]) for row in item.get("returned", ()))
                moved[item["campaign_id"]] = moved.get(item["campaign_id"], 0) + amount
        return moved


def _json(value: bytes | None) -> dict[str, Any]:
    try:
        found = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _block(entry: Any) -> dict[str, Any]:
    data = _json(entry.value)
    return data if "records" in data else {"shard": ""}


def _digest(event: RawEvent) -> str:
    return hashlib.sha256((event.key or b"") + b"\0" + (event.value or b"")).hexdigest()[:16]


def _numbers(block: dict[str, Any]) -> dict[str, list[tuple[int, tuple[int, int]]]]:
    """Output topic → (number, (height, index)) of a block's outputs."""
    next_numbers, found = dict(block["dn"]), dict[str, list[tuple[int, tuple[int, int]]]]()
    for index, record in enumerate(block["records"]):
        for topic, _, _ in record.get("out", ()):
            found.setdefault(topic, []).append((next_numbers[topic], (block["height"], index)))
            next_numbers[topic] += 1
    return found


def _place(topic: str, event: RawEvent) -> tuple[int, tuple[int, int]]:
    if topic.endswith(".dlq"):
        headers = {name: value.decode() for name, value in event.headers}
        return int(headers["ag_dn"]), (int(headers["ag_height"]), int(headers["ag_index"]))
    body = _json(event.value)
    return body["dn"], (body["height"], body["index"])
