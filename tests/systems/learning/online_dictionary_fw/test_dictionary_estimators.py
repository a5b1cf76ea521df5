"""The scikit-learn and the River face."""

import copy
import pickle

import numpy as np
import pytest
from river import checks, preprocessing
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from unending.core.errors import InputError
from unending.systems.learning.online_dictionary_fw.core import random_orthogonal
from unending.systems.learning.online_dictionary_fw.estimators import OnlineOrthogonalDictionary, thresholded
from unending.systems.learning.online_dictionary_fw.metrics import dictionary_error
from unending.systems.learning.online_dictionary_fw.online import OnlineDictionary

EVERY = [
    OnlineOrthogonalDictionary(),
    OnlineOrthogonalDictionary(batch_size=10, precondition=20, code="soft"),
]


def sparse_rows(n, width, theta, seed):
    rng = np.random.default_rng(seed)
    truth = random_orthogonal(width, seed + 1000)
    return truth, (rng.standard_normal((n, width)) * (rng.random((n, width)) < theta)) @ truth.T


SQUARE = "the check sets n_components to 1 on wider rows; the dictionary is square, another number is refused"
EXPECTED = dict.fromkeys(
    (
        "check_dont_overwrite_parameters",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_fit2d_1sample",
        "check_fit2d_predict1d",
    ),
    SQUARE,
)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(EVERY, expected_failed_checks=lambda estimator: EXPECTED)
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", EVERY, ids=["plain", "preconditioned"])
def test_chunks_copies_and_pickles_go_on_with_the_same_bits(estimator):
    _, rows = sparse_rows(400, 6, 0.3, 0)
    whole = clone(estimator).set_params(random_state=1).partial_fit(rows)
    one = clone(estimator).set_params(random_state=1).partial_fit(rows[:101])
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        for start in range(101, 400, 37):
            other.partial_fit(rows[start : start + 37])
        np.testing.assert_array_equal(other.components_, whole.components_)
        assert other.memory_bytes() == one.memory_bytes()
        assert other.n_samples_seen_ == 400


def test_rows_are_coded_and_come_back():
    truth, rows = sparse_rows(8000, 6, 0.3, 1)
    fitted = OnlineOrthogonalDictionary(batch_size=10, random_state=0).fit(rows)
    assert dictionary_error(truth, fitted.components_.T) < 0.01
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(rows)), rows, atol=1e-12)
    assert fitted.fw_gap_ >= 0
    assert fitted.n_iter_ == 800
    whitened = OnlineOrthogonalDictionary(batch_size=10, precondition=500, random_state=0).fit(rows)
    np.testing.assert_allclose(whitened.inverse_transform(whitened.transform(rows)), rows, atol=1e-10)


def test_codes_are_thresholded():
    codes = np.array([[3.0, -1.0, 0.5]])
    np.testing.assert_array_equal(thresholded(codes, "hard", 1.0), [[3, 0, 0]])
    np.testing.assert_allclose(thresholded(codes, "soft", 1.0), [[2, 0, 0]])
    np.testing.assert_allclose(thresholded(codes * 1j, "soft", 0.75), [[2.25j, -0.25j, 0]])
    _, rows = sparse_rows(5000, 6, 0.3, 2)
    hard = OnlineOrthogonalDictionary(batch_size=10, code="hard", threshold=0.1, random_state=0).fit(rows)
    assert (hard.transform(rows) == 0).mean() > 0.6
    assert np.linalg.norm(hard.inverse_transform(hard.transform(rows)) - rows) < 0.1 * np.linalg.norm(rows)


def test_complex_rows_are_taken_where_they_are_asked_for():
    rng = np.random.default_rng(3)
    truth = random_orthogonal(5, 3, "complex128")
    codes = (rng.standard_normal((8000, 5)) + 1j * rng.standard_normal((8000, 5))) * (
        rng.random((8000, 5)) < 0.3
    )
    rows = codes @ truth.T
    fitted = OnlineOrthogonalDictionary(batch_size=10, dtype="complex128", random_state=0).fit(rows)
    assert dictionary_error(truth, fitted.mixing_) < 0.01
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(rows)), rows, atol=1e-12)
    with pytest.raises(InputError, match="shape"):
        fitted.partial_fit(rows[:, :3])
    with pytest.raises(ValueError, match=r"[Cc]omplex"):
        OnlineOrthogonalDictionary().fit(rows)


@pytest.mark.parametrize("wrong", [{"n_components": 3}, {"code": "lasso"}, {"p": 1.0}, {"threshold": -1.0}])
def test_senseless_parameters_are_refused_at_the_first_fit(wrong):
    with pytest.raises(InputError):
        OnlineOrthogonalDictionary(**wrong).fit(np.ones((4, 5)))


def test_bad_rows_raise_and_leave_the_learned_state():
    _, rows = sparse_rows(100, 4, 0.3, 4)
    fitted = OnlineOrthogonalDictionary(random_state=0).partial_fit(rows)
    before = fitted.components_.copy()
    for wrong, message in (
        (rows * np.nan, "NaN"),
        (rows[:, :3], "features"),
        (np.full((2, 4), 1e40), "1e100"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.partial_fit(wrong)
    np.testing.assert_array_equal(fitted.finalize().components_, before)


@pytest.mark.parametrize(
    "check", list(checks.yield_checks(OnlineDictionary())), ids=lambda each: each.__name__
)
def test_conventions_of_river(check):
    check(OnlineDictionary())


def test_it_stands_in_a_river_pipeline():
    truth, rows = sparse_rows(4000, 4, 0.3, 5)
    codes = OnlineDictionary(batch_size=5, seed=1)
    model = codes | preprocessing.MaxAbsScaler()
    for row in rows:
        model.learn_one(dict(zip("abcd", row.tolist(), strict=True)))
    learned = codes._learner.orthogonal(codes._state)
    assert dictionary_error(truth, learned) < 0.02
    assert set(model.transform_one({"a": 1.0})) == {f"onlinedictionary{k}" for k in range(4)}


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("value", [np.nan, 1e300])
def test_a_refused_fit_keeps_what_was_learned(dtype, value):
    _, rows = sparse_rows(100, 4, 0.3, 6)
    fitted = OnlineOrthogonalDictionary(dtype=dtype, random_state=0).fit(rows)
    before = fitted.transform(rows)
    with pytest.raises(ValueError):
        fitted.fit(np.full((3, 5), value))
    assert fitted.n_features_in_ == 4
    np.testing.assert_array_equal(fitted.transform(rows), before)


def test_complex_rows_that_are_not_finite_are_refused_by_every_method():
    fitted = OnlineOrthogonalDictionary(dtype="complex128", random_state=0).fit(np.eye(3) * 1j)
    for method in (fitted.transform, fitted.partial_fit):
        with pytest.raises(InputError, match="finite"):
            method(np.full((1, 3), np.nan))


def test_a_parameter_changed_between_calls_is_checked_where_it_is_used():
    """An unknown `code` was taken for soft; complex rows lost their imaginary part in a real state."""
    fitted = OnlineOrthogonalDictionary(random_state=0).fit(np.eye(3))
    with pytest.raises(InputError, match="code"):
        fitted.set_params(code="lasso").transform(np.eye(3))
    with pytest.raises(ValueError, match=r"[Cc]omplex"):
        fitted.set_params(code="none", dtype="complex128").partial_fit(np.eye(3) * 1j)
