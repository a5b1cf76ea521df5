"""The scan as two Triton kernels, one program a row: the whole forward, and the whole backward, in one launch each.

Labels are padded to a power of two and durations come in blocks; rings live in a workspace of K rows a program. Sums
over durations keep a running maximum; in the backward pass a first sweep finds the normaliser and a second one the
posteriors. Shared gradients have a workspace for each row, so that no two programs add to one number. Checkpoints
hold the K ring slots and, behind them, the newest alphas. Transitions are `[C, C]`.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl

from unending.systems.learning.flash_semicrf.potentials import IMPOSSIBLE, Potentials
from unending.systems.learning.flash_semicrf.vectorised import Forward, Posteriors

__all__ = ["backward", "forward"]

NONE = tl.constexpr(IMPOSSIBLE)
LEAST = tl.constexpr(IMPOSSIBLE / 10)


@triton.jit
def _row(base, at, labels, c):
    """`[C]` of row `at`, in float64; padding is impossible."""
    return tl.load(base + at * labels + c, mask=c < labels, other=NONE).to(tl.float64)


@triton.jit
def _extra(base, at, labels, c, present):
    """`[C]` of row `at` of an optional tensor, else zeros."""
    return tl.load(base + at * labels + c, mask=c < labels * present, other=0.0).to(tl.float64)


@triton.jit
def _possible(score, added):
    return tl.where(score > LEAST, score + added, NONE)


@triton.jit
def _window(
    ring, duration, first, step, low, high, durations, labels, c, C: tl.constexpr, BLOCK: tl.constexpr
):
    """Log-sum over k of `ring[(first + step k) mod K] + duration[k]`, positions within low..high only."""
    top = tl.full((C,), NONE, tl.float64)
    total = tl.zeros((C,), tl.float64)
    for begin in range(0, durations, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        position = first + step * k
        inside = ((k < durations) & (position >= low) & (position <= high))[:, None] & (c < labels)[None, :]
        slot = (position + durations) % durations
        score = tl.load(ring + slot[:, None] * C + c[None, :], mask=inside, other=NONE)
        score += tl.load(duration + k[:, None] * labels + c[None, :], mask=inside, other=0.0).to(tl.float64)
        most = tl.maximum(top, tl.max(score, 0))
        total = total * tl.exp(top - most) + tl.sum(tl.exp(score - most[None, :]), 0)
        top = most
    return tl.where(top > LEAST, top + tl.log(tl.where(top > LEAST, total, 1.0)), NONE)


@triton.jit
def _matrix_log_sum(scores, axis: tl.constexpr):
    top = tl.max(scores, axis)
    total = tl.sum(tl.exp(scores - tl.expand_dims(top, axis)), axis)
    return tl.where(top > LEAST, top + tl.log(tl.where(top > LEAST, total, 1.0)), NONE)


@triton.jit
def _shift(ring, amount, durations, c, C: tl.constexpr, BLOCK: tl.constexpr):
    for begin in range(0, durations, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        place = ring + k[:, None] * C + c[None, :]
        inside = (k < durations)[:, None] & (c >= 0)[None, :]
        score = tl.load(place, mask=inside, other=NONE)
        tl.store(place, _possible(score, -amount), mask=inside)


@triton.jit
def _copy(source, target, rows, c, C: tl.constexpr, BLOCK: tl.constexpr):
    for begin in range(0, rows, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        offset = k[:, None] * C + c[None, :]
        inside = (k < rows)[:, None] & (c >= 0)[None, :]
        tl.store(target + offset, tl.load(source + offset, mask=inside, other=NONE), mask=inside)


@triton.jit
def _forward(
    cum, starts, ends, transition, duration, initial, lengths, ring, checkpoints, offsets, last,
    positions, durations, labels, interval, blocks, has_starts, has_ends,
    C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    c = tl.arange(0, C)
    length = tl.load(lengths + row)
    cum += row * (positions + 1) * labels
    starts += row * positions * labels * has_starts
    ends += row * positions * labels * has_ends
    ring += row * durations * C
    checkpoints += row * blocks * (durations + 1) * C
    offsets += row * blocks
    square = (c < labels)[:, None] & (c < labels)[None, :]
    moves = tl.load(transition + c[:, None] * labels + c[None, :], mask=square, other=NONE).to(tl.float64)
    opened = _possible(_row(initial, 0, labels, c), _extra(starts, 0, labels, c, has_starts))
    tl.store(ring + c, _possible(opened, -_extra(cum, 0, labels, c, 1)))
    tl.debug_barrier()
    _copy(ring, checkpoints, durations, c, C, BLOCK)
    tl.store(checkpoints + durations * C + c, tl.zeros((C,), tl.float64))
    tl.store(offsets, 0.0)
    offset = tl.zeros((), tl.float64)
    for t in range(1, length + 1):
        alpha = _window(ring, duration, t - 1, -1, 0, t - 1, durations, labels, c, C, BLOCK)
        content = _extra(cum, t, labels, c, 1)
        alpha = _possible(alpha, content + _extra(ends, t - 1, labels, c, has_ends))
        if t == length:
            tl.store(last + row * C + c, alpha + offset)
        else:
            normal = t % interval == 0
            top = tl.max(alpha, 0)
            amount = tl.where(normal & (top > LEAST), top, 0.0)
            alpha = _possible(alpha, -amount)
            offset += amount
            opened = _matrix_log_sum(alpha[:, None] + moves, 0)
            opened = _possible(opened, _extra(starts, t, labels, c, has_starts) - content)
            tl.debug_barrier()
            if normal:
                _shift(ring, amount, durations, c, C, BLOCK)
                tl.debug_barrier()
            tl.store(ring + (t % durations) * C + c, opened)
            tl.debug_barrier()
            if normal:
                place = checkpoints + (t // interval) * (durations + 1) * C
                _copy(ring, place, durations, c, C, BLOCK)
                tl.store(place + durations * C + c, alpha)
                tl.store(offsets + t // interval, offset)


@triton.jit
def _backward(
    cum, starts, ends, transition, duration, final, lengths, checkpoints, offsets, last, partition, weights,
    ring, closing, alphas, opens, start_post, end_post, moves_post, uses_post,
    positions, durations, labels, interval, blocks, has_starts, has_ends,
    C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    c = tl.arange(0, C)
    real = c < labels
    length = tl.load(lengths + row)
    weight = tl.load(weights + row)
    total = tl.load(partition + row)
    cum += row * (positions + 1) * labels
    starts += row * positions * labels * has_starts
    ends += row * positions * labels * has_ends
    start_post += row * positions * labels
    end_post += row * positions * labels
    ring += row * durations * C
    closing += row * durations * C
    uses_post += row * durations * C
    alphas += row * interval * C
    opens += row * interval * C
    checkpoints += row * blocks * (durations + 1) * C
    offsets += row * blocks
    square = real[:, None] & real[None, :]
    moves = tl.load(transition + c[:, None] * labels + c[None, :], mask=square, other=NONE).to(tl.float64)
    steps = tl.zeros((C, C), tl.float64)
    beta = _row(final, 0, labels, c)
    gap = tl.load(last + row * C + c) + beta - total
    tl.store(end_post + (length - 1) * labels + c, weight * tl.exp(tl.minimum(gap, 0.0)), mask=real)
    closed = _possible(
        beta, _extra(cum, length, labels, c, 1) + _extra(ends, length - 1, labels, c, has_ends)
    )
    tl.store(closing + (length % durations) * C + c, closed)
    shifted = tl.zeros((), tl.float64)
    used = (length + interval - 1) // interval
    for visit in range(0, used):
        block = used - 1 - visit
        first = block * interval
        count = tl.minimum(interval, length - first)
        place = checkpoints + block * (durations + 1) * C
        tl.debug_barrier()
        _copy(place, ring, durations, c, C, BLOCK)
        tl.store(alphas + c, tl.load(place + durations * C + c))
        tl.debug_barrier()
        tl.store(opens + c, tl.load(ring + (first % durations) * C + c))
        for inner in range(1, count):
            t = first + inner
            alpha = _window(ring, duration, t - 1, -1, 0, t - 1, durations, labels, c, C, BLOCK)
            content = _extra(cum, t, labels, c, 1)
            alpha = _possible(alpha, content + _extra(ends, t - 1, labels, c, has_ends))
            opened = _matrix_log_sum(alpha[:, None] + moves, 0)
            opened = _possible(opened, _extra(starts, t, labels, c, has_starts) - content)
            tl.debug_barrier()
            tl.store(ring + (t % durations) * C + c, opened)
            tl.store(alphas + inner * C + c, alpha)
            tl.store(opens + inner * C + c, opened)
            tl.debug_barrier()
        level = tl.load(offsets + block) + shifted - total
        tl.debug_barrier()
        for back in range(0, count):
            inner = count - 1 - back
            j = first + inner
            alpha = tl.load(alphas + inner * C + c)
            opened = tl.load(opens + inner * C + c)
            onward = _window(closing, duration, j + 1, 1, j + 1, length, durations, labels, c, C, BLOCK)
            begun = tl.zeros((C,), tl.float64)
            for begin in range(0, durations, BLOCK):
                k = begin + tl.arange(0, BLOCK)
                inside = ((k < durations) & (j + 1 + k <= length))[:, None] & real[None, :]
                slot = (j + 1 + k) % durations
                gap2 = tl.load(closing + slot[:, None] * C + c[None, :], mask=inside, other=NONE)
                gap2 += tl.load(duration + k[:, None] * labels + c[None, :], mask=inside, other=0.0).to(
                    tl.float64
                )
                gap2 += opened[None, :] + level
                use = tl.where(gap2 > -700.0, weight * tl.exp(tl.minimum(gap2, 0.0)), 0.0)
                begun += tl.sum(use, 0)
                held = uses_post + k[:, None] * C + c[None, :]
                tl.store(held, tl.load(held, mask=inside, other=0.0) + use, mask=inside)
            tl.store(start_post + j * labels + c, begun, mask=real)
            content = _extra(cum, j, labels, c, 1)
            onward = _possible(onward, _extra(starts, j, labels, c, has_starts) - content)
            if j > 0:
                paths = moves + onward[None, :]
                gap2 = alpha[:, None] + paths + level
                steps += tl.where(gap2 > -700.0, weight * tl.exp(tl.minimum(gap2, 0.0)), 0.0)
                beta = _matrix_log_sum(paths, 1)
                gap = alpha + beta + level
                ended = tl.where(gap > -700.0, weight * tl.exp(tl.minimum(gap, 0.0)), 0.0)
                tl.store(end_post + (j - 1) * labels + c, ended, mask=real)
                tl.debug_barrier()
                closed = _possible(beta, content + _extra(ends, j - 1, labels, c, has_ends))
                tl.store(closing + (j % durations) * C + c, closed)
            tl.debug_barrier()
        top = tl.max(beta, 0)
        amount = tl.where(top > LEAST, top, 0.0)
        _shift(closing, amount, durations, c, C, BLOCK)
        shifted += amount
    tl.store(moves_post + row * labels * labels + c[:, None] * labels + c[None, :], steps, mask=square)


def _sizes(p: Potentials, interval: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    _, positions, labels = p.cum_scores.shape
    blocks = -(-int(p.lengths.max()) // interval)
    presence = (int(p.start_scores.shape[1] > 0), int(p.end_scores.shape[1] > 0))
    width = triton.next_power_of_2(labels)
    # About 512 scores a block: enough to fill the lanes of a program, few enough for its registers.
    block = min(triton.next_power_of_2(p.max_duration), max(1, 512 // width))
    return (positions - 1, p.max_duration, labels, interval, blocks, *presence), {"C": width, "BLOCK": block}


def forward(p: Potentials, interval: int) -> Forward:
    """As `vectorised.forward`; the checkpoints are this backend's own, float64 `[batch, blocks, K + 1, C padded]`."""
    sizes, constants = _sizes(p, interval)
    batch, (_, durations, labels, _, blocks, *_), width = len(p.lengths), sizes, constants["C"]
    like = p.cum_scores.new_empty(0, dtype=torch.float64)
    ring = like.new_full((batch, durations, width), IMPOSSIBLE)
    checkpoints = like.new_full((batch, blocks, durations + 1, width), IMPOSSIBLE)
    offsets, last = like.new_zeros(batch, blocks), like.new_full((batch, width), IMPOSSIBLE)
    scores = (p.cum_scores, p.start_scores, p.end_scores, p.transition, p.duration, p.initial)
    _forward[(batch,)](*scores, p.lengths, ring, checkpoints, offsets, last, *sizes, **constants)
    total = torch.logsumexp(last[:, :labels] + p.final, 1)
    return Forward(total.to(p.cum_scores.dtype), checkpoints, offsets, last, interval)


def backward(p: Potentials, done: Forward, weights: torch.Tensor) -> Posteriors:
    """As `vectorised.backward`."""
    interval = done.interval
    sizes, constants = _sizes(p, interval)
    batch, (positions, durations, labels, *_), width = len(p.lengths), sizes, constants["C"]
    like = p.cum_scores.new_empty(0, dtype=torch.float64)
    ring, closing = (like.new_full((batch, durations, width), IMPOSSIBLE) for _ in range(2))
    alphas, opens = (like.new_empty(batch, interval, width) for _ in range(2))
    starts, ends = (like.new_zeros(batch, positions, labels) for _ in range(2))
    moves, uses = like.new_zeros(batch, labels, labels), like.new_zeros(batch, durations, width)
    total = torch.logsumexp(done.last_alphas[:, :labels] + p.final, 1)
    scores = (p.cum_scores, p.start_scores, p.end_scores, p.transition, p.duration, p.final)
    kept = (p.lengths, done.checkpoints, done.offsets, done.last_alphas, total, weights.double().contiguous())
    out = (ring, closing, alphas, opens, starts, ends, moves, uses)
    _backward[(batch,)](*scores, *kept, *out, *sizes, **constants)
    shared = (moves.sum(0), uses[:, :, :labels].sum(0), starts[:, 0].sum(0))
    dtype = p.cum_scores.dtype
    return Posteriors(starts.to(dtype), ends.to(dtype), *(each.to(dtype) for each in shared))
