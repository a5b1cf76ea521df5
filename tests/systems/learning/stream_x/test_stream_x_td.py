"""Stream TD on series, and its River face."""

import copy

import numpy as np
import pytest

from unending.core.errors import InputError, NumericalError
from unending.systems.learning.stream_x import StreamTD


def learned(model, n=60, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        model.learn_one({"a": rng.normal(), "b": rng.normal()}, rng.normal(2.0))
    return model


def test_a_steady_cumulant_is_worth_its_discounted_sum():
    model = StreamTD(2, hidden=(16, 16), gamma=0.5, sparsity=0.5)
    rng = np.random.default_rng(0)
    for _ in range(3000):
        model.learn_one(rng.normal(size=2), 3.0 + 0.3 * rng.normal())
    assert model.predict_one(np.zeros(2)) == pytest.approx(6.0, abs=1.5)  # 3 + 1.5 + 0.75 ...


def test_predicting_comes_before_learning_and_changes_nothing():
    model = StreamTD(2, hidden=(4,))
    assert model.predict_one({"a": 1.0, "b": 2.0}) == 0.0
    learned(model)
    before = copy.deepcopy(model.state_dict())
    assert model.predict_one({"b": 1.0, "a": 0.5}) == model.predict_one({"a": 0.5, "b": 1.0, "unknown": 9.0})
    assert model.predict_one({"a": 0.5}) == model.predict_one({"a": 0.5, "b": 0.0})
    np.testing.assert_equal(model.state_dict(), before)


def test_observation_traces_are_exponential_averages_without_bias():
    model, rng = StreamTD(1, hidden=(4,), trace=0.9), np.random.default_rng(0)
    xs = rng.normal(size=30)
    for x in xs:
        model.learn_one([x], 0.0)
    weights = 0.9 ** np.arange(30)[::-1]
    wanted = (weights * xs).sum() / weights.sum()
    assert model.series.average[0] / (1 - 0.9**30) == pytest.approx(wanted, rel=1e-12)


def test_a_series_resumes_bit_for_bit():
    one, two = learned(StreamTD(2, hidden=(8, 8), trace=0.5)), StreamTD(2, hidden=(8, 8), trace=0.5)
    two.load_state_dict(one.state_dict())
    for model in (one, two):
        learned(model, 30, seed=1)
    np.testing.assert_equal(one.state_dict(), two.state_dict())


@pytest.mark.parametrize("bad", [{"a": np.nan, "b": 0.0}, [1.0], [1.0, 2.0, 3.0], [np.inf, 0.0]])
def test_bad_samples_change_nothing(bad):
    model = learned(StreamTD(2, hidden=(4,)))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError):
        model.learn_one(bad, 0.0)
    with pytest.raises(InputError):
        model.learn_one([0.0, 0.0], np.nan)
    np.testing.assert_equal(model.state_dict(), before)
    with pytest.raises(InputError, match="has 3 features"):
        StreamTD(2).learn_one({"a": 1.0, "b": 1.0, "c": 1.0}, 0.0)


def test_settings_are_checked():
    with pytest.raises(InputError, match="trace is 1"):
        StreamTD(2, trace=1.0)


def test_the_river_face_in_a_pipeline(needs):
    needs("river")
    from river import preprocessing

    from unending.systems.learning.stream_x.river_td import RiverTD

    model = RiverTD(hidden=(8, 8), gamma=0.0)
    pipeline = preprocessing.StandardScaler() | model
    rng = np.random.default_rng(0)
    for _ in range(50):
        x = {"a": rng.normal(), "b": rng.normal()}
        assert np.isfinite(pipeline.predict_one(x))
        pipeline.learn_one(x, 1.0)
    clone = model.clone()
    assert clone.hidden == (8, 8)
    assert clone.predict_one({"a": 1.0}) == 0.0
    twin = copy.deepcopy(model)
    assert twin.predict_one({"a": 1.0}) == model.predict_one({"a": 1.0})
    strict = RiverTD(hidden=(4,), on_new_feature="raise")
    strict.learn_one({"a": 1.0}, 0.0)
    with pytest.raises(InputError, match="were not in the first sample"):
        strict.learn_one({"a": 1.0, "z": 1.0}, 0.0)
    with pytest.raises(InputError, match="no features"):
        strict.learn_one({}, 0.0)
    with pytest.raises(InputError, match="accepted are ignore and raise"):
        RiverTD(on_new_feature="grow")


def test_river_accepts_the_estimator(needs):
    needs("river")
    from river import checks

    from unending.systems.learning.stream_x.river_td import RiverTD

    checks.check_estimator(RiverTD(hidden=(4,)))


def test_a_cumulant_that_explodes_changes_nothing_and_the_series_goes_on():
    """The discounted sum once stayed infinite, and each sample after it was refused."""
    model = learned(StreamTD(2, hidden=(4,)))
    before = copy.deepcopy(model.state_dict())
    for bad in (([0.0, 0.0], 1e300), ([1e300, 0.0], 0.0)):
        with pytest.raises(NumericalError):
            model.learn_one(*bad)
        np.testing.assert_equal(model.state_dict(), before)
    model.learn_one([0.0, 0.0], 1.0)
    assert np.isfinite(model.predict_one([0.0, 0.0]))


@pytest.mark.parametrize("width", [0, -1])
def test_a_width_is_one_or_more(width):
    with pytest.raises(InputError, match=f"number of features is {width}"):
        StreamTD(width)
    with pytest.raises(InputError, match="of 'b' is 'much'"):
        StreamTD(2).learn_one({"a": 1.0, "b": "much"}, 0.0)
