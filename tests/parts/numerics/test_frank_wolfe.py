"""Linear minimisation: optimality against many points, polar factors, completion, the gap."""

import numpy as np
import pytest

from unending.core.errors import InputError
from unending.parts.numerics.frank_wolfe import (
    frank_wolfe_gap,
    inner,
    l1_lmo,
    newton_schulz,
    nuclear_lmo,
    polar,
    simplex_lmo,
    spectral_lmo,
)


def orthogonals(n, count, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((count, n, n)))[0]


@pytest.mark.parametrize("n", [4, 10, 20])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", ["svd", "newton_schulz"])
def test_the_spectral_vertex_is_optimal(n, seed, method):
    gradient = np.random.default_rng(seed).standard_normal((n, n))
    vertex = spectral_lmo(gradient, np.eye(n), method)
    reached = inner(gradient, vertex)
    assert reached == pytest.approx(-np.linalg.norm(gradient, "nuc"), rel=1e-9)
    assert all(reached <= inner(gradient, each) for each in orthogonals(n, 1000, seed))
    assert inner(-gradient, vertex) > 0, "the sign of the vertex"
    np.testing.assert_allclose(vertex @ vertex.T, np.eye(n), atol=1e-9)


@pytest.mark.parametrize("rank", [0, 1, 3, 6])
def test_the_completed_vertex_is_optimal_orthogonal_and_turns_with_its_input(rank):
    rng = np.random.default_rng(rank)
    gradient = rng.standard_normal((6, rank)) @ rng.standard_normal((rank, 6))
    start, left, right = orthogonals(6, 3, 7)
    vertex = spectral_lmo(gradient, start)
    assert inner(gradient, vertex) == pytest.approx(-np.linalg.norm(gradient, "nuc"), abs=1e-12)
    np.testing.assert_allclose(vertex @ vertex.T, np.eye(6), atol=1e-12)
    turned = spectral_lmo(left @ gradient @ right, left @ start @ right)
    np.testing.assert_allclose(turned, left @ vertex @ right, atol=1e-10)


def test_an_arbitrary_completion_does_not_turn_with_its_input():
    """The toy: U V^T of a rank-1 matrix as the SVD happens to give it."""
    rng = np.random.default_rng(1)
    gradient = np.outer(rng.standard_normal(6), rng.standard_normal(6))
    turn = np.eye(6)[:, [3, 0, 5, 1, 2, 4]] * np.array([1, -1, 1, 1, -1, 1])
    plain, turned = (left @ right for left, _, right in map(np.linalg.svd, (gradient, gradient @ turn)))
    assert np.abs(turned - plain @ turn).max() > 0.1


def test_complex_matrices_have_unitary_factors():
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((5, 5)) + 1j * rng.standard_normal((5, 5))
    for method in ("svd", "newton_schulz"):
        factor = polar(matrix, np.eye(5), method)
        np.testing.assert_allclose(factor @ factor.conj().T, np.eye(5), atol=1e-9)
        assert inner(matrix, factor) == pytest.approx(np.linalg.norm(matrix, "nuc"))


def test_newton_schulz_gives_up_where_it_does_not_converge_and_the_svd_steps_in():
    singular = np.diag([1.0, 1.0, 0.0])
    assert newton_schulz(singular) is None
    assert newton_schulz(np.zeros((3, 3))) is None
    np.testing.assert_allclose(polar(singular, -np.eye(3), "newton_schulz"), np.diag([1, 1, -1]), atol=1e-15)
    near = np.diag([1.0, 1e-7])
    assert newton_schulz(near) is None
    np.testing.assert_allclose(polar(near, np.eye(2), "newton_schulz"), np.eye(2), atol=1e-12)


def test_tiny_gradients_keep_their_polar_factor():
    """In float32 the small direction of such a gradient is lost; in float64, scaled first, it is not."""
    matrix = orthogonals(4, 1, 3)[0] @ np.diag([1, 1e-3, 1e-6, 1e-9]) @ orthogonals(4, 1, 4)[0]
    for scale in (1e-200, 1e200):
        np.testing.assert_allclose(polar(scale * matrix, np.eye(4)), polar(matrix, np.eye(4)), atol=1e-6)
    assert not (matrix * 1e-60).astype(np.float32).any()


@pytest.mark.parametrize("seed", range(5))
def test_the_other_balls_have_optimal_vertices(seed):
    rng = np.random.default_rng(seed)
    gradient = rng.standard_normal((4, 6))
    vertex = nuclear_lmo(gradient, 2.0)
    assert inner(gradient, vertex) == pytest.approx(-2 * np.linalg.norm(gradient, 2))
    assert np.linalg.norm(vertex, "nuc") == pytest.approx(2)
    vector = rng.standard_normal(9)
    assert inner(vector, l1_lmo(vector, 3.0)) == pytest.approx(-3 * np.abs(vector).max())
    assert np.abs(l1_lmo(vector, 3.0)).sum() == 3
    assert inner(vector, simplex_lmo(vector)) == vector.min()
    phased = l1_lmo(vector * np.exp(1j * seed))
    assert inner(vector * np.exp(1j * seed), phased) == pytest.approx(-np.abs(vector).max())
    assert np.abs(l1_lmo(np.zeros(3))).sum() == 1


def test_the_gap_bounds_what_is_left_to_gain():
    """Frank-Wolfe on a quadratic over the simplex: the gap is never below the distance to the best value, and falls."""
    rng = np.random.default_rng(5)
    target = np.array([0.5, 0.3, 0.2, 0.0])
    point, gaps = np.eye(4)[int(rng.integers(4))], []
    for t in range(1, 400):
        gradient = point - target
        vertex = simplex_lmo(gradient)
        gaps.append(frank_wolfe_gap(gradient, point, vertex))
        assert gaps[-1] >= 0.5 * np.sum((point - target) ** 2) - 1e-12
        point = point + 2 / (t + 2) * (vertex - point)
    assert gaps[-1] < 0.02


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="svd or newton_schulz"):
        polar(np.eye(2), np.eye(2), "qr")
