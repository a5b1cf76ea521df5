"""Set disjointness: what a row holds, and that its answer is the only element of both lists."""

import numpy as np
import pytest

from unending.parts.training.disjointness import SetDisjointness


@pytest.mark.parametrize(("first", "second"), [(4, 16), (16, 4), (1, 1), (126, 126)])
def test_the_lists_share_exactly_the_answer(first, second):
    rows, answers = SetDisjointness(first, second, 256).rows(3, 5, 50)
    assert rows.shape == (50, first + second + 3)
    for row, answer in zip(rows, answers, strict=True):
        assert (row[0], row[1 + first], row[-1]) == (1, 2, 3)
        a, b = row[1 : 1 + first], row[2 + first : -1]
        assert len(set(a)) == first
        assert len(set(b)) == second
        assert set(a) & set(b) == {answer}
        assert min(a.min(), b.min()) >= 4
        assert row.max() < 256


def test_rows_follow_from_seed_and_step():
    task = SetDisjointness(4, 16, 256)
    one, two = task.rows(0, 1, 8), task.rows(0, 1, 8)
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], task.rows(0, 2, 8)[0])
    assert not np.array_equal(one[0], task.rows(1, 1, 8)[0])


def test_places_and_elements_are_spread():
    rows, answers = SetDisjointness(4, 16, 256).rows(0, 0, 4000)
    where = (rows[:, 6:-1] == answers[:, None]).argmax(1)
    assert np.bincount(where, minlength=16).min() > 150
    assert np.bincount((rows[:, 1:5] == answers[:, None]).argmax(1)).min() > 850
    assert len(np.unique(answers)) == 252


def test_said_twice():
    once, answers = SetDisjointness(4, 16, 256).rows(0, 0, 8)
    task = SetDisjointness(4, 16, 256, repeats=2)
    twice, same = task.rows(0, 0, 8)
    assert np.array_equal(answers, same)
    assert np.array_equal(twice, np.concatenate([once[:, :-1], once], axis=1))
    assert twice.shape[1] == task.length == 2 * (4 + 16 + 2) + 1  # the doubled reading is not free


@pytest.mark.parametrize("sizes", [(0, 4), (127, 4), (4, 127)])
def test_lists_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match="room for 1 to 126"):
        SetDisjointness(*sizes, vocabulary=256)
