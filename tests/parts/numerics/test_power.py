"""Leading directions against the singular value decomposition."""

import numpy as np
import pytest

from unending.parts.numerics.power import (
    DENSE,
    canonical_sign,
    correlation,
    lanczos_top,
    normalised,
    power_iterations,
    top_right_singular,
)


@pytest.mark.parametrize("shape", [(1, 5), (4, 9), (9, 4), (DENSE + 40, DENSE + 10)])
def test_the_top_direction_is_that_of_the_svd(shape):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal(shape) + 0.2 * rng.standard_normal(shape[1])
    expected = np.linalg.svd(rows)[2][0]
    assert correlation(top_right_singular(rows), expected) == pytest.approx(1, abs=1e-9)


def test_huge_and_tiny_rows_neither_overflow_nor_vanish():
    rows = np.random.default_rng(2).standard_normal((3, 6))
    for scale in (1e90, 1e-90):
        np.testing.assert_allclose(top_right_singular(scale * rows), top_right_singular(rows), atol=1e-12)
        np.testing.assert_allclose(normalised(scale * rows[0]), normalised(rows[0]), atol=1e-15)
    assert not top_right_singular(np.zeros((3, 6))).any()


def test_lanczos_finds_what_power_steps_find_slowly():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((200, 60)) * np.linspace(1.2, 1, 60)
    truth = np.linalg.svd(rows)[2][0]
    start = rng.standard_normal(60)
    apply = lambda v: rows.T @ (rows @ v)  # noqa: E731
    assert correlation(lanczos_top(apply, start), truth) > 1 - 1e-9
    assert correlation(power_iterations(apply, start, 40), truth) < 1 - 1e-3
    assert correlation(power_iterations(apply, start, 5000), truth) > 1 - 1e-9


def test_power_steps_keep_a_direction_that_goes_to_zero():
    start = np.array([0.0, 1.0])
    np.testing.assert_array_equal(power_iterations(lambda v: np.zeros(2), start, 3), start)


def test_signs_and_lengths_do_not_matter():
    vector = np.array([0.1, -3.0, 2.0])
    np.testing.assert_array_equal(canonical_sign(vector), canonical_sign(-vector))
    assert canonical_sign(vector)[1] > 0
    assert correlation(vector, -7 * vector) == pytest.approx(1)
