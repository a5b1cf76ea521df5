"""The operator: rows in; for every `report` rows, how much of them the direction from before explains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from unending.core import Bound, Chunk, Control, Event, Exactness, Operator, Paper, Rows, Spec, nbytes, state
from unending.core.blocks import Remainder, feed, flush, remainder
from unending.core.errors import InputError
from unending.systems.learning.streaming_top_eigenvector.core import EigenvectorState, Settings
from unending.systems.learning.streaming_top_eigenvector.kernels import STORED
from unending.systems.learning.streaming_top_eigenvector.naive import NaiveTopEigenvector
from unending.systems.learning.streaming_top_eigenvector.rows import squared_norms

__all__ = ["StreamingTopEigenvector"]

NAMES = ("captured", "heavy_rows", "bits")


@state
class StreamState:
    """The learner, and rows that wait for their report."""

    learned: EigenvectorState
    waiting: Remainder


@dataclass(frozen=True)
class StreamingTopEigenvector(Operator[StreamState]):
    """Top eigenvector of a randomly ordered stream (Kacham and Woodruff 2024, arXiv 2412.11963) as an operator.

    `Rows` go in. Every `report` rows, `Rows` `[1, 3]` come out: the share of those rows' energy along the direction
    that was known before them, heavy rows stored, bits of state in use. `Control("direction")` gives `Rows` `[1,
    width]`, the direction as of the last block.

    Parameters
    ----------
    width
        columns of a row; `unending run` takes it from the source.
    report
        rows of one report.
    n_rows, n_blocks, heavy_factor, max_heavy, thinning, reservoir, combine
        as for `Settings`.
    """

    width: int = 0
    report: int = 64
    n_rows: int = 0
    n_blocks: int = 0
    heavy_factor: float = 0.3
    max_heavy: int = -1
    thinning: float = 0.0
    reservoir: int = 0
    combine: str = "auto"

    spec: ClassVar[Spec] = Spec(
        name="streaming-top-eigenvector",
        family="learning",
        title="the leading direction of a stream of rows, in one pass",
        takes=(Rows, Control),
        gives=(Rows,),
        exactness=Exactness.allclose(1e-6),
        paper=Paper(
            "Approximating the Top Eigenvector in Random Order Streams",
            "Praneeth Kacham, David P. Woodruff",
            2024,
            "2412.11963",
        ),
        hop="report",
        unit="row",
    )

    def __post_init__(self) -> None:
        if self.width < 0 or self.report < 1:
            raise InputError("width is 0 (taken from the source) or more, report is 1 row or more")
        _ = self.settings_of_core

    @classmethod
    def example(cls) -> Self:
        return cls(width=4, report=5, n_rows=60, n_blocks=4, max_heavy=3, thinning=0.7)

    @property
    def settings_of_core(self) -> Settings:
        """The learner's settings."""
        return Settings(
            self.n_rows,
            self.n_blocks,
            self.heavy_factor,
            self.max_heavy,
            self.thinning,
            self.reservoir,
            self.combine,
        )

    def domain(self) -> dict[type[Chunk], dict[str, int]]:
        return {Rows: {"width": self.width}} if self.width else {}

    def init(self, seed: int = 0) -> StreamState:
        if not self.width:
            raise InputError("width is 0: say how many columns the rows have")
        waiting = remainder(self.report, (self.width,), np.float64)
        return StreamState(self.settings_of_core.init(self.width, seed), waiting)

    def bound(self) -> Bound:
        return Bound(nbytes(self.init()))

    def _step(self, state: StreamState, chunk: Any) -> tuple[StreamState, list[Event]]:
        if isinstance(chunk, Control):
            return state, self._answer(state, chunk)
        rows = np.require(chunk.values, np.float64, ["C", "W"])
        squared_norms(rows, state.waiting.position)  # refuse before anything is learned
        waiting, blocks = feed(state.waiting, chunk.values)
        learned = state.learned
        end = waiting.position - waiting.count - sum(map(len, blocks))
        events = []
        for block in blocks:
            end += len(block)
            learned, event = self._report(learned, block, end)
            events.append(event)
        return StreamState(learned, waiting), events

    def _finish(self, state: StreamState) -> tuple[StreamState, list[Event]]:
        waiting, rest = flush(state.waiting)
        if not len(rest):
            return state, []
        learned, event = self._report(state.learned, rest, waiting.position)
        return StreamState(learned, waiting), [event]

    def _report(
        self, learned: EigenvectorState, rows: np.ndarray, end: int
    ) -> tuple[EigenvectorState, Event]:
        settings = self.settings_of_core
        share = captured(rows, settings.estimate(learned).direction)
        learned = settings.update(learned, rows)
        values = [[share, float(learned.counts[STORED]), float(settings.bits(learned))]]
        return learned, Event(Rows(np.array(values), NAMES), float(end - len(rows)), float(end))

    def _answer(self, state: StreamState, control: Control) -> list[Event]:
        if control.name == "interrupt":
            return []
        if control.name != "direction":
            raise InputError(f"the control is {control.name!r}, accepted are direction and interrupt")
        found = self.settings_of_core.estimate(state.learned).direction
        at = float(state.waiting.position)
        return [Event(Rows(found[None]), at, at)]

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The reports of the whole stream by the learner with lists, one row at a time."""
        if self.reservoir:
            return super().offline(stream)
        rows = [chunk.values for chunk in stream if isinstance(chunk, Rows) and len(chunk)]
        whole = np.concatenate([np.zeros((0, self.width)), *rows])
        learner = NaiveTopEigenvector(self.settings_of_core, self.width)
        events = []
        for start in range(0, len(whole), self.report):
            block = whole[start : start + self.report]
            share = captured(block, learner.estimate())
            for row in block:
                learner.row(row)
            state = self.settings_of_core.init(self.width)
            numbers = state.vectors.size + state.reals.size + state.counts.size + 1
            bits = 64 * (numbers + len(learner.store) * (self.width + 2))
            values = np.array([[share, float(len(learner.store)), float(bits)]])
            events.append(Event(Rows(values, NAMES), float(start), float(start + len(block))))
        return events


def captured(rows: np.ndarray, direction: np.ndarray) -> float:
    """Share of the rows' energy along a unit direction, in [0, 1]; 0 where all rows are zero."""
    along = rows @ direction
    largest = np.abs(rows).max(initial=0.0)
    if not largest:
        return 0.0
    scaled = rows / largest
    return float(np.sum((along / largest) ** 2) / np.sum(scaled**2))
