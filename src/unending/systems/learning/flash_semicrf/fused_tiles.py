"""What the Triton kernels share: masked loads, log-sums over tiles and windows, rings, sizes."""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import triton
import triton.language as tl

from unending.systems.learning.flash_semicrf.potentials import IMPOSSIBLE, Potentials
from unending.systems.learning.flash_semicrf.potentials import LEAST as THRESHOLD

__all__ = [
    "LEAST",
    "NONE",
    "copy_rows",
    "enter_sum",
    "load_moves",
    "load_optional",
    "load_row",
    "logarithm",
    "possible",
    "shift_ring",
    "sizes_of",
    "window_sum",
]

NONE = tl.constexpr(IMPOSSIBLE)
LEAST = tl.constexpr(THRESHOLD)
TILES = {8: 4, 16: 8, 64: 16, 2**30: 32}
"""Source labels held at a time, by the largest padded number of labels that they are for."""


@triton.jit
def load_row(base, at, labels, c):
    """`[C]` of row `at`, in float64; padding is impossible."""
    return tl.load(base + at * labels + c, mask=c < labels, other=NONE).to(tl.float64)


@triton.jit
def load_optional(base, at, labels, c, present):
    """`[C]` of row `at` of an optional tensor, else zeros."""
    return tl.load(base + at * labels + c, mask=c < labels * present, other=0.0).to(tl.float64)


@triton.jit
def possible(score, added):
    """A sum, where the score is not impossible already."""
    return tl.where(score > LEAST, score + added, NONE)


@triton.jit
def window_sum(
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
    return logarithm(top, total)


@triton.jit
def logarithm(top, total):
    """The logarithm of a sum that was kept relative to its largest score."""
    return tl.where(top > LEAST, top + tl.log(tl.where(top > LEAST, total, 1.0)), NONE)


@triton.jit
def load_moves(transition, source, labels, c):
    """`[TILE, C]`: some rows of a transition matrix, in float64; padding is impossible."""
    inside = (source < labels)[:, None] & (c < labels)[None, :]
    return tl.load(transition + source[:, None] * labels + c[None, :], mask=inside, other=NONE).to(tl.float64)


@triton.jit
def enter_sum(alpha, transition, labels, c, C: tl.constexpr, TILE: tl.constexpr):
    """Log-sum over sources of `alpha[source] + transition[source, c]`, `alpha` lying in memory."""
    top = tl.full((C,), NONE, tl.float64)
    total = tl.zeros((C,), tl.float64)
    for begin in range(0, labels, TILE):
        source = begin + tl.arange(0, TILE)
        score = load_row(alpha, 0, labels, source)[:, None] + load_moves(transition, source, labels, c)
        most = tl.maximum(top, tl.max(score, 0))
        total = total * tl.exp(top - most) + tl.sum(tl.exp(score - most[None, :]), 0)
        top = most
    return logarithm(top, total)


@triton.jit
def shift_ring(ring, amount, durations, c, C: tl.constexpr, BLOCK: tl.constexpr):
    """Take an amount off the K rows of a ring."""
    for begin in range(0, durations, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        place = ring + k[:, None] * C + c[None, :]
        inside = (k < durations)[:, None] & (c >= 0)[None, :]
        score = tl.load(place, mask=inside, other=NONE)
        tl.store(place, possible(score, -amount), mask=inside)


@triton.jit
def copy_rows(source, target, rows, c, C: tl.constexpr, BLOCK: tl.constexpr):
    """Copy `[rows, C]`."""
    for begin in range(0, rows, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        offset = k[:, None] * C + c[None, :]
        inside = (k < rows)[:, None] & (c >= 0)[None, :]
        tl.store(target + offset, tl.load(source + offset, mask=inside, other=NONE), mask=inside)


def sizes_of(p: Potentials, interval: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The whole numbers and the constants that every kernel here takes last."""
    _, positions, labels = p.cum_scores.shape
    blocks = -(-int(p.lengths.max()) // interval)
    presence = (int(p.start_scores.shape[1] > 0), int(p.end_scores.shape[1] > 0))
    width = triton.next_power_of_2(labels)
    # About 512 scores a block: enough to fill the lanes of a program, few enough for its registers.
    block = min(triton.next_power_of_2(p.max_duration), max(1, 512 // width))
    tile = next(tile for most, tile in TILES.items() if width <= most)
    constants = {"C": width, "BLOCK": block, "TILE": min(tile, width)}
    return (positions - 1, p.max_duration, labels, interval, blocks, *presence), constants
