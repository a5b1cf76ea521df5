"""Running mean and variance of a stream, in float64: Welford's recursion, merging, and optional forgetting."""

from typing import Any, Self

import numpy as np

from unending.core.errors import InputError, NumericalError

__all__ = ["RunningMoments"]


class RunningMoments:
    """Mean and unbiased variance of what has come, one sample at a time (Welford 1962, Chan et al. 1983).

    Parameters
    ----------
    shape
        of one sample; `()` for numbers.
    forgetting
        the share by which everything counts less with each new sample: 0 is the plain moments of the whole stream,
        0.01 an exponential window of about 100 samples.

    Attributes
    ----------
    mean, m2 : np.ndarray
        float64 `shape`: the mean, and the (weighted) sum of squared deviations from it.
    weight, squares : float
        sums of the samples' weights and of their squares; without forgetting both are the number of samples.
    """

    def __init__(self, shape: tuple[int, ...] = (), forgetting: float = 0.0) -> None:
        if not 0 <= forgetting < 1:
            raise InputError(f"forgetting is {forgetting}, accepted is 0 or more and less than 1")
        self.forgetting = forgetting
        self.mean = np.zeros(shape)
        self.m2 = np.zeros(shape)
        self.weight = self.squares = 0.0

    def update(self, sample: Any) -> None:
        """Take in one sample of the shape.

        Raises
        ------
        InputError
            if it has another shape, or holds NaN or infinity; nothing is changed.
        NumericalError
            if the moments leave the range of float64; nothing is changed.
        """
        x = np.asarray(sample, dtype=np.float64)
        if x.shape != self.mean.shape:
            raise InputError(f"a sample has shape {x.shape}, accepted is {self.mean.shape}")
        if not np.isfinite(x).all():
            raise InputError("a sample holds NaN or infinity; finite numbers are accepted")
        keep = 1.0 - self.forgetting
        weight = keep * self.weight + 1.0
        with np.errstate(over="ignore", invalid="ignore"):
            away = x - self.mean
            mean = self.mean + away / weight
            m2 = keep * self.m2 + away * (x - mean)
        if not (np.isfinite(mean).all() and np.isfinite(m2).all()):
            raise NumericalError("a sample is so far from the mean that the variance is not finite")
        self.mean, self.m2, self.weight = mean, m2, weight
        self.squares = keep * keep * self.squares + 1.0

    def variance(self, default: float = 1.0) -> np.ndarray:
        """The unbiased variance, float64 `shape`; `default` before the second sample."""
        if not self.weight > 1.0:
            return np.full(self.mean.shape, default)
        return self.m2 / (self.weight - self.squares / self.weight)

    def normalize(self, sample: Any, eps: float = 1e-8) -> np.ndarray:
        """The sample less the mean, over the deviation."""
        return (np.asarray(sample, dtype=np.float64) - self.mean) / np.sqrt(self.variance() + eps)

    def merge(self, other: "RunningMoments") -> Self:
        """Take in another's samples as if they had come here; only without forgetting, where order does not count.

        Raises
        ------
        InputError
            if one of the two forgets, or the shapes differ.
        """
        if self.forgetting or other.forgetting:
            raise InputError("moments that forget depend on the order and cannot be merged")
        if self.mean.shape != other.mean.shape:
            raise InputError(f"moments of shape {other.mean.shape} do not merge into {self.mean.shape}")
        both = self.weight + other.weight
        if both:
            away = other.mean - self.mean
            self.mean = self.mean + away * (other.weight / both)
            self.m2 = self.m2 + other.m2 + away**2 * (self.weight * other.weight / both)
        self.weight, self.squares = both, self.squares + other.squares
        return self

    def state_dict(self) -> dict[str, Any]:
        """All that the moments know, as arrays and floats."""
        return {
            "mean": self.mean.copy(),
            "m2": self.m2.copy(),
            "weight": self.weight,
            "squares": self.squares,
        }

    def load_state_dict(self, held: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.mean, self.m2 = (np.array(held[name], dtype=np.float64) for name in ("mean", "m2"))
        self.weight, self.squares = float(held["weight"]), float(held["squares"])
