"""The ledger: blocks of records, chained by their hashes, one partition of Kafka a shard.

Written form. A block is one JSON document, laid out so that it can be read without a full parser: the first
line holds the header, each record has a line of its own, the last line holds the chain::

    {"format":1,"prefix":"prod","shard":"u3","height":12,"prev_chain":"…",…,"records":[
    {"topic":"ad-requests","offset":7,…,"personal":{"routing":"u1","key":"u1","value":{…}}},
    {"topic":"impressions","offset":3,…}
    ],"chain":"…"}

``chain`` is the SHA-256 of all bytes before ``,"chain":``; it covers ``prev_chain``, so it proves the whole
history. An input's value is spliced in unchanged as the last member of ``personal`` (its length is the
record's ``bytes``), so that its exact bytes can be taken out again: audit and replay need them. A value that
is not JSON, or has a line break in it, is kept as ``value_b64`` instead.

Where sealing is on, ``personal`` of a public input's record is a text: what it holds is encrypted with the person's
key (see `sealing`), and with it everything else in the record that could tell of them. What stays open names no
person: deltas and result with the ids of decisions, campaigns, labels and amounts, so that the money can be followed
without any key.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from msgspec import Struct
from pydantic import JsonValue

from adgovernor.contracts.base import Contract, TimeMs
from adgovernor.contracts.errors import BadInput

FORMAT: Final = 1
"""Version of the written form."""
GENESIS: Final = ""
"""``prev_chain`` of a ledger's first block."""
ERASURE: Final = "erasure"
"""The result's kind of a record that ends the keys which its sealed part names."""
TICK: Final = "tick"
"""The cause of a record that time alone caused; its offset is -1."""
_TAIL_BYTES: Final = len('],"chain":""}') + 64
_JOINT: Final = b",\n"
_END: Final = b"\n]"
_N, _I, _BACKSLASH, _NEWLINE = b"NI\\\n"
_PERSONAL: Final = b',"personal":'
_ASSUMED: Final = b',"assumed":'
_SEALED: Final = _PERSONAL + b'"'
"""Begins the personal part of a sealed record; what is written as a text within JSON has its quotes escaped."""


class Personal(Contract):
    """All that names a person, in one field, so that it can be sealed and forgotten as one."""

    routing: str | None = None
    session: str | None = None
    ids: tuple[str | None, str | None] | None = None
    """User and device, where they are narrower than the routing id."""
    key: str | None = None
    key_b64: str | None = None
    """The key where it is not UTF-8."""
    value: JsonValue = None
    """The input's value, byte for byte."""
    value_b64: str | None = None
    """The value where it is not JSON on one line."""


class Record(Contract):
    """What one input caused. ``deltas`` are what ``fold`` applies; they and ``result`` name no person."""

    topic: str
    """The input's topic, or ``tick``."""
    offset: int
    digest: str
    """The first 16 hex digits of the SHA-256 of the input's key and value; empty where the record is sealed, because
    what can be guessed can be confirmed by its hash."""
    bytes: int
    """Length of the input's value in bytes."""
    result: dict[str, JsonValue]
    """What happened, for a reader: ``kind`` and its details."""
    deltas: tuple[tuple[JsonValue, ...], ...]
    out: tuple[tuple[str, str | None, JsonValue], ...] = ()
    """Public events: topic, key (None: the routing id) and body, less what the block's position gives."""
    send: tuple[tuple[str, int, str, JsonValue], ...] = ()
    """Side messages: destination shard, number, hash, payload."""
    assumed: dict[str, JsonValue] | None = None
    """Inputs that were not known and had to be assumed, such as the history of a person while the store was
    away."""
    personal: Personal | str | None = None
    """A text where it is sealed."""


class Block(Contract):
    """What one append commits."""

    format: int
    prefix: str
    shard: str
    height: int
    prev_chain: str
    owner: str
    """Who wrote it: host, process and start."""
    nonce: str
    """Random, so that no two attempts have the same bytes."""
    now_ms: TimeMs
    """The owner's clock when the block began; never decreasing along the chain. A claim has that of the block before
    it: the owner's is compared with the broker's only once the claim is there."""
    drained: bool
    """Every input had been read to its end."""
    rules: int
    """Version of ``decide`` and ``fold``."""
    epoch: int = 0
    """How often a person restarted this shard after a loss."""
    positions: dict[str, int]
    """Input offsets after this block: the next ones to read."""
    published: int
    """The height up to which every output was acknowledged when this block was written."""
    dn: dict[str, int]
    """The number of the first output in this block, for each output topic that it has outputs for."""
    recovery: dict[str, JsonValue] | None = None
    """What a person accepted when a new epoch began."""
    records: tuple[Record, ...]
    chain: str


@dataclass(slots=True)
class BlockHeader:
    """The header of a block about to be written; see `Block` for the fields."""

    prefix: str
    shard: str
    height: int
    prev_chain: str
    owner: str
    nonce: str
    now_ms: int
    drained: bool
    rules: int
    positions: dict[str, int]
    published: int
    dn: dict[str, int]
    epoch: int = 0
    recovery: dict[str, Any] | None = None


class Draft(Struct):
    """A record as ``decide`` makes it, before it is written. The lists are what `Record` documents."""

    result: dict[str, Any]
    deltas: list[list[Any]] = []
    out: list[list[Any]] = []
    send: list[list[Any]] = []
    assumed: dict[str, Any] | None = None


@dataclass(slots=True)
class ReadRecord:
    """A record as read back. ``line`` is its exact bytes."""

    data: dict[str, Any]
    line: bytes

    @property
    def topic(self) -> str:
        return str(self.data["topic"])

    @property
    def offset(self) -> int:
        return int(self.data["offset"])

    @property
    def personal(self) -> dict[str, Any]:
        """The personal part; empty where there is none or it cannot be read any more."""
        personal = self.data.get("personal")
        return personal if isinstance(personal, dict) else {}

    def draft(self) -> Draft:
        """The part that ``decide`` made."""
        data = self.data
        return Draft(
            data["result"], data["deltas"], data.get("out", []), data.get("send", []), data.get("assumed")
        )

    def key(self) -> bytes | None:
        """The input's key, byte for byte."""
        personal = self.personal
        if "key_b64" in personal:
            return b64decode(personal["key_b64"])
        key = personal.get("key")
        return None if key is None else key.encode()

    def value(self) -> bytes | None:
        """The input's value, byte for byte."""
        personal = self.personal
        if "value_b64" in personal:
            return b64decode(personal["value_b64"])
        if "value" not in personal:
            return None
        size = self.data["bytes"]
        return self.line[-size - 2 : -2]


@dataclass(slots=True)
class ReadBlock:
    """A block as read back, its hash verified."""

    header: BlockHeader
    chain: str
    records: list[ReadRecord]
    size: int


def digest_of(key: bytes | None, value: bytes | None) -> str:
    """The digest of an input's bytes that its record holds."""
    return hashlib.sha256(b"%b\0%b" % (key or b"", value or b"")).hexdigest()[:16]


def encode_personal(
    routing: str | None,
    session: str | None,
    key: bytes | None,
    value: bytes | None,
    is_json: bool,
    ids: tuple[str | None, str | None] | None = None,
) -> bytes:
    """The personal part in its written form; ``is_json`` says that ``value`` has been parsed as JSON."""
    if session is None and ids is None and is_json and routing is not None and value is not None:
        name = orjson.dumps(routing)
        if name[1:-1] == key and _NEWLINE not in value:
            # Nearly every event of a person is keyed by who they are.
            return b'{"routing":%b,"key":%b,"value":%b}' % (name, name, value)
    head: dict[str, Any] = {}
    if routing is not None:
        head["routing"] = routing
    if session is not None:
        head["session"] = session
    if ids is not None:
        head["ids"] = ids
    if key is not None:
        try:
            head["key"] = key.decode()
        except UnicodeDecodeError:
            head["key_b64"] = b64encode(key).decode()
    if value is None:
        return orjson.dumps(head)
    if not is_json or _NEWLINE in value:
        head["value_b64"] = b64encode(value).decode()
        return orjson.dumps(head)
    start = orjson.dumps(head)[:-1]
    return b'%b%b"value":%b}' % (start, b"," if head else b"", value)


def encode_record(
    topic: str,
    offset: int,
    digest: str,
    size: int,
    draft: Draft,
    personal: bytes,
    out: Sequence[Any] | None = None,
) -> bytes:
    """A record's line, without the joint to the next. ``out``: that of the draft, where it has been encoded."""
    data: dict[str, Any] = {
        "topic": topic,
        "offset": offset,
        "digest": digest,
        "bytes": size,
        "result": draft.result,
        "deltas": draft.deltas,
    }
    if draft.out:
        data["out"] = draft.out if out is None else out
    if draft.send:
        data["send"] = draft.send
    if draft.assumed is not None:
        data["assumed"] = draft.assumed
    return b'%b,"personal":%b}' % (orjson.dumps(data)[:-1], personal)


def encode_block(header: BlockHeader, lines: Sequence[bytes]) -> tuple[bytes, str]:
    """The block's bytes and its chain."""
    head: dict[str, Any] = {
        "format": FORMAT,
        "prefix": header.prefix,
        "shard": header.shard,
        "height": header.height,
        "prev_chain": header.prev_chain,
        "owner": header.owner,
        "nonce": header.nonce,
        "now_ms": header.now_ms,
        "drained": header.drained,
        "rules": header.rules,
        "epoch": header.epoch,
        "positions": header.positions,
        "published": header.published,
        "dn": header.dn,
    }
    if header.recovery is not None:
        head["recovery"] = header.recovery
    start = b'%b,"records":[\n' % orjson.dumps(head)[:-1]
    records = _JOINT.join(lines)
    # Hashed in parts, because a block is large: copying it takes longer than many a rule.
    digest = hashlib.sha256(start)
    digest.update(records)
    digest.update(_END)
    chain = digest.hexdigest()
    return b'%b%b%b,"chain":"%b"}' % (start, records, _END, chain.encode()), chain


def is_plain_json(value: bytes) -> bool:
    """Whether ``value``, accepted by a lenient parser, is JSON for every reader.

    Parsers differ on NaN, infinities and lone surrogates; such values are kept as ``value_b64``."""
    # Looking for one byte, given as its number, is many times faster than for a word, and most values have none.
    if (_N in value and b"NaN" in value) or (_I in value and b"Inf" in value) or _BACKSLASH in value:
        try:
            orjson.loads(value)
        except orjson.JSONDecodeError:
            return False
    return True


def parse_record(line: bytes, *, causes_only: bool = False) -> dict[str, Any]:
    """A record from its line, all but the input's value. ``causes_only``: see `parse_block`.

    Raises:
        BadInput: when it is no JSON object.
        ValueError: when it is no JSON at all.
    """
    # The input's value is not parsed: folding has no use for it, and it is half of the ledger's bytes. Its
    # length comes before anything that an input could have written, so the first match is the field.
    at = line.index(b'"bytes":') + 8
    end = line.index(b",", at)
    size = int(line[at:end])
    start = len(line) - size - 2
    if line[start - 8 : start] == b'"value":':
        line = line[:start] + b"null}}"
    if causes_only:
        # The personal part is the last member, and a text within it has its quotes escaped.
        personal = line.rindex(_PERSONAL)
        if line.find(_ASSUMED, end, personal) < 0:
            line = line[:end] + line[personal:]
    data = orjson.loads(line)
    if not isinstance(data, dict):
        raise BadInput("not a ledger block: a record is no JSON object")
    return data


def parse_block(value: bytes, *, causes_of: int | None = None) -> ReadBlock:
    """A block from its bytes. ``causes_of``: the rules by which the reader decides records again, which is several
    times the work of reading them; result, deltas and outputs are left out of the ``data`` of those that these rules
    decided, where none of the block is sealed.

    Raises:
        BadInput: when the bytes are no block of a format known here, or their hash is not their chain.
    """
    body, tail = value[: 1 - _TAIL_BYTES], value[1 - _TAIL_BYTES :]
    if not tail.startswith(b',"chain":"') or not tail.endswith(b'"}'):
        raise BadInput(
            "not a ledger block: it does not end in its chain; something else wrote to the ledger topic"
        )
    chain = tail[len(b',"chain":"') : -2].decode("ascii", "replace")
    if hashlib.sha256(body).hexdigest() != chain:
        raise BadInput("the block's bytes do not match its chain: it was changed after it was written")
    lines = body.split(b"\n")
    try:
        head = orjson.loads(lines[0] + b"]}")
        if head["format"] != FORMAT:
            raise BadInput(
                f"the block has format {head['format']}, this program reads {FORMAT}: use a newer release"
            )
        records = []
        causes_only = head["rules"] == causes_of and _SEALED not in body
        for line in lines[1:-1]:
            if line:
                exact = line.removesuffix(b",")
                records.append(ReadRecord(parse_record(exact, causes_only=causes_only), exact))
        header = BlockHeader(
            head["prefix"],
            head["shard"],
            head["height"],
            head["prev_chain"],
            head["owner"],
            head["nonce"],
            head["now_ms"],
            head["drained"],
            head["rules"],
            head["positions"],
            head["published"],
            head["dn"],
            head["epoch"],
            head.get("recovery"),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"not a ledger block: {error!r}") from error
    return ReadBlock(header, chain, records, len(value))
