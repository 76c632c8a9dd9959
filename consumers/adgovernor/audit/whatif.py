"""What would have happened: campaigns and events from files, through the machines, without servers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from adgovernor.audit.lines import Line
from adgovernor.contracts import topics
from adgovernor.contracts.base import Contract
from adgovernor.contracts.campaigns import Account, Campaign
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.ledger import Draft
from adgovernor.contracts.misspelt import alike, misspelt
from adgovernor.contracts.money import sayable
from adgovernor.core import inputs
from adgovernor.core.direct import Direct, Event
from adgovernor.core.leases import sums_of
from adgovernor.core.machine import Poison
from adgovernor.core.rules import Rules

EVENT_NAMES = {topics.DECISIONS: "decision"}
"""What an output's ``type`` is where it is not its topic's name."""


@dataclass(slots=True)
class CampaignTotals:
    """What became of one campaign. Amounts are micros of its currency."""

    decisions: int = 0
    """Slots won."""
    impressions: int = 0
    """Slots shown and paid."""
    late: int = 0
    """Of these, shown after the reservation had expired."""
    unfunded_micros: int = 0
    """Shown late and never paid."""


_COMMANDS: Final = ("account", "upsert", "top-up", "credit", "decrease", "pause", "resume", "archive")
_HOLDS: Final = {"account": "account", "upsert": "campaign"}
"""What a command defines is inside of it; else it is the definition itself."""
_DEFINITIONS: Final = ("account", "campaign")
_NAMES: Final = frozenset({"account_id", "campaign_id"})
_OF_ACCOUNTS: Final = frozenset(Account.model_fields)
_OF_CAMPAIGNS: Final = frozenset(Campaign.model_fields) - _OF_ACCOUNTS


def command_of(line: Line) -> dict[str, Any]:
    """A line of a campaigns file as a command: a command itself, a campaign, or an account.

    Raises:
        BadInput: it is none, or what it is cannot be told for sure. A campaign whose id is misspelt looks like an
            account, and would give the account a budget for good; a command that nobody knows would define one anew.
    """
    data = {name: value for name, value in line.data.items() if name != "type"}
    word = line.data.get("type")
    if word in _COMMANDS and _HOLDS.get(word, "account_id") in data:
        data.setdefault("command", word)
    if "command" in data:
        return data
    if "account_id" not in data:
        raise BadInput(
            "no campaign (campaign_id, account_id, currency, budget_micros), no account (account_id) and no command"
        )
    says = data.keys() & (_OF_CAMPAIGNS | _OF_ACCOUNTS) - _NAMES
    if "amount_micros" in data or not (says or word is None or word in _DEFINITIONS):
        told = "command is missing" if word is None else f"command {word!r} is unknown"
        raise BadInput(f"{told}; give one of {', '.join(_COMMANDS)}")
    base: dict[str, Any] = {"command_id": f"apply: {line.place}", "account_id": data["account_id"]}
    if "campaign_id" in data:
        return {**base, "command": "upsert", "campaign": data}
    near = alike("campaign_id", data.keys() - _OF_ACCOUNTS)
    if near is not None or says & _OF_CAMPAIGNS:
        told = f" ({near} stands there)" if near else ""
        raise BadInput(f"campaign_id is missing{told}; accounts have {', '.join(Account.model_fields)} only")
    return {**base, "command": "account", "account": data}


_ENGAGEMENTS: Final = ("impression", "click", "view")
_USER_EVENTS: Final = ("opt-out", "opt-in", "preference", "erasure", "session")


def topic_of(data: dict[str, Any]) -> str:
    """Which topic an event of a mixed file belongs to, by its fields."""
    if "command" in data or "budget_micros" in data or ("account_id" in data and "request_id" not in data):
        return topics.CAMPAIGNS
    if "decision_id" in data or data.get("type") in _ENGAGEMENTS:
        return topics.IMPRESSIONS
    if data.get("type") in _USER_EVENTS:
        return topics.USER_EVENTS
    return topics.AD_REQUESTS


def comes_late(campaigns: Iterable[Line | str], events: Iterable[Line | str]) -> bool:
    """Whether an impression, click or view of a file may come after its reservation has expired. Live that can only be
    guessed from what came before; here it can be seen."""
    rules = Rules()
    lives = [
        life
        for line in campaigns
        if isinstance(line, Line) and isinstance(life := line.data.get("reservation_ms"), int)
    ]
    life_ms = min([rules.reservation_ms, *lives])
    asked: dict[str, int] = {}
    newest_ms = 0
    for line in events:
        time_ms = line.data.get("time_ms") if isinstance(line, Line) else None
        if isinstance(line, str) or not isinstance(time_ms, int):
            continue
        newest_ms = max(newest_ms, time_ms)
        if topic_of(line.data) == topics.AD_REQUESTS:
            asked.setdefault(str(line.data.get("request_id")), time_ms)
        elif (
            newest_ms - rules.lateness_ms >= asked.get(str(line.data.get("decision_id")), newest_ms) + life_ms
        ):
            return True
    return False


def _told(topic: str, value: bytes, poison: Poison) -> str:
    """Why it was refused, for the person who wrote it."""
    try:
        contract_of(topic).parse(value)
    except BadInput as error:
        return str(error)
    return poison.message


@dataclass(slots=True)
class WhatIf:
    """A run without servers."""

    direct: Direct
    auto_impressions: bool = False
    totals: dict[str, CampaignTotals] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    """What was not understood, each with its place and reason."""
    _routing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, shards: int, *, auto_impressions: bool = False, late: bool = True) -> WhatIf:
        """A fresh deployment of so many shards. ``late``: billable events may come after their reservations have
        expired, so that money is kept back for them; see `comes_late`."""
        # Reports and asks are not held back: there is no traffic to save, and exhaustion is seen at once.
        rules = Rules(partitions=shards, report_interval_ms=0, ask_cooldown_ms=0)
        if not late:
            rules = replace(rules, late_prior_ppm=0)
        run = cls(Direct(rules), auto_impressions)
        run.direct.on_record = run._count
        return run

    def campaigns(self, lines: Iterable[Line | str]) -> Iterator[Event]:
        """Applies a campaigns file."""
        for line in lines:
            if isinstance(line, str):
                self.rejected.append(line)
            else:
                yield from self._command(line, timed=False)

    def events(self, lines: Iterable[Line | str]) -> Iterator[Event]:
        """Runs an events file, in its order."""
        for line in lines:
            if isinstance(line, str):
                self.rejected.append(line)
                continue
            data = line.data
            topic = topic_of(data)
            if topic == topics.AD_REQUESTS and "request_id" not in data and "type" in data:
                self.rejected.append(
                    f"{line.place}: type {data['type']!r} is not known here: an ad request has a request_id, an "
                    f"impression, click or view a decision_id, a user event one of the types {', '.join(_USER_EVENTS)}"
                )
                continue
            if topic == topics.CAMPAIGNS:
                yield from self._command(line, timed=True)
                continue
            if topic == topics.IMPRESSIONS and "routing_id" not in data:
                # A file written beforehand cannot know it; the decision that it names does.
                data = {**data, "routing_id": self._routing.get(str(data.get("decision_id")), "unknown")}
            yield from self._feed(line.place, topic, data)

    def _command(self, line: Line, *, timed: bool) -> Iterator[Event]:
        try:
            data = command_of(line)
        except BadInput as error:
            self.rejected.append(f"{line.place}: {error}")
            return
        yield from self._feed(line.place, topics.CAMPAIGNS, data, timed=timed)

    def _feed(self, place: str, topic: str, data: dict[str, Any], *, timed: bool = True) -> Iterator[Event]:
        try:
            value = orjson.dumps(data)
        except TypeError:  # What was read is JSON, and all that can be wrong with it is its depth.
            self.rejected.append(f"{place}: nested too deeply; keep objects and lists within 200 levels")
            return
        event = inputs.read(topic, 0, None, value)
        if isinstance(event.event, Poison):
            self.rejected.append(f"{place}: {_told(topic, value, event.event)}")
            return
        wrong = list(misspelt(event.event, data)) if isinstance(event.event, Contract) else ()
        if wrong:
            # The answer would be one to another question than the one that was meant.
            self.rejected.append(f"{place}: {'; '.join(wrong)}")
            return
        key = data["account_id"] if topic == topics.CAMPAIGNS else event.routing
        # Among events a command comes at its time, as they do; those of a campaigns file come before all of them.
        yield from self.direct.pass_time(getattr(event.event, "time_ms", -1) if timed else -1)
        yield from self.direct.lease_ahead(event)
        outputs = self.direct.handle(event, key)
        yield from outputs
        for name, body in outputs:
            if name == topics.CAMPAIGN_CHANGES and body["accepted"] and data["command"] == "upsert":
                self._look_whose(place, data["campaign"])
            if name == topics.DECISIONS:
                self._routing[body["decision_id"]] = body["routing_id"]
                if self.auto_impressions:
                    yield from self._show(place, body)

    def _look_whose(self, place: str, campaign: dict[str, Any]) -> None:
        """Tells where the shards serve another account's campaign under this one's id: treasuries know their own
        accounts only, and accept both."""
        share = self.direct.users[0].shares.get(campaign["campaign_id"])
        if share is not None and share.campaign.account_id != campaign["account_id"]:
            self.rejected.append(
                f"{place}: never served: account {share.campaign.account_id} has campaign {campaign['campaign_id']}; "
                "define this one under another id"
            )

    def _show(self, place: str, decision: dict[str, Any]) -> Iterator[Event]:
        for slot in decision["slots"]:
            if "winner" in slot:
                shown = {
                    "type": "impression",
                    "decision_id": decision["decision_id"],
                    "slot": slot["slot"],
                    "routing_id": decision["routing_id"],
                    "time_ms": decision["time_ms"],
                }
                yield from self._feed(place, topics.IMPRESSIONS, shown)

    def _count(self, shard: str, draft: Draft) -> None:
        for delta in draft.deltas:
            word = delta[0]
            if word == "reserve":
                self._of(delta[2]).decisions += 1
            elif word == "settle":
                self._of(delta[3]).impressions += 1
            elif word in ("late", "paid"):
                self._of(delta[3]).impressions += 1
                self._of(delta[3]).late += 1
            elif word == "unfund":
                self._of(delta[3]).unfunded_micros += delta[5]

    def _of(self, campaign: str) -> CampaignTotals:
        return self.totals.setdefault(campaign, CampaignTotals())

    def finish(self) -> dict[str, Any]:
        """The totals by campaign, and of accounts that have a budget of their own. Of a campaign, always,
        ``topped_up = unleased + in flight + lease + reserved + spent``."""
        campaigns: dict[str, Any] = {}
        for treasury in self.direct.treasuries:
            for campaign_id, known in treasury.campaigns.items():
                shares = [
                    share for user in self.direct.users if (share := user.shares.get(campaign_id)) is not None
                ]
                if any(share.treasury != treasury.shard for share in shares):
                    continue  # It is never served: another account has this id.
                held = sums_of(shares)
                in_flight = known.topped_up - known.unleased - held.lease - held.reserved - held.spent
                counted = self._of(campaign_id)
                campaigns[campaign_id] = {
                    "account_id": known.campaign.account_id,
                    "currency": known.campaign.currency,
                    "topped_up_micros": known.topped_up,
                    "spent_micros": held.spent,
                    "reserved_micros": held.reserved,
                    "lease_micros": held.lease,
                    "unleased_micros": known.unleased,
                    "in_flight_micros": in_flight,
                    "unfunded_micros": sayable(counted.unfunded_micros),
                    "decisions": counted.decisions,
                    "impressions": counted.impressions,
                    "late_impressions": counted.late,
                    "episode": known.episode,
                    "paused": list(known.reasons),
                }
        accounts = {
            account_id: {"topped_up_micros": fund.topped_up, "leased_micros": fund.leased}
            for treasury in self.direct.treasuries
            for account_id, fund in treasury.accounts.items()
            if fund.account.budget_micros is not None
        }
        return {
            "campaigns": dict(sorted(campaigns.items())),
            "accounts": dict(sorted(accounts.items())),
            "rejected": len(self.rejected),
        }
