"""The auditor's own view of commands that take money back: what they answer is what was taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.audit_accounts import Account
    from tests.simulation.audit_treasury import Fund


class Decreases:
    """Those of one treasury. Money is named by its campaign, or "account " and its account."""

    def __init__(self, funds: Mapping[str, Fund], accounts: Mapping[str, Account]) -> None:
        self._funds = funds
        self._accounts = accounts
        self._waiting: dict[str, dict[str, int]] = {}
        """Money → command id → what is still to be taken once a recall has ended."""

    def judge(
        self, record: dict[str, Any], command: dict[str, Any], money: Mapping[str, list[int]]
    ) -> Iterator[str]:
        """What is wrong with a record's answers. ``command``: its input where that is a command; ``money``: what it
        moved."""
        answers = {
            body["command_id"]: body["accepted"]
            for topic, _, body in record.get("out", ())
            if topic == "campaign-changes"
        }
        waits = False
        for name, *args in record["deltas"]:
            if name in ("decrease", "account_decrease"):
                about = args[0] if name == "decrease" else "account " + args[0]
                self._waiting.setdefault(about, {})[args[1]] = args[3]
                waits = True
            elif name in ("decreased", "account_decreased"):
                about = args[0] if name == "decreased" else "account " + args[0]
                yield from self._ended(about, answers, -sum(money.get(about, ())))
        if command.get("command") == "decrease" and not waits and record["result"].get("refused") is None:
            campaign, account = command.get("campaign_id"), command["account_id"]
            about = campaign or "account " + account
            whole = -sum(money.get(about, ())) == command["amount_micros"]
            if answers.get(command["command_id"]) is not whole:
                yield f"{command}: {money}, answered {answers}"
            if not whole and any(
                map(holders, [self._funds[campaign]] if campaign else self._accounts[account].members)
            ):
                yield f"{command} is refused, but {about} has money that can be recalled"

    def _ended(self, about: str, answers: Mapping[str, bool], taken: int) -> Iterator[str]:
        waiting = self._waiting.pop(about, {})
        accepted = sum(left for name, left in waiting.items() if answers.get(name))
        refused = [name for name in waiting if answers.get(name) is False]
        if taken != accepted if not refused else not accepted <= taken < sum(waiting.values()):
            yield f"{about}: {taken} was taken for {waiting}, answered {answers}"


def holders(fund: Fund) -> set[str]:
    """The shards with money that they have not reported as spent."""
    return {
        shard
        for shard, days in fund.leased.items()
        if sum(days.values()) > sum(row[3] for row in fund.reports.get(shard, {}).values())
    }
