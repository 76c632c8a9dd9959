"""How much of what expires is to be expected late after all.

The fate of an expired reservation is known when its event can come no more. Until that of some is, all of what expires
is expected late: a small budget that is spent within minutes would otherwise give away the money of ads that are shown
later. Each shard learns this for each kind of event that is paid for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
_SAID_BITS: Final = 3
"""How often events come in time is said with so many binary digits, so that there is seldom news of it."""
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

    __slots__ = ("doubtful", "known", "late", "open", "prompt")

    def __init__(
        self,
        known: int = 0,
        late: int = 0,
        opened: list[list[int]] | None = None,
        prompt: int = 0,
        doubtful: int = 0,
    ) -> None:
        self.known = known
        """Expired reservations whose events can come no more."""
        self.late = late
        """Events that came late."""
        self.open: dict[int, int] = {until_ms: count for until_ms, count in opened or ()}  # noqa: C416
        """Until when events may still come → of how many expired reservations."""
        self.prompt = prompt
        """Events that came in time."""
        self.doubtful = doubtful
        """Reservations that expired, counted as long as ``prompt``."""

    def row(self) -> list[Any]:
        """The stored form."""
        opened = [list(entry) for entry in sorted(self.open.items())]
        return [self.known, self.late, opened, self.prompt, self.doubtful]

    def expired(self, until_ms: int, *, counted: bool = True) -> None:
        """A reservation expired whose event may come until then. ``counted``: against those that come in time."""
        self.open[until_ms] = self.open.get(until_ms, 0) + 1
        if counted:
            self.doubtful += 1
            self._forget()

    def came_in_time(self) -> None:
        """An event came while its reservation was there."""
        self.prompt += 1
        self._forget()

    def _forget(self) -> None:
        if self.prompt + self.doubtful >= _MANY:
            self.prompt //= 2
            self.doubtful //= 2

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

    def expected_ppm(self, doubtful: int, prior_ppm: int) -> int:
        """Of so many expired reservations whose events may come, how many (in millionths of one) are to be expected
        to: the mean and a margin, which is most of a few and little of many. ``prior_ppm``: how many of a million
        are taken to come until it is known."""
        known = self.known + _WEIGHT
        share_ppm = min(1_000_000, (1_000_000 * self.late + _WEIGHT * prior_ppm) // known)
        # By chance, and because the share itself is known from so many only.
        variance = doubtful * share_ppm * (1_000_000 - share_ppm) * (known + doubtful) // known
        return min(1_000_000 * doubtful, doubtful * share_ppm + _CERTAINTY * isqrt(variance))

    def expected_in_the_end_ppm(self, awaited: Iterable[tuple[int, int]], grace_ms: int) -> int:
        """The same where money that is kept back is of no use to anybody afterwards: with a smaller margin, nothing on
        a mere guess, and the less, the longer it has been waited for. ``awaited``: (how long an event may still come,
        of how many reservations); events are taken to come evenly within ``grace_ms``."""
        known = self.known + _WEIGHT
        doubtful = expected_ppm = variance = 0
        for left_ms, count in awaited:
            left_ppm = min(1_000_000, 1_000_000 * left_ms // max(1, grace_ms))
            others = max(1, 1_000_000 * known - self.late * (1_000_000 - left_ppm))
            share_ppm = min(1_000_000, 1_000_000 * self.late * left_ppm // others)
            doubtful += count
            expected_ppm += count * share_ppm
            variance += count * share_ppm * (1_000_000 - share_ppm)
        variance = variance * (known + doubtful) // known
        return min(1_000_000 * doubtful, expected_ppm + _CERTAINTY_IN_THE_END * isqrt(variance))

    def is_punctual(self, prior_ppm: int) -> bool:
        """Whether next to nothing of what expires comes late."""
        if self.known < _ENOUGH:
            return not prior_ppm and not self.late
        return self.late * _RARE < self.known

    def said(self, prior_ppm: int) -> list[int]:
        """[Events that came in time, reservations that expired without], as a treasury is told: roughly, and rather too
        few and too many. What hardly ever comes late is in no doubt."""
        if self.is_punctual(prior_ppm):
            return [_roughly(self.prompt + self.doubtful), 0]
        return [_roughly(self.prompt), -_roughly(-self.doubtful)]


def _roughly(count: int) -> int:
    """The number with its first digits only, rounded down."""
    rest = max(0, count.bit_length() - _SAID_BITS)
    return count >> rest << rest


def doubt_ppm(said: Iterable[Sequence[int]], prior_ppm: int) -> int:
    """How many of a million reservations are to be expected to expire, from what shards said (`Lateness.said`)."""
    prompt = doubtful = 0
    for counts in said:
        prompt += counts[0]
        doubtful += counts[1]
    return (1_000_000 * doubtful + _WEIGHT * prior_ppm) // (prompt + doubtful + _WEIGHT)


_UNKNOWN: Final = Lateness()


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

    def expired(self, kind: str, until_ms: int, *, counted: bool) -> None:
        """See `Lateness.expired`."""
        self.of(kind).expired(until_ms, counted=counted)
        self.next_ms = min(self.next_ms, until_ms)

    def came_in_time(self, kind: str) -> None:
        """An event of a kind came while its reservation was there."""
        self.of(kind).came_in_time()

    def known_of(self, kind: str) -> Lateness:
        """Those of a kind, for reading alone."""
        return self.kinds.get(kind, _UNKNOWN)

    def said(self, prior_ppm: int) -> dict[str, list[int]]:
        """See `Lateness.said`, by kind."""
        return {kind: known.said(prior_ppm) for kind, known in sorted(self.kinds.items())}

    def advance(self, watermark_ms: int) -> None:
        """Time has passed ``next_ms``."""
        for known in self.kinds.values():
            known.advance(watermark_ms)
        self.next_ms = min(
            [until_ms for known in self.kinds.values() for until_ms in known.open], default=NEVER
        )
