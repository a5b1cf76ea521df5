"""Feature maps of linear attention: `map(q) . map(k)` takes the place of `exp(q . k)`."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["EluPlusOne", "FeatureMap", "Identity", "Taylor"]


class FeatureMap(Protocol):
    """A map of queries and keys `[..., dim]` to features `[..., size]`."""

    @property
    def size(self) -> int:
        """How many features there are."""

    def __call__(self, x: Tensor) -> Tensor:
        """Features `[..., size]` of `x` `[..., dim]`, in the dtype of `x`."""

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """`map(queries) . map(keys)` `[..., n, m]` of `[..., n, dim]` and `[..., m, dim]`, without the features."""


@dataclass(frozen=True)
class Taylor(FeatureMap):
    """The second-order Taylor expansion of `exp(q . k / sqrt(dim))` (Based: Arora et al. 2024, arXiv 2402.18668).

    `[1, x / dim^(1/4), vec(x x^T) / (sqrt(2) sqrt(dim))]`, so that the scores are `1 + s + s^2 / 2`.
    """

    dim: int

    @property
    def size(self) -> int:
        return 1 + self.dim + self.dim**2

    def __call__(self, x: Tensor) -> Tensor:
        pairs = (x[..., :, None] * x[..., None, :]).flatten(-2) / (2**0.5 * self.dim**0.5)
        return torch.cat([torch.ones_like(x[..., :1]), x / self.dim**0.25, pairs], dim=-1)

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        s = queries @ keys.transpose(-1, -2) / self.dim**0.5
        return 1 + s + s**2 / 2


@dataclass(frozen=True)
class EluPlusOne(FeatureMap):
    """`elu(x) + 1`, positive everywhere (Katharopoulos et al. 2020, arXiv 2006.16236)."""

    dim: int

    @property
    def size(self) -> int:
        return self.dim

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.elu(x) + 1

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self(queries) @ self(keys).transpose(-1, -2)


@dataclass(frozen=True)
class Identity(FeatureMap):
    """No map: scores may be negative, so it goes without the normaliser (retention, arXiv 2307.08621)."""

    dim: int

    @property
    def size(self) -> int:
        return self.dim

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        return queries @ keys.transpose(-1, -2)
