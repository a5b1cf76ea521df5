"""MinHash: signatures depend on the set alone, and agree as often as sets overlap."""

import numpy as np
import pytest

from unending.core.errors import InputError
from unending.parts.sketches.min_hash import MinHash, permutations


def test_permutations_are_permutations_of_their_own():
    rows = permutations(3, 4, 50)
    assert (np.sort(rows, axis=1) == np.arange(50)).all()
    assert len({row.tobytes() for row in rows}) == 4
    np.testing.assert_array_equal(rows[:2], permutations(3, 2, 50))


def test_a_signature_knows_the_set_and_nothing_else():
    hashes = MinHash(8, 30, seed=1)
    np.testing.assert_array_equal(hashes.signature([3, 9, 9, 4]), hashes.signature([4, 3, 9]))


def test_signatures_agree_as_often_as_the_sets_overlap():
    hashes = MinHash(4000, 60, seed=0)
    one, two = hashes.signature(range(40)), hashes.signature(range(20, 60))
    assert MinHash.similarity(one, two) == pytest.approx(20 / 60, abs=0.03)


@pytest.mark.parametrize("ids", [[], [-1], [30]])
def test_what_has_no_signature_is_refused(ids):
    with pytest.raises(InputError, match="from 0 to 29"):
        MinHash(2, 30).signature(ids)
