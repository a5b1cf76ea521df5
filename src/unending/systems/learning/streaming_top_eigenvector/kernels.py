"""The loop over rows, compiled: light rows into the block sums, heavy rows into the store, and pruning back.

All arrays are those of `EigenvectorState` and are changed in place; the caller owns them. `naive.py` says the same
with lists and one row at a time.
"""

import numpy as np
from numba import njit

__all__ = ["absorb", "grid_absorb", "prune", "row_squares"]

# Rows of `vectors`: the three candidates, the sums of the running block, and Oja's vector.
LIGHT, COMBINED, HEAVY, LIGHT_SUM, COMBINED_SUM, OJA = range(6)
# Places in `reals`.
SQUARED, CLIPPED, EXCESS, OJA_ENERGY, ENERGY, QUOTIENT = 0, 1, 2, 3, 4, 7
"""`ENERGY + k` is the running block's light energy along candidate k, `QUOTIENT + k` what the last block found."""
REALS = 10
# Places in `counts`.
SEEN, STAGE_START, STAGE_LENGTH, BLOCK_START, STORED, HIGH_WATER, OVERFLOW, LIGHT_SEEN, BLOCKS, PICKED = (
    range(10)
)
COUNTS = 10

LONGEST = 1e200
"""Squared length of a vector above which it is set by its last step alone."""
CLIP = 8.0
"""A row counts towards the typical squared norm with at most so many times what is typical so far."""


@njit(cache=True, nogil=True)
def _dot(one: np.ndarray, two: np.ndarray) -> float:
    total = 0.0
    for j in range(one.shape[0]):
        total += one[j] * two[j]
    return total


@njit(cache=True, nogil=True)
def row_squares(rows: np.ndarray) -> np.ndarray:
    """Squared norms `[n]`, summed in one order whatever the number of rows; those below 1e-200 are zero."""
    squares = np.empty(rows.shape[0])
    for r in range(rows.shape[0]):
        square = _dot(rows[r], rows[r])
        squares[r] = 0.0 if square < 1e-200 else square
    return squares


@njit(cache=True, nogil=True)
def _apply_light(row: np.ndarray, weight: float, vectors: np.ndarray, reals: np.ndarray) -> None:
    light = combined = heavy = 0.0
    for j in range(row.shape[0]):
        light += row[j] * vectors[LIGHT, j]
        combined += row[j] * vectors[COMBINED, j]
        heavy += row[j] * vectors[HEAVY, j]
    reals[ENERGY + LIGHT] += weight * light * light
    reals[ENERGY + COMBINED] += weight * combined * combined
    reals[ENERGY + HEAVY] += weight * heavy * heavy
    light *= weight
    combined *= weight
    for j in range(row.shape[0]):
        vectors[LIGHT_SUM, j] += light * row[j]
        vectors[COMBINED_SUM, j] += combined * row[j]


@njit(cache=True, nogil=True)
def _offer(row: np.ndarray, uniform: float, reservoir: np.ndarray, counts: np.ndarray) -> None:
    """Algorithm R; `counts[LIGHT_SEEN]` already counts this row."""
    size = reservoir.shape[0]
    if size == 0:
        return
    place = counts[LIGHT_SEEN] - 1
    if place >= size:
        place = int(uniform * counts[LIGHT_SEEN])
    if place < size:
        reservoir[place] = row


@njit(cache=True, nogil=True)
def _take_out(
    k: int,
    vectors: np.ndarray,
    store: np.ndarray,
    norms: np.ndarray,
    places: np.ndarray,
    reals: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Row `k` of the store becomes a light row; the last stored row takes its place."""
    if places[k] > counts[BLOCK_START]:
        _apply_light(store[k], 1.0, vectors, reals)
    counts[LIGHT_SEEN] += 1
    last = counts[STORED] - 1
    store[k] = store[last]
    norms[k] = norms[last]
    places[k] = places[last]
    store[last] = 0.0
    norms[last] = 0.0
    places[last] = 0
    counts[STORED] = last


@njit(cache=True, nogil=True)
def prune(
    threshold: float,
    vectors: np.ndarray,
    store: np.ndarray,
    norms: np.ndarray,
    places: np.ndarray,
    reals: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Stored rows whose squared norm fell below the threshold become light rows (see `_take_out`)."""
    k = 0
    while k < counts[STORED]:
        if norms[k] < threshold:
            _take_out(k, vectors, store, norms, places, reals, counts)
        else:
            k += 1


@njit(cache=True, nogil=True)
def absorb(
    rows: np.ndarray,
    squares: np.ndarray,
    uniforms: np.ndarray,
    vectors: np.ndarray,
    store: np.ndarray,
    norms: np.ndarray,
    places: np.ndarray,
    reservoir: np.ndarray,
    reals: np.ndarray,
    counts: np.ndarray,
    share: float,
    sample: float,
    unthinned: int,
    with_oja: bool,
) -> None:
    """Take rows `[n, d]` of one block.

    Parameters
    ----------
    squares
        their squared norms.
    uniforms
        `[n, 2]` draws for thinning and for the reservoir; `[0, 2]` where neither is on.
    share
        a row is heavy from this share of the estimated squared Frobenius norm.
    sample
        rows that thinning aims at, 0 for no thinning; the first `unthinned` rows are never thinned.
    with_oja
        whether Oja's vector is in use.
    """
    capacity = store.shape[0]
    draws = uniforms.shape[0] > 0
    for r in range(rows.shape[0]):
        row = rows[r]
        square = squares[r]
        before = counts[SEEN]
        counts[SEEN] = before + 1
        if square == 0.0:
            continue
        length = float(counts[STAGE_START] + counts[STAGE_LENGTH])
        scale = length / max(before, 1)
        estimate = reals[SQUARED] * scale  # of the squared Frobenius norm, from the other rows
        threshold = share * (reals[CLIPPED] * scale + reals[EXCESS])
        clipped = square
        if reals[CLIPPED] > 0.0:
            clipped = min(square, CLIP * reals[CLIPPED] / before)
        reals[CLIPPED] += clipped
        reals[EXCESS] += square - clipped
        reals[SQUARED] += square
        if with_oja:
            along = _dot(row, vectors[OJA])
            reals[OJA_ENERGY] += along * along
            along *= row.shape[0] / reals[SQUARED]
            size = 0.0
            for j in range(row.shape[0]):
                vectors[OJA, j] += along * row[j]
                size += vectors[OJA, j] * vectors[OJA, j]
            size = np.sqrt(size)
            for j in range(row.shape[0]):
                vectors[OJA, j] /= size
        if capacity > 0 and square >= threshold:
            if counts[STORED] == capacity:
                # The other rows' estimate may have risen since they were stored: prune before giving anything up.
                prune(
                    share * reals[SQUARED] * length / (before + 1),
                    vectors,
                    store,
                    norms,
                    places,
                    reals,
                    counts,
                )
            if counts[STORED] == capacity:
                counts[OVERFLOW] += 1
                least = 0
                for k in range(1, capacity):
                    if norms[k] < norms[least]:
                        least = k
                if norms[least] < square:
                    _take_out(least, vectors, store, norms, places, reals, counts)
            if counts[STORED] < capacity:
                k = counts[STORED]
                store[k] = row
                norms[k] = square
                places[k] = before + 1
                counts[STORED] = k + 1
                counts[HIGH_WATER] = max(counts[HIGH_WATER], counts[STORED])
                continue
        counts[LIGHT_SEEN] += 1
        if draws:
            _offer(row, uniforms[r, 1], reservoir, counts)
        keep = 1.0
        if sample > 0.0 and before >= unthinned and estimate > 0.0:
            keep = min(1.0, sample * square / estimate)
        if keep == 1.0 or uniforms[r, 0] < keep:
            _apply_light(row, 1.0 / keep, vectors, reals)


@njit(cache=True, nogil=True)
def grid_absorb(
    rows: np.ndarray, squares: np.ndarray, rates: np.ndarray, vectors: np.ndarray, growth: np.ndarray
) -> None:
    """Oja's rule with fixed rates: `vectors` `[g, d]` turn at length 1, `growth` `[g]` sums log-lengths."""
    for r in range(rows.shape[0]):
        row = rows[r]
        if squares[r] == 0.0:
            continue
        for g in range(rates.shape[0]):
            vector = vectors[g]
            along = rates[g] * _dot(row, vector)
            size = 0.0
            for j in range(row.shape[0]):
                vector[j] += along * row[j]
                size += vector[j] * vector[j]
            if size < LONGEST:
                size = np.sqrt(size)
                growth[g] += np.log(size)
                for j in range(row.shape[0]):
                    vector[j] /= size
            else:  # beside such a step the old vector is nothing, and the sum may have overflowed
                size = np.sqrt(squares[r])
                growth[g] += np.log(np.abs(along)) + np.log(size)
                for j in range(row.shape[0]):
                    vector[j] = np.sign(along) * (row[j] / size)
