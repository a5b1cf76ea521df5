"""Latency metrics by hand, and against numbers of simuleval 1.1.4."""

import pytest

from unending.core.errors import InputError
from unending.parts.emission import (
    average_lagging,
    average_proportion,
    differentiable_average_lagging,
    laal,
)


@pytest.mark.parametrize("k", [1, 3, 5, 8])
def test_wait_k_on_equal_lengths_lags_by_k(k):
    delays = [min(k + i, 8) for i in range(8)]
    assert average_lagging(delays, 8, 8) == laal(delays, 8, 8) == k


def test_by_hand():
    # gamma = 4 / 6, tau = 3: ((2 - 0) + (4 - 1.5) + (6 - 3)) / 3
    assert average_lagging([2, 4, 6, 6], 6, 4) == pytest.approx(2.5)
    # the whole source first
    assert average_lagging([5, 5, 5], 5, 3) == 5
    # more than the whole source
    assert average_lagging([7, 7], 5, 2) == laal([7, 7], 5, 2) == 7
    assert average_proportion([2, 4, 6, 6], 6) == pytest.approx(18 / 24)


def test_the_word_that_completes_the_source_counts_and_no_later_one():
    """A toy that averages over all words gives another number."""
    delays = [1, 2, 3, 3, 3, 3]
    assert average_lagging(delays, 3, 6) == pytest.approx((1 + 1.5 + 2) / 3)
    assert sum(d - i / 2 for i, d in enumerate(delays)) / 6 != pytest.approx(average_lagging(delays, 3, 6))


def test_writing_too_much_is_rewarded_by_al_and_not_by_laal():
    delays = [1, 2, 3, 4, 5, 6, 7, 8]
    assert average_lagging(delays, 8, 4) < 0 < laal(delays, 8, 4) == 1


SIMULEVAL = [
    ([1, 4, 5, 6, 6, 6], 6, 6, (2.5, 2.5, 0.7777777777777778, 2.6666666666666665)),
    ([1, 3, 6, 7], 7, 9, (3.0833333333333335, 3.0833333333333335, 0.2698412698412698, 1.8125)),
    ([1, 1, 1, 1, 2, 2, 3, 3, 4], 5, 4, (-3.0, -0.2222222222222222, 0.9, 1.0)),
    ([3], 3, 2, (3.0, 3.0, 0.5, 3.0)),
    ([2, 3, 3, 7, 8], 8, 5, (1.4, 1.4, 0.575, 2.0799999999999996)),
]


@pytest.mark.parametrize(("delays", "source", "target", "wanted"), SIMULEVAL)
def test_numbers_of_simuleval(delays, source, target, wanted):
    found = (
        average_lagging(delays, source, target),
        laal(delays, source, target),
        average_proportion(delays, source, target),
        differentiable_average_lagging(delays, source),
    )
    assert found == pytest.approx(wanted, abs=1e-12)


def test_nothing_written_has_no_lag():
    for metric in (average_lagging, laal, average_proportion, differentiable_average_lagging):
        with pytest.raises(InputError, match="nothing was written"):
            metric([], 3)
    with pytest.raises(InputError, match="1 or more"):
        average_lagging([1], 0)
