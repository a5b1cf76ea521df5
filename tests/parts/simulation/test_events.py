"""Simulated time goes forward, in order; arrivals are Poisson and seeded."""

import math

import numpy as np
import pytest

from unending.core.errors import InputError
from unending.parts.simulation import Timeline, percentiles, poisson_times


def test_events_come_in_order_of_time_and_then_of_arrival():
    line = Timeline([(2.0, "c"), (1.0, "a")])
    line.put(1.0, "b")
    line.put(3.0, "d")
    assert line.next_time == 1
    assert line.until(2.0) == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert line.now == 2
    assert len(line) == 1
    assert line.until(10.0) == [(3.0, "d")]
    assert line.next_time == math.inf


@pytest.mark.parametrize("time", [1.0, math.nan])
def test_the_past_is_refused(time):
    line = Timeline()
    line.until(2.0)
    with pytest.raises(InputError, match="in the past"):
        line.put(time, "late")


def test_poisson_arrivals():
    times = poisson_times(20_000, 4.0, seed=1)
    gaps = np.diff(times, prepend=0)
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.std() == pytest.approx(0.25, rel=0.05)
    np.testing.assert_array_equal(times, poisson_times(20_000, 4.0, seed=1))
    assert not np.array_equal(times, poisson_times(20_000, 4.0, seed=2))


@pytest.mark.parametrize(("n", "rate"), [(-1, 1.0), (1, 0.0), (1, math.nan)])
def test_senseless_arrivals_are_refused(n, rate):
    with pytest.raises(InputError):
        poisson_times(n, rate)


def test_percentiles():
    assert percentiles(range(101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert math.isnan(percentiles([])["p50"])
