"""An operator without a framework that learns: rows of a metric, and the graph of what it has learned."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unending.core import Bound, Event, Exactness, Operator, Rows, Spec, Symbols, Text, state

ALPHABET = 4


@state
class Seen:
    counts: np.ndarray
    """int64 `[4, 4]`: how often one symbol followed another."""
    last: int
    position: int


@dataclass(frozen=True)
class Follower(Operator[Seen]):
    """Counts which symbol follows which."""

    spec: ClassVar[Spec] = Spec(
        "follower",
        "toys",
        "learns what follows what",
        (Symbols,),
        (Rows, Text),
        Exactness.bitwise(),
        unit="symbol",
    )

    @classmethod
    def example(cls):
        return cls()

    def init(self, seed=0):
        return Seen(np.zeros((ALPHABET, ALPHABET), np.int64), 0, 0)

    def bound(self):
        return Bound(8 * ALPHABET**2 + 16)

    def domain(self):
        return {Symbols: {"alphabet": ALPHABET}}

    def _step(self, state, chunk):
        counts, last, events = state.counts.copy(), state.last, []
        for at, symbol in enumerate(chunk.ids.tolist(), start=state.position + 1):
            chance = (counts[last, symbol] + 1) / (counts[last].sum() + ALPHABET)
            counts[last, symbol] += 1
            values = np.array([[-np.log2(chance), np.count_nonzero(counts)]])
            events.append(Event(Rows(values, ("bits", "pairs")), at, at))
            last = symbol
        pairs = "; ".join(f"{one} -> {two}" for one, two in np.argwhere(counts).tolist())
        at = state.position + len(chunk)
        graph = f'digraph {{ label="a -> b" {pairs} }}'
        events.append(Event(Text(graph, role="graph"), at, at))
        return Seen(counts, last, at), events
