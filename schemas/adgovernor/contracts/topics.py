"""Topic names, which shard reads and writes which, and the headers of the public topics.

Names here are logical (``ad-requests``); on the broker each has the deployment's prefix before it
(``prod.ad-requests``). User shard ``u3`` is partition 3 of its input topics, treasury shard ``t3`` likewise.
"""

from __future__ import annotations

import re
from typing import Final

from adgovernor.contracts.errors import BadInput

AD_REQUESTS: Final = "ad-requests"
IMPRESSIONS: Final = "impressions"
USER_EVENTS: Final = "user-events"
CAMPAIGNS: Final = "campaigns"
DIRECTIVES: Final = "directives"
REPORTS: Final = "reports"
DECISIONS: Final = "decisions"
CAMPAIGN_CHANGES: Final = "campaign-changes"
BUDGET_EXHAUSTED: Final = "budget-exhausted"
BUDGET_THRESHOLDS: Final = "budget-thresholds"
CAMPAIGN_PAUSED: Final = "campaign-paused"
CAMPAIGN_RESUMED: Final = "campaign-resumed"
PODS: Final = "pods"
ADS: Final = "ads"
LEDGER: Final = "ledger"
TREASURY_LEDGER: Final = "treasury-ledger"
PERSON_KEYS: Final = "person-keys"
"""With what each person's part of a sealed ledger is encrypted. Compacted; an erasure is a tombstone."""

USER_INPUTS: Final = (DIRECTIVES, USER_EVENTS, IMPRESSIONS, AD_REQUESTS)
"""What a user shard reads, in the order of precedence among events of one time."""
TREASURY_INPUTS: Final = (REPORTS, CAMPAIGNS)
"""What a treasury shard reads, in the order of precedence."""
PUBLIC_INPUTS: Final = (AD_REQUESTS, IMPRESSIONS, USER_EVENTS, CAMPAIGNS)
"""What publishers write; each has a dead-letter topic."""
SIDE_TOPICS: Final = (DIRECTIVES, REPORTS)
PUBLIC_OUTPUTS: Final = (
    DECISIONS,
    CAMPAIGN_CHANGES,
    BUDGET_EXHAUSTED,
    BUDGET_THRESHOLDS,
    CAMPAIGN_PAUSED,
    CAMPAIGN_RESUMED,
    PODS,
)
"""What shards write: numbered events, each with its place in the ledger."""
STAGE_OUTPUTS: Final = (ADS,)
"""What stages behind the shards write: named by what they are about, and not numbered."""
LEDGERS: Final = (LEDGER, TREASURY_LEDGER)


_DLQ: Final = ".dlq"


def dlq(topic: str) -> str:
    """The dead-letter topic of an input topic."""
    return topic + _DLQ


def letters_about(topic: str) -> str:
    """The input topic whose dead letters a topic has; the topic itself where it is no dead-letter topic."""
    return topic.removesuffix(_DLQ)


DLQS: Final = frozenset(dlq(topic) for topic in (*PUBLIC_INPUTS, *SIDE_TOPICS))
"""All dead-letter topics."""
ALL_TOPICS: Final = (
    *PUBLIC_INPUTS,
    *SIDE_TOPICS,
    *PUBLIC_OUTPUTS,
    *STAGE_OUTPUTS,
    *(dlq(topic) for topic in (*PUBLIC_INPUTS, *SIDE_TOPICS)),
    *LEDGERS,
    PERSON_KEYS,
)


def full_name(prefix: str, topic: str) -> str:
    """The topic's name on the broker."""
    return f"{prefix}.{topic}" if prefix else topic


def user_shard(partition: int) -> str:
    """The name of the user shard of a partition, such as ``u3``."""
    return f"u{partition}"


def treasury_shard(partition: int) -> str:
    """The name of the treasury shard of a partition, such as ``t3``."""
    return f"t{partition}"


_SHARD: Final = re.compile(r"[ut](?:0|[1-9][0-9]{0,8})")


def shard_named(name: str) -> str:
    """The shard that a person named.

    Raises:
        BadInput: where no shard has such a name, such as ``u03``.
    """
    if _SHARD.fullmatch(name) is None:
        raise BadInput(f"{name!r} is no shard; shards are named u0, u1… (users) and t0, t1… (treasuries)")
    return name


def partition_of_shard(shard: str) -> int:
    """The partition of a shard's name."""
    return int(shard[1:])


def is_treasury(shard: str) -> bool:
    """Whether a shard's name is a treasury's."""
    return shard.startswith("t")


def ledger_topic(shard: str) -> str:
    """The ledger that a shard writes."""
    return TREASURY_LEDGER if is_treasury(shard) else LEDGER


def input_topics(shard: str) -> tuple[str, ...]:
    """What a shard reads, in order of precedence."""
    return TREASURY_INPUTS if is_treasury(shard) else USER_INPUTS


def side_topic(shard: str) -> str:
    """Where a shard's side messages go: a treasury's to ``directives``, a user shard's to ``reports``."""
    return DIRECTIVES if is_treasury(shard) else REPORTS


_TYPES: Final = {
    AD_REQUESTS: "adgovernor.ad-request.v1",
    IMPRESSIONS: "adgovernor.impression.v1",
    USER_EVENTS: "adgovernor.user-event.v1",
    CAMPAIGNS: "adgovernor.campaign-command.v1",
    DECISIONS: "adgovernor.decision.v1",
    CAMPAIGN_CHANGES: "adgovernor.campaign-change.v1",
    BUDGET_EXHAUSTED: "adgovernor.budget-exhausted.v1",
    BUDGET_THRESHOLDS: "adgovernor.budget-threshold.v1",
    CAMPAIGN_PAUSED: "adgovernor.campaign-paused.v1",
    CAMPAIGN_RESUMED: "adgovernor.campaign-resumed.v1",
    PODS: "adgovernor.pod.v1",
    ADS: "adgovernor.ad.v1",
    DIRECTIVES: "adgovernor.directive.v1",
    REPORTS: "adgovernor.report.v1",
}


def event_type(topic: str) -> str:
    """The CloudEvents ``type`` of a topic's events."""
    return _TYPES.get(topic, f"adgovernor.{topic}.v1")


def cloud_headers(topic: str, source: str, event_id: str) -> list[tuple[str, bytes]]:
    """Headers of the CloudEvents 1.0 Kafka binding in binary mode (§3.2): ``ce_source`` + ``ce_id`` name an
    event once and for all."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_type", event_type(topic).encode()),
        ("ce_source", source.encode()),
        ("ce_id", event_id.encode()),
        ("content-type", b"application/json"),
    ]
