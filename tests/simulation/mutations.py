"""Rules broken on purpose, one at a time: each mutation must make the simulation fail.

A mutation replaces a piece of the text of one function of the engine, the core or the store in memory. Its old text
must occur exactly once: when the code moves on, the mutation says so instead of quietly changing nothing.
"""

from __future__ import annotations
import __future__

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from adgovernor.core import caps, history, leases, links, user_shard, user_state
from adgovernor.core.accounts import TreasuryCampaign
from adgovernor.core.history import Person
from adgovernor.core.leases import CampaignShare
from adgovernor.core.releases import Releases
from adgovernor.core.selection import Selector
from adgovernor.core.treasury import Treasury
from adgovernor.core.treasury_state import TreasuryState
from adgovernor.core.user_shard import UserShard
from adgovernor.core.user_state import UserState
from adgovernor.runtime import append, chain, takeover
from adgovernor.runtime.chain import Spine, Walk
from adgovernor.runtime.engine import ShardEngine
from adgovernor.runtime.publisher import Publisher
from adgovernor.runtime.trail import Trail
from adgovernor.stores.memory import MemoryStore


class Outdated(Exception):
    """The code that a mutation changes is not there any more."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One broken rule.

    Attributes:
        rule: what it breaks, as DESIGN's sections 2 and 3 have it; a star marks the rules that broke runs of the
            design's model when they were removed.
        owner, function: where.
        changes: pairs of old and new text.
    """

    name: str
    rule: str
    owner: Any
    function: str
    changes: tuple[tuple[str, str], ...]

    def mutated(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The function as it is, and as the mutation has it."""
        original = inspect.getattr_static(self.owner, self.function)
        if not inspect.isfunction(original):
            raise Outdated(f"{self.name}: {self.function} is no plain function")
        source = inspect.getsource(original)
        for old, new in self.changes:
            if source.count(old) != 1:
                raise Outdated(f"{self.name}: {self.function} has {source.count(old)} times the text {old!r}")
            source = source.replace(old, new)
        names: dict[str, Any] = {}
        flags = __future__.annotations.compiler_flag
        if source[0] == " ":
            source = (
                "if True:\n" + source
            )  # A method keeps its indentation, so that texts are as in the file.
        code = compile(source, f"<mutation {self.name}>", "exec", flags=flags, dont_inherit=True)
        exec(code, original.__globals__, names)
        return original, names[self.function]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The rule is broken while this lasts."""
        original, broken = self.mutated()
        places: list[Any] = [self.owner]
        if inspect.ismodule(self.owner):
            # Functions are imported by name: every module that has this one gets the broken one.
            places = [
                module
                for name, module in sorted(sys.modules.items())
                if name.startswith("adgovernor.") and getattr(module, self.function, None) is original
            ]
        for place in places:
            setattr(place, self.function, broken)
        try:
            yield
        finally:
            for place in places:
                setattr(place, self.function, original)


def _one(name: str, rule: str, owner: Any, function: str, old: str, new: str) -> Mutation:
    return Mutation(name, rule, owner, function, ((old, new),))


_SECTION_2: Final = (
    _one(
        "any-prev-chain",
        "*Validity: a block counts only if it continues the last one",
        Walk,
        "counts",
        "and header.prev_chain == self.chain",
        "",
    ),
    _one(
        "any-shard",
        "*Validity: a block counts only in its own shard's partition",
        Walk,
        "counts",
        "and header.shard == self.shard",
        "",
    ),
    _one(
        "last-wins",
        "*First in log order wins",
        append,
        "_look",
        """            if block.chain == chain:
                return entry.offset
""",
        """            if block.chain == chain or block.header.height == height:
                return entry.offset
""",
    ),
    _one(
        "accept-behind-a-gap",
        "*Acknowledged offset = the position walked to: greater is not accepted",
        append,
        "commit",
        "            case Verdict.GAP:\n",
        """            case Verdict.GAP if walk.height >= 0:
                walk.offset = acknowledged
                walk.take_own(acknowledged, height, chain)
                return acknowledged
            case Verdict.GAP:
""",
    ),
    _one(
        "unknown-is-done",
        "*Error, deadline passed: unknown, so read",
        append,
        "commit",
        "            if found is not None:\n                return found\n            continue\n",
        """            if found is None:
                walk.height, walk.chain = height, chain
                return walk.offset
            return found
""",
    ),
    _one(
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
    _one(
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
    _one(
        "no-republish",
        "*Republish from `published` after takeover and resync",
        takeover,
        "_publish_again",
        "        if batch:\n",
        "        if False:\n",
    ),
    _one(
        "no-republish-after-resync",
        "*After resync, outputs of (published, tip] are sent again",
        takeover,
        "take_over",
        "        await _republish(world, memory)\n",
        "        if claim:\n            await _republish(world, memory)\n",
    ),
    _one(
        "publish-first",
        "*Outputs are published only after their block is accepted",
        ShardEngine,
        "_block",
        "        offset = await commit(world, memory.walk, data, chain)\n",
        """        tenure.publisher.put(header.height, messages(header, chain, rows))
        offset = await commit(world, memory.walk, data, chain)
""",
    ),
    _one(
        "published-is-the-tip",
        "*`published` = the height up to which every output is acknowledged",
        ShardEngine,
        "_block",
        "            published=spine.published.height,\n",
        "            published=spine.height,\n",
    ),
    _one(
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
    _one(
        "numbers-begin-again",
        "*`dn` is contiguous, also across owners",
        Spine,
        "advance",
        "            self.dn[topic] = first + outputs.get(topic, 0)\n",
        "            self.dn[topic] = self.dn.get(topic, 1)\n",
    ),
    _one(
        "side-messages-unnumbered",
        "*Side messages: the receiver takes last + 1 only",
        links,
        "verdict",
        '        return "repeated"\n',
        '        return "take"\n',
    ),
    _one(
        "side-gaps-taken",
        "*Side messages: one before it has not come",
        links,
        "verdict",
        '        return "gap"\n',
        '        return "take"\n',
    ),
    _one(
        "swap-without-compare",
        "*Redis: compare-and-set on (ledger id, height, chain)",
        MemoryStore,
        "swap",
        "        elif present.meta.tip != expected:\n            return present.meta\n",
        "",
    ),
    _one(
        "reset-without-compare",
        "*A rebuild is a chain of compare-and-set steps",
        MemoryStore,
        "reset",
        "        elif present.tip != expected:\n            return present\n",
        "",
    ),
    _one(
        "any-store-state",
        "*Cold reads must come with the confirmed pair",
        Trail,
        "holds",
        "        return tip == self.confirmed or tip in self._attempted\n",
        "        return True\n",
    ),
    _one(
        "evict-the-dirty",
        "*A user who is dirty is not evicted",
        UserState,
        "evict",
        "if name not in pinned and name not in dirty and person.ops is None",
        "if True",
    ),
    _one(
        "swap-repeated-blindly",
        "A refused or unanswered call: read the meta first",
        Trail,
        "_write",
        "            self._away()\n            await self._ask(meta.tip)\n",
        "            self._settled(meta.tip)\n",
    ),
    _one(
        "no-catch-up",
        "While Redis is away: afterwards it is brought to the tip before any cold read",
        ShardEngine,
        "_catch_up",
        "        for name, value in zip(names, values, strict=True):\n            machine.load(name, value)\n",
        "        for name in names:\n            machine.load(name, None)\n",
    ),
    _one(
        "witness-ignored",
        "A stale owner's decision that makes no sense is no bug",
        ShardEngine,
        "_prove_end",
        "        await commit(self._world, memory.walk, data, chain)\n",
        "",
    ),
    _one(
        "no-positions",
        "The position that counts is the one in the ledger's tip",
        Spine,
        "advance",
        "        self.positions = dict(header.positions)\n",
        "        self.positions.update({name: max(0, at - 1) for name, at in header.positions.items()})\n",
    ),
    _one(
        "void-lets-outputs-go",
        "*Void: unpublished outputs are dropped with memory",
        Publisher,
        "discard",
        "        self._queue.clear()\n",
        "        return\n",
    ),
)

_SECTION_3: Final = (
    # Conservation.
    _one(
        "rest-of-price-lost",
        "Conservation: a lower price returns the rest to the lease",
        UserState,
        "_on_settle",
        "lease=price - charged",
        "lease=0",
    ),
    _one(
        "expiry-spends",
        "Conservation: an expired reservation returns to the lease",
        UserState,
        "_on_expire",
        "move(reserved=-price, lease=price)",
        "move(reserved=-price)",
    ),
    _one(
        "spend-without-lease",
        "Only leased money is reserved",
        Selector,
        "_judge",
        "if price > (0 if book is None else book.lease)",
        "if False",
    ),
    _one(
        "grant-twice",
        "No shard spends money that another could spend too",
        TreasuryState,
        "_on_grant",
        "        known.lease(shard, day, amount)\n",
        "        known.lease(shard, day, amount)\n        known.unleased += amount // 2\n",
    ),
    _one(
        "return-unsent",
        "Conservation: what a shard gives back is in a message",
        UserShard,
        "_return",
        '                item.setdefault("returned", []).append([day, amount])\n',
        "",
    ),
    _one(
        "top-up-twice",
        "Topped-up: each command id once",
        Treasury,
        "_refusal",
        '            return "duplicate"\n',
        "            pass\n",
    ),
    _one(
        "decrease-leased-money",
        "A decrease takes only unleased money",
        Treasury,
        "_money",
        "taken = min(what.amount_micros, known.unleased)",
        "taken = min(what.amount_micros, known.topped_up)",
    ),
    _one(
        "upsert-adds-the-whole",
        "An upsert moves only the difference to the previous budget",
        Treasury,
        "_upsert",
        "moved = definition.budget_micros - known.budget",
        "moved = definition.budget_micros",
    ),
    # Asks and recalls.
    _one(
        "no-cooldown",
        "*After a deny a shard asks again only ask_cooldown_ms later",
        UserShard,
        "_ask",
        " or self.watermark_ms < share.denied.get(day, 0)",
        "",
    ),
    _one(
        "ask-unanswered",
        "Every ask is answered",
        Releases,
        "_serve",
        "                self._deny(known, shard, day)\n",
        "                known.asks.pop((shard, day))\n",
    ),
    _one(
        "any-ask-recalls",
        "Only an ask for an empty lease starts a recall",
        Releases,
        "_serve",
        "if not empty or (lack > room >= known.one_price)",
        "if lack > room >= known.one_price",
    ),
    _one(
        "recall-in-plenty",
        "A recall only when less than one price is unleased",
        Releases,
        "_serve",
        "elif room < known.one_price and known.round is None",
        "elif known.round is None",
    ),
    _one(
        "recall-some",
        "A recall goes to every shard with leased - spent > 0",
        Releases,
        "_recall",
        "shards = known.holders()",
        "shards = known.holders()[:1]",
    ),
    _one(
        "dirty-round-counts",
        "A dirty round cannot declare exhaustion",
        Releases,
        "_end_round",
        "clean = not known.round.dirty",
        "clean = True",
    ),
    _one(
        "round-without-answers",
        "A recall is complete when every shard has answered",
        Releases,
        "_settle",
        "if known.round is not None and not known.round.waiting",
        "if known.round is not None",
    ),
    _one(
        "old-answers-count",
        "An answer belongs to its own recall",
        Treasury,
        "_report",
        'item.get("round") == known.round.number',
        'item.get("round") is not None or item.get("returned")',
    ),
    _one(
        "recall-keeps-money",
        "The reply to a recall returns all idle money",
        UserShard,
        "_return",
        "            amount = share.lease(day)\n",
        "            amount = share.lease(day) if over_only else share.lease(day) // 2\n",
    ),
    # Days.
    _one(
        "day-unbounded",
        "No day's reserved + spent exceeds its budget",
        TreasuryCampaign,
        "room",
        "self.leased_by_day.get(day, 0)",
        "0",
    ),
    _one(
        "day-of-utc",
        "A day is of the account's time zone",
        CampaignShare,
        "day_of",
        "day = zones.day_of(time_ms, self.time_zone)",
        'day = zones.day_of(time_ms, "UTC")',
    ),
    _one(
        "any-day-pays",
        "Settlement books to the reservation's day",
        UserState,
        "_on_settle",
        "share.book(day).move(reserved=-price, spent=charged, lease=price - charged)",
        "share.book(day).move(reserved=-price)\n"
        "        share.book(max(share.books)).move(spent=charged, lease=price - charged)",
    ),
    _one(
        "day-never-begins",
        "A new day lifts the pause of the old one",
        Releases,
        "_calendar",
        '            reasons.discard("day")\n',
        "            pass\n",
    ),
    _one(
        "old-day-keeps-money",
        "Past midnight the old day's idle money is returned",
        UserShard,
        "_idle",
        "(share.paused or share.is_over(day, watermark_ms))",
        "share.paused",
    ),
    # Episodes.
    _one(
        "pause-on-every-reason",
        "campaign-paused when the set becomes non-empty only",
        Releases,
        "_set_reasons",
        "        if paused and not was_paused:\n",
        "        if paused:\n",
    ),
    _one(
        "resume-early",
        "campaign-resumed only when the set of reasons empties",
        Releases,
        "_set_reasons",
        "        elif was_paused and not paused:\n",
        "        elif len(after) < len(before):\n",
    ),
    _one(
        "one-episode",
        "A resume begins episode n + 1",
        Releases,
        "_set_reasons",
        "known.episode + 1 if",
        "known.episode if",
    ),
    _one(
        "money-lifts-manual",
        "Money never clears a manual reason",
        Releases,
        "_leave_exhausted",
        '                reasons.discard("exhausted")\n',
        "                reasons.clear()\n",
    ),
    _one(
        "exhausted-again",
        "Exactly one budget-exhausted an episode",
        Releases,
        "_look_for_exhaustion",
        "if known.reasons or not one",
        'if not one or "manual" in known.reasons',
    ),
    _one(
        "exhausted-too-soon",
        "Exhausted only when less than one price is left",
        Releases,
        "_look_for_exhaustion",
        "if known.unleased + known.outstanding < one",
        "if known.unleased < one",
    ),
    _one(
        "idle-not-counted",
        "Exhausted: unleased + reported leases < one price",
        Releases,
        "_conclude",
        "if clean and known.unleased + known.reported_idle() < one",
        "if known.unleased < one",
    ),
    _one(
        "never-resumed",
        "Exhausted leaves on a top-up that makes one price available",
        Releases,
        "_leave_exhausted",
        '                reasons.discard("exhausted")\n',
        "                pass\n",
    ),
    _one(
        "never-exhausted",
        "What is spent up is exhausted, and says so",
        Releases,
        "_look_for_exhaustion",
        "if known.reasons or not one",
        "if True",
    ),
    _one(
        "thresholds-repeat",
        "A threshold emits one event an episode",
        Releases,
        "_pass_thresholds",
        "if percent not in known.thresholds and",
        "if",
    ),
    _one(
        "paused-is-served",
        "A paused campaign is not served",
        UserState,
        "_on_status",
        "        share.paused = tuple(reasons)\n",
        '        share.paused = tuple(word for word in reasons if word != "manual")\n',
    ),
    # Late impressions.
    _one(
        "late-twice",
        "A late impression is paid once: its tombstone is marked",
        user_state,
        "_shown",
        "        serving.deadline_ms = SHOWN\n",
        "        pass\n",
    ),
    _one(
        "late-not-paid",
        "Late: pay from the lease if it can",
        UserShard,
        "_engagement",
        "if share.lease(serving.day) >= charged",
        "if share.lease(serving.day) >= 2 * charged + 1",
    ),
    _one(
        "debts-forgotten",
        "Owed is paid first by the next grant",
        UserShard,
        "_obey",
        '            self._pay_owed(share, item["day"])\n',
        "",
    ),
    _one(
        "debts-for-ever",
        "Owed is unfunded once the tombstone's life is over",
        UserShard,
        "_pay_owed",
        "if until_ms <= self.watermark_ms",
        "if False",
    ),
    _one(
        "debts-paid-twice",
        "Owed is paid once",
        UserState,
        "_settle_debt",
        "(entry[0], entry[1]) != (decision_id, slot)",
        "entry is not None",
    ),
    _one(
        "late-is-orphan",
        "A late impression within the tombstone's life is no orphan",
        UserShard,
        "_engagement",
        "serving.time_ms + self.rules.dedupe_ms <= self.watermark_ms",
        "serving.deadline_ms != SHOWN and serving.deadline_ms <= self.watermark_ms",
    ),
    # Expiry, watermark, duplicates, caps.
    _one(
        "expiry-out-of-order",
        "Expiry in (deadline, id) order",
        UserState,
        "pop_due",
        "        _, decision_id, slot = heappop(self._deadlines)\n",
        "        latest = max(e for e in self._deadlines if e[0] <= self.watermark_ms"
        " and open_key(e[1], e[2]) in self.open)\n"
        "        self._deadlines.remove(latest)\n"
        "        heapify(self._deadlines)\n"
        "        _, decision_id, slot = latest\n",
    ),
    _one(
        "duplicates-decided",
        "A request id is decided once",
        UserShard,
        "_request",
        "if first is not None and first[0] + self.rules.dedupe_ms > self.watermark_ms",
        "if first is not None and first[0] + 4000 > self.watermark_ms",
    ),
    _one(
        "cap-one-more",
        "Caps: at most the limit",
        caps,
        "_check",
        "if seen < cap.limit",
        "if seen <= cap.limit",
    ),
    _one(
        "caps-look-back-only",
        "Caps: windows that end later count, too",
        caps,
        "_fullest",
        "if not times or max(times) <= time_ms:\n        return len(times)\n",
        "if True:\n        return sum(1 for t in times if t <= time_ms)\n",
    ),
    _one(
        "caps-forget",
        "History is kept as long as a cap needs it",
        Person,
        "prune",
        "oldest = watermark_ms - max(horizon_ms, dedupe_ms)",
        "oldest = watermark_ms - 2000",
    ),
    _one(
        "reservations-uncapped",
        "Open reservations count",
        history.Serving,
        "counts",
        "self.deadline_ms == SHOWN or self.deadline_ms > watermark_ms",
        "self.deadline_ms == SHOWN",
    ),
    _one(
        "opt-outs-ignored",
        "Opt-outs are honoured from the next event on",
        Person,
        "opted_out",
        '            if scope == "advertiser" and word == account:\n',
        "            if False:\n",
    ),
    _one(
        "store-forgets-links",
        "Redis holds the whole state",
        UserState,
        "_on_took",
        "        self.touch_core()\n",
        "",
    ),
    _one(
        "share-forgets",
        "Redis holds the whole state",
        UserState,
        "_on_asked",
        "        share = self._share(campaign)\n",
        "        share = self.shares[campaign]\n",
    ),
)

MUTATIONS: Final = {mutation.name: mutation for mutation in (*_SECTION_2, *_SECTION_3)}

UNNEEDED: Final[dict[str, str]] = {}
_ = (chain, leases, user_shard)
