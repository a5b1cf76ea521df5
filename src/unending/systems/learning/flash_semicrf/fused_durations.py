"""The two Triton kernels for transitions `[K, C, C]` that depend on the duration: K C C a step.

Blocks, tiles and workspaces are those of `fused`. The ring and the checkpoints `[K, C padded]` hold alphas by position
modulo K; `alpha_0` stands there as zeros, from which the shifts are taken as from the others.
"""
# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl

from unending.systems.learning.flash_semicrf.fused_tiles import (
    LEAST,
    NONE,
    copy_rows,
    load_moves,
    load_optional,
    load_row,
    logarithm,
    possible,
    shift_ring,
    sizes_of,
)
from unending.systems.learning.flash_semicrf.potentials import IMPOSSIBLE, Potentials
from unending.systems.learning.flash_semicrf.vectorised import Forward, Posteriors

__all__ = ["backward", "forward"]


@triton.jit
def _alpha(
    t, ring, cum, starts, ends, transition, duration, initial, durations, labels, has_starts, has_ends, c,
    C: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Alphas of position t out of those of the K positions before, in the ring."""
    top = tl.full((C,), NONE, tl.float64)
    total = tl.zeros((C,), tl.float64)
    for k in range(1, tl.minimum(durations, t) + 1):
        j = t - k
        alpha = ring + (j % durations) * C
        matrix = transition + (k - 1) * labels * labels
        added = load_row(duration, k - 1, labels, c) + load_optional(starts, j, labels, c, has_starts)
        added -= load_optional(cum, j, labels, c, 1)
        if j == 0:
            score = possible(load_row(initial, k - 1, labels, c) + tl.load(alpha + c), added)
            most = tl.maximum(top, score)
            total = total * tl.exp(top - most) + tl.exp(score - most)
            top = most
        else:
            for begin in range(0, labels, TILE):
                source = begin + tl.arange(0, TILE)
                paths = load_row(alpha, 0, labels, source)[:, None] + load_moves(matrix, source, labels, c)
                paths = possible(paths, added[None, :])
                most = tl.maximum(top, tl.max(paths, 0))
                total = total * tl.exp(top - most) + tl.sum(tl.exp(paths - most[None, :]), 0)
                top = most
    return possible(
        logarithm(top, total),
        load_optional(cum, t, labels, c, 1) + load_optional(ends, t - 1, labels, c, has_ends),
    )


@triton.jit
def _forward(
    cum, starts, ends, transition, duration, initial, lengths, ring, checkpoints, offsets, last,
    positions, durations, labels, interval, blocks, has_starts, has_ends,
    C: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, C)
    length = tl.load(lengths + row)
    cum += row * (positions + 1) * labels
    starts += row * positions * labels * has_starts
    ends += row * positions * labels * has_ends
    ring += row * durations * C
    checkpoints += row * blocks * durations * C
    offsets += row * blocks
    tl.store(ring + c, tl.zeros((C,), tl.float64))
    tl.debug_barrier()
    copy_rows(ring, checkpoints, durations, c, C, BLOCK)
    offset = tl.zeros((), tl.float64)
    for t in range(1, length + 1):
        alpha = _alpha(
            t, ring, cum, starts, ends, transition, duration, initial, durations, labels, has_starts, has_ends, c,
            C, TILE,
        )  # fmt: skip
        tl.debug_barrier()
        if t == length:
            tl.store(last + row * C + c, alpha + offset)
        else:
            tl.store(ring + (t % durations) * C + c, alpha)
            tl.debug_barrier()
            if t % interval == 0:
                top = tl.max(alpha, 0)
                amount = tl.where(top > LEAST, top, 0.0)
                offset += amount
                shift_ring(ring, amount, durations, c, C, BLOCK)
                tl.debug_barrier()
                copy_rows(ring, checkpoints + (t // interval) * durations * C, durations, c, C, BLOCK)
                tl.store(offsets + t // interval, offset)


@triton.jit
def _backward(
    cum, starts, ends, transition, duration, initial, final, lengths, checkpoints, offsets, last, partition,
    weights, ring, closing, betas, alphas, start_post, end_post, moves_post, first_post,
    positions, durations, labels, interval, blocks, has_starts, has_ends,
    C: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
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
    alphas += row * interval * C
    moves_post += row * durations * labels * labels
    first_post += row * durations * labels
    checkpoints += row * blocks * durations * C
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
        tl.debug_barrier()
        copy_rows(checkpoints + block * durations * C, ring, durations, c, C, BLOCK)
        tl.debug_barrier()
        tl.store(alphas + c, tl.load(ring + (first % durations) * C + c))
        for inner in range(1, count):
            t = first + inner
            alpha = _alpha(
                t, ring, cum, starts, ends, transition, duration, initial, durations, labels, has_starts, has_ends,
                c, C, TILE,
            )  # fmt: skip
            tl.debug_barrier()
            tl.store(ring + (t % durations) * C + c, alpha)
            tl.store(alphas + inner * C + c, alpha)
            tl.debug_barrier()
        level = tl.load(offsets + block) + shifted - total
        for back in range(0, count):
            inner = count - 1 - back
            j = first + inner
            content = load_optional(cum, j, labels, c, 1)
            opening = load_optional(starts, j, labels, c, has_starts) - content
            begun = tl.zeros((C,), tl.float64)
            most_k = tl.minimum(durations, length - j)
            tl.debug_barrier()
            if j == 0:
                for k in range(1, most_k + 1):
                    onward = load_row(closing + (k % durations) * C, 0, labels, c)
                    onward = possible(onward, load_row(duration, k - 1, labels, c) + opening)
                    gap = load_row(initial, k - 1, labels, c) + onward + level
                    use = tl.where(gap > -700.0, weight * tl.exp(tl.minimum(gap, 0.0)), 0.0)
                    tl.store(first_post + (k - 1) * labels + c, use, mask=real)
                    begun += use
            else:
                for begin in range(0, labels, TILE):
                    source = begin + tl.arange(0, TILE)
                    inside = source < labels
                    alpha_tile = load_row(alphas + inner * C, 0, labels, source)
                    top = tl.full((TILE,), NONE, tl.float64)
                    sums = tl.zeros((TILE,), tl.float64)
                    for k in range(1, most_k + 1):
                        onward = load_row(closing + ((j + k) % durations) * C, 0, labels, c)
                        onward = possible(onward, load_row(duration, k - 1, labels, c) + opening)
                        place = (k - 1) * labels * labels
                        paths = load_moves(transition + place, source, labels, c) + onward[None, :]
                        most = tl.maximum(top, tl.max(paths, 1))
                        sums = sums * tl.exp(top - most) + tl.sum(tl.exp(paths - most[:, None]), 1)
                        top = most
                        gaps = alpha_tile[:, None] + paths + level
                        use = tl.where(gaps > -700.0, weight * tl.exp(tl.minimum(gaps, 0.0)), 0.0)
                        held = moves_post + place + source[:, None] * labels + c[None, :]
                        square = inside[:, None] & real[None, :]
                        tl.store(held, tl.load(held, mask=square, other=0.0) + use, mask=square)
                        begun += tl.sum(use, 0)
                    tile_beta = logarithm(top, sums)
                    tl.store(betas + source, tile_beta, mask=inside)
                    gap1 = alpha_tile + tile_beta + level
                    ended = tl.where(gap1 > -700.0, weight * tl.exp(tl.minimum(gap1, 0.0)), 0.0)
                    tl.store(end_post + (j - 1) * labels + source, ended, mask=inside)
                tl.debug_barrier()
                beta = load_row(betas, 0, labels, c)
                closed = possible(beta, content + load_optional(ends, j - 1, labels, c, has_ends))
                tl.store(closing + (j % durations) * C + c, closed)
            tl.store(start_post + j * labels + c, begun, mask=real)
        tl.debug_barrier()
        top_beta = tl.max(beta, 0)
        amount = tl.where(top_beta > LEAST, top_beta, 0.0)
        shift_ring(closing, amount, durations, c, C, BLOCK)
        shifted += amount


def forward(p: Potentials, interval: int) -> Forward:
    """As `fused.forward`; checkpoints float64 `[batch, blocks, K, C padded]`."""
    sizes, constants = sizes_of(p, interval)
    batch, (_, durations, labels, _, blocks, *_), width = len(p.lengths), sizes, constants["C"]
    like = p.cum_scores.new_empty(0, dtype=torch.float64)
    ring = like.new_full((batch, durations, width), IMPOSSIBLE)
    checkpoints = like.new_full((batch, blocks, durations, width), IMPOSSIBLE)
    offsets, last = like.new_zeros(batch, blocks), like.new_full((batch, width), IMPOSSIBLE)
    scores = (p.cum_scores, p.start_scores, p.end_scores, p.transition, p.duration, p.initial)
    _forward[(batch,)](*scores, p.lengths, ring, checkpoints, offsets, last, *sizes, **constants)
    total = torch.logsumexp(last[:, :labels] + p.final, 1)
    return Forward(total.to(p.cum_scores.dtype), checkpoints, offsets, last, interval)


def backward(p: Potentials, done: Forward, weights: torch.Tensor) -> Posteriors:
    """As `vectorised.backward`."""
    sizes, constants = sizes_of(p, done.interval)
    batch, (positions, durations, labels, *_), width = len(p.lengths), sizes, constants["C"]
    like = p.cum_scores.new_empty(0, dtype=torch.float64)
    ring, closing = (like.new_full((batch, durations, width), IMPOSSIBLE) for _ in range(2))
    betas, alphas = like.new_empty(batch, width), like.new_empty(batch, done.interval, width)
    starts, ends = (like.new_zeros(batch, positions, labels) for _ in range(2))
    moves, firsts = like.new_zeros(batch, *p.transition.shape), like.new_zeros(batch, durations, labels)
    total = torch.logsumexp(done.last_alphas[:, :labels] + p.final, 1)
    scores = (p.cum_scores, p.start_scores, p.end_scores, p.transition, p.duration, p.initial, p.final)
    kept = (p.lengths, done.checkpoints, done.offsets, done.last_alphas, total, weights.double().contiguous())
    out = (ring, closing, betas, alphas, starts, ends, moves, firsts)
    _backward[(batch,)](*scores, *kept, *out, *sizes, **constants)
    steps, initial = moves.sum(0), firsts.sum(0)
    shared = (steps, steps.sum(1) + initial, initial)
    dtype = p.cum_scores.dtype
    return Posteriors(starts.to(dtype), ends.to(dtype), *(each.to(dtype) for each in shared))
