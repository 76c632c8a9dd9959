"""The state of a treasury, and what each delta does to it. Nothing else changes it.

Deltas (first word → what follows). Amounts are micros, times ms.

    rules      {parameters}                       the rules in force from here on
    wm         watermark
    took       source, number, hash               a side message was taken
    command    account's command id               never again
    account    {account}
    account_budget     account, the budget as accepted
    account_money      account, amount            topped up by so much more (or less)
    account_recall     account, [campaigns]       a recall began in all of these
    account_recalled   account
    account_favoured   account, patience, used
    account_put_off    account, shard|campaign
    account_decrease   account, command id, command, left    waits for the recall under way
    account_decreased  account                    none waits any more
    define     {campaign}, time zone(, whether its account has a daily budget)
    budget     campaign, the budget as accepted
    money      campaign, amount                   topped up and unleased by so much more (or less)
    grant      campaign, shard, day, amount, asked     unleased → leased
    returned   campaign, shard, day, amount       leased → unleased
    report     campaign, shard, [day, lease, reserved, spent]
    ask        campaign, shard, day, level, empty(, what of it is owed)
    denied     campaign, shard, day               the ask is answered
    round      campaign, [shards]                 a recall began
    replied    campaign, shard
    round_end  campaign
    favoured   campaign, patience, used           a recall brought something back; see `TreasuryCampaign.patience`
    put_off    campaign, shard
    decrease   campaign, command id, command, left, taken   waits for the recall under way
    decreased  campaign                           none waits any more
    status     campaign, episode, [reasons], day  asks are dropped when it pauses or resumes; a recall goes on
    threshold  campaign, percent
    closed     campaign, day                      settled long ago: its amounts go into a sum
    opened     campaign, day                      first leases of the day were given
    paced      campaign, day, moment, amount      the day's plan (0: the flight's) goes on from so much released
    prompt     shard, how often the events that are paid for come in time (see `lateness.Lateness.said`)
    risked     campaign, day                      one price of the day is sold again though its ad may be shown late
    ticked     clock
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from typing import Any

from adgovernor.contracts import zones
from adgovernor.contracts.ledger import Draft, ReadRecord
from adgovernor.core.accounts import Round, TreasuryCampaign
from adgovernor.core.agenda import Agenda
from adgovernor.core.folded import FoldedState
from adgovernor.core.funds import AccountFund, account_of
from adgovernor.core.history import NEVER
from adgovernor.core.leases import DAY_WORDS, campaign_of
from adgovernor.core.machine import Fields, Input


class TreasuryState(FoldedState):
    """Accounts, campaigns, commands seen, links."""

    def __init__(self, shard: str) -> None:
        super().__init__(shard)
        self.last_tick_ms = 0
        self.accounts: dict[str, AccountFund] = {}
        self.campaigns: dict[str, TreasuryCampaign] = {}
        self._agenda = Agenda(self._due_ms)
        """Campaigns by when time alone changes something about them."""
        self._members: dict[str, list[str]] = {}
        """Account → its campaigns, by id."""
        self.commands: set[str] = set()
        self.prompt: dict[str, dict[str, list[int]]] = {}
        """Shard → event that is paid for (see `leases.PAYS_ON`) → how often it comes in time."""
        self._ops |= {
            "command": self._on_command,
            "account": self._on_account,
            "account_budget": self._on_account_budget,
            "account_money": self._on_account_money,
            "account_recall": self._on_account_recall,
            "account_recalled": self._on_account_recalled,
            "account_favoured": self._on_account_favoured,
            "account_put_off": self._on_account_put_off,
            "account_decrease": self._on_account_decrease,
            "account_decreased": self._on_account_decreased,
            "define": self._on_define,
            "budget": self._on_budget,
            "money": self._on_money,
            "grant": self._on_grant,
            "returned": self._on_returned,
            "report": self._on_report,
            "ask": self._on_ask,
            "denied": self._on_denied,
            "round": self._on_round,
            "replied": self._on_replied,
            "round_end": self._on_round_end,
            "favoured": self._on_favoured,
            "put_off": self._on_put_off,
            "decrease": self._on_decrease,
            "decreased": self._on_decreased,
            "status": self._on_status,
            "threshold": self._on_threshold,
            "opened": self._on_opened,
            "closed": self._on_closed,
            "paced": self._on_paced,
            "prompt": self._on_prompt,
            "punctual": self._on_punctual,
            "risked": self._on_risked,
            "ticked": self._on_ticked,
        }

    # ------------------------------------------------------------------ folding

    def fold(self, draft: Draft, routing: str | None, session: str | None, ids: object = None) -> None:
        """See `machine.Machine.fold`. A treasury knows no person, so routing and session say nothing to it."""
        self._fold(draft)

    def _campaign(self, campaign: str) -> TreasuryCampaign:
        self._mark("campaigns", campaign)
        self._agenda.moved.add(campaign)
        return self.campaigns[campaign]

    def _on_rules(self, parameters: dict[str, Any]) -> None:
        super()._on_rules(parameters)
        self._agenda.moved.update(self.campaigns)  # How early a day opens may have changed with the rules.

    def _on_command(self, command_id: str) -> None:
        self.commands.add(command_id)
        self._mark("commands", command_id)

    def _on_account(self, account: dict[str, Any]) -> None:
        definition = account_of(account)
        account_id = definition.account_id
        known = self.accounts.get(account_id)
        if known is not None:
            known.define(definition)
        else:
            known = self.accounts[account_id] = AccountFund(definition)
            for campaign in self.campaigns_of(account_id):
                campaign.account = known
                for day, amount in campaign.leased_by_day.items():
                    known.lease(day, amount)
        self._mark("accounts", account_id)

    def campaigns_of(self, account_id: str) -> list[TreasuryCampaign]:
        """An account's campaigns, by id."""
        return [self.campaigns[name] for name in self._members.get(account_id, ())]

    def _add(self, known: TreasuryCampaign) -> None:
        campaign = known.campaign
        self.campaigns[campaign.campaign_id] = known
        insort(self._members.setdefault(campaign.account_id, []), campaign.campaign_id)

    def _account(self, account_id: str) -> AccountFund:
        self._mark("accounts", account_id)
        return self.accounts[account_id]

    def _on_account_budget(self, account_id: str, budget: int) -> None:
        self._account(account_id).budget = budget

    def _on_account_money(self, account_id: str, amount: int) -> None:
        fund = self._account(account_id)
        fund.topped_up += amount
        assert fund.topped_up >= fund.leased, "money became negative"

    def _on_account_recall(self, account_id: str, campaigns: list[str]) -> None:
        fund = self._account(account_id)
        fund.recall = list(campaigns)
        # It takes part in recalls that were under way: a grant after such a one began is not covered by its replies.
        rounds = [self.campaigns[name].round for name in campaigns]
        fund.dirty = any(known is not None and known.dirty for known in rounds)

    def _on_account_recalled(self, account_id: str) -> None:
        self._account(account_id).recall = None

    def _on_account_favoured(self, account_id: str, patience: int, used_micros: int) -> None:
        fund = self._account(account_id)
        fund.patience, fund.used_micros, fund.put_off = patience, used_micros, {}

    def _on_account_put_off(self, account_id: str, waiter: str) -> None:
        fund = self._account(account_id)
        fund.put_off[waiter] = fund.put_off.get(waiter, 0) + 1

    def _on_account_decrease(self, account_id: str, command_id: str, command: str, left: int) -> None:
        self._account(account_id).decreases.append([command_id, command, left])

    def _on_account_decreased(self, account_id: str) -> None:
        self._account(account_id).decreases = []

    def _on_define(self, campaign: dict[str, Any], time_zone: str, by_day: bool = False) -> None:
        definition = campaign_of(campaign)
        known = self.campaigns.get(definition.campaign_id)
        if known is None:
            account = self.accounts.get(definition.account_id)
            known = TreasuryCampaign(definition, time_zone, account, by_day)
            self._add(known)
        else:
            known.define(definition, time_zone, by_day)
        self._mark("campaigns", definition.campaign_id)
        self._agenda.moved.add(definition.campaign_id)

    def _on_budget(self, campaign: str, budget: int) -> None:
        self._campaign(campaign).budget = budget

    def _on_money(self, campaign: str, amount: int) -> None:
        known = self._campaign(campaign)
        known.topped_up += amount
        known.unleased += amount
        assert min(known.topped_up, known.unleased) >= 0, "money became negative"

    def _on_grant(self, campaign: str, shard: str, day: int, amount: int, asked: bool) -> None:
        known = self._campaign(campaign)
        known.lease(shard, day, amount)
        if asked:
            known.asks.pop((shard, day), None)
        if known.round is not None:
            known.round.dirty = True
        account = known.account
        if account is not None and account.recall is not None and not account.dirty:
            self._account(account.account.account_id).dirty = True

    def _on_returned(self, campaign: str, shard: str, day: int, amount: int) -> None:
        self._campaign(campaign).lease(shard, day, -amount)

    def _on_report(self, campaign: str, shard: str, row: list[int]) -> None:
        self._campaign(campaign).report(shard, row)

    def _on_ask(self, campaign: str, shard: str, day: int, level: int, empty: bool, owed: int = 0) -> None:
        self._campaign(campaign).asks[(shard, day)] = (level, empty, owed)

    def _on_denied(self, campaign: str, shard: str, day: int) -> None:
        self._campaign(campaign).asks.pop((shard, day), None)

    def _on_round(self, campaign: str, shards: list[str]) -> None:
        known = self._campaign(campaign)
        known.rounds += 1
        known.round = Round(known.rounds, list(shards))

    def _on_replied(self, campaign: str, shard: str) -> None:
        known = self._campaign(campaign)
        assert known.round is not None
        known.round.waiting.remove(shard)

    def _on_round_end(self, campaign: str) -> None:
        self._campaign(campaign).round = None

    def _on_favoured(self, campaign: str, patience: int, used_micros: int) -> None:
        known = self._campaign(campaign)
        known.patience = patience
        known.used_micros = used_micros
        known.put_off = {}

    def _on_put_off(self, campaign: str, shard: str) -> None:
        known = self._campaign(campaign)
        known.put_off[shard] = known.put_off.get(shard, 0) + 1

    def _on_decrease(self, campaign: str, command_id: str, command: str, left: int, taken: int) -> None:
        self._campaign(campaign).decreases.append([command_id, command, left, taken])

    def _on_decreased(self, campaign: str) -> None:
        self._campaign(campaign).decreases = []

    def _on_status(self, campaign: str, episode: int, reasons: list[str], day: int) -> None:
        known = self._campaign(campaign)
        if bool(known.reasons) != bool(reasons):
            known.asks.clear()
        if episode != known.episode:
            known.thresholds = []
        known.episode = episode
        known.reasons = tuple(reasons)
        known.exhausted_day = day

    def _on_threshold(self, campaign: str, percent: int) -> None:
        self._campaign(campaign).thresholds.append(percent)

    def _on_opened(self, campaign: str, day: int) -> None:
        known = self._campaign(campaign)
        known.opened_day = day
        known.count_day(day)

    def _on_closed(self, campaign: str, day: int) -> None:
        self._campaign(campaign).close_day(day)

    def _on_paced(self, campaign: str, day: int, watermark_ms: int, amount: int) -> None:
        self._campaign(campaign).begin_plan_anew(day, (watermark_ms, amount))

    def _on_prompt(self, shard: str, said: dict[str, list[int]]) -> None:
        self.prompt[shard] = said
        self.touch_core()

    def _on_punctual(self, shard: str, kinds: list[str]) -> None:
        """What ledgers of earlier rules say; the shard's next report says more."""

    def _on_risked(self, campaign: str, day: int) -> None:
        self._campaign(campaign).risked_day = day

    def _on_ticked(self, now_ms: int) -> None:
        self.last_tick_ms = now_ms
        self.touch_core()

    # ------------------------------------------------------------------ what time alone changes

    def _due_ms(self, campaign: str) -> int:
        """From when on (by the watermark) time alone changes something about a campaign."""
        known = self.campaigns[campaign]
        if "archived" in known.reasons:
            return NEVER
        if known.round is None and any(not known.paused_on(day) for _, day in known.asks):
            return 0  # It waits for the next release, which may come at any time.
        due_ms = NEVER
        end_ms = known.campaign.end_ms
        if end_ms is not None and end_ms > 0 and "flight" not in known.reasons:
            due_ms = end_ms
        if not known.by_day:
            return due_ms
        if not DAY_WORDS.isdisjoint(known.reasons):
            due_ms = min(due_ms, zones.day_bounds(known.exhausted_day, known.time_zone)[1])
        if not known.reasons or known.paused_day:
            # The day after those that were opened, and that the pause concerns.
            day = max(known.opened_day, known.paused_day)
            opens_ms = zones.day_bounds(day, known.time_zone)[1] - self.rules.opens_early_ms() if day else 0
            due_ms = min(due_ms, opens_ms)
        return due_ms

    # ------------------------------------------------------------------ the store

    def resident_buckets(self) -> tuple[str, ...]:
        """See `machine.Machine.resident_buckets`."""
        return ("core", "accounts", "campaigns", "commands")

    def resident_names(self) -> dict[str, list[str]]:
        """See `machine.Machine.resident_names`."""
        return {
            "core": ["state"],
            "campaigns": list(self.campaigns),
            "accounts": list(self.accounts),
            "commands": list(self.commands),
        }

    def encode(self, changes: Mapping[str, Iterable[str]]) -> Fields:
        """See `machine.Machine.encode`."""
        fields: Fields = {}
        for bucket, names in changes.items():
            if bucket == "campaigns":
                fields[bucket] = {name: self.campaigns[name].encode() for name in names}
            elif bucket == "accounts":
                fields[bucket] = {name: self.accounts[name].encode() for name in names}
            elif bucket == "commands":
                fields[bucket] = dict.fromkeys(names, b"1")
            else:
                fields[bucket] = {"state": self._encode_core()}
        return fields

    def _encode_core(self) -> bytes:
        return self._core_bytes(last_tick_ms=self.last_tick_ms, prompt=self.prompt)

    def restore(self, fields: Mapping[str, Mapping[str, bytes]]) -> None:
        """See `machine.Machine.restore`."""
        core = fields.get("core", {}).get("state")
        if core is not None:
            data = self._restore_core(core)
            self.last_tick_ms = data["last_tick_ms"]
            self.prompt = data.get("prompt", {})
        self.accounts = {
            name: AccountFund.decode(value) for name, value in sorted(fields.get("accounts", {}).items())
        }
        self.campaigns, self._members = {}, {}
        for _, value in sorted(fields.get("campaigns", {}).items()):
            self._add(TreasuryCampaign.decode(value, self.accounts))
        self._agenda.moved = set(self.campaigns)
        self.commands = set(fields.get("commands", {}))

    # A treasury's whole state is always in memory.

    def missing(self, events: Iterable[Input]) -> list[str]:
        """See `machine.Machine.missing`."""
        return []

    def missing_for_fold(self, records: Iterable[ReadRecord]) -> list[str]:
        """See `machine.Machine.missing_for_fold`."""
        return []

    def load(self, state_key: str, value: bytes | None) -> None:
        """See `machine.Machine.load`."""
        raise AssertionError("a treasury has no states to load")

    def unloaded(self) -> list[str]:
        """See `machine.Machine.unloaded`."""
        return []

    def evict(self, keep: int, pinned: set[str]) -> int:
        """See `machine.Machine.evict`."""
        return 0

    def forget(self) -> None:
        """See `machine.Machine.forget`."""
        self.campaigns, self._members = {}, {}
        self._agenda.moved = set()
        self.accounts = {}

    def resident(self) -> int:
        """See `machine.Machine.resident`."""
        return 0
