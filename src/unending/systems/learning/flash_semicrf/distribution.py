"""The distribution over segmentations, in the manner of `torch.distributions` and torch-struct."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from unending.core.errors import InputError, NumericalError
from unending.systems.learning.flash_semicrf.function import (
    log_partition,
    messages,
    posteriors,
    require_interval,
)
from unending.systems.learning.flash_semicrf.function import scan as forward_scan
from unending.systems.learning.flash_semicrf.paths import best_path, sample_durations, sample_static
from unending.systems.learning.flash_semicrf.potentials import LEAST, Potentials
from unending.systems.learning.flash_semicrf.segments import Segment, gold_score
from unending.systems.learning.flash_semicrf.vectorised import Posteriors

__all__ = ["SemiCRFDistribution"]


class SemiCRFDistribution:
    """All segmentations of each row of a batch, with probabilities `exp(score - log Z)`.

    These are probabilities of segmentations, and sum to 1, under `start="pi"`. The virtual source of the other
    convention is summed out inside the first segment's score.

    Parameters
    ----------
    potentials
        from `Potentials.of`.
    interval, backend
        as in `semi_crf_log_partition`. Paths and messages are found on the CPU whatever the backend.

    Where the scores leave a row no segmentation, its posteriors are 0, and its best path, samples and entropy raise
    `NumericalError`.
    """

    def __init__(self, potentials: Potentials, interval: int | None = None, backend: str = "auto") -> None:
        require_interval(interval)
        self.potentials, self.interval, self.backend = potentials, interval, backend

    @cached_property
    def partition(self) -> Tensor:
        """Log partition `[batch]`, differentiable once."""
        return log_partition(self.potentials, self.interval, self.backend)

    @cached_property
    def posteriors(self) -> Posteriors:
        """Posteriors of starts and ends `[batch, T, C]`, and expected uses of transitions and durations."""
        return posteriors(self.potentials, self.interval, self.backend)

    @cached_property
    def _messages(self) -> tuple[Tensor, Tensor]:
        return messages(self.potentials, self.interval)

    def log_prob(self, segments: Sequence[Sequence[Segment | tuple[int, int, int]]]) -> Tensor:
        """Log probability `[batch]` of one segmentation a row; `InputError` if one does not tile its row."""
        return gold_score(self.potentials, segments) - self.partition

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Boundary `[batch, T]` (a segment ends with token t) and position `[batch, T, C]` (token t has label c)."""
        starts, ends = self.posteriors.starts, self.posteriors.ends
        before = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
        inside = torch.arange(starts.shape[1], device=starts.device) < self.potentials.lengths[:, None]
        covered = (starts.double() - before.double()).cumsum(1).clamp(0.0, 1.0) * inside[..., None]
        return ends.sum(2), covered.to(starts.dtype)

    def segment_posterior(self, queries: Tensor) -> Tensor:
        """Probability float64 `[n]` that the segments (row, start, duration, label) of int64 `[n, 4]` are there.

        Raises
        ------
        InputError
            if one lies outside its row, or is longer than the largest duration.
        """
        if queries.ndim != 2 or queries.shape[1] != 4 or queries.is_floating_point():
            raise InputError(f"queries are whole numbers [n, 4], got {queries.dtype} {list(queries.shape)}")
        p, (alphas, betas) = self.potentials.detach().to(torch.float64, torch.device("cpu")), self._messages
        row, start, duration, label = queries.cpu().T
        end = start + duration
        wrong = (row < 0) | (row >= len(p.lengths)) | (label < 0) | (label >= p.duration.shape[1])
        wrong |= (start < 0) | (duration < 1) | (duration > p.max_duration)
        wrong |= end > p.lengths[torch.where(wrong, 0, row)]
        if bool(wrong.any()):
            at = queries[wrong.nonzero()[0, 0]].tolist()
            raise InputError(f"segment (row, start, duration, label) {at} is not one of this distribution")
        k = duration - 1
        into = p.transition[:, label].T if p.static else p.transition[k, :, label]
        entered = torch.logsumexp(alphas[row, start] + into, 1)
        first = p.initial[label] if p.static else p.initial[k, label]
        score = torch.where(start == 0, first, entered) + p.duration[k, label]
        score = score + p.cum_scores[row, end, label] - p.cum_scores[row, start, label]
        if p.start_scores.shape[1]:
            score = score + p.start_scores[row, start, label]
        if p.end_scores.shape[1]:
            score = score + p.end_scores[row, end - 1, label]
        total = torch.logsumexp(alphas[torch.arange(len(alphas)), p.lengths] + p.final, 1)
        return (score + betas[row, end, label] - total[row]).clamp(max=0.0).exp()

    @property
    def entropy(self) -> Tensor:
        """Entropy `[batch]` in nats: log Z - E[score], row by row; not differentiable."""
        p = self.potentials.detach()
        found = []
        for b in range(len(p.lengths)):
            one = self._row(p, b)
            scores = {name: each.requires_grad_() for name, each in one.scores.items()}
            with torch.enable_grad():
                total = log_partition(one, self.interval, self.backend)
                parts = torch.autograd.grad(total.sum(), list(scores.values()))
            expected = [
                torch.where(g == 0, 0.0, g * s).sum() for g, s in zip(parts, scores.values(), strict=True)
            ]
            _require_possible(total[0].item(), b)
            found.append(total[0].detach() - torch.stack(expected).sum().detach())
        return torch.stack(found)

    @staticmethod
    def _row(p: Potentials, b: int) -> Potentials:
        own = (p.cum_scores[b : b + 1], p.start_scores[b : b + 1], p.end_scores[b : b + 1])
        cum, starts, ends = (each.clone() for each in own)
        shared = (p.transition.clone(), p.duration.clone(), p.lengths[b : b + 1])
        return Potentials(cum, *shared, p.initial.clone(), p.final.clone(), starts, ends)

    def best(self, keep_pointers: bool = False) -> tuple[Tensor, list[list[Segment]]]:
        """Scores float64 `[batch]` and segments of the best segmentation of each row (Viterbi).

        Segmentations that permute durations among neighbours of one label tie, and any of them may be given.

        Parameters
        ----------
        keep_pointers
            keep all back-pointers, O(T C), in place of computing them again from checkpoints every sqrt(T K)
            positions.
        """
        p = self.potentials.detach().to(torch.float64, torch.device("cpu"))
        shape = (1, *p.transition.shape) if p.static else p.transition.shape
        initial = p.initial[None] if p.static else p.initial
        shared = (p.transition.reshape(shape), p.duration, initial, p.final)
        arrays = [each.contiguous().numpy() for each in shared]
        scores, paths = [], []
        for b, length in enumerate(p.lengths.tolist()):
            block = max(p.max_duration, int((length * p.max_duration) ** 0.5))
            interval = length if keep_pointers else min(length, self.interval or block)
            own = (p.cum_scores[b].numpy(), p.start_scores[b].numpy(), p.end_scores[b].numpy())
            score, starts = best_path(own[0], *arrays, own[1], own[2], length, interval)
            _require_possible(score, b)
            scores.append(score)
            paths.append(_segments(starts))
        return torch.tensor(scores, dtype=torch.float64), paths

    @property
    def argmax(self) -> list[list[Segment]]:
        """The best segmentation of each row."""
        return self.best()[1]

    def sample(self, count: int = 1, generator: torch.Generator | None = None) -> list[list[list[Segment]]]:
        """`count` segmentations a row, drawn exactly: `[count][batch]` lists of segments.

        Parameters
        ----------
        generator
            of the CPU; torch's own if not given.
        """
        if count < 0:
            raise InputError(f"the number of samples is {count}, accepted is 0 or more")
        p = self.potentials.detach().to(self.potentials.cum_scores.dtype, torch.device("cpu"))
        done = forward_scan(p, self.interval, "compiled")
        arrays = [each.numpy() for each in (p.transition, p.duration, p.initial, p.final)]
        found: list[list[list[Segment]]] = [[] for _ in range(count)]
        kernel = sample_static if p.static else sample_durations
        for b, length in enumerate(p.lengths.tolist()):
            _require_possible(done.log_partition[b].item(), b)
            uniforms = torch.rand(count, length, 2, dtype=torch.float64, generator=generator).numpy()
            blocks = -(-length // done.interval)
            own = (p.start_scores[b].numpy(), p.end_scores[b].numpy(), length, done.interval)
            kept = (done.checkpoints[b, :blocks].numpy(), done.offsets[b, :blocks].numpy())
            drawn = kernel(p.cum_scores[b].numpy(), *arrays, *own, *kept, uniforms)
            for each, starts in zip(found, drawn, strict=True):
                each.append(_segments(starts))
        return found


def _require_possible(score: float, row: int) -> None:
    if score <= LEAST:
        raise NumericalError(f"the scores leave row {row} no segmentation")


def _segments(starts: np.ndarray) -> list[Segment]:
    """Segments from the label at each first token, else -1."""
    places = np.flatnonzero(starts >= 0)
    stops = np.append(places[1:], len(starts))
    return [
        Segment(*each) for each in zip(places.tolist(), stops.tolist(), starts[places].tolist(), strict=True)
    ]
