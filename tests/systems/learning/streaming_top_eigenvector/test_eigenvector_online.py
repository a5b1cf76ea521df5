"""The River face."""

import copy

import numpy as np
import pytest
from river import checks, evaluate, linear_model, metrics, preprocessing, stream

from unending.core.errors import InputError
from unending.systems.learning.streaming_top_eigenvector.online import OnlineTopEigenvector


@pytest.mark.parametrize(
    "check", list(checks.yield_checks(OnlineTopEigenvector())), ids=lambda each: each.__name__
)
def test_conventions_of_river(check):
    check(OnlineTopEigenvector())


def test_it_feeds_a_regression_in_a_pipeline():
    rng = np.random.default_rng(0)
    direction = np.array([0.6, 0.8, 0.0, 0.0])
    along = 3 * rng.standard_normal(3000)
    rows = along[:, None] * direction + 0.3 * rng.standard_normal((3000, 4))
    data = stream.iter_array(rows, along, feature_names=list("abcd"))
    model = OnlineTopEigenvector(seed=1) | preprocessing.StandardScaler() | linear_model.LinearRegression()
    found = evaluate.progressive_val_score(data, model, metrics.R2())
    assert found.get() > 0.9


def test_features_appear_and_vanish():
    model = OnlineTopEigenvector(seed=1)
    assert model.transform_one({"a": 1.0}) == {}
    for _ in range(20):
        model.learn_one({"a": 1.0})
        model.learn_one({"a": 1.0, "b": 2.0})
        model.learn_one({"b": 2.0})
    assert len(model._columns) == 2
    assert model.transform_one({"b": 1.0})["onlinetopeigenvector0"] > 0.7


@pytest.mark.parametrize("value", [float("nan"), "x"])
def test_bad_values_raise_and_leave_the_learned_state(value):
    model = OnlineTopEigenvector(seed=1)
    for _ in range(9):
        model.learn_one({"a": 1.0, "b": 2.0})
    before = copy.deepcopy(model).transform_one({"a": 1.0})
    with pytest.raises(InputError):
        model.learn_one({"a": 1.0, "b": value, "c": 1.0})
    assert len(model._columns) == 2
    assert model.transform_one({"a": 1.0}) == before
    strict = OnlineTopEigenvector(on_new_feature="raise")
    strict.learn_one({"a": 1.0})
    with pytest.raises(InputError, match="new"):
        strict.learn_one({"b": 1.0})
