"""The treasury: holds the money of its accounts' campaigns, leases it to user shards, and says when a campaign
pauses and resumes.

No shard spends money that another could spend too: what is leased to one is nobody else's. The treasury never
guesses what a shard did; it knows what it granted, what came back, and what the shard last reported.
"""

from __future__ import annotations

from typing import Any

from adgovernor.contracts import topics, zones
from adgovernor.contracts.campaigns import MoneyCommand, StatusCommand, UpsertAccount, UpsertCampaign
from adgovernor.contracts.ledger import Draft
from adgovernor.contracts.routing import partition_of
from adgovernor.core import inputs, links
from adgovernor.core.accounts import TreasuryCampaign
from adgovernor.core.leases import campaign_data
from adgovernor.core.machine import Input, Poison
from adgovernor.core.rules import Rules
from adgovernor.core.treasury_state import TreasuryState

_UTC = "UTC"


class Treasury(TreasuryState):
    """The machine (see `machine.Machine`) of one treasury shard."""

    def __init__(self, shard: str, rules: Rules) -> None:
        super().__init__(shard)
        self.configured = rules
        self._mail: dict[str, list[dict[str, Any]]] = {}
        self._touched: dict[str, None] = {}
        self._cause = ("", 0)

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

    # ------------------------------------------------------------------ shared steps

    def _begin(self, result: dict[str, Any], topic: str, offset: int) -> Draft:
        self.index += 1
        self._cause = (topic, offset)
        self._draft = draft = Draft(result)
        return draft

    def emit(self, delta: list[Any]) -> None:
        """Adds a delta to the record, and folds it."""
        self._draft.deltas.append(delta)
        self.apply(delta)

    def _advance(self, watermark_ms: int) -> None:
        if watermark_ms > self.watermark_ms:
            self.emit(["wm", watermark_ms])

    def _publish(self, topic: str, known: TreasuryCampaign, **body: Any) -> None:
        account = known.campaign.account_id
        self._draft.out.append(
            [
                topic,
                account,
                {
                    "account_id": account,
                    "campaign_id": known.campaign.campaign_id,
                    "time_ms": self.watermark_ms,
                    **body,
                },
            ]
        )

    def _tell(self, shard: str, what: str, campaign_id: str, **item: Any) -> None:
        self._mail.setdefault(shard, []).append({"do": what, "campaign_id": campaign_id, **item})

    def _tell_all(self, what: str, campaign_id: str, **item: Any) -> None:
        for shard in self._user_shards():
            self._tell(shard, what, campaign_id, **item)

    def _user_shards(self) -> list[str]:
        return [topics.user_shard(partition) for partition in range(self.rules.partitions)]

    def _flush(self) -> None:
        for shard in sorted(self._mail, key=topics.partition_of_shard):
            payload = {"items": self._mail[shard]}
            self._draft.send.append(links.next_message(self.links, shard, payload))
            self._mark("core", "state")
        self._mail = {}

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

    def _change_of(
        self, account_id: str, campaign_id: str, command_id: str, command: str, refusal: str | None
    ) -> None:
        known = self.campaigns.get(campaign_id)
        body: dict[str, Any] = {
            "account_id": account_id,
            "campaign_id": campaign_id,
            "time_ms": self.watermark_ms,
            "command_id": command_id,
            "command": command,
            "accepted": refusal is None,
            "topped_up_micros": 0 if known is None else known.topped_up,
        }
        if refusal is not None:
            body["reason"] = refusal
        self._draft.out.append([topics.CAMPAIGN_CHANGES, account_id, body])

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

    # ------------------------------------------------------------------ settling what was touched

    def _settle(self) -> None:
        """Brings every touched campaign to rest: flight and day, asks, recalls, exhaustion, thresholds."""
        for campaign_id in self._touched:
            known = self.campaigns[campaign_id]
            self._calendar(known)
            if known.round is not None and not known.round.waiting:
                self._end_round(known)
            self._serve(known)
            self._look_for_exhaustion(known)
            self._leave_exhausted(known, topped_up=False)
            self._pass_thresholds(known)
        self._touched = {}

    def _is_due(self, known: TreasuryCampaign, watermark_ms: int) -> bool:
        if "archived" in known.reasons:
            return False
        end_ms = known.campaign.end_ms
        if end_ms is not None and watermark_ms >= end_ms > 0 and "flight" not in known.reasons:
            return True
        if known.asks and known.round is None:
            return True
        if known.campaign.daily_budget_micros is None:
            return False
        if (
            "day" in known.reasons
            and zones.day_bounds(known.exhausted_day, known.time_zone)[1] <= watermark_ms
        ):
            return True
        return not known.reasons and known.opened_day < known.day_of(watermark_ms + self.rules.early_lease_ms)

    def _calendar(self, known: TreasuryCampaign) -> None:
        """What time alone changes: the flight's end, a new day."""
        reasons = set(known.reasons)
        end_ms = known.campaign.end_ms
        if end_ms is not None and self.watermark_ms >= end_ms:
            reasons.add("flight")
        else:
            reasons.discard("flight")
        if (
            "day" in reasons
            and zones.day_bounds(known.exhausted_day, known.time_zone)[1] <= self.watermark_ms
        ):
            reasons.discard("day")
        self._set_reasons(known, reasons)
        if not known.reasons:
            self._open_day(known)

    def _open_day(self, known: TreasuryCampaign) -> None:
        """Gives every shard a first lease of the whole budget, or of a day that is near or has begun."""
        if known.campaign.daily_budget_micros is None:
            if known.opened_day == 0:
                self._first_leases(known, 0)
                self.emit(["opened", known.campaign.campaign_id, 1])
            return
        if self.watermark_ms == 0:
            return  # No event has told the time yet: there is no day to open.
        for at_ms in (self.watermark_ms, self.watermark_ms + self.rules.early_lease_ms):
            day = known.day_of(at_ms)
            if day > known.opened_day:
                self._first_leases(known, day)
                self.emit(["opened", known.campaign.campaign_id, day])

    def _first_leases(self, known: TreasuryCampaign, day: int) -> None:
        shards = self._user_shards()
        available = known.available(day, self.watermark_ms)
        unit = known.one_price
        amount = known.lease_size(available, self.rules.lease_divisor * len(shards))
        if amount < unit and available >= unit * len(shards):
            amount = unit
        if amount > 0 and amount >= unit:
            for shard in shards:
                self._grant(known, shard, day, amount, asked=False)

    def _grant(self, known: TreasuryCampaign, shard: str, day: int, amount: int, *, asked: bool) -> None:
        campaign_id = known.campaign.campaign_id
        self.emit(["grant", campaign_id, shard, day, amount, asked])
        self._tell(shard, "grant", campaign_id, day=day, amount_micros=amount, asked=asked)

    def _serve(self, known: TreasuryCampaign) -> None:
        """Answers asks, first come first: grant, deny, recall, or wait for the next release."""
        if known.reasons:
            return
        for (shard, day), (level, empty) in list(known.asks.items()):
            if (shard, day) not in known.asks or self._try_grant(known, shard, day, level):
                continue
            if day and day > known.day_of(self.watermark_ms + self.rules.early_lease_ms):
                continue  # The day is not open yet: a tick will look again.
            room = known.room(day)
            lack = max(1, level - known.shard_idle(shard, day))
            if not empty or (lack > room >= known.one_price):
                self._deny(known, shard, day)
            elif room < known.one_price and known.round is None:
                if known.holders():
                    self._recall(known)
                else:
                    self._conclude(known, clean=True)
                    return

    def _try_grant(self, known: TreasuryCampaign, shard: str, day: int, level: int) -> bool:
        if day and day > known.day_of(self.watermark_ms + self.rules.early_lease_ms):
            return False
        available = known.available(day, self.watermark_ms)
        lack = max(1, level - known.shard_idle(shard, day))
        if lack > available:
            return False
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
        if not known.reasons:
            self._conclude(known, clean=clean)

    def _conclude(self, known: TreasuryCampaign, *, clean: bool) -> None:
        """After a recall: serve who asked from what came back; where less than one price is left, exhausted."""
        for (shard, day), (level, _) in list(known.asks.items()):
            if self._try_grant(known, shard, day, level):
                clean = False
                continue
            if day and day > known.day_of(self.watermark_ms + self.rules.early_lease_ms):
                continue
            one = known.one_price
            if known.room(day) >= one and known.available(day, self.watermark_ms) < one:
                continue  # Pacing holds it back: the ask waits for the next release.
            if clean and known.unleased + known.reported_idle() < one:
                self._exhaust(known, "total", 0)
                return
            idle = known.idle_by_day.get(day, 0)
            if clean and day == known.day_of(self.watermark_ms) != 0 and known.room(day) + idle < one:
                self._exhaust(known, "day", day)
                return
            self._deny(known, shard, day)

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
        if day and daily is not None and daily - known.spent_by_day.get(day, 0) < one:
            self._exhaust(known, "day", day)

    def _exhaust(self, known: TreasuryCampaign, scope: str, day: int) -> None:
        word = "day" if scope == "day" else "exhausted"
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
        self._pass_thresholds(known)
        self._publish(topics.BUDGET_EXHAUSTED, known, **body)
        self._set_reasons(known, {*known.reasons, word}, day)

    def _leave_exhausted(self, known: TreasuryCampaign, *, topped_up: bool) -> None:
        """Money is back: by a command, or because reservations expired. A little of it counts only once nothing
        is outstanding, so that a campaign does not pause and resume for every single price."""
        one = known.one_price
        threshold = max(one * self.rules.partitions, known.topped_up // 100)
        reasons = set(known.reasons)
        if "exhausted" in reasons:
            room = known.unleased
            if room >= one and (topped_up or room >= threshold or known.outstanding == 0):
                reasons.discard("exhausted")
        if "day" in reasons:
            day = known.exhausted_day
            room = known.room(day)
            spent_all = known.leased_by_day.get(day, 0) == known.spent_by_day.get(day, 0)
            if room >= one and (topped_up or room >= threshold or spent_all):
                reasons.discard("day")
        self._set_reasons(known, reasons)

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
        self._tell_all("status", campaign_id, episode=episode, reasons=list(after))
        if was_paused and not paused:
            if known.campaign.daily_budget_micros is None:
                self._first_leases(known, 0)
            else:
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


def _own_id(what: UpsertAccount | UpsertCampaign | MoneyCommand | StatusCommand) -> str:
    """A command's id among all accounts'. Which accounts share a treasury must not matter to them."""
    return f"{len(what.account_id)}|{what.account_id}|{what.command_id}"
