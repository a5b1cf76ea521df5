"""Frank-Wolfe: linear minimisation over balls and the simplex, polar factors, the gap.

Matrices are float64 or complex128; `<A, B>` is the real part of the sum of `conj(a) b`.
"""

import numpy as np

from unending.core.errors import InputError

__all__ = [
    "POLAR_METHODS",
    "frank_wolfe_gap",
    "inner",
    "l1_lmo",
    "newton_schulz",
    "nuclear_lmo",
    "polar",
    "simplex_lmo",
    "spectral_lmo",
]

POLAR_METHODS = ("svd", "newton_schulz")

RANK = 1e-12
"""Singular values below this share of the largest are zero."""


def inner(one: np.ndarray, two: np.ndarray) -> float:
    """`<one, two>`."""
    return float(np.real(np.vdot(one, two)))


def polar(matrix: np.ndarray, complete: np.ndarray, method: str = "svd") -> np.ndarray:
    """The orthogonal (unitary) polar factor `U V^H` of a square matrix `U S V^H`.

    Where the matrix has not full rank, the factor is not unique: what is left free is taken from `complete`, as the
    polar factor of its part between the two null spaces. So the result depends on no choice of the SVD routine, and
    turning both matrices turns the result.

    Parameters
    ----------
    matrix, complete
        `[n, n]`.
    method
        `svd`, or `newton_schulz` (products only; by SVD where it does not converge).

    Raises
    ------
    InputError
        for another method.
    """
    if method not in POLAR_METHODS:
        raise InputError(f"the polar factor is taken by {' or '.join(POLAR_METHODS)}, not {method!r}")
    if method == "newton_schulz" and (found := newton_schulz(matrix)) is not None:
        return found
    largest = np.abs(matrix).max(initial=0.0)
    if largest == 0.0:
        left, _, right = np.linalg.svd(complete)
        return left @ right
    left, values, right = np.linalg.svd(matrix / largest)
    rank = int((values > RANK * values[0]).sum())
    if rank == len(values):
        return left @ right
    inner_left, _, inner_right = np.linalg.svd(left[:, rank:].conj().T @ complete @ right[rank:].conj().T)
    return left[:, :rank] @ right[:rank] + left[:, rank:] @ (inner_left @ inner_right) @ right[rank:]


def newton_schulz(matrix: np.ndarray, iterations: int = 30, tolerance: float = 1e-10) -> np.ndarray | None:
    """The polar factor by `X <- 1.5 X - 0.5 X X^H X`; None where `X X^H` is not the identity after the iterations."""
    size = np.linalg.norm(matrix)
    if not 0 < size < np.inf:
        return None
    factor = matrix / size
    identity = np.eye(len(matrix))
    for _ in range(iterations):
        square = factor @ factor.conj().T
        if np.abs(square - identity).max() <= tolerance:
            return factor
        factor = 1.5 * factor - 0.5 * square @ factor
    return None


def spectral_lmo(gradient: np.ndarray, complete: np.ndarray, method: str = "svd") -> np.ndarray:
    """The point of `||S||_2 <= 1` that minimises `<gradient, S>`: the polar factor of the negative gradient.

    The minimum is minus the nuclear norm. `complete` and `method` as for `polar`.
    """
    return polar(-gradient, complete, method)


def nuclear_lmo(gradient: np.ndarray, radius: float = 1.0) -> np.ndarray:
    """The point of `||S||_* <= radius` that minimises `<gradient, S>`, of rank 1: the top singular pair."""
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    return -radius * np.outer(left[:, 0], right[0])


def l1_lmo(gradient: np.ndarray, radius: float = 1.0) -> np.ndarray:
    """The point of `||s||_1 <= radius` that minimises `<gradient, s>`: one entry, of the largest magnitude's place."""
    point = np.zeros_like(gradient)
    place = int(np.abs(gradient).argmax())
    entry = gradient.flat[place]
    point.flat[place] = -radius * (entry / np.abs(entry) if entry else 1.0)
    return point


def simplex_lmo(gradient: np.ndarray, radius: float = 1.0) -> np.ndarray:
    """The point of `s >= 0, sum(s) = radius` that minimises `<gradient, s>`: the place of the least entry."""
    point = np.zeros_like(gradient)
    point.flat[int(gradient.argmin())] = radius
    return point


def frank_wolfe_gap(gradient: np.ndarray, point: np.ndarray, vertex: np.ndarray) -> float:
    """`<gradient, point - vertex>`; with the minimising vertex it is at least 0, and 0 only where nothing descends."""
    return inner(gradient, point - vertex)
