"""What an engine tells of itself: calls per block, never per event."""

from __future__ import annotations

from collections.abc import Mapping

from adgovernor.runtime.counts import Counts


class Observer:
    """Hooks for metrics and logs, which do nothing here. They must return at once and never raise."""

    def block_accepted(
        self,
        shard: str,
        *,
        height: int,
        events: int,
        size: int,
        counts: Counts,
        read_s: float,
        decide_s: float,
        append_s: float,
    ) -> None:
        """A block is in the ledger. ``counts``: what its records say; the times are those of cold reads, of deciding
        and encoding, and of the append."""

    def published(self, shard: str, *, height: int, outputs: int, seconds: float) -> None:
        """Outputs up to ``height`` are acknowledged."""

    def block_void(self, shard: str, *, height: int) -> None:
        """Another owner's block came first."""

    def append_unknown(self, shard: str, *, height: int, error: str) -> None:
        """An append was not acknowledged."""

    def took_over(self, shard: str, *, height: int, folded: int, seconds: float, reason: str) -> None:
        """The shard's state is in memory and input may come; ``folded`` blocks were read."""

    def halted(self, shard: str, *, reason: str, message: str) -> None:
        """The shard stopped until a person has looked."""

    def halt_left(self, shard: str) -> None:
        """A shard that had halted here went to another worker, which tells of it from now on."""

    def store_written(self, shard: str, *, height: int, fields: int, seconds: float) -> None:
        """The store is at ``height``."""

    def store_trail(self, shard: str, *, blocks: int, dirty: int, away: bool) -> None:
        """How far the store is behind, in blocks and in states; whether it does not answer or takes nothing."""

    def cold_read(self, shard: str, *, wanted: int, asked: int) -> None:
        """Of ``wanted`` states that a block needed, ``asked`` were not in memory."""

    def lag(self, shard: str, lags: Mapping[str, int]) -> None:
        """Inputs not yet handled, by topic."""

    def released(self, shard: str) -> None:
        """The shard is no longer owned here: what is shown of it by shard should go."""
