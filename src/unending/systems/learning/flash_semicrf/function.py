"""The log partition as a differentiable function: one forward scan, one hand-written backward scan."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from unending.core.errors import InputError
from unending.systems.learning.flash_semicrf import compiled, compiled_durations, vectorised
from unending.systems.learning.flash_semicrf.potentials import (
    IMPOSSIBLE,
    LEAST,
    Potentials,
    checkpoint_interval,
)
from unending.systems.learning.flash_semicrf.vectorised import Forward, Posteriors

__all__ = [
    "BACKENDS",
    "log_partition",
    "messages",
    "posteriors",
    "require_interval",
    "scan",
    "semi_crf_log_partition",
]

BACKENDS = ("auto", "compiled", "vectorised", "triton")


def semi_crf_log_partition(
    cum_scores: Tensor,
    transition: Tensor,
    duration_bias: Tensor,
    lengths: Tensor | None = None,
    *,
    start: str = "virtual",
    initial: Tensor | None = None,
    final: Tensor | None = None,
    start_scores: Tensor | None = None,
    end_scores: Tensor | None = None,
    interval: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Log partition `[batch]` of a semi-Markov CRF, with exact gradients ("Flash-SemiCRF", Johnson et al. 2026).

    The arguments are those of `Potentials.of`. Time O(T (C C + K C)), or O(T K C C) for transitions `[K, C, C]`;
    memory O(T C) for the scores and their gradient, and O((T / D) K C) for checkpoints every D = `interval`
    positions. A second derivative raises `RuntimeError`.

    Parameters
    ----------
    backend
        `"compiled"` (numba, one row after the other), `"vectorised"` (torch, any device), `"triton"` (a GPU), or
        `"auto"`: compiled on the CPU, triton on CUDA, else vectorised.

    Raises
    ------
    InputError
        if shapes, lengths or settings do not fit.
    """
    potentials = Potentials.of(
        cum_scores, transition, duration_bias, lengths, start, initial, final, start_scores, end_scores
    )
    return log_partition(potentials, interval, backend)


def log_partition(potentials: Potentials, interval: int | None = None, backend: str = "auto") -> Tensor:
    """`semi_crf_log_partition` of potentials."""
    p = potentials
    chosen = _interval(p, interval), _backend(p, backend)
    return cast(Tensor, _LogPartition.apply(*chosen, p.lengths, *p.scores.values()))


def scan(potentials: Potentials, interval: int | None = None, backend: str = "auto") -> Forward:
    """The forward pass alone, without gradients."""
    p = potentials.detach()
    return _forward(p, _interval(p, interval), _backend(p, backend))


def posteriors(potentials: Potentials, interval: int | None = None, backend: str = "auto") -> Posteriors:
    """Expected counts of starts, ends, transitions and durations; each row has weight 1."""
    p = potentials.detach()
    chosen = _backend(p, backend)
    done = _forward(p, _interval(p, interval), chosen)
    return _backward(p, done, torch.ones_like(done.log_partition), chosen)


def messages(potentials: Potentials, interval: int | None = None) -> tuple[Tensor, Tensor]:
    """Alphas and betas, float64 `[batch, T + 1, C]` on the CPU, for queries about single segments: O(T C)."""
    p = potentials.detach().to(potentials.cum_scores.dtype, torch.device("cpu"))
    done = _forward(p, _interval(p, interval), "compiled")
    shape = tuple(p.cum_scores.shape)
    alphas, betas = np.full(shape, IMPOSSIBLE), np.full(shape, IMPOSSIBLE)
    _backward(p, done, torch.ones_like(done.log_partition), "compiled", (alphas, betas))
    return torch.from_numpy(alphas), torch.from_numpy(betas)


def _interval(p: Potentials, interval: int | None) -> int:
    require_interval(interval)
    return interval or checkpoint_interval(p.cum_scores.shape[1] - 1, p.max_duration, p.cum_scores.dtype)


def require_interval(interval: int | None) -> None:
    """`InputError` for an interval between checkpoints that is none."""
    if interval is not None and (not isinstance(interval, int) or interval < 1):
        raise InputError(f"the checkpoint interval is {interval}, accepted is a whole number of 1 or more")


def _backend(p: Potentials, backend: str) -> str:
    if backend not in BACKENDS:
        raise InputError(f"backend is one of {', '.join(BACKENDS)}, got {backend!r}")
    if p.cum_scores.dtype not in (torch.float32, torch.float64):
        raise InputError(f"scores are float32 or float64, got {p.cum_scores.dtype}")
    if backend == "auto":
        if p.cum_scores.device.type == "cpu":
            return "compiled"
        return "triton" if p.cum_scores.device.type == "cuda" else "vectorised"
    if backend == "compiled" and p.cum_scores.device.type != "cpu":
        raise InputError(f"the compiled backend works on the CPU, the scores are on {p.cum_scores.device}")
    return backend


def _forward(p: Potentials, interval: int, backend: str) -> Forward:
    if backend == "vectorised":
        return vectorised.forward(p, interval)
    if backend == "triton":
        return _kernels(p).forward(p, interval)
    batch, _, labels = p.cum_scores.shape
    kernel = (compiled if p.static else compiled_durations).forward
    blocks = -(-int(p.lengths.max()) // interval)
    checkpoints = p.cum_scores.new_empty(batch, blocks, p.max_duration, labels)
    offsets = torch.zeros(batch, blocks, dtype=torch.float64)
    last = torch.zeros(batch, labels, dtype=torch.float64)
    totals = np.empty(batch)
    shared, rows = _arrays(p)
    for b, (cum, starts, ends, length) in enumerate(rows):
        totals[b], held, taken, last.numpy()[b] = kernel(cum, *shared, starts, ends, length, interval)
        checkpoints.numpy()[b, : len(held)] = held
        offsets.numpy()[b, : len(held)] = taken
    return Forward(torch.from_numpy(totals).to(checkpoints.dtype), checkpoints, offsets, last, interval)


def _backward(
    p: Potentials,
    done: Forward,
    weights: Tensor,
    backend: str,
    out: tuple[np.ndarray, np.ndarray] | None = None,
) -> Posteriors:
    # A row without any segmentation has no posteriors, and its log Z no slope.
    weights = torch.where(done.log_partition > LEAST, weights, 0.0)
    if backend == "vectorised":
        return vectorised.backward(p, done, weights)
    if backend == "triton":
        return _kernels(p).backward(p, done, weights)
    batch, positions, labels = p.cum_scores.shape
    starts = p.cum_scores.new_zeros(batch, positions - 1, labels)
    ends = torch.zeros_like(starts)
    transition, duration = np.zeros(p.transition.shape), np.zeros(p.duration.shape)
    initial = np.zeros(p.initial.shape)
    none = np.empty((0, labels))
    shared, rows = _arrays(p)
    for b, (cum, start_scores, end_scores, length) in enumerate(rows):
        blocks = -(-length // done.interval)
        last = done.last_alphas[b].numpy()
        total = float(torch.logsumexp(done.last_alphas[b] + p.final, 0))
        given = (cum, *shared, start_scores, end_scores, length, done.interval)
        kept = (done.checkpoints[b, :blocks].numpy(), done.offsets[b, :blocks].numpy(), last)
        room = (starts.numpy()[b], ends.numpy()[b])
        seen = (out[0][b], out[1][b]) if out else (none, none)
        kernel = (compiled if p.static else compiled_durations).backward
        steps, uses = kernel(*given, total, *kept, float(weights[b]), *room, *seen)
        transition += steps
        if p.static:
            duration += uses
            initial += room[0][0]
        else:
            duration += steps.sum(1) + uses
            initial += uses
    made = [torch.from_numpy(each).to(starts.dtype) for each in (transition, duration, initial)]
    return Posteriors(starts, ends, *made)


def _kernels(p: Potentials) -> Any:
    """The Triton kernels; imported here, because Triton is not there on every machine."""
    from importlib import import_module

    return import_module(f"unending.systems.learning.flash_semicrf.fused{'' if p.static else '_durations'}")


def _arrays(p: Potentials) -> tuple[tuple[np.ndarray, ...], list[tuple[Any, ...]]]:
    """The arguments of a kernel: those that the rows share, and each row's own."""
    shared = tuple(getattr(p, name).numpy() for name in ("transition", "duration", "initial", "final"))
    own = zip(
        p.cum_scores.numpy(), p.start_scores.numpy(), p.end_scores.numpy(), p.lengths.tolist(), strict=True
    )
    return shared, list(own)


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, interval: int, backend: str, lengths: Tensor, *scores: Tensor) -> Tensor:
        cum_scores, transition, duration, *rest = (each.detach().contiguous() for each in scores)
        p = Potentials(cum_scores, transition, duration, lengths, *rest)
        done = _forward(p, interval, backend)
        ctx.interval, ctx.backend = interval, backend
        ctx.save_for_backward(
            lengths, *p.scores.values(), done.checkpoints, done.offsets, done.last_alphas, done.log_partition
        )
        return done.log_partition

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # which it is here under create_graph alone
            raise RuntimeError("the log partition has no second derivative: use naive_log_partition for one")
        lengths, cum_scores, transition, duration, *others = ctx.saved_tensors
        *rest, checkpoints, offsets, last_alphas, log_partition = others
        p = Potentials(cum_scores, transition, duration, lengths, *rest)
        done = Forward(log_partition, checkpoints, offsets, last_alphas, ctx.interval)
        found = _backward(p, done, weights, ctx.backend)
        cum = torch.zeros_like(cum_scores)
        cum[:, 1:] += found.ends
        cum[:, :-1] -= found.starts
        rows = torch.arange(len(lengths), device=lengths.device)
        final = found.ends[rows, lengths - 1].sum(0)
        starts = found.starts if p.start_scores.shape[1] else torch.zeros_like(p.start_scores)
        ends = found.ends if p.end_scores.shape[1] else torch.zeros_like(p.end_scores)
        return None, None, None, cum, found.transition, found.duration, found.initial, final, starts, ends
