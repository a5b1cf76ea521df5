"""Named features as columns."""

import numpy as np
import pytest

from unending.core.errors import CapacityError, InputError
from unending.parts.estimators import Columns


def test_new_features_get_columns_in_the_order_of_their_names_within_a_row():
    columns = Columns().admitted({"b": 1.0, "a": 2.0}).admitted({"c": 1.0, "aa": 1.0, "b": 1.0})
    assert columns.places == {"a": 0, "b": 1, "aa": 2, "c": 3}
    np.testing.assert_array_equal(columns.vector({"c": 3.0, "a": 1.0, "unknown": 9.0}), [1.0, 0.0, 0.0, 3.0])


def test_what_happens_to_a_new_feature_is_a_choice():
    assert len(Columns("ignore").admitted({"a": 1.0}).admitted({"b": 1.0})) == 1
    with pytest.raises(InputError, match="'b' is new"):
        Columns("raise").admitted({"a": 1.0}).admitted({"b": 1.0})
    with pytest.raises(CapacityError, match="room for 2"):
        Columns("grow", limit=2).admitted({"a": 1.0}).admitted({"b": 1.0, "c": 1.0})
    with pytest.raises(InputError, match="grow, ignore or raise"):
        Columns("drop")


def test_admitting_makes_a_new_object():
    """The caller keeps the old columns where the row is refused afterwards."""
    columns = Columns()
    columns.admitted({"a": 1.0})
    assert len(columns) == 0


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "x", "3.5", None, 10**400, 1j, [1.0]],
    ids=lambda each: str(each)[:9],
)
def test_values_that_are_no_finite_numbers_are_refused_by_name(value):
    columns = Columns().admitted({"a": 1.0})
    with pytest.raises(InputError, match="'a'"):
        columns.vector({"a": value})
