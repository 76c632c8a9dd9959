"""How much of what expires is to be expected late after all.

The fate of an expired reservation is known when its event can come no more. Until that of some is, all of what expires
is expected late: a small budget that is spent within minutes would otherwise give away the money of ads that are shown
later. Each shard learns this for each kind of event that is paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from adgovernor.core.history import NEVER

_MANY: Final = 65_536
"""Beyond so many known fates, older ones count half: traffic changes."""
_MARGIN_PERCENT: Final = 110
"""So much of the share of late events seen so far is expected of the next: they come by chance, and an amount short is
shown but never paid, while one too many is only free for others half an hour later."""
_FEW: Final = 2
"""So many are taken to have expired without a late event before any did: a first one proves little."""
_GUESSED: Final = 2
"""A guess counts as much as so many known fates."""
_ENOUGH: Final = 64
"""So many known fates say more than a guess."""
_HOLD_STEPS: Final = 30
"""Money is kept back until a whole step of so many in the late grace, so that there are few moments to remember."""


def late_until_ms(deadline_ms: int, grace_ms: int) -> int:
    """Until when late events of a reservation are waited for."""
    until_ms = deadline_ms + grace_ms
    return until_ms + -until_ms % max(1, grace_ms // _HOLD_STEPS)


class Lateness:
    """What became of the expired reservations of one kind. Mutated by folds only."""

    __slots__ = ("known", "late", "open")

    def __init__(self, known: int = 0, late: int = 0, opened: list[list[int]] | None = None) -> None:
        self.known = known
        """Expired reservations whose events can come no more."""
        self.late = late
        """Events that came late."""
        self.open: dict[int, int] = {until_ms: count for until_ms, count in opened or ()}  # noqa: C416
        """Until when events may still come → of how many expired reservations."""

    def row(self) -> list[Any]:
        """The stored form."""
        return [self.known, self.late, [list(entry) for entry in sorted(self.open.items())]]

    def expired(self, until_ms: int) -> None:
        """A reservation expired whose event may come until then."""
        self.open[until_ms] = self.open.get(until_ms, 0) + 1

    def came(self) -> None:
        """An event came late."""
        self.late += 1

    def advance(self, watermark_ms: int) -> None:
        """Time has passed: more fates are known."""
        for until_ms in [until_ms for until_ms in self.open if until_ms <= watermark_ms]:
            self.known += self.open.pop(until_ms)
        while self.known >= _MANY:
            self.known //= 2
            self.late //= 2

    def expected_ppm(self, prior_ppm: int) -> int:
        """How many of a million that expire are to be kept back, where that money can still be of use afterwards."""
        late_ppm = 1_000_000 * self.late + prior_ppm * _GUESSED
        return min(1_000_000, _MARGIN_PERCENT * late_ppm // (100 * (self.known + _GUESSED)))

    def seen_ppm(self) -> int:
        """The same where it cannot: what has come late so far of all that expired."""
        expired = self.known + sum(self.open.values())
        return min(1_000_000, _MARGIN_PERCENT * 10_000 * self.late // (expired + _FEW))


class Fates:
    """What became of expired reservations, by the event that they were to be paid for. Mutated by folds only."""

    __slots__ = ("kinds", "next_ms")

    def __init__(self, rows: Mapping[str, list[Any]] | None = None) -> None:
        self.kinds = {kind: Lateness(*row) for kind, row in (rows or {}).items()}
        self.next_ms = min(
            [until_ms for known in self.kinds.values() for until_ms in known.open], default=NEVER
        )
        """When more will be known."""

    def rows(self) -> dict[str, list[Any]]:
        """The stored form."""
        return {kind: known.row() for kind, known in sorted(self.kinds.items())}

    def of(self, kind: str) -> Lateness:
        """Those of a kind."""
        return self.kinds.setdefault(kind, Lateness())

    def expired(self, kind: str, until_ms: int, prior_ppm: int) -> int:
        """A reservation expired whose event may come until then; how many millionths of its money to keep back, by a
        guess where there is one."""
        known = self.of(kind)
        guessed = prior_ppm and known.known < _ENOUGH
        expected_ppm = known.expected_ppm(prior_ppm) if guessed else known.seen_ppm()
        known.expired(until_ms)
        self.next_ms = min(self.next_ms, until_ms)
        return expected_ppm

    def advance(self, watermark_ms: int) -> None:
        """Time has passed ``next_ms``."""
        for known in self.kinds.values():
            known.advance(watermark_ms)
        self.next_ms = min(
            [until_ms for known in self.kinds.values() for until_ms in known.open], default=NEVER
        )
