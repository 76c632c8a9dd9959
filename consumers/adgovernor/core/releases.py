"""How a treasury releases money: asks, recalls, exhaustion, episodes.

Whatever a record touched is brought to rest here before the record ends: first what time alone changes, then a recall
that has come to its end, then the asks, then whether anything is left to be asked for.
"""

from __future__ import annotations

from typing import Any

from adgovernor.contracts import topics, zones
from adgovernor.contracts.campaigns import Campaign
from adgovernor.contracts.money import sayable
from adgovernor.core.accounts import TreasuryCampaign
from adgovernor.core.funds import WORDS, AccountFund
from adgovernor.core.lateness import doubt_ppm
from adgovernor.core.leases import CLICK_LIFE_MS, DAY_WORDS, PAYS_ON
from adgovernor.core.pacing import NOTHING_DOUBTFUL, Settling
from adgovernor.core.treasury_mail import TreasuryMail

_SLACK_MS = 360_000
"""Until money is free again after its event can come no more: the moment at which it does is rounded up, and is noticed
with the next event."""
_LAST_DIVISOR = 10_000
"""Towards the end a pause ends for so small a part of the budget."""
MOST_PUT_OFF = 32
"""Recalls in a row that brought nothing more to be spent: beyond this, demand is not what is lacking."""


class Releases(TreasuryMail):
    """The rules by which a treasury's money leaves it and comes back."""

    # ------------------------------------------------------------------ settling what was touched

    def _settle(self) -> None:
        """Brings every touched campaign to rest: flight and day, asks, recalls, exhaustion, thresholds."""
        for campaign_id in self._touched:
            known = self.campaigns[campaign_id]
            self._calendar(known)
            if known.round is not None and not known.round.waiting:
                self._end_round(known)
            self._serve(known)
            self._leave_exhausted(known, topped_up=False)
            self._look_for_exhaustion(known)
            self._pass_thresholds(known)
        funds = {
            known.campaign.account_id: known.account
            for known in map(self.campaigns.__getitem__, self._touched)
            if known.account is not None and known.account.governs
        }
        for fund in funds.values():
            self._settle_account(fund)
        for campaign_id in self._touched:
            self._close_days(self.campaigns[campaign_id])
        self._touched = {}

    def _close_days(self, known: TreasuryCampaign) -> None:
        """Lets go of days that nothing can reach any more, oldest first."""
        for day in sorted(day for day in known.leased_by_day if day > known.closed_day):
            kept_ms = self.rules.keeps_day_until_ms(zones.day_bounds(day, known.time_zone)[1])
            if kept_ms > self.watermark_ms or not known.is_settled(day):
                return
            self.emit(["closed", known.campaign.campaign_id, day])

    def _calendar(self, known: TreasuryCampaign) -> None:
        """What time alone changes: the flight's end, a new day."""
        reasons = set(known.reasons)
        end_ms = known.campaign.end_ms
        if end_ms is not None and self.watermark_ms >= end_ms:
            reasons.add("flight")
        else:
            reasons.discard("flight")
        if (
            not reasons.isdisjoint(DAY_WORDS)
            and zones.day_bounds(known.exhausted_day, known.time_zone)[1] <= self.watermark_ms
        ):
            reasons -= DAY_WORDS
        self._set_reasons(known, reasons)
        self._open_day(known)

    def _open_day(self, known: TreasuryCampaign) -> None:
        """Gives every shard a first lease of the whole budget, or of a day that is near or has begun."""
        if not known.by_day:
            if known.opened_day == 0 and not known.reasons:
                self._first_leases(known, 0)
                self.emit(["opened", known.campaign.campaign_id, 1])
            return
        if self.watermark_ms == 0:
            return  # No event has told the time yet: there is no day to open.
        for at_ms in (self.watermark_ms, self.watermark_ms + self.rules.opens_early_ms()):
            day = known.day_of(at_ms)
            if day > known.opened_day and not known.paused_on(day):
                self._first_leases(known, day)
                self.emit(["opened", known.campaign.campaign_id, day])

    def _first_leases(self, known: TreasuryCampaign, day: int) -> None:
        shards = self._user_shards()
        available, anew = self._ahead(known, day)
        unit = known.one_price
        amount = known.lease_size(available, self.rules.lease_divisor * len(shards))
        if amount < unit and available >= unit * len(shards):
            amount = unit
        if amount > 0 and amount >= unit:
            self._plan_anew(known, day, anew)
            for shard in shards:
                self._grant(known, shard, day, amount, asked=False)

    def available(self, known: TreasuryCampaign, day: int) -> int:
        """What of a campaign's money may be leased for the day now."""
        return self._ahead(known, day)[0]

    def _ahead(self, known: TreasuryCampaign, day: int, room: int | None = None) -> tuple[int, int | None]:
        """See `TreasuryCampaign.ahead`, now."""
        settling = NOTHING_DOUBTFUL if known.campaign.pacing.mode == "asap" else self.settling(known.campaign)
        return known.ahead(day, known.room(day) if room is None else room, self.newest_ms, settling)

    def _is_withheld(self, known: TreasuryCampaign, day: int) -> bool:
        """Whether its own plan holds back what it has, so that more of its account's would not help it."""
        return self._ahead(known, day, known.own_room(day))[0] < known.one_price

    def settling(self, campaign: Campaign) -> Settling:
        """What is to be expected of the ads that a campaign sells last."""
        kind, life_ms = PAYS_ON[campaign.pricing], campaign.reservation_ms
        if life_ms is None:
            life_ms = CLICK_LIFE_MS if kind else self.rules.reservation_ms
        life_ms = min(life_ms, self.rules.longest_reservation_ms())
        settle_ms = life_ms + self.rules.late_grace_ms + self.rules.lateness_ms + _SLACK_MS
        said = [known[kind] for known in self.prompt.values() if kind in known]
        return settle_ms, doubt_ppm(said, self.rules.late_prior_ppm), self.rules.partitions

    def _plan_anew(self, known: TreasuryCampaign, day: int, anew: int | None) -> None:
        if anew is not None:
            paced_day = 0 if known.campaign.daily_budget_micros is None else day
            self.emit(["paced", known.campaign.campaign_id, paced_day, self.newest_ms, anew])

    def _grant(self, known: TreasuryCampaign, shard: str, day: int, amount: int, *, asked: bool) -> None:
        campaign_id = known.campaign.campaign_id
        self.emit(["grant", campaign_id, shard, day, amount, asked])
        self._tell(shard, "grant", campaign_id, day=day, amount_micros=amount, asked=asked)

    def _serve(self, known: TreasuryCampaign) -> None:
        """Answers asks, first come first: grant, deny, recall, or wait for the next release."""
        for (shard, day), (level, empty, owed) in list(known.asks.items()):
            if known.paused_on(day):
                self._pay_in_pause(known, shard, day, level, owed)
            elif (shard, day) not in known.asks or self._try_grant(known, shard, day, level, owed):
                continue
            elif not self._answer_in_want(known, shard, day, level, empty, owed):
                return

    def _answer_in_want(
        self, known: TreasuryCampaign, shard: str, day: int, level: int, empty: bool, owed: int
    ) -> bool:
        """An ask that cannot be met now: deny, recall, or wait. False where the campaign stops for lack of money, so
        that no other ask is to be answered."""
        if known.reasons:
            return True  # For the day before: when its pause ends, whoever lacks money asks again.
        if 0 < day <= known.closed_day:
            self._deny(known, shard, day)
            return True
        if self._day_is_ahead(known, day):
            return True  # The day is not open yet: a tick will look again.
        room = known.room(day)
        lack = max(1, level - known.shard_idle(shard, day))
        if not empty or (lack > room >= known.one_price):
            self._deny(known, shard, day)
            return True
        if room >= known.one_price:
            return True
        if known.own_room(day) >= known.one_price:
            return (not owed and self._is_withheld(known, day)) or self._ask_account(known, shard, day)
        if known.round is not None:
            return True
        if known.put_off.get(shard, 0) < known.patience and known.idle_elsewhere(shard):
            # Shards that ask in turn would take the last price from each other for ever, so whoever got it
            # has a while to spend it: longer with each recall that was for nothing.
            self.emit(["put_off", known.campaign.campaign_id, shard])
            self._deny(known, shard, day)
            return True
        if known.holders():
            self._recall(known)
            return True
        self._conclude(known, clean=True)
        return False

    def _pay_in_pause(self, known: TreasuryCampaign, shard: str, day: int, level: int, owed: int) -> None:
        """A paused campaign is leased what it owes for ads that were shown, where there is so much; while more may come
        back the ask waits for that."""
        if not owed:
            # It waited, for its day or for a recall, and then the pause came.
            self._deny(known, shard, day)
            return
        # Who had not heard of the pause asked for a price besides.
        lack = max(1, min(level - known.shard_idle(shard, day), owed))
        if lack <= known.room(day):
            self._grant(known, shard, day, lack, asked=True)
        elif not known.holders():
            self._deny(known, shard, day)

    def _try_grant(self, known: TreasuryCampaign, shard: str, day: int, level: int, owed: int) -> bool:
        if self._day_is_ahead(known, day):
            return False
        available, anew = self._ahead(known, day)
        lack = max(1, level - known.shard_idle(shard, day))
        if lack > available:
            unit, room = max(1, known.one_price), known.room(day)
            if owed:
                # What was shown already is paid whatever the pace.
                available = max(available, min(room, max(owed, unit)))
            if available < unit or lack > room:
                return False
            # Pacing holds back the rest. A part now keeps an ask for much from waiting behind asks for little.
            lack = min(lack, available - available % unit)
        self._plan_anew(known, day, anew)
        size = known.lease_size(available, self.rules.lease_divisor * self.rules.partitions)
        self._grant(known, shard, day, max(lack, size), asked=True)
        return True

    def _deny(self, known: TreasuryCampaign, shard: str, day: int) -> None:
        campaign_id = known.campaign.campaign_id
        self.emit(["denied", campaign_id, shard, day])
        self._tell(shard, "deny", campaign_id, day=day)

    def _recall(self, known: TreasuryCampaign) -> None:
        campaign_id = known.campaign.campaign_id
        shards = known.holders()
        self.emit(["round", campaign_id, shards])
        for shard in shards:
            self._tell(shard, "recall", campaign_id, round=known.rounds)

    def _end_round(self, known: TreasuryCampaign) -> None:
        assert known.round is not None
        campaign_id = known.campaign.campaign_id
        clean = not known.round.dirty
        self.emit(["round_end", campaign_id])
        account_id = known.campaign.account_id
        decreases = known.decreases
        if decreases:
            self.emit(["decreased", campaign_id])
        for command_id, command, left, _ in decreases:
            taken = min(left, known.unleased)
            if taken:
                self.emit(["money", campaign_id, -taken])
            refusal = None if taken == left else "too_little_unleased"
            self._change_of(account_id, campaign_id, command_id, command, refusal)
        granted = not clean
        if not known.reasons and self._conclude(known, clean=clean):
            granted = True
        if granted:
            self._favour(known)

    def _conclude(self, known: TreasuryCampaign, *, clean: bool) -> bool:
        """After a recall: serve who asked from what came back; where less than one price is left, exhausted.
        Whether anybody was served."""
        granted = False
        for (shard, day), (level, _, owed) in list(known.asks.items()):
            if self._try_grant(known, shard, day, level, owed):
                clean = False
                granted = True
                continue
            if self._day_is_ahead(known, day):
                continue
            one = known.one_price
            if known.room(day) >= one and self.available(known, day) < one:
                continue  # Pacing holds it back: the ask waits for the next release.
            if clean and known.unleased + known.reported_idle() < one:
                self._exhaust(known, "total", 0)
                return granted
            idle = known.idle_by_day.get(day, 0)
            daily = known.campaign.daily_budget_micros is not None
            if (
                clean
                and daily
                and day == known.day_of(self.watermark_ms)
                and known.own_room(day) + idle < one
            ):
                self._exhaust(known, "day", day)
                return granted
            if known.account is not None and known.account.recall is not None and known.own_room(day) >= one:
                continue  # Its account's money is being recalled: the ask waits for the end of that.
            self._deny(known, shard, day)
        return granted

    def _favour(self, known: TreasuryCampaign) -> None:
        used = sayable(known.spent + known.reserved_micros)
        patience = min(known.patience + 1, MOST_PUT_OFF) if used == known.used_micros else 1
        self.emit(["favoured", known.campaign.campaign_id, patience, used])

    # ------------------------------------------------------------------ accounts with budgets of their own

    def _ask_account(self, known: TreasuryCampaign, shard: str, day: int) -> bool:
        """An ask that the account's money holds up: recall, deny, or wait; False where the campaign is exhausted."""
        fund = known.account
        assert fund is not None, "only an account's money is less than a campaign's own"
        if fund.recall is not None:
            return True
        members = self.campaigns_of(fund.account.account_id)
        waiter = f"{shard}|{known.campaign.campaign_id}"
        if fund.put_off.get(waiter, 0) < fund.patience:
            # As within a campaign: whoever a recall served has a while to spend it.
            self.emit(["account_put_off", fund.account.account_id, waiter])
            self._deny(known, shard, day)
        elif not self._recall_account(fund, members):
            self._conclude_account(fund, members, clean=True)
        return not known.reasons

    def _recall_account(self, fund: AccountFund, members: list[TreasuryCampaign]) -> bool:
        """Begins a recall from all holders of the account's money; whether there are any."""
        holding = [known for known in members if known.holders()]
        if not holding:
            return False
        for known in holding:
            if known.round is None:
                self._recall(known)
        names = [known.campaign.campaign_id for known in holding]
        self.emit(["account_recall", fund.account.account_id, names])
        return True

    def _settle_account(self, fund: AccountFund) -> None:
        """Ends a recall that all campaigns have answered, and looks at those that the account's money concerns."""
        account_id = fund.account.account_id
        members = self.campaigns_of(account_id)
        if fund.recall is not None and all(self.campaigns[name].round is None for name in fund.recall):
            clean = not fund.dirty
            self.emit(["account_recalled", account_id])
            decreases = fund.decreases
            if decreases:
                self.emit(["account_decreased", account_id])
            for command_id, command, left in decreases:
                taken = min(left, fund.total_room())
                if taken:
                    self.emit(["account_money", account_id, -taken])
                refusal = None if taken == left else "too_little_unleased"
                self._change_of(account_id, "", command_id, command, refusal)
            if self._conclude_account(fund, members, clean=clean):
                used = sayable(sum(known.spent + known.reserved_micros for known in members))
                patience = min(fund.patience + 1, MOST_PUT_OFF) if used == fund.used_micros else 1
                self.emit(["account_favoured", account_id, patience, used])
        spent = sum(known.spent for known in members)
        for known in members:
            if known.reasons:
                self._leave_exhausted(known, topped_up=False)
                # Its own money was not looked at while its account's was the reason.
                self._look_for_exhaustion(known)
            elif known.asks:
                self._serve(known)
            if known.reasons or not known.one_price:
                continue
            if fund.account.budget_micros is not None and fund.topped_up - spent < known.one_price:
                self._exhaust(known, "account", 0)
                continue
            day, daily = known.day_of(self.watermark_ms), fund.account.daily_budget_micros
            if daily is not None and day:
                used = sum(member.spent_by_day.get(day, 0) for member in members)
                if daily - used < known.one_price:
                    self._exhaust(known, "account", day)

    def _conclude_account(self, fund: AccountFund, members: list[TreasuryCampaign], *, clean: bool) -> bool:
        """As `_conclude`, for the asks that the account's money holds up; whether one was granted."""
        granted = False
        for known in members:
            for (shard, day), (level, _, owed) in list(known.asks.items()):
                one = known.one_price
                if known.reasons or known.own_room(day) < one:
                    continue
                if self._try_grant(known, shard, day, level, owed):
                    granted = True
                elif not self._day_is_ahead(known, day) and known.room(day) < one:
                    self._refuse(known, fund, members, shard, day, clean=clean and not granted)
        return granted

    def _refuse(
        self,
        known: TreasuryCampaign,
        fund: AccountFund,
        members: list[TreasuryCampaign],
        shard: str,
        day: int,
        *,
        clean: bool,
    ) -> None:
        one = known.one_price
        idle = sum(member.reported_idle() for member in members)
        if clean and fund.total_room() + idle < one:
            self._exhaust(known, "account", 0)
            return
        idle = sum(member.idle_by_day.get(day, 0) for member in members)
        if clean and day == known.day_of(self.watermark_ms) and fund.day_room(day) + idle < one:
            self._exhaust(known, "account", day)
            return
        self._deny(known, shard, day)

    def _leave_account(
        self, known: TreasuryCampaign, fund: AccountFund, reasons: set[str], *, topped_up: bool
    ) -> None:
        """Drops the reasons that are about the account's money where enough of it is back."""
        one = known.one_price
        members = self.campaigns_of(fund.account.account_id)
        threshold = self._threshold(known, fund.topped_up, fund.topped_up, known.campaign.end_ms)
        spent = sum(member.spent for member in members)
        room = min(fund.total_room(), fund.unspent(0, spent))
        nothing_out = fund.leased == spent
        if room >= one and (topped_up or room >= threshold or nothing_out):
            reasons.discard("account")
        day = known.exhausted_day
        used = sum(member.spent_by_day.get(day, 0) for member in members)
        room = min(fund.day_room(day), fund.unspent(day, used))
        end_ms = zones.day_bounds(day, known.time_zone)[1] if day else None
        daily = fund.account.daily_budget_micros or 0
        threshold = self._threshold(known, fund.topped_up, daily, end_ms)
        nothing_out = fund.leased_by_day.get(day, 0) == used
        if room >= one and (topped_up or room >= threshold or nothing_out):
            reasons.discard("account_day")

    def _day_is_ahead(self, known: TreasuryCampaign, day: int) -> bool:
        return day != 0 and day > known.day_of(self.watermark_ms + self.rules.opens_early_ms())

    # ------------------------------------------------------------------ episodes

    def _look_for_exhaustion(self, known: TreasuryCampaign) -> None:
        """Less than one price can ever be spent: everything else is reported as spent."""
        one = known.one_price
        if known.reasons or not one:
            return
        if known.unleased + known.outstanding < one:
            self._exhaust(known, "total", 0)
            return
        day = known.day_of(self.watermark_ms)
        daily = known.campaign.daily_budget_micros
        if day and daily is not None and known.day_budget(day) - known.spent_by_day.get(day, 0) < one:
            self._exhaust(known, "day", day)

    def _exhaust(self, known: TreasuryCampaign, scope: str, day: int) -> None:
        word = {"day": "day", "total": "exhausted"}.get(scope, "account_day" if day else "account")
        body: dict[str, Any] = {
            "episode": known.episode,
            "scope": scope,
            "currency": known.campaign.currency,
            "topped_up_micros": known.topped_up,
            "spent_micros": known.spent,
            "reserved_micros": known.reserved_micros,
            "cause_topic": self._cause[0],
            "cause_offset": self._cause[1],
        }
        if day:
            body["day"] = day
        fund = known.account
        if scope == "account" and fund is not None:
            members = self.campaigns_of(fund.account.account_id)
            body["topped_up_micros"] = fund.topped_up
            body["spent_micros"] = sayable(sum(member.spent for member in members))
            body["reserved_micros"] = sayable(sum(member.reserved_micros for member in members))
        self._pass_thresholds(known)
        self._publish(topics.BUDGET_EXHAUSTED, known, **body)
        self._set_reasons(known, {*known.reasons, word}, day)

    def _leave_exhausted(self, known: TreasuryCampaign, *, topped_up: bool) -> None:
        """Money is back: by a command, or because reservations expired. A little of it counts only once nothing
        is outstanding, so that a campaign does not pause and resume for every single price."""
        one = known.one_price
        reasons = set(known.reasons)
        if "exhausted" in reasons:
            # More is reported as spent than was leased only after a loss that a person accepted.
            room = min(known.unleased, known.unleased + known.outstanding)
            threshold = self._threshold(known, known.topped_up, known.topped_up, known.campaign.end_ms)
            if room >= one and (topped_up or room >= threshold or known.outstanding == 0):
                reasons.discard("exhausted")
        if "day" in reasons:
            day = known.exhausted_day
            room = min(known.own_room(day), known.day_budget(day) - known.spent_by_day.get(day, 0))
            spent_all = known.leased_by_day.get(day, 0) == known.spent_by_day.get(day, 0)
            end_ms = zones.day_bounds(day, known.time_zone)[1]
            threshold = self._threshold(known, known.topped_up, known.day_budget(day), end_ms)
            if room >= one and (topped_up or room >= threshold or spent_all):
                reasons.discard("day")
        if known.account is not None and not reasons.isdisjoint(WORDS):
            self._leave_account(known, known.account, reasons, topped_up=topped_up)
        self._set_reasons(known, reasons)

    def _threshold(self, known: TreasuryCampaign, topped_up: int, budget: int, end_ms: int | None) -> int:
        """How much money must be back to end a pause while more is outstanding: a good part, because the rest will
        come; towards the end, when there is no time to wait for it, so little that next to nothing of the budget
        stays unspent."""
        last_ms = 2 * (self.rules.reservation_ms + self.rules.late_grace_ms)
        if end_ms is not None and self.newest_ms >= end_ms - last_ms:
            return budget // _LAST_DIVISOR
        return max(known.one_price * self.rules.partitions, topped_up // 100)

    def _set_reasons(self, known: TreasuryCampaign, reasons: set[str], day: int = 0) -> None:
        before = known.reasons
        after = tuple(sorted(reasons))
        if after == before:
            return
        campaign_id = known.campaign.campaign_id
        paused, was_paused = bool(after), bool(before)
        episode = known.episode + 1 if was_paused and not paused else known.episode
        self.emit(["status", campaign_id, episode, list(after), day or known.exhausted_day])
        if paused and not was_paused:
            self._publish(topics.CAMPAIGN_PAUSED, known, episode=episode, reasons=list(after))
        elif was_paused and not paused:
            self._publish(topics.CAMPAIGN_RESUMED, known, episode=episode)
        until = {"day": known.paused_day} if known.paused_day else {}
        self._tell_all("status", campaign_id, episode=episode, reasons=list(after), **until)
        if was_paused and not paused:
            self._first_leases(known, known.day_of(self.watermark_ms))

    def _pass_thresholds(self, known: TreasuryCampaign) -> None:
        topped_up, spent = known.topped_up, known.spent
        if not topped_up:
            return
        for percent in sorted(known.campaign.thresholds_percent):
            if percent not in known.thresholds and spent * 100 >= topped_up * percent:
                self.emit(["threshold", known.campaign.campaign_id, percent])
                self._publish(
                    topics.BUDGET_THRESHOLDS,
                    known,
                    episode=known.episode,
                    percent=percent,
                    currency=known.campaign.currency,
                    topped_up_micros=topped_up,
                    spent_micros=spent,
                )
