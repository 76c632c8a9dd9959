"""The treasury: holds the money of its accounts' campaigns, leases it to user shards, and says when a campaign
pauses and resumes.

No shard spends money that another could spend too: what is leased to one is nobody else's. The treasury never
guesses what a shard did; it knows what it granted, what came back, and what the shard last reported.
"""

from __future__ import annotations

from typing import Any

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import MoneyCommand, StatusCommand, UpsertAccount, UpsertCampaign
from adgovernor.contracts.ledger import Draft
from adgovernor.contracts.routing import partition_of
from adgovernor.core import inputs, links
from adgovernor.core.leases import campaign_data
from adgovernor.core.machine import Input, Poison
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
            due = [name for name, known in self.campaigns.items() if self._is_due(known, target)]
            if due:
                self._advance(target)
                self._touched.update(dict.fromkeys(sorted(due)))
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
        target = max(self.watermark_ms, now_ms - self.rules.lateness_ms)
        return any(self._is_due(known, target) for known in self.campaigns.values())

    def decide(self, event: Input, *, unknown: bool = False, assumed: dict[str, Any] | None = None) -> Draft:
        """See `machine.Machine.decide`."""
        draft = self._begin({}, event.topic, event.offset)
        what = event.event
        if isinstance(what, Poison):
            draft.result = {"kind": "poison", "reason": what.reason}
            draft.out.append(
                [topics.dlq(event.topic), None, {"reason": what.reason, "message": what.message}]
            )
        elif isinstance(what, UpsertAccount | UpsertCampaign | MoneyCommand | StatusCommand):
            self._command(draft, what)
        else:
            assert isinstance(what, dict)
            self._report(draft, what)
        self._settle()
        self._flush()
        return draft

    # ------------------------------------------------------------------ commands

    def _command(
        self, draft: Draft, what: UpsertAccount | UpsertCampaign | MoneyCommand | StatusCommand
    ) -> None:
        draft.result = {"kind": "command", "command": what.command, "command_id": what.command_id}
        refusal = self._refusal(what)
        if refusal is not None:
            draft.result["refused"] = refusal
            self._change(what, refusal)
            return
        self.emit(["command", _own_id(what)])
        if what.time_ms <= self.now_ms + self.rules.skew_ms:
            self._advance(what.time_ms - self.rules.lateness_ms)
        if isinstance(what, UpsertAccount):
            self._upsert_account(what)
            self._change(what, None)
        elif isinstance(what, UpsertCampaign):
            self._change(what, self._upsert(what))
        elif isinstance(what, MoneyCommand):
            self._money(what)
        else:
            self._status_command(what)
            self._change(what, None)

    def _refusal(self, what: UpsertAccount | UpsertCampaign | MoneyCommand | StatusCommand) -> str | None:
        if partition_of(what.account_id.encode(), self.rules.partitions) != self.partition:
            return "misrouted"
        if _own_id(what) in self.commands:
            return "duplicate"
        if isinstance(what, UpsertAccount):
            return None if what.account.account_id == what.account_id else "other_account"
        campaign_id = what.campaign.campaign_id if isinstance(what, UpsertCampaign) else what.campaign_id
        known = self.campaigns.get(campaign_id)
        if known is None:
            return None if isinstance(what, UpsertCampaign) else "unknown_campaign"
        if known.campaign.account_id != what.account_id:
            return "other_account"
        if "archived" in known.reasons:
            return "archived"
        if isinstance(what, UpsertCampaign):
            if what.campaign.currency != known.campaign.currency:
                return "other_currency"
            if (what.campaign.daily_budget_micros is None) != (known.campaign.daily_budget_micros is None):
                # Money is booked by day with a daily budget and as a whole without one.
                return "daily_budget_added_or_removed"
        return None

    def _change(
        self,
        what: UpsertAccount | UpsertCampaign | MoneyCommand | StatusCommand,
        refusal: str | None,
    ) -> None:
        campaign_id = ""
        if isinstance(what, UpsertCampaign):
            campaign_id = what.campaign.campaign_id
        elif not isinstance(what, UpsertAccount):
            campaign_id = what.campaign_id
        self._change_of(what.account_id, campaign_id, what.command_id, what.command, refusal)

    def _upsert_account(self, what: UpsertAccount) -> None:
        time_zone = what.account.time_zone
        self.emit(["account", what.account_id, time_zone])
        for campaign_id in sorted(self.campaigns):
            known = self.campaigns[campaign_id]
            if known.campaign.account_id == what.account_id and known.time_zone != time_zone:
                self._define(campaign_id, known.data, time_zone)

    def _define(self, campaign_id: str, data: dict[str, Any], time_zone: str) -> None:
        self.emit(["define", data, time_zone])
        self._tell_all("define", campaign_id, campaign=data, time_zone=time_zone)

    def _upsert(self, what: UpsertCampaign) -> str | None:
        definition = what.campaign
        campaign_id = definition.campaign_id
        before = self.campaigns.get(campaign_id)
        self._define(campaign_id, campaign_data(definition), self.accounts.get(what.account_id, _UTC))
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

    def _money(self, what: MoneyCommand) -> None:
        known = self.campaigns[what.campaign_id]
        self._touched[what.campaign_id] = None
        if what.command != "decrease":
            self.emit(["money", what.campaign_id, what.amount_micros])
            self._leave_exhausted(known, topped_up=True)
            self._change(what, None)
            return
        taken = min(what.amount_micros, known.unleased)
        if taken:
            self.emit(["money", what.campaign_id, -taken])
        left = what.amount_micros - taken
        if left and known.holders():
            self.emit(["decrease", what.campaign_id, what.command_id, what.command, left, taken])
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

    def _report(self, draft: Draft, message: dict[str, Any]) -> None:
        what = links.verdict(self.links, self.shard, message)
        source, number = message["source"], message["number"]
        if what != "take":
            draft.result = {"kind": "report_" + what, "source": source, "number": number}
            return
        draft.result = {"kind": "report", "source": source, "number": number}
        self.emit(["took", source, number, message["hash"]])
        payload = message["payload"]
        self._advance(payload["watermark_ms"])
        for item in payload["items"]:
            campaign_id = item["campaign_id"]
            known = self.campaigns[campaign_id]
            self._touched[campaign_id] = None
            for day, amount in item.get("returned", ()):
                self.emit(["returned", campaign_id, source, day, amount])
            for row in item.get("books", ()):
                self.emit(["report", campaign_id, source, row])
            ask = item.get("ask")
            if ask is not None and not known.reasons:
                self.emit(["ask", campaign_id, source, ask["day"], ask["level"], ask["empty"]])
            if (
                known.round is not None
                and item.get("round") == known.round.number
                and source in known.round.waiting
            ):
                self.emit(["replied", campaign_id, source])


def _own_id(what: UpsertAccount | UpsertCampaign | MoneyCommand | StatusCommand) -> str:
    """A command's id among all accounts'. Which accounts share a treasury must not matter to them."""
    return f"{len(what.account_id)}|{what.account_id}|{what.command_id}"
