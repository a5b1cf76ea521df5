"""Merging states: the test, the score, the determinising fold with tests inside, and its exact undo.

Tables of one row are compared cell by cell: codes that share a cell have one estimate, so this is the comparison of
every code that either state has seen, and no sets of codes need to be kept in states (and undone). With more rows an
estimate is the least of several cells; then the codes seen by any node are compared, of which the tree holds a bounded
number for each table (`Tree.codes`, as upstream, whose set is shared by all nodes too).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from unending.parts.sketches.count_min import cell_of
from unending.systems.learning.pdfa_streams.settings import Settings
from unending.systems.learning.pdfa_streams.tree import (
    CELLS,
    CHILD,
    END,
    FIRST,
    RED,
    REP,
    ROWS,
    TABLES,
    TOTAL,
    find,
)

__all__ = ["Rule", "consistent", "fold", "rule_of", "similarity", "undo"]


class Rule(NamedTuple):
    """What decides a merge, as plain numbers for compiled functions."""

    exact: bool
    coefficient: float
    min_state: int
    symbol_count: int
    sink: int
    trusted: int
    compare_ends: bool


def rule_of(settings: Settings) -> Rule:
    """The rule that settings describe."""
    return Rule(
        settings.heuristic == "alergia",
        settings.coefficient,
        settings.min_state,
        settings.symbol_count,
        settings.sink,
        settings.trusted,
        settings.compare_ends,
    )


@njit(cache=True)
def _estimate(data, node, first, cells, seeds, code):  # type: ignore[no-untyped-def]
    least = np.int64(2**62)
    for row in range(len(seeds)):
        least = min(least, data[node, first + row * cells + cell_of(code, seeds[row], cells)])
    return least


@njit(cache=True)
def _alike(x, y, n, m, limit):  # type: ignore[no-untyped-def]
    return abs(x / n - y / m) < limit


@njit(cache=True)
def consistent(tree, rule, r, b):  # type: ignore[no-untyped-def]
    """Whether the futures of two nodes (with what was merged into them) may come from one distribution.

    For every table and every code, and for the end: the difference of relative frequencies is below
    `coefficient * (1 / sqrt(n_r) + 1 / sqrt(n_b))`. ALERGIA: the same of the exact counts of next symbols.
    """
    data = tree.data
    if data[r, TOTAL] <= rule.min_state or data[b, TOTAL] <= rule.min_state:
        return True
    symbols, rows, cells = tree.links.shape[1] - CHILD, tree.meta[ROWS], tree.meta[CELLS]
    block = 0 if rule.exact else FIRST + symbols
    width = symbols if rule.exact else rows * cells
    for j in range(1 if rule.exact else tree.meta[TABLES]):
        n, m = data[r, block + TOTAL], data[b, block + TOTAL]
        first = block + FIRST
        block += FIRST + width
        if n == 0 or m == 0:
            continue
        limit = rule.coefficient * (1 / np.sqrt(n) + 1 / np.sqrt(m))
        if rule.compare_ends and not _alike(data[r, first - 1], data[b, first - 1], n, m, limit):
            return False
        if rule.exact or rows == 1:
            rare_r = rare_b = np.int64(0)
            rare = rule.symbol_count if rule.exact else 0
            for cell in range(first, first + width):
                x, y = data[r, cell], data[b, cell]
                if x < rare and y < rare:
                    rare_r += x
                    rare_b += y
                elif not _alike(x, y, n, m, limit):
                    return False
            if not _alike(rare_r, rare_b, n, m, limit):
                return False
        else:
            for code in tree.codes[j]:
                if code > 0:
                    x = _estimate(data, r, first, cells, tree.seeds, code - 1)
                    y = _estimate(data, b, first, cells, tree.seeds, code - 1)
                    if not _alike(x, y, n, m, limit):
                        return False
    return True


@njit(cache=True)
def similarity(tree, rule, r, b):  # type: ignore[no-untyped-def]
    """Score of a merge: sum over the tables (ALERGIA: the one of exact counts) of the cosine of both, ends included."""
    data = tree.data
    symbols, rows, cells = tree.links.shape[1] - CHILD, tree.meta[ROWS], tree.meta[CELLS]
    block = 0 if rule.exact else FIRST + symbols
    width = symbols if rule.exact else rows * cells
    score = 0.0
    for _ in range(1 if rule.exact else tree.meta[TABLES]):
        dot, left, right = 0.0, 0.0, 0.0
        for cell in range(block + END, block + FIRST + width):
            x, y = float(data[r, cell]), float(data[b, cell])
            dot += x * y
            left += x * x
            right += y * y
        if left > 0 and right > 0:
            score += dot / np.sqrt(left * right)
        block += FIRST + width
    return score


@njit(cache=True)
def undo(tree, log, end, mark):  # type: ignore[no-untyped-def]
    """Take back the entries `mark..end` of a log, newest first; returns `mark`.

    A merge gave r those subtrees of b that r had not: exactly these are now children of both, and go.
    """
    links, data = tree.links, tree.data
    for at in range(end - 1, mark - 1, -1):
        r, b = log[at, 0], log[at, 1]
        if r < 0:
            links[b, RED] = 0
            continue
        for column in range(CHILD, links.shape[1]):
            if links[b, column] >= 0 and links[b, column] == links[r, column]:
                links[r, column] = -1
        for column in range(data.shape[1]):
            data[r, column] -= data[b, column]
        links[b, REP] = -1
    return mark


@njit(cache=True)
def fold(tree, rule, r, b, test, log, mark, stack):  # type: ignore[no-untyped-def]
    """Merge node b and its subtree into r so that no state has two successors by one symbol, in place.

    Pairs are met depth first, symbols in order. With `test`, each pair is tested on all that was merged before it, and
    at the first that is not consistent everything is undone.

    Returns
    -------
    int
        the end of the log, whose entries (r, b) int32 from `mark` on are the merges made; -1 if a test failed.
    """
    links, data = tree.links, tree.data
    end, depth = mark, 0
    into, below = np.int64(r), np.int64(b)
    while True:
        if test and not consistent(tree, rule, into, below):
            undo(tree, log, end, mark)
            return -1
        for column in range(data.shape[1]):
            data[into, column] += data[below, column]
        links[below, REP] = into
        log[end, 0], log[end, 1] = into, below
        end += 1
        stack[depth, 0], stack[depth, 1], stack[depth, 2] = into, below, CHILD
        depth += 1
        below = np.int64(-1)
        while depth > 0 and below < 0:
            top, bottom, column = stack[depth - 1, 0], stack[depth - 1, 1], stack[depth - 1, 2]
            if column == links.shape[1]:
                depth -= 1
                continue
            stack[depth - 1, 2] += 1
            if links[bottom, column] >= 0:
                if links[top, column] < 0:
                    links[top, column] = links[bottom, column]
                else:
                    into, below = find(links, links[top, column]), find(links, links[bottom, column])
        if below < 0:
            return end
