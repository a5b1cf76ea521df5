"""The scan on the CPU, compiled: forward to checkpoints, backward from them; transitions `[C, C]`.

A step costs K C + C C multiplications and O(C) exponentials. `alpha_t` stands for "a segment ends at t",
`h_t = enter(alpha_t) - S_t` for "one starts at t". A checkpoint holds the K newest alphas; a block is the stretch
between two checkpoints.
"""
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from unending.systems.learning.flash_semicrf.windows import (
    IMPOSSIBLE,
    LEAST,
    add,
    enter,
    exponentials,
    leave,
    log_sum,
    put,
    range_of,
    refer,
    window,
)

__all__ = ["backward", "forward"]


@njit(cache=True)
def scan_block(first, last, cum, starts, ends, length, model, alphas, opened, rings, work):
    """Alphas of positions first + 1 .. last into rows K .. of `alphas`, and their h into rows 1 .. of `opened`."""
    transition, weights, top, _, _, reversed_, reversed_exp, tops = model
    log_ring, ring, reference = rings
    exps, sums, entered, scratch = work
    labels, size = reversed_.shape
    reach, floor = range_of(cum)
    for t in range(first + 1, last + 1):
        row = alphas[size + t - first - 1]
        for c in range(labels):
            found, _ = window(
                log_ring, ring, reference, c, t % size, reversed_, reversed_exp, tops[c], size, floor, scratch
            )
            if found > LEAST:
                found += cum[t, c] + (ends[t - 1, c] if len(ends) else 0.0)
            row[c] = max(found, IMPOSSIBLE)
        if t == length:
            return
        enter(row, transition, weights, top, floor, exps, sums, entered, scratch)
        for c in range(labels):
            score = entered[c]
            if score > LEAST:
                score += (starts[t, c] if len(starts) else 0.0) - cum[t, c]
            opened[t - first, c] = score
            put(log_ring, ring, reference, c, t % size, size, score, reach)


@njit(cache=True)
def restore(first, cum, starts, model, alphas, opened, rings, work):
    """The rings as they stood at position `first`, out of the K newest alphas."""
    transition, weights, top, initial, _, reversed_, _, _ = model
    log_ring, ring, reference = rings
    exps, sums, entered, scratch = work
    labels, size = reversed_.shape
    floor = range_of(cum)[1]
    log_ring[:] = IMPOSSIBLE
    for back in range(size):
        j = first - back
        if j < 0:
            break
        if j == 0:
            # `initial` is shifted with what the checkpoint has taken off, which alphas[...] of position 0 holds.
            for c in range(labels):
                entered[c] = initial[c] + alphas[size - 1 - back, 0]
        else:
            enter(alphas[size - 1 - back], transition, weights, top, floor, exps, sums, entered, scratch)
        for c in range(labels):
            score = entered[c]
            if score > LEAST:
                score += (starts[j, c] if len(starts) else 0.0) - cum[j, c]
            log_ring[c, j % size] = score
            log_ring[c, j % size + size] = score
            if back == 0:
                opened[0, c] = score
    for c in range(labels):
        refer(log_ring, ring, reference, c, size)


@njit(cache=True)
def prepare(cum, transition, duration, initial):
    labels, size = cum.shape[1], len(duration)
    weights, top = exponentials(transition)
    tops = np.empty(labels)
    reversed_ = np.empty((labels, size), cum.dtype)
    reversed_exp = np.empty((labels, size), cum.dtype)
    for c in range(labels):
        tops[c] = duration[:, c].max()
        for k in range(size):
            reversed_[c, size - 1 - k] = duration[k, c]
            reversed_exp[c, size - 1 - k] = np.exp(duration[k, c] - tops[c])
    model = (transition, weights, top, initial, duration, reversed_, reversed_exp, tops)
    log_ring = np.full((labels, 2 * size), IMPOSSIBLE, cum.dtype)
    rings = (log_ring, np.zeros((labels, 2 * size), cum.dtype), np.full(labels, IMPOSSIBLE))
    work = (np.empty(labels), np.empty(labels), np.empty(labels), np.empty(max(labels, size)))
    return model, rings, work


@njit(cache=True)
def forward(cum, transition, duration, initial, final, starts, ends, length, interval):
    """Log partition of one row, the checkpoints `[blocks, K, C]`, what was taken off at each, and the last alphas.

    `alpha_0` stands in its checkpoint as zeros.
    """
    labels, size = cum.shape[1], len(duration)
    model, rings, work = prepare(cum, transition, duration, initial)
    blocks = (length + interval - 1) // interval
    checkpoints = np.empty((blocks, size, labels), cum.dtype)
    offsets = np.zeros(blocks)
    alphas = np.full((size + interval, labels), IMPOSSIBLE, cum.dtype)
    opened = np.empty((interval + 1, labels), cum.dtype)
    alphas[size - 1] = 0.0
    restore(0, cum, starts, model, alphas, opened, rings, work)
    offset = 0.0
    for block in range(blocks):
        first = block * interval
        last = min(first + interval, length)
        checkpoints[block] = alphas[:size]
        offsets[block] = offset
        scan_block(first, last, cum, starts, ends, length, model, alphas, opened, rings, work)
        if last == length:
            break
        shift = alphas[size + interval - 1].max()
        shift = shift if shift > LEAST else 0.0
        for q in range(size):
            for c in range(labels):
                alphas[q, c] = alphas[q + interval, c] - shift
        for c in range(labels):
            rings[2][c] -= shift
            for i in range(2 * size):
                rings[0][c, i] -= shift
        offset += shift
    scores = work[2]
    for c in range(labels):
        scores[c] = alphas[size + last - first - 1, c] + final[c]
    total = log_sum(scores, labels)
    return total + offset, checkpoints, offsets, alphas[size + last - first - 1].astype(np.float64) + offset


@njit(cache=True)
def backward(
    cum, transition, duration, initial, final, starts, ends, length, interval,
    log_partition, checkpoints, offsets, last_alpha, weight, start_post, end_post, alpha_out, beta_out,
):  # fmt: skip
    """Posteriors of one row times `weight`, and with room in `alpha_out` `[T + 1, C]` the messages themselves.

    Fills `start_post` and `end_post` `[T, C]` (a segment of label c starts at token t, ends with token t) and gives
    the expected uses of transitions `[C, C]` and durations `[K, C]`.
    """
    labels, size = cum.shape[1], len(duration)
    model, rings, work = prepare(cum, transition, duration, initial)
    exps, sums, entered, scratch = work
    weights, top, tops = model[1], model[2], model[7]
    reach, floor = range_of(cum)
    log_duration = np.ascontiguousarray(duration.T)
    exp_duration = np.ascontiguousarray(model[6][:, ::-1])
    log_ring = np.full((labels, 2 * size), IMPOSSIBLE, cum.dtype)
    ring = np.zeros((labels, 2 * size), cum.dtype)
    reference = np.full(labels, IMPOSSIBLE)
    uses, exact_uses = np.zeros((labels, size)), np.zeros((labels, size))
    steps, exact_steps = np.zeros((labels, labels)), np.zeros((labels, labels))
    alphas = np.empty((size + interval, labels), cum.dtype)
    opened = np.empty((interval + 1, labels), cum.dtype)
    beta, onward, found = np.empty(labels), np.empty(labels), np.empty(labels)
    shifted = 0.0
    for c in range(labels):
        gap = last_alpha[c] + final[c] - log_partition
        end_post[length - 1, c] = weight * np.exp(min(gap, 0.0))
        closing = final[c] + cum[length, c] + (ends[length - 1, c] if len(ends) else 0.0)
        put(log_ring, ring, reference, c, length % size, size, closing, reach)
        if len(alpha_out):
            alpha_out[length, c], beta_out[length, c] = last_alpha[c], final[c]
    for block in range(len(checkpoints) - 1, -1, -1):
        first = block * interval
        last = min(first + interval, length)
        alphas[:size] = checkpoints[block]
        restore(first, cum, starts, model, alphas, opened, rings, work)
        scan_block(first, last - 1, cum, starts, ends, length, model, alphas, opened, rings, work)
        level = offsets[block] + shifted - log_partition
        for j in range(last - 1, first - 1, -1):
            alpha = alphas[size - 1 + j - first]
            if j:
                enter(alpha, transition, weights, top, floor, exps, sums, entered, scratch)
            for c in range(labels):
                score, total = window(
                    log_ring, ring, reference, c, (j + 1) % size, log_duration, exp_duration, tops[c], size,
                    floor, scratch,
                )  # fmt: skip
                gap = opened[j - first, c] + score + level
                posterior = weight * np.exp(min(gap, 0.0)) if gap > -700.0 else 0.0
                start_post[j, c] = posterior
                onward[c] = score
                if score > LEAST:
                    onward[c] += (starts[j, c] if len(starts) else 0.0) - cum[j, c]
                if posterior == 0.0:
                    continue
                offset = (j + 1) % size
                if total > 0.0:
                    add(uses[c], posterior / total, ring[c], offset, size)
                else:
                    for k in range(size):
                        exact_uses[c, k] += posterior * np.exp(
                            log_ring[c, offset + k] + log_duration[c, k] - score
                        )
                if j and sums[c] > 0.0:
                    share = posterior / sums[c]
                    for source in range(labels):
                        steps[source, c] += share * exps[source]
                elif j:
                    for source in range(labels):
                        exact_steps[source, c] += posterior * np.exp(
                            alpha[source] + transition[source, c] - entered[c]
                        )
            if j == 0:
                if len(alpha_out):
                    alpha_out[0], beta_out[0] = 0.0, onward + shifted
                break
            leave(onward, transition, weights, top, floor, exps, beta, found, scratch)
            for c in range(labels):
                gap = alpha[c] + beta[c] + level
                end_post[j - 1, c] = weight * np.exp(min(gap, 0.0)) if gap > -700.0 else 0.0
                if len(alpha_out):
                    alpha_out[j, c], beta_out[j, c] = alpha[c] + offsets[block], beta[c] + shifted
                score = beta[c]
                if score > LEAST:
                    score += cum[j, c] + (ends[j - 1, c] if len(ends) else 0.0)
                put(log_ring, ring, reference, c, j % size, size, score, reach)
        shift = beta.max()
        if first and shift > LEAST:
            shifted += shift
            for c in range(labels):
                reference[c] -= shift
                for i in range(2 * size):
                    log_ring[c, i] -= shift
    return steps * weights + exact_steps, (uses * exp_duration + exact_uses).T.copy()
