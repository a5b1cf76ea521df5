"""When to speak: read/write policies, where a written word ends, and how late it came."""

from unending.parts.emission.boundaries import Boundary, at_boundary, ends_sentence
from unending.parts.emission.latency import (
    average_lagging,
    average_proportion,
    differentiable_average_lagging,
    laal,
)
from unending.parts.emission.policies import Policy, Progress, SentenceBoundary, UserPolicy, WaitK

__all__ = [
    "Boundary",
    "Policy",
    "Progress",
    "SentenceBoundary",
    "UserPolicy",
    "WaitK",
    "at_boundary",
    "average_lagging",
    "average_proportion",
    "differentiable_average_lagging",
    "ends_sentence",
    "laal",
]
