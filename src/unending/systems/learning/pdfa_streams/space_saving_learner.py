"""The approach compared with: states of a PDFA told apart by Space-Saving sketches of prefixes (Balle et al. 2014)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from unending.core.errors import InputError
from unending.core.random import philox
from unending.parts.sketches.space_saving import SpaceSaving
from unending.systems.learning.pdfa_streams.model import PDFA

__all__ = ["SpaceSavingPDFALearner"]

_FIRST_TEST = 64
_END = -1


@dataclass
class _Place:
    """A state, or a candidate for one: exact counts of what is next, and sketches of what follows."""

    sketches: list[SpaceSaving[tuple[int, ...]]]
    strings: list[int]
    visits: int = 0
    ends: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    edges: dict[int, int] = field(default_factory=dict)
    safe: bool = False
    next_test: int = _FIRST_TEST


class SpaceSavingPDFALearner:
    """Adaptive learning of PDFA from streams (Balle, Castro, Gavaldà 2014), as a baseline.

    A state is reached by walking the automaton; what follows is put into its sketches (all prefixes up to length
    `prefix` of the rest, the end being a symbol), once into the main one and `bootstraps` times into randomly chosen
    bootstrap ones. The distance of two states is the largest difference of relative frequencies over the items held.
    Pairs of bootstrap sketches give its confidence bounds: a candidate whose upper bound to a state is below `mu / 2`
    becomes that state, one whose lower bounds to all states are above is a new state, else more is waited for. A
    decision is final.

    Parameters
    ----------
    alphabet
        number of symbols.
    epsilon
        candidates seen in less than this share of all strings are not tested.
    delta
        confidence; test number i has 6 delta / (pi i)^2 of it.
    mu
        distance that states have at least.
    counters, bootstraps, prefix
        size and number of the sketches, and longest prefix.
    seed
        of the bootstrap.
    """

    def __init__(
        self,
        alphabet: int,
        epsilon: float = 0.005,
        delta: float = 0.05,
        mu: float = 0.4,
        counters: int = 20,
        bootstraps: int = 10,
        prefix: int = 2,
        seed: int = 0,
    ) -> None:
        if alphabet < 1 or not 0 < mu <= 1 or not 0 < delta < 1 or min(counters, bootstraps, prefix) < 1:
            raise InputError(
                "alphabet, counters, bootstraps and prefix are 1 upwards; mu and delta within 0 to 1"
            )
        self.alphabet, self.epsilon, self.delta, self.mu = alphabet, epsilon, delta, mu
        self.counters, self.bootstraps, self.prefix, self.seed = counters, bootstraps, prefix, seed
        self.places = [self._place()]
        self.places[0].safe = True
        self.strings = self.tests = 0

    def _place(self) -> _Place:
        sketches: list[SpaceSaving[tuple[int, ...]]] = [
            SpaceSaving(self.counters) for _ in range(1 + self.bootstraps)
        ]
        return _Place(sketches, [0] * (1 + self.bootstraps))

    def learn_one(self, string: Sequence[int]) -> None:
        """Learn from one string of symbol ids."""
        rng = philox(self.seed, self.strings)
        self.strings += 1
        steps = (*map(int, string), _END)
        drawn = rng.integers(1, 1 + self.bootstraps, (len(steps), self.bootstraps))
        place = self.places[0]
        for at, symbol in enumerate(steps):
            place.visits += 1
            items = [steps[at : at + n] for n in range(1, min(self.prefix, len(steps) - at) + 1)]
            for which, times in zip(*np.unique([0, *drawn[at]], return_counts=True), strict=True):
                place.strings[which] += int(times)
                for item in items:
                    place.sketches[which].add(item, int(times))
            if symbol == _END:
                place.ends += 1
            else:
                place.counts[symbol] = place.counts.get(symbol, 0) + 1
            if not place.safe:
                if place.visits >= max(place.next_test, self.epsilon * self.strings):
                    self._test(place)
                return
            if symbol == _END:
                return
            if symbol not in place.edges:
                self.places.append(self._place())
                place.edges[symbol] = len(self.places) - 1
            place = self.places[place.edges[symbol]]

    def partial_fit(self, strings: Sequence[Sequence[int]]) -> "SpaceSavingPDFALearner":
        """Learn from strings."""
        for string in strings:
            self.learn_one(string)
        return self

    def _bounds(self, one: _Place, two: _Place, delta: float) -> tuple[float, float]:
        distances = []
        for i in range(1, 1 + self.bootstraps):
            for j in range(1, 1 + self.bootstraps):
                left, right = one.sketches[i], two.sketches[j]
                n, m = max(1, one.strings[i]), max(1, two.strings[j])
                known = (dict(left.items()), dict(right.items()))
                items = known[0].keys() | known[1].keys()
                distances.append(max(abs(known[0].get(x, 0) / n - known[1].get(x, 0) / m) for x in items))
        distances.sort()
        last = len(distances) - 1
        return distances[int(delta * last)], distances[min(last, ceil((1 - delta) * last))]

    def _test(self, candidate: _Place) -> None:
        at = next(number for number, place in enumerate(self.places) if place is candidate)
        self.tests += 1
        delta = 6 * self.delta / (np.pi * self.tests) ** 2
        candidate.next_test = 2 * candidate.visits
        distinct = True
        for number, place in enumerate(self.places):
            if not place.safe:
                continue
            low, high = self._bounds(candidate, place, delta)
            if high < self.mu / 2:
                self._redirect(at, number)
                return
            distinct = distinct and low > self.mu / 2
        candidate.safe = distinct

    def _redirect(self, candidate: int, state: int) -> None:
        del self.places[candidate]
        for place in self.places:
            for symbol, target in place.edges.items():
                moved = state if target == candidate else target
                place.edges[symbol] = moved - (moved > candidate)

    @property
    def model_(self) -> PDFA:
        """The automaton now; candidates are states without transitions."""
        n, a = len(self.places), self.alphabet
        following, counted = np.full((n, a), -1, np.int64), np.ones((n, a + 1))
        for at, place in enumerate(self.places):
            for symbol, target in place.edges.items():
                following[at, symbol] = target
            for symbol, count in place.counts.items():
                counted[at, symbol] += count
            counted[at, -1] += place.ends
        visits = np.array([place.visits for place in self.places])
        red = np.array([place.safe for place in self.places])
        return PDFA(following, counted / counted.sum(axis=1, keepdims=True), range(a), visits, red)
