"""Step sizes."""

import pytest

from unending.core.errors import InputError
from unending.parts.numerics.schedules import PowerSchedule


def test_a_schedule_falls_to_its_floor():
    schedule = PowerSchedule(0.75, floor=0.1)
    assert [schedule(1), schedule(16)] == pytest.approx([1.0, 0.125])
    assert schedule(10**6) == 0.1
    assert PowerSchedule(0.0)(1000) == 1.0


@pytest.mark.parametrize("wrong", [(-0.5, 0.0), (0.5, -0.1), (0.5, 1.5), (float("nan"), 0.0)])
def test_senseless_schedules_are_refused(wrong):
    with pytest.raises(InputError):
        PowerSchedule(*wrong)
