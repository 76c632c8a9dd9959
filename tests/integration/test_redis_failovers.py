"""A Redis whose replica takes over without its last writes, behind Sentinel and in a Cluster, under two workers: the
shards find out that their state fell back, bring it to the ledger's end, and every number agrees.

Who is hit: ADGOVERNOR_TEST_CHAOS_SEED; the same seed draws the same.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from at_work import SETTLED_S, AtWork, at_work, kill, until

import servers
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.runtime.topics_admin import create_topics

SEED = int(os.environ.get("ADGOVERNOR_TEST_CHAOS_SEED", "1"))
PARTITIONS = 2

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.timeout(3 * SETTLED_S)]


async def follows(replica: int) -> bool:
    """Whether a replica has what its master has, and is told of what comes."""
    return "master_link_status:up" in servers.redis_command(replica, "INFO", "replication")


async def cut_off(replica: int) -> None:
    """Has a replica learn of no more writes, though it stays reachable: its master refuses the password."""
    assert "OK" in servers.redis_command(replica, "CONFIG", "SET", "masterauth", "wrong")
    assert "OK" in servers.redis_command(replica, "CONFIG", "SET", "masteruser", "nobody")
    servers.redis_command(replica, "CLIENT", "KILL", "TYPE", "master")

    async def alone() -> bool:
        return not await follows(replica)

    await until(alone, "the replica is cut off")


def offset(port: int) -> int:
    """How much a server has of what its master was told to write."""
    told = servers.redis_command(port, "INFO", "replication")
    found = re.search(r"(?:slave|master)_repl_offset:(\d+)", told)
    assert found is not None, told
    return int(found[1])


async def leads(port: int) -> bool:
    """Whether this server is a master."""
    return "role:master" in servers.redis_command(port, "INFO", "replication")


async def falls_back(
    work: AtWork, master: servers.Supervised, master_port: int, replica_port: int, *, hung: bool
) -> None:
    """A replica that lacks the last writes takes over from its master, which is killed, or hangs and wakes as one
    master too many."""
    await until(lambda: follows(replica_port), "the replica follows its master")
    await cut_off(replica_port)
    await work.more_seen(200)

    async def lacks() -> bool:
        return offset(replica_port) < offset(master_port)

    await until(lacks, "the replica lacks writes")
    if hung:
        master.send_signal(signal.SIGSTOP)
    else:
        await kill(master)
    try:
        await until(lambda: leads(replica_port), "the replica takes over")
        # So that it can follow the other one in its turn.
        assert "OK" in servers.redis_command(replica_port, "CONFIG", "SET", "masterauth", '""')
        assert "OK" in servers.redis_command(replica_port, "CONFIG", "SET", "masteruser", '""')
        await work.more_seen(100)
    finally:
        if hung:
            master.send_signal(signal.SIGCONT)
        else:
            master.start()

    async def demoted() -> bool:
        return "role:slave" in servers.redis_command(master_port, "INFO", "replication")

    await until(demoted, "who was the master follows")


async def test_sentinels_put_a_replica_that_lacks_writes_in_the_masters_place(
    own_kafka: servers.LocalKafka, own_sentinels: servers.LocalSentinel, tmp_path: Path
) -> None:
    """The store falls back twice, to a replica after its master died, and away from a master that hung: the shards find
    it out and bring the store to the ledger's end."""
    await create_topics(KafkaConnection(own_kafka.bootstrap), "watched", PARTITIONS)
    hosts = ",".join(f"{host}:{port}" for host, port in own_sentinels.sentinels)
    url = f"redis+sentinel://{hosts}/{own_sentinels.master_name}"
    async with at_work(own_kafka.bootstrap, url, "watched", tmp_path, SEED, 100) as work:

        async def fail_over() -> None:
            await work.more_seen(200)
            first, second = own_sentinels.master, own_sentinels.replica
            first_port, second_port = own_sentinels.ports
            await falls_back(work, first, first_port, second_port, hung=False)
            await work.more_seen(200)
            await falls_back(work, second, second_port, first_port, hung=True)
            await work.more_seen(200)

        await work.run(fail_over)


async def test_a_clusters_replica_that_lacks_writes_takes_over(
    own_kafka: servers.LocalKafka, own_redis_cluster: servers.LocalRedis, tmp_path: Path
) -> None:
    """Masters of a Redis Cluster hang and die, and their replicas lack the last writes: the shards on them find it out
    and bring their state to the ledger's end, the others do not mind."""
    await create_topics(KafkaConnection(own_kafka.bootstrap), "spread", PARTITIONS)
    url = own_redis_cluster.url.replace("redis://", "redis+cluster://").removesuffix("/0")
    async with at_work(own_kafka.bootstrap, url, "spread", tmp_path, SEED, 100) as work:

        async def fail_over() -> None:
            await work.more_seen(200)
            ports = own_redis_cluster.ports
            held = [n for n in range(3) if "keys=" in servers.redis_command(ports[n], "INFO", "keyspace")]
            for index in work.rng.sample(held, min(2, len(held))):
                master, replica = ports[index], ports[3 + index]
                process = own_redis_cluster.processes[index]
                await falls_back(work, process, master, replica, hung=index == held[0])
            await work.more_seen(200)

        await work.run(fail_over)
