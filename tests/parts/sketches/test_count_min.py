"""Count-Min: never below the truth, linear, the same hash functions wherever the seed is the same."""

import numpy as np
import pytest

from unending.core.errors import InputError
from unending.core.random import philox
from unending.parts.sketches.count_min import CountMinSketch, cell_of, row_seeds


def mixed(code, seed, width):
    """SplitMix64's finaliser on Python integers."""
    mask = (1 << 64) - 1
    z = (code * 0x9E3779B97F4A7C15 + seed) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) % width


@pytest.mark.parametrize("code", [0, 1, 77, 2**40 + 3, 2**62])
def test_the_hash_is_splitmix(code):
    for seed in row_seeds(3, 4):
        assert cell_of(code, seed, 23) == mixed(code, int(seed), 23)


def test_estimates_are_never_below_and_seldom_far_above():
    codes = (200 * philox(0, 0).random(5000) ** 3).astype(int)
    sketch = CountMinSketch(4, 60, seed=1)
    sketch.update(codes)
    truth = np.bincount(codes, minlength=200)
    found = np.array([sketch.estimate(code) for code in range(200)])
    assert (found >= truth).all()
    assert (found - truth > np.e / 60 * 5000).mean() <= 0.05


def test_consecutive_codes_spread_over_all_cells():
    """A hash that keeps low bits together (such as code xor seed, modulo) would leave most cells empty."""
    seed = row_seeds(0, 1)[0]
    for step in (1, 20, 2**20):
        counts = np.bincount([cell_of(step * each, seed, 20) for each in range(2000)], minlength=20)
        assert counts.min() > 60
        assert counts.max() < 150


def test_merging_is_counting_both_and_subtracting_takes_it_back():
    rng = philox(1, 1)
    one, two, both = (CountMinSketch(3, 20, seed=5) for _ in range(3))
    first, second = rng.integers(0, 90, 300).tolist(), rng.integers(0, 90, 200).tolist()
    one.update(first)
    two.update(second)
    both.update(first + second)
    before = one.cells.copy()
    one.merge(two)
    np.testing.assert_array_equal(one.cells, both.cells)
    one.subtract(two)
    np.testing.assert_array_equal(one.cells, before)
    assert one.total == 300


def test_tables_of_other_seeds_cannot_be_added():
    with pytest.raises(InputError, match="differ in shape or seed"):
        CountMinSketch(2, 9, seed=0).merge(CountMinSketch(2, 9, seed=1))
    with pytest.raises(InputError, match="at least 1 row"):
        CountMinSketch(0, 9)
