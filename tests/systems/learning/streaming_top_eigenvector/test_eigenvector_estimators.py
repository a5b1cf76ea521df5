"""The scikit-learn face."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from unending.core.errors import InputError
from unending.parts.numerics.power import correlation, top_right_singular
from unending.systems.learning.streaming_top_eigenvector.estimators import (
    BlockPower,
    FrequentDirections,
    OjaGrid,
    RandomOrderTopEigenvector,
)

EVERY = [RandomOrderTopEigenvector(), BlockPower(), OjaGrid(), FrequentDirections()]
ROWS = np.random.default_rng(0).standard_normal((600, 8)) * np.array([3, 1, 1, 1, 1, 1, 1, 1])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(EVERY, expected_failed_checks=lambda estimator: {})
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", EVERY, ids=lambda each: type(each).__name__)
def test_chunks_copies_and_pickles_go_on_with_the_same_bits(estimator):
    whole = clone(estimator).set_params(random_state=1).partial_fit(ROWS)
    one = clone(estimator).set_params(random_state=1).partial_fit(ROWS[:101])
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        for start in range(101, 600, 37):
            other.partial_fit(ROWS[start : start + 37])
        np.testing.assert_array_equal(other.components_, whole.components_)
        assert other.n_samples_seen_ == 600
        assert other.memory_bytes() == one.memory_bytes()


@pytest.mark.parametrize("estimator", EVERY, ids=lambda each: type(each).__name__)
def test_the_direction_is_found_and_fit_forgets(estimator):
    truth = top_right_singular(ROWS)
    first = clone(estimator).set_params(random_state=0).fit(ROWS)
    assert correlation(first.components_[0], truth) > 0.9
    again = first.components_.copy()
    np.testing.assert_array_equal(first.fit(-ROWS[:50]).fit(ROWS).components_, again)
    assert first.transform(ROWS).shape == (600, 1)
    assert first.state_bits_ > 0


def test_fit_takes_the_length_from_the_rows():
    assert RandomOrderTopEigenvector().fit(ROWS).core_.n_rows == 600
    assert RandomOrderTopEigenvector().partial_fit(ROWS).core_.n_rows == 0


def test_all_three_candidates_are_reported():
    fitted = RandomOrderTopEigenvector(random_state=0).fit(ROWS)
    assert set(fitted.candidates_) == {"light", "combined", "heavy"}
    assert fitted.kind_ in fitted.candidates_
    assert fitted.explained_variance_[0] == pytest.approx(np.linalg.norm(ROWS, 2) ** 2 / 600, rel=0.25)


def test_bad_rows_raise_and_leave_the_learned_state():
    fitted = RandomOrderTopEigenvector(random_state=0).partial_fit(ROWS)
    before = fitted.components_.copy()
    spoilt = ROWS[:3].copy()
    spoilt[1, 1] = np.nan
    for wrong, message in ((spoilt, "NaN"), (ROWS[:3, :5], "features"), (np.full((2, 8), 1e150), "1e100")):
        with pytest.raises(ValueError, match=message):
            fitted.partial_fit(wrong)
    assert fitted.n_samples_seen_ == 600
    np.testing.assert_array_equal(fitted.finalize().components_, before)


def test_it_stands_in_a_pipeline_with_names():
    pipeline = make_pipeline(StandardScaler(), RandomOrderTopEigenvector(random_state=0)).fit(ROWS)
    assert pipeline.get_feature_names_out().tolist() == ["randomordertopeigenvector0"]


@pytest.mark.parametrize("estimator", EVERY, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("value", [np.nan, 1e300])
def test_a_refused_fit_keeps_what_was_learned(estimator, value):
    """Rows of another width whose values are refused used to leave a width that the learned state does not have."""
    fitted = clone(estimator).set_params(random_state=0).fit(ROWS)
    before = fitted.transform(ROWS)
    with pytest.raises(ValueError):
        fitted.fit(np.full((3, 5), value))
    assert fitted.n_features_in_ == 8
    assert fitted.n_samples_seen_ == 600
    np.testing.assert_array_equal(fitted.transform(ROWS), before)


@pytest.mark.parametrize("estimator", EVERY, ids=lambda each: type(each).__name__)
def test_a_refused_first_call_leaves_the_estimator_not_fitted(estimator):
    fresh = clone(estimator)
    with pytest.raises(InputError):
        fresh.partial_fit(np.full((3, 5), 1e300))
    with pytest.raises(NotFittedError):
        fresh.transform(ROWS)
    assert fresh.partial_fit(ROWS).n_features_in_ == 8


def test_what_is_shown_is_no_part_of_the_state():
    """Writing into a shown array used to change what the next rows were learned on."""
    whole = OjaGrid(random_state=0).partial_fit(ROWS)
    one = OjaGrid(random_state=0).partial_fit(ROWS[:300])
    one.copies_[:] = 0.0
    one.growth_[:] = 7.0
    np.testing.assert_array_equal(one.partial_fit(ROWS[300:]).components_, whole.components_)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_call_stopped_by_the_keyboard_never_happened(method, monkeypatch):
    fitted = RandomOrderTopEigenvector(random_state=0).fit(ROWS)
    before = dict(vars(fitted))

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(fitted.core_), "estimate", stopped)
    with pytest.raises(KeyboardInterrupt):
        getattr(fitted, method)(ROWS[:50])
    assert vars(fitted) == before
