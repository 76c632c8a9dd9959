"""Users whom a broker or Redis does not let do everything: what they are told, and with which exit code."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deployments import Deployment
from required import required
from rights import DESCRIBE, GROUP, READ, TOPIC, WRITE, allow

import servers

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]

PREFIX = f"r{uuid.uuid4().hex[:10]}"
NOBODY, LOOKER, READER, WRITER = "nobody", "looker", "reader", "writer"


@pytest.fixture(scope="module")
def guarded_kafka() -> Iterator[servers.LocalKafka]:
    """A broker that gives its users only what they are allowed, and has the topics of a deployment."""
    with required():
        servers.require_local(kafka=True)
    users = " ".join(f'user_{name}="{name}"' for name in (NOBODY, LOOKER, READER, WRITER))
    kafka = servers.start_kafka(
        listeners={"PLAIN": "SASL_PLAINTEXT"},
        settings={
            "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.plain.plain.sasl.jaas.config": (
                f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        },
    )
    sees = (TOPIC, "*", DESCRIBE)
    reads = (sees, (TOPIC, "*", READ), (GROUP, "*", READ))
    asyncio.run(allow(kafka.bootstrap, LOOKER, sees))
    asyncio.run(allow(kafka.bootstrap, READER, *reads))
    # Who may write somewhere is let begin as a writer; it is the topic then that refuses.
    asyncio.run(allow(kafka.bootstrap, WRITER, *reads, (TOPIC, f"{PREFIX}.impressions", WRITE)))
    yield kafka
    kafka.stop()


Command = Callable[..., str]


@pytest.fixture
def told(guarded_kafka: servers.LocalKafka, redis_url: str, tmp_path: Path) -> Command:
    """Runs a command as one of the users; what it says on standard error."""
    own = {"KAFKA__BOOTSTRAP_SERVERS": guarded_kafka.bootstrap, "REDIS__URL": redis_url}
    Deployment(PREFIX, tmp_path, own).run("topics", "create", "--partitions", "1")
    (tmp_path / "r.jsonl").write_text('{"request_id":"r1","time_ms":1,"user_id":"u","candidates":[]}\n')

    def run(user: str, *arguments: str, code: int) -> str:
        settings = own | {
            "KAFKA__BOOTSTRAP_SERVERS": guarded_kafka.listeners["PLAIN"],
            "KAFKA__SASL_MECHANISM": "PLAIN",
            "KAFKA__USERNAME": user,
            "KAFKA__PASSWORD": user,
            "START_WAIT_S": "0",
        }
        found, out, error = Deployment(PREFIX, tmp_path, settings).said(*arguments)
        assert (found, "Traceback" in error) == (code, False), (out, error)
        return error

    return run


def test_a_worker_without_rights_ends_and_says_which_it_needs(told: Command) -> None:
    """Who may see no topic, join no group, or not write is told so, with code 2, and is not kept trying."""
    assert "give this user DESCRIBE on them" in told(NOBODY, "run", code=2)
    assert f"group {PREFIX}.workers may not be used" in told(LOOKER, "run", code=2)
    assert "may not be written by this user; give it WRITE" in told(READER, "run", code=2)
    assert "ledger may not be written by this user; give it WRITE" in told(WRITER, "run", code=2)


@pytest.mark.parametrize("user", [READER, WRITER])
@pytest.mark.parametrize(
    "command",
    [
        ["publish", "ad-requests", "r.jsonl"],
        ["campaigns", "pause", "c1", "--account", "a1"],
        ["people", "erase", "u1"],
        ["recover", "u0", "--accept-loss", "--why", "a test", "--even-if-healthy"],
    ],
)
def test_who_may_not_write_is_told_so(told: Command, user: str, command: list[str]) -> None:
    """A command that writes says which right its user lacks, with code 2."""
    assert "may not be written by this user; give it WRITE" in told(user, *command, code=2)


def test_who_may_not_create_topics_is_told_so(told: Command) -> None:
    """Creating topics without the right to says which it is; listing those that cannot be seen says that, too."""
    assert "give this user CREATE on it" in told(NOBODY, "topics", "create", code=2)
    assert "this user may not see them" in told(NOBODY, "topics", "list", code=0)
