"""Which blocks of a ledger partition count, and what an append's answer means."""

from __future__ import annotations

import pytest

from adgovernor.contracts.ledger import BlockHeader, encode_block
from adgovernor.runtime.chain import NewerFormat, Place, Spine, Verdict, Walk, new_spine, spine_of, verdict
from adgovernor.runtime.ports import LedgerEntry


def block(
    height: int, prev: str, *, shard: str = "u0", prefix: str = "p", nonce: str = "", published: int = 0
) -> BlockHeader:
    return BlockHeader(
        prefix,
        shard,
        height,
        prev,
        "me",
        nonce,
        1000 * height,
        False,
        1,
        {"ad-requests": height},
        published,
        {},
    )


def written(header: BlockHeader) -> tuple[bytes, str]:
    return encode_block(header, [])


def walk_all(*values: bytes) -> list[int]:
    """The offsets of the messages that count."""
    walk = Walk("p", "u0")
    return [
        offset for offset, value in enumerate(values) if walk.step(LedgerEntry(offset, 0, value)) is not None
    ]


def test_a_chain_counts_block_by_block() -> None:
    """Blocks that follow each other by height and chain all count."""
    first, chain = written(block(1, ""))
    second, _ = written(block(2, chain))
    assert walk_all(first, second) == [0, 1]


def test_the_first_of_two_rivals_wins() -> None:
    """Of two blocks for one height the one that comes first in the log counts, and nothing follows the other."""
    first, chain = written(block(1, ""))
    mine, mine_chain = written(block(2, chain, nonce="a"))
    rival, rival_chain = written(block(2, chain, nonce="b"))
    after_rival, _ = written(block(3, rival_chain))
    after_mine, _ = written(block(3, mine_chain))
    assert walk_all(first, mine, rival, after_rival, after_mine) == [0, 1, 4]


def test_a_block_that_lands_twice_counts_once() -> None:
    """The second copy of a block has a height that is taken."""
    first, chain = written(block(1, ""))
    second, _ = written(block(2, chain))
    assert walk_all(first, second, second) == [0, 1]


@pytest.mark.parametrize(
    "stranger",
    [
        written(block(1, "", shard="u1"))[0],
        written(block(1, "", prefix="q"))[0],
        written(block(2, ""))[0],
        written(block(1, "0" * 64))[0],
        b"",
        b"{}",
        b"not a block",
        written(block(1, ""))[0].replace(b'"height":1', b'"height":2'),
    ],
)
def test_everything_else_is_void(stranger: bytes) -> None:
    """Another shard's, another deployment's, a wrong height, a wrong predecessor, garbage, changed bytes."""
    first, _ = written(block(1, ""))
    assert walk_all(stranger, first) == [1]


def test_a_newer_format_is_not_taken_for_void() -> None:
    """Blocks of a newer release stop the walk: to pass over them would fork the chain."""
    value = written(block(1, ""))[0].replace(b'{"format":1,', b'{"format":2,')
    with pytest.raises(NewerFormat, match="newer release"):
        Walk("p", "u0").step(LedgerEntry(0, 0, value))


@pytest.mark.parametrize(
    ("acknowledged", "walked", "expected"),
    [(7, 7, Verdict.ACCEPTED), (9, 7, Verdict.GAP), (6, 7, Verdict.LOST), (0, 7, Verdict.LOST)],
)
def test_the_verdict_compares_with_what_was_walked(acknowledged: int, walked: int, expected: Verdict) -> None:
    """Equal: accepted; greater: others' messages lie between; lower: the log lost messages."""
    assert verdict(acknowledged, walked) is expected


def advance(spine: Spine, header: BlockHeader, offset: int, **outputs: int) -> str:
    _, chain = written(header)
    spine.advance(header, chain, offset, outputs)
    return chain


def test_the_spine_adds_headers_up() -> None:
    """Tip, positions, clock, the next numbers and the acknowledged outputs follow from the headers."""
    spine = new_spine("u0")
    first = block(1, "")
    first.dn = {"decisions": 1}
    chain = advance(spine, first, 4, decisions=3)
    second = block(2, chain, published=1)
    tip = advance(spine, second, 6)
    assert (spine.ledger, spine.height, spine.chain, spine.tip_offset, spine.offset) == (chain, 2, tip, 6, 7)
    assert spine.dn == {"decisions": 4}
    assert spine.positions == {"ad-requests": 2}
    assert spine.now_ms == 2000
    assert spine.published == Place(1, chain, 5)


def test_the_spine_survives_the_store() -> None:
    """What a store keeps of the spine gives it back."""
    spine = new_spine("u0")
    chain = advance(spine, block(1, ""), 4)
    advance(spine, block(2, chain, published=1), 6)
    back = spine_of(spine.meta())
    spine.places.clear()
    assert back == spine


def test_published_never_goes_back() -> None:
    """A block written before an acknowledgement came does not undo it."""
    spine = new_spine("u0")
    chain = advance(spine, block(1, ""), 0)
    spine.published_up_to(1)
    advance(spine, block(2, chain, published=0), 1)
    assert spine.published.height == 1
