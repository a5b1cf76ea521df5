"""What is asked of rows before they are learned: norms that can be summed, and draws of their own."""

import numpy as np

from unending.core.errors import InputError
from unending.core.random import philox
from unending.systems.learning.streaming_top_eigenvector.kernels import row_squares

__all__ = ["squared_norms", "uniforms"]

LARGEST = 1e200
"""Squared norms up to this keep every sum finite."""
_DRAWN = 64
"""Positions that share one generator."""


def squared_norms(rows: np.ndarray, first: int = 0) -> np.ndarray:
    """float64 `[n]`; `first` is the place of the first row, for the message.

    Raises
    ------
    InputError
        if a row is not finite or its norm is above 1e100.
    """
    squares = row_squares(rows)
    if not (squares <= LARGEST).all():
        where = int(np.flatnonzero(~(squares <= LARGEST))[0])
        raise InputError(
            f"row {first + where} is not finite or its norm is above 1e100; smaller finite rows are accepted"
        )
    return squares


def uniforms(seed: int, start: int, n: int) -> np.ndarray:
    """Draws `[n, 2]` in [0, 1) that belong to stream positions `start` to `start + n - 1`."""
    first, last = start // _DRAWN, (start + n - 1) // _DRAWN
    drawn = [philox(seed, each, 2).random((_DRAWN, 2)) for each in range(first, last + 1)]
    return np.concatenate(drawn)[start - first * _DRAWN :][:n]
