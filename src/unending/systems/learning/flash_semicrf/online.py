"""Online, compiled: filter a stream one row at a time, and decide segments once nothing can change them.

Every ring holds the K newest starts. The score of an open segment includes the emissions that it has seen so far, so
no prefix sum grows with the stream. `levels` are log-weights (sums over pasts), `bests` are Viterbi scores; both are
shifted so that the largest is 0 after each row.
"""
# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from unending.systems.learning.flash_semicrf.windows import IMPOSSIBLE, LEAST, log_sum

__all__ = ["advance", "force", "settle", "trace"]


@njit(cache=True)
def _normalise(ring, at, value):
    for c in range(ring.shape[1]):
        ring[at, c] = value[c]
    top = ring.max()
    if top > LEAST:
        for q in range(ring.shape[0]):
            for c in range(ring.shape[1]):
                ring[q, c] = ring[q, c] - top if ring[q, c] > LEAST else IMPOSSIBLE
    return top


@njit(cache=True)
def _close(position, levels, bests, duration, ended, lengths):
    """Log-weight and best score of "a segment of label c ends at `position`", and the best one's duration."""
    size, labels = duration.shape
    scratch = np.empty(size)
    count = min(size, position)
    for c in range(labels):
        top, length = IMPOSSIBLE, 1
        for k in range(1, count + 1):
            slot = (position - k) % size
            scratch[k - 1] = levels[slot, c] + duration[k - 1, c]
            if bests[slot, c] + duration[k - 1, c] > top:
                top, length = bests[slot, c] + duration[k - 1, c], k
        ended[0, c], ended[1, c], lengths[c] = log_sum(scratch, count), top, length


@njit(cache=True)
def _predict(position, levels, survival, prior):
    """Log-weight of each label for token `position`, before its row is seen."""
    size, labels = survival.shape
    scratch = np.empty(size)
    count = min(size, position + 1)
    for c in range(labels):
        for back in range(count):
            scratch[back] = levels[(position - back) % size, c] + survival[back, c]
        prior[c] = log_sum(scratch, count)


@njit(cache=True)
def advance(row, position, levels, bests, sources, ended, lengths, sources_before, parameters, filtered):
    """Take the row of token `position`: its loss, and by how much the scores were shifted.

    `survival[k - 1, c]` is the log-sum of the duration scores from k on: what a segment that has come to length k is
    still worth. The loss is `-log sum_c p(c) q(c)`, p the label predicted from the rows before and q the softmax of
    the row. `ended` `[2, C]` becomes the log-weight and the best score of each label ending behind the token,
    `lengths` and `sources_before` the best one's duration and the label before it.
    """
    transition, duration, survival = parameters
    size, labels = duration.shape
    prior, opened, onward = np.empty(labels), np.empty(labels), np.empty(labels)
    _predict(position, levels, survival, prior)
    level, top = log_sum(prior, labels), log_sum(row, labels)
    prior += row
    reached = log_sum(prior, labels)
    if reached < LEAST:
        return -IMPOSSIBLE, 0.0
    for c in range(labels):
        filtered[c] = np.exp(prior[c] - reached)
    for q in range(size):
        for c in range(labels):
            levels[q, c] = levels[q, c] + row[c] if levels[q, c] > LEAST else IMPOSSIBLE
            bests[q, c] = bests[q, c] + row[c] if bests[q, c] > LEAST else IMPOSSIBLE
    position += 1
    _close(position, levels, bests, duration, ended, lengths)
    for c in range(labels):
        sources_before[c] = sources[(position - lengths[c]) % size, c]
    slot = position % size
    for c in range(labels):
        onward[c], sources[slot, c] = IMPOSSIBLE, 0
        for source in range(labels):
            prior[source] = ended[0, source] + transition[source, c]
            if ended[1, source] + transition[source, c] > onward[c]:
                onward[c], sources[slot, c] = ended[1, source] + transition[source, c], source
        opened[c] = log_sum(prior, labels)
    shift = _normalise(levels, slot, opened)
    ended[0] -= shift
    ended[1] -= _normalise(bests, slot, onward)
    return level + top - reached, shift


@njit(cache=True)
def _mark_survivors(position, base, bests, sources, ended, marked):
    """Mark the nodes (boundary, label) that a path to come may go on from, or end in; how many there are."""
    size, labels = bests.shape
    room = len(marked)
    alive = 0
    for c in range(labels):
        if ended[1, c] > LEAST:
            alive += 1
            marked[position % room, c] = True
    for j in range(max(position - size + 1, base), position + 1):
        for c in range(labels):
            if bests[j % size, c] > LEAST:
                node = sources[j % size, c] if j > base else 0
                alive += not marked[j % room, node]
                marked[j % room, node] = True
    return alive


@njit(cache=True)
def trace(j, label, base, trace_length, trace_source, out):
    """Segments (start, end, label) of the path that ends in a node, newest first, back to `base`; their number."""
    room = len(trace_length)
    count = 0
    while j > base:
        k = trace_length[j % room, label]
        out[count, 0], out[count, 1], out[count, 2] = j - k, j, label
        count += 1
        label, j = trace_source[j % room, label], j - k
    return count


@njit(cache=True)
def settle(position, base, bests, sources, ended, trace_length, trace_source, out):
    """Segments that are certain, newest first, into `out`; their number.

    All surviving paths agree up to their newest common node, and no row to come can change what lies before it.
    """
    labels = bests.shape[1]
    room = len(trace_length)
    marked = np.zeros((room, labels), np.bool_)
    alive = _mark_survivors(position, base, bests, sources, ended, marked)
    for j in range(position, base, -1):
        for c in range(labels):
            if not marked[j % room, c]:
                continue
            if alive == 1:
                return trace(j, c, base, trace_length, trace_source, out)
            before = j - trace_length[j % room, c]
            source = trace_source[j % room, c] if before > base else 0
            alive -= marked[before % room, source]
            marked[before % room, source] = True
    return 0


@njit(cache=True)
def force(position, base, bests, sources, ended, survival, trace_length, trace_source, out):
    """Decide the oldest segment of the path that is best now, into `out[0]`, and drop the paths that disagree."""
    size, labels = bests.shape
    room = len(trace_length)
    top, start, label = IMPOSSIBLE, base, 0
    for back in range(size):
        for c in range(labels):
            score = bests[(position - back) % size, c] + survival[back, c]
            if score > top:
                top, start, label = score, position - back, c
    count = trace(start, sources[start % size, label], base, trace_length, trace_source, out)
    cut, winner = out[count - 1, 1], out[count - 1, 2]
    for j in range(position - size + 1, position + 2):
        for c in range(labels):
            if j <= position and bests[j % size, c] <= LEAST:
                continue
            at = min(j, position)
            node = sources[j % size, c] if j <= position else c
            while at > cut:
                step = trace_length[at % room, node]
                node, at = trace_source[at % room, node], at - step
            if at == cut and node == winner:
                continue
            if j <= position:
                bests[j % size, c] = IMPOSSIBLE
            else:
                ended[1, c] = IMPOSSIBLE
    out[0] = out[count - 1]
