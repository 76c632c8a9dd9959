"""What the states of both machines have in common: a record's deltas are folded one by one, and what changed is noted.

Each delta is applied by the method that the state gives for its first word; nothing else changes a state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import Draft
from adgovernor.core import links
from adgovernor.core.machine import RULES, Links
from adgovernor.core.rules import Rules


class FoldedState:
    """Rules, watermark and links of a shard, and the record at hand."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.partition = topics.partition_of_shard(shard)
        self.rules = Rules(partitions=1)
        self.has_rules = False
        self.folded_rules = RULES
        """Version of the rules that decided the record at hand: it is folded as their release folded it."""
        self.watermark_ms = 0
        self.links = Links()
        self.now_ms = 0
        self.height = 0
        self.index = -1
        self._draft = Draft({})
        self._changed: dict[str, set[str]] = {}
        self._ops: dict[str, Callable[..., None]] = {
            "rules": self._on_rules,
            "wm": self._on_wm,
            "took": self._on_took,
        }

    def emit(self, delta: list[Any]) -> None:
        """Adds a delta to the record, and folds it."""
        self._draft.deltas.append(delta)
        self.apply(delta)

    def apply(self, delta: list[Any]) -> None:
        """Applies one delta."""
        self._ops[delta[0]](*delta[1:])

    def begin_fold(self, height: int, now_ms: int, drained: bool, rules: int = RULES) -> None:
        """See `machine.Machine.begin_fold`."""
        self.folded_rules = rules
        self.height = height
        self.now_ms = now_ms
        self.index = -1

    def _taken(self, kind: str, draft: Draft, message: Mapping[str, Any], offset: int) -> bool:
        """Judges a side message (see `links.verdict`) and records that, as ``kind`` where it is taken; whether it is
        to be obeyed."""
        what = links.verdict(self.links, self.shard, message, offset)
        source, number = message["source"], message["number"]
        draft.result = {
            "kind": kind if what == "take" else f"{kind}_{what}",
            "source": source,
            "number": number,
        }
        if what in {"take", "lost"}:
            self.emit(["took", source, number, message["hash"]])
        return what == "take"

    def _fold(self, draft: Draft) -> None:
        self.index += 1
        for delta in draft.deltas:
            self.apply(delta)
        for destination, number, digest, _ in draft.send:
            self.links.sent[destination] = (number, digest)
            self.touch_core()

    def recover(self, recovery: Mapping[str, Any]) -> None:
        """See `machine.Machine.recover`."""
        links.recover(self.links, recovery)
        self.touch_core()

    def take_changes(self) -> dict[str, set[str]]:
        """See `machine.Machine.take_changes`."""
        changed, self._changed = self._changed, {}
        return changed

    def _core_bytes(self, **own: Any) -> bytes:
        """The stored form of what has no bucket of its own: what both machines have, and a machine's own."""
        return orjson.dumps(
            {
                "rules": self.rules.as_dict() if self.has_rules else None,
                "watermark_ms": self.watermark_ms,
                **own,
                "links": links.encode_links(self.links),
            }
        )

    def _restore_core(self, value: bytes) -> dict[str, Any]:
        """Takes what both machines have from the stored form; gives all of it."""
        data: dict[str, Any] = orjson.loads(value)
        if data["rules"] is not None:
            self.rules = Rules.from_dict(data["rules"])
            self.has_rules = True
        self.watermark_ms = data["watermark_ms"]
        self.links = links.decode_links(data["links"])
        return data

    def touch_core(self) -> None:
        """Marks what has no bucket of its own as changed."""
        self._mark("core", "state")

    def _mark(self, bucket: str, name: str) -> None:
        try:
            self._changed[bucket].add(name)
        except KeyError:
            self._changed[bucket] = {name}

    def _on_rules(self, parameters: dict[str, Any]) -> None:
        self.rules = Rules.from_dict(parameters)
        self.has_rules = True
        self.touch_core()

    def _on_wm(self, watermark_ms: int) -> None:
        assert watermark_ms > self.watermark_ms, "the watermark never goes back"
        self.watermark_ms = watermark_ms
        self.touch_core()

    def _on_took(self, source: str, number: int, digest: str) -> None:
        self.links.taken[source] = (number, digest)
        self.touch_core()
