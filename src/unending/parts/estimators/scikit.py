"""The scikit-learn face of a learner whose `transform` is a product with its components."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from unending.core import nbytes
from unending.parts.estimators.core import LinearCore

__all__ = ["LinearTransformer"]


class LinearTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of estimators that stand on a `LinearCore`; a subclass stores its parameters and defines `_core`.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features_in_)
        what has been learned; of the state as of the newest `fit` or `partial_fit`.
    state_
        the core's state. It is pickled and copied with the estimator; going on from a copy gives the same bits.
    n_samples_seen_ : int
        rows taken.
    """

    random_state: Any
    core_: Any
    state_: Any

    @abstractmethod
    def _core(self, n_rows: int) -> LinearCore:
        """The learner by this estimator's parameters; `n_rows` is the length of the stream, 0 if unknown."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Forget what was learned, learn from the rows `X` of shape (n_samples, n_features) in their order.

        If that raises (rows that are refused, Ctrl-C), the estimator is as it was before; so for `partial_fit`.
        """
        with self._all_or_nothing():
            rows = self._validated(X, reset=True)
            self._begin(rows, len(rows))
            self._continue(rows)
            return self.finalize()

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn from more rows of the stream."""
        first = not self.__sklearn_is_fitted__()
        with self._all_or_nothing():
            rows = self._validated(X, reset=first)
            if first:
                self._begin(rows, 0)
            return self._continue(rows)

    def finalize(self) -> Self:
        """Take in what waits for more rows, as it stands; the stream may still go on."""
        check_is_fitted(self)
        return self._publish(self.core_.finalize(self.state_))

    def transform(self, X: Any) -> np.ndarray:
        """The rows' coordinates along the components, of shape (n_samples, n_components)."""
        check_is_fitted(self)
        return self._codes(self._validated(X, reset=False))

    def memory_bytes(self) -> int:
        """Bytes of the learner's state; they do not depend on how many rows have been seen."""
        check_is_fitted(self)
        return nbytes(self.state_)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Attributes are put back if the block raises; a core never writes into an old state, so they are enough."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _validated(self, X: Any, reset: bool) -> np.ndarray:
        return validate_data(self, X, dtype=np.float64, reset=reset)

    def _begin(self, rows: np.ndarray, n_rows: int) -> None:
        core = self._core(n_rows)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        state = core.init(rows.shape[1], seed)
        self.core_, self.state_, self.n_samples_seen_ = core, state, 0

    def _continue(self, rows: np.ndarray) -> Self:
        state = self.core_.update(self.state_, rows)
        self.n_samples_seen_ += len(rows)
        return self._publish(state)

    def _publish(self, state: Any) -> Self:
        """Keep a state and show what it knows."""
        self.state_ = state
        self.components_ = self.core_.components(state)
        return self

    def _codes(self, rows: np.ndarray) -> np.ndarray:
        return rows @ self.components_.T

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "state_")
