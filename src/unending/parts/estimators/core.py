"""What a face asks of the learner behind it."""

from typing import Any, Protocol

import numpy as np

__all__ = ["LinearCore"]


class LinearCore(Protocol):
    """A learner as functions on an explicit state (a `core.state`); what it has learned is a matrix.

    `update` is to give the same state however rows are cut into calls, and to raise before anything changes.
    """

    def init(self, width: int, seed: int = 0) -> Any:
        """The state before the first row of `width` numbers."""

    def update(self, old: Any, rows: np.ndarray) -> Any:
        """The state after rows `[n, width]`; `old` stays as it is."""

    def finalize(self, old: Any) -> Any:
        """The state when what waits for more rows is taken in as it stands."""

    def widen(self, old: Any, width: int) -> Any:
        """The state for rows of more columns, in which all rows so far are 0."""

    def components(self, now: Any) -> np.ndarray:
        """What has been learned, float64 or complex128 `[components, width]`."""
