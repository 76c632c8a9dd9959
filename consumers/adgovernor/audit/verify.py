"""Proves a history: walks every ledger from its first block, decides everything again, and compares.

The machines are the live ones; what is compared with them (bytes, offsets, sums) is read from the topics and the
store. A shard whose chain is broken is not followed beyond the break. Memory holds one shard's people at a time, a part
of them, and a few blocks: histories may be of any length.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from adgovernor.audit.apart import Apart
from adgovernor.audit.follow import follow, go_on, read_keys_of
from adgovernor.audit.followed import Followed
from adgovernor.audit.history import History
from adgovernor.audit.report import Report
from adgovernor.audit.sums import check_links, check_money
from adgovernor.contracts import topics
from adgovernor.contracts.sealing import id_of
from adgovernor.core.machine import RULES
from adgovernor.runtime.collector import Collector
from adgovernor.stores.base import Store

_ROUNDS = 20
"""How often shards are followed further; each time less is left to follow."""


async def audit(
    history: History,
    prefix: str,
    store: Store | None,
    *,
    collector: Collector | None = None,
    apart: Apart | None = None,
) -> Report:
    """Proves a whole deployment's history. ``collector``: of a process that does nothing else; it sweeps after each
    shard. ``apart``: follows shards in processes of their own; left out: one after the other, in this one.

    Raises:
        BadInput: when there is no history to prove.
        Unavailable: when a server does not answer.
    """
    report = Report()
    partitions = await history.partitions()
    if store is None:
        report.skipped["store"] = "no store was named"
    shards = [topics.treasury_shard(p) for p in range(partitions)]
    shards += [topics.user_shard(p) for p in range(partitions)]
    followed: dict[str, Followed] = {}
    with tempfile.TemporaryDirectory(prefix="adgovernor-audit-") as folder:
        if apart is not None:
            for one, found in await apart.follow(shards, partitions, Path(folder)):
                followed[one.shard] = one
                report.add(found)
        else:
            for shard in shards:
                followed[shard] = await follow(
                    history, prefix, shard, partitions, store, Path(folder), report
                )
                if collector is not None:
                    collector.sweep()
        await _even_out(history, followed, report)
        await _check_keys(history, followed, report)
        check_links(followed, report)
        check_money(followed, report)
        for rules, records in sorted(report.others.items()):
            report.notes.append(
                f"{records} records were decided by rules {rules}, and this release decides by {RULES}: they were "
                "folded and not decided again; the release that wrote them can do that"
            )
        for one in followed.values():
            one.people.close()
    return report


async def _even_out(history: History, followed: dict[str, Followed], report: Report) -> None:
    """Follows further, on a deployment that is at work, those shards whose messages others took after their own
    ledger was read: one shard is read after the other, and the sums need one moment for all."""
    for _ in range(_ROUNDS):
        moved = False
        for name, one in followed.items():
            if not one.broken and any(
                other.machine.links.taken.get(name, (0, ""))[0]
                > one.machine.links.sent.get(shard, (0, ""))[0]
                for shard, other in followed.items()
            ):
                moved = await go_on(history, one, report) or moved
        if not moved:
            return


async def _check_keys(history: History, followed: dict[str, Followed], report: Report) -> None:
    if not any(one.keys.sealed for one in followed.values()):
        report.skipped["keys"] = "the ledger is not sealed"
    for one in followed.values():
        keys = one.keys
        if one.broken or not keys.sealed:
            continue
        await read_keys_of(history, one, report)
        for name in sorted(keys.missing):
            report.fault(
                "keys", one.shard, f"key {name} is gone, and no erasure ended it: what it sealed is unproved"
            )
        for _ in keys.given_up:
            report.count("keys whose loss was accepted")
        for name, height in keys.ended.items():
            if id_of(name) not in keys.there or id_of(name) in keys.gone:
                report.count("keys ended by erasures")
            elif height <= one.spine.published.height:
                report.fault(
                    "keys",
                    one.shard,
                    f"key {name} is there, though an erasure ended it at {height}: the topic lost that; "
                    f"`adgovernor recover {one.shard}` ends it again",
                )
            else:
                report.notes.append(f"{one.shard}: key {name} was ended at {height}, its tombstone follows")
