"""One shard, as an audit follows it along its ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

from adgovernor.audit.beside import Inputs, Outputs
from adgovernor.audit.shelf import Shelf
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.chain import Spine, Walk
from adgovernor.runtime.unsealing import Keys


@dataclass(slots=True)
class Followed:
    """What an audit knows of a shard so far."""

    shard: str
    walk: Walk
    machine: UserShard | Treasury
    spine: Spine
    """As of the last block decided again."""
    people: Shelf
    inputs: Inputs | None = None
    outputs: Outputs | None = None
    """While the ledger is read for the first time."""
    keys: Keys = field(default_factory=Keys)
    """Of a sealed ledger."""
    void: set[str] = field(default_factory=set)
    """Chains of blocks that do not count because those before them are not there."""
    astray: str = ""
    """Where one of them is continued by another, since the last loss that a person accepted."""
    broken: bool = False
    """Something was found that makes the rest of this shard meaningless."""
