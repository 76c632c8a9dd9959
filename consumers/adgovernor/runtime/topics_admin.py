"""The topics of a deployment: creating them, and finding what is wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadSettings, NoTopics
from adgovernor.stores.base import Finding

_ADMIN_S: Final = 30.0
_TRIES: Final = 20
_TRY_AGAIN_S: Final = 0.2
LEDGER_MESSAGE_BYTES: Final = 20_000_000
"""Larger than any block that an engine sends."""
OUTPUT_MESSAGE_BYTES: Final = 3_000_000
"""Larger than any output that an engine sends."""
KEY_LAG_MS: Final = 86_400_000
"""How long a key that was ended may stay on the broker's disk."""
_FOR_EVER = "-1"
_MONEY: Final = (*topics.LEDGERS, topics.CAMPAIGNS)
"""Whose loss is a loss of money."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as the broker has it."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]
    in_sync: tuple[int, ...] = ()
    """How many replicas of each partition have all that it has; 0 where it has no leader."""


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


async def _answer(ask: Callable[[], Awaitable[_T]]) -> _T:
    """What a broker answers. The client asks any that it has heard of, so one that is away while the others work must
    not be the last word; asking twice is harmless in every call made here."""
    for _ in range(_TRIES):
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable:
                raise
        except TimeoutError:
            # The client's own, for one broker; within ours there is time for another.
            pass
        await asyncio.sleep(_TRY_AGAIN_S)
    return await ask()


async def create_topics(
    connection: KafkaConnection, prefix: str, partitions: int, replication: int | None = None
) -> list[str]:
    """Creates every topic that is missing; their names on the broker. Those that exist are left as they are.

    ``replication``: of each topic; left out: three, or as many as there are brokers now.

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
        if replication is None:
            replication = min(3, len((await _answer(admin.describe_cluster))["brokers"]))
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
        answer: Any = await _answer(lambda: admin.create_topics(new))
        for entry in answer.topic_errors:
            error = for_code(entry[1])
            if error is not NoError and error is not TopicAlreadyExistsError:
                detail = entry[2] if len(entry) > 2 and entry[2] else error.description
                mend = "; give this user CREATE on it" if error is TopicAuthorizationFailedError else ""
                raise BadSettings(
                    f"the broker refused to create {entry[0]}: {detail.removesuffix('.')}{mend}"
                )
        await _visible(admin, {topic.name for topic in new})
    return [topic.name for topic in new]


async def _visible(admin: AIOKafkaAdminClient, names: set[str]) -> None:
    """Waits until every partition of these topics has a leader: the broker answers a creation before that."""
    while True:
        served = {
            entry["topic"]
            for entry in await _answer(admin.describe_topics)
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
        described = [entry for entry in await _answer(admin.describe_topics) if entry["topic"] in names]
        configs = await _configs(admin, [entry["topic"] for entry in described])
        for entry in described:
            parts: list[dict[str, Any]] = entry["partitions"]
            replication = min((len(part["replicas"]) for part in parts), default=0)
            name = entry["topic"]
            in_sync = {part["partition"]: len(part["isr"]) if part["leader"] >= 0 else 0 for part in parts}
            found[names[name]] = TopicState(
                name,
                len(parts),
                replication,
                configs.get(name, {}),
                tuple(count for _, count in sorted(in_sync.items())),
            )
    return found


async def _configs(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Settings by topic; a topic whose settings may not be read is missing."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    if not resources:
        return {}
    configs: dict[str, dict[str, str]] = {}
    answers: list[Any] = await _answer(lambda: admin.describe_configs(resources))
    for answer in answers:
        for code, _, _, name, entries in answer.resources:
            if code == 0:
                configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def partition_count(connection: KafkaConnection, prefix: str) -> int:
    """The partition count that all topics agree on.

    Raises:
        NoTopics: when topics are missing; says what to do.
        BadSettings: when topics disagree, or have wrong settings; says what to do.
        Unavailable: when Kafka cannot be reached.
    """
    found = await describe_topics(connection, prefix)
    for finding in check_topics(found):
        if finding.level == "error":
            wrong = BadSettings if len(found) == len(topics.ALL_TOPICS) else NoTopics
            raise wrong(f"{finding.message}; {finding.mend}")
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
                else "create them with `adgovernor topics create`, mend the prefix, or give this user DESCRIBE on them",
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
    findings += _check_replication(found)
    findings.sort(key=lambda finding: ("error", "warning", "ok").index(finding.level))
    if not findings:
        findings.append(Finding("ok", "topics", f"{len(found)} topics with the right settings"))
    return findings


def _check_topic(topic: str, state: TopicState) -> list[Finding]:
    findings: list[Finding] = []
    if not state.config and topic in (*_MONEY, topics.PERSON_KEYS):
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
    if state.config and topic in _MONEY:
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


def _check_replication(found: Mapping[str, TopicState]) -> Iterator[Finding]:
    """Whether what was acknowledged outlives a broker, and whether work goes on without one."""
    total = len(found)
    few = {topic: state for topic, state in found.items() if state.replication < 3}
    if few:
        yield _several(
            total,
            few,
            f"have fewer than three replicas (the fewest {min(state.replication for state in few.values())}): the loss "
            "of a broker's disk is the loss of what was acknowledged, money among it",
            "use three brokers or more in production, and `topics create` while all of them are there; existing topics "
            "get replicas from kafka-reassign-partitions",
        )
    many = {topic: state for topic, state in found.items() if state.replication > 2 and state.config}
    alone = {topic: state for topic, state in many.items() if _needed(state) < 2}
    if alone:
        yield _several(
            total,
            alone,
            "acknowledge with one replica alone (min.insync.replicas 1): what it acknowledged is lost with its disk",
            _alter(next(iter(alone.values())), "min.insync.replicas", "2") + _each(alone),
        )
    brittle = {topic: state for topic, state in many.items() if _needed(state) >= state.replication}
    if brittle:
        yield _several(
            total,
            brittle,
            "acknowledge with all their replicas only (min.insync.replicas): without one broker nothing is decided",
            _alter(next(iter(brittle.values())), "min.insync.replicas", "2") + _each(brittle),
        )


def check_replicas(found: Mapping[str, TopicState]) -> list[Finding]:
    """What is wrong with a deployment's partitions at this moment, worst first: it mends itself once brokers are back,
    so a worker may start meanwhile."""
    total = sum(len(state.in_sync) for state in found.values())
    headless, stuck, behind = [], [], []
    for state in found.values():
        for partition, count in enumerate(state.in_sync):
            name = f"{state.name}[{partition}]"
            if count == 0:
                headless.append(name)
            elif count < min(_needed(state), state.replication):
                stuck.append(name)
            elif count < state.replication:
                behind.append(name)
    told: list[tuple[list[str], Literal["warning", "error"], str]] = [
        (headless, "error", "no leader: they can be neither read nor written, so their shards wait"),
        (
            stuck,
            "error",
            "fewer replicas in sync than min.insync.replicas: nothing new is acknowledged, so their shards wait",
        ),
        (behind, "warning", "replicas that are behind or away; the next broker that goes may stop decisions"),
    ]
    mend = "start the brokers that are away, and look into the logs of those that are there; nothing is lost meanwhile"
    return [
        Finding(level, "partitions", f"{len(names)} of {total} partitions ({_some(names)}) have {what}", mend)
        for names, level, what in told
        if names
    ]


def _needed(state: TopicState) -> int:
    """How many replicas must have a message for it to be acknowledged."""
    return int(state.config.get("min.insync.replicas", "1"))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ("…" if len(names) > 3 else "")


def _several(total: int, states: Mapping[str, TopicState], what: str, mend: str) -> Finding:
    """A warning about topics, those with money first."""
    names = [states[topic].name for topic in sorted(states, key=lambda topic: (topic not in _MONEY, topic))]
    return Finding("warning", names[0], f"{len(names)} of {total} topics ({_some(names)}) {what}", mend)


def _each(states: Mapping[str, TopicState]) -> str:
    return f" (and so on for each of the {len(states)})" if len(states) > 1 else ""


def _check_ledger(state: TopicState) -> Iterator[Finding]:
    """What a ledger's blocks need."""
    config = state.config
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
