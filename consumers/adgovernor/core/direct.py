"""The machines joined directly: no log, no store, no waiting.

For ``simulate``, what-if runs and library mode. Each input is a block of its own; its side messages are delivered
at once, and a tick follows, all before the next input. Time is the greatest event time seen (``--clock events``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from msgspec.structs import replace

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import Draft
from adgovernor.contracts.requests import AdRequest, PlainRequest
from adgovernor.contracts.routing import partition_of
from adgovernor.core import inputs
from adgovernor.core.breaks import most_ads
from adgovernor.core.leases import CampaignShare
from adgovernor.core.links import message_of
from adgovernor.core.machine import USERS, Input, Machine
from adgovernor.core.releases import MOST_PUT_OFF
from adgovernor.core.rules import Rules
from adgovernor.core.selection import prices
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard

MAX_DELIVERIES = 100_000
"""More side messages than this from one input would be two machines answering each other for ever: a bug."""

Event = tuple[str, dict[str, Any]]
"""An output: its topic and its body, as a reader of the topic would get it."""


class Direct:
    """All shards of a deployment in one process, one input at a time."""

    def __init__(self, rules: Rules) -> None:
        partitions = range(rules.partitions)
        self.rules = rules
        self.users = [UserShard(topics.user_shard(p), rules) for p in partitions]
        self.treasuries = [Treasury(topics.treasury_shard(p), rules) for p in partitions]
        self.now_ms = 0
        self._machines: dict[str, Machine] = {}
        self._machines.update({machine.shard: machine for machine in self.users})
        self._machines.update({machine.shard: machine for machine in self.treasuries})
        self._heights = dict.fromkeys(self._machines, 0)
        self._offsets: dict[tuple[str, int], int] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        self.on_record: Callable[[str, Draft], None] | None = None
        """Sees every record, with its shard."""
        self._mail: deque[tuple[str, str, bytes]] = deque()
        self._fields: dict[str, dict[str, dict[str, str]]] = {}
        """What was saved last: shard → bucket → field → value."""

    def save(self) -> bytes:
        """Everything, to go on from it later with `restore`."""
        for shard, machine in self._machines.items():
            for bucket, changes in machine.encode(machine.take_changes()).items():
                kept = self._fields.setdefault(shard, {}).setdefault(bucket, {})
                for name, value in changes.items():
                    if value is None:
                        kept.pop(name, None)
                    else:
                        kept[name] = value.decode()
        return orjson.dumps(
            {
                "now_ms": self.now_ms,
                "heights": self._heights,
                "offsets": [[*place, last] for place, last in self._offsets.items()],
                "numbers": [[*place, last] for place, last in self._numbers.items()],
                "shards": self._fields,
            }
        )

    @classmethod
    def restore(cls, rules: Rules, saved: bytes) -> Direct:
        """From what `save` gave, every person in memory. The number of partitions must be that of then."""
        data = orjson.loads(saved)
        direct = cls(rules)
        direct.now_ms = data["now_ms"]
        direct._heights = data["heights"]
        direct._offsets = {(topic, partition): last for topic, partition, last in data["offsets"]}
        direct._numbers = {(topic, partition): last for topic, partition, last in data["numbers"]}
        direct._fields = data["shards"]
        for shard, buckets in direct._fields.items():
            machine = direct._machines[shard]
            stored = {
                bucket: {name: value.encode() for name, value in fields.items()}
                for bucket, fields in buckets.items()
            }
            machine.restore({bucket: stored.get(bucket, {}) for bucket in machine.resident_buckets()})
            for name, value in stored.get(USERS, {}).items():
                machine.load(name, value)
        return direct

    def feed(self, topic: str, key: str, value: bytes) -> list[Event]:
        """Handles one input of a public topic, and all that follows from it; the outputs, in order."""
        return self.handle(inputs.read(topic, 0, None, value), key)

    def handle(self, event: Input, key: str) -> list[Event]:
        """As `feed`, for what was read already."""
        partition = partition_of(key.encode(), self.rules.partitions)
        named = topics.treasury_shard if event.topic == topics.CAMPAIGNS else topics.user_shard
        outputs = list(self._handle(named(partition), replace(event, key=key.encode())))
        outputs += self._deliver()
        outputs += self.tick()
        return outputs

    def pass_time(self, until_ms: int) -> list[Event]:
        """Lets the time until an input do what is due before the input comes, as idle workers do each second."""
        self.now_ms = max(self.now_ms, until_ms)
        return self.tick()

    def lease_ahead(self, event: Input) -> list[Event]:
        """Lets the shard of an ad request ask for the money that its ads may cost, and lack, before the request comes.

        A shard learns of a lack by a request, which then has no winner (``no_lease``). Where traffic is so thin that
        an answer always comes before the next request, such requests would be a large part of all.
        """
        request = event.event
        if not isinstance(request, AdRequest | PlainRequest):
            return []
        shard = self.users[partition_of(event.routing.encode(), self.rules.partitions)]
        offers: dict[str, list[int]] = {}
        for candidate in request.candidates:
            share = shard.shares.get(candidate.campaign_id)
            if share is not None and (price := prices(candidate, share)[0]) >= share.least_price:
                offers.setdefault(candidate.campaign_id, []).append(price)
        places = most_ads(request, self.rules.most_ads) if isinstance(request, AdRequest) else 1
        outputs: list[Event] = []
        for campaign_id, offered in offers.items():
            outputs += self._lease_one(
                shard, shard.shares[campaign_id], sorted(offered), places, request.time_ms
            )
        return outputs

    def _lease_one(
        self, shard: UserShard, share: CampaignShare, offered: list[int], places: int, time_ms: int
    ) -> list[Event]:
        outputs: list[Event] = []
        day = share.day_of(time_ms)
        # Money that lies elsewhere may be denied so many times before it is called back.
        for _ in range(MOST_PUT_OFF + 1):
            level = self._within(share, day, offered, places)
            if level <= share.lease(day) or share.paused_on(day):
                break
            height = self._heights[shard.shard] + 1
            shard.begin_fold(height, self.now_ms, True)
            draft = shard.ask_ahead(share, day, level)
            if not draft.deltas:
                break  # It has asked, and waits for the next release.
            self._heights[shard.shard] = height
            outputs += [*self._collect(shard, draft, height, 0, None), *self._deliver()]
        return outputs

    def _within(self, share: CampaignShare, day: int, offered: list[int], places: int) -> int:
        """The sum of the dearest prices that there is money for, as many as there are places; the least price where
        there is none for any."""
        treasury = self.treasuries[topics.partition_of_shard(share.treasury)]
        most = share.lease(day) + treasury.available(treasury.campaigns[share.campaign.campaign_id], day)
        level = taken = 0
        for price in reversed(offered):
            if taken < places and level + price <= most:
                level, taken = level + price, taken + 1
        return level or offered[0]

    def tick(self) -> list[Event]:
        """Lets time alone do what is due."""
        outputs: list[Event] = []
        for machine in self._machines.values():
            if machine.due(self.now_ms):
                outputs += self._block(machine, drained=True)
        return outputs + self._deliver()

    def _deliver(self) -> list[Event]:
        outputs: list[Event] = []
        for _ in range(MAX_DELIVERIES):
            if not self._mail:
                return outputs
            shard, topic, value = self._mail.popleft()
            outputs += self._handle(shard, inputs.read(topic, 0, None, value))
        raise AssertionError("side messages do not come to rest")

    def _block(self, machine: Machine, *, drained: bool) -> Iterator[Event]:
        height = self._heights[machine.shard] = self._heights[machine.shard] + 1
        draft = machine.open_block(height, self.now_ms, drained)
        if draft is not None:
            yield from self._collect(machine, draft, height, 0, None)

    def _handle(self, shard: str, event: Input) -> Iterator[Event]:
        machine = self._machines[shard]
        place = (event.topic, topics.partition_of_shard(shard))
        event.offset = self._offsets[place] = self._offsets.get(place, -1) + 1
        self.now_ms = max(self.now_ms, event.time_ms)
        height = self._heights[shard] + 1
        ticked = machine.open_block(height, self.now_ms, False)
        self._heights[shard] = height
        if ticked is not None:
            yield from self._collect(machine, ticked, height, 0, None)
        for state_key in machine.missing((event,)):
            machine.load(state_key, None)
        draft = machine.decide(event)
        yield from self._collect(machine, draft, height, 0 if ticked is None else 1, event.routing)

    def _collect(
        self, machine: Machine, draft: Draft, height: int, index: int, routing: str | None
    ) -> Iterator[Event]:
        shard = machine.shard
        if self.on_record is not None:
            self.on_record(shard, draft)
        for sent in draft.send:
            self._mail.append((sent[0], topics.side_topic(shard), orjson.dumps(message_of(shard, sent, {}))))
        for topic, key, body in draft.out:
            place = (topic, topics.partition_of_shard(shard))
            number = self._numbers[place] = self._numbers.get(place, 0) + 1
            full = dict(body)
            if key is None and routing:
                full["routing_id"] = routing
            yield topic, {**full, "shard": shard, "height": height, "index": index, "dn": number}
