"""Rules of the chain, of outputs and of the store (DESIGN, section 2), broken one at a time."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutation import Mutation, one

from adgovernor.core import links
from adgovernor.core.user_stored import StoredUserState
from adgovernor.runtime import append, takeover
from adgovernor.runtime.block import OpenBlock
from adgovernor.runtime.chain import Spine, Walk
from adgovernor.runtime.engine import ShardEngine
from adgovernor.runtime.publisher import Publisher
from adgovernor.runtime.trail import Trail
from adgovernor.runtime.watched_clock import WatchedClock
from adgovernor.stores.memory import MemoryStore

RUNTIME: Final = (
    Mutation(
        "any-block-of-the-height",
        "*Validity: a block counts only if it is this shard's and continues the last one",
        Walk,
        "counts",
        (("and header.prev_chain == self.chain", ""), ("and header.shard == self.shard", "")),
    ),
    one(
        "last-wins",
        "*First in log order wins",
        append,
        "_look",
        """        if block.chain == chain:
            return offset
""",
        """        if block.chain == chain or block.header.height == walk.height:
            return offset
""",
    ),
    one(
        "accept-behind-a-gap",
        "*Acknowledged offset = the position walked to: greater is not accepted",
        append,
        "_commit",
        "            case Verdict.GAP:\n",
        """            case Verdict.GAP if walk.height >= 0:
                walk.offset = acknowledged
                walk.take_own(acknowledged, height, chain)
                return acknowledged
            case Verdict.GAP:
""",
    ),
    one(
        "unknown-is-done",
        "*Error, deadline passed: unknown, so read",
        append,
        "_commit",
        "                await _prove(world, before)\n                return found\n            continue\n",
        """                return found
            walk.height, walk.chain = height, chain
            return walk.offset
""",
    ),
    one(
        "unknown-is-absent",
        "*Absence is never proof: the block may land yet, so the next one must follow its fate",
        ShardEngine,
        "_block",
        "        offset = await commit(world, memory.walk, data, chain)\n",
        """        try:
            offset = await commit(world, memory.walk, data, chain)
        except StartOver as lost:
            if lost.reason != "unknown":
                raise
            return
""",
    ),
    one(
        "keep-memory",
        "*Void or lost: drop memory",
        ShardEngine,
        "_block",
        "        offset = await commit(world, memory.walk, data, chain)\n",
        """        try:
            offset = await commit(world, memory.walk, data, chain)
        except StartOver as lost:
            if lost.reason != "void":
                raise
            spine.height, spine.chain = memory.walk.height, memory.walk.chain
            return
""",
    ),
    one(
        "no-republish",
        "*Republish from `published` after takeover and resync",
        takeover,
        "_publish_again",
        "        if batch:\n",
        "        if False:\n",
    ),
    one(
        "no-republish-after-resync",
        "*After resync, outputs of (published, tip] are sent again",
        takeover,
        "take_over",
        "        await _republish(world, memory)\n",
        "        if claim:\n            await _republish(world, memory)\n",
    ),
    one(
        "publish-first",
        "*Outputs are published only after their block is accepted",
        ShardEngine,
        "_block",
        "        offset = await commit(world, memory.walk, data, chain)\n",
        """        tenure.publisher.put(header.height, block.outbox.messages(chain))
        offset = await commit(world, memory.walk, data, chain)
""",
    ),
    one(
        "published-is-the-tip",
        "*`published` = the height up to which every output is acknowledged",
        OpenBlock,
        "header",
        "            published=spine.published.height,\n",
        "            published=spine.height,\n",
    ),
    one(
        "skip-failed-outputs",
        "*An output that fails: take over again, never skip",
        Publisher,
        "_run",
        "                    await world.log.publish(outputs, world.settings.publish_deadline_s)\n",
        """                    try:
                        await world.log.publish(outputs, world.settings.publish_deadline_s)
                    except Unavailable:
                        pass
""",
    ),
    one(
        "numbers-begin-again",
        "*`dn` is contiguous, also across owners",
        Spine,
        "advance",
        "            self.dn[topic] = first + outputs.get(topic, 0)\n",
        "            self.dn[topic] = self.dn.get(topic, 1)\n",
    ),
    one(
        "side-messages-unnumbered",
        "*Side messages: the receiver takes last + 1 only",
        links,
        "verdict",
        '        return "repeated"\n',
        '        return "take"\n',
    ),
    one(
        "swap-without-compare",
        "*Redis: compare-and-set on (ledger id, height, chain)",
        MemoryStore,
        "swap",
        "        elif present.meta.tip != expected:\n            return present.meta\n",
        "",
    ),
    one(
        "lost-bucket-believed",
        "A bucket that the store lost alone is not taken for empty",
        MemoryStore,
        "_whole",
        "len(present.buckets.get(bucket, ())) != present.counts.get(bucket, 0) for bucket in buckets",
        "False for bucket in buckets",
    ),
    one(
        "any-store-state",
        "*Cold reads must come with the confirmed pair",
        Trail,
        "holds",
        "        return tip == self.confirmed or tip in self._attempted\n",
        "        return True\n",
        theme="store",
    ),
    one(
        "evict-the-dirty",
        "*A user who is dirty is not evicted",
        StoredUserState,
        "evict",
        "if name not in pinned and name not in dirty and person.ops is None",
        "if True",
    ),
    one(
        "no-catch-up",
        "While Redis is away: afterwards it is brought to the tip before any cold read",
        ShardEngine,
        "_catch_up",
        "        for name, value in zip(names, values, strict=True):\n            machine.load(name, value)\n",
        "        for name in names:\n            machine.load(name, None)\n",
        theme="store",
    ),
    one(
        "clock-not-watched",
        "One bad clock must not age everybody's traffic: a clock that is moved is compared anew",
        WatchedClock,
        "now_ms",
        "if abs(moved_ms) > settings.skew_ms and",
        "if False and",
    ),
    one(
        "clock-not-compared",
        "The claim's append time checks the worker's clock",
        takeover,
        "_check_clock",
        "if time_ms >= 0 and not",
        "if False and not",
    ),
    one(
        "claim-brings-time",
        "A clock that is off stops its worker before it gets into the ledger",
        takeover,
        "claim_block",
        "        now_ms=spine.now_ms,\n",
        "        now_ms=max(spine.now_ms, world.clock.now_ms()),\n",
    ),
    one(
        "no-positions",
        "The position that counts is the one in the ledger's tip",
        Spine,
        "advance",
        "        self.positions = dict(header.positions)\n",
        "        self.positions.update({name: max(0, at - 1) for name, at in header.positions.items()})\n",
    ),
)
