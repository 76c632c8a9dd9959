"""A campaign as its treasury knows it: all its money, who holds how much of it, and its episode.

    topped_up = unleased + Σ over shards and days of leased

``leased`` is what was granted less what came back; of it the shard's last report says how much is idle
(lease), reserved and spent. What is leased and not reported yet is in flight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from adgovernor.contracts import topics, zones
from adgovernor.contracts.campaigns import Campaign
from adgovernor.contracts.kept import kept_json
from adgovernor.contracts.money import sayable
from adgovernor.core import pacing
from adgovernor.core.funds import AccountFund
from adgovernor.core.leases import EARLIER_DAYS, campaign_data, campaign_of, concerns, last_paused_day

NO_DAY = -1
"""In place of a day (0 without a daily budget)."""


class Round:
    """A recall under way: shards that have not answered, and whether a grant was made meanwhile."""

    __slots__ = ("dirty", "number", "waiting")

    def __init__(self, number: int, waiting: list[str], dirty: bool = False) -> None:
        self.number = number
        self.waiting = waiting
        self.dirty = dirty


class TreasuryCampaign:
    """One campaign's money and status. Mutated by folds only. Amounts are micros."""

    __slots__ = (
        "account",
        "asks",
        "budget",
        "by_day",
        "campaign",
        "closed_day",
        "dailies",
        "data",
        "decreases",
        "episode",
        "exhausted_day",
        "idle_by_day",
        "leased",
        "leased_by_day",
        "one_price",
        "opened_day",
        "paced",
        "patience",
        "put_off",
        "reasons",
        "reports",
        "reserved_micros",
        "risked_day",
        "round",
        "rounds",
        "spent_by_day",
        "thresholds",
        "time_zone",
        "topped_up",
        "unleased",
        "used_micros",
    )

    def __init__(
        self, campaign: Campaign, time_zone: str, account: AccountFund | None = None, by_day: bool = False
    ) -> None:
        self.account = account
        """Its account, where that was ever defined."""
        self.topped_up = 0
        self.unleased = 0
        self.budget = 0
        """The budget as defined, so far as it was accepted: an upsert moves the difference to it."""
        self.leased: dict[str, dict[int, int]] = {}
        """Shard → day → granted less returned."""
        self.reports: dict[str, dict[int, tuple[int, int, int]]] = {}
        """Shard → day → (lease, reserved, spent) as last reported."""
        self.asks: dict[tuple[str, int], tuple[int, bool, int]] = {}
        """(Shard, day) → (the lease that it needs, whether its lease is empty, what of it is owed for late events),
        first come first."""
        self.round: Round | None = None
        self.rounds = 0
        self.patience = 0
        """How often a shard is put off before money that a recall brought back for others is recalled again; 0: no
        recall brought anything back yet."""
        self.used_micros = 0
        """Reserved and spent, as reported when a recall last brought something back."""
        self.put_off: dict[str, int] = {}
        """Shard → how often it was put off since."""
        self.decreases: list[list[Any]] = []
        """Decreases that wait for a recall: [command id, command, amount still to take, amount taken]."""
        self.episode = 1
        self.reasons: tuple[str, ...] = ()
        self.exhausted_day = 0
        """The day that the reason ``day`` is about."""
        self.opened_day = 0
        """The last day whose first leases were given."""
        self.closed_day = 0
        """Days up to this one are settled: only sums are kept of them, and no money is leased for them any more."""
        self.risked_day = NO_DAY
        """The last day of which one price was sold again though its ad might still be shown. Never a second one, nor
        one of a day before, so no more than one ad is shown for nothing."""
        self.dailies: list[tuple[int, int]] = []
        """(From which account day on, the daily budget), oldest first: what rollover adds up. One entry, of the
        newest day, where unspent money is not carried over."""
        self.paced: dict[int, pacing.Anchor] = {}
        """Day → where its plan began anew, because more was missed than is carried over."""
        self.thresholds: list[int] = []
        """Thresholds passed in this episode, percent."""
        self.leased_by_day: dict[int, int] = {}
        self.idle_by_day: dict[int, int] = {}
        self.spent_by_day: dict[int, int] = {}
        self.reserved_micros = 0
        self.define(campaign, time_zone, by_day)

    def define(self, campaign: Campaign, time_zone: str, by_day: bool) -> None:
        """Takes a new definition; its budget is not looked at. ``by_day``: its account has a daily budget."""
        self.by_day = by_day or campaign.daily_budget_micros is not None
        self.campaign = campaign
        self.data = campaign_data(campaign)
        self.time_zone = time_zone
        self.one_price = campaign.one_price()
        if self.opened_day > 1:
            self.count_day(self.opened_day)

    def count_day(self, day: int) -> None:
        """Notes the daily budget from this day on."""
        daily = self.campaign.daily_budget_micros
        if daily is None:
            return
        kept = [entry for entry in self.dailies if entry[0] < day]
        if self.campaign.daily_policy != "rollover":
            kept = []
        elif not kept and self.campaign.start_ms is not None:
            day = max(day, self.day_of(self.campaign.start_ms))
        if not kept or kept[-1][1] != daily:
            kept.append((day, daily))
        self.dailies = kept

    def begin_plan_anew(self, day: int, anchor: pacing.Anchor) -> None:
        """Spreads what was missed over what remains of the day's plan (0: the flight's)."""
        self.paced = {known: value for known, value in self.paced.items() if known > day}
        self.paced[day] = anchor

    # ------------------------------------------------------------------ reading

    @property
    def paused_day(self) -> int:
        """The last day that its pause concerns; 0: all days, or it is not paused."""
        return last_paused_day(self.reasons, self.exhausted_day) if self.reasons else 0

    def paused_on(self, day: int) -> bool:
        """Whether its pause concerns this day, so that no money is leased for it."""
        return bool(self.reasons) and concerns(self.paused_day, day)

    @property
    def spent(self) -> int:
        """Spent, as reported."""
        return sum(self.spent_by_day.values())

    @property
    def outstanding(self) -> int:
        """Leased and not reported as spent: idle, reserved or in flight."""
        return self.topped_up - self.unleased - self.spent

    def reported_idle(self) -> int:
        """Idle money on all shards, as reported."""
        return sum(self.idle_by_day.values())

    def day_of(self, time_ms: int) -> int:
        """The account day whose money a request of this time draws on; 0 without a daily budget."""
        return zones.day_of(time_ms, self.time_zone) if self.by_day else 0

    def day_budget(self, day: int) -> int:
        """What may be spent on the account day: the daily budget and, with rollover, what the days before it have
        left. Without a daily budget: everything."""
        daily = self.campaign.daily_budget_micros
        if not day or daily is None:
            return self.topped_up
        if not self._rolls_over(day):
            return daily
        before = sum(
            amount for other, amount in self.leased_by_day.items() if self.dailies[0][0] <= other < day
        )
        return max(0, self._allowed(day) - before)

    def _rolls_over(self, day: int) -> bool:
        return self.campaign.daily_policy == "rollover" and bool(self.dailies) and day >= self.dailies[0][0]

    def _allowed(self, day: int) -> int:
        """The daily budgets of all days up to this one."""
        total = 0
        for number, (since, daily) in enumerate(self.dailies):
            if since > day:
                break
            until = self.dailies[number + 1][0] if number + 1 < len(self.dailies) else None
            last = zones.day_ordinal(day) + 1
            if until is not None:
                last = min(last, zones.day_ordinal(until))
            total += daily * (last - zones.day_ordinal(since))
        return total

    def room(self, day: int) -> int:
        """What could still be leased for the day, money withheld by pacing included."""
        room = self.own_room(day)
        return room if self.account is None else max(0, min(room, self.account.room(day)))

    def own_room(self, day: int) -> int:
        """As `room`, as if its account had all money."""
        if 0 < day <= self.closed_day:
            return 0
        daily = self.campaign.daily_budget_micros
        if not day or daily is None:
            return self.unleased
        room = min(self.unleased, self.day_budget(day) - self.leased_by_day.get(day, 0))
        if self._rolls_over(day):
            # A day that is paid for afterwards must leave what the days after it have taken over.
            for later in self.leased_by_day:
                if later > day:
                    room = min(room, self.day_budget(later) - self.leased_by_day[later])
        return max(0, room)

    def ahead(self, day: int, room: int, at_ms: int, settling: pacing.Settling) -> tuple[int, int | None]:
        """(What may be leased for the day at a moment, of what there is room for; where the plan begins anew if any of
        it is leased, else None)."""
        if self.campaign.pacing.mode == "asap" or room == 0:
            return room, None
        paced_day = 0 if self.campaign.daily_budget_micros is None else day
        budget = sayable(self.day_budget(day))
        used = self.topped_up - self.unleased if not paced_day else self.leased_by_day.get(day, 0)
        unit = max(1, self.one_price)
        planned = pacing.released_micros(
            self.campaign, budget, day, self.time_zone, at_ms, self.paced.get(paced_day), settling
        )
        anew = None
        carried = used + max(unit, budget // pacing.CARRY_DIVISOR)
        if carried < planned < budget:
            planned = anew = carried
        released = -(-planned // unit) * unit
        return max(0, min(room, released - used)), anew

    def shard_idle(self, shard: str, day: int) -> int:
        """A shard's idle money for the day, as reported."""
        return self.reports.get(shard, {}).get(day, (0, 0, 0))[0]

    def holders(self) -> list[str]:
        """Shards with money that they have not reported as spent."""
        found = []
        for shard, days in self.leased.items():
            spent = sum(row[2] for row in self.reports.get(shard, {}).values())
            if sum(days.values()) > spent:
                found.append(shard)
        return sorted(found, key=topics.partition_of_shard)

    def idle_elsewhere(self, shard: str) -> bool:
        """Whether another shard has money that it has not reported as reserved or spent."""
        for other, days in self.leased.items():
            if other != shard:
                used = sum(row[1] + row[2] for row in self.reports.get(other, {}).values())
                if sum(days.values()) > used:
                    return True
        return False

    def lease_size(self, available: int, divisor: int) -> int:
        """How much one lease gets: a fair part of what is available, in whole prices, shrinking with it."""
        share = available // divisor
        unit = max(1, self.one_price)
        return share - share % unit

    # ------------------------------------------------------------------ changing (by folds)

    def lease(self, shard: str, day: int, amount: int) -> None:
        """Unleased → leased to a shard; a negative amount comes back."""
        self.unleased -= amount
        days = self.leased.setdefault(shard, {})
        days[day] = days.get(day, 0) + amount
        self.leased_by_day[day] = self.leased_by_day.get(day, 0) + amount
        if self.account is not None:
            self.account.lease(day, amount)
        assert min(self.unleased, days[day]) >= 0, "money became negative"

    def report(self, shard: str, row: list[int]) -> None:
        """Takes a shard's [day, lease, reserved, spent]."""
        day, lease, reserved, spent = row
        days = self.reports.setdefault(shard, {})
        before = days.get(day, (0, 0, 0))
        days[day] = (lease, reserved, spent)
        self.idle_by_day[day] = self.idle_by_day.get(day, 0) + lease - before[0]
        self.reserved_micros += reserved - before[1]
        self.spent_by_day[day] = self.spent_by_day.get(day, 0) + spent - before[2]

    def is_settled(self, day: int) -> bool:
        """Whether all that was leased for the day is spent, as reported, and nobody asks for more."""
        for shard, days in self.leased.items():
            lease, reserved, spent = self.reports.get(shard, {}).get(day, (0, 0, 0))
            if lease or reserved or days.get(day, 0) != spent:
                return False
        return all(asked != day for _, asked in self.asks)

    def close_day(self, day: int) -> None:
        """Keeps of a settled day only its part of a sum: of the days that roll over, kept as their first one's, or of
        all others."""
        into = self.dailies[0][0] if self._rolls_over(day) else EARLIER_DAYS
        self.closed_day = day
        self.paced.pop(day, None)
        if into == day:
            return
        if self.account is not None:
            self.account.close_day(day, into, self.leased_by_day.get(day, 0))
        for days in (*self.leased.values(), self.leased_by_day, self.idle_by_day, self.spent_by_day):
            amount = days.pop(day, 0)
            if amount:
                days[into] = days.get(into, 0) + amount
        for rows in self.reports.values():
            row = rows.pop(day, (0, 0, 0))
            if row[2]:
                rows[into] = (0, 0, rows.get(into, (0, 0, 0))[2] + row[2])
        self.leased = {shard: days for shard, days in self.leased.items() if days}
        self.reports = {shard: rows for shard, rows in self.reports.items() if rows}

    # ------------------------------------------------------------------ the store

    def encode(self) -> bytes:
        """The stored form."""
        return kept_json(
            {
                "campaign": self.data,
                "time_zone": self.time_zone,
                "by_day": self.by_day,
                "topped_up": self.topped_up,
                "unleased": self.unleased,
                "budget": self.budget,
                "leased": {shard: sorted(days.items()) for shard, days in sorted(self.leased.items())},
                "reports": {
                    shard: [[day, *row] for day, row in sorted(days.items())]
                    for shard, days in sorted(self.reports.items())
                },
                "asks": [[*place, *ask] for place, ask in self.asks.items()],
                "round": None
                if self.round is None
                else [self.round.number, self.round.waiting, self.round.dirty],
                "rounds": self.rounds,
                "patience": self.patience,
                "used_micros": self.used_micros,
                "put_off": self.put_off,
                "decreases": self.decreases,
                "episode": self.episode,
                "reasons": self.reasons,
                "exhausted_day": self.exhausted_day,
                "opened_day": self.opened_day,
                "closed_day": self.closed_day,
                "risked_day": self.risked_day,
                "dailies": self.dailies,
                "paced": [[day, *anchor] for day, anchor in sorted(self.paced.items())],
                "thresholds": self.thresholds,
            }
        )

    @classmethod
    def decode(cls, value: bytes, accounts: Mapping[str, AccountFund] | None = None) -> TreasuryCampaign:
        """From the stored form; what it was leased is added to its account."""
        data = orjson.loads(value)
        campaign = campaign_of(data["campaign"])
        account = None if accounts is None else accounts.get(campaign.account_id)
        self = cls(campaign, data["time_zone"], account, data["by_day"])
        self.topped_up = self.unleased = data["topped_up"]
        for shard, days in data["leased"].items():
            for day, amount in days:
                self.lease(shard, day, amount)
        assert self.unleased == data["unleased"], "the stored money does not add up"
        self.budget = data["budget"]
        for shard, rows in data["reports"].items():
            for row in rows:
                self.report(shard, row)
        self.asks = {(shard, day): (*ask,) for shard, day, *ask in data["asks"]}
        self.round = None if data["round"] is None else Round(*data["round"])
        self.rounds = data["rounds"]
        self.patience = data["patience"]
        self.used_micros = data["used_micros"]
        self.put_off = data["put_off"]
        self.decreases = data["decreases"]
        self.episode = data["episode"]
        self.reasons = tuple(data["reasons"])
        self.exhausted_day = data["exhausted_day"]
        self.opened_day = data["opened_day"]
        self.closed_day = data.get("closed_day", 0)
        self.risked_day = data.get("risked_day", NO_DAY)
        self.dailies = [(day, daily) for day, daily in data["dailies"]]
        self.paced = {day: (at_ms, micros) for day, at_ms, micros in data["paced"]}
        self.thresholds = data["thresholds"]
        return self
