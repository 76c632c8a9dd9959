"""What a treasury says: a record's messages to shards, its public events, and what became of commands.

Which of them a record has is decided in `releases` and `treasury`; nothing here moves money.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import Draft
from adgovernor.core import links
from adgovernor.core.accounts import TreasuryCampaign
from adgovernor.core.rules import Rules
from adgovernor.core.treasury_state import TreasuryState


class TreasuryMail(TreasuryState):
    """The state of a treasury, and the record at hand."""

    def __init__(self, shard: str, rules: Rules) -> None:
        super().__init__(shard)
        self.configured = rules
        self._mail: dict[str, list[dict[str, Any]]] = {}
        self._touched: dict[str, None] = {}
        self._cause = ("", 0)

    @property
    def newest_ms(self) -> int:
        """The newest event time that the watermark speaks of: the moment up to which plans have released money."""
        return self.watermark_ms + self.rules.lateness_ms

    def _begin(self, result: dict[str, Any], topic: str, offset: int) -> Draft:
        self.index += 1
        self._cause = (topic, offset)
        self._draft = draft = Draft(result)
        return draft

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
        if not campaign_id and account_id in self.accounts:
            body["topped_up_micros"] = self.accounts[account_id].topped_up
        if refusal is not None:
            body["reason"] = refusal
        self._draft.out.append([topics.CAMPAIGN_CHANGES, account_id, body])

    def _tell(self, shard: str, what: str, campaign_id: str, **item: Any) -> None:
        self._mail.setdefault(shard, []).append({"do": what, "campaign_id": campaign_id, **item})

    def _tell_all(self, what: str, campaign_id: str, **item: Any) -> None:
        for shard in self._user_shards():
            self._tell(shard, what, campaign_id, **item)

    def _user_shards(self) -> tuple[str, ...]:
        return _user_shards(self.rules.partitions)

    def _flush(self) -> None:
        for shard in sorted(self._mail, key=topics.partition_of_shard):
            payload = {"items": self._mail[shard]}
            self._draft.send.append(links.next_message(self.links, shard, payload))
            self._mark("core", "state")
        self._mail = {}


@lru_cache(maxsize=8)
def _user_shards(partitions: int) -> tuple[str, ...]:
    return tuple(topics.user_shard(partition) for partition in range(partitions))
