"""Sums of exponentials that slide: a ring of scores a label, read as windows, with a running reference.

A sum is taken of `exp(score - reference)` without a logarithm in it, and anew in logarithms where it leaves the range
that keeps full precision; so it is exact and costs one multiplication a term. Windows of one or two durations have a
recurrence of their own.
"""
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from unending.systems.learning.flash_semicrf.potentials import IMPOSSIBLE, LEAST

__all__ = [
    "IMPOSSIBLE",
    "LEAST",
    "add",
    "dot",
    "enter",
    "exponentials",
    "leave",
    "log_sum",
    "products",
    "put",
    "range_of",
    "refer",
    "window",
]

REORDER = {"reassoc", "contract"}  # sums may be taken in another order; NaN and infinity keep their meaning


@njit(cache=True)
def log_sum(values, count):
    """Logarithm of the sum of exponentials; of nothing possible, `IMPOSSIBLE`."""
    top = IMPOSSIBLE
    for i in range(count):
        top = max(top, values[i])
    if top < LEAST:
        return IMPOSSIBLE
    total = 0.0
    for i in range(count):
        total += np.exp(values[i] - top)
    return top + np.log(total)


@njit(cache=True, fastmath=REORDER)
def dot(row, offset, weights, count):
    """Sum of `row[offset + i] * weights[i]` over `count` entries."""
    total = 0.0
    for i in range(count):
        total += row[offset + i] * weights[i]
    return total


@njit(cache=True)
def exponentials(scores):
    """`exp(score - top)` of a matrix, and its largest score."""
    top = scores.max()
    return np.exp(scores - top), top


@njit(cache=True)
def range_of(scores):
    """How far above its reference a term may lie, and below which sum precision is lost: by dtype."""
    return (200.0, 1e-100) if scores.itemsize == 8 else (20.0, 1e-15)


@njit(cache=True)
def refer(log_ring, ring, reference, c, size):
    """Take the largest score of label c as its reference."""
    top = IMPOSSIBLE
    for i in range(size):
        top = max(top, log_ring[c, i])
    reference[c] = top
    for i in range(size):
        ring[c, i] = np.exp(log_ring[c, i] - top) if top > LEAST else 0.0
        ring[c, i + size] = ring[c, i]


@njit(cache=True)
def put(log_ring, ring, reference, c, slot, size, score, reach):
    """A new score in a ring that is kept twice, so that every window of it is contiguous."""
    log_ring[c, slot] = score
    log_ring[c, slot + size] = score
    if size <= 2:
        return
    if score - reference[c] > reach:
        refer(log_ring, ring, reference, c, size)
    else:
        ring[c, slot] = np.exp(score - reference[c])
        ring[c, slot + size] = ring[c, slot]


@njit(cache=True)
def _pair(row, offset, log_weights, size):
    """One or two durations: an addition, or a log-sum of two; no exponentials are kept."""
    high = row[offset] + log_weights[0]
    if size == 2:
        low = row[offset + 1] + log_weights[1]
        high, low = max(high, low), min(high, low)
        if low > LEAST:
            high += np.log1p(np.exp(low - high))
    return high if high > LEAST else IMPOSSIBLE


@njit(cache=True)
def window(log_ring, ring, reference, c, offset, log_weights, weights, top, size, floor, scratch):
    """Log-sum over the K entries from `offset` on; the linear sum itself where it was good enough, else -1."""
    if size <= 2:
        return _pair(log_ring[c], offset, log_weights[c], size), -1.0
    total = dot(ring[c], offset, weights[c], size)
    if total > floor:
        return reference[c] + top + np.log(total), total
    for i in range(size):
        scratch[i] = log_ring[c, offset + i] + log_weights[c, i]
    found = log_sum(scratch, size)
    if found > LEAST:
        refer(log_ring, ring, reference, c, size)
    return found, -1.0


@njit(cache=True, fastmath=REORDER)
def products(row, matrix, out):
    """`row @ matrix` into `out`."""
    labels = len(row)
    out[:] = 0.0
    for source in range(labels):
        for c in range(labels):
            out[c] += row[source] * matrix[source, c]


@njit(cache=True)
def enter(alpha, transition, weights, top, floor, exps, sums, out, scratch):
    """`out[c] = log sum_c' exp(alpha[c'] + transition[c', c])`; the terms and sums stay in `exps` and `sums`."""
    labels = len(alpha)
    most = alpha.max()
    if most < LEAST:
        exps[:] = 0.0
        sums[:] = -1.0
        out[:] = IMPOSSIBLE
        return
    for c in range(labels):
        exps[c] = np.exp(alpha[c] - most)
    products(exps, weights, sums)
    for c in range(labels):
        if sums[c] > floor:
            out[c] = most + top + np.log(sums[c])
        else:
            for source in range(labels):
                scratch[source] = alpha[source] + transition[source, c]
            out[c] = log_sum(scratch, labels)
            sums[c] = -1.0


@njit(cache=True)
def add(out, factor, row, offset, count):
    """Add `factor * row[offset + i]` to `out[i]`."""
    for i in range(count):
        out[i] += factor * row[offset + i]


@njit(cache=True)
def leave(onward, transition, weights, top, floor, exps, beta, found, scratch):
    """`beta[c'] = log sum_c exp(transition[c', c] + onward[c])`."""
    labels = len(onward)
    most = onward.max()
    if most < LEAST:
        beta[:] = IMPOSSIBLE
        return
    for c in range(labels):
        exps[c] = np.exp(onward[c] - most)
    for source in range(labels):
        total = dot(weights[source], 0, exps, labels)
        if total > floor:
            beta[source] = most + top + np.log(total)
        else:
            for c in range(labels):
                scratch[c] = transition[source, c] + onward[c]
            beta[source] = log_sum(scratch, labels)
