"""Cost curves are found again from their own samples, and say so when they do not fit."""

import math
import warnings

import numpy as np
import pytest

from unending.core.errors import InputError
from unending.parts.simulation import Curve, StepCost, fit_curve

SIZES = [16 * 2**power for power in range(8)]


def test_a_quadratic_is_found_again():
    curve = Curve(0.01, 2e-4, 3e-8)
    found = fit_curve([(n, curve(n)) for n in SIZES])
    assert found.constant == pytest.approx(0.01, rel=1e-6)
    assert found.linear == pytest.approx(2e-4, rel=1e-6)
    assert found.quadratic == pytest.approx(3e-8, rel=1e-6)
    assert found.r_squared == pytest.approx(1)


def test_noise_of_a_tenth_leaves_a_good_fit():
    noise = np.random.default_rng(0).normal(1, 0.1, len(SIZES))
    assert (
        fit_curve([(n, (0.01 + 2e-4 * n) * each) for n, each in zip(SIZES, noise, strict=True)]).r_squared
        > 0.9
    )


def test_a_bad_fit_warns():
    times = np.random.default_rng(0).random(len(SIZES))
    with pytest.warns(UserWarning, match=r"explains only 0\.\d\d of the variance"):
        fit_curve(list(zip(SIZES, times, strict=True)))


@pytest.mark.parametrize(
    ("samples", "at", "value"), [([(8, 2.0)], 100, 2.0), ([(8, 1.0), (16, 2.0)], 24, 3.0)]
)
def test_few_samples_give_a_curve_of_lower_degree(samples, at, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_curve(samples)(at) == pytest.approx(value)


@pytest.mark.parametrize("samples", [[], [(1, math.nan)]])
def test_no_samples_are_refused(samples):
    with pytest.raises(InputError, match="finite samples"):
        fit_curve(samples)


def test_costs_are_never_negative():
    assert Curve(-1.0, 0.1)(5) == 0


def test_a_step_counts_pairs_of_attention():
    step = StepCost(1.0, 0.1, 0.01)
    assert step([(4, 10), (1, 3)]) == pytest.approx(1 + 0.5 + 0.01 * (4 * 10 + 8 + 3 + 0.5))
    assert StepCost(0.0, 0.1, floor=2.0)([(4, 0)]) == 2


def test_the_step_of_a_curve_costs_what_the_curve_says():
    curve = Curve(0.01, 2e-4, 3e-8)
    assert StepCost.from_curve(curve)([(300, 0)]) == pytest.approx(curve(300))
    # In two pieces the pairs are the same, and the fixed part comes twice.
    step = StepCost.from_curve(curve)
    assert step([(100, 0)]) + step([(200, 100)]) == pytest.approx(curve(300) + 0.01)
