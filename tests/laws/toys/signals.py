"""Toys on rows and sound."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from toys.bounds import held
from unending.core import (
    Audio,
    Event,
    Exactness,
    Operator,
    Query,
    Rows,
    Spec,
    blocks,
    state,
)


@state
class AverageState:
    mean: np.ndarray
    rest: blocks.Remainder


@dataclass(frozen=True)
class Average(Operator[AverageState]):
    """Exponential moving average of rows, given out once a block; a query flushes the block it falls in."""

    decay: float = 0.9
    width: int = 2
    every: int = 4
    spec: ClassVar[Spec] = Spec(
        name="average",
        family="toys",
        title="exponential moving average",
        takes=(Rows, Query),
        gives=(Rows,),
        exactness=Exactness.allclose(1e-9),
        hop="every",
        unit="row",
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def domain(self):
        return {Rows: {"width": self.width}, Query: {"characters": 80}}

    def init(self, seed=0):
        return AverageState(np.zeros(self.width), blocks.remainder(self.every, (self.width,), np.float64))

    def bound(self):
        return held(self)

    def _absorb(self, mean, block):
        for row in block:
            mean = self.decay * mean + (1 - self.decay) * row
        return mean

    def _step(self, state, chunk):
        mean, events = state.mean, []
        if isinstance(chunk, Query):
            rest, block = blocks.flush(state.rest)
            mean = self._absorb(mean, block)
            return AverageState(mean, rest), [Event(Rows(mean[None].copy()), rest.position, rest.position)]
        rest, full = blocks.feed(state.rest, chunk.values)
        start = state.rest.position - state.rest.count
        for block in full:
            mean = self._absorb(mean, block)
            events.append(Event(Rows(mean[None].copy()), start, start + len(block)))
            start += len(block)
        return AverageState(mean, rest), events

    def _finish(self, state):
        rest, block = blocks.flush(state.rest)
        if not len(block):
            return state, []
        mean = self._absorb(state.mean, block)
        return AverageState(mean, rest), [
            Event(Rows(mean[None].copy()), rest.position - len(block), rest.position)
        ]

    def offline(self, stream):
        """In closed form: a weighted sum over all rows up to a position."""
        rows = np.concatenate([np.zeros((0, self.width)), *(c.values for c in stream if isinstance(c, Rows))])
        events, start, seen = [], 0, 0

        def until(end):
            weights = (1 - self.decay) * self.decay ** np.arange(end - 1, -1, -1)
            return Rows((weights @ rows[:end])[None])

        def blocks_until(end, start):
            while (stop := start + self.every - start % self.every) <= end:
                events.append(Event(until(stop), start, stop))
                start = stop
            return start

        for chunk in stream:
            if isinstance(chunk, Query):
                events.append(Event(until(seen), seen, seen))
                start = seen
            else:
                seen += len(chunk)
                start = blocks_until(seen, start)
        if start < seen:
            events.append(Event(until(seen), start, seen))
        return events


@state
class SmoothState:
    recent: np.ndarray
    position: int
    given: int


@dataclass(frozen=True)
class Smooth(Operator[SmoothState]):
    """A symmetric filter over sound: each output sample waits for two samples of future."""

    rate: int = 100
    taps: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.4, 0.2, 0.1)
    spec: ClassVar[Spec] = Spec(
        name="smooth",
        family="toys",
        title="symmetric filter",
        takes=(Audio,),
        gives=(Audio,),
        exactness=Exactness.bitwise(),
        lookahead=2,
        unit="sample",
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def domain(self):
        return {Audio: {"rate": self.rate, "channels": 1}}

    def init(self, seed=0):
        return SmoothState(np.zeros(4, np.float32), 0, 0)

    def bound(self):
        return held(self)

    def _filter(self, padded):
        n = len(padded) - 4
        return sum(np.float32(tap) * padded[k : n + k] for k, tap in enumerate(self.taps))

    def _until(self, state, samples, stop):
        """Outputs up to sample `stop`, of which the samples from `position - 4` on are at hand."""
        padded = np.concatenate([state.recent, samples])
        smooth = self._filter(padded)[state.given - (state.position - 2) :]
        if stop <= state.given:
            return padded, []
        return padded, [Event(Audio(smooth, self.rate), state.given / self.rate, stop / self.rate)]

    def _step(self, state, chunk):
        position = state.position + len(chunk)
        stop = max(0, position - 2)
        padded, events = self._until(state, chunk.samples.reshape(-1), stop)
        return SmoothState(padded[-4:].copy(), position, stop), events

    def _finish(self, state):
        _, events = self._until(state, np.zeros(2, np.float32), state.position)
        return SmoothState(state.recent, state.position, state.position), events

    def offline(self, stream):
        samples = np.concatenate([np.zeros(0, np.float32), *(c.samples.reshape(-1) for c in stream)])
        if not len(samples):
            return []
        padded = np.concatenate([np.zeros(2, np.float32), samples, np.zeros(2, np.float32)])
        return [Event(Audio(self._filter(padded), self.rate), 0.0, len(samples) / self.rate)]
