"""Which machine a shard is."""

from __future__ import annotations

from adgovernor.contracts.topics import is_treasury
from adgovernor.core.rules import Rules
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard


def machine_of(shard: str, rules: Rules) -> UserShard | Treasury:
    """The machine of a shard before its first event: a treasury for ``t0``, ``t1``…, else a user shard."""
    return Treasury(shard, rules) if is_treasury(shard) else UserShard(shard, rules)
