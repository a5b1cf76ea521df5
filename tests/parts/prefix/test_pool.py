from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unending.core import fork
from unending.core.errors import CapacityError, InputError, StateError
from unending.core.state import canonical, leaves, nbytes
from unending.parts.prefix import PagedKVPool, block_bytes, empty_blocks

SHAPES = ((2, 3), (1, 4))
SIZE = 4


def make(blocks: int = 9, host: int = 5) -> PagedKVPool:
    return PagedKVPool.of(SHAPES, blocks, SIZE, host_blocks=host)


def content(first: int, n: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers that belong to one token and layer alone."""
    heads, dim = SHAPES[layer]
    keys = (
        torch.arange(first, first + n)[:, None, None] * 64 + torch.arange(heads * dim).view(heads, dim)
    ) + 1
    return keys.float(), -keys.float() - layer


class Sequence:
    """A sequence as a list of token numbers, beside its table in the pool."""

    def __init__(self) -> None:
        self.table = np.zeros(0, dtype=np.int64)
        self.tokens: list[int] = []
        self.host = False

    def copy(self) -> "Sequence":
        twin = Sequence()
        twin.table, twin.tokens, twin.host = self.table.copy(), list(self.tokens), self.host
        return twin


class World:
    """Sequences over one pool, with the list of tokens each must hold."""

    def __init__(self, pool: PagedKVPool) -> None:
        self.pool = pool
        self.sequences: list[Sequence] = []
        self.next = 0

    def append(self, each: Sequence, n: int) -> None:
        each.table, rows = self.pool.extend(each.table, len(each.tokens), n)
        for layer in range(len(SHAPES)):
            self.pool.write(layer, rows, *content(self.next, n, layer))
        each.tokens += range(self.next, self.next + n)
        self.next += n

    def verify(self) -> None:
        self.pool.check()
        owners: dict[int, int] = {}
        for each in self.sequences:
            if each.host:
                continue
            for block in each.table.tolist():
                owners[block] = owners.get(block, 0) + 1
            assert len(each.table) >= self.pool.blocks_for(len(each.tokens))
            for layer in range(len(SHAPES)):
                keys, values = self.pool.gather(layer, each.table, len(each.tokens))
                wanted = [content(token, 1, layer) for token in each.tokens]
                if wanted:
                    torch.testing.assert_close(keys, torch.cat([k for k, _ in wanted]), rtol=0, atol=0)
                    torch.testing.assert_close(values, torch.cat([v for _, v in wanted]), rtol=0, atol=0)
        held = np.array([owners.get(block, 0) for block in range(self.pool.total)])
        np.testing.assert_array_equal(self.pool.references(np.arange(self.pool.total)), held)
        assert self.pool.held == len(owners)


def act(world: World, kind: str, number: int) -> None:
    pool, sequences = world.pool, world.sequences
    if kind == "new":
        sequences.append(Sequence())
        return
    if not sequences:
        return
    each = sequences[number % len(sequences)]
    if kind == "end":
        (pool.release_host if each.host else pool.release)(each.table)
        sequences.remove(each)
    elif kind == "swap":
        each.table = (pool.swap_in if each.host else pool.swap_out)(each.table, len(each.tokens))
        each.host = not each.host
    elif each.host:
        return
    elif kind == "append":
        world.append(each, number % 7)
    elif kind == "fork":
        pool.share(each.table)
        sequences.append(each.copy())
    elif kind == "truncate":
        keep = number % (len(each.tokens) + 1)
        each.table, each.tokens = pool.truncate(each.table, keep), each.tokens[:keep]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["new", "append", "append", "append", "fork", "truncate", "swap", "end", "commit", "drop"]
        ),
        st.integers(0, 99),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(ACTIONS)
def test_blocks_add_up_sequences_keep_their_tokens_and_a_dropped_step_is_undone(actions):
    torch.set_num_threads(1)
    world = World(make())
    kept = fork(world.pool.blocks), [each.copy() for each in world.sequences]
    for kind, number in actions:
        if kind == "commit":
            world.pool.commit()
            assert world.pool.free + world.pool.held == world.pool.total
            kept = fork(world.pool.blocks), [each.copy() for each in world.sequences]
        elif kind == "drop":
            world.pool.drop()
            world.sequences = [each.copy() for each in kept[1]]
        else:
            with suppress(CapacityError):
                act(world, kind, number)
        world.verify()
    world.pool.drop()
    world.sequences = kept[1]
    world.verify()
    for (name, one), two in zip(
        leaves(canonical(world.pool.blocks)).items(), leaves(canonical(kept[0])).values(), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two), err_msg=name)


def test_a_block_let_go_is_handed_out_again_only_after_the_commit():
    pool = make(2, 0)
    ids = pool.allocate(2)
    pool.commit()
    pool.release(ids[:1])
    assert pool.free == 0
    with pytest.raises(CapacityError):
        pool.allocate(1)
    pool.commit()
    assert pool.allocate(1).tolist() == [0]


def test_a_block_of_this_step_can_be_handed_out_again_at_once():
    pool = make(1, 0)
    pool.release(pool.allocate(1))
    assert pool.free == 1


def test_a_partly_valid_last_block_is_overwritten_only_in_a_later_step():
    world = World(make())
    one = Sequence()
    world.sequences.append(one)
    world.append(one, 7)
    world.pool.commit()
    one.table, one.tokens = world.pool.truncate(one.table, 5), one.tokens[:5]
    before = one.table.copy()
    committed = fork(world.pool.blocks)
    world.append(one, 3)
    assert one.table[1] != before[1]
    for now, then in zip(world.pool.blocks.keys, committed.keys, strict=True):
        torch.testing.assert_close(now[before, :], then[before, :], rtol=0, atol=0)
    world.verify()

    world = World(make())
    one = Sequence()
    world.sequences.append(one)
    world.append(one, 7)
    world.pool.commit()
    one.table, one.tokens = world.pool.truncate(one.table, 5), one.tokens[:5]
    world.pool.commit()
    before = one.table.copy()
    world.append(one, 3)
    np.testing.assert_array_equal(one.table, before)
    world.verify()


def test_blocks_allocated_ahead_are_used_first():
    pool = make()
    table = pool.allocate(3)
    pool.commit()
    grown, rows = pool.extend(table, 0, 9)
    np.testing.assert_array_equal(grown, table)
    assert rows.tolist() == list(range(9))


def test_a_write_where_the_step_has_made_no_room_is_refused():
    pool = make()
    _, rows = pool.extend([], 0, 3)
    pool.write(0, rows, *content(0, 3, 0))
    pool.commit()
    with pytest.raises(StateError, match="has not made room"):
        pool.write(0, rows, *content(0, 3, 0))


def test_growing_into_a_shared_block_ahead_is_refused():
    pool = make()
    table = pool.allocate(2)
    pool.share(table)
    with pytest.raises(StateError, match="shared"):
        pool.extend(table, 4, 1)


def test_swap_round_trip_is_bit_exact_and_keeps_the_shared_blocks():
    world = World(make())
    one = Sequence()
    world.sequences.append(one)
    world.append(one, 10)
    world.pool.share(one.table)
    world.sequences.append(one.copy())
    world.pool.commit()
    before = [world.pool.gather(layer, one.table, 10) for layer in range(2)]
    host = world.pool.swap_out(one.table, 10)
    world.sequences.remove(one)
    world.verify()
    world.pool.commit()
    back = world.pool.swap_in(host, 10)
    for layer in range(2):
        for now, then in zip(world.pool.gather(layer, back, 10), before[layer], strict=True):
            assert torch.equal(now, then)
    world.pool.commit()
    assert world.pool.host_free == 5


def test_a_swap_that_does_not_fit_changes_nothing():
    world = World(make(host=1))
    one = Sequence()
    world.sequences.append(one)
    world.append(one, 10)
    world.pool.commit()
    with pytest.raises(CapacityError, match="host"):
        world.pool.swap_out(one.table, 10)
    world.verify()
    with pytest.raises(CapacityError, match="no swap area"):
        make(host=0).swap_out([], 0)


def test_releasing_too_often_and_sharing_what_is_free_are_refused():
    pool = make()
    ids = pool.allocate(2)
    with pytest.raises(StateError, match="more often"):
        pool.release([*ids, ids[0]])
    assert pool.held == 2
    with pytest.raises(StateError, match="held by nobody"):
        pool.share([5])
    with pytest.raises(StateError, match="does not hold"):
        pool.truncate(ids, 9)


def test_allocating_more_than_is_free_changes_nothing():
    pool = make(3, 0)
    with pytest.raises(CapacityError, match="4 device blocks are wanted, 3 of 3 are free"):
        pool.allocate(4)
    assert pool.free == 3
    with pytest.raises(CapacityError):
        pool.extend([], 0, 13)
    assert pool.free == 3


def test_bytes_and_the_canonical_form():
    pool = make()
    assert nbytes(pool.blocks) == block_bytes(SHAPES, 9, SIZE, 4)
    assert pool.bytes() == block_bytes(SHAPES, 9 + 5, SIZE, 4)
    _, rows = pool.extend([], 0, 5)
    pool.write(0, rows, *content(0, 5, 0))
    kept = pool.blocks
    assert not any(held.any() for held in canonical(kept).keys)
    pool.commit()
    assert canonical(pool.blocks).keys[0][1, 1:].eq(0).all()
    assert torch.equal(canonical(pool.blocks).keys[0][0], kept.keys[0][0])


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="a pool has"):
        empty_blocks(SHAPES, -1, 4, torch.float32)
    with pytest.raises(InputError):
        empty_blocks(SHAPES, 1, 0, torch.float32)
