"""Toys that keep a table or a ring."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from toys.bounds import held
from unending.core import (
    Event,
    Exactness,
    Operator,
    Query,
    Rows,
    Spec,
    Symbols,
    Tokens,
    state,
)


@state
class TallyState:
    table: np.ndarray
    position: int


@dataclass(frozen=True)
class Tally(Operator[TallyState]):
    """Approximate counts of symbols (count-min, Cormode and Muthukrishnan 2005); a query gives all estimates."""

    depth: int = 3
    width: int = 5
    alphabet: int = 12
    spec: ClassVar[Spec] = Spec(
        name="tally",
        family="toys",
        title="approximate counts",
        takes=(Symbols, Query),
        gives=(Rows,),
        exactness=Exactness.bitwise(),
        unit="symbol",
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def domain(self):
        return {Symbols: {"alphabet": self.alphabet}}

    def init(self, seed=0):
        return TallyState(np.zeros((self.depth, self.width), np.int64), 0)

    def bound(self):
        return held(self)

    def _cells(self, ids):
        factors = 2 * np.arange(self.depth)[:, None] + 7
        return (factors * (ids[None] + 3) % 101) % self.width

    def _estimate(self, table):
        every = np.arange(self.alphabet)
        counts = table[np.arange(self.depth)[:, None], self._cells(every)].min(axis=0)
        return Rows(counts[None].astype(np.float64))

    def _step(self, state, chunk):
        if isinstance(chunk, Query):
            return state, [Event(self._estimate(state.table), state.position, state.position)]
        table = state.table.copy()
        for row, cells in enumerate(self._cells(chunk.ids)):
            np.add.at(table[row], cells, 1)
        return TallyState(table, state.position + len(chunk)), []

    def offline(self, stream):
        events, ids = [], np.zeros(0, np.int64)
        for chunk in stream:
            if isinstance(chunk, Symbols):
                ids = np.concatenate([ids, chunk.ids])
            else:
                cells = self._cells(ids)
                table = np.stack([np.bincount(row, minlength=self.width) for row in cells])
                events.append(Event(self._estimate(table), len(ids), len(ids)))
        return events


@state
class DelayState:
    ring: np.ndarray
    position: int
    given: int

    def canonical(self) -> "DelayState":
        """What is not yet given, and zeros."""
        ring = np.zeros_like(self.ring)
        places = np.arange(self.given, self.position) % len(ring)
        ring[places] = self.ring[places]
        return DelayState(ring, self.position, self.given)


@dataclass(frozen=True)
class Delay(Operator[DelayState]):
    """Tokens, three later, from a ring that is written in place where the committed state does not look.

    The ring has room for the window and `spare` more. Item `i` lies at `i % capacity`.
    """

    window: int = 3
    spare: int = 4
    spec: ClassVar[Spec] = Spec(
        name="delay",
        family="toys",
        title="tokens, later",
        takes=(Tokens,),
        gives=(Tokens,),
        exactness=Exactness.bitwise(),
        lookahead=3,
        unit="token",
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def domain(self):
        return {Tokens: {"vocabulary": 1000}}

    def init(self, seed=0):
        return DelayState(np.zeros(self.window + self.spare, np.int64), 0, 0)

    def bound(self):
        return held(self)

    def _give(self, ring, start, stop):
        places = np.arange(start, stop) % len(ring)
        return [Event(Tokens(ring[places]), start, stop)] if stop > start else []

    def _step(self, state, chunk):
        ring, position, given, events = state.ring, state.position, state.given, []
        for start in range(0, len(chunk), self.spare):
            if start == self.spare:
                ring = ring.copy()  # the spare room is used up: go on elsewhere
            block = chunk.ids[start : start + self.spare]
            ring[np.arange(position, position + len(block)) % len(ring)] = block
            position += len(block)
            ready = max(given, position - self.window)
            events += self._give(ring, given, ready)
            given = ready
        return DelayState(ring, position, given), events

    def _finish(self, state):
        events = self._give(state.ring, state.given, state.position)
        return DelayState(state.ring, state.position, state.position), events

    def offline(self, stream):
        ids = np.concatenate([np.zeros(0, np.int64), *(chunk.ids for chunk in stream)])
        return [Event(Tokens(ids), 0, len(ids))] if len(ids) else []
