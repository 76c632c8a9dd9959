"""The topics of a deployment: creating them, and finding what is wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadSettings
from adgovernor.stores.base import Finding

_ADMIN_S: Final = 30.0
LEDGER_MESSAGE_BYTES: Final = 20_000_000
"""Larger than any block that an engine sends."""
OUTPUT_MESSAGE_BYTES: Final = 3_000_000
"""Larger than any output that an engine sends."""
KEY_LAG_MS: Final = 86_400_000
"""How long a key that was ended may stay on the broker's disk."""
_FOR_EVER = "-1"


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as the broker has it."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


def topic_config(topic: str, replication: int) -> dict[str, str]:
    """The settings that a topic is created with. ``topic`` is the logical name."""
    config = {
        "min.insync.replicas": str(2 if replication > 2 else 1),
        "unclean.leader.election.enable": "false",
    }
    if topic in topics.LEDGERS:
        # The broker's own time is what an owner's clock is checked against, and a ledger is for ever.
        config |= {
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": _FOR_EVER,
            "retention.bytes": _FOR_EVER,
            "cleanup.policy": "delete",
            "max.message.bytes": str(LEDGER_MESSAGE_BYTES),
        }
    elif topic == topics.CAMPAIGNS:
        # Every command counts for ever: a top-up is money.
        config |= {"retention.ms": _FOR_EVER, "retention.bytes": _FOR_EVER, "cleanup.policy": "delete"}
    elif topic == topics.PERSON_KEYS:
        # The last word on each key is for ever, and one that was ended goes within a day: it is what an erasure means.
        config |= {
            "cleanup.policy": "compact",
            "min.cleanable.dirty.ratio": "0.1",
            "max.compaction.lag.ms": str(KEY_LAG_MS),
        }
    elif topic not in topics.PUBLIC_INPUTS:
        config["max.message.bytes"] = str(OUTPUT_MESSAGE_BYTES)
    return config


@asynccontextmanager
async def _admin(connection: KafkaConnection) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(**connection.client_options())
    try:
        async with asyncio.timeout(_ADMIN_S):
            await client.start()
            yield client
    except (KafkaError, OSError, TimeoutError) as error:
        raise connection.unusable(error) from error
    finally:
        await client.close()


async def create_topics(connection: KafkaConnection, prefix: str, partitions: int) -> list[str]:
    """Creates every topic that is missing; their names on the broker. Those that exist are left as they are.

    Raises:
        BadSettings: when the broker refuses one, or existing ones have another partition count.
        Unavailable: when Kafka cannot be reached.
    """
    if partitions < 1:
        raise BadSettings(f"partitions is {partitions}; a deployment needs at least 1")
    found = await describe_topics(connection, prefix)
    different = {state.name: state.partitions for state in found.values() if state.partitions != partitions}
    if different:
        name, count = next(iter(different.items()))
        ask = f"ask for {count}, or choose" if len(different) == len(found) else "choose"
        raise BadSettings(
            f"of {len(found)} topics with the prefix {len(different)} have another partition count ({name} has "
            f"{count}, asked for {partitions}); the count of a deployment is fixed: {ask} another prefix"
        )
    async with _admin(connection) as admin:
        brokers = len((await admin.describe_cluster())["brokers"])
        replication = min(3, brokers)
        missing = [name for name in topics.ALL_TOPICS if name not in found]
        new = [
            NewTopic(
                topics.full_name(prefix, name),
                num_partitions=partitions,
                replication_factor=replication,
                topic_configs=topic_config(name, replication),
            )
            for name in missing
        ]
        if not new:
            return []
        answer: Any = await admin.create_topics(new)
        for entry in answer.topic_errors:
            error = for_code(entry[1])
            if error is not NoError and error is not TopicAlreadyExistsError:
                detail = entry[2] if len(entry) > 2 and entry[2] else error.description
                raise BadSettings(f"the broker refused to create {entry[0]}: {detail}")
        await _visible(admin, {topic.name for topic in new})
    return [topic.name for topic in new]


async def _visible(admin: AIOKafkaAdminClient, names: set[str]) -> None:
    """Waits until every partition of these topics has a leader: the broker answers a creation before that."""
    while True:
        served = {
            entry["topic"]
            for entry in await admin.describe_topics(None)
            if entry["partitions"] and all(part["leader"] >= 0 for part in entry["partitions"])
        }
        if names <= served:
            return
        await asyncio.sleep(0.05)


async def describe_topics(connection: KafkaConnection, prefix: str) -> dict[str, TopicState]:
    """The deployment's topics that exist, by logical name.

    Raises:
        Unavailable: when Kafka cannot be reached.
    """
    names = {topics.full_name(prefix, name): name for name in topics.ALL_TOPICS}
    async with _admin(connection) as admin:
        found: dict[str, TopicState] = {}
        described = [entry for entry in await admin.describe_topics(None) if entry["topic"] in names]
        configs = await _configs(admin, [entry["topic"] for entry in described])
        for entry in described:
            parts: list[dict[str, Any]] = entry["partitions"]
            replication = min((len(part["replicas"]) for part in parts), default=0)
            name = entry["topic"]
            found[names[name]] = TopicState(name, len(parts), replication, configs.get(name, {}))
    return found


async def _configs(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Settings by topic; a topic whose settings may not be read is missing."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    configs: dict[str, dict[str, str]] = {}
    answers: list[Any] = await admin.describe_configs(resources)
    for answer in answers:
        for code, _, _, name, entries in answer.resources:
            if code == 0:
                configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def partition_count(connection: KafkaConnection, prefix: str) -> int:
    """The partition count that all topics agree on.

    Raises:
        BadSettings: when topics are missing or disagree; says what to do.
        Unavailable: when Kafka cannot be reached.
    """
    found = await describe_topics(connection, prefix)
    for finding in check_topics(found):
        if finding.level == "error":
            raise BadSettings(f"{finding.message}; {finding.mend}")
    return next(iter(found.values())).partitions


def check_topics(found: dict[str, TopicState]) -> list[Finding]:
    """What is wrong with a deployment's topics, worst first; one finding that all is well where nothing is."""
    findings: list[Finding] = []
    missing = [name for name in topics.ALL_TOPICS if name not in found]
    if missing:
        findings.append(
            Finding(
                "error",
                "topics",
                f"{len(missing)} of {len(topics.ALL_TOPICS)} topics do not exist ({', '.join(missing[:5])}"
                f"{'…' if len(missing) > 5 else ''})",
                f"{', '.join(lost)} held money: find out where it went before anything is made anew"
                if found and (lost := [name for name in missing if name in topics.LEDGERS])
                else "create them with `adgovernor topics create`, or mend the prefix",
            )
        )
    counts: dict[int, list[str]] = {}
    for state in found.values():
        counts.setdefault(state.partitions, []).append(state.name)
    if len(counts) > 1:
        told = "; ".join(f"{count}: {', '.join(names[:3])}" for count, names in sorted(counts.items()))
        findings.append(
            Finding(
                "error",
                "partitions",
                f"partition counts of topics disagree ({told})",
                "every topic of a deployment needs the same count, fixed from the start: create the topics under a new "
                "prefix with `adgovernor topics create --partitions N`, and replay the old ledger into it",
            )
        )
    for topic, state in found.items():
        findings += _check_topic(topic, state)
    findings.sort(key=lambda finding: ("error", "warning", "ok").index(finding.level))
    if not findings:
        findings.append(Finding("ok", "topics", f"{len(found)} topics with the right settings"))
    return findings


def _check_topic(topic: str, state: TopicState) -> list[Finding]:
    findings: list[Finding] = []
    if not state.config and topic in (*topics.LEDGERS, topics.CAMPAIGNS, topics.PERSON_KEYS):
        findings.append(
            _found(
                "warning",
                state,
                "keeps its settings from this user, so nobody knows whether it forgets",
                "give this user DESCRIBE_CONFIGS on the deployment's topics",
            )
        )
    if topic in topics.LEDGERS:
        findings += _check_ledger(state)
    # What may not be read says nothing.
    if state.config and (topic in topics.LEDGERS or topic == topics.CAMPAIGNS):
        findings += _check_memory(state)
    if state.config and topic == topics.PERSON_KEYS:
        findings += _check_keys(state)
    if state.config.get("unclean.leader.election.enable") == "true":
        findings.append(
            _found(
                "warning",
                state,
                "may lose acknowledged messages in an unclean leader election",
                _alter(state, "unclean.leader.election.enable", "false"),
            )
        )
    return findings


def _check_ledger(state: TopicState) -> Iterator[Finding]:
    """What an acknowledged block of a ledger needs."""
    config = state.config
    if state.replication < 3:
        yield _found(
            "warning",
            state,
            f"has replication {state.replication}: the loss of its brokers' disks is the loss of money",
            "use three brokers or more in production",
        )
    elif config.get("min.insync.replicas", "1") == "1":
        yield _found(
            "warning", state, "is acknowledged by one replica", _alter(state, "min.insync.replicas", "2")
        )
    if not config:
        return
    if config.get("message.timestamp.type") != "LogAppendTime":
        yield _found(
            "error",
            state,
            "does not keep the broker's append time, so workers' clocks cannot be checked",
            _alter(state, "message.timestamp.type", "LogAppendTime"),
        )
    if int(config.get("max.message.bytes", "0")) < LEDGER_MESSAGE_BYTES:
        yield _found(
            "error",
            state,
            f"takes messages of {config.get('max.message.bytes')} bytes, blocks can be larger",
            _alter(state, "max.message.bytes", str(LEDGER_MESSAGE_BYTES)),
        )


def _check_memory(state: TopicState) -> Iterator[Finding]:
    """What money depends on is kept for ever."""
    for key in ("retention.ms", "retention.bytes"):
        if state.config.get(key) != _FOR_EVER:
            yield _found(
                "error", state, f"forgets: {key} is {state.config.get(key)}", _alter(state, key, _FOR_EVER)
            )
    if "compact" in state.config.get("cleanup.policy", "delete"):
        yield _found("error", state, "is compacted", _alter(state, "cleanup.policy", "delete"))


def _check_keys(state: TopicState) -> Iterator[Finding]:
    """The last word on each key is kept, and what was ended goes."""
    if state.config.get("cleanup.policy") != "compact":
        yield _found(
            "error",
            state,
            "is not compacted: keys are lost by age, and ended ones stay",
            _alter(state, "cleanup.policy", "compact"),
        )
    if int(state.config.get("max.compaction.lag.ms", "0")) > 30 * KEY_LAG_MS:
        yield _found(
            "warning",
            state,
            "may keep a key that was ended for longer than 30 days",
            _alter(state, "max.compaction.lag.ms", str(KEY_LAG_MS)),
        )


def _found(level: Literal["warning", "error"], state: TopicState, what: str, mend: str) -> Finding:
    return Finding(level, state.name, f"{state.name} {what}", mend)


def _alter(state: TopicState, key: str, value: str) -> str:
    return f"set it: kafka-configs --alter --entity-type topics --entity-name {state.name} --add-config {key}={value}"
