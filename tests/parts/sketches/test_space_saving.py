"""Space-Saving: its three guarantees, and eviction as defined."""

from collections import Counter

import pytest

from unending.core.errors import InputError
from unending.core.random import philox
from unending.parts.sketches.space_saving import SpaceSaving


@pytest.mark.parametrize("capacity", [1, 5, 20])
def test_estimates_lie_between_the_truth_and_the_stated_error(capacity):
    items = (60 * philox(0, 0).random(4000) ** 4).astype(int).tolist()
    truth, sketch = Counter(items), SpaceSaving(capacity)
    for item in items:
        sketch.add(item)
    assert len(sketch) == capacity
    assert sketch.total == 4000
    for item, estimate in sketch.items():
        assert truth[item] <= estimate <= truth[item] + 4000 / capacity
        assert estimate - sketch.error(item) <= truth[item]
    for item, count in truth.items():
        assert sketch.estimate(item) >= count
        if count > 4000 / capacity:
            assert item in sketch


def test_it_is_the_plain_algorithm():
    """Against a list that is searched for the smallest and longest untouched counter."""
    items = philox(2, 0).integers(0, 30, 2000).tolist()
    sketch, plain = SpaceSaving(7), {}
    for time, item in enumerate(items):
        sketch.add(item)
        if item not in plain and len(plain) == 7:
            smallest = min(plain, key=lambda each: plain[each])
            count = plain.pop(smallest)[0]
            plain[item] = (count + 1, time)
        else:
            plain[item] = (plain.get(item, (0, 0))[0] + 1, time)
    assert dict(sketch.items()) == {item: count for item, (count, _) in plain.items()}


def test_no_counter_is_refused():
    with pytest.raises(InputError, match="at least 1 counter"):
        SpaceSaving(0)
    sketch = SpaceSaving(2)
    for count in (0, -1):
        with pytest.raises(InputError, match="1 upwards"):
            sketch.add("a", count)
    assert sketch.total == len(sketch) == 0
