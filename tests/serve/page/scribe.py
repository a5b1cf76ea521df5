"""Toy for the page: rows for what it is told, and answers that echo the question and can be as long as one likes."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from unending.core import (
    Bound,
    Chunk,
    Control,
    Domain,
    Event,
    Exactness,
    Operator,
    Paper,
    Query,
    Rows,
    Spec,
    Text,
    Tick,
    Tokens,
    nbytes,
    state,
)
from unending.core.errors import InputError

CAPACITY = 256
PAUSE = 0.005  # seconds


@state
class ScribeState:
    question: np.ndarray
    length: int
    spoken: int
    left: int
    heard: int


@dataclass(frozen=True)
class Scribe(Operator[ScribeState]):
    """A question is answered by itself and the characters heard so far; `count N` by the numbers 1 to N, and
    `slowly N` by the same with time between them, `at length N` by the same in 200 digits each."""

    spec: ClassVar[Spec] = Spec(
        name="scribe",
        family="language",
        title="writes down what it is told",
        takes=(Text, Tokens, Query, Control),
        gives=(Rows, Text),
        exactness=Exactness.bitwise(),
        paper=Paper("On Writing Down", "A. Scribe", 2031, "3101.00001"),
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def init(self, seed: int = 0) -> ScribeState:
        return ScribeState(np.zeros(CAPACITY, np.uint8), 0, 0, 0, 0)

    def bound(self) -> Bound:
        return Bound(nbytes(self.init()))

    def domain(self) -> Mapping[type[Chunk], Domain]:
        return {Tokens: {"vocabulary": 256}}

    def pending(self, state: ScribeState) -> bool:
        return state.left > 0

    def _step(self, state: ScribeState, chunk: Any) -> tuple[ScribeState, list[Event]]:
        now = float(state.heard)
        if type(chunk) is Tick:
            if not state.left:
                return state, []
            word, question = str(self._words(state)[state.spoken]), self._question(state)
            time.sleep(PAUSE if question.startswith("slowly ") else 0.0)
            if question.startswith("at length "):
                word = word.zfill(200)
            after = replace(state, spoken=state.spoken + 1, left=state.left - 1)
            return after, [Event(Text(f"{word} "), now, now)]
        if type(chunk) is Control:
            if chunk.name != "interrupt":
                raise InputError(f"scribe knows no {chunk.name}")
            return replace(state, left=0), []
        if type(chunk) is Query:
            return self._ask(state, chunk.text), []
        codes = chunk.ids if type(chunk) is Tokens else [ord(each) for each in chunk.text]
        values = np.array(codes, np.float32).reshape(-1, 1) / 100
        after = replace(state, heard=state.heard + len(codes))
        return after, [Event(Rows(values), now, now + len(codes))] if len(codes) else []

    def _ask(self, state: ScribeState, question: str) -> ScribeState:
        content = question.encode()
        if len(content) > CAPACITY:
            raise InputError(f"a question is at most {CAPACITY} bytes")
        held = np.zeros(CAPACITY, np.uint8)
        held[: len(content)] = np.frombuffer(content, np.uint8)
        asked = replace(state, question=held, length=len(content), spoken=0)
        return replace(asked, left=len(self._words(asked)))

    def _question(self, state: ScribeState) -> str:
        return state.question[: state.length].tobytes().decode()

    def _words(self, state: ScribeState) -> Any:
        question = self._question(state)
        found = re.fullmatch(r"(count|slowly|at length) (\d+)", question)
        if found:
            return range(1, int(found[2]) + 1)
        return [question, "after", str(state.heard), "characters."]
