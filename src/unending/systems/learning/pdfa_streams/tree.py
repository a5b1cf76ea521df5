"""The prefix tree in arrays of fixed capacity: adding strings, and giving rows back."""

from typing import NamedTuple

import numpy as np
from numba import njit

from unending.parts.sketches.count_min import cell_of, row_seeds
from unending.parts.sketches.min_hash import permutations
from unending.systems.learning.pdfa_streams.settings import Settings

__all__ = ["Tree", "add_strings", "compact", "empty_tree", "find"]

NODES, REFINEMENTS, BATCHES, REFUSED, PRUNED, TABLES, ROWS, CELLS = range(8)
"""Places in `Tree.meta`: nodes in use, refinements kept from the last batch, batches learned, children that were not
created for want of room, nodes given back; sketches a node (k), rows (d) and cells (w) of each."""
PARENT, REP, RED, GROW, CHILD = range(5)
"""Columns of `Tree.links`. PARENT is -1 for the root and spare rows; REP is -1 for a representative, else the node it
was merged into; RED is the place in the order of red states from 1, 0 if not red; GROW is 1 where children may be
created; from CHILD on there is one column a symbol, -1 where there is no child."""
TOTAL, END, FIRST = range(3)
"""Places in a block of counts: entries, ends among them, then one cell a code."""
INDEPENDENT, CONDITIONAL, MINHASH = range(3)


class Tree(NamedTuple):
    """Prefix tree of N node rows over A symbols; row 0 is the root.

    Between batches of the new strategy nothing is merged. Few and wide arrays: what is counted adds in one loop.
    """

    links: np.ndarray
    """int32 `[N, 4 + A]`: see the columns above."""
    data: np.ndarray
    """int64 `[N, 2 + A + k (2 + d w)]`: blocks of counts. First the exact one: visits, ends, next symbols. Then k
    sketches: visits, strings that ended after exactly j - 1 more symbols, d rows of w cells of codes of the next j."""
    refinements: np.ndarray
    """int32 `[N, 2]`: (r, b) merged b into r; (-1, b) made b red. Of the last batch, in order."""
    codes: np.ndarray
    """int64 `[k, C]`: codes seen by any node, plus 1 (open addressing); C is 0 where d is 1 (see `merging`)."""
    seeds: np.ndarray
    """uint64 `[d]`: one hash function a row, the same in every node, so that tables add."""
    permutations: np.ndarray
    """int32 `[m, A]`: of MinHash."""
    meta: np.ndarray
    """int64 `[8]`: see above."""


def empty_tree(settings: Settings, seed: int) -> Tree:
    """A tree of a root that was never visited."""
    n, a = settings.nodes, settings.alphabet
    k, (d, w) = settings.tables, settings.sketch
    links = np.full((n, CHILD + a), -1, np.int32)
    links[:, [RED, GROW]] = 0
    links[0, RED] = 1
    meta = np.zeros(8, np.int64)
    meta[[NODES, TABLES, ROWS, CELLS]] = 1, k, d, w
    return Tree(
        links,
        np.zeros((n, 2 + a + k * (2 + d * w)), np.int64),
        np.zeros((n, 2), np.int32),
        np.zeros((k, settings.codes), np.int64),
        row_seeds(seed, d),
        permutations(seed, settings.minhash, a),
        meta,
    )


@njit(cache=True)
def find(links, node):  # type: ignore[no-untyped-def]
    """The representative of a node's state. No path is shortened: undo relies on the links as they were made."""
    while links[node, REP] >= 0:
        node = links[node, REP]
    return node


@njit(cache=True)
def _note_code(codes, j, code):  # type: ignore[no-untyped-def]
    size = codes.shape[1]
    if size == 0:
        return
    at = cell_of(code, np.uint64(j), size)
    for _ in range(size):
        if codes[j, at] == code + 1:
            return
        if codes[j, at] == 0:
            codes[j, at] = code + 1
            return
        at = (at + 1) % size


@njit(cache=True)
def _add_futures(tree, node, flat, position, end, mode, smallest):  # type: ignore[no-untyped-def]
    symbols = tree.links.shape[1] - CHILD
    base = np.int64(symbols + 1)
    rows, cells = tree.meta[ROWS], tree.meta[CELLS]
    hashes = len(smallest)
    for p in range(hashes):
        smallest[p] = base
    code = np.int64(0)
    block = FIRST + symbols
    for j in range(tree.meta[TABLES]):
        tree.data[node, block + TOTAL] += 1
        if position + j >= end:
            tree.data[node, block + END] += 1
            return
        symbol = flat[position + j]
        if mode == INDEPENDENT:
            code = np.int64(symbol)
        elif mode == CONDITIONAL:
            code = code * base + symbol + 1
        else:
            code = np.int64(0)
            for p in range(hashes):
                smallest[p] = min(smallest[p], np.int64(tree.permutations[p, symbol]))
                if p <= j:
                    code = code * base + smallest[p] + 1
        for row in range(rows):
            cell = cell_of(code, tree.seeds[row], cells)
            tree.data[node, block + FIRST + row * cells + cell] += 1
        _note_code(tree.codes, j, code)
        block += FIRST + rows * cells


@njit(cache=True)
def add_strings(tree, flat, starts, mode, everywhere, parent_size):  # type: ignore[no-untyped-def]
    """Count strings into the tree, in place.

    Parameters
    ----------
    tree
        `Tree`; where nodes are merged (old strategy), the walk goes from state to state.
    flat, starts
        int32 `[n]` symbols of all strings, int64 `[strings + 1]`: string i is `flat[starts[i]:starts[i + 1]]`.
    mode
        codes of futures: 0 independent, 1 conditional, 2 MinHash.
    everywhere
        children may be created below any node (first batch); else only where `GROW` is set.
    parent_size
        a node needs more visits than this to get a child.
    """
    smallest = np.zeros(tree.permutations.shape[0], np.int64)
    links, data, meta = tree.links, tree.data, tree.meta
    for i in range(len(starts) - 1):
        end = starts[i + 1]
        position = starts[i]
        node = np.int64(0)
        while True:
            data[node, TOTAL] += 1
            _add_futures(tree, node, flat, position, end, mode, smallest)
            if position == end:
                data[node, END] += 1
                break
            symbol = flat[position]
            data[node, FIRST + symbol] += 1
            following = np.int64(links[node, CHILD + symbol])
            if following < 0:
                if not (everywhere or links[node, GROW] > 0) or data[node, TOTAL] <= parent_size:
                    break
                if meta[NODES] == links.shape[0]:
                    meta[REFUSED] += 1
                    break
                following = meta[NODES]
                meta[NODES] += 1
                links[node, CHILD + symbol] = following
                links[following, PARENT] = node
            node = find(links, following)
            position += 1


@njit(cache=True)
def compact(tree, keep):  # type: ignore[no-untyped-def]
    """Give back the rows of nodes that are not kept, in place; the order of the others stays.

    `keep` is uint8 `[N]`. The root, and the parents of kept nodes, are kept; kept nodes are representatives.
    """
    links, data, meta, refinements = tree.links, tree.data, tree.meta, tree.refinements
    used = meta[NODES]
    place = np.full(used + 1, -1, np.int32)  # the last place stands for "none", which is -1
    kept = 0
    for node in range(used):
        if keep[node]:
            place[node] = kept
            kept += 1
    for node in range(used):
        to = place[node]
        if to < 0:
            continue
        for column in range(links.shape[1]):
            value = links[node, column]
            links[to, column] = place[value] if column >= CHILD or column == PARENT else value
        if to != node:
            for column in range(data.shape[1]):
                data[to, column] = data[node, column]
    for node in range(kept, used):
        for column in range(links.shape[1]):
            links[node, column] = 0 if column in (RED, GROW) else -1
        for column in range(data.shape[1]):
            data[node, column] = 0
    n = 0
    for each in range(meta[REFINEMENTS]):
        red, blue = refinements[each, 0], refinements[each, 1]
        refinements[each, 0] = refinements[each, 1] = 0
        if place[blue] >= 0 and (red < 0 or place[red] >= 0):
            refinements[n, 0], refinements[n, 1] = place[red], place[blue]
            n += 1
    meta[REFINEMENTS] = n
    meta[PRUNED] += used - kept
    meta[NODES] = kept
