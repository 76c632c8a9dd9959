"""What an audit found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CHECKS: dict[str, str] = {
    "chain": "every ledger is one unbroken chain, and no block was changed",
    "inputs": "one record for each input position, with the digest of the input's bytes",
    "decide": "deciding again in recorded order gives the same bytes",
    "keys": "what is sealed opens with its person's key, unless an erasure ended that; and then it is gone",
    "outputs": "the public topics hold exactly what the ledger says, each once, in order",
    "links": "side messages between shards are contiguous and were taken as they were sent",
    "money": "topped up = unleased + in flight + lease + reserved + spent, and nothing is overspent",
    "store": "the store is the fold of the ledger",
}
"""What is checked, and what it proves."""

MAX_FINDINGS = 1_000
"""Findings kept; more are only counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not hold."""

    check: str
    place: str
    """Where: a ledger offset, a record, a campaign, a key."""
    message: str


@dataclass(slots=True)
class Report:
    """The outcome of an audit: green where there is no finding."""

    findings: list[Finding] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0))
    """How many findings each check has."""
    counted: dict[str, int] = field(default_factory=dict)
    """What was looked at: blocks, records, decisions, campaigns…"""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing and is no fault, such as inputs not handled yet."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Checks that were not made, and why."""
    others: dict[int, int] = field(default_factory=dict)
    """Version of rules that this release has not → records that they decided, which were not decided again."""
    campaigns: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Totals by campaign, in micros."""

    @property
    def green(self) -> bool:
        """Whether everything that was checked holds."""
        return not any(self.found.values())

    def fault(self, check: str, place: str, message: str) -> None:
        """Adds a finding."""
        self.found[check] += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(check, place, message))

    def count(self, what: str, number: int = 1) -> None:
        """Counts what was looked at."""
        self.counted[what] = self.counted.get(what, 0) + number

    def add(self, other: Report) -> None:
        """Adds what another report found, behind what is here."""
        self.findings += other.findings[: MAX_FINDINGS - len(self.findings)]
        for check, number in other.found.items():
            self.found[check] += number
        for what, number in other.counted.items():
            self.count(what, number)
        for rules, records in other.others.items():
            self.other_rules(rules, records)
        self.notes += other.notes
        self.skipped |= other.skipped

    def other_rules(self, rules: int, records: int) -> None:
        """Notes records that were only folded."""
        self.others[rules] = self.others.get(rules, 0) + records

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "green": self.green,
            "checks": {
                name: {
                    "proves": text,
                    "findings": self.found[name],
                    **({"skipped": self.skipped[name]} if name in self.skipped else {}),
                }
                for name, text in CHECKS.items()
            },
            "findings": [
                {"check": finding.check, "place": finding.place, "message": finding.message}
                for finding in self.findings
            ],
            "counted": self.counted,
            "other_rules": {str(rules): records for rules, records in self.others.items()},
            "notes": self.notes,
            "campaigns": self.campaigns,
        }
