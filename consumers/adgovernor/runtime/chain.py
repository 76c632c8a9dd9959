"""The rules of the chain: which blocks of a ledger partition count, and what an append's answer means. Pure.

A block counts only where it names this prefix and shard, its height is the last one's plus one, and its
``prev_chain`` is the last one's chain. Every other message of the partition is void. First in log order wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.ledger import FORMAT, GENESIS, BlockHeader, ReadBlock, parse_block
from adgovernor.runtime.ports import LedgerEntry
from adgovernor.stores.base import Meta, Tip

_MARK: Final = "~"
_FORMAT = re.compile(rb'\{"format":(\d+),')


class NewerFormat(BadInput):
    """The ledger holds blocks that only a newer release understands; to take them for void would fork it."""


class Walk:
    """Reads a ledger partition in offset order, from its start or from a place that is trusted.

    Attributes:
        offset: the next offset to walk.
        height, chain: of the last block that counts.
        tip_offset: where that lies.
    """

    __slots__ = ("chain", "height", "offset", "prefix", "shard", "tip_offset")

    def __init__(
        self, prefix: str, shard: str, *, offset: int = 0, height: int = 0, chain: str = GENESIS
    ) -> None:
        self.prefix = prefix
        self.shard = shard
        self.offset = offset
        self.height = height
        self.chain = chain
        self.tip_offset = offset - 1

    def step(self, entry: LedgerEntry) -> ReadBlock | None:
        """Moves over one message; the block where it counts, None where it is void.

        Raises:
            NewerFormat: when a newer release wrote the message.
        """
        assert entry.offset >= self.offset, "messages are walked in order, each once"
        self.offset = entry.offset + 1
        try:
            block = parse_block(entry.value)
        except BadInput as error:
            written = _FORMAT.match(entry.value)
            if written and int(written[1]) > FORMAT:
                raise NewerFormat(
                    f"the message at ledger offset {entry.offset} has format {int(written[1])}, this program reads "
                    f"{FORMAT}: run the newer release everywhere"
                ) from error
            return None
        return block if self.take(entry.offset, block) else None

    def take(self, offset: int, block: ReadBlock) -> bool:
        """As `step`, of a message that has been parsed; whether it counts."""
        self.offset = offset + 1
        if not self.counts(block.header):
            return False
        self.height, self.chain, self.tip_offset = block.header.height, block.chain, offset
        return True

    def counts(self, header: BlockHeader) -> bool:
        """Whether a block with this header is the next of the chain."""
        return (
            header.prefix == self.prefix
            and header.shard == self.shard
            and header.height == self.height + 1
            and header.prev_chain == self.chain
        )

    def take_own(self, offset: int, height: int, chain: str) -> None:
        """Moves over a block of our own that was acknowledged at exactly the next offset to walk."""
        assert offset == self.offset
        assert height == self.height + 1
        self.offset, self.height, self.chain, self.tip_offset = offset + 1, height, chain, offset


def chain_in(value: bytes) -> str | None:
    """The chain of the block in a ledger message; None where it is no block."""
    try:
        return parse_block(value).chain
    except BadInput:
        return None


def cut(ledger: str, first: int, wanted: int) -> str:
    """What to say of a ledger partition of which what is to be read was deleted. ``ledger``: its name; ``first``: the
    offset at which it begins; ``wanted``: the one at which reading should."""
    return (
        f"{ledger} begins at offset {first}, and offset {wanted} is to be read: what was before was deleted, by the "
        "topic's retention or compaction, by hand (delete-records) or with a disk. No ledger may expire: stop that "
        "first (`adgovernor check`), then see deploy/OPERATIONS.md, `ledger_cut`"
    )


class Verdict(Enum):
    """What an acknowledged offset means for the block that was appended."""

    ACCEPTED = "accepted"
    GAP = "gap"
    """Others' messages lie before it: walk them first."""
    LOST = "lost"
    """The log is shorter than it was when the block was sent."""


def verdict(acknowledged: int, walked: int) -> Verdict:
    """The verdict on a block acknowledged at an offset, sent when ``walked`` was the next offset to walk."""
    if acknowledged == walked:
        return Verdict.ACCEPTED
    return Verdict.GAP if acknowledged > walked else Verdict.LOST


@dataclass(frozen=True, slots=True)
class Place:
    """A block of the chain and the offset after it: where a walk may start."""

    height: int
    chain: str
    offset: int


START: Final = Place(0, GENESIS, 0)


@dataclass(slots=True)
class Spine:
    """The runtime's own part of a shard's state: what the headers of the blocks add up to."""

    ledger: str = ""
    """The chain of block 1."""
    building: str = ""
    """The mark of the stay that builds up a store's state, until that is whole (see `build_mark`)."""
    height: int = 0
    chain: str = GENESIS
    tip_offset: int = -1
    """Where the last block that counts lies."""
    offset: int = 0
    """The next offset to walk."""
    positions: dict[str, int] = field(default_factory=dict)
    dn: dict[str, int] = field(default_factory=dict)
    """The next number of each output topic; 1 where it is missing."""
    epoch: int = 0
    now_ms: int = 0
    published: Place = START
    """Every output up to here is acknowledged."""
    rules: int = 0
    """Version of those that decided the last block that counts."""
    places: list[Place] = field(default_factory=list)
    """Blocks after ``published``, oldest first. Not written: a walk from ``published`` finds them again."""

    @property
    def tip(self) -> Tip:
        """The tip that a store has when its state is the fold up to here."""
        return Tip(self.ledger + self.building, self.height, self.chain)

    @property
    def reached(self) -> tuple[int, int, str]:
        """The epoch, height and chain of the last block that counts."""
        return self.epoch, self.height, self.chain

    def advance(self, header: BlockHeader, chain: str, offset: int, outputs: Mapping[str, int]) -> None:
        """Takes the next block of the chain, found at ``offset``; ``outputs`` counts its outputs by topic."""
        assert header.height == self.height + 1
        if header.height == 1:
            self.ledger = chain
        self.height, self.chain, self.tip_offset, self.offset = header.height, chain, offset, offset + 1
        self.positions = dict(header.positions)
        self.now_ms = header.now_ms
        self.rules = header.rules
        self.epoch = header.epoch
        for topic, first in header.dn.items():
            self.dn[topic] = first + outputs.get(topic, 0)
        if header.recovery is not None:
            self.dn.update(header.recovery.get("dn", {}))
        self.places.append(Place(header.height, chain, offset + 1))
        self.published_up_to(header.published)

    def published_up_to(self, height: int) -> None:
        """Outputs up to ``height`` are acknowledged. A height that is behind changes nothing."""
        gone = 0
        for place in self.places:
            if place.height > height:
                break
            self.published = place
            gone += 1
        del self.places[:gone]

    def encode(self) -> bytes:
        """For `Meta.spine`."""
        published = self.published
        return orjson.dumps(
            {
                "offset": self.offset,
                "tip_offset": self.tip_offset,
                "positions": self.positions,
                "dn": self.dn,
                "epoch": self.epoch,
                "now_ms": self.now_ms,
                "published": [published.height, published.chain, published.offset],
                "rules": self.rules,
            }
        )

    def meta(self) -> Meta:
        """What a store should say once it is here."""
        return Meta(self.tip, self.encode())


def build_mark(nonce: str) -> str:
    """What the ledger's id in a store ends with while one stay builds up the state of a sealed ledger. Which keys it
    finds on the way depends on when it looks, so until the whole ledger is folded, with all that ended keys, its state
    is not another stay's or an older copy's of the same height, and must not be continued as if it were."""
    return _MARK + nonce


def ledger_of(tip: Tip) -> str:
    """The id of the ledger that a store's tip belongs to."""
    return tip.ledger.partition(_MARK)[0]


def spine_of(meta: Meta) -> Spine:
    """The spine that a store's meta holds.

    Raises:
        BadInput: when something else wrote it.
    """
    try:
        data: dict[str, Any] = orjson.loads(meta.spine)
        height, chain, offset = data["published"]
        return Spine(
            ledger_of(meta.tip),
            height=meta.tip.height,
            chain=meta.tip.chain,
            tip_offset=data["tip_offset"],
            offset=data["offset"],
            positions=data["positions"],
            dn=data["dn"],
            epoch=data["epoch"],
            now_ms=data["now_ms"],
            published=Place(height, chain, offset),
            rules=data.get("rules", 0),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"the store's meta is not this program's: {error!r}; empty the shard's keys"
        ) from error


def count_outputs(block: ReadBlock) -> dict[str, int]:
    """How many outputs a block has, by topic."""
    counts: dict[str, int] = {}
    for record in block.records:
        for topic, _, _ in record.data.get("out", ()):
            counts[topic] = counts.get(topic, 0) + 1
    return counts


def new_spine(shard: str) -> Spine:
    """The spine before the first block: every input from its start."""
    return Spine(positions=dict.fromkeys(topics.input_topics(shard), 0))
