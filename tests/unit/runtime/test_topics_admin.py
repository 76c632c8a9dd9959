"""The topics of a deployment: how they are made, and what is found wrong with them."""

from __future__ import annotations

import pytest

from adgovernor.contracts import topics
from adgovernor.runtime.topics_admin import (
    LEDGER_MESSAGE_BYTES,
    OUTPUT_MESSAGE_BYTES,
    TopicState,
    check_replicas,
    check_topics,
    topic_config,
)
from adgovernor.stores.base import Finding


@pytest.mark.parametrize(
    ("missing", "mend"), [(topics.LEDGER, "held money"), (topics.DECISIONS, "adgovernor topics create")]
)
def test_a_ledger_that_is_gone_is_not_simply_made_anew(missing: str, mend: str) -> None:
    """Of a deployment's topics a missing ledger is a loss to look into; any other is created."""
    there = {
        name: TopicState(f"p.{name}", 2, 3, topic_config(name, 3))
        for name in topics.ALL_TOPICS
        if name != missing
    }
    worst = check_topics(there)[0]
    assert (worst.level, mend in worst.mend) == ("error", True), worst


def test_where_nothing_is_there_yet_it_is_made() -> None:
    """A prefix without any topic has lost nothing: its topics are to be created."""
    (found,) = check_topics({})
    assert (found.level, "adgovernor topics create" in found.mend) == ("error", True)


def deployment(name: str, state: TopicState) -> dict[str, TopicState]:
    """A deployment in which one topic is otherwise."""
    there = {each: TopicState(f"p.{each}", 2, 3, topic_config(each, 3)) for each in topics.ALL_TOPICS}
    return {**there, name: state}


def topic(name: str, **config: str) -> list[Finding]:
    """What is found of a deployment in which one topic is set otherwise; an empty text takes a setting away."""
    changed = {key.replace("_", "."): value for key, value in config.items()}
    kept = {key: value for key, value in (topic_config(name, 3) | changed).items() if value}
    return check_topics(deployment(name, TopicState(f"p.{name}", 2, 3, kept)))


@pytest.mark.parametrize(
    ("name", "key", "value", "level", "said"),
    [
        (topics.LEDGER, "message_timestamp_type", "CreateTime", "error", "append time"),
        (topics.LEDGER, "max_message_bytes", "1048588", "error", "takes messages of 1048588 bytes"),
        (topics.TREASURY_LEDGER, "retention_ms", "604800000", "error", "forgets: retention.ms is 604800000"),
        (topics.CAMPAIGNS, "retention_bytes", "1", "error", "forgets: retention.bytes is 1"),
        (topics.CAMPAIGNS, "cleanup_policy", "compact", "error", "is compacted"),
        (topics.PERSON_KEYS, "cleanup_policy", "delete", "error", "is not compacted"),
        (topics.PERSON_KEYS, "max_compaction_lag_ms", "9999999999", "warning", "longer than 30 days"),
        (topics.DECISIONS, "unclean_leader_election_enable", "true", "warning", "unclean leader election"),
    ],
)
def test_a_topic_that_is_set_wrong_is_named_with_what_mends_it(
    name: str, key: str, value: str, level: str, said: str
) -> None:
    """Each setting that money or people depend on is looked at: the finding names the topic and the command."""
    (found,) = topic(name, **{key: value})
    assert (found.level, found.subject) == (level, f"p.{name}")
    assert found.message.startswith(f"p.{name} ")
    assert said in found.message
    assert f"--entity-name p.{name} --add-config {key.replace('_', '.')}=" in found.mend


@pytest.mark.parametrize(
    ("replication", "needed", "said"),
    [
        (2, "1", "fewer than three replicas"),
        (3, "1", "one replica alone"),
        (3, "3", "all their replicas only"),
    ],
)
def test_topics_that_a_lost_broker_harms_are_warned_of(replication: int, needed: str, said: str) -> None:
    """Too few replicas, too few that acknowledge and none to spare are one warning each, whatever topic it is."""
    for name in (topics.LEDGER, topics.CAMPAIGNS, topics.AD_REQUESTS):
        config = topic_config(name, 3) | {"min.insync.replicas": needed}
        (found,) = check_topics(deployment(name, TopicState(f"p.{name}", 2, replication, config)))
        assert (found.level, found.subject) == ("warning", f"p.{name}")
        assert f"1 of {len(topics.ALL_TOPICS)} topics (p.{name}) " in found.message
        assert said in found.message
        assert found.mend


@pytest.mark.parametrize(
    ("in_sync", "level", "said"),
    [
        ((3, 0), "error", "1 of 2 partitions (p.ledger[1]) have no leader"),
        ((1, 1), "error", "2 of 2 partitions (p.ledger[0], p.ledger[1]) have fewer replicas in sync"),
        ((2, 3), "warning", "1 of 2 partitions (p.ledger[0]) have replicas that are behind"),
    ],
)
def test_partitions_that_wait_for_brokers_are_found_and_keep_no_worker_away(
    in_sync: tuple[int, ...], level: str, said: str
) -> None:
    """Brokers that are away are told by `check`; what keeps workers from starting is another list."""
    config = topic_config(topics.LEDGER, 3)
    there = deployment(topics.LEDGER, TopicState("p.ledger", 2, 3, config, in_sync))
    (found,) = check_replicas(there)
    assert (found.level, said in found.message) == (level, True), found
    assert [finding.level for finding in check_topics(there)] == ["ok"]
    assert check_replicas(deployment(topics.LEDGER, TopicState("p.ledger", 2, 3, config, (3, 3)))) == []


@pytest.mark.parametrize("name", [topics.LEDGER, topics.CAMPAIGNS, topics.PERSON_KEYS])
def test_settings_that_may_not_be_read_are_one_warning(name: str) -> None:
    """Where a user may not see the settings of a topic that nothing may be lost of, that is told, and nothing is said
    of what they might be."""
    (found,) = check_topics(deployment(name, TopicState(f"p.{name}", 2, 3, {})))
    assert (found.level, found.subject) == ("warning", f"p.{name}")
    assert "DESCRIBE_CONFIGS" in found.mend


def test_topics_with_money_are_named_first_of_several() -> None:
    """Of many topics in one finding the first are named, and of these the command that mends each."""
    there = {
        each: TopicState(f"p.{each}", 2, 3, topic_config(each, 3) | {"min.insync.replicas": "1"})
        for each in topics.ALL_TOPICS
    }
    (found,) = check_topics(there)
    assert found.message.startswith(
        f"{len(there)} of {len(there)} topics (p.campaigns, p.ledger, p.treasury-ledger…)"
    )
    assert f"--entity-name p.{next(iter(there))} " in found.mend
    assert f"(and so on for each of the {len(there)})" in found.mend
    (one,) = check_topics(deployment(topics.LEDGER, there[topics.LEDGER]))
    assert "and so on" not in one.mend


def test_errors_come_before_warnings() -> None:
    """Whoever reads the first line alone reads the worst."""
    there = deployment(
        topics.LEDGER, TopicState("p.ledger", 2, 3, {**topic_config(topics.LEDGER, 3), "retention.ms": "1"})
    )
    unclean = topic_config(topics.AD_REQUESTS, 3) | {"unclean.leader.election.enable": "true"}
    there[topics.AD_REQUESTS] = TopicState("p.ad-requests", 2, 3, unclean)
    found = [(finding.level, finding.subject) for finding in check_topics(there)]
    assert found == [("error", "p.ledger"), ("warning", "p.ad-requests")]


def test_a_partition_that_has_all_its_replicas_waits_for_none() -> None:
    """A topic that asks for more replicas in sync than it has is warned of by its settings, not by its state."""
    config = topic_config(topics.LEDGER, 3) | {"min.insync.replicas": "2"}
    assert check_replicas(deployment(topics.LEDGER, TopicState("p.ledger", 2, 1, config, (1, 1)))) == []


@pytest.mark.parametrize(("replication", "needed"), [(1, "1"), (2, "1"), (3, "2"), (5, "2")])
def test_topics_are_made_so_that_a_lost_broker_neither_loses_nor_stops_anything(
    replication: int, needed: str
) -> None:
    """With three replicas or more two must acknowledge; with fewer one, or the loss of a broker would stop work."""
    assert {topic_config(name, replication)["min.insync.replicas"] for name in topics.ALL_TOPICS} == {needed}


def test_messages_are_as_large_as_who_writes_them_makes_them() -> None:
    """Blocks and outputs may be larger than a broker's default; inputs are what publishers and brokers agree on."""
    sizes = {name: topic_config(name, 3).get("max.message.bytes") for name in topics.ALL_TOPICS}
    assert {sizes[name] for name in topics.LEDGERS} == {str(LEDGER_MESSAGE_BYTES)}
    assert {sizes[name] for name in (*topics.PUBLIC_OUTPUTS, *topics.SIDE_TOPICS, *topics.DLQS)} == {
        str(OUTPUT_MESSAGE_BYTES)
    }
    assert {sizes[name] for name in topics.PUBLIC_INPUTS} == {None}


def test_topics_as_they_are_created_are_well() -> None:
    """A deployment with three brokers, created by this program, has one finding: that all is well."""
    (found,) = topic(topics.LEDGER)
    assert (found.level, found.mend) == ("ok", "")
