"""scikit-learn estimators: the method, block power without its heavy rows, and the methods it is measured against."""

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from unending.parts.estimators.scikit import LinearTransformer
from unending.systems.learning.streaming_top_eigenvector.baselines import FrequentDirectionsCore, OjaGridCore
from unending.systems.learning.streaming_top_eigenvector.core import CANDIDATES, Settings
from unending.systems.learning.streaming_top_eigenvector.kernels import HIGH_WATER, OVERFLOW, STORED

__all__ = ["BlockPower", "FrequentDirections", "OjaGrid", "RandomOrderTopEigenvector"]


class RandomOrderTopEigenvector(LinearTransformer):
    """The top right singular vector of rows that come once, in random order (Kacham and Woodruff 2024, 2412.11963).

    Rows are not centred. `fit` knows the length of the stream; `partial_fit` needs it as `n_rows`, or doubles its
    blocks. Order matters: rows sorted by norm or by cluster break the assumption (see the limits on the docs page).

    Parameters
    ----------
    n_rows, n_blocks, max_heavy : int or None
        as for `Settings`; None leaves it to the rules there.
    heavy_factor, thinning, reservoir, combine
        as for `Settings`.
    random_state : int, RandomState or None
        seeds the first direction, thinning and the reservoir.

    Attributes
    ----------
    components_ : ndarray of shape (1, n_features_in_)
        the direction as of the last block that ended, its entry of largest magnitude positive.
    kind_ : str
        which candidate that is: `light`, `combined`, `heavy`, or `oja` until two blocks have ended.
    candidates_ : dict of str to ndarray
        all three.
    explained_variance_ : ndarray of shape (1,)
        estimate of the mean squared projection of a row, `sigma_1^2 / n`.
    n_heavy_, high_water_, overflow_ : int
        rows in the store, the most there were, and heavy rows that found it full.
    state_bits_ : int
        bits of state in use.
    """

    def __init__(
        self,
        n_rows: int | None = None,
        n_blocks: int | None = None,
        heavy_factor: float = 0.3,
        max_heavy: int | None = None,
        thinning: float = 0.0,
        reservoir: int = 0,
        combine: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.n_rows = n_rows
        self.n_blocks = n_blocks
        self.heavy_factor = heavy_factor
        self.max_heavy = max_heavy
        self.thinning = thinning
        self.reservoir = reservoir
        self.combine = combine
        self.random_state = random_state

    def _core(self, n_rows: int) -> Settings:
        return Settings(
            n_rows=self.n_rows or n_rows,
            n_blocks=self.n_blocks or 0,
            heavy_factor=self.heavy_factor,
            max_heavy=-1 if self.max_heavy is None else self.max_heavy,
            thinning=self.thinning,
            reservoir=self.reservoir,
            combine=self.combine,
        )

    def _publish(self, state: Any) -> Self:
        super()._publish(state)
        estimate = self.core_.estimate(state)
        self.kind_ = estimate.kind
        self.explained_variance_ = np.array([estimate.mean_square])
        self.n_heavy_, self.high_water_, self.overflow_ = (
            int(state.counts[place]) for place in (STORED, HIGH_WATER, OVERFLOW)
        )
        self.state_bits_ = self.core_.bits(state)
        return self

    @property
    def candidates_(self) -> dict[str, np.ndarray]:
        """The three candidates, each of shape (n_features_in_,); zero where there is none."""
        check_is_fitted(self)
        return {kind: self.core_.candidate(self.state_, kind) for kind in CANDIDATES}


class BlockPower(LinearTransformer):
    """Streaming block power without heavy rows (Mitliagkas, Caramanis, Jain 2013, arXiv 1307.0032), one direction.

    Parameters
    ----------
    n_rows, n_blocks : int or None
        as for `RandomOrderTopEigenvector`.
    random_state : int, RandomState or None
        seeds the first direction.

    Attributes
    ----------
    components_ : ndarray of shape (1, n_features_in_)
        the direction as of the last block that ended.
    state_bits_ : int
        bits of state in use.
    """

    def __init__(
        self, n_rows: int | None = None, n_blocks: int | None = None, random_state: Any = None
    ) -> None:
        self.n_rows = n_rows
        self.n_blocks = n_blocks
        self.random_state = random_state

    def _core(self, n_rows: int) -> Settings:
        return Settings(
            n_rows=self.n_rows or n_rows, n_blocks=self.n_blocks or 0, max_heavy=0, combine="light"
        )

    def _publish(self, state: Any) -> Self:
        super()._publish(state)
        self.state_bits_ = self.core_.bits(state)
        return self


class OjaGrid(LinearTransformer):
    """Oja's rule on a grid of fixed rates with the growth test (Price and Xun, FOCS 2024): any order of rows.

    Parameters
    ----------
    low, high, growth
        as for `OjaGridCore`; no knowledge of the answer enters.
    random_state : int, RandomState or None
        seeds the first direction.

    Attributes
    ----------
    components_ : ndarray of shape (1, n_features_in_)
        the copy that the growth test chooses.
    copies_ : ndarray of shape (copies, n_features_in_)
        every copy, by rising rate.
    growth_ : ndarray of shape (copies,)
        the log-growth of each.
    state_bits_ : int
        bits of state in use.
    """

    def __init__(self, low: int = -24, high: int = 4, growth: float = 4.0, random_state: Any = None) -> None:
        self.low = low
        self.high = high
        self.growth = growth
        self.random_state = random_state

    def _core(self, n_rows: int) -> OjaGridCore:
        return OjaGridCore(self.low, self.high, self.growth)

    def _publish(self, state: Any) -> Self:
        super()._publish(state)
        self.copies_, self.growth_ = state.vectors.copy(), state.growth.copy()
        self.state_bits_ = self.core_.bits(state)
        return self


class FrequentDirections(LinearTransformer):
    """The top direction of a Frequent Directions sketch (Liberty 2013, arXiv 1206.0594): any order of rows.

    Parameters
    ----------
    size : int
        directions that survive a shrinking; the sketch has twice as many rows.
    random_state
        unused; the method draws nothing.

    Attributes
    ----------
    components_ : ndarray of shape (1, n_features_in_)
        the sketch's top right singular vector.
    state_bits_ : int
        bits of state in use.
    """

    def __init__(self, size: int = 10, random_state: Any = None) -> None:
        self.size = size
        self.random_state = random_state

    def _core(self, n_rows: int) -> FrequentDirectionsCore:
        return FrequentDirectionsCore(self.size)

    def _publish(self, state: Any) -> Self:
        super()._publish(state)
        self.state_bits_ = self.core_.bits(state)
        return self
