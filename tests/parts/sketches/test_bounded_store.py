"""A store that cannot overflow, a stream that passes once, a uniform sample."""

from collections import Counter

import pytest

from unending.core.errors import CapacityError, InputError, OwnershipError
from unending.parts.sketches.bounded import BoundedStore
from unending.parts.sketches.reservoir import Reservoir, reservoir_slot
from unending.parts.sketches.single_pass import SinglePass


def test_a_full_store_refuses_and_stays_as_it_was():
    store = BoundedStore(2)
    store.put("a", 1)
    store.put("b", 2)
    with pytest.raises(CapacityError, match="holds 2 items and no more"):
        store.put("c", 3)
    assert sorted(store) == ["a", "b"]
    store.drop("a")
    store.put("c", 3)
    assert (store["c"], len(store), store.high_water) == (3, 2, 2)


def test_high_water_is_the_most_ever_held():
    store = BoundedStore(5)
    for key in range(3):
        store.put(key, key)
    store.retain([1])
    store.put(7, 7)
    assert (sorted(store), store.high_water) == ([1, 7], 3)


def test_what_leaves_is_handed_over_and_cannot_be_had_again():
    gone = []
    store = BoundedStore(1, on_evict=gone.append)
    store.put("a", 1)
    store.retain([])
    assert gone == [1]
    with pytest.raises(OwnershipError, match="let go, or never kept"):
        store["a"]
    with pytest.raises(OwnershipError):
        store.drop("a")


def test_a_key_is_held_once_and_capacity_is_not_negative():
    store = BoundedStore(2)
    store.put("a", 1)
    with pytest.raises(InputError, match="already"):
        store.put("a", 2)
    with pytest.raises(InputError, match="capacity -1"):
        BoundedStore(-1)


def test_a_stream_passes_once():
    stream = SinglePass([1, 2, 3])
    assert [item for item, _ in zip(stream, range(2), strict=False)] == [1, 2]
    with pytest.raises(OwnershipError, match="passes once"):
        iter(stream)
    with pytest.raises(TypeError):
        len(stream)
    with pytest.raises(TypeError):
        stream[0]


def test_taking_an_item_by_hand_starts_the_pass():
    stream = SinglePass("abc")
    assert next(stream) == "a"
    with pytest.raises(OwnershipError, match="1 of its items"):
        list(stream)


def test_every_item_is_sampled_equally_often():
    held = Counter()
    for seed in range(4000):
        sample = Reservoir(3, seed)
        for item in range(10):
            sample.add(item)
        assert len(sample.sample) == 3
        held.update(sample.sample)
    # Binomial(4000, 0.3) has a standard deviation of 29.
    assert all(abs(held[item] - 1200) < 130 for item in range(10))


def test_a_sample_is_that_of_its_seed_and_position():
    one, two = ([reservoir_slot(5, position, 4) for position in range(200)] for _ in range(2))
    assert one == two
    assert one[:4] == [0, 1, 2, 3]
    with pytest.raises(InputError):
        reservoir_slot(0, 0, 0)
