"""The red-blue loop over a prefix tree, the two streaming strategies, and the hypothesis that a batch ends with."""

from typing import NamedTuple

import numpy as np
from numba import njit

from unending.systems.learning.pdfa_streams.merging import consistent, fold, similarity, undo
from unending.systems.learning.pdfa_streams.settings import Settings
from unending.systems.learning.pdfa_streams.tree import (
    BATCHES,
    CHILD,
    END,
    FIRST,
    GROW,
    NODES,
    PARENT,
    RED,
    REFINEMENTS,
    REFUSED,
    REP,
    TOTAL,
    compact,
    find,
)

__all__ = ["Hypothesis", "empty_hypothesis", "refine", "score_strings"]


class Hypothesis(NamedTuple):
    """The automaton that the last batch ended with, in breadth-first order from the initial state 0."""

    following: np.ndarray
    """int32 `[N, A]`: next state, -1 where there is none."""
    data: np.ndarray
    """int64 `[N, 2 + A]`: visits, ends, how often each symbol was next."""
    red: np.ndarray
    """int32 `[N]`: 1 for a red state, 0 for a sink (too rare to be merged)."""
    meta: np.ndarray
    """int64 `[2]`: states in use (0 before the first batch), symbols known (largest id + 1)."""


def empty_hypothesis(settings: Settings) -> Hypothesis:
    """No state yet: everything is uniform."""
    n, a = settings.nodes, settings.alphabet
    return Hypothesis(
        np.full((n, a), -1, np.int32),
        np.zeros((n, FIRST + a), np.int64),
        np.zeros(n, np.int32),
        np.zeros(2, np.int64),
    )


@njit(cache=True)
def _emit(tree, hypothesis):  # type: ignore[no-untyped-def]
    """Copy what the representatives hold, breadth first."""
    links = tree.links
    following, data = hypothesis.following, hypothesis.data
    order = np.zeros(tree.meta[NODES], np.int64)
    place = np.full(tree.meta[NODES], -1, np.int32)
    place[0] = 0
    states, at = 1, 0
    while at < states:
        node = order[at]
        for symbol in range(following.shape[1]):
            following[at, symbol] = -1
            if links[node, CHILD + symbol] >= 0:
                below = find(links, links[node, CHILD + symbol])
                if place[below] < 0:
                    place[below] = states
                    order[states] = below
                    states += 1
                following[at, symbol] = place[below]
        for column in range(data.shape[1]):
            data[at, column] = tree.data[node, column]
        hypothesis.red[at] = 1 if links[node, RED] > 0 else 0
        at += 1
    for state in range(states, hypothesis.meta[0]):
        for symbol in range(following.shape[1]):
            following[state, symbol] = -1
        for column in range(data.shape[1]):
            data[state, column] = 0
        hypothesis.red[state] = 0
    hypothesis.meta[0] = states


@njit(cache=True)
def _possible(links, r, b):  # type: ignore[no-untyped-def]
    """Whether b is blue and r (if it is a merge) red."""
    if links[b, REP] >= 0 or links[b, RED] > 0 or links[find(links, links[b, PARENT]), RED] == 0:
        return False
    return r < 0 or (links[r, REP] < 0 and links[r, RED] > 0)


@njit(cache=True)
def _largest_blue(tree, reds, n_red, sink):  # type: ignore[no-untyped-def]
    links = tree.links
    best, size = np.int64(-1), np.int64(-1)
    for i in range(n_red):
        for column in range(CHILD, links.shape[1]):
            if links[reds[i], column] >= 0:
                blue = find(links, links[reds[i], column])
                visits = tree.data[blue, TOTAL]
                if links[blue, RED] == 0 and visits >= sink and visits > size:
                    best, size = np.int64(blue), visits
    return best


@njit(cache=True)
def _best_red(tree, rule, blue, reds, n_red, log, end, stack):  # type: ignore[no-untyped-def]
    """The red state that folds with `blue` without a failed test and is most like it; -1 if there is none."""
    best, score = np.int64(-1), -1.0
    for i in range(n_red):
        if not consistent(tree, rule, reds[i], blue):
            continue
        found = similarity(tree, rule, reds[i], blue)
        if found <= score:
            continue
        after = fold(tree, rule, reds[i], blue, True, log, end, stack)
        if after >= 0:
            undo(tree, log, after, end)
            best, score = np.int64(reds[i]), found
    return best


@njit(cache=True)
def _retry(tree, rule, r, b, reds, n_red, log, end, stack):  # type: ignore[no-untyped-def]
    """Apply a refinement of the last batch if today's data still speak for it; the log's new end, or -1.

    A merge must still be consistent. A promotion must still be needed: no red state is consistent with b. With
    `trusted` visits (the pair, or b) no test is made any more.
    """
    visits = tree.data[b, TOTAL] if r < 0 else min(tree.data[r, TOTAL], tree.data[b, TOTAL])
    test = rule.trusted == 0 or visits < rule.trusted
    if r >= 0:
        return fold(tree, rule, r, b, test, log, end, stack)
    if test and _best_red(tree, rule, b, reds, n_red, log, end, stack) >= 0:
        return -1
    return _promote(tree, b, reds, n_red, log, end)


@njit(cache=True)
def _promote(tree, b, reds, n_red, log, end):  # type: ignore[no-untyped-def]
    reds[n_red] = b
    tree.links[b, RED] = n_red + 1
    log[end, 0], log[end, 1] = -1, b
    return end + 1


@njit(cache=True)
def _mark_growth(tree):  # type: ignore[no-untyped-def]
    links = tree.links
    for node in range(tree.meta[NODES]):
        grows = links[node, RED] > 0 or (node > 0 and _possible(links, -1, node))
        links[node, GROW] = 1 if grows else 0


@njit(cache=True)
def _prune(tree, keep):  # type: ignore[no-untyped-def]
    """Keep what growth could have made: two layers below red states, one below what was merged or is blue."""
    used = tree.meta[NODES]
    reach = np.full(used, -1, np.int64)
    for node in range(used):
        if tree.links[node, GROW] > 0:
            reach[node] = 1
    for each in range(tree.meta[REFINEMENTS]):
        reach[tree.refinements[each, 1]] = 2 if tree.refinements[each, 0] < 0 else 1
    reach[0] = 2
    for node in range(1, used):
        reach[node] = max(reach[node], reach[tree.links[node, PARENT]] - 1)
    for node in range(used - 1, -1, -1):
        if reach[node] >= 0:
            keep[node] = 1
        if keep[node] and node > 0:
            keep[tree.links[node, PARENT]] = 1
    compact(tree, keep)


@njit(cache=True)
def _absorb(tree, keep):  # type: ignore[no-untyped-def]
    """Make merges final (old strategy): states point to states, merged nodes are given back."""
    links = tree.links
    for node in range(tree.meta[NODES]):
        keep[node] = links[node, REP] < 0
        for column in range(links.shape[1]):
            if (column >= CHILD or column == PARENT) and links[node, column] >= 0:
                links[node, column] = find(links, links[node, column])
    compact(tree, keep)


@njit(cache=True)
def refine(tree, hypothesis, rule, streaming, greedy):  # type: ignore[no-untyped-def]
    """End a batch, in place: replay, search, emit the hypothesis, undo (not so if `greedy`, the old strategy).

    `streaming` is False in batch mode: nothing is undone for a next batch, nor given back.
    """
    capacity = tree.links.shape[0]
    log = np.empty((2 * capacity, 2), np.int32)
    stack = np.empty((capacity, 3), np.int32)
    reds = np.empty(capacity, np.int64)
    done = np.empty((capacity, 2), np.int32)
    n_done, end, n_red = 0, 0, 0
    for node in range(tree.meta[NODES]):
        if tree.links[node, RED] > 0:
            reds[tree.links[node, RED] - 1] = node
            n_red += 1

    waiting = np.empty((capacity, 2), np.int32)
    n_waiting = 0
    for each in range(tree.meta[REFINEMENTS]):
        r, b = tree.refinements[each, 0], tree.refinements[each, 1]
        if _possible(tree.links, r, b):
            after = _retry(tree, rule, r, b, reds, n_red, log, end, stack)
            if after >= 0:
                n_red += r < 0
                end = after
                done[n_done, 0], done[n_done, 1] = r, b
                n_done += 1
        else:
            waiting[n_waiting, 0], waiting[n_waiting, 1] = r, b
            n_waiting += 1

    while True:
        blue = _largest_blue(tree, reds, n_red, rule.sink)
        if blue < 0:
            break
        r = _best_red(tree, rule, blue, reds, n_red, log, end, stack)
        if r >= 0:
            end = fold(tree, rule, r, blue, False, log, end, stack)
        else:
            end = _promote(tree, blue, reds, n_red, log, end)
            n_red += 1
        done[n_done, 0], done[n_done, 1] = r, blue
        n_done += 1
        again = n_waiting > 0
        while again:
            again = False
            for each in range(n_waiting):
                r, b = waiting[each, 0], waiting[each, 1]
                if b >= 0 and _possible(tree.links, r, b):
                    waiting[each, 1] = -1
                    after = _retry(tree, rule, r, b, reds, n_red, log, end, stack)
                    if after >= 0:
                        n_red += r < 0
                        end = after
                        done[n_done, 0], done[n_done, 1] = r, b
                        n_done += 1
                        again = True

    _emit(tree, hypothesis)
    _mark_growth(tree)
    tree.meta[BATCHES] += 1
    if not streaming:
        return
    keep = np.zeros(capacity, np.uint8)
    if greedy:
        _absorb(tree, keep)
        return
    undo(tree, log, end, 0)
    for each in range(max(n_done, tree.meta[REFINEMENTS])):
        for side in range(2):
            tree.refinements[each, side] = done[each, side] if each < n_done else 0
    tree.meta[REFINEMENTS] = n_done
    if tree.meta[REFUSED] > 0 or 2 * tree.meta[NODES] > capacity:
        _prune(tree, keep)


@njit(cache=True)
def score_strings(hypothesis, flat, starts, known, correction):  # type: ignore[no-untyped-def]
    """Cost of strings under a hypothesis.

    A step costs -log2 of (count + correction) / (visits + correction * (known + 1)); where there is no state, of
    1 / (known + 1). `known` is the number of symbols known so far and rises with the strings.

    Returns
    -------
    tuple
        bits; steps (an end counts as one); symbols known now.
    """
    bits, steps = 0.0, np.int64(0)
    for i in range(len(starts) - 1):
        for position in range(starts[i], starts[i + 1]):
            known = max(known, np.int64(flat[position]) + 1)
        node = 0 if hypothesis.meta[0] > 0 else -1
        for position in range(starts[i], starts[i + 1] + 1):
            count, visits = np.int64(0), np.int64(0)
            ends = position == starts[i + 1]
            if node >= 0:
                visits = hypothesis.data[node, TOTAL]
                count = hypothesis.data[node, END if ends else FIRST + flat[position]]
                if not ends:
                    node = hypothesis.following[node, flat[position]]
            bits -= np.log2((count + correction) / (visits + correction * (known + 1)))
            steps += 1
    return bits, steps, known
