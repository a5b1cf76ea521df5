"""How near a learned dictionary is to the true one, and how well it codes."""

import numpy as np
from scipy.optimize import linear_sum_assignment

__all__ = ["dictionary_error", "k_sparse_error", "matched", "sparsity"]


def dictionary_error(truth: np.ndarray, found: np.ndarray) -> float:
    """`1 - ||truth^H found||_4^4 / N` of two orthogonal matrices: 0 if equal up to order and sign (phase), below 1."""
    return float(1 - np.sum(np.abs(truth.conj().T @ found) ** 4) / len(truth))


def matched(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The columns of `found` in the order and with the signs (phases) in which they are nearest to those of `truth`."""
    products = truth.conj().T @ found
    order = linear_sum_assignment(-np.abs(products))[1]
    chosen = products[np.arange(len(order)), order]
    phases = np.where(chosen == 0, 1, chosen)
    return found[:, order] * (phases.conj() / np.abs(phases))


def k_sparse_error(rows: np.ndarray, orthogonal: np.ndarray, k: int) -> float:
    """Share of the rows' energy that their k largest codes in an orthogonal dictionary leave out."""
    codes = np.sort(np.abs(rows @ orthogonal.conj()) ** 2, axis=1)
    return float(codes[:, : codes.shape[1] - k].sum() / codes.sum())


def sparsity(codes: np.ndarray, tolerance: float = 1e-2) -> float:
    """Share of codes whose magnitude is above `tolerance` of their row's largest."""
    magnitudes = np.abs(codes)
    return float(np.mean(magnitudes > tolerance * magnitudes.max(axis=1, keepdims=True)))
