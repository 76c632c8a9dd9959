"""The auditor: judges a run by what is on the log and in the store, with rules of its own.

Records of all shards are replayed in the order in which their blocks landed, so that money can be added up over all
shards at every moment. Only the last check, that the store equals a rebuild, calls the project's `fold`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import orjson
from tests.simulation import audit_accounts, audit_chain
from tests.simulation.audit_chain import AuditBlock, Findings
from tests.simulation.audit_loss import LossAudit
from tests.simulation.audit_shares import Told
from tests.simulation.audit_treasury import Fund, TreasuryAudit
from tests.simulation.audit_users import UserAudit
from tests.simulation.operators import PREFIX
from tests.simulation.sealed import BUCKETS, check_keys, given_up, opened
from tests.simulation.world import SimWorld

from adgovernor.contracts.routing import partition_of
from adgovernor.core.machines import machine_of


class Audit:
    """The judgement of one run."""

    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.findings = Findings()
        self._rules = world.workload.rules
        self.users: dict[str, UserAudit] = {}
        self.treasuries: dict[str, TreasuryAudit] = {}
        self._flying: dict[tuple[str, str], deque[tuple[int, dict[str, int]]]] = {}
        """(Source, destination) → messages sent and not taken: number, campaign → money in it."""

    def run(self) -> list[str]:
        """All violations found."""
        world, findings = self.world, self.findings
        broker, partitions = world.broker, world.partitions
        if world.faults.losses:
            return self._judge_losses()
        ledgers = audit_chain.read_ledgers(broker, PREFIX, partitions, findings)
        audit_chain.check_outputs(broker, ledgers, findings)
        audit_chain.check_published(broker, ledgers, findings)
        audit_chain.check_side_messages(broker, ledgers, findings)
        if not findings.found:
            # Replays of what is already known to be wrong would only tell the same again, or not understand it.
            self._replay(ledgers)
        if not findings.found:
            self._check_store(ledgers.chains)
        return findings.found

    def _judge_losses(self) -> list[str]:
        faults = self.world.faults
        hung = faults.zombies or "stop" in faults.rates
        audit = LossAudit(self.world.broker, PREFIX, self.world.partitions, self.findings, hung=hung)
        audit.run()
        if not self.findings.found:
            self._check_store(audit.chains)
            shards = self.world.server.memory._shards
            audit.check_money({name: shard.buckets.get("campaigns", {}) for name, shard in shards.items()})
        return self.findings.found

    # --- Replay -----------------------------------------------------------------------------------------------

    def _partition(self, key: str) -> int:
        return partition_of(key.encode(), self.world.partitions)

    def _told_to(self, treasury: str) -> Callable[[str, int, str], Told | None]:
        def told(shard: str, number: int, campaign: str) -> Told | None:
            return self.users[shard].told.get((treasury, number), {}).get(campaign)

        return told

    def _replay(self, ledgers: audit_chain.Ledgers) -> None:
        for partition in range(self.world.partitions):
            user, treasury = f"u{partition}", f"t{partition}"
            self.users[user] = UserAudit(user, self._partition, self._rules, self.findings)
            self.treasuries[treasury] = TreasuryAudit(
                treasury, self._rules, self.findings, self._partition, self._told_to(treasury)
            )
        blocks = [block for chain in ledgers.chains.values() for block in chain]
        for block in sorted(blocks, key=lambda block: block.moment):
            self._take(block)
            if self.findings.found:
                return
        now_ms = self.world.broker.now_ms()
        for user_audit in self.users.values():
            user_audit.finish(now_ms)
        for treasury_audit in self.treasuries.values():
            treasury_audit.finish(now_ms - self._rules.lateness_ms - 5_000)
        self._finish_asks()

    def _take(self, block: AuditBlock) -> None:
        shard = block.shard
        touched: set[tuple[str, str]] = set()
        for record in block.records:
            if shard in self.users:
                self.users[shard].take(block.height, block.data["now_ms"], record)
            else:
                self.treasuries[shard].take(block.height, record)
            self._fly(shard, record, touched)
        for treasury, campaign in touched:
            self._add_up(treasury, campaign, f"after {shard} block {block.height}")

    def _fly(self, shard: str, record: dict[str, Any], touched: set[tuple[str, str]]) -> None:
        """Follows the money in messages."""
        is_user = shard in self.users
        for delta in record["deltas"]:
            if delta[0] == "took":
                _, source, number, _ = delta
                waiting = self._flying.get((source, shard))
                if not waiting or waiting[0][0] != number:
                    self.findings.fail("a side message is taken once and in order", f"{shard} takes {delta}")
                    continue
                _, amounts = waiting.popleft()
                touched.update((source if is_user else shard, name) for name in amounts)
        for destination, number, _, payload in record.get("send", ()):
            amounts = {}
            for item in payload["items"]:
                name = item["campaign_id"]
                amounts.setdefault(name, 0)
                if item.get("do") == "grant":
                    amounts[name] += item["amount_micros"]
                amounts[name] += sum(amount for _, amount in item.get("returned", ()))
            self._flying.setdefault((shard, destination), deque()).append((number, amounts))
            touched.update((destination if is_user else shard, name) for name in amounts)
        if is_user:
            shares = self.users[shard].shares
            for delta in record["deltas"]:
                name = delta[2] if delta[0] == "reserve" else delta[3] if delta[0] in _AT_THREE else None
                if name is not None:
                    touched.add((shares[name].treasury, name))
        else:
            touched.update((shard, delta[1]) for delta in record["deltas"] if delta[0] in ("money", "grant"))

    def _add_up(self, treasury: str, campaign: str, when: str) -> None:
        """Topped-up is what is unleased, in flight, and leased, reserved or spent on all shards."""
        fund = self.treasuries[treasury].funds.get(campaign)
        if fund is None:
            self.findings.fail("every campaign has a treasury", f"{campaign} {when}")
            return
        flying = sum(
            amounts.get(campaign, 0)
            for (source, destination), messages in self._flying.items()
            if treasury in (source, destination)
            for _, amounts in messages
        )
        shares = [
            user.shares[campaign]
            for user in self.users.values()
            if campaign in user.shares and user.shares[campaign].treasury == treasury
        ]
        held = sum(share.held() for share in shares)
        self.findings.check(
            fund.topped_up == fund.unleased + flying + held,
            "conservation",
            f"{campaign} {when}: {fund.topped_up} != {fund.unleased} + {flying} + {held}",
        )
        days: dict[int, int] = {}
        for share in shares:
            for day, (_, reserved, spent) in share.books.items():
                days[day] = days.get(day, 0) + reserved + spent
        self.findings.check(
            sum(days.values()) <= fund.topped_up,
            "no overspend",
            f"{campaign} {when}: {days} of {fund.topped_up}",
        )
        self._check_days(fund, days, f"{campaign} {when}")
        if fund.account is not None:
            self._check_account(fund.account, f"after {campaign} {when}")

    def _check_days(self, fund: Fund, days: dict[int, int], where: str) -> None:
        if fund.data.get("daily_budget_micros") is None:
            return
        for together, most in audit_accounts.day_bounds(fund, [day for day in days if day > 0]):
            amount = sum(days[day] for day in together)
            self.findings.check(
                amount <= most, "no day's overspend", f"{where}: {amount} of {most} on {together}"
            )

    def _check_account(self, account: audit_accounts.Account, where: str) -> None:
        """All its campaigns together spend within its budgets."""
        days: dict[int, int] = {}
        for name in (fund.data["campaign_id"] for fund in account.members):
            for user in self.users.values():
                if name in user.shares:
                    for day, (_, reserved, spent) in user.shares[name].books.items():
                        days[day] = days.get(day, 0) + reserved + spent
        if account.data.get("budget_micros") is not None:
            self.findings.check(
                sum(days.values()) <= account.topped_up, "no account's overspend", f"{where}: {days}"
            )
        if account.data.get("daily_budget_micros") is not None:
            for day, amount in days.items():
                self.findings.check(
                    day <= 0 or amount <= account.highest_daily,
                    "no account day's overspend",
                    f"{where}: {days}",
                )

    def _finish_asks(self) -> None:
        """In the end a shard waits for no answer but one that time must bring."""
        for shard, user in self.users.items():
            for name, share in user.shares.items():
                if self._flying.get((shard, share.treasury)) or self._flying.get((share.treasury, shard)):
                    continue  # Sent while all were being stopped.
                fund = self.treasuries[share.treasury].funds[name]
                for day in share.asks:
                    self.findings.check(
                        (shard, day) in fund.asks,
                        "every ask is answered",
                        f"{shard} waits for {name} {day}, and {share.treasury} does not know",
                    )

    # --- The store --------------------------------------------------------------------------------------------

    def _check_store(self, chains: dict[str, list[AuditBlock]]) -> None:
        """The store is the fold of the ledger, byte for byte, and agrees with the replay."""
        present = self.world.server.memory._shards
        for shard, chain in chains.items():
            if not chain:
                continue
            stored = present.get(shard)
            if stored is None:
                self.findings.fail("the store follows the ledger", f"{shard} is not in the store")
                continue
            tip = stored.meta.tip
            # Claims at the end, of owners that were stopped at once, change no state; the next block shows them.
            at = next((b for b in chain if b.height == tip.height and b.data["chain"] == tip.chain), None)
            self.findings.check(
                at is not None and not any(later.records for later in chain[at.height :]),
                "the store follows the ledger",
                f"{shard} is at {tip.height} of {chain[-1].height}",
            )
            rebuilt = self._rebuild(shard, chain)
            for bucket in sorted((set(rebuilt) | set(stored.buckets)).difference(BUCKETS)):
                left, right = rebuilt.get(bucket, {}), stored.buckets.get(bucket, {})
                for name in sorted(set(left) | set(right)):
                    self.findings.check(
                        left.get(name) == right.get(name),
                        "the store equals a rebuild",
                        f"{shard} {bucket} {name}: {right.get(name)!r}, rebuilt {left.get(name)!r}",
                    )
            if self.world.sealed and shard.startswith("u"):
                values = [self.world.broker.ledgers[shard][block.offset].value for block in chain]
                people, names = stored.buckets.get("keys", {}), stored.buckets.get("key-names", {})
                for problem in check_keys(self.world.broker, shard, values, people, names):
                    self.findings.fail("each person has a key, and nobody else has", problem)
            if self.users:
                self._compare_money(shard, stored.buckets.get("campaigns", {}))
            if shard in self.users:
                self._compare_sessions(shard, stored.buckets.get("users", {}))

    def _rebuild(self, shard: str, chain: list[AuditBlock]) -> dict[str, dict[str, bytes]]:
        rules = self._rules
        machine = machine_of(shard, rules)
        changed: dict[str, set[str]] = {}
        entries = self.world.broker.ledgers[shard]
        # What was given up counts as never there, whoever could still read it for a while.
        without = {name for audited in chain for name in given_up(audited.data)}
        for audited in chain:
            block = opened(self.world.broker, shard, entries[audited.offset].value, without)
            for key in machine.missing_for_fold(block.records):
                machine.load(key, None)
            machine.begin_fold(block.header.height, block.header.now_ms, block.header.drained)
            if block.header.recovery is not None:
                machine.recover(block.header.recovery)
            for record in block.records:
                personal = record.personal
                machine.fold(
                    record.draft(), personal.get("routing"), personal.get("session"), personal.get("ids")
                )
            for bucket, names in machine.take_changes().items():
                changed.setdefault(bucket, set()).update(names)
        fields = machine.encode(changed)
        return {
            bucket: {name: value for name, value in values.items() if value is not None}
            for bucket, values in fields.items()
        }

    def _compare_sessions(self, shard: str, people: dict[str, bytes]) -> None:
        """What sessions say they did is added up, each change once."""
        kept = {name: row for name, raw in people.items() if (row := orjson.loads(raw).get("v")) is not None}
        own = {
            name: [visit.requests, visit.impressions, sorted(visit.positions), visit.spend_micros]
            for name, person in self.users[shard].people.items()
            if (visit := person.visit) is not None
        }
        self.findings.check(
            {name: row[:4] for name, row in kept.items()} == own,
            "a session's changes are counted once",
            f"{shard}: {kept}, {own}",
        )

    def _compare_money(self, shard: str, campaigns: dict[str, bytes]) -> None:
        for name, raw in campaigns.items():
            data = orjson.loads(raw)
            if shard in self.users:
                books = {row[0]: row[1:] for row in data["books"] if any(row[1:])}
                own = {day: book for day, book in self.users[shard].shares[name].books.items() if any(book)}
                self.findings.check(
                    books == own, "stored money is the replay's", f"{shard} {name}: {books}, {own}"
                )
            else:
                fund = self.treasuries[shard].funds[name]
                self.findings.check(
                    (data["topped_up"], data["unleased"]) == (fund.topped_up, fund.unleased),
                    "stored money is the replay's",
                    f"{shard} {name}: {data['topped_up']} {data['unleased']}",
                )


_AT_THREE = ("expire", "settle", "late", "owe", "paid", "unfund")
"""Deltas whose third word is the campaign."""


def judge(seed: int) -> list[str]:
    """Runs one seed; everything that is wrong with it, nothing if all is well."""
    world = SimWorld(seed)
    world.run()
    return world.problems or Audit(world).run()
