"""A ledger that is gone from a real broker: the shard halts, a person accepts the loss, and the deployment goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deployments import until
from sites import Site

from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


async def test_a_treasury_goes_on_without_its_ledger(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, redis_namespace: str, tmp_path: Path
) -> None:
    """A treasury whose ledger is gone halts; recovered, it decides its commands again behind what it had sent, ads are
    served, what it sent can be sent again, and an audit finds every cent or says whose loss was accepted."""
    site = Site(f"{topic_prefix}.{redis_namespace}", kafka_bootstrap, redis_url, tmp_path)
    site.command("topics", "create", "--partitions", "1")
    try:
        site.begin()
        site.serve("r1")
        site.stop()

        await site.lose("treasury-ledger")
        site.start()
        until(lambda: "ledger_truncated" in site.log(), "the halt")
        site.stop()
        told = site.command("recover", "t0", "--accept-loss", "--why", "the disk was lost")
        assert told["epoch"] == 1
        assert told["next_dn"]["campaign-changes"] == 2

        site.start()
        until(
            lambda: any(one["campaign_id"] == "c1" for one in site.command("campaigns", "list")),
            "the campaign",
        )
        site.serve("r2")
        assert site.command("resend", "t0")["messages"] > 0
        site.serve("r3")
        site.stop()
        report = site.command("audit")
        assert report["green"]
        assert any("a person accepted a loss here (epoch 1)" in note for note in report["notes"])
    finally:
        site.stop()


async def test_a_ledger_without_its_beginning_is_named_by_all_who_need_it(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, redis_namespace: str, tmp_path: Path
) -> None:
    """A shard goes on without its ledger's beginning as long as Redis has its state, and halts for that reason where it
    has not; check, state, audit and replay say what is gone, and watch begins with what is left of its topic."""
    site = Site(f"{topic_prefix}.{redis_namespace}", kafka_bootstrap, redis_url, tmp_path)
    site.command("topics", "create", "--partitions", "1")
    store = RedisStore(RedisConfig.from_url(redis_url), site.prefix)
    try:
        site.begin()
        site.serve("r1")
        site.serve("r2")
        site.stop()
        code, said = site.said("recover", "u0", "--accept-loss", "--why", "a mistake")
        assert (code, "agree with its ledger" in said) == (2, True), said

        await site.delete("ledger", 3)
        await site.delete("decisions", 1)
        code, said = site.said("watch", "decisions", "--from-start", "--until-end")
        first, told = said.splitlines()[0], "decisions[0] begins with number 2 (offset 1)"
        assert (code, json.loads(first)["dn"], told in said) == (0, 2, True), said

        site.start()
        site.serve("r3")
        site.stop()
        gone = f"{site.prefix}.ledger[0] begins at offset 3"
        for expected, *arguments in ((1, "check"), (0, "state", "shard", "u0"), (2, "replay", "elsewhere")):
            code, said = site.said(*map(str, arguments))
            assert (code, gone in " ".join(said.split())) == (expected, True), (arguments, said)
        code, said = site.said("audit", "--json")
        findings = json.loads(said)["findings"]
        assert (code, [finding["place"] for finding in findings]) == (1, ["ledger[0]"]), said

        await store.drop("u0")
        site.start()
        until(lambda: "ledger_cut" in site.log(), "the halt")
    finally:
        site.stop()
        await store.close()
