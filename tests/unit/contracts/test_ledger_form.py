"""The ledger's written form: what goes in comes out byte for byte, and one changed byte is found."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.ledger import (
    BlockHeader,
    Draft,
    ReadBlock,
    digest_of,
    encode_block,
    encode_personal,
    encode_record,
    parse_block,
)
from adgovernor.contracts.sealing import PersonKey, Unreadable, seal, unseal
from adgovernor.core import inputs

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NASTY = (
    b'{"bytes":99,"value":null}',
    b'{"a":"],\\"chain\\":\\"0000"}',
    b'{"a":"\\"value\\":"}',
    b'"value":',
    b'"\\"value\\":',
    b'{"deep":' + b"[" * 400 + b"]" * 400 + b"}",
    b'{"n":' + b"9" * 400 + b"}",
    b'{"n":1e400}',
    b'{"n":NaN,"m":-Infinity}',
    b'{"s":"\\ud800"}',
    b'{"s":"\xe2\x80\xa8\xe2\x80\xa9"}',
    b'{"a":\n1}',
    b'{"a":\r1}',
    b' {"a" : 1 } ',
    b"\xff\xfe\x00",
    b"},",
    b"",
    b"null",
    b"0",
)


def _header(**fields: Any) -> BlockHeader:
    values: dict[str, Any] = {
        "prefix": "p",
        "shard": "u0",
        "height": 3,
        "prev_chain": "ab",
        "owner": "w1",
        "nonce": "n",
        "now_ms": 5,
        "drained": True,
        "rules": 1,
        "positions": {"ad-requests": 7},
        "published": 2,
        "dn": {"decisions": 4},
    }
    return BlockHeader(**{**values, **fields})


def _line(
    offset: int,
    key: bytes | None,
    value: bytes | None,
    *,
    topic: str = "ad-requests",
    draft: Draft | None = None,
) -> bytes:
    event = inputs.read(topic, offset, key, value)
    personal = encode_personal("ann", "s1", key, value, event.is_json)
    draft = Draft({"kind": "x"}, [["seen", "r", 1]])
    return encode_record(topic, offset, digest_of(key, value), len(value or b""), draft, personal)


def _round_trip(pairs: list[tuple[bytes | None, bytes | None]]) -> ReadBlock:
    lines = [_line(number, key, value) for number, (key, value) in enumerate(pairs)]
    written, chain = encode_block(_header(), lines)
    block = parse_block(written)
    assert (block.chain, block.header, block.size) == (chain, _header(), len(written))
    assert [record.line for record in block.records] == lines
    for record, (key, value) in zip(block.records, pairs, strict=True):
        assert record.key() == key
        assert (record.value() or b"") == (value or b"")
        assert record.data["digest"] == digest_of(key, value)
        assert record.personal["routing"] == "ann"
        assert record.draft().deltas == [["seen", "r", 1]]
    return block


@pytest.mark.parametrize("value", NASTY)
def test_hostile_values_come_out_unchanged(value: bytes) -> None:
    """Values that look like the ledger's own words, break lines, or are no JSON at all survive byte for byte."""
    _round_trip([(b"k", b"{}"), (value, value), (None, value), (b"k", None)])


@given(
    st.lists(
        st.tuples(
            st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=60) | st.sampled_from(NASTY)
        ),
        max_size=6,
    )
)
def test_any_bytes_come_out_unchanged(pairs: list[tuple[bytes | None, bytes | None]]) -> None:
    """Any keys and values, in any number, come back byte for byte."""
    _round_trip(pairs)


@given(JSON, st.sampled_from((None, 2)), st.booleans(), st.sampled_from(topics.PUBLIC_INPUTS))
@settings(deadline=None)
def test_any_json_comes_out_unchanged_and_the_block_stays_json(
    document: Any, indent: int | None, ascii_only: bool, topic: str
) -> None:
    """Whatever JSON a publisher writes, every line of the block is JSON for every reader."""
    value = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    line = _line(0, b"k", value, topic=topic)
    written, _ = encode_block(_header(), [line])
    assert parse_block(written).records[0].value() == value
    orjson.loads(line)
    orjson.loads(written)


@pytest.mark.parametrize("value", NASTY)
@pytest.mark.parametrize("topic", topics.PUBLIC_INPUTS)
def test_every_block_is_json_for_every_reader(topic: str, value: bytes) -> None:
    """Also with hostile values in it, a block is one JSON document to a strict parser and to Python's own."""
    written, _ = encode_block(_header(), [_line(0, b"k", value, topic=topic)])
    orjson.loads(written)
    json.loads(written)


def _refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize(
    "metadata",
    [b"NaN", b"Infinity", b"-Infinity", b"1e400", b'"\\ud800"', b"9" * 400, b"[" * 150 + b"]" * 150],
)
def test_what_parsers_disagree_on_is_accepted_and_kept_apart(metadata: bytes) -> None:
    """A request with odd metadata is decided on; in the ledger its value does not spoil the block's grammar."""
    value = b'{"request_id":"r","time_ms":5,"candidates":[],"metadata":{"m":%b}}' % metadata
    written, _ = encode_block(_header(), [_line(0, b"k", value)])
    assert parse_block(written).records[0].value() == value
    json.loads(written, parse_constant=_refuse)
    # What some parsers refuse stands aside; numbers that are merely large are JSON.
    assert (b'"value_b64"' in written) == (metadata in {b"NaN", b"Infinity", b"-Infinity", b'"\\ud800"'})


@given(st.data())
@settings(max_examples=300)
def test_one_changed_byte_is_found(data: st.DataObject) -> None:
    """Whatever single byte of a block is changed, reading it fails with words, never with a crash."""
    written, _ = encode_block(_header(), [_line(0, b"k", b'{"a":1}'), _line(1, b"k", b"\xff")])
    place = data.draw(st.integers(0, len(written) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != written[place]))
    with pytest.raises(BadInput):
        parse_block(written[:place] + bytes([byte]) + written[place + 1 :])


@given(st.binary(max_size=300))
def test_what_is_no_block_is_told(value: bytes) -> None:
    """Anything else on the ledger topic is refused in words."""
    with pytest.raises(BadInput):
        parse_block(value)


def test_a_block_without_records_is_a_block() -> None:
    """A claim has no records."""
    assert _round_trip([]).records == []


def test_the_chain_covers_what_came_before() -> None:
    """The same records after another history have another chain."""
    assert encode_block(_header(), [])[1] != encode_block(_header(prev_chain="ac"), [])[1]


def test_a_newer_format_is_named() -> None:
    """A block of a later format says that a newer release is needed, even though its bytes are sound."""
    written, _ = encode_block(_header(), [])
    body = written.replace(b'"format":1', b'"format":9')[: 1 - (len('],"chain":""}') + 64)]
    changed = body + b',"chain":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'
    with pytest.raises(BadInput, match="newer release"):
        parse_block(changed)


def test_sealed_personal_parts_are_read_as_nothing() -> None:
    """Where the personal part is a sealed text, a record still folds: routing, key and value are unknown."""
    line = encode_record("ad-requests", 1, "d", 10, Draft({"kind": "x"}), b'"c2VhbGVk"')
    written, _ = encode_block(_header(), [line])
    record = parse_block(written).records[0]
    assert (record.personal, record.key(), record.value()) == ({}, None, None)
    assert record.data["personal"] == "c2VhbGVk"


@pytest.mark.parametrize("moved", ["topic", "offset", "index", "height"])
def test_a_sealed_record_opens_at_its_place_alone(moved: str) -> None:
    """Under another topic, offset, place or block a sealed record is as good as changed."""
    value = b'{"request_id":"r","time_ms":5,"candidates":[]}'
    line, header = _line(1, b"k", value), _header()
    key = PersonKey(4, "ann-1", bytes(32))
    draft = Draft({"kind": "x"}, [["seen", "r", 1]])
    personal = encode_personal("ann", "s1", b"k", value, True)
    sealed = seal(header, 0, line, draft, personal, ("ad-requests", 1), [key])
    written, _ = encode_block(header, [sealed])
    record = parse_block(written).records[0]
    assert unseal(header, 0, record, key).line == line
    if moved in {"topic", "offset"}:
        record.data[moved] = {"topic": "impressions", "offset": 2}[moved]
    with pytest.raises(Unreadable, match="changed or moved"):
        unseal(_header(height=4) if moved == "height" else header, int(moved == "index"), record, key)
