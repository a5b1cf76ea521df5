"""Single segmentations, compiled: the best one, and samples, both found backwards from checkpoints."""
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from unending.systems.learning.flash_semicrf import compiled, compiled_durations
from unending.systems.learning.flash_semicrf.windows import IMPOSSIBLE, LEAST, log_sum

__all__ = ["best_path", "sample_durations", "sample_static"]


@njit(cache=True)
def _content(j, c, cum, starts):
    return (starts[j, c] if len(starts) else 0.0) - cum[j, c]


@njit(cache=True)
def _open(j, row, cum, starts, transition, initial, alphas, opened, sources):
    """Best way into a segment that starts at j, by its label; of static transitions."""
    labels = cum.shape[1]
    for c in range(labels):
        best, source = IMPOSSIBLE, 0
        if j == 0:
            best = initial[0, c] + alphas[row, 0]
        else:
            for each in range(labels):
                score = alphas[row, each] + transition[0, each, c]
                if score > best:
                    best, source = score, each
        opened[row, c] = best + _content(j, c, cum, starts) if best > LEAST else IMPOSSIBLE
        sources[row, c] = source


@njit(cache=True)
def _best_block(
    first, last, cum, starts, ends, transition, initial, duration, alphas, opened, sources, durations, before
):  # fmt: skip
    """Best alphas of positions first + 1 .. last, and by which duration and source they came."""
    size, labels = duration.shape
    static = len(transition) == 1
    for t in range(first + 1, last + 1):
        row = size + t - first - 1
        for c in range(labels):
            best, length, source = IMPOSSIBLE, 1, 0
            for k in range(1, min(size, t) + 1):
                j, at = t - k, row - k
                if static:
                    score, came = opened[at, c], sources[at, c]
                else:
                    score, came = IMPOSSIBLE, 0
                    if j == 0:
                        score = initial[k - 1, c] + alphas[at, 0]
                    else:
                        for each in range(labels):
                            if alphas[at, each] + transition[k - 1, each, c] > score:
                                score, came = alphas[at, each] + transition[k - 1, each, c], each
                    score += _content(j, c, cum, starts)
                score += duration[k - 1, c]
                if score > best:
                    best, length, source = score, k, came
            if best > LEAST:
                best += cum[t, c] + (ends[t - 1, c] if len(ends) else 0.0)
            alphas[row, c] = best
            durations[t - first - 1, c], before[t - first - 1, c] = length, source
        if static and t < len(cum) - 1:
            _open(t, row, cum, starts, transition, initial, alphas, opened, sources)


@njit(cache=True)
def best_path(cum, transition, duration, initial, final, starts, ends, length, interval):
    """Score of the best segmentation of one row, and the label at each of its segments' first tokens, else -1.

    `transition` is `[1 or K, C, C]` and `initial` `[1 or K, C]`. Back-pointers live for one block of `interval`
    positions and are computed again from checkpoints; with `interval >= length` they are kept, O(T C).
    """
    size, labels = duration.shape
    blocks = (length + interval - 1) // interval
    checkpoints = np.empty((blocks, size, labels))
    alphas = np.full((size + interval, labels), IMPOSSIBLE)
    opened = np.full((size + interval, labels), IMPOSSIBLE)
    sources = np.zeros((size + interval, labels), np.int16)
    durations = np.empty((interval, labels), np.int32)
    before = np.empty((interval, labels), np.int16)
    found = np.full(length, -1, np.int64)
    alphas[size - 1] = 0.0
    static = len(transition) == 1
    total, label, t = 0.0, 0, length
    for visit in range(2 * blocks - 1):
        block = visit if visit < blocks else 2 * blocks - 2 - visit
        first = block * interval
        last = min(first + interval, length)
        if visit < blocks:
            checkpoints[block] = alphas[:size]
        else:
            alphas[:size] = checkpoints[block]
        opened[:] = IMPOSSIBLE
        if static:
            for back in range(min(size - 1, first) + 1):
                _open(
                    first - back, size - 1 - back, cum, starts, transition, initial, alphas, opened, sources
                )
        _best_block(
            first, last, cum, starts, ends, transition, initial, duration, alphas, opened, sources, durations, before
        )  # fmt: skip
        if visit < blocks - 1:
            for q in range(size):
                alphas[q] = alphas[q + interval]
            continue
        if visit == blocks - 1:
            closing = alphas[size + last - first - 1] + final
            label = int(np.argmax(closing))
            total = closing[label]
        while t > first:
            k, source = durations[t - first - 1, label], before[t - first - 1, label]
            t -= k
            found[t] = label
            label = source
    return total, found


@njit(cache=True)
def _choose(scores, count, uniform):
    """An index drawn in proportion to `exp(score)`."""
    level = log_sum(scores, count)
    total, last = 0.0, 0
    for i in range(count):
        share = np.exp(scores[i] - level) if scores[i] > LEAST else 0.0
        if share > 0.0:
            last = i
        total += share
        if uniform < total:
            return i
    return last


@njit(cache=True)
def sample_static(
    cum, transition, duration, initial, final, starts, ends, length, interval, checkpoints, offsets, uniforms
):  # fmt: skip
    """Labels at first tokens, else -1, `[samples, T]`, from uniform numbers `[samples, T, 2]`."""
    labels, size, samples = cum.shape[1], len(duration), len(uniforms)
    model, rings, work = compiled.prepare(cum, transition, duration, initial)
    found = np.full((samples, length), -1, np.int64)
    ends_at, label = np.full(samples, length), np.zeros(samples, np.int64)
    alphas = np.empty((size + interval, labels), cum.dtype)
    opened = np.empty((interval + 1, labels), cum.dtype)
    earlier = np.empty((labels, size))
    scores = np.empty(max(labels, size))
    for block in range(len(checkpoints) - 1, -1, -1):
        first = block * interval
        last = min(first + interval, length)
        alphas[:size] = checkpoints[block]
        compiled.restore(first, cum, starts, model, alphas, opened, rings, work)
        earlier[:] = rings[0][:, :size]
        compiled.scan_block(first, last, cum, starts, ends, length, model, alphas, opened, rings, work)
        for s in range(samples):
            while ends_at[s] > first:
                t = ends_at[s]
                for c in range(labels):
                    onward = final[c] if t == length else transition[c, label[s]]
                    scores[c] = alphas[size + t - first - 1, c] + onward
                c = _choose(scores, labels, uniforms[s, t - 1, 0])
                count = min(size, t)
                for k in range(1, count + 1):
                    j = t - k
                    scores[k - 1] = (opened[j - first, c] if j >= first else earlier[c, j % size]) + duration[
                        k - 1, c
                    ]
                ends_at[s] = t - 1 - _choose(scores, count, uniforms[s, t - 1, 1])
                label[s] = c
                found[s, ends_at[s]] = c
    return found


@njit(cache=True)
def sample_durations(
    cum, transition, duration, initial, final, starts, ends, length, interval, checkpoints, offsets, uniforms
):  # fmt: skip
    """As `sample_static`, for transitions `[K, C, C]`."""
    size, labels = duration.shape
    samples = len(uniforms)
    weights, tops = compiled_durations.exponents(transition)
    model = (transition, weights, tops, initial, duration)
    found = np.full((samples, length), -1, np.int64)
    ends_at, label, taken = np.full(samples, length), np.zeros(samples, np.int64), np.zeros(samples, np.int64)
    alphas = np.empty((size + interval, labels), cum.dtype)
    exps, mosts = np.zeros((size + interval, labels)), np.full(size + interval, IMPOSSIBLE)
    room = np.empty((labels, size))
    scores, inner = np.empty(max(labels, size)), np.empty(labels)
    for block in range(len(checkpoints) - 1, -1, -1):
        first = block * interval
        last = min(first + interval, length)
        alphas[:size] = checkpoints[block]
        for q in range(size):
            compiled_durations.exponentiate(alphas, exps, mosts, q)
        compiled_durations.scan_block(first, last, cum, starts, ends, model, alphas, exps, mosts, room)
        for s in range(samples):
            while ends_at[s] > first:
                t = ends_at[s]
                for c in range(labels):
                    onward = final[c] if t == length else transition[taken[s] - 1, c, label[s]]
                    scores[c] = alphas[size + t - first - 1, c] + onward
                c = _choose(scores, labels, uniforms[s, t - 1, 0])
                count = min(size, t)
                for k in range(1, count + 1):
                    j = t - k
                    row = size - 1 + j - first
                    if j == 0:
                        score = initial[k - 1, c] + alphas[row, 0]
                    else:
                        for source in range(labels):
                            inner[source] = alphas[row, source] + transition[k - 1, source, c]
                        score = log_sum(inner, labels)
                    if score > LEAST:
                        score += duration[k - 1, c] + _content(j, c, cum, starts)
                    scores[k - 1] = score
                taken[s] = 1 + _choose(scores, count, uniforms[s, t - 1, 1])
                ends_at[s] = t - taken[s]
                label[s] = c
                found[s, ends_at[s]] = c
    return found
