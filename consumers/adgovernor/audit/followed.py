"""One shard, as an audit follows it along its ledger."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from adgovernor.audit.promises import Promise
from adgovernor.audit.shelf import Shelf
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.chain import Walk
from adgovernor.runtime.unsealing import Keys


@dataclass(slots=True)
class Followed:
    """What an audit knows of a shard so far."""

    shard: str
    walk: Walk
    machine: UserShard | Treasury
    published: int = 0
    outputs: dict[str, list[Promise]] = field(default_factory=lambda: defaultdict(list))
    """By topic, as the ledger says."""
    taken: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    """Input topic → offset → digest of each record."""
    positions: dict[str, int] = field(default_factory=dict)
    height: int = 0
    chain: str = ""
    """Of the last block decided again."""
    keys: Keys = field(default_factory=Keys)
    """Of a sealed ledger."""
    epoch: int = 0
    people: Shelf = field(default_factory=Shelf)
    void: set[str] = field(default_factory=set)
    """Chains of blocks that do not count because those before them are not there."""
    astray: str = ""
    """Where one of them is continued by another, since the last loss that a person accepted."""
    broken: bool = False
    """Something was found that makes the rest of this shard meaningless."""
