import numpy as np
import pytest
from toys import Average

from unending.core import Histogram, Meters, Rows, Session


def test_percentiles_are_right_to_ten_percent() -> None:
    durations = np.exp(np.random.default_rng(0).normal(-7, 1.5, 5000))
    histogram = Histogram()
    for duration in durations:
        histogram.add(float(duration))
    for percent in (1, 50, 90, 99):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(durations, percent), rel=0.11)
    assert histogram.total == 5000
    assert histogram.seconds == pytest.approx(durations.sum())


def test_percentiles_at_the_edges() -> None:
    histogram = Histogram()
    assert histogram.percentile(50) == 0.0
    histogram.add(0.0)
    assert histogram.percentile(100) == pytest.approx(1e-6)
    histogram.add(1e9)
    assert histogram.percentile(100) > 1000


def test_empty_meters() -> None:
    assert Meters().throughput == 0.0
    assert Meters().lag == 0.0


def test_a_session_measures_with_its_own_clock() -> None:
    seconds = iter(range(100))
    session = Session(Average(), clock=lambda: float(next(seconds)))
    session.push(Rows(np.ones((6, 2))))
    session.push(Rows(np.ones((3, 2))))
    meters = session.meters
    assert (meters.items, meters.events, meters.ticks) == (9, 2, 0)
    assert meters.latency.total == 2
    assert meters.latency.seconds == 2.0
    assert meters.throughput == 4.5
    assert (meters.newest_in, meters.newest_out, meters.lag) == (9.0, 8.0, 1.0)
