"""Scores of durations: a table `[K, C]`, learned freely or from a distribution over durations."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unending.core.errors import InputError

__all__ = ["DISTRIBUTIONS", "DurationScores", "geometric", "negative_binomial", "poisson", "uniform"]

DISTRIBUTIONS = ("learned", "geometric", "negative_binomial", "poisson", "uniform")


def _durations(max_duration: int, like: Tensor) -> Tensor:
    return torch.arange(1, max_duration + 1, dtype=like.dtype, device=like.device)[:, None]


def geometric(p: Tensor, max_duration: int) -> Tensor:
    """`log p + (k - 1) log(1 - p)` `[K, C]` from `p` `[C]` in (0, 1)."""
    return p.log() + (_durations(max_duration, p) - 1) * torch.log1p(-p)


def negative_binomial(r: Tensor, p: Tensor, max_duration: int) -> Tensor:
    """Log probability `[K, C]` that k - 1 failures come before success number r > 0, each success of probability p."""
    failures = _durations(max_duration, p) - 1
    ways = torch.lgamma(failures + r) - torch.lgamma(failures + 1) - torch.lgamma(r)
    return ways + r * p.log() + failures * torch.log1p(-p)


def poisson(rate: Tensor, max_duration: int) -> Tensor:
    """`k log(rate) - log k! - rate` `[K, C]` from `rate` `[C]` > 0."""
    k = _durations(max_duration, rate)
    return k * rate.log() - torch.lgamma(k + 1) - rate


def uniform(max_duration: int, like: Tensor) -> Tensor:
    """`-log K` everywhere, `[K, C]`."""
    return like.new_full((max_duration, len(like)), -math.log(max_duration))


class DurationScores(nn.Module):
    """Scores `[K, C]` of durations; calling it gives the table.

    Parameters
    ----------
    distribution
        `"learned"` (a free table), `"geometric"`, `"negative_binomial"`, `"poisson"`, `"uniform"`, or a callable
        `(max_duration, num_classes) -> Tensor [K, C]`, which may itself be a module with parameters.
    init_scale
        standard deviation of a learned table at the start.

    Raises
    ------
    InputError
        if the distribution is not one of these.
    """

    def __init__(
        self,
        num_classes: int,
        max_duration: int,
        distribution: str | Callable[[int, int], Tensor] = "learned",
        init_scale: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not callable(distribution) and distribution not in DISTRIBUTIONS:
            raise InputError(f"durations are {', '.join(DISTRIBUTIONS)} or a callable, got {distribution!r}")
        self.num_classes, self.max_duration, self.distribution = num_classes, max_duration, distribution
        if distribution == "learned":
            table = torch.randn(max_duration, num_classes, generator=generator, dtype=torch.float64)
            self.table = nn.Parameter(init_scale * table)
        elif distribution in ("geometric", "negative_binomial"):
            # A mean of about a quarter of the longest duration.
            self.logit = nn.Parameter(torch.full((num_classes,), -1.0, dtype=torch.float64))
            if distribution == "negative_binomial":
                self.log_r = nn.Parameter(torch.zeros(num_classes, dtype=torch.float64))
        elif distribution == "poisson":
            level = torch.tensor(max(1.0, max_duration / 4), dtype=torch.float64).log()
            self.log_rate = nn.Parameter(level.expand(num_classes).clone())
        self._like: Tensor
        self.register_buffer("_like", torch.zeros(num_classes, dtype=torch.float64), persistent=False)

    def forward(self) -> Tensor:
        """The table `[K, C]`."""
        k = self.max_duration
        if callable(self.distribution):
            return self.distribution(k, self.num_classes)
        match self.distribution:
            case "learned":
                return self.table
            case "geometric":
                return geometric(self.logit.sigmoid(), k)
            case "negative_binomial":
                return negative_binomial(self.log_r.exp(), self.logit.sigmoid(), k)
            case "poisson":
                return poisson(self.log_rate.exp(), k)
            case _:
                return uniform(k, self._like)
