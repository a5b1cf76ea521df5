"""The slow twins: every alpha kept and autograd through the loop, and every segmentation listed."""

from collections.abc import Iterator

import torch
from torch import Tensor

from unending.systems.learning.flash_semicrf.potentials import Potentials

__all__ = ["Path", "naive_log_partition", "path_score", "segmentations"]

Path = list[tuple[int, int, int]]
"""Segments (start, end, label)."""


def _edge(p: Potentials, b: int, start: int, end: int) -> Tensor:
    """What a segment scores without a transition, `[C]`."""
    score = p.cum_scores[b, end] - p.cum_scores[b, start] + p.duration[end - start - 1]
    if p.start_scores.shape[1]:
        score = score + p.start_scores[b, start]
    return score + p.end_scores[b, end - 1] if p.end_scores.shape[1] else score


def _lead(p: Potentials, k: int) -> tuple[Tensor, Tensor]:
    """Transition `[C, C]` and initial `[C]` into a segment of duration k."""
    return (p.transition, p.initial) if p.static else (p.transition[k - 1], p.initial[k - 1])


def naive_log_partition(potentials: Potentials) -> Tensor:
    """Log partition `[batch]`, differentiable any number of times; memory O(T K C C) in the graph."""
    p, found = potentials, []
    for b, length in enumerate(p.lengths.tolist()):
        alphas: list[Tensor] = []
        for t in range(1, length + 1):
            terms = []
            for k in range(1, min(p.max_duration, t) + 1):
                transition, initial = _lead(p, k)
                before = torch.logsumexp(alphas[t - k - 1][:, None] + transition, 0) if k < t else initial
                terms.append(before + _edge(p, b, t - k, t))
            alphas.append(torch.logsumexp(torch.stack(terms), 0))
        found.append(torch.logsumexp(alphas[-1] + p.final, 0))
    return torch.stack(found)


def segmentations(length: int, max_duration: int, labels: int) -> Iterator[Path]:
    """Every segmentation of so many tokens."""

    def rest(start: int) -> Iterator[Path]:
        if start == length:
            yield []
        for end in range(start + 1, min(start + max_duration, length) + 1):
            for tail in rest(end):
                for label in range(labels):
                    yield [(start, end, label), *tail]

    return rest(0)


def path_score(p: Potentials, b: int, path: Path) -> Tensor:
    """The score of one segmentation of row b."""
    total = p.final[path[-1][2]]
    for index, (start, end, label) in enumerate(path):
        transition, initial = _lead(p, end - start)
        total = total + (transition[path[index - 1][2], label] if index else initial[label])
        total = total + _edge(p, b, start, end)[label]
    return total
