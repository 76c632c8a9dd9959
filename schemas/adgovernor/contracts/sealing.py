"""Sealed records: what names a person, encrypted with a key of their own. Destroying the key forgets them.

What lives here: the written form, and the cipher. What never does: where keys are kept, and when one is made or
destroyed (the runtime's `keyring`).

A sealed record's ``personal`` is a text: the names of keys, a dot, the sealed bytes in base64. The first key is the one
that it is sealed with; an erasure names every key of the person, all of which it ends. A key's name is the offset of
its message on ``person-keys`` and the message's key, 96 random bits: neither tells anything of the person, and a reader
of the ledger finds keys by walking that topic beside it.

The cipher is AES-256-GCM. Its nonce must never come twice with one key, and a place in the ledger is not enough for
that: the block of a height is written anew, with other contents, after an append that failed or by another owner. So
the nonce is the SHA-256 of the block's own nonce (96 random bits for each attempt), its owner, shard, height and the
record's index, cut to 96 bits; bytes that are sent again are the same bytes. The associated data is the record's place:
prefix, shard, height, index and input position, so that a sealed part cannot be moved to another record.

Within: a line with what else is hidden (the digest of the input, assumptions, the outputs of a poison event), then the
personal part as it would stand unsealed.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from adgovernor.contracts.errors import BadInput, BadSettings
from adgovernor.contracts.ledger import BlockHeader, Draft, ReadRecord
from adgovernor.contracts.topics import DLQS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
ID_BYTES: Final = 12
NO_KEY: Final = "none"
"""Key of messages on ``person-keys`` that are nobody's: they show where the topic ends, or fill lost offsets."""
_DIGEST: Final = b'"digest":"'
_PERSONAL: Final = b',"personal":'


class Unreadable(BadInput):
    """A sealed part does not open with the key that it names: it was changed, or moved from another place."""


class NoKey(BadInput):
    """A message of ``person-keys`` that something else wrote; it is nobody's key."""


class NewerKey(BadInput):
    """A person's key that only a newer release understands; to take it for none would give the person's history up."""


@dataclass(slots=True)
class PersonKey:
    """One key of one person (or of nobody known: poison without a message key)."""

    offset: int
    """Of its message on ``person-keys``."""
    id: str
    """That message's key."""
    secret: bytes
    subject: str | None = None
    """Whose it is, where that is known already: their routing id."""
    _cipher: AESGCM | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What sealed records call it."""
        return f"{self.offset}-{self.id}"

    @property
    def cipher(self) -> AESGCM:
        """Made once for each key in memory.

        Raises:
            BadSettings: where the library is not installed.
        """
        if self._cipher is None:
            self._cipher = _aes_gcm(self.secret)
        return self._cipher


def _aes_gcm(secret: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise BadSettings(
            "sealing needs the library `cryptography`: pip install 'adgovernor[sealing]', or set rules.sealing to "
            "false for a new deployment"
        ) from error
    return AESGCM(secret)


def check_available() -> None:
    """Raises `BadSettings` where records cannot be sealed on this machine."""
    _aes_gcm(bytes(KEY_BYTES))


# --- Keys on their topic ---------------------------------------------------------------------------------------


def encode_key(secret: bytes) -> bytes:
    """The value of a key's message."""
    return orjson.dumps({"alg": "A256GCM", "k": b64encode(secret).decode()})


def decode_key(offset: int, name: bytes | None, value: bytes) -> PersonKey:
    """The key in a message of ``person-keys``; ``name`` is the message's own key.

    Raises:
        NewerKey: when a newer release wrote it.
        NoKey: when something else did.
    """
    try:
        data = orjson.loads(value)
        if data["alg"] != "A256GCM":
            raise NewerKey(
                f"a person's key is for {data['alg']!r}, this program knows A256GCM: use a newer release"
            )
        secret = b64decode(data["k"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise NoKey(f"not a person's key: {error!r}; only workers write to this topic") from error
    if len(secret) != KEY_BYTES:
        raise NoKey(
            f"a person's key has {len(secret)} bytes, not {KEY_BYTES}; only workers write to this topic"
        )
    return PersonKey(offset, id_in(name), secret)


def id_in(name: bytes | None) -> str:
    """What the key of a message on ``person-keys`` calls its key."""
    return (name or b"").decode("ascii", "replace")


def offset_of(name: str) -> int:
    """Where on ``person-keys`` the key of this name lies."""
    return int(name.partition("-")[0])


def id_of(name: str) -> str:
    """The key of that message."""
    return name.partition("-")[2]


# --- Records ---------------------------------------------------------------------------------------------------


def subject_of(routing: str | None, key: bytes | None) -> str:
    """Whose key a record is sealed with: the person that it is about; where that is not known, whoever the message's
    key names; empty for nobody."""
    if routing:
        return routing
    try:
        return (key or b"").decode()
    except UnicodeDecodeError:
        return ""


def is_sealed(record: ReadRecord) -> bool:
    """Whether a record's personal part is encrypted."""
    return isinstance(record.data.get("personal"), str)


def keys_given_up(header: BlockHeader) -> list[str]:
    """The names of keys of which a person accepted with this block that they are gone."""
    found = (header.recovery or {}).get("keys", [])
    return [str(name) for name in found] if isinstance(found, list) else []


def key_names(record: ReadRecord) -> list[str]:
    """The keys that a sealed record names, the one that it is sealed with first.

    Raises:
        BadInput: when it is no sealed record.
    """
    text = record.data.get("personal")
    names, dot, _ = text.partition(".") if isinstance(text, str) else ("", "", "")
    found = names.split("+")
    if not dot or not all(offset.isdecimal() for offset, _, _ in (name.partition("-") for name in found)):
        raise BadInput(
            "a record's sealed part does not name its key; was the ledger written by something else?"
        )
    return found


def _nonce(header: BlockHeader, index: int) -> bytes:
    place = f"{header.nonce}\0{header.owner}\0{header.shard}\0{header.height}\0{index}"
    return hashlib.sha256(place.encode()).digest()[:12]


def _place(header: BlockHeader, index: int, topic: str, offset: int) -> bytes:
    return f"{header.prefix}\0{header.shard}\0{header.height}\0{index}\0{topic}\0{offset}".encode()


def seal(
    header: BlockHeader,
    index: int,
    line: bytes,
    draft: Draft,
    personal: bytes,
    place: tuple[str, int],
    keys: list[PersonKey],
) -> bytes:
    """A record's line, sealed. ``line`` is the unsealed one, which ends in ``personal``; ``draft`` is what it was made
    of; ``place`` is the input's topic and offset. The first of ``keys`` seals, all are named."""
    at = line.index(_DIGEST) + len(_DIGEST)
    end = line.index(b'"', at)
    hidden: dict[str, Any] = {"digest": line[at:end].decode()}
    opened = line[: len(line) - len(personal) - len(_PERSONAL) - 1]
    letters = any(topic in DLQS for topic, _, _ in draft.out)
    if draft.assumed is not None or letters:
        data = orjson.loads(opened + b"}")
        if draft.assumed is not None:
            hidden["assumed"] = data.pop("assumed")
        if letters:
            # The explanation may quote the input.
            hidden["out"] = data["out"]
            data["out"] = [
                [topic, key, {"reason": body["reason"]} if topic in DLQS else body]
                for topic, key, body in data["out"]
            ]
        opened = orjson.dumps(data)[:-1]
    text = orjson.dumps(hidden) + b"\n" + personal
    sealed = keys[0].cipher.encrypt(_nonce(header, index), text, _place(header, index, *place))
    names = "+".join(key.name for key in keys)
    return b'%b%b%b"%b.%b"}' % (opened[:at], opened[end:], _PERSONAL, names.encode(), b64encode(sealed))


def unseal(header: BlockHeader, index: int, record: ReadRecord, key: PersonKey) -> ReadRecord:
    """A sealed record as it would stand unsealed, byte for byte.

    Raises:
        Unreadable: when its bytes or its place are not those that were sealed with this key.
    """
    from cryptography.exceptions import InvalidTag

    data = dict(record.data)
    _, _, text = data["personal"].partition(".")
    try:
        plain = key.cipher.decrypt(
            _nonce(header, index),
            b64decode(text, validate=True),
            _place(header, index, record.topic, record.offset),
        )
    except (InvalidTag, NotBase64) as error:
        raise Unreadable(
            f"record {index} of block {header.height} does not open with its key {key.name}: it was changed or moved"
        ) from error
    head, _, personal = plain.partition(b"\n")
    hidden = orjson.loads(head)
    data["digest"] = hidden["digest"]
    if "out" in hidden:
        data["out"] = hidden["out"]
    send = data.pop("send", None)
    if send is not None:
        data["send"] = send
    if "assumed" in hidden:
        data["assumed"] = hidden["assumed"]
    del data["personal"]
    line = b"%b%b%b}" % (orjson.dumps(data)[:-1], _PERSONAL, personal)
    size = data["bytes"]
    if line[len(line) - size - 10 : len(line) - size - 2] == b'"value":':
        # Folding has no use for the value, so it is not parsed, as in `ledger.parse_block`.
        personal = personal[: len(personal) - size - 1] + b"null}"
    data["personal"] = orjson.loads(personal)
    return ReadRecord(data, line)
