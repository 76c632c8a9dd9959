"""Opening a sealed ledger's records, as far as persons' keys are still there. For audit, replay and resending."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from adgovernor.contracts.errors import Unavailable
from adgovernor.contracts.ledger import ERASURE, ReadBlock
from adgovernor.contracts.sealing import (
    NoKey,
    PersonKey,
    decode_key,
    id_in,
    id_of,
    is_sealed,
    key_names,
    keys_given_up,
    offset_of,
    unseal,
)
from adgovernor.runtime.key_log import KeyLog
from adgovernor.runtime.ports import READ_TRIES

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Keys:
    """The keys of one shard's people."""

    there: dict[str, PersonKey] = field(default_factory=dict)
    """By their id."""
    missing: set[str] = field(default_factory=set)
    """Names of keys that records are sealed with, that are gone, and that no erasure has ended so far."""
    ended: dict[str, int] = field(default_factory=dict)
    """Names of keys that erasures ended so far → height."""
    given_up: set[str] = field(default_factory=set)
    """Names of keys of which a person accepted that they are gone."""
    gone: set[str] = field(default_factory=set)
    """Ids whose tombstones were met after the ledger was begun to be read: what was read with them stays read."""
    end: int = 0
    """Where the topic is to be read on."""
    sealed: int = 0
    """Records met that were sealed."""
    named: int = 0
    """Behind the highest offset of a key that they name."""

    def take(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Takes a message of ``person-keys``, in their order.

        Raises:
            NewerKey: when a newer release wrote it.
            NoKey: when something else did.
        """
        name = id_in(key)
        self.end = offset + 1
        if value is None and self.sealed:
            self.gone.add(name)
        elif value is None:
            self.there.pop(name, None)
        else:
            self.there[name] = decode_key(offset, key, value)

    def behind(self, block: ReadBlock) -> bool:
        """Whether a block names keys that were made after the topic was read."""
        return any(
            offset_of(name) >= self.end
            for record in block.records
            if is_sealed(record)
            for name in key_names(record)
        )

    def open(self, block: ReadBlock) -> None:
        """Opens a block's sealed records in place; those whose key is gone stay as they are.

        Raises:
            BadInput: when a sealed part is not what was sealed.
        """
        for index, record in enumerate(block.records):
            if not is_sealed(record):
                continue
            self.sealed += 1
            names = key_names(record)
            self.named = max(self.named, *(offset_of(name) + 1 for name in names))
            if self.has(names[0]):
                block.records[index] = unseal(block.header, index, record, self.there[id_of(names[0])])
            else:
                self.missing.add(names[0])
            if record.data["result"]["kind"] == ERASURE:
                self.missing.difference_update(names)
                self.ended.update(dict.fromkeys(names, block.header.height))
        if block.header.recovery is not None:
            self.given_up.update(keys_given_up(block.header))
            self.missing -= self.given_up

    def has(self, name: str) -> bool:
        """Whether the key that a record names is there."""
        key = self.there.get(id_of(name))
        return key is not None and key.offset == offset_of(name)


async def read_keys(log: KeyLog, max_bytes: int) -> Keys:
    """All keys that a shard's partition has. What is no key was written by something else and is nobody's.

    Raises:
        NewerKey: when a newer release wrote one of them.
        Unavailable: when it cannot be read to its end.
    """
    keys, tries = Keys(), 0
    while True:
        events, end = await log.read(keys.end, max_bytes)
        for event in events:
            try:
                keys.take(event.offset, event.key, event.value)
            except NoKey as error:
                _log.warning("no key", offset=event.offset, error=str(error))
        if keys.end >= end:
            return keys
        tries = 0 if events else tries + 1
        if tries >= READ_TRIES:
            raise Unavailable(f"person-keys shows nothing at offset {keys.end}, its end is {end}")
