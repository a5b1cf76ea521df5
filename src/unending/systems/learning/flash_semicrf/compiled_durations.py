"""The scan on the CPU, compiled, for transitions `[K, C, C]` that depend on the duration: K C C a step.

Blocks, checkpoints and results are those of `compiled`; only the sum over sources cannot be shared by durations.
"""
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from unending.systems.learning.flash_semicrf.windows import (
    IMPOSSIBLE,
    LEAST,
    dot,
    log_sum,
    products,
    range_of,
)

__all__ = ["backward", "forward"]


@njit(cache=True)
def exponents(transition):
    size = len(transition)
    tops = np.empty(size)
    weights = np.empty_like(transition)
    for k in range(size):
        tops[k] = transition[k].max()
        weights[k] = np.exp(transition[k] - tops[k])
    return weights, tops


@njit(cache=True)
def exponentiate(alphas, exps, mosts, row):
    mosts[row] = alphas[row].max()
    for c in range(alphas.shape[1]):
        exps[row, c] = np.exp(alphas[row, c] - mosts[row]) if mosts[row] > LEAST else 0.0


@njit(cache=True)
def scan_block(first, last, cum, starts, ends, model, alphas, exps, mosts, scores):
    """Alphas of positions first + 1 .. last into rows K .. of `alphas`."""
    transition, weights, tops, initial, duration = model
    size, labels = duration.shape
    floor = range_of(cum)[1]
    sums, scratch = np.empty(labels), np.empty(labels)
    for t in range(first + 1, last + 1):
        durations = min(size, t)
        for k in range(1, durations + 1):
            j = t - k
            row = size - 1 + j - first
            if j:
                products(exps[row], weights[k - 1], sums)
            for c in range(labels):
                if j == 0:
                    score = initial[k - 1, c] + alphas[row, 0]
                elif mosts[row] < LEAST:
                    score = IMPOSSIBLE
                elif sums[c] > floor:
                    score = mosts[row] + tops[k - 1] + np.log(sums[c])
                else:
                    for source in range(labels):
                        scratch[source] = alphas[row, source] + transition[k - 1, source, c]
                    score = log_sum(scratch, labels)
                if score > LEAST:
                    score += duration[k - 1, c] - cum[j, c] + (starts[j, c] if len(starts) else 0.0)
                scores[c, k - 1] = score
        row = size + t - first - 1
        for c in range(labels):
            score = log_sum(scores[c], durations)
            if score > LEAST:
                score += cum[t, c] + (ends[t - 1, c] if len(ends) else 0.0)
            alphas[row, c] = max(score, IMPOSSIBLE)
        exponentiate(alphas, exps, mosts, row)


@njit(cache=True)
def forward(cum, transition, duration, initial, final, starts, ends, length, interval):
    """As `compiled.forward`, with `initial` `[K, C]`."""
    size, labels = duration.shape
    weights, tops = exponents(transition)
    model = (transition, weights, tops, initial, duration)
    blocks = (length + interval - 1) // interval
    checkpoints = np.empty((blocks, size, labels), cum.dtype)
    offsets = np.zeros(blocks)
    alphas = np.full((size + interval, labels), IMPOSSIBLE, cum.dtype)
    exps = np.zeros((size + interval, labels))
    mosts = np.full(size + interval, IMPOSSIBLE)
    scores = np.empty((labels, size))
    alphas[size - 1] = 0.0
    offset = 0.0
    for block in range(blocks):
        first = block * interval
        last = min(first + interval, length)
        checkpoints[block] = alphas[:size]
        offsets[block] = offset
        scan_block(first, last, cum, starts, ends, model, alphas, exps, mosts, scores)
        if last == length:
            break
        shift = alphas[size + interval - 1].max()
        shift = shift if shift > LEAST else 0.0
        for q in range(size):
            for c in range(labels):
                alphas[q, c] = alphas[q + interval, c] - shift
            exponentiate(alphas, exps, mosts, q)
        offset += shift
    closing = np.empty(labels)
    newest = alphas[size + last - first - 1].astype(np.float64)
    for c in range(labels):
        closing[c] = newest[c] + final[c]
    return log_sum(closing, labels) + offset, checkpoints, offsets, newest + offset


@njit(cache=True)
def backward(
    cum, transition, duration, initial, final, starts, ends, length, interval,
    log_partition, checkpoints, offsets, last_alpha, weight, start_post, end_post, alpha_out, beta_out,
):  # fmt: skip
    """As `compiled.backward`; gives the expected uses of transitions `[K, C, C]` and of first segments `[K, C]`."""
    size, labels = duration.shape
    weights, tops = exponents(transition)
    model = (transition, weights, tops, initial, duration)
    floor = range_of(cum)[1]
    steps, firsts = np.zeros((size, labels, labels)), np.zeros((size, labels))
    alphas = np.empty((size + interval, labels), cum.dtype)
    exps = np.zeros((size + interval, labels))
    mosts = np.full(size + interval, IMPOSSIBLE)
    scores = np.empty((labels, size))
    closing = np.full((size, labels), IMPOSSIBLE, cum.dtype)
    onward = np.empty((size, labels))
    linear = np.empty((size, labels))
    beta, flat = np.empty(labels), np.empty(size * labels)
    shifted = 0.0
    top = tops.max()
    for c in range(labels):
        gap = last_alpha[c] + final[c] - log_partition
        end_post[length - 1, c] = weight * np.exp(min(gap, 0.0))
        closing[length % size, c] = final[c] + cum[length, c] + (ends[length - 1, c] if len(ends) else 0.0)
        if len(alpha_out):
            alpha_out[length, c], beta_out[length, c] = last_alpha[c], final[c]
    for block in range(len(checkpoints) - 1, -1, -1):
        first = block * interval
        last = min(first + interval, length)
        alphas[:size] = checkpoints[block]
        for q in range(size):
            exponentiate(alphas, exps, mosts, q)
        scan_block(first, last - 1, cum, starts, ends, model, alphas, exps, mosts, scores)
        level = offsets[block] + shifted - log_partition
        for j in range(last - 1, first - 1, -1):
            alpha = alphas[size - 1 + j - first]
            durations = min(size, length - j)
            most = IMPOSSIBLE
            for k in range(durations):
                for c in range(labels):
                    score = closing[(j + k + 1) % size, c]
                    if score > LEAST:
                        score += duration[k, c] - cum[j, c] + (starts[j, c] if len(starts) else 0.0)
                    onward[k, c] = score
                    most = max(most, score)
            if j == 0:
                for k in range(durations):
                    for c in range(labels):
                        gap = initial[k, c] + onward[k, c] + level
                        posterior = weight * np.exp(min(gap, 0.0)) if gap > -700.0 else 0.0
                        firsts[k, c] += posterior
                        start_post[0, c] += posterior
                if len(alpha_out):
                    alpha_out[0], beta_out[0] = 0.0, 0.0
                break
            for k in range(durations):
                for c in range(labels):
                    linear[k, c] = np.exp(onward[k, c] - most) if most > LEAST else 0.0
            for source in range(labels):
                total = 0.0
                for k in range(durations):
                    total += np.exp(tops[k] - top) * dot(weights[k, source], 0, linear[k], labels)
                exact = not total > floor
                if exact:
                    at = 0
                    for k in range(durations):
                        for c in range(labels):
                            flat[at] = transition[k, source, c] + onward[k, c]
                            at += 1
                    beta[source] = log_sum(flat, at) if most > LEAST else IMPOSSIBLE
                else:
                    beta[source] = most + top + np.log(total)
                gap = alpha[source] + beta[source] + level
                posterior = weight * np.exp(min(gap, 0.0)) if gap > -700.0 else 0.0
                end_post[j - 1, source] = posterior
                if len(alpha_out):
                    alpha_out[j, source] = alpha[source] + offsets[block]
                    beta_out[j, source] = beta[source] + shifted
                if posterior == 0.0:
                    continue
                for k in range(durations):
                    share = 0.0 if exact else posterior / total * np.exp(tops[k] - top)
                    for c in range(labels):
                        if exact:
                            use = posterior * np.exp(transition[k, source, c] + onward[k, c] - beta[source])
                        else:
                            use = share * weights[k, source, c] * linear[k, c]
                        steps[k, source, c] += use
                        start_post[j, c] += use
            for c in range(labels):
                score = beta[c]
                if score > LEAST:
                    score += cum[j, c] + (ends[j - 1, c] if len(ends) else 0.0)
                closing[j % size, c] = score
        shift = beta.max()
        if first and shift > LEAST:
            shifted += shift
            closing -= shift
    return steps, firsts
