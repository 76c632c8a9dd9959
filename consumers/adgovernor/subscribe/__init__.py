"""The subscribing SDK: typed events of the output topics, each delivered once and in order.

async with subscribe.decisions("localhost:9092", prefix="prod") as decisions:
    async for decision in decisions:
        ...
"""

from __future__ import annotations

from typing import Any

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import (
    BudgetExhausted,
    BudgetThreshold,
    CampaignChange,
    CampaignPaused,
    CampaignResumed,
)
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.errors import Gap
from adgovernor.contracts.pods import PodAbandoned, PodCompleted, PodCreated
from adgovernor.subscribe.ads import AdReader
from adgovernor.subscribe.deadletters import DeadLetter
from adgovernor.subscribe.kafka import PartitionReader, RawMessage, ReadableLog, Reader
from adgovernor.subscribe.position import START, Position, dump_positions, load_positions
from adgovernor.subscribe.shared import Handover, SharedSubscriber
from adgovernor.subscribe.subscriber import Subscriber

Source = KafkaConnection | str | ReadableLog
"""Where events are read from: Kafka's ``host:port``, a connection, or another log."""


def decisions(connection: Source, **options: Any) -> Subscriber[Decision]:
    """Decisions. ``options`` are those of `Subscriber`, here and below."""
    return Subscriber(connection, topics.DECISIONS, **options)


def pods(connection: Source, **options: Any) -> Subscriber[PodCreated | PodCompleted | PodAbandoned]:
    """What becomes of ad pods."""
    return Subscriber(connection, topics.PODS, **options)


def campaign_changes(connection: Source, **options: Any) -> Subscriber[CampaignChange]:
    """What became of each campaign command."""
    return Subscriber(connection, topics.CAMPAIGN_CHANGES, **options)


def budget_exhausted(connection: Source, **options: Any) -> Subscriber[BudgetExhausted]:
    """Campaigns that have less than one price left."""
    return Subscriber(connection, topics.BUDGET_EXHAUSTED, **options)


def budget_thresholds(connection: Source, **options: Any) -> Subscriber[BudgetThreshold]:
    """Shares of budgets that are spent."""
    return Subscriber(connection, topics.BUDGET_THRESHOLDS, **options)


def campaigns_paused(connection: Source, **options: Any) -> Subscriber[CampaignPaused]:
    """Campaigns that stopped being served."""
    return Subscriber(connection, topics.CAMPAIGN_PAUSED, **options)


def campaigns_resumed(connection: Source, **options: Any) -> Subscriber[CampaignResumed]:
    """Campaigns that are served again."""
    return Subscriber(connection, topics.CAMPAIGN_RESUMED, **options)


def dead_letters(connection: Source, input_topic: str, **options: Any) -> Subscriber[DeadLetter]:
    """Inputs of a topic that no shard could use."""
    return Subscriber(connection, topics.dlq(input_topic), **options)


__all__ = [
    "START",
    "AdReader",
    "DeadLetter",
    "Gap",
    "Handover",
    "KafkaConnection",
    "PartitionReader",
    "Position",
    "RawMessage",
    "ReadableLog",
    "Reader",
    "SharedSubscriber",
    "Source",
    "Subscriber",
    "budget_exhausted",
    "budget_thresholds",
    "campaign_changes",
    "campaigns_paused",
    "campaigns_resumed",
    "dead_letters",
    "decisions",
    "dump_positions",
    "load_positions",
    "pods",
]
