"""Count-Min: how often codes were seen, in a table of fixed size; tables of equal seeds add and subtract."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numba import njit

from unending.core.errors import InputError
from unending.core.random import philox

__all__ = ["CountMinSketch", "cell_of", "row_seeds"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_A, _B, _C = np.uint64(30), np.uint64(27), np.uint64(31)
_SUBSTREAM = 0x636D73  # keeps these draws apart from others of the same seed


def row_seeds(seed: int, rows: int) -> np.ndarray:
    """One random 64-bit number a row of a table, uint64 `[rows]`; sketches add only where these are equal."""
    return philox(seed, 0, _SUBSTREAM).integers(0, 2**64, rows, dtype=np.uint64)


@njit(cache=True)
def cell_of(code, seed, width):  # type: ignore[no-untyped-def]
    """Column of a code, int64, in a row of `width` cells with a uint64 `seed` (SplitMix64's finaliser)."""
    z = np.uint64(code) * _GOLDEN + seed
    z = (z ^ (z >> _A)) * _FIRST
    z = (z ^ (z >> _B)) * _SECOND
    z = z ^ (z >> _C)
    return np.int64(z % np.uint64(width))


class CountMinSketch:
    """Count-Min sketch (Cormode, Muthukrishnan 2005): estimates never lie below the true count.

    With weights of at least 0 an estimate exceeds the count by more than `e / width * total` with a probability of
    at most `exp(-rows)`. The table is linear: `merge` adds another, `subtract` takes it out again, bit for bit.

    Parameters
    ----------
    rows, width
        independent hash rows, and cells of each.
    seed
        of the hash functions; only sketches of one seed and shape can be put together.

    Raises
    ------
    InputError
        if a size is below 1, or at `merge` and `subtract` where seeds or shapes differ.
    """

    def __init__(self, rows: int = 3, width: int = 20, seed: int = 0) -> None:
        if rows < 1 or width < 1:
            raise InputError(f"a Count-Min table has at least 1 row and 1 column, got {rows} x {width}")
        self.cells = np.zeros((rows, width), np.int64)
        self.total = 0
        self._seeds = row_seeds(seed, rows)

    def _columns(self, code: int) -> list[int]:
        width = self.cells.shape[1]
        return [int(cell_of(code, seed, width)) for seed in self._seeds]

    def add(self, code: int, count: int = 1) -> None:
        """Count a code (an integer from 0 up to 2^63 - 1) `count` times."""
        for row, column in enumerate(self._columns(code)):
            self.cells[row, column] += count
        self.total += count

    def update(self, codes: Sequence[int]) -> None:
        """Count each code once."""
        for code in codes:
            self.add(code)

    def estimate(self, code: int) -> int:
        """How often the code was counted, or more."""
        return min(int(self.cells[row, column]) for row, column in enumerate(self._columns(code)))

    def _require_alike(self, other: "CountMinSketch") -> None:
        if self.cells.shape != other.cells.shape or (self._seeds != other._seeds).any():
            raise InputError("these Count-Min tables differ in shape or seed and cannot be put together")

    def merge(self, other: Self) -> None:
        """Add what another sketch has counted."""
        self._require_alike(other)
        self.cells += other.cells
        self.total += other.total

    def subtract(self, other: Self) -> None:
        """Take out what another sketch has counted: undoes `merge` exactly."""
        self._require_alike(other)
        self.cells -= other.cells
        self.total -= other.total
