"""The same learner in loops: the reference that the core is tested against."""

import numpy as np

from unending.systems.learning.online_dictionary_fw.core import DictionarySettings, random_orthogonal

__all__ = ["NaiveDictionary", "msp"]


class NaiveDictionary:
    """What `DictionarySettings` does for real rows without preconditioning, sample by sample and by definition.

    Parameters
    ----------
    settings, width, seed
        as for `DictionarySettings.init`.
    """

    def __init__(self, settings: DictionarySettings, width: int, seed: int = 0) -> None:
        self.settings = settings
        self.D = random_orthogonal(width, seed)
        self.G = np.zeros((width, width))
        self.t, self.gap = 0, 0.0

    def step(self, rows: np.ndarray) -> None:
        """Learn one minibatch `[b, N]`."""
        p, rows = self.settings.p, np.array([row for row in rows if row.any()])
        if not len(rows):
            return
        self.t += 1
        if self.t == 1 and self.settings.start == "data":
            units = [row / np.sqrt(row @ row) for row in rows[: len(self.D)]]
            padded = np.zeros_like(self.D)
            padded[:, : len(units)] = np.array(units).T
            self.D = completed(padded, self.D)
        gradient = np.zeros_like(self.D)
        for y in rows:
            u = self.D.T @ y
            gradient -= np.outer(y, p * np.sign(u) * np.abs(u) ** (p - 1)) / len(rows)
        rho = max(self.t**-self.settings.rho_exponent, self.settings.rho_min)
        gamma = max(self.t**-self.settings.gamma_exponent, self.settings.gamma_min)
        self.G = (1 - rho) * self.G + rho * gradient
        S = completed(-self.G, self.D)
        self.gap = float(np.sum(self.G * self.D) + np.linalg.norm(self.G, "nuc"))
        self.D = (1 - gamma) * self.D + gamma * S

    def dictionary(self) -> np.ndarray:
        """The polar factor of D."""
        return completed(self.D, self.D)


def completed(matrix: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """`U V^T` on the range, and on the rest the polar factor of `complete` between the null spaces, by projectors."""
    U, s, Vt = np.linalg.svd(matrix)
    r = int((s > 1e-12 * s[0]).sum()) if s[0] else 0
    left, right = U[:, :r] @ U[:, :r].T, Vt[:r].T @ Vt[:r]
    between = (np.eye(len(left)) - left) @ complete @ (np.eye(len(right)) - right)
    A, _, Bt = np.linalg.svd(between)
    rest = len(left) - r
    return U[:, :r] @ Vt[:r] + A[:, :rest] @ Bt[:rest]


def msp(rows: np.ndarray, iterations: int = 100, seed: int = 0) -> np.ndarray:
    """Matching, stretching, projection on a whole data set (Zhai et al. 2020, arXiv 1906.02435): `[N, N]`.

    `D <- polar(Y (|D^T Y|^2 D^T Y)^T)`, the batch power method for the l4 norm.
    """
    D = random_orthogonal(rows.shape[1], seed)
    for _ in range(iterations):
        U, _, Vt = np.linalg.svd(rows.T @ (rows @ D) ** 3)
        D = U @ Vt
    return D
