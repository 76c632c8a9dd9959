"""A real broker loses the newest of persons' keys: the shard halts, a person accepts that, and every cent agrees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from deployments import until
from sites import Site

from adgovernor.contracts import topics
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(300)]

PEOPLE = [f"viewer-{n}" for n in range(6)]
FORGOTTEN = ["viewer-1", "viewer-4"]
KEPT = 3
"""Messages of the topic that are not lost: the keys of the first three people. The other keys are gone, and so are the
tombstones of those who were forgotten."""


@pytest_asyncio.fixture
async def store(redis_url: str, site: Site) -> AsyncIterator[RedisStore]:
    """The deployment's store."""
    opened = RedisStore(RedisConfig.from_url(redis_url), site.prefix)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def site(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, redis_namespace: str, tmp_path: Path
) -> AsyncIterator[Site]:
    """A sealed deployment, stopped, that has shown people one ad each, and forgot two of them."""
    made = Site(f"{topic_prefix}.{redis_namespace}", kafka_bootstrap, redis_url, tmp_path, sealed=True)
    made.command("topics", "create", "--partitions", "1")
    try:
        made.begin(caps=[{"window": "lifetime", "limit": 1}])
        for person in PEOPLE:
            made.serve(person)
            made.show(person)
        made.command("people", "erase", *FORGOTTEN)
        until(lambda: not any(known(made, person) for person in FORGOTTEN), "the erasures")
        made.stop()
        yield made
    finally:
        made.stop()


def known(site: Site, person: str) -> bool:
    return bool(site.command("state", "user", person)["known"])


async def keys_there(site: Site) -> set[bytes | None]:
    """The keys that the topic has by the last word on each."""
    last = dict(await site.messages(topics.PERSON_KEYS))
    return {key for key, value in last.items() if value is not None}


def money(site: Site) -> dict[str, Any]:
    """What the audit finds of the campaign's money, once it is green."""
    report = site.command("audit")
    assert report["green"], report["findings"]
    assert not report["findings"]
    found: dict[str, Any] = report["campaigns"]["c1"]
    assert found["spent_micros"] + found["reserved_micros"] <= found["topped_up_micros"]
    return found


@pytest.mark.parametrize("emptied", [False, True], ids=["Redis-whole", "Redis-emptied"])
async def test_lost_keys_halt_their_shard_until_a_person_accepts_that(
    site: Site, store: RedisStore, emptied: bool
) -> None:
    """A topic of persons' keys that lost its tail halts the shard, which says what to do; recovered, it goes on: who is
    forgotten stays forgotten, whose key is gone counts as never met, the others are known, nothing that waited is lost,
    and the money agrees."""
    before = money(site)
    written = await site.messages(topics.PERSON_KEYS)
    assert len(written) == len(PEOPLE) + len(FORGOTTEN)
    await site.lose_tail(topics.PERSON_KEYS, KEPT)
    if emptied:
        await store.drop("u0")

    site.start()
    waiting = site.ask("stranger")
    until(lambda: "person_keys_lost" in site.log(), "the halt")
    halted = next(line for line in site.log().splitlines() if "person_keys_lost" in line)
    assert "adgovernor recover u0 --accept-loss" in halted
    assert waiting not in {one["decision_id"] for one in site.decisions()}
    site.stop()

    told = site.command("recover", "u0", "--accept-loss", "--why", "a disk was lost")
    assert (told["epoch"], told["keys_given_up"]) == (1, 2), "viewer-3 and viewer-5; viewer-4 was forgotten"
    code, said = site.said("recover", "u0", "--accept-loss", "--why", "again")
    assert (code, "agree with its ledger" in said) == (2, True), said

    site.start()
    assert site.answer(waiting)
    answers = {person: site.answer(site.ask(person)) for person in PEOPLE}
    assert answers == {person: person not in ("viewer-0", "viewer-2") for person in PEOPLE}
    site.stop()
    first_keys, there = [key for key, _ in written[: len(PEOPLE)]], await keys_there(site)
    assert [key in there for key in first_keys] == [True, False, True, False, False, False]
    after = money(site)
    assert after["topped_up_micros"] == before["topped_up_micros"]
    assert after["spent_micros"] == before["spent_micros"] == len(PEOPLE) * 1_000
