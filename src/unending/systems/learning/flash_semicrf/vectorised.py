"""The scan in plain torch, all rows of a batch and all durations at once; any device, any float dtype.

The same blocks and checkpoints as `compiled`, every sum taken in logarithms. Rows that have ended are frozen: they
are neither shifted nor written.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unending.systems.learning.flash_semicrf.potentials import IMPOSSIBLE, LEAST, Potentials

__all__ = ["Forward", "Posteriors", "backward", "forward"]


@dataclass(frozen=True, eq=False)
class Forward:
    """What the forward pass leaves: everything the backward pass needs beside the potentials."""

    log_partition: Tensor
    """`[batch]`."""
    checkpoints: Tensor
    """`[batch, blocks, K, C]`: the K newest alphas at each, oldest first; `alpha_0` stands there as zeros."""
    offsets: Tensor
    """float64 `[batch, blocks]`: what has been taken off the alphas of a checkpoint."""
    last_alphas: Tensor
    """float64 `[batch, C]` at each row's end, nothing taken off."""
    interval: int


@dataclass(frozen=True, eq=False)
class Posteriors:
    """Expected counts under the distribution over segmentations, times a weight for each row."""

    starts: Tensor
    """`[batch, T, C]`: a segment of label c starts with token t."""
    ends: Tensor
    """`[batch, T, C]`: a segment of label c ends with token t."""
    transition: Tensor
    """Like the potentials' transition, summed over rows."""
    duration: Tensor
    """`[K, C]`, summed over rows."""
    initial: Tensor
    """Like the potentials' initial, summed over rows."""


def _log_sum(scores: Tensor, dim: int) -> Tensor:
    found = torch.logsumexp(scores, dim)
    return torch.where(found > LEAST, found, IMPOSSIBLE)


class _Scan:
    """One pass: alphas of positions first - K + 1 .. first + D of a block in `alphas` `[batch, K + D, C]`."""

    def __init__(self, potentials: Potentials, interval: int) -> None:
        p = self.p = potentials
        self.size, self.interval = p.max_duration, interval
        batch, _, self.labels = p.cum_scores.shape
        self.alphas = p.cum_scores.new_full((batch, self.size + interval, self.labels), IMPOSSIBLE)
        self.opened = torch.full_like(self.alphas, IMPOSSIBLE)
        """Scores of "a segment starts here", in the same rows; of static transitions alone."""
        self.reversed_duration = p.duration.flip(0)
        self.enters = p.transition if p.static else p.transition.flip(0)

    def content(self, position: int) -> Tensor:
        """What a start at a position adds beside transition and duration, `[batch, C]`."""
        p = self.p
        found = -p.cum_scores[:, position]
        return found + p.start_scores[:, position] if p.start_scores.shape[1] else found

    def open(self, position: int, row: int) -> None:
        """Fill `opened` from the alphas of one row."""
        if not self.p.static:
            return
        if position:
            entered = _log_sum(self.alphas[:, row, :, None] + self.p.transition, 1)
        else:
            entered = self.p.initial + self.alphas[:, row, :1]
        self.opened[:, row] = torch.where(entered > LEAST, entered + self.content(position), IMPOSSIBLE)

    def restore(self, first: int, checkpoint: Tensor) -> None:
        self.alphas[:, : self.size] = checkpoint
        self.opened[:, : self.size] = IMPOSSIBLE
        for back in range(min(self.size - 1, first) + 1):
            self.open(first - back, self.size - 1 - back)

    def step(self, t: int, first: int) -> Tensor:
        """The alphas at t, `[batch, C]`, not yet stored."""
        p, row = self.p, self.size + t - first - 1
        if p.static:
            scores = self.opened[:, row - self.size : row] + self.reversed_duration
        else:
            # Row q of the window is for duration K - q.
            sources = self.alphas[:, row - self.size : row, :, None] + self.enters
            scores = _log_sum(sources, 2)
            if t <= self.size:
                scores[:, self.size - t] = p.initial[t - 1] + self.alphas[:, row - t, :1]
            low = max(0, self.size - t)
            begins = torch.arange(t - self.size + low, t, device=scores.device)
            content = -p.cum_scores[:, begins]
            if p.start_scores.shape[1]:
                content = content + p.start_scores[:, begins]
            scores[:, low:] += content
            scores[:, :low] = IMPOSSIBLE
            scores = torch.where(scores > LEAST, scores + self.reversed_duration, IMPOSSIBLE)
        found = _log_sum(scores, 1)
        added = p.cum_scores[:, t]
        if p.end_scores.shape[1]:
            added = added + p.end_scores[:, t - 1]
        return torch.where(found > LEAST, found + added, IMPOSSIBLE)


def forward(potentials: Potentials, interval: int) -> Forward:
    """Log partition and checkpoints; time O(T) steps of torch, memory O((T / D) K C)."""
    p, lengths = potentials, potentials.lengths
    scan = _Scan(p, interval)
    size, alphas = scan.size, scan.alphas
    batch, longest = len(lengths), int(lengths.max())
    blocks = -(-longest // interval)
    checkpoints = alphas.new_empty(batch, blocks, size, scan.labels)
    offsets = torch.zeros(batch, blocks, dtype=torch.float64, device=alphas.device)
    offset = offsets.new_zeros(batch)
    last = offsets.new_zeros(batch, scan.labels)
    alphas[:, size - 1] = 0.0
    scan.open(0, size - 1)
    for block in range(blocks):
        first = block * interval
        checkpoints[:, block], offsets[:, block] = alphas[:, :size], offset
        end = min(first + interval, longest)
        for t in range(first + 1, end + 1):
            row = size + t - first - 1
            alphas[:, row] = scan.step(t, first)
            last = torch.where((lengths == t)[:, None], alphas[:, row] + offset[:, None], last)
            if t < longest:
                scan.open(t, row)
        top = alphas[:, -1].amax(1)
        active = (lengths > end) & (top > LEAST)
        shift = torch.where(active, top, 0.0)
        kept, opened = alphas[:, interval:], scan.opened[:, interval:]
        alphas[:, :size] = torch.where(kept > LEAST, kept - shift[:, None, None], IMPOSSIBLE)
        scan.opened[:, :size] = torch.where(opened > LEAST, opened - shift[:, None, None], IMPOSSIBLE)
        offset = offset + shift
    total = _log_sum(last + p.final, 1)
    return Forward(total.to(alphas.dtype), checkpoints, offsets, last, interval)


def backward(potentials: Potentials, done: Forward, weights: Tensor) -> Posteriors:
    """Posteriors of every row times its weight; the alphas between checkpoints are computed again."""
    p, lengths, interval = potentials, potentials.lengths, done.interval
    scan = _Scan(p, interval)
    size, labels, batch = scan.size, scan.labels, len(lengths)
    longest = int(lengths.max())
    log_partition = _log_sum(done.last_alphas + p.final, 1)
    starts = p.cum_scores.new_zeros(batch, p.cum_scores.shape[1] - 1, labels)
    ends, transition = torch.zeros_like(starts), torch.zeros_like(p.transition)
    duration, initial = torch.zeros_like(p.duration), torch.zeros_like(p.initial)
    closing = p.cum_scores.new_full((batch, size, labels), IMPOSSIBLE)
    beta = p.cum_scores.new_full((batch, labels), IMPOSSIBLE)
    shifted = torch.zeros_like(log_partition)
    weights = weights.to(starts.dtype)

    def counts(gaps: Tensor) -> Tensor:
        shape = (-1, *[1] * (gaps.ndim - 1))
        found = torch.where(gaps > -700.0, gaps.clamp(max=0.0).exp(), 0.0)
        return found.to(starts.dtype) * weights.view(shape)

    for t in range(longest, -1, -1):
        block = (t if t < longest else t - 1) // interval
        first = block * interval
        if t == longest or (t % interval == interval - 1):
            if t != longest:
                top = beta.amax(1)
                shift = torch.where((lengths > t) & (top > LEAST), top, 0.0)
                closing = torch.where(closing > LEAST, closing - shift[:, None, None], IMPOSSIBLE)
                shifted = shifted + shift
            scan.restore(first, done.checkpoints[:, block])
            for inner in range(first + 1, min(first + interval, longest)):
                row = size + inner - first - 1
                scan.alphas[:, row] = scan.step(inner, first)
                scan.open(inner, row)
        level = done.offsets[:, block] + shifted - log_partition
        alpha = scan.alphas[:, size - 1 + t - first]
        ended, inside = (lengths == t)[:, None], (lengths > t)[:, None]
        if t < longest:
            order = (t + 1 + torch.arange(size, device=beta.device)) % size
            onward = closing[:, order] + (p.duration + scan.content(t)[:, None])
            onward = torch.where(closing[:, order] > LEAST, onward, IMPOSSIBLE)  # [batch, K, C]
            if p.static:
                entered = scan.opened[:, size - 1 + t - first] - scan.content(t)
                use = counts(entered[:, None] + onward + level[:, None, None]) * inside[:, None]
                duration += use.sum(0)
                starts[:, t] = use.sum(1)
                leaving = _log_sum(onward, 1)
                if t:
                    gaps = alpha[:, :, None] + p.transition + leaving[:, None] + level[:, None, None]
                    transition += (counts(gaps) * inside[:, None]).sum(0)
                    beta = _log_sum(p.transition + leaving[:, None], 2)
                else:
                    initial += use.sum((0, 1))
            elif t:
                paths = p.transition + onward[:, :, None]  # [batch, K, C', C]
                use = (
                    counts(alpha[:, None, :, None] + paths + level[:, None, None, None])
                    * inside[:, None, None]
                )
                transition += use.sum(0)
                duration += use.sum((0, 2))
                starts[:, t] = use.sum((1, 2))
                beta = _log_sum(paths.transpose(1, 2).flatten(2), 2)
            else:
                use = counts(p.initial + onward + level[:, None, None])
                duration += use.sum(0)
                initial += use.sum(0)
                starts[:, 0] = use.sum(1)
        if not t:
            break
        beta = torch.where(ended, p.final, torch.where(inside, beta, IMPOSSIBLE))
        gaps = torch.where(
            ended,
            done.last_alphas + p.final - log_partition[:, None],
            alpha + beta + level[:, None] if t < longest else torch.full_like(beta, IMPOSSIBLE),
        )
        ends[:, t - 1] = counts(gaps)
        added = p.cum_scores[:, t]
        if p.end_scores.shape[1]:
            added = added + p.end_scores[:, t - 1]
        closing[:, t % size] = torch.where(beta > LEAST, beta + added, IMPOSSIBLE)
    return Posteriors(starts, ends, transition, duration, initial)
