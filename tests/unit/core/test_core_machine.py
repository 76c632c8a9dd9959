"""All machines together, in any order of events, deliveries, ticks and losses of memory.

After every step the money must add up; in the end every ledger, decided again and folded, must give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core_kit import DAY, HOUR, MINUTE, SECOND, T0, World, state_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adgovernor.contracts import topics
from adgovernor.core.user_shard import UserShard

USERS = ("ann", "bob", "cid", "dee")
CAMPAIGNS = {"c1": "a1", "c2": "a1", "c3": "a2", "c4": "a3"}
DAILY = {"c1": None, "c2": 3_000, "c3": None, "c4": 7_500}
PRICES = {"c1": 1_000, "c2": 500, "c3": 700, "c4": 1_500}
PACING = st.sampled_from(
    (
        {"mode": "asap"},
        {"mode": "asap"},
        {"mode": "even"},
        {"mode": "front_loaded"},
        {"mode": "hourly", "hourly_weights": [n % 3 for n in range(24)]},
    )
)
CAPS = st.lists(
    st.sampled_from(
        (
            {"window": "rolling", "length_ms": 10 * MINUTE, "limit": 3},
            {"window": "day", "limit": 5, "scope": "advertiser"},
            {"window": "lifetime", "limit": 6},
            {"window": "stream", "limit": 2},
            {"window": "pod", "limit": 1},
            {"window": "rolling", "length_ms": HOUR, "limit": 2, "per": "device"},
            {"window": "lifetime", "limit": 3, "per": "user"},
            {"window": "rolling", "length_ms": 2 * DAY, "limit": 4, "scope": "label", "label": "live"},
        )
    ),
    max_size=2,
)

WHO: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"device_id": "tv"},
    {"device_id": "phone", "member": "kid"},
    {"member": "mum"},
    {"consent": {"storage": False}},
    {"consent": {"storage": False, "personalisation": False}, "device_id": "tv"},
)
"""Who else is named beside the routing id, and what they agreed to."""


class Delivery(RuleBasedStateMachine):
    """Everything that can happen to a small deployment."""

    @initialize(
        partitions=st.sampled_from((1, 2, 4)),
        lateness_ms=st.sampled_from((0, 10 * SECOND)),
        report_interval_ms=st.sampled_from((0, SECOND)),
    )
    def begin(self, partitions: int, lateness_ms: int, report_interval_ms: int) -> None:
        """A deployment without campaigns."""
        self.world = World(
            partitions,
            lateness_ms=lateness_ms,
            report_interval_ms=report_interval_ms,
            late_grace_ms=5 * MINUTE,
            dedupe_ms=20 * MINUTE,
        )
        self.world.instant = False
        self.made: list[tuple[str, str, int]] = []
        """Decisions with winners: (user, decision id, slots)."""
        self.asked: list[tuple[str, str, int]] = []
        """Requests made: (user, id, time)."""
        self.answers: dict[str, int] = {}

    # ------------------------------------------------------------------ what people and publishers do

    @rule(
        user=st.sampled_from(USERS),
        ahead_ms=st.sampled_from((0, 0, 1, SECOND, 30 * SECOND, 2 * MINUTE, HOUR, 7 * HOUR)),
        behind_ms=st.sampled_from((0, 0, SECOND, 9 * SECOND, MINUTE)),
        offered=st.lists(
            st.fixed_dictionaries(
                {
                    "campaign_id": st.sampled_from(sorted(CAMPAIGNS)),
                    "creative_id": st.sampled_from(("x", "y", "z")),
                    "price_micros": st.sampled_from((None, None, None, 400, 1_000, 1_100, 9_000)),
                }
            ),
            max_size=4,
        ),
        slots=st.sampled_from((None, None, 1, 3)),
        labels=st.sampled_from(((), ("live",))),
        session=st.sampled_from((None, "s1")),
        who=st.sampled_from(WHO),
        unknown=st.booleans(),
    )
    def request(
        self,
        user: str,
        ahead_ms: int,
        behind_ms: int,
        offered: list[dict[str, Any]],
        slots: int | None,
        labels: tuple[str, ...],
        session: str | None,
        who: dict[str, Any],
        unknown: bool,
    ) -> None:
        """Somebody asks for ads; with ``unknown`` the store is away."""
        number = len(self.asked)
        time_ms = self.world.now_ms + ahead_ms - behind_ms
        self.asked.append((user, f"r{number}", time_ms))
        self._ask(user, f"r{number}", time_ms, offered, slots, labels, session, unknown, **who)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), unknown=st.booleans(), other=st.booleans())
    def request_again(self, data: st.DataObject, unknown: bool, other: bool) -> None:
        """A request comes twice, or somebody else uses its id."""
        user, request_id, time_ms = data.draw(st.sampled_from(self.asked))
        if other:
            user = data.draw(st.sampled_from(USERS))
        self._ask(
            user, request_id, time_ms, [{"campaign_id": "c1", "creative_id": "x"}], None, (), None, unknown
        )

    def _ask(
        self,
        user: str,
        request_id: str,
        time_ms: int,
        offered: list[dict[str, Any]],
        slots: int | None,
        labels: tuple[str, ...],
        session: str | None,
        unknown: bool,
        member: str | None = None,
        **who: Any,
    ) -> None:
        candidates = [{k: v for k, v in one.items() if v is not None} for one in offered]
        fields: dict[str, Any] = {"labels": labels, "session_id": session, **who}
        if member is not None:
            fields["household_id"], user = user, member
        if slots is not None:
            fields["slots"] = slots
        decision = self.world.request(request_id, time_ms, *candidates, user=user, unknown=unknown, **fields)
        if decision.get("kind") == "duplicate":
            assert "height" in decision
            return
        user = fields.get("household_id", user)
        assert decision["decision_id"] == request_id
        assert len(decision["slots"]) == (slots or 1)
        for slot in decision["slots"]:
            assert ("winner" in slot) != ("no_fill" in slot)
        if any("winner" in slot for slot in decision["slots"]):
            self.made.append((user, request_id, slots or 1))

    @precondition(lambda self: self.made)
    @rule(
        data=st.data(),
        wait_ms=st.sampled_from((0, 0, 0, SECOND, MINUTE, 10 * MINUTE, 25 * MINUTE)),
        price=st.sampled_from((None, None, None, 0, 300, 50_000)),
        unknown=st.booleans(),
        newest=st.booleans(),
    )
    def impression(
        self, data: st.DataObject, wait_ms: int, price: int | None, unknown: bool, newest: bool
    ) -> None:
        """An ad is shown: soon, late or twice."""
        user, decision_id, slots = self.made[-1] if newest else data.draw(st.sampled_from(self.made))
        slot = data.draw(st.integers(0, slots))
        fields = {} if price is None else {"price_micros": price}
        self.world.show(
            decision_id, self.world.now_ms + wait_ms, user=user, slot=slot, unknown=unknown, **fields
        )

    @rule(
        user=st.sampled_from(USERS),
        kind=st.sampled_from(("opt-out", "opt-in", "opt-in")),
        scope=st.sampled_from(((("scope"), "all"), (("scope"), "advertiser"))),
    )
    def opt(self, user: str, kind: str, scope: tuple[str, str]) -> None:
        """Somebody changes their mind."""
        value = {"value": "a1"} if scope[1] == "advertiser" else {}
        self.world.user_event(kind, self.world.now_ms, user=user, scope=scope[1], **value)

    @rule(
        user=st.sampled_from(USERS),
        choice=st.sampled_from(("allow", "refuse", "neither")),
        scope=st.sampled_from((("all", None), ("advertiser", "a1"), ("category", "cars"))),
        unknown=st.booleans(),
    )
    def prefer(self, user: str, choice: str, scope: tuple[str, str | None], unknown: bool) -> None:
        """Somebody says what they want."""
        value = {"type": "preference", "routing_id": user, "time_ms": self.world.now_ms, "choice": choice}
        value |= {"scope": scope[0]} if scope[1] is None else {"scope": scope[0], "value": scope[1]}
        self.world.put(topics.USER_EVENTS, user, value, unknown=unknown)

    @rule(user=st.sampled_from(USERS), unknown=st.booleans())
    def erase(self, user: str, unknown: bool) -> None:
        """Somebody asks to be forgotten."""
        value = {"type": "erasure", "routing_id": user, "time_ms": self.world.now_ms}
        self.world.put(topics.USER_EVENTS, user, value, unknown=unknown)

    @rule(user=st.sampled_from(USERS), change=st.integers(0, 9), unknown=st.booleans())
    def session(self, user: str, change: int, unknown: bool) -> None:
        """A session did something, perhaps what was told before."""
        value = {"type": "session", "routing_id": user, "time_ms": self.world.now_ms, "requests": 1}
        self.world.put(
            topics.USER_EVENTS,
            user,
            {**value, "change_id": str(change), "pod_positions": [change]},
            unknown=unknown,
        )

    @rule(
        topic=st.sampled_from(topics.PUBLIC_INPUTS),
        value=st.sampled_from((b"", b"{}", b"\xff", b'{"a":NaN}')),
    )
    def poison(self, topic: str, value: bytes) -> None:
        """Something that is no event."""
        assert self.world.put(topic, "ann", value).result["kind"] == "poison"

    # ------------------------------------------------------------------ what advertisers do

    @rule(
        campaign=st.sampled_from(sorted(CAMPAIGNS)),
        prices=st.sampled_from((0, 1, 2, 3, 5, 8, 20, 100)),
        rest=st.sampled_from((0, 0, 1, 499)),
        pacing=PACING,
        caps=CAPS,
        flight=st.sampled_from((None, None, 2 * HOUR, 3 * DAY)),
        cheap=st.booleans(),
    )
    def define(
        self,
        campaign: str,
        prices: int,
        rest: int,
        pacing: dict[str, Any],
        caps: list[dict[str, Any]],
        flight: int | None,
        cheap: bool,
    ) -> None:
        """A campaign is defined or changed."""
        self.world.campaign(
            campaign,
            CAMPAIGNS[campaign],
            budget_micros=prices * PRICES[campaign] + rest,
            price_micros=PRICES[campaign],
            min_price_micros=400 if cheap else None,
            daily_budget_micros=DAILY[campaign],
            pacing=pacing,
            caps=caps,
            start_ms=None if flight is None else T0,
            end_ms=None if flight is None else self.world.now_ms + flight,
        )

    @rule(
        campaign=st.sampled_from(sorted(CAMPAIGNS)),
        command=st.sampled_from(("top-up", "top-up", "credit", "decrease", "decrease")),
        amount=st.sampled_from((1, 499, 1_000, 3_000, 50_000)),
    )
    def money(self, campaign: str, command: str, amount: int) -> None:
        """Money is added or taken."""
        self.world.command(command, CAMPAIGNS[campaign], campaign_id=campaign, amount_micros=amount)

    @rule(
        campaign=st.sampled_from(sorted(CAMPAIGNS)),
        command=st.sampled_from(("pause", "resume", "pause", "resume", "resume", "archive")),
    )
    def status(self, campaign: str, command: str) -> None:
        """A campaign is paused, resumed or ended by hand."""
        self.world.command(command, CAMPAIGNS[campaign], campaign_id=campaign)

    @rule(
        account=st.sampled_from(("a1", "a2", "a3")),
        zone=st.sampled_from(("UTC", "Asia/Tokyo", "America/New_York")),
    )
    def move(self, account: str, zone: str) -> None:
        """An account changes its calendar."""
        self.world.command("account", account, account={"account_id": account, "time_zone": zone})

    @rule(campaign=st.sampled_from(sorted(CAMPAIGNS)))
    def claim(self, campaign: str) -> None:
        """Another account defines a campaign of the same id."""
        self.world.campaign(campaign, "a9", budget_micros=9_000)

    # ------------------------------------------------------------------ what the deployment does

    @precondition(lambda self: self.world.mail)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """The oldest message of one pair arrives."""
        self.world.deliver(*data.draw(st.sampled_from(sorted(self.world.mail))))

    @rule(data=st.data(), wait_ms=st.sampled_from((0, SECOND, MINUTE, 30 * MINUTE, 9 * HOUR)))
    def tick(self, data: st.DataObject, wait_ms: int) -> None:
        """Time passes, and one shard notices."""
        self.world.now_ms += wait_ms
        self.world.tick(data.draw(st.sampled_from(sorted(self.world.machines))))

    @rule(wait_ms=st.sampled_from((0, SECOND, 2 * MINUTE, HOUR, DAY)))
    def rest(self, wait_ms: int) -> None:
        """Everything comes to rest: then no ask is forgotten, and every shard knows every pause."""
        world = self.world
        for _ in range(3):
            world.settle(world.now_ms + wait_ms)
            world.now_ms += SECOND
        assert not world.mail
        for treasury in world.treasuries:
            for campaign_id, known in treasury.campaigns.items():
                assert known.round is None
                assert known.decreases == []
                for shard, day in known.asks:
                    assert not known.paused_on(day)
                    early = day > known.day_of(treasury.watermark_ms + world.rules.opens_early_ms())
                    held = treasury.available(known, day) < known.room(day)
                    assert early or held, f"an ask of {shard} for {campaign_id} on {day} waits for nothing"
                for user in world.users:
                    share = user.shares.get(campaign_id)
                    if share is None or share.treasury != treasury.shard:
                        continue
                    assert share.paused == known.reasons
                    for day in share.asks:
                        assert (user.shard, day) in known.asks, "an ask was never answered"
                    assert all(book.lease == 0 for day, book in share.books.items() if share.paused_on(day))

    @rule(keep=st.integers(0, 2))
    def forget(self, keep: int) -> None:
        """People leave memory."""
        self.world.forget(keep)

    @rule()
    def heal(self) -> None:
        """The store comes back."""
        self.world.heal()

    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """A machine is made anew from what a store holds, in the middle of everything."""
        world = self.world
        world.heal()
        shard = data.draw(st.sampled_from(sorted(world.machines)))
        old = world.machines[shard]
        fields = state_of(old)
        new = world.twin(shard)
        new.restore({bucket: _plain(fields[bucket]) for bucket in new.resident_buckets()})
        for name in sorted(getattr(old, "persons", ())):
            new.load(name, fields["users"].get(name))
        assert state_of(new) == fields
        index = int(shard[1:])
        world.machines[shard] = new
        if isinstance(new, UserShard):
            world.users[index] = new
        else:
            world.treasuries[index] = new
        if shard.startswith("u"):
            # What changed before the restart is in the store.
            for name in old.persons:  # type: ignore[union-attr]
                world.stored[shard].pop(name, None)
            world.stored[shard].update(_plain(fields["users"]))

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def money_adds_up(self) -> None:
        """Topped-up = unleased + in flight + lease + reserved + spent, and no day is overspent."""
        if not hasattr(self, "world"):
            return
        self.world.check_money()
        for campaign_id, daily in DAILY.items():
            if daily is None:
                continue
            used: dict[tuple[str, int], int] = {}
            for user in self.world.users:
                share = user.shares.get(campaign_id)
                for day, book in (share.books if share is not None else {}).items():
                    place = (share.treasury, day)  # type: ignore[union-attr]
                    used[place] = used.get(place, 0) + book.reserved + book.spent
            if any(user.shares[campaign_id].daily for user in self.world.users if campaign_id in user.shares):
                assert all(amount <= daily for amount in used.values()), "a day's budget is overspent"

    @invariant()
    def episodes_alternate(self) -> None:
        """Pause and resume alternate with rising episodes; an episode has at most one exhaustion, with its pause."""
        if not hasattr(self, "world"):
            return
        status: dict[tuple[str, str], tuple[int, bool]] = {}
        exhausted: set[tuple[str, str, int]] = set()
        for topic, body in self.world.events:
            place = (body.get("account_id", ""), body.get("campaign_id", ""))
            if topic == topics.CAMPAIGN_PAUSED:
                assert status.get(place, (1, False)) == (body["episode"], False)
                assert body["reasons"]
                status[place] = (body["episode"], True)
            elif topic == topics.CAMPAIGN_RESUMED:
                assert status[place] == (body["episode"] - 1, True)
                status[place] = (body["episode"], False)
            elif topic == topics.BUDGET_EXHAUSTED:
                assert status.get(place, (1, False)) == (body["episode"], False)
                assert (*place, body["episode"]) not in exhausted
                exhausted.add((*place, body["episode"]))

    def teardown(self) -> None:
        """Every ledger gives the same bytes when decided again, and the same state when folded."""
        if not hasattr(self, "world"):
            return
        self.rest(0)
        self.world.heal()
        for shard in self.world.machines:
            expected = self.world.state(shard)
            assert state_of(self.world.folded(shard)) == expected
            assert state_of(self.world.decided_again(shard)) == expected


def _plain(fields: Mapping[str, bytes | None]) -> dict[str, bytes]:
    return {name: value for name, value in fields.items() if value is not None}


Delivery.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestDelivery = Delivery.TestCase
