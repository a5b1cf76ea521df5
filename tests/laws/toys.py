"""Small honest operators of different kinds, numpy only: the laws hold for each."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from unending.core import (
    Audio,
    Bound,
    Control,
    Event,
    Exactness,
    Operator,
    Query,
    Rows,
    Spec,
    Symbols,
    Text,
    Tokens,
    blocks,
    nbytes,
    state,
)
from unending.core.random import philox


def held(operator: Operator) -> Bound:
    """The bound of an operator whose state has its full size from the start."""
    return Bound(nbytes(operator.init()))


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


@state
class BabbleState:
    seed: int
    position: int
    left: int
    mixed: int


@dataclass(frozen=True)
class Babble(Operator[BabbleState]):
    """Answers a query with random tokens that depend on all that was read, one a tick, until interrupted."""

    vocabulary: int = 50
    length: int = 6
    spec: ClassVar[Spec] = Spec(
        name="babble",
        family="toys",
        title="random tokens on request",
        takes=(Tokens, Query, Control),
        gives=(Tokens,),
        exactness=Exactness.bitwise(),
        unit="token",
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def domain(self):
        return {Tokens: {"vocabulary": self.vocabulary}}

    def init(self, seed=0):
        return BabbleState(seed, 0, 0, 0)

    def bound(self):
        return Bound(32)

    def pending(self, state):
        return state.left > 0

    def _mix(self, mixed, ids):
        for each in ids.tolist():
            mixed = (31 * mixed + each) % 1_000_003
        return mixed

    def _step(self, state, chunk):
        match chunk:
            case Tokens():
                mixed = self._mix(state.mixed, chunk.ids)
                return BabbleState(state.seed, state.position + len(chunk), state.left, mixed), []
            case Query():
                mixed = self._mix(state.mixed, np.frombuffer(chunk.text.encode(), np.uint8))
                return BabbleState(state.seed, state.position, self.length, mixed), []
            case Control():
                return BabbleState(state.seed, state.position, 0, state.mixed), []
        drawn = philox(state.seed, state.position, state.left).integers(self.vocabulary)
        ids = np.array([(drawn + state.mixed) % self.vocabulary])
        event = Event(Tokens(ids), state.position, state.position, final=True)
        return BabbleState(state.seed, state.position, state.left - 1, self._mix(state.mixed, ids)), [event]

    def offline(self, stream):
        events, mixed, position = [], 0, 0
        for chunk in stream:
            if isinstance(chunk, Tokens):
                mixed = self._mix(mixed, chunk.ids)
                position += len(chunk)
            elif isinstance(chunk, Query):
                mixed = self._mix(mixed, np.frombuffer(chunk.text.encode(), np.uint8))
                answer = []
                for left in range(self.length, 0, -1):
                    drawn = philox(0, position, left).integers(self.vocabulary)
                    answer.append((drawn + mixed) % self.vocabulary)
                    mixed = self._mix(mixed, np.array(answer[-1:]))
                events.append(Event(Tokens(np.array(answer)), position, position))
        return events


@state
class LoudState:
    held: np.ndarray
    count: int
    position: int


@dataclass(frozen=True)
class Loud(Operator[LoudState]):
    """Text in capitals, word by word; a word is cut at every 16th character of the stream at the latest."""

    longest: int = 16
    spec: ClassVar[Spec] = Spec(
        name="loud",
        family="toys",
        title="text in capitals",
        takes=(Text,),
        gives=(Text,),
        exactness=Exactness.bitwise(),
        lookahead=16,
        unit="character",
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def init(self, seed=0):
        return LoudState(np.zeros(self.longest, np.uint32), 0, 0)

    def bound(self):
        return held(self)

    def _word(self, characters, position):
        text = "".join(map(chr, characters)).upper()
        return Event(Text(text), position - len(characters), position)

    def _step(self, state, chunk):
        word, position, events = state.held[: state.count].tolist(), state.position, []
        for character in chunk.text:
            word.append(ord(character))
            position += 1
            if character.isspace() or position % self.longest == 0:
                events.append(self._word(word, position))
                word = []
        kept = np.zeros(self.longest, np.uint32)
        kept[: len(word)] = word
        return LoudState(kept, len(word), position), events

    def _finish(self, state):
        if not state.count:
            return state, []
        event = self._word(state.held[: state.count].tolist(), state.position)
        return LoudState(np.zeros_like(state.held), 0, state.position), [event]

    def offline(self, stream):
        text = "".join(chunk.text for chunk in stream)
        pieces = [character.upper() for character in text]
        return [Event(Text("".join(pieces)), 0, len(text))] if text else []


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


TOYS = (Average, Smooth, Babble, Loud, Tally, Delay)
