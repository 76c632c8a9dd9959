"""Rules of accounts with budgets, days that roll over, pods, and prices by click and view, broken one at a time."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutation import one

from adgovernor.core import person_ops, podplan
from adgovernor.core.accounts import TreasuryCampaign
from adgovernor.core.funds import AccountFund
from adgovernor.core.leases import CampaignShare
from adgovernor.core.podrequests import PodRequest
from adgovernor.core.releases import Releases
from adgovernor.core.rules import Rules
from adgovernor.core.selection import Selector
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard

MONEY: Final = (
    one(
        "account-unbounded",
        "An account's campaigns together lease no more than its budget",
        TreasuryCampaign,
        "room",
        "room if self.account is None else max(0, min(room, self.account.room(day)))",
        "room",
    ),
    one(
        "account-day-unbounded",
        "An account's campaigns together lease no more of a day than its daily budget",
        AccountFund,
        "day_room",
        "max(0, daily - self.leased_by_day.get(day, 0))",
        "daily",
    ),
    one(
        "account-spends-its-leases",
        "An account's decrease takes only what is not leased",
        Treasury,
        "_account_money",
        "taken = min(what.amount_micros, fund.total_room())",
        "taken = min(what.amount_micros, fund.topped_up)",
        theme="accounts",
    ),
    one(
        "account-exhausted-too-soon",
        "An account is exhausted only when less than one price is left of its money",
        Releases,
        "_refuse",
        "if clean and fund.total_room() + idle < one",
        "if fund.total_room() < one",
        theme="accounts",
    ),
    one(
        "account-top-up-lost",
        "An account's top-up is money, once",
        Treasury,
        "_account_money",
        'self.emit(["account_money", account_id, what.amount_micros])',
        'self.emit(["account_money", account_id, what.amount_micros // 2])',
    ),
    one(
        "account-never-resumes",
        "A pause for an account's money ends when enough of it is back",
        Releases,
        "_leave_account",
        'reasons.discard("account")',
        "pass",
        theme="silence",
    ),
    one(
        "account-dirty-counts",
        "An account's recall during which money was granted cannot declare exhaustion",
        Releases,
        "_settle_account",
        "clean = not fund.dirty",
        "clean = True",
        theme="accounts",
    ),
    one(
        "rolled-over-twice",
        "All days up to any day together spend no more than their daily budgets together",
        TreasuryCampaign,
        "day_budget",
        "max(0, self._allowed(day) - before)",
        "self._allowed(day)",
        theme="days",
    ),
    one(
        "day-leased-early",
        "Next-day leases are granted a little early at most",
        Rules,
        "opens_early_ms",
        "max(self.early_lease_ms, self.lateness_ms)",
        "3_600_000",
        theme="days",
    ),
    one(
        "days-closed-at-once",
        "A day's money is kept by itself while anything can reach it",
        Rules,
        "keeps_day_until_ms",
        "return end_ms + max(self.day_grace_ms, self.dedupe_ms)",
        "return end_ms",
    ),
    one(
        "closed-days-forgotten",
        "Conservation: what a closed day spent is in a sum",
        CampaignShare,
        "close_day",
        "            self.book(EARLIER_DAYS).move(spent=book.spent)\n",
        "            pass\n",
    ),
    one(
        "any-day-closed",
        "Only a settled day is closed",
        TreasuryCampaign,
        "is_settled",
        "if lease or reserved or days.get(day, 0) != spent",
        "if False",
        theme="days",
    ),
    one(
        "impressions-pay-for-all",
        "A price by click or view is paid by that alone",
        UserShard,
        "_engagement",
        'if (reservation[6] or "impression") != what.type:',
        'if what.type != "impression":',
    ),
    one(
        "clicks-pay-twice",
        "A click is paid once",
        person_ops,
        "billed",
        "        serving.bill()\n",
        "        pass\n",
    ),
    one(
        "shown-forgotten",
        "An impression that moves no money counts once",
        person_ops,
        "shown",
        "        serving.show()\n",
        "        pass\n",
    ),
    one(
        "reservations-too-long",
        "No reservation outlives the memory of its decision",
        Selector,
        "reserve",
        "time_ms + min(share.life_ms, shard.rules.longest_reservation_ms())",
        "time_ms + share.life_ms",
        theme="pods",
    ),
    one(
        "pod-all-at-once",
        "An ad of a pod is waited for from its turn on",
        PodRequest,
        "_waits",
        "before_ms + self._played_ms",
        "before_ms",
        theme="pods",
    ),
    one(
        "pod-overspends",
        "The ads of a pod draw on one lease",
        podplan,
        "_candidate",
        "charge_micros=entry.price",
        "charge_micros=0",
        theme="pods",
    ),
    one(
        "pod-of-one-advertiser",
        "No two ads of one advertiser domain in a pod",
        podplan,
        "keeps_apart",
        '"pod" if not parts or any(part.separate_advertisers for part in parts) else "none"',
        '"none"',
        theme="pods",
    ),
    one(
        "pod-below-its-floor",
        "No ad below a pod's floor",
        podplan,
        "_segment",
        "floor_micros=place.floor_micros",
        "floor_micros=0",
        theme="pods",
    ),
    one(
        "pod-too-many",
        "No more ads in a pod than it takes",
        podplan,
        "_segment",
        "max_ads=max_ads",
        "max_ads=12",
        theme="pods",
    ),
)
