"""The operator: rows in; for every minibatch, how spiky its codes are in the dictionary from before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from unending.core import Bound, Chunk, Control, Event, Exactness, Operator, Paper, Rows, Spec, nbytes
from unending.core.blocks import flush
from unending.core.errors import InputError
from unending.systems.learning.online_dictionary_fw.core import DictionarySettings, DictionaryState, spikiness
from unending.systems.learning.online_dictionary_fw.naive import NaiveDictionary

__all__ = ["OnlineDictionaryFW"]

NAMES = ("spikiness", "fw_gap", "slack")


@dataclass(frozen=True)
class OnlineDictionaryFW(Operator[DictionaryState]):
    """Online orthogonal dictionary learning by Frank-Wolfe (Xue and Lau 2021, arXiv 2103.01484) as an operator.

    `Rows` go in. For every minibatch `Rows` `[1, 3]` come out: the mean `||D^T y||_p^p` of its rows scaled to length
    1, in the dictionary known before them (the p-norm that is maximised, on a scale of its own: 1 is one entry a
    code); the Frank-Wolfe gap at the step; `1 - ||D||_F^2 / N`, how far inside the ball the iterate is (0 at an
    orthogonal matrix). `Control("dictionary")` gives `Rows` `[width, width]`, the atoms of the rows in rows.

    Parameters
    ----------
    width
        columns of a row; `unending run` takes it from the source.
    p, batch_size, rho_exponent, gamma_exponent, rho_min, gamma_min, polar, start, precondition
        as for `DictionarySettings`.
    """

    width: int = 0
    p: float = 3.0
    batch_size: int = 10
    rho_exponent: float = 0.5
    gamma_exponent: float = 0.75
    rho_min: float = 0.0
    gamma_min: float = 0.0
    polar: str = "svd"
    start: str = "random"
    precondition: int = 0

    spec: ClassVar[Spec] = Spec(
        name="online-dictionary-fw",
        family="learning",
        title="an orthogonal dictionary from a stream of rows, in one pass",
        takes=(Rows, Control),
        gives=(Rows,),
        exactness=Exactness.allclose(1e-6),
        paper=Paper(
            "Online Orthogonal Dictionary Learning Based on Frank-Wolfe Method",
            "Ye Xue, Vincent Lau",
            2021,
            "2103.01484",
        ),
        hop="batch_size",
        unit="row",
    )

    def __post_init__(self) -> None:
        if self.width < 0:
            raise InputError("width is 0 (taken from the source) or more")
        _ = self.settings_of_core

    @classmethod
    def example(cls) -> Self:
        return cls(width=3, batch_size=6)

    @property
    def settings_of_core(self) -> DictionarySettings:
        """The learner's settings."""
        return DictionarySettings(
            self.p,
            self.batch_size,
            self.rho_exponent,
            self.gamma_exponent,
            self.rho_min,
            self.gamma_min,
            self.polar,
            self.start,
            self.precondition,
        )

    def domain(self) -> dict[type[Chunk], dict[str, int]]:
        return {Rows: {"width": self.width}} if self.width else {}

    def init(self, seed: int = 0) -> DictionaryState:
        if not self.width:
            raise InputError("width is 0: say how many columns the rows have")
        return self.settings_of_core.init(self.width, seed)

    def bound(self) -> Bound:
        return Bound(nbytes(self.init()))

    def _step(self, state: DictionaryState, chunk: Any) -> tuple[DictionaryState, list[Event]]:
        if isinstance(chunk, Control):
            return state, self._answer(state, chunk)
        state, blocks = self.settings_of_core.feed(state, chunk.values, state.waiting.position)
        end = state.waiting.position - state.waiting.count - sum(map(len, blocks))
        events = []
        for block in blocks:
            end += len(block)
            state, event = self._report(state, block, end)
            events.append(event)
        return state, events

    def _finish(self, state: DictionaryState) -> tuple[DictionaryState, list[Event]]:
        if not state.waiting.count:
            return state, []
        _, rest = flush(state.waiting)
        before = state
        state = self.settings_of_core.finalize(state)
        return state, [self._event(before, state, rest, state.waiting.position)]

    def _report(self, state: DictionaryState, block: np.ndarray, end: int) -> tuple[DictionaryState, Event]:
        after = self.settings_of_core.learn(state, block)
        return after, self._event(state, after, block, end)

    def _event(self, before: DictionaryState, after: DictionaryState, block: np.ndarray, end: int) -> Event:
        spiky = spikiness(block @ self.settings_of_core.components(before).T, self.p)
        return _event(spiky, float(after.gap[0]), after.dictionary, end - len(block), end)

    def _answer(self, state: DictionaryState, control: Control) -> list[Event]:
        if control.name == "interrupt":
            return []
        if control.name != "dictionary":
            raise InputError(f"the control is {control.name!r}, accepted are dictionary and interrupt")
        at = float(state.waiting.position)
        return [Event(Rows(self.settings_of_core.mixing(state).T.copy()), at, at)]

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The reports of the whole stream by the learner in loops."""
        if self.precondition:
            return super().offline(stream)
        rows = [chunk.values for chunk in stream if isinstance(chunk, Rows) and len(chunk)]
        whole = np.concatenate([np.zeros((0, self.width)), *rows])
        learner = NaiveDictionary(self.settings_of_core, self.width)
        events = []
        for start in range(0, len(whole), self.batch_size):
            block = whole[start : start + self.batch_size]
            spiky = spikiness(block @ learner.dictionary(), self.p)
            learner.step(block)
            events.append(_event(spiky, learner.gap, learner.D, start, start + len(block)))
        return events


def _event(spiky: float, gap: float, iterate: np.ndarray, start: int, end: int) -> Event:
    slack = 1 - np.linalg.norm(iterate) ** 2 / len(iterate)
    return Event(Rows(np.array([[spiky, gap, slack]]), NAMES), float(start), float(end))
