"""A small world for tests of the core: machines, the mail between them, and a record of every block.

Unlike `core.direct`, the clock, the delivery of side messages and the ticks are in the test's hand, and every block is
kept as its ledger lines, so that another machine can fold or decide the same history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import (
    Draft,
    ReadRecord,
    digest_of,
    encode_personal,
    encode_record,
)
from adgovernor.contracts.routing import partition_of
from adgovernor.core.links import message_of
from adgovernor.core.machine import RULES, Input
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard

T0 = 1_700_000_000_000
"""Tuesday, 2023-11-14 22:13:20 UTC: when the tests begin."""
SECOND = 1_000
MINUTE = 60_000
HOUR = 3_600_000
DAY = 86_400_000


@dataclass
class Recorded:
    """One record: its input (None: a tick) and its line in the ledger."""

    event: Input | None
    line: bytes
    unknown: bool = False


@dataclass
class Opened:
    """One block as it was opened, with its records."""

    height: int
    now_ms: int
    drained: bool
    records: list[Recorded] = field(default_factory=list)


def line_of(event: Input | None, draft: Draft) -> bytes:
    """A record's bytes, as the runtime writes them."""
    if event is None:
        return encode_record(
            "tick", -1, digest_of(None, None), 0, draft, encode_personal(None, None, None, None, True)
        )
    personal = encode_personal(
        event.routing or None, event.session, event.key, event.value, event.is_json, event.ids
    )
    size = len(event.value or b"")
    return encode_record(event.topic, event.offset, digest_of(event.key, event.value), size, draft, personal)


def read_back(line: bytes) -> ReadRecord:
    """A record as a reader of the ledger gets it."""
    return ReadRecord(orjson.loads(line), line)


def state_of(machine: UserShard | Treasury) -> dict[str, dict[str, bytes | None]]:
    """The whole state of a machine as a store would hold it; what there is nothing to say about is left out."""
    names: dict[str, Iterable[str]] = {"core": ["state"], "campaigns": sorted(_campaigns(machine))}
    if isinstance(machine, UserShard):
        names["open"] = sorted(machine.open)
        names["pods"] = sorted(machine.open_pods)
        names["users"] = sorted(machine.persons)
    else:
        names["accounts"] = sorted(machine.accounts)
        names["commands"] = sorted(machine.commands)
    encoded = machine.encode(names)
    return {
        bucket: {name: value for name, value in fields.items() if value is not None}
        for bucket, fields in encoded.items()
    }


def _campaigns(machine: UserShard | Treasury) -> Iterable[str]:
    return machine.shares if isinstance(machine, UserShard) else machine.campaigns


class World:
    """User shards and treasuries; what one sends another waits in `mail` until it is delivered."""

    def __init__(self, partitions: int = 1, *, now_ms: int = T0, **rules: Any) -> None:
        self.rules = Rules(partitions=partitions, **{"report_interval_ms": 0, "late_prior_ppm": 0, **rules})
        self.partitions = partitions
        self.users = [UserShard(topics.user_shard(p), self.rules) for p in range(partitions)]
        self.treasuries = [Treasury(topics.treasury_shard(p), self.rules) for p in range(partitions)]
        self.machines: dict[str, UserShard | Treasury] = {}
        self.machines.update({user.shard: user for user in self.users})
        self.machines.update({treasury.shard: treasury for treasury in self.treasuries})
        self.now_ms = now_ms
        self.follow_events = True
        """The clock is never behind an event's time."""
        self.instant = True
        """Mail is delivered, and ticks follow, right after each input."""
        self.mail: dict[tuple[str, str], deque[bytes]] = {}
        self.blocks: dict[str, list[Opened]] = {shard: [] for shard in self.machines}
        self.events: list[tuple[str, dict[str, Any]]] = []
        """Every public output so far: topic and body."""
        self.stored: dict[str, dict[str, bytes]] = {user.shard: {} for user in self.users}
        """People who left the memory of a user shard."""
        self._offsets: dict[tuple[str, str], int] = {}
        self._commands = 0

    # ------------------------------------------------------------------ inputs

    def put(
        self,
        topic: str,
        key: str | bytes | None,
        value: Any,
        *,
        shard: str | None = None,
        unknown: bool = False,
    ) -> Draft:
        """One input in a block of its own; the draft of its record."""
        raw_key = key.encode() if isinstance(key, str) else key
        raw = value if isinstance(value, bytes) or value is None else orjson.dumps(value)
        if shard is None:
            partition = partition_of(raw_key or b"", self.partitions)
            shard = (
                topics.treasury_shard(partition)
                if topic == topics.CAMPAIGNS
                else topics.user_shard(partition)
            )
        draft = self._decide(shard, topic, raw_key, raw, unknown)
        if self.instant:
            self.settle()
        return draft

    def _decide(
        self, shard: str, topic: str, key: bytes | None, value: bytes | None, unknown: bool = False
    ) -> Draft:
        machine = self.machines[shard]
        offset = self._offsets[shard, topic] = self._offsets.get((shard, topic), -1) + 1
        event = machine.read(topic, offset, key, value)
        if self.follow_events:
            self.now_ms = max(self.now_ms, event.time_ms)
        block = self._open(shard, drained=False)
        if not unknown:
            for state_key in machine.missing((event,)):
                machine.load(state_key, self.stored[shard].get(state_key))
        draft = machine.decide(event, unknown=unknown)
        block.records.append(Recorded(event, line_of(event, draft), unknown))
        self._collect(shard, draft, event.routing)
        return draft

    def _open(self, shard: str, *, drained: bool) -> Opened:
        block = Opened(len(self.blocks[shard]) + 1, self.now_ms, drained)
        self.blocks[shard].append(block)
        draft = self.machines[shard].open_block(block.height, self.now_ms, drained)
        if draft is not None:
            block.records.append(Recorded(None, line_of(None, draft)))
            self._collect(shard, draft, "")
        return block

    def _collect(self, shard: str, draft: Draft, routing: str) -> None:
        for sent in draft.send:
            self.mail.setdefault((shard, sent[0]), deque()).append(orjson.dumps(message_of(shard, sent, {})))
        for topic, _, body in draft.out:
            self.events.append((topic, {**body, **({"routing_id": routing} if routing else {})}))

    def deliver(self, source: str, destination: str) -> Draft:
        """The oldest message of a pair arrives."""
        value = self.mail[source, destination].popleft()
        if not self.mail[source, destination]:
            del self.mail[source, destination]
        return self._decide(destination, topics.side_topic(source), None, value)

    def deliver_all(self) -> None:
        """Every message arrives, and every message that follows from it."""
        for _ in range(100_000):
            if not self.mail:
                return
            self.deliver(*next(iter(self.mail)))
        raise AssertionError("side messages do not come to rest")

    def tick(self, shard: str) -> None:
        """A drained block begins on a shard, if time alone changes something."""
        if self.machines[shard].due(self.now_ms):
            self._open(shard, drained=True)

    def settle(self, now_ms: int | None = None) -> None:
        """Mail and ticks, until nothing moves any more."""
        if now_ms is not None:
            self.now_ms = max(self.now_ms, now_ms)
        self.deliver_all()
        for _ in range(20):
            for shard in self.machines:
                self.tick(shard)
            if not self.mail:
                return
            self.deliver_all()

    # ------------------------------------------------------------------ in words

    def command(self, command: str, account: str = "a1", /, **fields: Any) -> dict[str, Any]:
        """A campaign command; the change that it caused, so far as it is known yet."""
        self._commands += 1
        command_id = fields.pop("command_id", f"k{self._commands}")
        before = len(self.events)
        value = {"command": command, "command_id": command_id, "account_id": account, **fields}
        self.put(topics.CAMPAIGNS, account, value)
        changes = [body for topic, body in self.events[before:] if topic == topics.CAMPAIGN_CHANGES]
        return changes[-1] if changes else {}

    def campaign(self, campaign_id: str = "c1", account: str = "a1", **fields: Any) -> dict[str, Any]:
        """Defines a campaign: by default a budget of 1,000 prices of 1,000 micros, given at the world's time."""
        command = {name: fields.pop(name) for name in ("command_id", "time_ms") if name in fields}
        definition = {"budget_micros": 1_000_000, "price_micros": 1_000, **fields}
        definition |= {"campaign_id": campaign_id, "account_id": account}
        definition = {name: value for name, value in definition.items() if value is not None}
        return self.command("upsert", account, **{"time_ms": self.now_ms, **command}, campaign=definition)

    def request(
        self,
        request_id: str,
        time_ms: int,
        *candidates: str | dict[str, Any],
        user: str | None = "ann",
        unknown: bool = False,
        shard: str | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """An ad request; its decision, or the record's result where there is none."""
        value: dict[str, Any] = {"request_id": request_id, "time_ms": time_ms, **fields}
        if user is not None:
            value["user_id"] = user
        value["candidates"] = [
            {"campaign_id": one, "creative_id": one + "-x"}
            if isinstance(one, str)
            else {"creative_id": "x", **one}
            for one in candidates
        ]
        key = (
            fields.get("household_id")
            or user
            or fields.get("device_id")
            or fields.get("session_id")
            or request_id
        )
        draft = self.put(topics.AD_REQUESTS, key, value, shard=shard, unknown=unknown)
        bodies = [body for topic, _, body in draft.out if topic == topics.DECISIONS]
        assert len(bodies) <= 1
        return bodies[0] if bodies else draft.result

    def show(
        self,
        decision_id: str,
        time_ms: int,
        *,
        user: str = "ann",
        slot: int = 0,
        unknown: bool = False,
        **fields: Any,
    ) -> dict[str, Any]:
        """An impression; its record's result."""
        value = {"decision_id": decision_id, "slot": slot, "routing_id": user, "time_ms": time_ms, **fields}
        return self.put(topics.IMPRESSIONS, user, value, unknown=unknown).result

    def user_event(self, kind: str, time_ms: int, *, user: str = "ann", **fields: Any) -> dict[str, Any]:
        """A user event; its record's result."""
        value = {"type": kind, "routing_id": user, "time_ms": time_ms, **fields}
        return self.put(topics.USER_EVENTS, user, value).result

    def of(self, topic: str, campaign_id: str | None = None) -> list[dict[str, Any]]:
        """The outputs of a topic so far."""
        return [
            body
            for name, body in self.events
            if name == topic and campaign_id in (None, body.get("campaign_id"))
        ]

    # ------------------------------------------------------------------ money

    def check_money(self) -> None:
        """Every rule of conservation, on every campaign, with mail still in flight."""
        for treasury in self.treasuries:
            for campaign_id, known in treasury.campaigns.items():
                assert known.unleased >= 0
                leased = sum(sum(days.values()) for days in known.leased.values())
                assert known.topped_up == known.unleased + leased
                held, by_day = 0, dict[int, list[int]]()
                for user in self.users:
                    share = user.shares.get(campaign_id)
                    if share is None or share.treasury != treasury.shard:
                        continue
                    for day, book in share.books.items():
                        assert min(book.lease, book.reserved, book.spent) >= 0
                        held += book.lease + book.reserved + book.spent
                        by_day.setdefault(day, []).append(book.reserved + book.spent)
                assert known.topped_up == known.unleased + self.in_flight(treasury.shard, campaign_id) + held
                used = sum(sum(amounts) for amounts in by_day.values())
                assert used <= known.topped_up
        for user in self.users:
            for campaign_id, share in user.shares.items():
                reserved: dict[int, int] = {}
                for _, campaign, day, price, *_ in user.open.values():
                    if campaign == campaign_id:
                        reserved[day] = reserved.get(day, 0) + price
                for day, book in share.books.items():
                    assert book.reserved == reserved.pop(day, 0) + share.held_back(day), (
                        "what is reserved is not what is open or kept back"
                    )
                assert not reserved

    def in_flight(self, treasury: str, campaign_id: str) -> int:
        """Money in messages that have not arrived."""
        total = 0
        for (source, destination), messages in self.mail.items():
            if treasury not in (source, destination):
                continue
            for value in messages:
                for item in orjson.loads(value)["payload"]["items"]:
                    if item["campaign_id"] == campaign_id:
                        total += item.get("amount_micros", 0)
                        total += sum(amount for _, amount in item.get("returned", ()))
        return total

    def money(self, campaign_id: str = "c1") -> dict[str, int]:
        """A campaign's money over all shards."""
        totals = {"lease": 0, "reserved": 0, "spent": 0, "unfunded": 0}
        for user in self.users:
            share = user.shares.get(campaign_id)
            if share is not None:
                totals["unfunded"] += share.unfunded_micros
                for book in share.books.values():
                    totals["lease"] += book.lease
                    totals["reserved"] += book.reserved
                    totals["spent"] += book.spent
        for treasury in self.treasuries:
            if campaign_id in treasury.campaigns:
                totals["unleased"] = treasury.campaigns[campaign_id].unleased
                totals["topped_up"] = treasury.campaigns[campaign_id].topped_up
        return totals

    # ------------------------------------------------------------------ other machines over the same history

    def twin(self, shard: str) -> UserShard | Treasury:
        """A new machine of the same name that knows nothing."""
        return machine_of(shard, self.rules)

    def forget(self, keep: int = 0) -> None:
        """People leave memory for the store, as under memory pressure."""
        for user in self.users:
            store = self.stored[user.shard]
            if user.unloaded():
                continue
            names = user.take_changes().get("users", set())
            for name, value in user.encode({"users": names}).get("users", {}).items():
                if value is None:
                    store.pop(name, None)
                else:
                    store[name] = value
            user.evict(keep, set())
            assert len(user.persons) <= keep

    def heal(self) -> None:
        """The store is back: what was assumed to be unknown is read, and what was folded meanwhile goes on top."""
        for user in self.users:
            for name in user.unloaded():
                user.load(name, self.stored[user.shard].get(name))

    def state(self, shard: str) -> dict[str, dict[str, bytes | None]]:
        """A machine's whole state, with the people who left its memory."""
        found = state_of(self.machines[shard])
        if "users" in found:
            names = self.machines[shard].persons  # type: ignore[union-attr]
            away = {name: value for name, value in self.stored[shard].items() if name not in names}
            found["users"] = {**away, **found["users"]}
        return found

    def folded(self, shard: str) -> UserShard | Treasury:
        """A machine that folded the shard's ledger from its beginning, every person known to be new."""
        machine = self.twin(shard)
        for block in self.blocks[shard]:
            fold_block(machine, block)
        return machine

    def decided_again(self, shard: str) -> UserShard | Treasury:
        """A machine that decided every input again, asserting that every record has the same bytes."""
        machine = self.twin(shard)
        for block in self.blocks[shard]:
            lines = []
            draft = machine.open_block(block.height, block.now_ms, block.drained)
            if draft is not None:
                lines.append(line_of(None, draft))
            for recorded in block.records:
                if recorded.event is None:
                    continue
                old = recorded.event
                event = machine.read(old.topic, old.offset, old.key, old.value)
                for state_key in machine.missing((event,)):
                    machine.load(state_key, None)
                assumed = read_back(recorded.line).draft().assumed
                lines.append(line_of(event, machine.decide(event, assumed=assumed)))
            assert lines == [recorded.line for recorded in block.records]
        return machine


def fold_block(machine: UserShard | Treasury, block: Opened, rules: int = RULES) -> None:
    """Folds a block read back; people whom the machine does not know are new."""
    records = [read_back(recorded.line) for recorded in block.records]
    for state_key in machine.missing_for_fold(records):
        machine.load(state_key, None)
    machine.begin_fold(block.height, block.now_ms, block.drained, rules)
    for record in records:
        personal = record.personal
        machine.fold(record.draft(), personal.get("routing"), personal.get("session"), personal.get("ids"))


def reasons_of(decision: dict[str, Any], candidate: int = 0) -> list[dict[str, Any]]:
    """The reasons of a losing candidate; none where it won."""
    for loser in decision.get("losers", ()):
        if loser["candidate"] == candidate:
            return list(loser["reasons"])
    return []


def codes_of(decision: dict[str, Any], candidate: int = 0) -> list[str]:
    """The reasons' codes of a losing candidate."""
    return [reason["code"] for reason in reasons_of(decision, candidate)]


def winner_of(decision: dict[str, Any], slot: int = 0) -> str | None:
    """The campaign that won a slot."""
    winner = decision["slots"][slot].get("winner")
    return None if winner is None else str(winner["campaign_id"])


def serve(
    world: World, count: int, *, start: int = 0, show: bool = True, users: int = 7, step_ms: int = SECOND
) -> int:
    """Requests of several people, each shown at once; how many were filled."""
    wins = 0
    for number in range(start, start + count):
        user, time_ms = f"user{number % users}", T0 + number * step_ms
        if winner_of(world.request(f"r{number}", time_ms, "c1", user=user)) is not None:
            wins += 1
            if show:
                world.show(f"r{number}", time_ms, user=user)
    return wins


def known_to_treasury(world: World, campaign_id: str = "c1") -> Any:
    """A campaign as its treasury knows it."""
    return next(t.campaigns[campaign_id] for t in world.treasuries if campaign_id in t.campaigns)
