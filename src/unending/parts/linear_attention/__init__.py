"""Linear attention: one family in recurrent and chunk-parallel form, with a naive reference beside them."""

from unending.parts.linear_attention.features import EluPlusOne, FeatureMap, Identity, Taylor
from unending.parts.linear_attention.forms import (
    EPS,
    LinearState,
    absorb,
    chunked,
    empty,
    pairwise,
    step,
    wide,
)

__all__ = [
    "EPS",
    "EluPlusOne",
    "FeatureMap",
    "Identity",
    "LinearState",
    "Taylor",
    "absorb",
    "chunked",
    "empty",
    "pairwise",
    "step",
    "wide",
]
