"""Operators without a framework: one that talks, one that thinks before it does, one that adds up."""

import time
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from unending.core import Bound, Control, Event, Exactness, Operator, Query, Rows, Spec, Text, state
from unending.core.errors import InputError

KEPT, LONGEST = 32, 64


@state
class EchoState:
    heard: np.ndarray
    """The last characters, as code points."""
    answer: np.ndarray
    said: int
    left: int
    position: int


@dataclass(frozen=True)
class Echo(Operator[EchoState]):
    """Answers a question with the question and the last characters of the text, a character a tick."""

    max_new_tokens: int = LONGEST
    pause: float = 0.0
    """Seconds that a tick takes."""
    spec: ClassVar[Spec] = Spec(
        name="echo",
        family="toys",
        title="says what it heard",
        takes=(Text, Query, Control),
        gives=(Text,),
        exactness=Exactness.bitwise(),
        unit="character",
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def init(self, seed=0):
        return EchoState(np.zeros(KEPT, dtype=np.int64), np.zeros(LONGEST, dtype=np.int64), 0, 0, 0)

    def bound(self):
        return Bound(8 * (KEPT + LONGEST) + 24)

    def pending(self, state):
        return state.left > 0

    def _step(self, state, chunk):
        now = float(state.position)
        if isinstance(chunk, Text):
            if "\x00" in chunk.text:
                raise InputError("a null character has no sound")
            if "boom" in chunk.text:
                raise RuntimeError("a defect")
            heard = np.concatenate([state.heard, [ord(each) for each in chunk.text]])[-KEPT:].astype(np.int64)
            return replace(state, heard=heard, position=state.position + len(chunk)), []
        if isinstance(chunk, Control):
            return replace(state, left=0), []
        if isinstance(chunk, Query):
            heard = "".join(chr(each) for each in state.heard if each)
            answer = f"{chunk.text}|{heard}"[:LONGEST]
            filled = np.zeros(LONGEST, dtype=np.int64)
            filled[: len(answer)] = [ord(each) for each in answer]
            return replace(state, answer=filled, said=0, left=len(answer)), []
        time.sleep(self.pause)
        event = Event(Text(chr(state.answer[state.said])), now, now)
        return replace(state, said=state.said + 1, left=state.left - 1), [event]


@state
class ThinkerState:
    heard: int
    left: int


@dataclass(frozen=True)
class Thinker(Operator[ThinkerState]):
    """Has a thought about each text, and answers a question, after some more, with how much it heard."""

    spec: ClassVar[Spec] = Spec(
        name="thinker",
        family="toys",
        title="thinks, then says",
        takes=(Text, Query, Control),
        gives=(Text,),
        exactness=Exactness.bitwise(),
        unit="character",
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def init(self, seed=0):
        return ThinkerState(0, 0)

    def bound(self):
        return Bound(16)

    def pending(self, state):
        return state.left > 0

    def _step(self, state, chunk):
        now = float(state.heard)
        if isinstance(chunk, Text):
            heard = state.heard + len(chunk)
            return replace(state, heard=heard), [Event(Text(f"{heard} now. ", role="thought"), now, heard)]
        if isinstance(chunk, Query):
            return replace(state, left=len(self._speech(state))), []
        if isinstance(chunk, Control):
            return replace(state, left=0), []
        role, text = self._speech(state)[-state.left]
        return replace(state, left=state.left - 1), [Event(Text(text, role=role), now, now)]

    def _speech(self, state):
        thoughts = [("thought", "hm. "), ("thought", "so. "), ("deep", "well. ")]
        return [*thoughts, ("answer", "so "), ("answer", "it is "), ("", str(state.heard))]


@state
class SumState:
    total: np.ndarray
    position: int


@dataclass(frozen=True)
class Sum(Operator[SumState]):
    """The running sum of rows."""

    width: int = 2
    spec: ClassVar[Spec] = Spec(
        name="sum",
        family="toys",
        title="adds up",
        takes=(Rows,),
        gives=(Rows,),
        exactness=Exactness.bitwise(),
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def domain(self):
        return {Rows: {"width": self.width}}

    def init(self, seed=0):
        return SumState(np.zeros(self.width), 0)

    def bound(self):
        return Bound(8 * self.width + 8)

    def _step(self, state, chunk):
        totals = state.total + np.cumsum(chunk.values, axis=0)
        begin, end = state.position, state.position + len(chunk)
        return SumState(totals[-1].copy(), end), [Event(Rows(totals), float(begin), float(end))]
