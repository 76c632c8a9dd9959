"""The play order of a chosen set of ads: which slot each gets, who is first, who may sit beside whom.

What lives here: a bounded search for one lawful order, dearest ads first. What never does: the choice of the
ads themselves (`podsearch`) and the rules of a single ad (`podfill`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

FIXED = -1
"""In a chosen pair, the ad goes into one of the fixed slots; any other number is the place of its part."""

MAX_STEPS = 300
"""Steps of one search for an order. A pod of 12 ads without a hard knot needs some dozens."""


class Row:
    """The segments of a pod in play order, and which ads may sit where and beside whom."""

    __slots__ = (
        "fixed_mask", "masks", "never_first", "never_last", "ordered", "places", "positions", "prices", "quarrels"
    )  # fmt: skip

    def __init__(
        self,
        *,
        is_part: Sequence[bool],
        masks: Sequence[int],
        prices: Sequence[int],
        positions: Sequence[int],
        beside: Sequence[tuple[str, ...]],
        before: frozenset[str],
        after: frozenset[str],
        ordered: bool,
    ) -> None:
        self.places = list(is_part)
        self.masks = masks
        self.prices = prices
        self.positions = positions
        self.ordered = ordered
        self.fixed_mask = sum([1 << place for place, part in enumerate(is_part) if not part])
        users: dict[str, int] = {}
        for ad, keys in enumerate(beside):
            for key in keys:
                users[key] = users.get(key, 0) | 1 << ad
        # For each ad the bits of those that may not sit beside it; its own bit changes nothing.
        self.quarrels = [0] * len(masks)
        for ad, keys in enumerate(beside):
            for key in keys:
                self.quarrels[ad] |= users[key]
        self.never_first = _union(users, before)
        self.never_last = _union(users, after)

    def rank(self, ad: int) -> tuple[int, int]:
        """Dearest first, then the order given: the order in which ads are tried at every place."""
        return -self.prices[ad], ad

    def knot_rank(self, ads: Sequence[int]) -> Callable[[int], tuple[int, int, int]]:
        """Rank by the number of ads of the set that may not sit beside one, the most first.

        The ads that are hardest to seat go first, so that the easy ones are left to keep them apart.
        """
        inside = sum([1 << ad for ad in ads])
        quarrels = self.quarrels
        return lambda ad: (-(quarrels[ad] & inside).bit_count(), *self.rank(ad))


def _union(users: Mapping[str, int], keys: frozenset[str]) -> int:
    bits = 0
    for key in keys:
        bits |= users.get(key, 0)
    return bits


def arrange(row: Row, chosen: Sequence[tuple[int, int]]) -> tuple[tuple[tuple[int, int], ...] | None, int]:
    """Give (place, ad) pairs in play order - None where none was found within `MAX_STEPS` - and the steps taken.

    `chosen` holds (ad, `FIXED` or the place of a part). Each place gets the dearest ad that lets all the others
    still be placed; early slots are filled before late ones.
    """
    arranger = _Arranger(row, chosen)
    return arranger.run(), arranger.steps


class _Arranger:
    __slots__ = ("_fixed", "_left", "_parts", "_placed", "_row", "steps")

    def __init__(self, row: Row, chosen: Sequence[tuple[int, int]]) -> None:
        self._row = row
        rank = row.knot_rank([ad for ad, _ in chosen]) if row.ordered else row.rank
        self._fixed = sorted((ad for ad, kind in chosen if kind == FIXED), key=rank)
        self._parts: dict[int, list[int]] = {}
        for ad, kind in chosen:
            if kind != FIXED:
                self._parts.setdefault(kind, []).append(ad)
        for ads in self._parts.values():
            ads.sort(key=rank)
        self._left = len(chosen)
        self._placed: list[tuple[int, int]] = []
        # Sorting a set costs about as much as seating it once.
        self.steps = len(chosen)

    def run(self) -> tuple[tuple[int, int], ...] | None:
        return tuple(self._placed) if self._from(0) else None

    def _from(self, place: int) -> bool:
        """Fill the places from `place` on; the ads placed stay where they are on success only."""
        if not self._left:
            row = self._row
            return not self._placed or not row.never_last >> self._placed[-1][1] & 1
        if place == len(self._row.places):
            return False
        self.steps += 1
        if self.steps > MAX_STEPS:
            return False
        if self._row.places[place]:
            ads = self._parts.get(place)
            if not ads:
                return self._from(place + 1)
            return self._try(ads, place, place if len(ads) > 1 else place + 1)
        bit = 1 << place
        later = self._row.fixed_mask & -(bit << 1)
        masks = self._row.masks
        # Only an ad that fits nowhere later must go here; two of them cannot both.
        urgent = [ad for ad in self._fixed if not masks[ad] & later]
        if len(urgent) > 1:
            return False
        fitting = urgent or self._fixed
        if self._try([ad for ad in fitting if masks[ad] & bit], place, place + 1, self._fixed):
            return True
        return not urgent and len(self._fixed) <= later.bit_count() and self._from(place + 1)

    def _try(self, ads: list[int], place: int, then: int, owner: list[int] | None = None) -> bool:
        source = ads if owner is None else owner
        for ad in list(ads):
            if self._row.ordered and not self._may_follow(ad):
                continue
            at = source.index(ad)
            del source[at]
            self._placed.append((place, ad))
            self._left -= 1
            if self._from(then):
                return True
            self._left += 1
            self._placed.pop()
            source.insert(at, ad)
        return False

    def _may_follow(self, ad: int) -> bool:
        """Tell whether the ad may play next, after what is placed so far."""
        row = self._row
        first, last = not self._placed, self._left == 1
        position = row.positions[ad]
        if (
            (position == 1 and not first)
            or (position == -1 and not last)
            or (position == 2 and not (first or last))
        ):
            return False
        barred = row.never_first if first else row.quarrels[self._placed[-1][1]]
        return not barred >> ad & 1
