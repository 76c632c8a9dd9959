"""The upper bound of a pod's value, and the reduced weights that guide the search for it.

What lives here: the pod as cliques, options and priced resources, and the descent that tightens the prices.
What never does: the search itself (`podsearch`) and the words of the trade (`podfill`).

Every limit (a slot, the time of a dynamic part, "one ad of this domain", a cap, a fund) is a *resource* and gets
a price. Ads that exclude each other through their most common key form a *clique*: at most one of it plays. For
any prices >= 0 no lawful set can weigh more than price x capacity, summed over the resources, plus the best
reduced weight of each clique where that is above 0 (Lagrange's bound). Coordinate descent makes it tight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adgovernor.core.podorder import FIXED

_DURATION_BITS = 32
_COUNT_BITS = 10
_MAX_SWEEPS = 10
_SCALE = 64
"""Fixed point of the subgradients: sixty-fourths of an ad."""
_PATIENCE = 3
"""Subgradient rounds without a lower bound before the steps are halved."""
_MAX_ROOMS = 32
"""Sets of places that are priced. A pod whose ads name more is bounded less tightly, never wrongly."""
_SWEEP_WORK = 12_000
"""Look-ups spent on tightening: about a millisecond. Wide pods get fewer sweeps, but never less than two."""


@dataclass(frozen=True, slots=True)
class SearchProblem:
    """A pod in the search's terms. Lists run over the eligible ads; `indices` leads back to the candidates.

    `masks` holds the segments (bits, in play order) that an ad may use, `exclusive` keys of which the pod takes
    one, `beside` keys that two neighbours may not share, `limited` (limit, amount) pairs drawn from `limits`.
    `ordered` says that the play order can make a set unlawful, so that every answer needs one.
    """

    indices: list[int]
    prices: list[int]
    durations: list[int]
    masks: list[int]
    positions: list[int]
    exclusive: list[tuple[str, ...]]
    beside: list[tuple[str, ...]]
    limited: list[tuple[tuple[str, int], ...]]
    limits: Mapping[str, int]
    segment_total_ms: list[int]
    segment_max_ads: list[int]
    max_ads: int
    total_ms: int
    ordered: bool
    before: frozenset[str]
    after: frozenset[str]


@dataclass(slots=True)
class Resource:
    """A limit with its price.

    `users` are the options that draw on it, `amounts` what each draws (None: one each). `rows` holds, for each
    clique that it touches, the clique's options that draw on it and those that do not.
    """

    capacity: int
    users: list[int]
    amounts: dict[int, int] | None
    rows: list[tuple[list[int], list[int]]]
    price: int = 0


class Model:
    """The pod as cliques of options. An option is an ad in the fixed slots, or in one dynamic part.

    Attributes:
        weights: the weight of each ad, one integer that holds the whole order of preference: value first, then
            fewer ads, then less time, then the candidates given first. No two sets weigh the same.
        shift: a weight shifted right by this is about its value.
        conflicts: for each ad the bits of the ads that it excludes.
        cliques: the ads by clique; at most one of each plays.
        ad_of, kind_of: the ad of each option, and `FIXED` or the place of the part that it would play in.
        options_of: the options of each ad.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem
        count = len(problem.indices)
        self.shift = _COUNT_BITS + _DURATION_BITS + count
        one_ad = 1 << (_DURATION_BITS + count)
        self.weights = [
            (price << self.shift) - one_ad - (duration << count) + (1 << (count - 1 - ad))
            for ad, (price, duration) in enumerate(zip(problem.prices, problem.durations, strict=True))
        ]
        users = self._key_users()
        self.conflicts = [0] * count
        for bits in users.values():
            for ad in _bits(bits):
                self.conflicts[ad] |= bits
        self.clique_of: list[int] = []
        self.cliques: list[list[int]] = []
        self._cover(users)
        self.fixed_mask, self.part_places = self._places()
        self.ad_of: list[int] = []
        self.kind_of: list[int] = []
        self.options_of: list[list[int]] = []
        for ad, mask in enumerate(problem.masks):
            own = []
            kinds = [FIXED] if mask & self.fixed_mask else []
            kinds += [place for place in self.part_places if mask >> place & 1]
            for kind in kinds:
                own.append(len(self.ad_of))
                self.ad_of.append(ad)
                self.kind_of.append(kind)
            self.options_of.append(own)
        self.clique_options = [[o for ad in ads for o in self.options_of[ad]] for ads in self.cliques]
        self.resources = self._resources(users)
        self.reduced = [self.weights[ad] for ad in self.ad_of]

    def _key_users(self) -> dict[str, int]:
        """The ads of each exclusive key that two or more ads share, as bits."""
        users: dict[str, int] = {}
        for ad, keys in enumerate(self.problem.exclusive):
            bit = 1 << ad
            for key in keys:
                users[key] = users.get(key, 0) | bit
        return {key: bits for key, bits in users.items() if bits & (bits - 1)}

    def _cover(self, users: Mapping[str, int]) -> None:
        """Put each ad into the clique of its most common key; an ad that shares no key is a clique alone."""
        sizes = {key: bits.bit_count() for key, bits in users.items()}
        numbers: dict[str, int] = {}
        for ad, keys in enumerate(self.problem.exclusive):
            best, best_size = "", 0
            for key in keys:
                size = sizes.get(key, 0)
                if size > best_size:
                    best, best_size = key, size
            number = numbers.get(best, -1) if best else -1
            if number < 0:
                number = len(self.cliques)
                self.cliques.append([])
                if best:
                    numbers[best] = number
            self.cliques[number].append(ad)
            self.clique_of.append(number)

    def _places(self) -> tuple[int, list[int]]:
        totals = self.problem.segment_total_ms
        parts = [place for place, total in enumerate(totals) if total]
        return sum([1 << place for place, total in enumerate(totals) if not total]), parts

    def _resources(self, users: Mapping[str, int]) -> list[Resource]:
        """List the limits that can bind; one that cannot would only cost time."""
        problem = self.problem
        every = list(range(len(self.ad_of)))
        found = [self._resource(capacity, options, None) for capacity, options in self._rooms()]
        for place in self.part_places:
            options = [o for o in every if self.kind_of[o] == place]
            found.append(self._resource(problem.segment_total_ms[place], options, self._lengths(options)))
        if problem.total_ms:
            found.append(self._resource(problem.total_ms, every, self._lengths(every)))
        for bits in users.values():
            options = [o for ad in _bits(bits) for o in self.options_of[ad]]
            found.append(self._resource(1, options, None))
        drawn: dict[str, dict[int, int]] = {}
        for ad, limited in enumerate(problem.limited):
            for key, amount in limited:
                for option in self.options_of[ad]:
                    drawn.setdefault(key, {})[option] = amount
        for key, amounts in drawn.items():
            found.append(self._resource(problem.limits[key], list(amounts), amounts))
        return [resource for resource in found if resource is not None]

    def _rooms(self) -> list[tuple[int, list[int]]]:
        """The limits on the number of ads, as (capacity, options), the widest first.

        Ads that fit nowhere but in a set of places are at most as many as those places (Hall's condition). The
        sets that the ads themselves name are taken; pricing single slots instead would leave the descent stuck,
        because raising the price of one of two open slots gains nothing.
        """
        masks = self.problem.masks
        room = self.problem.segment_max_ads
        rooms: dict[tuple[int, ...], int] = {}

        def add(capacity: int, options: list[int]) -> None:
            key = tuple(options)
            rooms[key] = min(capacity, rooms.get(key, capacity))

        union = 0
        for mask in masks:
            union |= mask
        if self.problem.max_ads:
            add(self.problem.max_ads, list(range(len(self.ad_of))))
        for places in sorted({union, *masks}, key=lambda mask: (-mask.bit_count(), mask))[:_MAX_ROOMS]:
            sizes = [room[place] for place in _bits(places)]
            if all(sizes):
                inside = [o for o, ad in enumerate(self.ad_of) if not masks[ad] & ~places]
                add(sum(sizes), inside)
        if self.part_places:
            fixed = sorted({mask & self.fixed_mask for mask in masks if mask & self.fixed_mask})
            for places in sorted(
                {self.fixed_mask & union, *fixed}, key=lambda mask: (-mask.bit_count(), mask)
            ):
                inside = [
                    o
                    for o, ad in enumerate(self.ad_of)
                    if self.kind_of[o] == FIXED and not masks[ad] & self.fixed_mask & ~places
                ]
                add(places.bit_count(), inside)
            for place in self.part_places:
                if room[place]:
                    add(room[place], [o for o, kind in enumerate(self.kind_of) if kind == place])
        return [(capacity, list(options)) for options, capacity in rooms.items()]

    def _lengths(self, options: list[int]) -> dict[int, int]:
        return {o: self.problem.durations[self.ad_of[o]] for o in options}

    def _resource(self, capacity: int, users: list[int], amounts: dict[int, int] | None) -> Resource | None:
        using: dict[int, list[int]] = {}
        for option in users:
            using.setdefault(self.clique_of[self.ad_of[option]], []).append(option)
        most = (
            len(using) if amounts is None else sum([max([amounts[o] for o in row]) for row in using.values()])
        )
        if most <= capacity:
            return None
        rows: list[tuple[list[int], list[int]]] = []
        for clique, row in using.items():
            options = self.clique_options[clique]
            if len(row) == len(options):
                rows.append((row, []))
            else:
                own = set(row)
                rows.append((row, [o for o in options if o not in own]))
        return Resource(capacity, users, amounts, rows)

    def tighten(self) -> int:
        """Lower the bound by coordinate descent, leave the reduced weights in `reduced`, and give the bound."""
        work = sum([len(r.users) * (1 if r.amounts is None else 6) + 2 * len(r.rows) for r in self.resources])
        sweeps = min(_MAX_SWEEPS, max(2, _SWEEP_WORK // (work + 1)))
        for _ in range(sweeps):
            moved = False
            for resource in self.resources:
                moved |= self._set_price(resource, self._best_price(resource))
            if not moved:
                break
        return self.bound()

    def refine(self, target: int, rounds: int) -> int:
        """Lower the bound by subgradient steps, for pods where coordinate descent is stuck; give the bound.

        `target` is the weight of a lawful set, which tells how far to step. Limits of time and money are scaled
        to the typical ad, so that their subgradients compare with those of limits that count ads.
        """
        resources = self.resources
        units = [
            1 if r.amounts is None else max(1, sum(r.amounts.values()) // len(r.amounts)) for r in resources
        ]
        drawn = self._drawn()
        best, kept = self.bound(), [r.price for r in resources]
        idle, divisor = 0, 1
        for _ in range(rounds):
            total, excess = self._relaxed(drawn)
            if total < best:
                best, kept, idle = total, [r.price for r in resources], 0
            else:
                idle += 1
                if idle > _PATIENCE:
                    idle, divisor = 0, divisor * 2
            slopes = [
                _SCALE * over // unit if over > 0 or r.price else 0
                for over, unit, r in zip(excess, units, resources, strict=True)
            ]
            norm = sum([slope * slope for slope in slopes])
            if not norm:
                break
            step = _SCALE * (total - target) // (norm * divisor)
            for slope, unit, resource in zip(slopes, units, resources, strict=True):
                if slope:
                    self._set_price(resource, max(0, resource.price + step * slope // unit))
        for resource, price in zip(self.resources, kept, strict=True):
            self._set_price(resource, price)
        return best

    def _drawn(self) -> list[list[tuple[int, int]]]:
        """What each option draws, as (number of the resource, amount)."""
        drawn: list[list[tuple[int, int]]] = [[] for _ in self.ad_of]
        for number, resource in enumerate(self.resources):
            for option in resource.users:
                drawn[option].append((number, 1 if resource.amounts is None else resource.amounts[option]))
        return drawn

    def _relaxed(self, drawn: list[list[tuple[int, int]]]) -> tuple[int, list[int]]:
        """The bound at the present prices, and how far the choices that attain it go beyond each resource."""
        reduced = self.reduced
        excess = [-r.capacity for r in self.resources]
        total = sum([r.price * r.capacity for r in self.resources])
        for options in self.clique_options:
            most, chosen = 0, -1
            for option in options:
                if reduced[option] > most:
                    most, chosen = reduced[option], option
            if chosen >= 0:
                total += most
                for number, amount in drawn[chosen]:
                    excess[number] += amount
        return total, excess

    def bound(self) -> int:
        """Give the bound at the present prices."""
        reduced = self.reduced
        total = sum([r.price * r.capacity for r in self.resources])
        for options in self.clique_options:
            best = max([reduced[o] for o in options])
            if best > 0:
                total += best
        return total

    def _set_price(self, resource: Resource, price: int) -> bool:
        delta = price - resource.price
        if not delta:
            return False
        resource.price = price
        reduced = self.reduced
        if resource.amounts is None:
            for option in resource.users:
                reduced[option] -= delta
        else:
            for option, amount in resource.amounts.items():
                reduced[option] -= delta * amount
        return True

    def _best_price(self, resource: Resource) -> int:
        """Give the price that minimises the bound while all other prices stay."""
        reduced, price = self.reduced, resource.price
        if resource.amounts is not None:
            return self._best_rate(resource, resource.amounts)
        gains = []
        for using, others in resource.rows:
            gain = max([reduced[o] for o in using]) + price
            if others:
                other = max([reduced[o] for o in others])
                if other > 0:
                    gain -= other
            if gain > 0:
                gains.append(gain)
        if len(gains) <= resource.capacity:
            return 0
        gains.sort(reverse=True)
        return gains[resource.capacity]

    def _best_rate(self, resource: Resource, amounts: Mapping[int, int]) -> int:
        """The same where options draw different amounts: the least rate at which the demand fits."""
        reduced, price = self.reduced, resource.price
        rows: list[tuple[int, list[tuple[int, int]]]] = []
        rates = {0}
        for using, others in resource.rows:
            other = max(0, max([reduced[o] for o in others])) if others else 0
            row = []
            for option in using:
                amount = amounts[option]
                free = reduced[option] + price * amount
                if free > other and amount:
                    row.append((free, amount))
                    rates.add(-((other - free) // amount))
            if row:
                rows.append((other, row))
        ladder = sorted(rates)
        low, high = 0, len(ladder) - 1
        while low < high:
            middle = (low + high) // 2
            rate = ladder[middle]
            demand = 0
            for other, row in rows:
                best, drawn = other, 0
                for free, amount in row:
                    net = free - rate * amount
                    if net > best:
                        best, drawn = net, amount
                demand += drawn
            if demand > resource.capacity:
                low = middle + 1
            else:
                high = middle
        return ladder[low]


def _bits(bits: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    found = []
    while bits:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return found
