"""All rules that are broken on purpose, and those for which that would show nothing, with the reason."""

from __future__ import annotations

from typing import Final

from tests.simulation.mutation import Mutation
from tests.simulation.mutations_core import CORE
from tests.simulation.mutations_loss import LOSS
from tests.simulation.mutations_money import MONEY
from tests.simulation.mutations_people import PEOPLE
from tests.simulation.mutations_runtime import RUNTIME
from tests.simulation.mutations_sealing import SEALING

MUTATIONS: Final[dict[str, Mutation]] = {
    mutation.name: mutation for mutation in (*RUNTIME, *CORE, *MONEY, *PEOPLE, *LOSS, *SEALING)
}

UNNEEDED: Final[dict[str, str]] = {
    "*height, prev_chain and shard, each alone": (
        "an owner has one block in flight, so each of the three implies the others among honest writers; "
        "any-block-of-the-height breaks them together"
    ),
    "*the nonce": (
        "a block names its owner and its clock, and two blocks of the same bytes lead to the same state: whoever "
        "finds its own chain in the log is right to go on from there"
    ),
    "*a user with an open reservation is not evicted": (
        "the end of a reservation is not written into the person's state: it follows from the deadline and the "
        "watermark, and open reservations are always in memory"
    ),
    "*the token of a rebuild": (
        "the steps of a rebuild are compare-and-set on (ledger, height, chain), which swap-without-compare breaks; "
        "a reset that lands late is met as a state that this owner did not write"
    ),
    "a side message after a gap": (
        "outputs are published in order and again from `published`, so a gap cannot come about while the rules "
        "which skip-failed-outputs, no-republish and published-is-the-tip break are kept"
    ),
    "unpublished outputs are dropped with memory": (
        "only outputs of accepted blocks are ever queued, and readers take each number once"
    ),
    "an unanswered store call is never repeated blindly": (
        "compare-and-set refuses what does not follow; swap-without-compare breaks that"
    ),
}
"""Rules that this engine keeps, and that no run can show to be needed."""
