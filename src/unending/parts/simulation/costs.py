"""Cost models: what a piece of work takes, as curves that are fitted to measurements or given by hand."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unending.core.errors import InputError

__all__ = ["Curve", "StepCost", "fit_curve"]

_GOOD_FIT = 0.9


@dataclass(frozen=True)
class Curve:
    """Seconds of `n` units of work: `constant + linear * n + quadratic * n**2`, never below 0."""

    constant: float
    linear: float = 0.0
    quadratic: float = 0.0
    r_squared: float = 1.0
    """How much of the variance of the measurements the curve explains."""

    def __call__(self, n: float) -> float:
        return max(0.0, self.constant + self.linear * n + self.quadratic * n * n)


def fit_curve(samples: Sequence[tuple[float, float]]) -> Curve:
    """The quadratic of least squares through `(n, seconds)`; of lower degree where there are fewer than 3 sizes.

    Raises
    ------
    InputError
        without samples, or with one that is not finite.

    Warns
    -----
    UserWarning
        if the curve explains less than 0.9 of the variance.
    """
    points = np.asarray(samples, dtype=np.float64).reshape(-1, 2)
    if not len(points) or not np.isfinite(points).all():
        raise InputError("a cost curve is fitted to one or more finite samples (n, seconds)")
    n, seconds = points.T
    degree = min(2, len(np.unique(n)) - 1)
    coefficients = np.polyfit(n, seconds, degree)[::-1]
    left = ((seconds - np.polyval(coefficients[::-1], n)) ** 2).sum()
    spread = ((seconds - seconds.mean()) ** 2).sum()
    r_squared = 1.0 if spread == 0 else float(1 - left / spread)
    if r_squared < _GOOD_FIT:
        warnings.warn(
            f"the cost curve explains only {r_squared:.2f} of the variance of its samples", stacklevel=2
        )
    constant, linear, quadratic = [*map(float, coefficients), 0.0, 0.0][:3]
    return Curve(constant, linear, quadratic, r_squared)


@dataclass(frozen=True)
class StepCost:
    """Seconds of one forward pass over a mixed batch.

    `max(floor, fixed + token * tokens + pair * pairs)`, where `pairs` counts the (query, key) pairs of attention:
    `n` tokens behind a context of `c` make `n * c + n * n / 2`.
    """

    fixed: float
    token: float
    pair: float = 0.0
    floor: float = 0.0
    """What the pass takes however little there is to do, such as reading the weights."""

    def __call__(self, batch: Sequence[tuple[int, int]]) -> float:
        """Seconds of a batch of `(new tokens, context before them)`."""
        tokens = sum(n for n, _ in batch)
        pairs = sum(n * context + n * n / 2 for n, context in batch)
        return max(self.floor, self.fixed + self.token * tokens + self.pair * pairs)

    @classmethod
    def from_curve(cls, prefill: Curve) -> "StepCost":
        """The pass of which `prefill(n)` is the cost of `n` tokens without context."""
        return cls(max(0.0, prefill.constant), max(0.0, prefill.linear), max(0.0, 2 * prefill.quadratic))
