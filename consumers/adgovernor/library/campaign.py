"""One campaign's money as one value: a deployment of one user shard and one treasury, and a clock.

A reservation is an ad request with the campaign as its only candidate, spending is its impression. So days, pacing,
exhaustion, thresholds and late events are what they are in the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import (
    Account,
    Campaign,
    MoneyCommand,
    StatusCommand,
    UpsertAccount,
    UpsertCampaign,
)
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.events import Impression
from adgovernor.contracts.ledger import Draft
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.core.accounts import TreasuryCampaign
from adgovernor.core.direct import Direct, Event
from adgovernor.core.history import SHOWN, Person, Serving
from adgovernor.core.leases import CampaignShare, campaign_data, sums_of
from adgovernor.core.rules import Rules
from adgovernor.core.user_state import open_key

_SOMEBODY: Final = "-"
"""Money does not ask whose impression it was, so all of them are one person's."""
_TRIES: Final = 3
"""A reservation that finds no lease is tried again once the treasury has answered; the answer may be a recall first."""
_ANSWERS: Final = frozenset({topics.DECISIONS, topics.CAMPAIGN_CHANGES})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an amount, in micros. ``reasons`` are the core's codes; empty: it was done."""

    micros: int
    reasons: tuple[str, ...] = ()
    duplicate: bool = False


class CampaignState:
    """The campaign's state in memory. Changes are the caller's to `encode` and keep."""

    def __init__(self, direct: Direct, campaign_id: str, now_ms: int) -> None:
        self._direct = direct
        self._id = campaign_id
        self.events: list[str] = []
        """Topics of the campaign's events since it was loaded, in order."""
        direct.on_record = self._note
        self._result: dict[str, Any] = {}
        direct.now_ms = max(direct.now_ms, now_ms)
        self._collect(direct.tick())

    @classmethod
    def load(cls, rules: Rules, campaign_id: str, value: bytes | None, now_ms: int) -> CampaignState:
        """From `encode`, with everything that time alone has changed since; None: a campaign without money."""
        return cls(Direct(rules) if value is None else Direct.restore(rules, value), campaign_id, now_ms)

    def encode(self) -> bytes:
        """The stored form."""
        return self._direct.save()

    # ------------------------------------------------------------------ reading

    @property
    def money(self) -> TreasuryCampaign | None:
        """The campaign as its treasury knows it; None before its budget was set."""
        return self._direct.treasuries[0].campaigns.get(self._id)

    @property
    def share(self) -> CampaignShare:
        """The campaign as its one user shard knows it."""
        return self._direct.users[0].shares[self._id]

    @property
    def now_ms(self) -> int:
        """The greatest time seen."""
        return self._direct.now_ms

    def held(self) -> tuple[int, int]:
        """Reserved and spent, over all days."""
        held = sums_of((self.share,))
        return held.reserved, held.spent

    def available(self) -> int:
        """What could be reserved now: not reserved, of the day, and released by pacing."""
        money = self.money
        assert money is not None
        if money.reasons:
            return 0
        day = self.share.day_of(self.now_ms)
        return self.share.lease(day) + self._direct.treasuries[0].available(money, day)

    def impressions(self) -> int:
        """How many impressions were paid for."""
        person = self._person()
        shown = sum(1 for serving in person.servings if serving.deadline_ms == SHOWN)
        return person.totals.get("campaign:" + self._id, 0) + shown

    # ------------------------------------------------------------------ changing

    def define(self, campaign: Campaign, account: Account, name: str) -> str | None:
        """Sets the definition and its absolute budget; why it was refused, or None. ``name`` is a new one."""
        known = self.money
        if (
            known is not None
            and known.budget == campaign.budget_micros
            and (known.data, known.time_zone) == (campaign_data(campaign), account.time_zone)
        ):
            return None
        refusal = self._command(
            UpsertAccount(
                command="account",
                command_id=f"{name}/account",
                account_id=campaign.account_id,
                time_ms=self.now_ms,
                account=account,
            )
        )
        return refusal or self._command(
            UpsertCampaign(
                command="upsert",
                command_id=f"{name}/upsert",
                account_id=campaign.account_id,
                time_ms=self.now_ms,
                campaign=campaign,
            )
        )

    def add(self, amount: int, name: str) -> str | None:
        """Tops up, once for ``name``; why it was refused, or None."""
        assert self.money is not None
        return self._command(
            MoneyCommand(
                command="top-up",
                command_id=f"{name}/top-up",
                account_id=self.money.campaign.account_id,
                time_ms=self.now_ms,
                campaign_id=self._id,
                amount_micros=amount,
            )
        )

    def set_status(self, word: Any, name: str) -> str | None:
        """``pause``, ``resume`` or ``archive``; why it was refused, or None."""
        assert self.money is not None
        return self._command(
            StatusCommand(
                command=word,
                command_id=f"{name}/{word}",
                account_id=self.money.campaign.account_id,
                time_ms=self.now_ms,
                campaign_id=self._id,
            )
        )

    def reserve(self, name: str, amount: int) -> Outcome:
        """Reserves under a name. A name that is known is not reserved again; one that was refused is forgotten."""
        serving = self.find(name)
        if serving is not None:
            if self.is_open(name):
                return Outcome(serving.price_micros, duplicate=True)
            return Outcome(0, ("spent" if serving.billing_deadline_ms == SHOWN else "released",))
        request = AdRequest(
            request_id=name,
            time_ms=self.now_ms,
            user_id=_SOMEBODY,
            candidates=(Candidate(campaign_id=self._id, creative_id=self._id, price_micros=amount),),
        )
        reasons: tuple[str, ...] = ()
        for _ in range(_TRIES):
            outputs = self._feed(topics.AD_REQUESTS, request)
            body = next(body for topic, body in outputs if topic == topics.DECISIONS)
            if "winner" in body["slots"][0]:
                return Outcome(amount)
            reasons = tuple(reason["code"] for loser in body["losers"] for reason in loser["reasons"])
            # Refused is not done: the same name may ask again, now or when there is money.
            self._person().requests.pop(name)
            if reasons != ("no_lease",):
                break
        return Outcome(0, tuple(self._lack(amount) if code == "no_lease" else code for code in reasons))

    def spend(self, name: str, amount: int | None) -> Outcome:
        """Spends what was reserved under the name, or ``amount`` of it; what was not reserved is reserved first."""
        if self.find(name) is None:
            if amount is None:
                return Outcome(0, ("unknown_reservation",))
            reserved = self.reserve(name, amount)
            if reserved.reasons:
                return reserved
        impression = Impression(
            decision_id=name, routing_id=_SOMEBODY, time_ms=self.now_ms, price_micros=amount
        )
        self._feed(topics.IMPRESSIONS, impression)
        kind = self._result["kind"]
        if kind == "duplicate":
            serving = self.find(name)
            assert serving is not None
            return Outcome(serving.price_micros, duplicate=True)
        if kind == "owed":
            return Outcome(self._result["charged_micros"], ("owed",))
        assert kind in ("settled", "late_funded"), kind
        return Outcome(self._result["charged_micros"])

    def release(self, name: str) -> bool:
        """Gives what was reserved under the name back; whether there was something."""
        if not self.is_open(name):
            return False
        user = self._direct.users[0]
        _, campaign, day, price = user.open[open_key(name, 0)][:4]
        # A release is an expiry before its time.
        record = Draft({"kind": "released"}, deltas=[["expire", name, 0, campaign, day, price]])
        user.begin_fold(user.height, self.now_ms, False)
        user.fold(record, None, None)
        self._collect(self._direct.tick())
        return True

    def find(self, name: str) -> Serving | None:
        """What was reserved under the name, while it is remembered."""
        return self._person().find(name, 0)

    def is_open(self, name: str) -> bool:
        """Whether it is reserved and neither spent nor over."""
        return open_key(name, 0) in self._direct.users[0].open

    def _person(self) -> Person:
        return self._direct.users[0].persons.get(_SOMEBODY) or Person()

    def _lack(self, amount: int) -> str:
        """Why there is no lease, where the only shard there is has asked: this day's money, pacing, or all of it."""
        money = self.money
        assert money is not None
        day = self.share.day_of(self.now_ms)
        lease = self.share.lease(day)
        if money.room(day) + lease >= amount:
            return "paced"
        return "daily_budget" if money.unleased + lease >= amount else "exhausted"

    def _command(self, command: UpsertAccount | UpsertCampaign | MoneyCommand | StatusCommand) -> str | None:
        for topic, body in self._feed(topics.CAMPAIGNS, command):
            if topic == topics.CAMPAIGN_CHANGES and body["command_id"] == command.command_id:
                return None if body["accepted"] else str(body["reason"])
        raise AssertionError("a command without an answer")

    def _feed(self, topic: str, event: Any) -> list[Event]:
        contract = contract_of(topic)
        outputs = self._direct.feed(topic, contract.key(event), contract.encode(event))
        self._collect(outputs)
        return outputs

    def _note(self, shard: str, draft: Draft) -> None:
        kind = draft.result.get("kind")
        if kind in ("settled", "late_funded", "owed", "duplicate", "orphan"):
            self._result = draft.result

    def _collect(self, outputs: list[Event]) -> None:
        self.events += [topic for topic, _ in outputs if topic not in _ANSWERS]
