"""The treasury: holds the money of its accounts' campaigns, leases it to user shards, and says when a campaign
pauses and resumes.

No shard spends money that another could spend too: what is leased to one is nobody else's. The treasury never
guesses what a shard did; it knows what it granted, what came back, and what the shard last reported.
"""

from __future__ import annotations

from typing import Any

from adgovernor.contracts.campaigns import (
    Account,
    Command,
    MoneyCommand,
    StatusCommand,
    UpsertAccount,
    UpsertCampaign,
)
from adgovernor.contracts.ledger import Draft
from adgovernor.contracts.money import MOST_MICROS
from adgovernor.contracts.routing import partition_of
from adgovernor.core import inputs
from adgovernor.core.accounts import TreasuryCampaign
from adgovernor.core.funds import AccountFund, account_data
from adgovernor.core.leases import campaign_data
from adgovernor.core.machine import Input, Poison, dead_letter
from adgovernor.core.releases import Releases

_UTC = "UTC"


class Treasury(Releases):
    """The machine (see `machine.Machine`) of one treasury shard."""

    # ------------------------------------------------------------------ what the runtime asks

    def read(self, topic: str, offset: int, key: bytes | None, value: bytes | None) -> Input:
        """See `machine.Machine.read`."""
        return inputs.read(topic, offset, key, value)

    def open_block(self, height: int, now_ms: int, drained: bool) -> Draft | None:
        """See `machine.Machine.open_block`."""
        self.begin_fold(height, now_ms, drained)
        draft = self._begin({"kind": "tick"}, "tick", -1)
        if self.configured != self.rules:
            draft.assumed = {"rules": self.configured.as_dict()}
            self.emit(["rules", self.configured.as_dict()])
        if drained and now_ms >= self.last_tick_ms + self.rules.report_interval_ms:
            target = max(self.watermark_ms, now_ms - self.rules.lateness_ms)
            if self._agenda.next_ms() <= target:
                # At 0 no event has told the time: days wait for it, and it has changed nothing for anybody.
                due = self._agenda.take(target) if target else []
                self._advance(target)
                self._touched.update(dict.fromkeys(due))
                self._settle()
                self.emit(["ticked", now_ms])
        self._flush()
        if not draft.deltas:
            self.index -= 1
            return None
        return draft

    def due(self, now_ms: int) -> bool:
        """See `machine.Machine.due`."""
        if self.configured != self.rules:
            return True
        if now_ms < self.last_tick_ms + self.rules.report_interval_ms:
            return False
        return self._agenda.next_ms() <= max(self.watermark_ms, now_ms - self.rules.lateness_ms)

    def decide(self, event: Input, *, unknown: bool = False, assumed: dict[str, Any] | None = None) -> Draft:
        """See `machine.Machine.decide`."""
        draft = self._begin({}, event.topic, event.offset)
        what = event.event
        if isinstance(what, Poison):
            draft.result = {"kind": "poison", "reason": what.reason}
            draft.out.append(dead_letter(event.topic, what.reason, what.message))
        elif isinstance(what, UpsertAccount | UpsertCampaign | MoneyCommand | StatusCommand):
            self._command(draft, what)
        else:
            assert isinstance(what, dict)
            self._report(draft, what, event.offset)
        self._settle()
        self._flush()
        return draft

    # ------------------------------------------------------------------ commands

    def _command(self, draft: Draft, what: Command) -> None:
        draft.result = {"kind": "command", "command": what.command, "command_id": what.command_id}
        refusal = self._refusal(what) or self._too_much(what)
        if refusal is not None:
            draft.result["refused"] = refusal
            self._change(what, refusal)
            return
        self.emit(["command", _own_id(what)])
        if what.time_ms <= self.now_ms + self.rules.skew_ms:
            self._advance(what.time_ms - self.rules.lateness_ms)
        if isinstance(what, UpsertAccount):
            self._change(what, self._upsert_account(what))
        elif isinstance(what, UpsertCampaign):
            self._change(what, self._upsert(what))
        elif isinstance(what, MoneyCommand):
            if what.campaign_id is None:
                self._account_money(what)
            else:
                self._money(what, what.campaign_id)
        else:
            self._status_command(what)
            self._change(what, None)

    def _refusal(self, what: Command) -> str | None:
        if partition_of(what.account_id.encode(), self.rules.partitions) != self.partition:
            return "misrouted"
        if _own_id(what) in self.commands:
            return "duplicate"
        if isinstance(what, UpsertAccount):
            return self._account_refusal(what)
        if isinstance(what, UpsertCampaign):
            return self._definition_refusal(what)
        if what.campaign_id is None:
            fund = self.accounts.get(what.account_id)
            budgeted = fund is not None and fund.account.budget_micros is not None
            return None if budgeted else "no_account_budget"
        known = self.campaigns.get(what.campaign_id)
        return "unknown_campaign" if known is None else _closed_to(known, what.account_id)

    def _definition_refusal(self, what: UpsertCampaign) -> str | None:
        campaign = what.campaign
        fund = self.accounts.get(what.account_id)
        if fund is not None and fund.governs and campaign.currency != fund.account.currency:
            return "account_currency"
        if 0 < campaign.price() < campaign.least_price():
            return "price_below_minimum"
        known = self.campaigns.get(campaign.campaign_id)
        if known is None:
            return None
        closed = _closed_to(known, what.account_id)
        if closed is not None:
            return closed
        if campaign.currency != known.campaign.currency:
            return "other_currency"
        by_day = campaign.daily_budget_micros is not None or self._days_of(what.account_id)
        # Money is booked by day with a daily budget and as a whole without one.
        return None if by_day == known.by_day else "daily_budget_added_or_removed"

    def _too_much(self, what: Command) -> str | None:
        """Refuses what would bring an account's money, or that of its campaigns together, above what can be said: their
        sums are published and stored."""
        added = 0
        fund = self.accounts.get(what.account_id)
        of_account = isinstance(what, UpsertAccount)
        if isinstance(what, UpsertAccount):
            added = (what.account.budget_micros or 0) - (0 if fund is None else fund.budget)
        elif isinstance(what, UpsertCampaign):
            known = self.campaigns.get(what.campaign.campaign_id)
            added = what.campaign.budget_micros - (0 if known is None else known.budget)
        elif isinstance(what, MoneyCommand) and what.command != "decrease":
            added = what.amount_micros
            of_account = what.campaign_id is None
        if added <= 0:
            return None
        if of_account:
            had = 0 if fund is None else fund.topped_up
        else:
            had = sum(known.topped_up for known in self.campaigns_of(what.account_id))
        return "too_much_money" if had + added > MOST_MICROS else None

    def _account_refusal(self, what: UpsertAccount) -> str | None:
        account = what.account
        if account.account_id != what.account_id:
            return "other_account"
        fund = self.accounts.get(what.account_id)
        campaigns = self.campaigns_of(what.account_id)
        had = None if fund is None else fund.account.budget_micros
        if had is not None and account.budget_micros is None:
            return "account_budget_removed"
        if account.budget_micros is not None or account.daily_budget_micros is not None:
            if fund is not None and fund.governs and fund.account.currency != account.currency:
                return "other_currency"
            others = [known for known in campaigns if "archived" not in known.reasons]
            if any(known.campaign.currency != account.currency for known in others):
                return "campaign_currency"
        by_day = account.daily_budget_micros is not None
        if any(
            known.by_day != (by_day or known.campaign.daily_budget_micros is not None) for known in campaigns
        ):
            return "daily_budget_added_or_removed"
        leased = sum(known.topped_up - known.unleased for known in campaigns)
        if had is None and account.budget_micros is not None and account.budget_micros < leased:
            return "too_little_unleased"
        return None

    def _days_of(self, account_id: str) -> bool:
        """Whether an account has a daily budget, so that all its campaigns' money is booked by day."""
        fund = self.accounts.get(account_id)
        return fund is not None and fund.account.daily_budget_micros is not None

    def _change(self, what: Command, refusal: str | None) -> None:
        campaign_id = ""
        if isinstance(what, UpsertCampaign):
            campaign_id = what.campaign.campaign_id
        elif not isinstance(what, UpsertAccount):
            campaign_id = what.campaign_id or ""
        self._change_of(what.account_id, campaign_id, what.command_id, what.command, refusal)

    def _upsert_account(self, what: UpsertAccount) -> str | None:
        account = what.account
        self.emit(["account", account_data(account)])
        fund = self.accounts[what.account_id]
        for known in self.campaigns_of(what.account_id):
            if known.time_zone != account.time_zone:
                self._define(known.campaign.campaign_id, known.data, account)
        if account.budget_micros is None:
            self._touch_account(fund, topped_up=account.daily_budget_micros is not None)
            return None
        moved = account.budget_micros - fund.budget
        accepted = max(moved, -fund.total_room())
        if accepted:
            self.emit(["account_money", what.account_id, accepted])
        self.emit(["account_budget", what.account_id, fund.budget + accepted])
        self._touch_account(fund, topped_up=True)
        return None if accepted == moved else "too_little_unleased"

    def _account_money(self, what: MoneyCommand) -> None:
        account_id = what.account_id
        fund = self.accounts[account_id]
        if what.command != "decrease":
            self.emit(["account_money", account_id, what.amount_micros])
            self._touch_account(fund, topped_up=True)
            self._change(what, None)
            return
        taken = min(what.amount_micros, fund.total_room())
        if taken:
            self.emit(["account_money", account_id, -taken])
        self._touch_account(fund, topped_up=False)
        left = what.amount_micros - taken
        if left and (fund.recall is not None or self._recall_account(fund, self.campaigns_of(account_id))):
            self.emit(["account_decrease", account_id, what.command_id, what.command, left])
            return
        self._change(what, "too_little_unleased" if left else None)

    def _touch_account(self, fund: AccountFund, *, topped_up: bool) -> None:
        for known in self.campaigns_of(fund.account.account_id):
            self._touched[known.campaign.campaign_id] = None
            if topped_up:
                self._leave_exhausted(known, topped_up=True)

    def _define(self, campaign_id: str, data: dict[str, Any], account: Account | None) -> None:
        time_zone = _UTC if account is None else account.time_zone
        by_day = account is not None and account.daily_budget_micros is not None
        self.emit(["define", data, time_zone, *([True] if by_day else [])])
        item = {"by_day": True} if by_day else {}
        self._tell_all("define", campaign_id, campaign=data, time_zone=time_zone, **item)

    def _upsert(self, what: UpsertCampaign) -> str | None:
        definition = what.campaign
        campaign_id = definition.campaign_id
        before = self.campaigns.get(campaign_id)
        fund = self.accounts.get(what.account_id)
        self._define(campaign_id, campaign_data(definition), None if fund is None else fund.account)
        known = self.campaigns[campaign_id]
        moved = definition.budget_micros - known.budget
        # A lower budget takes back what is unleased now; the rest is refused, and said so.
        accepted = max(moved, -known.unleased)
        if accepted:
            self.emit(["money", campaign_id, accepted])
        self.emit(["budget", campaign_id, known.budget + accepted])
        self._touched[campaign_id] = None
        if before is not None:
            self._leave_exhausted(known, topped_up=True)
        return None if accepted == moved else "too_little_unleased"

    def _money(self, what: MoneyCommand, campaign_id: str) -> None:
        known = self.campaigns[campaign_id]
        self._touched[campaign_id] = None
        if what.command != "decrease":
            self.emit(["money", campaign_id, what.amount_micros])
            self._leave_exhausted(known, topped_up=True)
            self._change(what, None)
            return
        taken = min(what.amount_micros, known.unleased)
        if taken:
            self.emit(["money", campaign_id, -taken])
        left = what.amount_micros - taken
        if left and known.holders():
            self.emit(["decrease", campaign_id, what.command_id, what.command, left, taken])
            if known.round is None:
                self._recall(known)
            return
        self._change(what, "too_little_unleased" if left else None)

    def _status_command(self, what: StatusCommand) -> None:
        known = self.campaigns[what.campaign_id]
        reasons = set(known.reasons)
        if what.command == "pause":
            reasons.add("manual")
        elif what.command == "archive":
            reasons.add("archived")
        else:
            reasons.discard("manual")
        self._set_reasons(known, reasons)
        self._touched[what.campaign_id] = None

    # ------------------------------------------------------------------ reports

    def _report(self, draft: Draft, message: dict[str, Any], offset: int) -> None:
        if not self._taken("report", draft, message, offset):
            return
        source, payload = message["source"], message["payload"]
        self._advance(payload["watermark_ms"])
        prompt = payload.get("prompt", {})
        if prompt != self.prompt.get(source, {}):
            self.emit(["prompt", source, prompt])
        for item in payload["items"]:
            campaign_id = item["campaign_id"]
            known = self.campaigns.get(campaign_id)
            if known is None:
                draft.result.setdefault("unaccounted", []).append([campaign_id])
                continue
            self._touched[campaign_id] = None
            self._take_item(draft, known, source, item)

    def _take_item(self, draft: Draft, known: TreasuryCampaign, source: str, item: dict[str, Any]) -> None:
        """What a shard reports of one campaign."""
        campaign_id = known.campaign.campaign_id
        for day, amount in item.get("returned", ()):
            self._take_back(draft, known, source, day, amount)
        for row in item.get("books", ()):
            if 0 < row[0] <= known.closed_day:
                continue  # It was settled, so the row says what is known.
            self.emit(["report", campaign_id, source, row])
        for ask in item.get("asks", ()):
            if "owed" not in ask and known.paused_on(ask["day"]):
                continue
            owed = [ask["owed"]] if "owed" in ask else []
            self.emit(["ask", campaign_id, source, ask["day"], ask["level"], ask["empty"], *owed])
        for day in item.get("risk", ()):
            if day > known.risked_day:
                self.emit(["risked", campaign_id, day])
                self._tell(source, "risk", campaign_id, day=day)
        recall = known.round
        if recall is not None and item.get("round") == recall.number and source in recall.waiting:
            self.emit(["replied", campaign_id, source])

    def _take_back(self, draft: Draft, known: TreasuryCampaign, shard: str, day: int, amount: int) -> None:
        """Takes money that comes back. More than was leased comes only where one of the two ledgers lost its tail and
        a person accepted that: what nobody remembers to have leased is not money, and is said so."""
        campaign_id = known.campaign.campaign_id
        leased = min(amount, known.leased.get(shard, {}).get(day, 0))
        if leased < amount:
            draft.result.setdefault("unaccounted", []).append([campaign_id, day, amount - leased])
        if leased:
            self.emit(["returned", campaign_id, shard, day, leased])


def _closed_to(known: TreasuryCampaign, account_id: str) -> str | None:
    """Why an account may not command a campaign at all, or None."""
    if known.campaign.account_id != account_id:
        return "other_account"
    return "archived" if "archived" in known.reasons else None


def _own_id(what: Command) -> str:
    """A command's id among all accounts'. Which accounts share a treasury must not matter to them."""
    return f"{len(what.account_id)}|{what.account_id}|{what.command_id}"
