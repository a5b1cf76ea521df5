"""Which tokens stay."""

import numpy as np
import pytest

from unending.core.errors import CapacityError, InputError
from unending.parts.memory import SinksAndWindow


@pytest.mark.parametrize(
    ("total", "expected"), [(3, [0, 1, 2]), (6, [0, 1, 2, 3, 4, 5]), (9, [0, 1, 5, 6, 7, 8])]
)
def test_sinks_and_the_last_stay(total, expected):
    assert SinksAndWindow(2, 4).keep(total).tolist() == expected


def test_window_alone():
    assert SinksAndWindow(0, 3).keep(5).tolist() == [2, 3, 4]


def test_padding_goes_first_and_sinks_are_real_tokens():
    policy = SinksAndWindow(2, 3)
    assert policy.keep(7, padding=1).tolist() == [1, 2, 4, 5, 6]
    assert policy.keep(6, padding=3).tolist() == [1, 2, 3, 4, 5]


def test_every_row_keeps_equally_many():
    policy = SinksAndWindow(2, 5)
    for total in range(1, 20):
        sizes = {len(policy.keep(total, padding)) for padding in range(min(total, 8))}
        assert len(sizes) == 1


def test_room_for_a_turn():
    policy = SinksAndWindow(2, 6)
    kept = policy.keep_for(8, 4)
    assert kept.tolist() == [0, 1, 6, 7]
    assert len(kept) + 4 == policy.budget
    assert policy.keep_for(3, 4).tolist() == [0, 1, 2]


def test_a_turn_as_large_as_the_window_leaves_the_sinks():
    assert SinksAndWindow(2, 6).keep_for(8, 6).tolist() == [0, 1]


def test_a_turn_larger_than_the_window_is_refused():
    with pytest.raises(CapacityError, match="7 tokens do not fit"):
        SinksAndWindow(2, 6).keep_for(8, 7)


@pytest.mark.parametrize(("sinks", "window"), [(-1, 4), (0, 0), (4, -2)])
def test_senseless_sizes_are_refused(sinks, window):
    with pytest.raises(InputError, match="accepted are"):
        SinksAndWindow(sinks, window)


def test_kept_indices_ascend():
    kept = SinksAndWindow(3, 4).keep(50)
    assert np.all(np.diff(kept) > 0)
