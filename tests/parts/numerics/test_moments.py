"""Running moments against whole arrays."""

import numpy as np
import pytest

from unending.core.errors import InputError, NumericalError
from unending.parts.numerics.moments import RunningMoments


def filled(rows: np.ndarray, forgetting: float = 0.0) -> RunningMoments:
    moments = RunningMoments(rows.shape[1:], forgetting)
    for row in rows:
        moments.update(row)
    return moments


ROWS = np.random.default_rng(0).normal([0.0, 1e6, -3.0], [1.0, 0.1, 100.0], (500, 3))


def test_mean_and_variance_are_those_of_the_array():
    moments = filled(ROWS)
    np.testing.assert_allclose(moments.mean, ROWS.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance(), ROWS.var(0, ddof=1), rtol=1e-8)


def test_the_first_sample_is_the_mean_and_its_variance_is_one():
    moments = filled(ROWS[:1])
    np.testing.assert_array_equal(moments.mean, ROWS[0])
    np.testing.assert_array_equal(moments.variance(), np.ones(3))
    np.testing.assert_array_equal(moments.m2, np.zeros(3))


def test_merging_equals_one_stream():
    for cut in (0, 1, 7, 500):
        merged = filled(ROWS[:cut]).merge(filled(ROWS[cut:]))
        np.testing.assert_allclose(merged.mean, ROWS.mean(0), rtol=1e-12)
        np.testing.assert_allclose(merged.variance(), ROWS.var(0, ddof=1), rtol=1e-7)


def test_forgetting_weighs_samples_by_age():
    forgetting = 0.05
    weights = (1 - forgetting) ** np.arange(len(ROWS))[::-1]
    mean = np.average(ROWS, axis=0, weights=weights)
    total = weights.sum()
    variance = ((ROWS - mean) ** 2 * weights[:, None]).sum(0) / (total - (weights**2).sum() / total)
    moments = filled(ROWS, forgetting)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(moments.variance(), variance, rtol=1e-6)


def test_bad_samples_change_nothing():
    moments = filled(ROWS)
    before = moments.state_dict()
    for bad, error in (
        (np.array([1.0, np.nan, 0.0]), InputError),
        (np.zeros(2), InputError),
        (np.full(3, 1e300), NumericalError),
    ):
        with pytest.raises(error):
            moments.update(bad)
    for name, value in moments.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(InputError, match="forgetting is 1"):
        RunningMoments((), 1.0)
    with pytest.raises(InputError, match="cannot be merged"):
        moments.merge(RunningMoments((3,), 0.1))
    with pytest.raises(InputError, match="do not merge"):
        moments.merge(RunningMoments((2,)))


def test_a_resumed_one_goes_on_bit_for_bit():
    one, two = filled(ROWS[:100]), RunningMoments((3,))
    two.load_state_dict(one.state_dict())
    for row in ROWS[100:]:
        one.update(row)
        two.update(row)
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.variance(), two.variance())
