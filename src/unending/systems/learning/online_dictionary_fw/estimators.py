"""The scikit-learn estimator."""

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from unending.core.errors import InputError
from unending.parts.estimators.scikit import LinearTransformer
from unending.systems.learning.online_dictionary_fw.core import DictionarySettings

__all__ = ["OnlineOrthogonalDictionary", "thresholded"]


class OnlineOrthogonalDictionary(LinearTransformer):
    """An orthogonal dictionary in which rows are sparse, learned in one pass (Xue and Lau 2021, arXiv 2103.01484).

    The scale of the rows does not matter and there is no learning rate. Rows are not centred. Rows that fill no
    minibatch wait for the next `partial_fit`; `fit` and `finalize` take them in.

    Parameters
    ----------
    n_components : int or None
        None, or the number of features: the dictionary is square.
    p, batch_size, rho_exponent, gamma_exponent, rho_min, gamma_min, polar, start, precondition, dtype
        as for `DictionarySettings`. With `dtype="complex128"` rows may be complex.
    code : {"none", "hard", "soft"}
        what is done to codes: nothing, those up to `threshold` in magnitude set to 0, all drawn towards 0 by it.
    threshold : float
        of the codes, in units of the rows.
    random_state : int, RandomState or None
        seeds the first dictionary.

    Attributes
    ----------
    components_ : ndarray of shape (n_features_in_, n_features_in_)
        rows are multiplied by its transpose to give codes; orthogonal without preconditioning.
    mixing_ : ndarray of shape (n_features_in_, n_features_in_)
        the dictionary, atoms in columns.
    fw_gap_ : float
        the Frank-Wolfe gap at the newest step, by the averaged gradient.
    n_iter_ : int
        steps made.
    """

    n_features_in_: int

    def __init__(
        self,
        n_components: int | None = None,
        p: float = 3.0,
        batch_size: int = 1,
        rho_exponent: float = 0.5,
        gamma_exponent: float = 0.75,
        rho_min: float = 0.0,
        gamma_min: float = 0.0,
        polar: str = "svd",
        start: str = "random",
        precondition: int = 0,
        dtype: str = "float64",
        code: str = "none",
        threshold: float = 0.0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.p = p
        self.batch_size = batch_size
        self.rho_exponent = rho_exponent
        self.gamma_exponent = gamma_exponent
        self.rho_min = rho_min
        self.gamma_min = gamma_min
        self.polar = polar
        self.start = start
        self.precondition = precondition
        self.dtype = dtype
        self.code = code
        self.threshold = threshold
        self.random_state = random_state

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Rows of shape (n_samples, n_features_in_) from codes."""
        check_is_fitted(self)
        codes = np.asarray(X)
        if codes.ndim != 2 or codes.shape[1] != len(self.components_):
            raise InputError(f"codes have shape {codes.shape}, accepted is [n, {len(self.components_)}]")
        return codes @ self.mixing_.T

    def _core(self, n_rows: int) -> DictionarySettings:
        _check_code(self.code, self.threshold)
        return DictionarySettings(
            self.p,
            self.batch_size,
            self.rho_exponent,
            self.gamma_exponent,
            self.rho_min,
            self.gamma_min,
            self.polar,
            self.start,
            self.precondition,
            self.dtype,
        )

    def _begin(self, rows: np.ndarray, n_rows: int) -> None:
        if self.n_components not in (None, rows.shape[1]):
            raise InputError(
                f"n_components is {self.n_components}, the rows have {rows.shape[1]} features: the dictionary is square"
            )
        super()._begin(rows, n_rows)

    def _validated(self, X: Any, reset: bool) -> np.ndarray:
        if (self.dtype if reset else self.core_.dtype) != "complex128":
            return super()._validated(X, reset)
        rows = np.asarray(X, dtype=np.complex128)
        if rows.ndim != 2 or not rows.size or (not reset and rows.shape[1] != self.n_features_in_):
            raise InputError(
                f"rows have shape {rows.shape}, accepted is [n, features] of one width, not empty"
            )
        if not np.isfinite(rows).all():
            raise InputError("the rows hold NaN or infinity, accepted are finite numbers")
        self.n_features_in_ = rows.shape[1]
        return rows

    def _publish(self, state: Any) -> Self:
        super()._publish(state)
        self.mixing_ = self.core_.mixing(state)
        self.fw_gap_ = float(state.gap[0])
        self.n_iter_ = state.steps
        return self

    def _codes(self, rows: np.ndarray) -> np.ndarray:
        return thresholded(super()._codes(rows), self.code, self.threshold)


def thresholded(codes: np.ndarray, code: str, threshold: float) -> np.ndarray:
    """Codes after `none`, `hard` or `soft` thresholding; the phase of complex codes stays.

    Raises
    ------
    InputError
        for another `code`, or a negative threshold.
    """
    _check_code(code, threshold)
    if code == "none":
        return codes
    magnitudes = np.abs(codes)
    if code == "hard":
        return np.where(magnitudes > threshold, codes, 0)
    return codes * np.maximum(1 - threshold / np.maximum(magnitudes, np.finfo(float).tiny), 0)


def _check_code(code: str, threshold: float) -> None:
    if code not in ("none", "hard", "soft") or not threshold >= 0:
        raise InputError(
            f"code is {code!r} and threshold {threshold}; accepted are none, hard, soft, and 0 or more"
        )
