"""The resolve stage as it is run: real Kafka and Redis, a worker, an ad server on loopback, and a kill."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from ad_server import AdServer, Answer, Route, Seen, ad_server
from deployments import PATIENCE_S, Deployment
from vast_documents import inline, vast, wrapper

from adgovernor import subscribe
from adgovernor.contracts.ads import Ad
from adgovernor.contracts.campaigns import Campaign, UpsertCampaign
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.publish import Publisher
from adgovernor.sessions.addresses import AddressPolicy
from adgovernor.sessions.decider import StreamDecider
from adgovernor.sessions.httpx_transport import HttpxTransport
from adgovernor.sessions.playback import Playback
from adgovernor.sessions.stream_governor import StreamGovernor
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig
from adgovernor.subscribe import AdReader

pytestmark = pytest.mark.servers

PRICE = 10


@pytest.fixture
def deployment(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, redis_namespace: str, tmp_path: Path
) -> Deployment:
    """Topics, and nothing in them."""
    settings = {"KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap, "REDIS__URL": redis_url}
    made = Deployment(f"{topic_prefix}.{redis_namespace}", tmp_path, settings)
    made.run("topics", "create", "--partitions", "2")
    return made


@asynccontextmanager
async def served(
    deployment: Deployment,
) -> AsyncIterator[tuple[Publisher, StreamDecider, AdReader]]:
    """A campaign with money on every shard, whoever asks for its ads, and the ads as they are resolved."""
    async with (
        Publisher(deployment.kafka, prefix=deployment.prefix) as publisher,
        subscribe.decisions(deployment.kafka, prefix=deployment.prefix) as decisions,
        StreamDecider(publisher, decisions, answer_s=30.0) as decider,
        AdReader(deployment.kafka, prefix=deployment.prefix) as ads,
    ):
        await define(deployment, publisher)
        await until_leased(decider)
        yield publisher, decider, ads


def documents(slow_s: dict[str, float]) -> dict[str, Route]:
    """A chain of two; the brand's answer waits as ``slow_s`` says at the moment."""

    def brand(request: Seen) -> Answer:
        return Answer(
            vast(inline("brand", extra="<Impression>/shown?cb=[CACHEBUSTING]</Impression>")),
            delay_s=slow_s["s"],
        )

    return {
        "/tag": Answer(vast(wrapper("w", "/brand"))),
        "/brand": brand,
        "/shown": Answer(b""),
        "/none": Answer(vast()),
    }


def request(number: int, *tags: str | None) -> AdRequest:
    return AdRequest(
        request_id=f"r{number}",
        time_ms=time.time_ns() // 1_000_000,
        user_id=f"u{number}",
        candidates=tuple(
            Candidate(campaign_id="c", creative_id=f"x{place}", price_micros=PRICE, tag_url=tag)
            for place, tag in enumerate(tags)
        ),
    )


async def define(deployment: Deployment, publisher: Publisher) -> None:
    """Campaign ``c``, accepted."""
    campaign = Campaign(
        campaign_id="c", account_id="a", currency="EUR", budget_micros=100_000, min_price_micros=PRICE
    )
    async with subscribe.campaign_changes(deployment.kafka, prefix=deployment.prefix) as changes:
        await publisher.command(
            UpsertCampaign(command="upsert", command_id="1", account_id="a", campaign=campaign)
        )
        async with asyncio.timeout(PATIENCE_S):
            assert (await anext(aiter(changes))).accepted


async def until_leased(decider: StreamDecider) -> None:
    """Until both shards have money for ``c``: from then on every request is filled."""
    async with asyncio.timeout(PATIENCE_S):
        number = 0
        won: set[str] = set()
        while len(won) < 2:
            number += 1
            decision = await decider.decide(request(-number, None))
            if decision.slots[0].winner is not None:
                won.add(decision.shard)


async def collect(ads: AdReader, wanted: int) -> list[Ad]:
    """The next ads."""
    found = []
    async with asyncio.timeout(PATIENCE_S):
        async for ad in ads:
            found.append(ad)
            if len(found) == wanted:
                return found
    raise AssertionError("reading ads has no end")


async def test_tags_are_resolved_and_their_impressions_are_spent(deployment: Deployment) -> None:
    """Each decided tag comes out once, as a playable ad or with its error; a shown one is tracked and paid for."""
    with (
        ad_server(documents({"s": 0.0})) as server,
        deployment.process("worker", "run", starts="worker starts"),
        deployment.process(
            "resolve", "resolve", "--from-start", "--allow-private", starts="resolve stage starts"
        ) as (_, metrics),
    ):
        async with (
            served(deployment) as (publisher, decider, ads),
            HttpxTransport(AddressPolicy(allow_private=True)) as transport,
            Playback(publisher, transport) as playback,
        ):
            for number in range(10):
                tag = f"{server.url}/{'tag' if number % 2 else 'none'}"
                decision = await decider.decide(request(number, tag))
                assert decision.slots[0].winner is not None
            found = {ad.decision_id: ad for ad in await collect(ads, 10)}
            assert set(found) == {f"r{number}" for number in range(10)}
            for number in range(10):
                ad = found[f"r{number}"]
                if number % 2:
                    assert ad.requested == (f"{server.url}/tag", f"{server.url}/brand")
                    assert f"{server.url}/shown?cb=[CACHEBUSTING]" in ad.ads[0].impressions
                    assert ad.routing_id == f"u{number}"
                else:
                    assert [error.code for error in ad.errors] == [303]
            await playback.fire_impression(found["r1"])
        watched = await asyncio.to_thread(deployment.lines, "watch", "ads", "--from-start", "--until-end")
        assert {each["type"] for each in watched} == {"ad"}
        assert sorted(each["decision_id"] for each in watched) == sorted(found)
        shown = [path for path in server.paths if path.startswith("/shown")]
        assert len(shown) == 1
        assert "CACHEBUSTING" not in shown[0]
        text = await asyncio.to_thread(read, f"{metrics}/metrics")
        assert 'adgovernor_resolved_tags_total{outcome="ad"} 5.0' in text
        await until_spent(deployment, PRICE)
        state = await asyncio.to_thread(deployment.json, "state", "session", "u1")
        assert state["counted"]["requests"] == 2


def read(url: str) -> str:
    """What an address answers."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


async def until_spent(deployment: Deployment, micros: int) -> None:
    """Until the store says that so much of ``c`` is spent."""
    store = RedisStore(RedisConfig.from_url(deployment.redis), deployment.prefix)
    governor = StreamGovernor(store, _Nobody())
    async with asyncio.timeout(PATIENCE_S):
        while True:
            standing = await governor.get_budget("c")
            if standing is not None and standing.spent_micros == micros:
                break
            await asyncio.sleep(0.1)
    await store.close()


class _Nobody:
    """Decides nothing: this governor is only asked."""

    async def decide(self, request: AdRequest) -> Decision:
        raise AssertionError

    async def tell(self, event: object) -> None:
        raise AssertionError


async def test_a_killed_stage_leaves_no_decision_without_its_ad(deployment: Deployment) -> None:
    """Killed while upstreams are slow, the stage does what was under way again: every ad comes, none is read twice."""
    slow = {"s": 0.0}
    arguments = ("resolve", "--from-start", "--allow-private", "--concurrent", "4")
    with (
        ad_server(documents(slow)) as server,
        deployment.process("worker", "run", starts="worker starts"),
    ):
        async with served(deployment) as (_, decider, ads):
            with deployment.process("first", *arguments, starts="resolve stage starts") as (process, _):
                for number in range(10):
                    await decider.decide(request(number, f"{server.url}/tag"))
                before = await collect(ads, 10)
                slow["s"] = 3.0
                for number in range(10, 30):
                    await decider.decide(request(number, f"{server.url}/tag"))
                await until_asked(server, 13)
                process.kill()
                await asyncio.to_thread(process.wait, 10)
            slow["s"] = 0.0
            with deployment.process("second", *arguments, starts="resolve stage starts"):
                after = await collect(ads, 20)
            names = sorted(ad.decision_id for ad in (*before, *after))
            assert names == sorted(f"r{number}" for number in range(30))
            assert all(ad.ads for ad in after)


async def test_a_stage_begins_now_and_later_where_it_stopped(deployment: Deployment) -> None:
    """The first time only what comes next is resolved; the second time also what came while no stage ran."""
    arguments = ("resolve", "--allow-private")
    with (
        ad_server(documents({"s": 0.0})) as server,
        deployment.process("worker", "run", starts="worker starts"),
    ):
        async with served(deployment) as (_, decider, ads):
            await decider.decide(request(0, f"{server.url}/tag"))
            with deployment.process("first", *arguments, starts="resolve stage starts"):
                await decider.decide(request(1, f"{server.url}/tag"))
                assert [ad.decision_id for ad in await collect(ads, 1)] == ["r1"]
            await decider.decide(request(2, f"{server.url}/tag"))
            with deployment.process("second", *arguments, starts="resolve stage starts"):
                await decider.decide(request(3, f"{server.url}/tag"))
                assert sorted(ad.decision_id for ad in await collect(ads, 2)) == ["r2", "r3"]
    assert ads.repeated == 0


async def until_asked(server: AdServer, times: int) -> None:
    """Until the brand's ad was asked for so often."""
    async with asyncio.timeout(PATIENCE_S):
        while sum(path == "/brand" for path in server.paths) < times:  # noqa: ASYNC110 - a poll of a thread
            await asyncio.sleep(0.05)


async def until_shared(metrics: str, *, partitions: int) -> None:
    """Until a stage has so many partitions."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            text = await asyncio.to_thread(read, f"{metrics}/metrics")
            if f"adgovernor_resolve_partitions {partitions}.0" in text:
                return
            await asyncio.sleep(0.1)


async def until_dealt(stages: tuple[str, ...], shares: list[int]) -> None:
    """Until the stages have so many partitions, whoever has which."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            texts = [await asyncio.to_thread(read, f"{stage}/metrics") for stage in stages]
            found = [re.search(r"^adgovernor_resolve_partitions (\d+)", text, re.MULTILINE) for text in texts]
            if sorted(int(each[1]) for each in found if each is not None) == shares:
                return
            await asyncio.sleep(0.1)


async def test_stages_divide_the_work_and_take_over_what_is_left(deployment: Deployment) -> None:
    """A stage joins or leaves without an ad done twice; a killed one's share goes to another."""
    slow = {"s": 0.0}
    arguments = ("resolve", "--from-start", "--allow-private")
    with (
        ad_server(documents(slow)) as server,
        deployment.process("worker", "run", starts="worker starts"),
        deployment.process("first", *arguments, starts="resolve stage starts") as (_, first),
    ):
        async with served(deployment) as (_, decider, ads):
            await until_shared(first, partitions=2)

            async def ask(numbers: range) -> None:
                for number in numbers:
                    await decider.decide(request(number, f"{server.url}/tag"))

            # One joins and leaves in the middle of the work.
            asking = asyncio.create_task(ask(range(40)))
            with deployment.process("second", *arguments, starts="resolve stage starts") as (_, second):
                await until_shared(first, partitions=1)
                await until_shared(second, partitions=1)
                await ask(range(40, 60))
                await asking
                before = await collect(ads, 60)
                counted = await asyncio.to_thread(read, f"{second}/metrics")
                assert 'adgovernor_resolved_tags_total{outcome="ad"}' in counted
            await until_shared(first, partitions=2)
            assert ads.repeated == 0
            assert sum(path == "/brand" for path in server.paths) == 60

            # One is killed with its share under way; another, which had none, or the first has it then.
            with (
                deployment.process("third", *arguments, starts="resolve stage starts") as (process, third),
                deployment.process("fourth", *arguments, starts="resolve stage starts") as (_, fourth),
            ):
                await until_dealt((first, third, fourth), [0, 1, 1])
                slow["s"] = 2.0
                await ask(range(60, 90))
                await until_asked(server, 90)
                process.kill()
                await asyncio.to_thread(process.wait, 10)
                slow["s"] = 0.0
                after = await collect(ads, 30)
                await until_dealt((first, fourth), [1, 1])
            await until_shared(first, partitions=2)
    names = [ad.decision_id for ad in (*before, *after)]
    assert sorted(names) == sorted(f"r{number}" for number in range(90))
    assert all(ad.ads for ad in after)


async def test_a_session_beside_the_stream_spends_through_the_ledger(deployment: Deployment) -> None:
    """On real servers a spend is a decision and its impression: money, caps and session state agree afterwards."""
    with deployment.process("worker", "run", starts="worker starts"):
        config = RedisConfig.from_url(deployment.redis)
        store = RedisStore(config, deployment.prefix)
        async with (
            Publisher(deployment.kafka, prefix=deployment.prefix) as publisher,
            subscribe.decisions(deployment.kafka, prefix=deployment.prefix) as decisions,
            StreamDecider(publisher, decisions, answer_s=30.0) as decider,
        ):
            await define(deployment, publisher)
            governor = StreamGovernor(store, decider, lease_wait_s=30.0)
            for number in range(3):
                spend = await governor.track_budget("s", "c", PRICE, f"i{number}", user_id="ann")
                assert spend.accepted, spend.reasons
            assert (await governor.track_budget("s", "c", PRICE, "i0", user_id="ann")).accepted
            await until_spent(deployment, 3 * PRICE)
            assert (await governor.check_frequency_cap("ann", "c", 9)).seen == 3
            state = await governor.get_session_state("s")
            assert state is not None
            assert (state.impressions, state.spend_micros) == (3, 3 * PRICE)
            # Another process, which knows only what the shards wrote, comes to know the same.
            another = StreamGovernor(store, _Nobody())
            async with asyncio.timeout(PATIENCE_S):
                while await another.get_session_state("s") != state:  # noqa: ASYNC110 - another process's work
                    await asyncio.sleep(0.1)
        await store.close()


SESSION_EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "session_beside_stream.py"


async def test_the_session_example_runs_beside_workers(deployment: Deployment) -> None:
    """The first viewer is capped, the second gets the last impression, and the ledger's money is what was shown."""
    with deployment.process("worker", "run", starts="worker starts"):
        arguments = (deployment.kafka, deployment.redis, deployment.prefix)
        shown = await asyncio.to_thread(
            subprocess.check_output, [sys.executable, str(SESSION_EXAMPLE), *arguments], timeout=PATIENCE_S
        )
    assert shown.decode().splitlines() == [
        *["ann: plays brand-1"] * 2,
        "ann: CapExceededError",
        "ann: 3 requests, 2 impressions",
        "bob: plays brand-1",
        *["bob: BudgetExceededError"] * 2,
        "bob: 3 requests, 1 impressions",
        "spent: 0.06 EUR",
    ]
