"""The top eigenvector of a randomly ordered stream as an explicit state and functions on it.

Each block of the stream is one power step on its light rows; heavy rows are stored. Three candidates are kept: the
power iteration on light rows, the top direction of the stored rows, and a power iteration on both.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, log

import numpy as np

from unending.core import fork, nbytes, state
from unending.core.errors import InputError
from unending.core.random import philox
from unending.parts.numerics.power import canonical_sign, normalised, power_iterations, top_right_singular
from unending.systems.learning.streaming_top_eigenvector import kernels as at
from unending.systems.learning.streaming_top_eigenvector.rows import squared_norms, uniforms

__all__ = ["CANDIDATES", "EigenvectorState", "Estimate", "Settings"]

CANDIDATES = ("light", "combined", "heavy")
"""In the order of the state's vectors."""
_REFINEMENTS = 5


@state
class EigenvectorState:
    """All that is known of the rows so far; `kernels.py` names the places."""

    vectors: np.ndarray
    """float64 `[6, d]`: candidates light, combined, heavy; block sums light, combined; Oja's vector."""
    store: np.ndarray
    """float64 `[capacity, d]`, the heavy rows."""
    norms: np.ndarray
    """float64 `[capacity]`, their squared norms."""
    places: np.ndarray
    """int64 `[capacity]`, their positions in the stream, from 1; 0 is a free place."""
    reservoir: np.ndarray
    """float64 `[reservoir, d]`, a uniform sample of the light rows."""
    reals: np.ndarray
    counts: np.ndarray
    seed: int


@dataclass(frozen=True)
class Estimate:
    """What a state says of the top direction."""

    direction: np.ndarray
    """float64 `[d]`, length 1, its entry of largest magnitude positive."""
    kind: str
    """`light`, `combined`, `heavy`, or `oja` where there is nothing to pick by: before two blocks have ended."""
    mean_square: float
    """Estimate of `sigma_1^2 / n`, the mean of `<a, v>^2` over rows."""


@dataclass(frozen=True)
class Settings:
    """How the eigenvector is estimated (Kacham and Woodruff 2024, arXiv 2412.11963).

    Parameters
    ----------
    n_rows
        length of the stream; 0 if unknown: blocks then double in size each `n_blocks` of them.
    n_blocks
        power steps over the stream; 0 takes `max(6, ceil(2.5 ln d))`. With 1 there is nothing to pick by, and the
        answer is a single pass of Oja's rule.
    heavy_factor
        a row is heavy if its squared norm is at least `heavy_factor / d` of the squared Frobenius norm.
    max_heavy
        rows the store holds; -1 takes d, 0 switches the store off (plain block power).
    thinning
        light rows are sampled by squared norm, `thinning * d * ln(d)^2` of the whole stream; 0 keeps all. What is
        saved are the products of a row, never the look at its norm.
    reservoir
        light rows kept as a uniform sample for the final refinement of the combined candidate.
    combine
        `auto` picks by Rayleigh quotient on the newest block; else the candidate of that name.

    Raises
    ------
    InputError
        for a value outside what is said above.
    """

    n_rows: int = 0
    n_blocks: int = 0
    heavy_factor: float = 0.3
    max_heavy: int = -1
    thinning: float = 0.0
    reservoir: int = 0
    combine: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("n_rows", 0), ("n_blocks", 0), ("max_heavy", -1), ("reservoir", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, accepted is {least} or more")
        if not (self.heavy_factor > 0 and np.isfinite(self.heavy_factor) and 0 <= self.thinning < np.inf):
            raise InputError(
                "heavy_factor is a finite positive number, thinning a finite number of 0 or more"
            )
        if self.combine not in ("auto", *CANDIDATES):
            raise InputError(f"combine is {self.combine!r}, accepted are auto, {', '.join(CANDIDATES)}")

    def blocks(self, width: int) -> int:
        """Power steps of one stage."""
        return self.n_blocks or max(6, ceil(2.5 * log(width)))

    def capacity(self, width: int) -> int:
        """Heavy rows that have room."""
        return width if self.max_heavy < 0 else self.max_heavy

    def first_stage(self, width: int) -> int:
        """Rows until the first doubling: as many as are known, or enough that a typical row is not heavy."""
        return self.n_rows or max(16 * self.blocks(width), ceil(4 * width / self.heavy_factor))

    def init(self, width: int, seed: int = 0) -> EigenvectorState:
        """Before the first row of `width` numbers."""
        if width < 1:
            raise InputError(f"rows have {width} columns, accepted is 1 or more")
        vectors = np.zeros((6, width))
        vectors[[at.LIGHT, at.COMBINED, at.OJA]] = normalised(philox(seed, 0, 1).standard_normal(width))
        counts = np.zeros(at.COUNTS, dtype=np.int64)
        counts[at.STAGE_LENGTH], counts[at.PICKED] = self.first_stage(width), -1
        capacity = self.capacity(width)
        return EigenvectorState(
            vectors,
            np.zeros((capacity, width)),
            np.zeros(capacity),
            np.zeros(capacity, dtype=np.int64),
            np.zeros((self.reservoir, width)),
            np.zeros(at.REALS),
            counts,
            seed,
        )

    def update(self, old: EigenvectorState, rows: np.ndarray) -> EigenvectorState:
        """Take rows, float64 `[n, d]`; however they are cut into calls, the result is the same to the last bit.

        Raises
        ------
        InputError
            if a row is not finite or its norm is above 1e100; nothing has changed then.
        """
        rows = np.require(rows, np.float64, ["C", "W"])  # a read-only array would be compiled for anew
        squares = squared_norms(rows)
        new = fork(old)
        done = 0
        while done < len(rows):
            upto = min(len(rows), done + self.block_end(new) - int(new.counts[at.SEEN]))
            self._absorb(new, rows[done:upto], squares[done:upto])
            done = upto
            if new.counts[at.SEEN] == self.block_end(new, begun=True):
                self._close(new)
        return new

    def block_end(self, now: EigenvectorState, begun: bool = False) -> int:
        """Position after the last row of the running block (`begun`: of the one the newest row is in)."""
        counts, n_blocks = now.counts, self.blocks(now.vectors.shape[1])
        start, length = int(counts[at.STAGE_START]), int(counts[at.STAGE_LENGTH])
        seen = int(counts[at.SEEN]) - begun
        k = (seen - start) * n_blocks // length - 1
        while (end := start + (k + 1) * length // n_blocks) <= seen:
            k += 1
        return end

    def _absorb(self, new: EigenvectorState, rows: np.ndarray, squares: np.ndarray) -> None:
        width = rows.shape[1]
        draws = self.thinning > 0 or self.reservoir > 0
        drawn = uniforms(new.seed, int(new.counts[at.SEEN]), len(rows)) if draws else np.zeros((0, 2))
        at.absorb(
            rows,
            squares,
            drawn,
            new.vectors,
            new.store,
            new.norms,
            new.places,
            new.reservoir,
            new.reals,
            new.counts,
            self.heavy_factor / width,
            self.thinning * width * log(max(width, 2)) ** 2,
            self.first_stage(width) // self.blocks(width),
            self._falls_back(new),
        )

    def _falls_back(self, now: EigenvectorState) -> bool:
        n_blocks = self.blocks(now.vectors.shape[1])
        return bool(n_blocks == 1 or now.counts[at.SEEN] < n_blocks or now.counts[at.BLOCKS] < 2)

    def _close(self, new: EigenvectorState) -> None:
        """End the running block: prune, judge the candidates on it, take the power steps; changes `new` in place."""
        counts, reals, vectors = new.counts, new.reals, new.vectors
        seen, width = int(counts[at.SEEN]), vectors.shape[1]
        scale = float(counts[at.STAGE_START] + counts[at.STAGE_LENGTH]) / seen
        threshold = self.heavy_factor / width * reals[at.SQUARED] * scale
        at.prune(threshold, vectors, new.store, new.norms, new.places, reals, counts)
        stored = new.store[: counts[at.STORED]]
        block = (seen - int(counts[at.BLOCK_START])) / seen
        if counts[at.BLOCKS] > 0:
            for k in range(len(CANDIDATES)):
                along = stored @ vectors[k]
                reals[at.QUOTIENT + k] = (along @ along + reals[at.ENERGY + k] / block) / seen
            counts[at.PICKED] = int(reals[at.QUOTIENT : at.QUOTIENT + 3].argmax())
        both = vectors[at.COMBINED_SUM] + block * (stored.T @ (stored @ vectors[at.COMBINED]))
        for k, moved in ((at.LIGHT, vectors[at.LIGHT_SUM]), (at.COMBINED, both)):
            if moved.any():
                vectors[k] = normalised(moved)
        vectors[at.HEAVY] = top_right_singular(stored) if len(stored) else 0.0
        vectors[at.LIGHT_SUM : at.COMBINED_SUM + 1] = 0.0
        reals[at.ENERGY : at.ENERGY + 3] = 0.0
        counts[at.BLOCK_START] = seen
        counts[at.BLOCKS] += 1
        if seen == counts[at.STAGE_START] + counts[at.STAGE_LENGTH]:
            counts[at.STAGE_START] = counts[at.STAGE_LENGTH] = seen

    def finalize(self, old: EigenvectorState) -> EigenvectorState:
        """End the running block early if at least half of it has come; rows may follow."""
        new = fork(old)
        seen, start = int(new.counts[at.SEEN]), int(new.counts[at.BLOCK_START])
        if seen > start and 2 * (seen - start) >= self.block_end(new) - start:
            self._close(new)
        return new

    def estimate(self, now: EigenvectorState) -> Estimate:
        """The direction as of the last block that ended; the state is only read."""
        counts, reals = now.counts, now.reals
        seen = max(int(counts[at.SEEN]), 1)
        stored = now.store[: counts[at.STORED]]
        if len(stored) and counts[at.LIGHT_SEEN] == 0 and self.combine in ("auto", "heavy"):
            direction = top_right_singular(stored)  # every row is stored: this is exact
            along = stored @ direction
            return Estimate(direction, "heavy", float(along @ along) / seen)
        if self.combine == "auto" and self._falls_back(now):
            return Estimate(canonical_sign(now.vectors[at.OJA]), "oja", float(reals[at.OJA_ENERGY]) / seen)
        picked = int(counts[at.PICKED]) if self.combine == "auto" else CANDIDATES.index(self.combine)
        kind = CANDIDATES[picked]
        return Estimate(self.candidate(now, kind), kind, float(reals[at.QUOTIENT + picked]))

    def components(self, now: EigenvectorState) -> np.ndarray:
        """The estimated direction, `[1, d]`."""
        return self.estimate(now).direction[None]

    def widen(self, old: EigenvectorState, width: int) -> EigenvectorState:
        """The state for rows of `width` columns, more than before: the new ones begin as at `init`, sums at 0."""
        new, had = self.init(width, old.seed), old.vectors.shape[1]
        for ours, theirs in (
            (new.vectors, old.vectors),
            (new.store, old.store),
            (new.reservoir, old.reservoir),
        ):
            ours[: len(theirs), :had] = theirs
        for k in (at.LIGHT, at.COMBINED, at.OJA):
            new.vectors[k] = normalised(new.vectors[k])
        new.norms[: len(old.norms)], new.places[: len(old.places)] = old.norms, old.places
        return replace(new, reals=old.reals.copy(), counts=old.counts.copy())

    def candidate(self, now: EigenvectorState, kind: str) -> np.ndarray:
        """One candidate, float64 `[d]`; zero where there is none (no heavy rows). The combined one is refined."""
        vector = now.vectors[CANDIDATES.index(kind)]
        held = min(len(now.reservoir), int(now.counts[at.LIGHT_SEEN]))
        if kind == "combined" and held:
            apply = self._sampled(now.store[: now.counts[at.STORED]], now.reservoir[:held], now)
            vector = power_iterations(apply, vector, _REFINEMENTS)
        return canonical_sign(vector)

    def _sampled(
        self, stored: np.ndarray, sample: np.ndarray, now: EigenvectorState
    ) -> Callable[[np.ndarray], np.ndarray]:
        weight = int(now.counts[at.LIGHT_SEEN]) / len(sample)
        return lambda v: stored.T @ (stored @ v) + weight * (sample.T @ (sample @ v))

    def bits(self, now: EigenvectorState) -> int:
        """Bits of state in use: 64 a number; free places of the store and the reservoir are not counted."""
        width = now.vectors.shape[1]
        rows = int(now.counts[at.STORED]), min(len(now.reservoir), int(now.counts[at.LIGHT_SEEN]))
        numbers = now.vectors.size + rows[0] * (width + 2) + rows[1] * width + at.REALS + at.COUNTS + 1
        return 64 * numbers

    def nbytes(self, width: int) -> int:
        """Bytes of a state, at all times."""
        return nbytes(self.init(width))
