import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unending.parts.prefix import PagedKVPool, PrefixCache

SIZE = 2


def ids(sequence):
    return np.array(sequence, dtype=np.int64)


def read(cache, pool, prompt):
    """What a request does: take what is known, compute the rest, keep the full blocks; gives its table and hits."""
    known = cache.match(ids(prompt))
    pool.share(known)
    rest = pool.blocks_for(len(prompt)) - len(known)
    cache.evict(rest - pool.free)
    pool.commit()
    table = np.concatenate([known, pool.allocate(rest)])
    full = len(prompt) // SIZE
    table[:full] = cache.store(ids(prompt[: full * SIZE]), table[:full])
    return table, len(known)


def test_whole_blocks_are_found_again_short_of_the_last_token():
    pool = PagedKVPool.of(((1, 2),), 16, SIZE)
    cache = PrefixCache(pool)
    table, hits = read(cache, pool, [1, 2, 3, 4, 5, 6])
    assert hits == 0
    assert cache.match(ids([1, 2, 3, 4, 5, 6])).tolist() == table[:2].tolist()
    assert cache.match(ids([1, 2, 3, 4, 5, 6, 7])).tolist() == table[:3].tolist()
    assert cache.match(ids([1, 2, 3, 9, 9])).tolist() == table[:1].tolist()
    assert not len(cache.match(ids([2, 2, 3])))


def test_what_was_used_last_stays():
    pool = PagedKVPool.of(((1, 2),), 4, SIZE)
    cache = PrefixCache(pool)
    for prompt in ([1, 1, 1, 1], [2, 2, 2, 2], [1, 1, 1, 1]):
        pool.release(read(cache, pool, prompt)[0])
        pool.commit()
    assert cache.idle == 4
    table, _ = read(cache, pool, [3, 3, 3, 3])
    assert len(cache.match(ids([1, 1, 1, 1, 0]))) == 2
    assert not len(cache.match(ids([2, 2, 2, 2, 0])))
    pool.release(table)


def test_a_block_that_is_known_already_is_held_instead_of_its_double():
    pool = PagedKVPool.of(((1, 2),), 8, SIZE)
    cache = PrefixCache(pool)
    one, two = pool.allocate(2), pool.allocate(3)
    first = cache.store(ids([1, 1, 1, 1]), one)
    second = cache.store(ids([1, 1, 1, 1, 2, 2]), two)
    assert second.tolist() == [*first.tolist(), int(two[2])]
    assert pool.held == 3
    pool.release(first)
    assert cache.idle == 0
    pool.release(second)
    assert cache.idle == 3


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=9), st.integers(0, 3)),
        min_size=1,
        max_size=25,
    )
)
def test_blocks_add_up_and_all_that_is_idle_can_be_evicted(requests):
    pool = PagedKVPool.of(((1, 2),), 24, SIZE)
    cache, running = PrefixCache(pool), []
    for prompt, ends in requests:
        for _ in range(min(ends, len(running))):
            pool.release(running.pop(0))
        pool.commit()
        if pool.blocks_for(len(prompt)) <= pool.free + cache.idle - len(prompt):
            running.append(read(cache, pool, prompt)[0])
        pool.check()
    for table in running:
        pool.release(table)
    assert cache.idle == pool.held
    cache.evict(pool.held)
    pool.commit()
    assert pool.free == pool.total
