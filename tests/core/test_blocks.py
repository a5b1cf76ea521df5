import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unending.core import blocks, nbytes


@given(st.integers(1, 7), st.lists(st.integers(0, 9), max_size=8))
def test_blocks_do_not_depend_on_the_cuts(hop: int, sizes: list[int]) -> None:
    items = np.arange(sum(sizes))
    whole_rest, whole = blocks.feed(blocks.remainder(hop), items)
    rest, found = blocks.remainder(hop), []
    for part in np.split(items, np.cumsum(sizes)[:-1]) if sizes else []:
        rest, more = blocks.feed(rest, part)
        found += more
    assert [block.tolist() for block in found] == [block.tolist() for block in whole]
    assert all(len(block) == hop for block in found)
    assert np.array_equal(rest.items, whole_rest.items)
    assert (rest.count, rest.position) == (whole_rest.count, whole_rest.position)
    assert np.concatenate([*found, rest.items[: rest.count]]).tolist() == items.tolist()


def test_blocks_stay_anchored_after_a_flush() -> None:
    rest, full = blocks.feed(blocks.remainder(4), np.arange(6))
    assert [block.tolist() for block in full] == [[0, 1, 2, 3]]
    rest, tail = blocks.flush(rest)
    assert tail.tolist() == [4, 5]
    assert (rest.count, rest.position) == (0, 6)
    rest, full = blocks.feed(rest, np.arange(6, 13))
    assert [block.tolist() for block in full] == [[6, 7], [8, 9, 10, 11]]
    rest, again = blocks.flush(rest)
    assert again.tolist() == [12]
    assert blocks.flush(rest)[1].tolist() == []


def test_remainder_keeps_no_memory_of_its_caller() -> None:
    items = np.arange(1000)
    rest, full = blocks.feed(blocks.remainder(8), items)
    tail = blocks.flush(rest)[1]
    items[:] = -1
    assert nbytes(rest) == 8 * 8 + 16
    assert tail.tolist() == []
    assert full[0].tolist() == list(range(8))


def test_rows_keep_shape_and_type() -> None:
    rest, full = blocks.feed(blocks.remainder(2, (3,), np.float32), np.ones((5, 3)))
    assert [block.shape for block in full] == [(2, 3), (2, 3)]
    assert full[0].dtype == np.float32
    assert rest.count == 1
