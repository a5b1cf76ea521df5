"""Toys on tokens and text."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from toys.bounds import held
from unending.core import (
    Bound,
    Control,
    Event,
    Exactness,
    Operator,
    Query,
    Spec,
    Text,
    Tokens,
    state,
)
from unending.core.random import philox


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
