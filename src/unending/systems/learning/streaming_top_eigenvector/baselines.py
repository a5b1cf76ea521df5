"""What the method is measured against: Oja's rule on a grid of rates with a growth test, and Frequent Directions."""

from dataclasses import dataclass
from math import log

import numpy as np

from unending.core import fork, state
from unending.core.errors import InputError
from unending.core.random import philox
from unending.parts.numerics.power import canonical_sign, normalised, top_right_singular
from unending.systems.learning.streaming_top_eigenvector.kernels import grid_absorb
from unending.systems.learning.streaming_top_eigenvector.rows import squared_norms

__all__ = ["DirectionsState", "FrequentDirectionsCore", "GridState", "OjaGridCore"]


@state
class GridState:
    """Copies of Oja's vector, one a rate."""

    vectors: np.ndarray
    """float64 `[copies, d]`, each of length 1."""
    growth: np.ndarray
    """float64 `[copies]`, the log of how much each has grown before it was made length 1."""
    scale: np.ndarray
    """float64 `[1]`, squared norm of the first row that is not zero, to which the rates are relative; 0 before it."""


@dataclass(frozen=True)
class OjaGridCore:
    """Oja's rule at fixed rates; the smallest rate whose vector has grown enough is believed (Price and Xun 2024).

    The rates are `2^low ... 2^high` over the squared norm of the first row that is not zero; no knowledge of the answer
    or of the length is in them. A first row some thousand times shorter than the rest leaves rates that are all too
    large, and the answer is then little more than the newest rows.

    Parameters
    ----------
    low, high
        exponents of the smallest and the largest rate, from -300 to 20.
    growth
        C of the test: a copy passes with a log-growth of at least `C ln d`. If none passes, the largest rate is taken.
    """

    low: int = -24
    high: int = 4
    growth: float = 4.0

    def __post_init__(self) -> None:
        if not (-300 <= self.low <= self.high <= 20 and self.growth >= 0):
            raise InputError(
                "the grid's exponents go from low up to high, -300 to 20, and growth is 0 or more"
            )

    @property
    def rates(self) -> np.ndarray:
        """Float64 `[copies]`, relative to 1 over the first row's squared norm."""
        return 2.0 ** np.arange(self.low, self.high + 1)

    def init(self, width: int, seed: int = 0) -> GridState:
        """All copies begin at one random direction."""
        start = normalised(philox(seed, 0, 1).standard_normal(width))
        return GridState(np.tile(start, (len(self.rates), 1)), np.zeros(len(self.rates)), np.zeros(1))

    def update(self, old: GridState, rows: np.ndarray) -> GridState:
        """Take rows `[n, d]`, each once; raises as `squared_norms` does."""
        rows = np.require(rows, np.float64, ["C", "W"])
        squares = squared_norms(rows)
        new = fork(old)
        if not new.scale[0] and squares.any():
            new.scale[0] = squares[np.flatnonzero(squares)[0]]
        if new.scale[0]:
            grid_absorb(rows, squares, self.rates / new.scale[0], new.vectors, new.growth)
        return new

    def finalize(self, old: GridState) -> GridState:
        """Nothing waits."""
        return fork(old)

    def widen(self, old: GridState, width: int) -> GridState:
        """The new columns begin as in a state of that width."""
        fresh = self.init(width).vectors
        fresh[:, : old.vectors.shape[1]] = old.vectors
        return GridState(np.array([normalised(each) for each in fresh]), old.growth.copy(), old.scale.copy())

    def chosen(self, now: GridState) -> int:
        """The copy that the growth test chooses."""
        passed = np.flatnonzero(now.growth >= self.growth * log(max(now.vectors.shape[1], 2)))
        return int(passed[0]) if len(passed) else len(now.growth) - 1

    def components(self, now: GridState) -> np.ndarray:
        """The chosen direction, `[1, d]`."""
        return canonical_sign(now.vectors[self.chosen(now)])[None]

    def bits(self, now: GridState) -> int:
        """Bits of state: 64 a number."""
        return 64 * (now.vectors.size + now.growth.size + 1)


@state
class DirectionsState:
    """A sketch B with B^T B below A^T A by at most ||A||_F^2 / size."""

    sketch: np.ndarray
    """float64 `[2 size, d]`, of which the first `used` rows are in use."""
    used: int


@dataclass(frozen=True)
class FrequentDirectionsCore:
    """Frequent Directions (Liberty 2013, arXiv 1206.0594): any order, `2 size` rows of memory."""

    size: int = 10

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"size is {self.size}, accepted is 1 or more")

    def init(self, width: int, seed: int = 0) -> DirectionsState:
        """An empty sketch; the method draws nothing."""
        return DirectionsState(np.zeros((2 * self.size, width)), 0)

    def update(self, old: DirectionsState, rows: np.ndarray) -> DirectionsState:
        """Take rows `[n, d]`; raises as `squared_norms` does."""
        rows = np.require(rows, np.float64, ["C", "W"])
        squared_norms(rows)
        sketch, used = old.sketch.copy(), old.used
        while len(rows):
            if used == len(sketch):
                used = self._shrink(sketch)
            room = len(sketch) - used
            sketch[used : used + len(rows[:room])] = rows[:room]
            used, rows = used + len(rows[:room]), rows[room:]
        return DirectionsState(sketch, used)

    def _shrink(self, sketch: np.ndarray) -> int:
        """Take the square of the (size + 1)-th singular value off all squares; changes the sketch, gives its rows."""
        _, values, right = np.linalg.svd(sketch, full_matrices=False)
        least = values[self.size] if len(values) > self.size else 0.0
        kept = int((values > least).sum())
        sketch[:] = 0.0
        sketch[:kept] = np.sqrt(values[:kept] ** 2 - least**2)[:, None] * right[:kept]
        return min(kept, len(sketch) - 1)

    def finalize(self, old: DirectionsState) -> DirectionsState:
        """Nothing waits."""
        return fork(old)

    def widen(self, old: DirectionsState, width: int) -> DirectionsState:
        """New columns are 0."""
        sketch = np.zeros((len(old.sketch), width))
        sketch[:, : old.sketch.shape[1]] = old.sketch
        return DirectionsState(sketch, old.used)

    def components(self, now: DirectionsState) -> np.ndarray:
        """The sketch's top direction, `[1, d]`."""
        return top_right_singular(now.sketch[: now.used])[None]

    def bits(self, now: DirectionsState) -> int:
        """Bits of state in use: 64 a number."""
        return 64 * (now.used * now.sketch.shape[1] + 1)
