"""The scan as two Triton kernels, one program a row: the whole forward, and the whole backward, in one launch each.

Labels are padded to a power of two, and durations come in blocks; rings live in a workspace of K rows a program. Of a
transition matrix, TILE source labels are held at a time. Sums over durations and over tiles keep a running maximum;
the normaliser of a posterior is log Z, so that one sweep gives betas and posteriors. Shared gradients have a workspace
for each row, so that no two programs add to one number. Checkpoints hold the K ring slots and, behind them, the newest
alphas. Transitions are `[C, C]`; `fused_durations` has the kernels for `[K, C, C]`.
"""
# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl

from unending.systems.learning.flash_semicrf.fused_tiles import (
    LEAST,
    NONE,
    copy_rows,
    enter_sum,
    load_moves,
    load_optional,
    load_row,
    logarithm,
    possible,
    shift_ring,
    sizes_of,
    window_sum,
)
from unending.systems.learning.flash_semicrf.potentials import IMPOSSIBLE, Potentials
from unending.systems.learning.flash_semicrf.vectorised import Forward, Posteriors

__all__ = ["backward", "forward"]


@triton.jit
def _forward(
    cum, starts, ends, transition, duration, initial, lengths, ring, newest, checkpoints, offsets, last,
    positions, durations, labels, interval, blocks, has_starts, has_ends,
    C: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # times a row's room, which int32 does not hold
    c = tl.arange(0, C)
    length = tl.load(lengths + row)
    cum += row * (positions + 1) * labels
    starts += row * positions * labels * has_starts
    ends += row * positions * labels * has_ends
    ring += row * durations * C
    newest += row * C
    checkpoints += row * blocks * (durations + 1) * C
    offsets += row * blocks
    opened = possible(load_row(initial, 0, labels, c), load_optional(starts, 0, labels, c, has_starts))
    tl.store(ring + c, possible(opened, -load_optional(cum, 0, labels, c, 1)))
    tl.debug_barrier()
    copy_rows(ring, checkpoints, durations, c, C, BLOCK)
    tl.store(checkpoints + durations * C + c, tl.zeros((C,), tl.float64))
    tl.store(offsets, 0.0)
    offset = tl.zeros((), tl.float64)
    for t in range(1, length + 1):
        alpha = window_sum(ring, duration, t - 1, -1, 0, t - 1, durations, labels, c, C, BLOCK)
        content = load_optional(cum, t, labels, c, 1)
        alpha = possible(alpha, content + load_optional(ends, t - 1, labels, c, has_ends))
        if t == length:
            tl.store(last + row * C + c, alpha + offset)
        else:
            normal = t % interval == 0
            top = tl.max(alpha, 0)
            amount = tl.where(normal & (top > LEAST), top, 0.0)
            alpha = possible(alpha, -amount)
            offset += amount
            tl.store(newest + c, alpha)
            tl.debug_barrier()
            opened = enter_sum(newest, transition, labels, c, C, TILE)
            opened = possible(opened, load_optional(starts, t, labels, c, has_starts) - content)
            tl.debug_barrier()
            if normal:
                shift_ring(ring, amount, durations, c, C, BLOCK)
                tl.debug_barrier()
            tl.store(ring + (t % durations) * C + c, opened)
            tl.debug_barrier()
            if normal:
                place = checkpoints + (t // interval) * (durations + 1) * C
                copy_rows(ring, place, durations, c, C, BLOCK)
                tl.store(place + durations * C + c, alpha)
                tl.store(offsets + t // interval, offset)


@triton.jit
def _backward(
    cum, starts, ends, transition, duration, final, lengths, checkpoints, offsets, last, partition, weights,
    ring, closing, betas, alphas, opens, start_post, end_post, moves_post, uses_post,
    positions, durations, labels, interval, blocks, has_starts, has_ends,
    C: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # times a row's room, which int32 does not hold
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
    betas += row * C
    moves_post += row * labels * labels
    uses_post += row * durations * C
    alphas += row * interval * C
    opens += row * interval * C
    checkpoints += row * blocks * (durations + 1) * C
    offsets += row * blocks
    beta = load_row(final, 0, labels, c)
    gap = tl.load(last + row * C + c) + beta - total
    tl.store(end_post + (length - 1) * labels + c, weight * tl.exp(tl.minimum(gap, 0.0)), mask=real)
    closed = possible(
        beta, load_optional(cum, length, labels, c, 1) + load_optional(ends, length - 1, labels, c, has_ends)
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
        copy_rows(place, ring, durations, c, C, BLOCK)
        tl.store(alphas + c, tl.load(place + durations * C + c))
        tl.debug_barrier()
        tl.store(opens + c, tl.load(ring + (first % durations) * C + c))
        for inner in range(1, count):
            t = first + inner
            alpha = window_sum(ring, duration, t - 1, -1, 0, t - 1, durations, labels, c, C, BLOCK)
            content = load_optional(cum, t, labels, c, 1)
            alpha = possible(alpha, content + load_optional(ends, t - 1, labels, c, has_ends))
            tl.store(alphas + inner * C + c, alpha)
            tl.debug_barrier()
            opened = enter_sum(alphas + inner * C, transition, labels, c, C, TILE)
            opened = possible(opened, load_optional(starts, t, labels, c, has_starts) - content)
            tl.store(ring + (t % durations) * C + c, opened)
            tl.store(opens + inner * C + c, opened)
            tl.debug_barrier()
        level = tl.load(offsets + block) + shifted - total
        tl.debug_barrier()
        for back in range(0, count):
            inner = count - 1 - back
            j = first + inner
            alpha = tl.load(alphas + inner * C + c)
            opened = tl.load(opens + inner * C + c)
            onward = window_sum(closing, duration, j + 1, 1, j + 1, length, durations, labels, c, C, BLOCK)
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
            content = load_optional(cum, j, labels, c, 1)
            onward = possible(onward, load_optional(starts, j, labels, c, has_starts) - content)
            if j > 0:
                for begin in range(0, labels, TILE):
                    source = begin + tl.arange(0, TILE)
                    paths = load_moves(transition, source, labels, c) + onward[None, :]
                    top = tl.max(paths, 1)
                    tl.store(
                        betas + source,
                        logarithm(top, tl.sum(tl.exp(paths - top[:, None]), 1)),
                        mask=source < labels,
                    )
                    gap2 = load_row(alphas + inner * C, 0, labels, source)[:, None] + paths + level
                    use = tl.where(gap2 > -700.0, weight * tl.exp(tl.minimum(gap2, 0.0)), 0.0)
                    held = moves_post + source[:, None] * labels + c[None, :]
                    square = (source < labels)[:, None] & real[None, :]
                    tl.store(held, tl.load(held, mask=square, other=0.0) + use, mask=square)
                tl.debug_barrier()
                beta = load_row(betas, 0, labels, c)
                gap = alpha + beta + level
                ended = tl.where(gap > -700.0, weight * tl.exp(tl.minimum(gap, 0.0)), 0.0)
                tl.store(end_post + (j - 1) * labels + c, ended, mask=real)
                tl.debug_barrier()
                closed = possible(beta, content + load_optional(ends, j - 1, labels, c, has_ends))
                tl.store(closing + (j % durations) * C + c, closed)
            tl.debug_barrier()
        top = tl.max(beta, 0)
        amount = tl.where(top > LEAST, top, 0.0)
        shift_ring(closing, amount, durations, c, C, BLOCK)
        shifted += amount


def forward(p: Potentials, interval: int) -> Forward:
    """As `vectorised.forward`; the checkpoints are this backend's own, float64 `[batch, blocks, K + 1, C padded]`."""
    sizes, constants = sizes_of(p, interval)
    batch, (_, durations, labels, _, blocks, *_), width = len(p.lengths), sizes, constants["C"]
    like = p.cum_scores.new_empty(0, dtype=torch.float64)
    ring = like.new_full((batch, durations, width), IMPOSSIBLE)
    checkpoints = like.new_full((batch, blocks, durations + 1, width), IMPOSSIBLE)
    offsets, last = like.new_zeros(batch, blocks), like.new_full((batch, width), IMPOSSIBLE)
    scores = (p.cum_scores, p.start_scores, p.end_scores, p.transition, p.duration, p.initial)
    room = (ring, torch.empty_like(last), checkpoints, offsets, last)
    _forward[(batch,)](*scores, p.lengths, *room, *sizes, **constants)
    total = torch.logsumexp(last[:, :labels] + p.final, 1)
    return Forward(total.to(p.cum_scores.dtype), checkpoints, offsets, last, interval)


def backward(p: Potentials, done: Forward, weights: torch.Tensor) -> Posteriors:
    """As `vectorised.backward`."""
    interval = done.interval
    sizes, constants = sizes_of(p, interval)
    batch, (positions, durations, labels, *_), width = len(p.lengths), sizes, constants["C"]
    like = p.cum_scores.new_empty(0, dtype=torch.float64)
    ring, closing = (like.new_full((batch, durations, width), IMPOSSIBLE) for _ in range(2))
    alphas, opens = (like.new_empty(batch, interval, width) for _ in range(2))
    starts, ends = (like.new_zeros(batch, positions, labels) for _ in range(2))
    moves, uses = like.new_zeros(batch, labels, labels), like.new_zeros(batch, durations, width)
    total = torch.logsumexp(done.last_alphas[:, :labels] + p.final, 1)
    scores = (p.cum_scores, p.start_scores, p.end_scores, p.transition, p.duration, p.final)
    kept = (p.lengths, done.checkpoints, done.offsets, done.last_alphas, total, weights.double().contiguous())
    out = (ring, closing, like.new_empty(batch, width), alphas, opens, starts, ends, moves, uses)
    _backward[(batch,)](*scores, *kept, *out, *sizes, **constants)
    shared = (moves.sum(0), uses[:, :, :labels].sum(0), starts[:, 0].sum(0))
    dtype = p.cum_scores.dtype
    return Posteriors(starts.to(dtype), ends.to(dtype), *(each.to(dtype) for each in shared))
