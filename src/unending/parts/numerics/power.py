"""Leading directions: exact, by power steps, by Lanczos; and the sign that makes two of them comparable."""

from collections.abc import Callable

import numpy as np

__all__ = [
    "canonical_sign",
    "correlation",
    "lanczos_top",
    "normalised",
    "power_iterations",
    "top_right_singular",
]

Apply = Callable[[np.ndarray], np.ndarray]
"""A symmetric positive semi-definite matrix as the function `v -> A v` on float64 `[d]`."""

DENSE = 256
"""Up to this size of the smaller Gram matrix the exact eigensolver is the faster way."""


def normalised(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1; the zero vector stays as it is. Huge and tiny entries neither overflow nor vanish."""
    largest = np.abs(vector).max(initial=0.0)
    if largest == 0.0:
        return vector.copy()
    scaled = vector / largest
    return scaled / np.linalg.norm(scaled)


def canonical_sign(vector: np.ndarray) -> np.ndarray:
    """The vector or its negative, whichever has its entry of largest magnitude (the first of them) positive."""
    return -vector if vector.size and vector[np.abs(vector).argmax()] < 0 else vector.copy()


def correlation(one: np.ndarray, two: np.ndarray) -> float:
    """`<u, v>^2` of two directions, in [0, 1]; signs and lengths do not matter."""
    return float(normalised(one) @ normalised(two)) ** 2


def power_iterations(apply: Apply, start: np.ndarray, steps: int) -> np.ndarray:
    """`steps` power steps from `start`; where the matrix sends a direction to zero, that direction is kept."""
    vector = normalised(start)
    for _ in range(steps):
        moved = normalised(apply(vector))
        if not moved.any():
            break
        vector = moved
    return vector


def lanczos_top(apply: Apply, start: np.ndarray, steps: int = 40) -> np.ndarray:
    """The top eigenvector `[d]` out of the Krylov space of `start`, every basis vector re-orthogonalised twice.

    Memory is `steps * d` numbers while it runs.
    """
    basis = [normalised(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(steps, len(start))):
        moved = apply(basis[-1])
        diagonal.append(float(moved @ basis[-1]))
        stacked = np.array(basis)
        for _ in range(2):
            moved = moved - stacked.T @ (stacked @ moved)
        size = float(np.linalg.norm(moved))
        if size <= 1e-12 * max(1e-300, max(np.abs(diagonal))):
            break
        beside.append(size)
        basis.append(moved / size)
    n = len(diagonal)
    tridiagonal = np.diag(diagonal) + np.diag(beside[: n - 1], 1) + np.diag(beside[: n - 1], -1)
    ritz = np.linalg.eigh(tridiagonal)[1][:, -1]
    return normalised(ritz @ np.array(basis[:n]))


def top_right_singular(rows: np.ndarray) -> np.ndarray:
    """The top right singular vector `[d]` of float64 rows `[h, d]`, with the canonical sign; zero if all rows are.

    Through the smaller Gram matrix up to `DENSE`, by Lanczos beyond it.
    """
    h, d = rows.shape
    largest = np.abs(rows).max(initial=0.0)
    if largest == 0.0:
        return np.zeros(d)
    scaled = rows / largest
    if min(h, d) > DENSE:
        heaviest = scaled[np.einsum("ij,ij->i", scaled, scaled).argmax()]
        mixed = normalised(scaled.T @ (scaled @ np.ones(d))) + normalised(heaviest)
        found = lanczos_top(lambda v: scaled.T @ (scaled @ v), mixed)
    elif h < d:
        found = normalised(np.linalg.eigh(scaled @ scaled.T)[1][:, -1] @ scaled)
    else:
        found = np.linalg.eigh(scaled.T @ scaled)[1][:, -1]
    return canonical_sign(found)
