"""What the runtime knows of a core: the protocol that user shards and treasuries share.

A machine is a deterministic state machine. ``decide`` looks at one input and emits *deltas*; each delta is
folded into the state as soon as it is emitted, so that the next rule sees it. ``fold`` applies the deltas of a
record that was read back. Both end in the same ``apply`` of one delta: there is no second implementation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from msgspec import Struct

from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.ledger import Draft, ReadRecord
from adgovernor.core.rules import Rules

RULES: Final = 8
"""Version of the rules. It rises when the same inputs would give another record."""

USERS: Final = "users"
"""The bucket of people's states, which are read when they are needed; all other buckets are always in memory."""

Fields = dict[str, dict[str, bytes | None]]
"""State as a store holds it: bucket → field → value; None deletes the field."""


UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading a stored state raises where it is not what was written."""


class BadState(BadInput):
    """A stored state that is not as this release writes it."""


@dataclass(frozen=True, slots=True)
class Poison:
    """An input that is not what its topic promises."""

    reason: str
    """Short and machine-readable: ``not_json``, ``invalid``, ``empty``…"""
    message: str


def dead_letter(topic: str, reason: str, message: str) -> list[Any]:
    """An input of ``topic`` that somebody has to look at, as a record's ``out`` holds it."""
    return [topics.dlq(topic), None, {"reason": reason, "message": message}]


class Input(Struct):
    """One input, decoded. A struct, because one is made for every event.

    Attributes:
        event: the contract's model, or `Poison`.
        time_ms: event time; -1 where the input has none (side messages, poison): it is handled first.
        routing: the person that the input is about; empty where it is about nobody.
        state_key: the name under which the state that it needs is stored; empty where it needs none.
        is_json: the value can be spliced into the ledger as it is.
    """

    topic: str
    offset: int
    key: bytes | None
    value: bytes | None
    event: object
    time_ms: int
    routing: str = ""
    session: str | None = None
    state_key: str = ""
    is_json: bool = True
    ids: tuple[str | None, str | None] | None = None
    """User and device of whoever asks, where they are narrower than the routing id."""


@dataclass(slots=True)
class Links:
    """Numbers and hashes of the side messages exchanged with other shards."""

    sent: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Destination shard → (number, hash) of the last message sent."""
    taken: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Source shard → (number, hash) of the last message taken."""
    passed: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Source shard → ranges (first and last offset) of its messages that a person's recovery passed over: they are of
    a history that the source lost."""


class Machine(Protocol):
    """One shard's core."""

    shard: str
    watermark_ms: int
    links: Links
    rules: Rules
    """Those in force; the defaults until a record says otherwise."""
    has_rules: bool

    def read(self, topic: str, offset: int, key: bytes | None, value: bytes | None) -> Input:
        """Decodes an input. Never raises for what the input holds: bad bytes become `Poison`. Pure."""
        ...

    def missing(self, inputs: Iterable[Input]) -> list[str]:
        """The state keys that these inputs need and that are not in memory, each once."""
        ...

    def missing_for_fold(self, records: Iterable[ReadRecord]) -> list[str]:
        """The state keys that folding these records needs and that are not in memory, each once."""
        ...

    def load(self, state_key: str, value: bytes | None) -> None:
        """Takes a state read from the store (bucket ``users``); None: there is none yet. Deltas folded while it
        was unknown (see ``decide``) are applied on top. Raises `BadState` where it cannot be read."""
        ...

    def unloaded(self) -> list[str]:
        """State keys with deltas folded on an unknown base: `load` them before anything is written."""
        ...

    def open_block(self, height: int, now_ms: int, drained: bool) -> Draft | None:
        """Begins a block. Where it is drained and time alone changes something, the tick's draft."""
        ...

    def due(self, now_ms: int) -> bool:
        """Whether a drained block at ``now_ms`` would have a tick worth a block."""
        ...

    def decide(self, event: Input, *, unknown: bool = False, assumed: dict[str, Any] | None = None) -> Draft:
        """What happens, and why; the state moves on. ``unknown``: the state under ``state_key`` could not be
        read, so it is assumed as the campaigns' policies say, and recorded. ``assumed``: what a record says was
        assumed, when it is decided again by an audit."""
        ...

    def begin_fold(self, height: int, now_ms: int, drained: bool, rules: int = RULES) -> None:
        """Begins a block that is read back. ``rules``: those that decided its records; they are folded as their
        release folded them, or the state of a deployment that was upgraded would be another than its ledger's."""
        ...

    def fold(
        self,
        draft: Draft,
        routing: str | None,
        session: str | None,
        ids: Sequence[str | None] | None = None,
    ) -> None:
        """Applies one record of the block; routing, session and narrower ids come from its personal part, None where
        that cannot be read any more (then only what concerns nobody is applied)."""
        ...

    def recover(self, recovery: Mapping[str, Any]) -> None:
        """Begins a new epoch as its first block says: ``sent`` (destination → number, hash) are side messages that a
        lost part of the ledger had sent, ``taken`` (source → number, hash) what counts as taken from now on, ``passed``
        (source → ranges of offsets) messages that do not count."""
        ...

    def take_changes(self) -> dict[str, set[str]]:
        """Which fields (by bucket) changed since the last call."""
        ...

    def encode(self, changes: Mapping[str, Iterable[str]]) -> Fields:
        """The present values of these fields."""
        ...

    def restore(self, fields: Mapping[str, Mapping[str, bytes]]) -> None:
        """Takes the whole of the state but the ``users`` bucket, as `resident_buckets` were read."""
        ...

    def resident_names(self) -> dict[str, list[str]]:
        """All fields of the `resident_buckets` that there are, by bucket, as `encode` takes them."""
        ...

    def resident_buckets(self) -> tuple[str, ...]:
        """The buckets that are always in memory."""
        ...

    def evict(self, keep: int, pinned: set[str]) -> int:
        """Drops the least recently used states beyond ``keep``, never one in ``pinned`` nor one with deltas on
        an unknown base. Gives how many left."""
        ...

    def forget(self) -> None:
        """Lets go of all states; the machine is not used again. It is part of cycles, which free nothing by
        themselves."""
        ...

    def resident(self) -> int:
        """How many states are in memory."""
        ...
