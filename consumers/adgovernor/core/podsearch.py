"""The search behind the pod fill: the most valuable set of ads under every rule of the pod.

What lives here: the exact method, in three steps.

1. `podbound` prices the limits of the pod and so bounds the value of every lawful set.
2. Measured against that bound every choice has a *loss* >= 0, and the losses of a set add up to exactly the bound
   minus its weight. A depth-first search over the cliques with a budget of loss, small at first and then
   growing fourfold, meets the best sets first. A pass that ends proves that no better set lies within its
   budget, so even an interrupted search has tightened the bound that it reports.
3. A greedy set along the reduced weights and one along the plain weights stand as the answer until the search
   finds a better one. They are lawful whatever becomes of the search: that is the fallback. Where the first
   passes prove nothing, the answer is improved by exchanges and the bound by subgradient steps, and the passes
   go on from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from adgovernor.core.podbound import Model, SearchProblem
from adgovernor.core.podorder import FIXED, MAX_STEPS, Row, arrange

EARLY_NODES = 400
"""Steps given to the first passes. Nine pods in ten are proved within them; the others need a better set first."""
IMPROVE_WIDTH = 100
"""Ads that are forced into the best set, least loss first."""
REFINE_ROUNDS = 50
"""Subgradient rounds to tighten the bound once more."""
IMPROVE_NODES = 20
"""Steps that one such trial counts for: about what it takes."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """(place, candidate index) pairs in play order, their value, a proven bound of any value, and the effort."""

    placed: tuple[tuple[int, int], ...]
    value: int
    bound: int
    proven: bool
    nodes: int


def search(problem: SearchProblem, max_nodes: int) -> SearchResult:
    """Find the best set within `max_nodes` steps."""
    if not problem.indices:
        return SearchResult((), 0, 0, True, 0)
    return _Search(Model(problem), max_nodes).run()


class _Search:
    """One run: the state of the set in hand, the best set so far, and the budget of loss."""

    def __init__(self, model: Model, max_nodes: int) -> None:
        problem = model.problem
        self.model = model
        self.problem = problem
        self.max_nodes = max_nodes
        self.nodes = 0
        self.row = Row(
            is_part=[bool(total) for total in problem.segment_total_ms],
            masks=problem.masks,
            prices=problem.prices,
            positions=problem.positions,
            beside=problem.beside,
            before=problem.before,
            after=problem.after,
            ordered=problem.ordered,
        )
        # Where every ad may use every fixed slot a count is enough; else ads and slots must be matched.
        fixed = model.fixed_mask
        self.fixed_left = fixed.bit_count()
        self.matched = any(mask & fixed not in (0, fixed) for mask in problem.masks)
        self.owner: list[int] = [-1] * len(problem.segment_total_ms)
        self.part_ads = [cap if cap else 1 << 30 for cap in problem.segment_max_ads]
        self.part_ms = list(problem.segment_total_ms)
        self.ads_left = problem.max_ads or 1 << 30
        self.ms_left = problem.total_ms or 1 << 62
        self.limits = dict(problem.limits)
        self.chosen: list[tuple[int, int]] = []
        self.best_weight = 0
        self.best: tuple[tuple[int, int], ...] = ()
        self.best_row: tuple[tuple[int, int], ...] = ()
        self.best_owner = self.owner
        self.bound = 0
        self.proved = 0
        self.budget = 0
        self.stopped = False
        self.unsure = False
        self.stop_at = max_nodes
        self.losses: list[int] = []
        self.choices: list[list[tuple[int, int, int]]] = []

    def run(self) -> SearchResult:
        """Bound, greedy sets, then passes of growing budget until one proves the best set or the steps end."""
        model = self.model
        self.bound = self.proved = model.tighten()
        ranked, skips = self._rank()
        self._greedy([choice for row in ranked for choice in row], seat_each=True)
        weights = model.weights
        plain = sorted([c for row in ranked for c in row], key=lambda c: -weights[c[1]])
        self._greedy(plain, seat_each=True)
        budget = max(1, (self.bound - self.best_weight) >> 6)
        improved = False
        proven = True
        while (gap := self.bound - self.best_weight - 1) >= 0:
            self.stop_at = self.max_nodes if improved else min(self.max_nodes, EARLY_NODES)
            self.budget = min(budget, gap)
            reach = self.budget
            self._prepare(ranked, skips)
            self._descend(0, 0, 0, 0)
            if self.stopped:
                if improved or self.nodes > self.max_nodes:
                    proven = False
                    break
                # The bound is too loose to lead to the best set soon: better the answer in hand first.
                improved, self.stopped = True, False
                self._improve(ranked)
                refined = model.refine(self.best_weight, REFINE_ROUNDS)
                if refined < self.bound:
                    self.bound, self.proved = refined, min(self.proved, refined)
                    ranked, skips = self._rank()
                    budget = max(1, (self.bound - self.best_weight) >> 5)
                continue
            if self.bound - self.best_weight - 1 <= reach:
                proven = not self.unsure
                break
            if not self.unsure:
                # No set within `reach` of the bound beats the best one, so the bound itself comes down.
                self.proved = min(self.proved, self.bound - reach - 1)
            budget *= 4
        return self._result(proven)

    def _rank(self) -> tuple[list[list[tuple[int, int, int]]], list[int]]:
        """Give each clique's choices (loss, ad, kind), least loss first, and the loss of taking none."""
        model = self.model
        reduced = model.reduced
        ranked: list[list[tuple[int, int, int]]] = []
        skips: list[int] = []
        for options in model.clique_options:
            best = max(0, max([reduced[o] for o in options]))
            ranked.append(sorted([(best - reduced[o], model.ad_of[o], model.kind_of[o]) for o in options]))
            skips.append(best)
        order = sorted(range(len(ranked)), key=lambda c: -skips[c])
        return [ranked[c] for c in order], [skips[c] for c in order]

    def _prepare(self, ranked: list[list[tuple[int, int, int]]], skips: list[int]) -> None:
        """Keep the choices within the budget of loss, the cliques with the least freedom first."""
        budget = self.budget
        rows: list[tuple[int, int, list[tuple[int, int, int]]]] = []
        for choices, skip in zip(ranked, skips, strict=True):
            kept = [choice for choice in choices if choice[0] <= budget]
            if kept:
                # A clique that cannot be skipped is decided before one that can.
                freedom = len(kept) + (skip <= budget)
                rows.append((freedom, skip, kept))
        rows.sort(key=lambda row: (row[0], -row[1]))
        self.choices = [row[2] for row in rows]
        self.losses = [row[1] for row in rows]

    def _descend(self, start: int, loss: int, weight: int, forbidden: int) -> None:
        """Extend the set in hand by one ad of any later clique, as long as the loss stays in the budget."""
        choices, losses, weights, conflicts = (
            self.choices,
            self.losses,
            self.model.weights,
            self.model.conflicts,
        )
        for clique in range(start, len(choices)):
            for step, ad, kind in choices[clique]:
                total = loss + step
                if total > self.budget:
                    break
                if forbidden >> ad & 1:
                    continue
                self.nodes += 1
                if self.nodes > self.stop_at:
                    self.stopped = True
                    return
                undo = self._place(ad, kind)
                if undo is None:
                    continue
                new_weight = weight + weights[ad]
                if new_weight > self.best_weight and self._accept(new_weight):
                    self.budget = min(self.budget, self.bound - new_weight - 1)
                self._descend(clique + 1, total, new_weight, forbidden | conflicts[ad])
                self._take_back(ad, kind, undo)
                if self.stopped:
                    return
            loss += losses[clique]
            if loss > self.budget:
                return

    def _place(self, ad: int, kind: int) -> list[int] | None:
        """Add an ad to the set in hand; None where a limit is in the way. Returns what taking it back needs."""
        duration = self.problem.durations[ad]
        if self.ads_left < 1 or self.ms_left < duration:
            return None
        owner = self.owner
        if kind == FIXED:
            if self.fixed_left < 1:
                return None
            if self.matched:
                moved = owner.copy()
                if not self._match(moved, ad, [0]):
                    return None
                self.owner = moved
        elif self.part_ads[kind] < 1 or self.part_ms[kind] < duration:
            return None
        limited = self.problem.limited[ad]
        if limited:
            limits = self.limits
            for key, amount in limited:
                if limits[key] < amount:
                    self.owner = owner
                    return None
            for key, amount in limited:
                limits[key] -= amount
        if kind == FIXED:
            self.fixed_left -= 1
        else:
            self.part_ads[kind] -= 1
            self.part_ms[kind] -= duration
        self.ads_left -= 1
        self.ms_left -= duration
        self.chosen.append((ad, kind))
        return owner

    def _take_back(self, ad: int, kind: int, owner: list[int]) -> None:
        duration = self.problem.durations[ad]
        self.chosen.pop()
        self.ads_left += 1
        self.ms_left += duration
        self.owner = owner
        if kind == FIXED:
            self.fixed_left += 1
        else:
            self.part_ads[kind] += 1
            self.part_ms[kind] += duration
        for key, amount in self.problem.limited[ad]:
            self.limits[key] += amount

    def _match(self, owner: list[int], ad: int, tried: list[int]) -> bool:
        """Give the ad a fixed slot, moving others to other slots where needed (an augmenting path)."""
        open_places = self.problem.masks[ad] & self.row.fixed_mask & ~tried[0]
        rest = open_places
        while rest:
            low = rest & -rest
            place = low.bit_length() - 1
            if owner[place] < 0:
                owner[place] = ad
                return True
            rest ^= low
        rest = open_places
        while rest:
            low = rest & -rest
            place = low.bit_length() - 1
            previous = owner[place]
            rest ^= low
            if tried[0] & low:
                continue
            tried[0] |= low
            owner[place] = ad
            if self._match(owner, previous, tried):
                return True
            owner[place] = previous
        return False

    def _accept(self, weight: int) -> bool:
        """Take the set in hand as the best, if a lawful play order exists where the order matters."""
        if self.problem.ordered:
            row, steps = arrange(self.row, self.chosen)
            self.nodes += steps
            if row is None:
                # Giving up on an order is no proof that there is none: nothing more is proved in this run.
                self.unsure |= steps > MAX_STEPS
                return False
            self.best_row = row
        self.best_weight = weight
        self.best = tuple(self.chosen)
        self.best_owner = self.owner
        return True

    def _arrangeable(self) -> bool:
        row, steps = arrange(self.row, self.chosen)
        self.nodes += steps
        return row is not None

    def _greedy(self, ranked: list[tuple[int, int, int]], *, seat_each: bool) -> bool:
        """Add whatever fits, in the order given; tell whether the set became the best.

        With `seat_each` every ad must leave a lawful play order behind, else only the whole set must have one.
        """
        seat_each = seat_each and self.problem.ordered
        weight, forbidden = 0, 0
        trail: list[tuple[int, int, list[int]]] = []
        weights, conflicts = self.model.weights, self.model.conflicts
        for _, ad, kind in ranked:
            if forbidden >> ad & 1:
                continue
            undo = self._place(ad, kind)
            if undo is not None:
                if seat_each and not self._arrangeable():
                    self._take_back(ad, kind, undo)
                    continue
                trail.append((ad, kind, undo))
                weight += weights[ad]
                forbidden |= conflicts[ad] | 1 << ad
                if self.ads_left < 1:
                    break
        better = weight > self.best_weight and self._accept(weight)
        for ad, kind, undo in reversed(trail):
            self._take_back(ad, kind, undo)
        return better

    def _improve(self, ranked: list[list[tuple[int, int, int]]]) -> None:
        """Force one ad after the other into the best set, let go what it excludes, and fill up again."""
        weights = self.model.weights
        flat = sorted([choice for row in ranked for choice in row])
        better = True
        while better and self.nodes < self.max_nodes:
            better = False
            # A choice whose own loss exceeds the gap is in no set better than the one in hand.
            gap = self.bound - self.best_weight
            flat = [choice for choice in flat if choice[0] < gap]
            # What is worth least stands last, so that it gives way where there is no room.
            kept = sorted([(0, ad, kind) for ad, kind in self.best], key=lambda choice: -weights[choice[1]])
            inside = {ad for ad, _ in self.best}
            for choice in flat[:IMPROVE_WIDTH]:
                if choice[1] in inside:
                    continue
                self.nodes += IMPROVE_NODES
                if self._greedy([choice, *kept, *flat], seat_each=False):
                    better = True
                    break
            if better:
                continue
            for dropped in kept:
                rest = [choice for choice in kept if choice is not dropped]
                others = [choice for choice in flat if choice[1] != dropped[1]]
                self.nodes += IMPROVE_NODES
                if self._greedy([*rest, *others, dropped], seat_each=False):
                    better = True
                    break

    def _result(self, proven: bool) -> SearchResult:
        problem, model = self.problem, self.model
        value = sum([problem.prices[ad] for ad, _ in self.best])
        # A weight is its value, shifted, minus less than one unit: rounding up gives the value's bound.
        ceiling = value if proven else max(value, (self.proved + (1 << model.shift) - 1) >> model.shift)
        row = self.best_row if problem.ordered else arrange(self.row, self.best)[0]
        if row is None:
            row = self._as_matched()
        placed = tuple([(place, problem.indices[ad]) for place, ad in row])
        return SearchResult(placed, value, ceiling, ceiling == value, min(self.nodes, self.max_nodes))

    def _as_matched(self) -> tuple[tuple[int, int], ...]:
        """Order a set as the search matched it, where the search for the dearest-first order gave up."""
        pairs = [(place, ad) for place, ad in enumerate(self.best_owner) if ad >= 0]
        parts = [(kind, ad) for ad, kind in self.best if kind != FIXED]
        parts.sort(key=lambda pair: self.row.rank(pair[1]))
        return tuple(sorted(pairs + parts, key=lambda pair: pair[0]))
