"""How much of what expires is to be expected late after all.

The fate of an expired reservation is known when its event can come no more. Until that of some is, all of what expires
is expected late: a small budget that is spent within minutes would otherwise give away the money of ads that are shown
later. Each shard learns this for each kind of event that is paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any, Final

from adgovernor.core.history import NEVER

_MANY: Final = 65_536
"""Beyond so many known fates, older ones count half: traffic changes."""
_CERTAINTY: Final = 3
"""So many standard deviations more than the mean are expected: an amount short is shown but never paid, while one too
many is only free for others half an hour later."""
_CERTAINTY_IN_THE_END: Final = 1
"""So many where what is kept back for nothing is lost: then both errors cost."""
_WEIGHT: Final = 2
"""What is taken of late events before any fate is known counts as much as so many known fates."""
_ENOUGH: Final = 64
"""So many known fates tell whether events come late at all."""
_RARE: Final = 100
"""Where fewer than one in so many of what expires comes late, traffic is punctual."""
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

    def expected_ppm(self, doubtful: int, prior_ppm: int, lost: bool = False) -> int:
        """Of so many expired reservations whose events may come, how many (in millionths of one) are to be expected
        to: the mean and a margin, which is most of a few and little of many. ``prior_ppm``: how many of a million
        are taken to come until it is known. ``lost``: money that is kept back is of no use to anybody afterwards, so
        it is not kept back on a mere guess."""
        if lost:
            prior_ppm = 0
        known = self.known + _WEIGHT
        share_ppm = min(1_000_000, (1_000_000 * self.late + _WEIGHT * prior_ppm) // known)
        # By chance, and because the share itself is known from so many only.
        variance = doubtful * share_ppm * (1_000_000 - share_ppm) * (known + doubtful) // known
        margin_ppm = (_CERTAINTY_IN_THE_END if lost else _CERTAINTY) * isqrt(variance)
        return min(1_000_000 * doubtful, doubtful * share_ppm + margin_ppm)

    def is_punctual(self, prior_ppm: int) -> bool:
        """Whether next to nothing of what expires comes late."""
        if self.known < _ENOUGH:
            return not prior_ppm and not self.late
        return self.late * _RARE < self.known


_UNKNOWN: Final = Lateness()
_KINDS: Final = ("", "click", "view")


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

    def expired(self, kind: str, until_ms: int) -> None:
        """A reservation expired whose event may come until then."""
        self.of(kind).expired(until_ms)
        self.next_ms = min(self.next_ms, until_ms)

    def expected_ppm(self, kind: str, doubtful: int, prior_ppm: int, lost: bool) -> int:
        """See `Lateness.expected_ppm`."""
        return self.kinds.get(kind, _UNKNOWN).expected_ppm(doubtful, prior_ppm, lost)

    def punctual(self, prior_ppm: int) -> list[str]:
        """The kinds of which next to nothing comes late."""
        return [kind for kind in _KINDS if self.kinds.get(kind, _UNKNOWN).is_punctual(prior_ppm)]

    def advance(self, watermark_ms: int) -> None:
        """Time has passed ``next_ms``."""
        for known in self.kinds.values():
            known.advance(watermark_ms)
        self.next_ms = min(
            [until_ms for known in self.kinds.values() for until_ms in known.open], default=NEVER
        )
