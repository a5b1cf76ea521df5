"""Iterations by counts alone: life of a group, admission, order, and the toys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unending.core.errors import CapacityError, InputError
from unending.systems.language.batch_llm import CostModel, Policy, PrefixForest, simulate
from unending.systems.language.batch_llm.progress import DONE, RUNNING, lay_out
from unending.systems.language.batch_llm.scheduler import Scheduler


def groups(*sizes):
    """Groups of `(prefix, [suffixes])` in tokens, none of which has a token in common with another."""
    token = iter(range(1, 10**9))
    made = [
        [[[next(token) for _ in range(prefix)]], [[next(token) for _ in range(n)] for n in suffixes]]
        for prefix, suffixes in sizes
    ]
    return PrefixForest.from_groups(made).groups()


def limits(n, value=4):
    return np.full(n, value)


def run(progress, policy):
    """Every iteration to the end, as `(scheduler before it advanced, works)`."""
    while not (scheduler := Scheduler(progress, policy)).finished:
        works = scheduler.plan()
        yield scheduler, works
        scheduler.advance(works)
        progress = scheduler.progress


def test_an_iteration_has_decodes_first_then_what_is_partly_read_then_members_then_new_prefixes():
    policy = Policy(blocks=100, block_size=4, max_batched_tokens=10)
    made = groups((6, [3, 9]), (7, [2, 2]), (0, [5]))
    seen = [
        [(work.decode, work.group >= 0, work.prompt, work.start, work.tokens) for work in works]
        for _, works in run(lay_out(made, policy, limits(5)), policy)
    ]
    # By decode tokens over prefill tokens: 8 / 18, 8 / 11, 4 / 5.
    assert seen[0] == [(False, False, 4, 0, 5), (False, True, 2, 0, 5)]
    assert seen[1] == [(True, False, 4, 5, 1), (False, True, 2, 5, 2), (False, True, 0, 0, 6)]
    # The prefix that is held gives its members the way before anything that is new.
    assert seen[2] == [
        (True, False, 4, 6, 1),
        (False, False, 2, 7, 2),
        (False, False, 3, 7, 2),
        (False, False, 0, 6, 3),
        (False, False, 1, 6, 2),
    ]
    assert seen[3][:3] == [(True, False, 4, 7, 1), (True, False, 2, 9, 1), (True, False, 3, 9, 1)]
    assert seen[3][-1] == (False, False, 1, 8, 6)


def test_all_that_decodes_is_in_every_iteration_and_prefill_takes_what_is_left():
    policy = Policy(blocks=100, block_size=4, max_batched_tokens=3)
    progress = lay_out(groups((2, [1] * 5), (0, [7])), policy, limits(6, 9))
    for scheduler, works in run(progress, policy):
        now = scheduler.progress
        decoding = (now.phase == RUNNING) & (now.generated > 0)
        assert {work.prompt for work in works if work.decode} >= set(np.flatnonzero(decoding).tolist())
        assert sum(work.tokens for work in works) <= 3


def test_the_ratio_is_taken_after_sharing():
    """Before sharing the first group looks heavy to read; after it, it is the lighter one."""
    made = groups((100, [5] * 10), (0, [40]))
    policy = Policy(blocks=1000)
    order = np.argsort(lay_out(made, policy, limits(11, 10)).rank)
    assert order.tolist() == [*range(10), 10]
    logical = [100 / (10 * 105), 10 / 40]
    assert np.argsort([-each for each in logical]).tolist() == [1, 0]
    first = Policy(blocks=1000, order="fcfs")
    made = groups((0, [40]), (100, [5] * 10))
    assert np.argsort(lay_out(made, first, limits(11, 10)).rank).tolist() == list(range(11))
    assert np.argsort(lay_out(made, policy, limits(11, 10)).rank).tolist() == [*range(1, 11), 0]


def test_expected_lengths_decide_the_order_and_the_limit_the_memory():
    made = groups((0, [10]), (0, [10]))
    policy = Policy(blocks=10, block_size=4)
    progress = lay_out(made, policy, limits(2, 8), expected=np.array([1, 8]))
    assert np.argsort(progress.rank).tolist() == [1, 0]
    assert Scheduler(progress, policy).promised(extra=0) == 5


def test_a_prefix_is_counted_once_whoever_shares_it():
    policy = Policy(blocks=10 + 8, block_size=4)
    progress = lay_out(groups((40, [4] * 8)), policy, limits(8, 1))
    most = 0
    for scheduler, _ in run(progress, policy):
        assert scheduler.promised() <= policy.budget
        most = max(most, int((scheduler.progress.phase == RUNNING).sum()))
    assert most == 8
    counted_by_each_member = 8 * (10 + 1)
    assert counted_by_each_member > policy.budget


def test_a_group_larger_than_the_memory_goes_through_in_parts_with_its_prefix_kept():
    policy = Policy(blocks=12, block_size=4, max_batched_tokens=64)
    progress = lay_out(groups((32, [4] * 9)), policy, limits(9, 4))
    read, most = 0, 0
    for scheduler, works in run(progress, policy):
        read += sum(work.tokens for work in works if work.group >= 0)
        most = max(most, int((scheduler.progress.phase == RUNNING).sum()))
    assert read == 32
    assert most == 2
    assert (scheduler.progress.phase == DONE).all()


def test_a_group_that_fits_only_unshared_is_run_unshared():
    """Prefix and suffix are rounded up to blocks one by one."""
    policy = Policy(blocks=3, block_size=4)
    progress = lay_out(groups((5, [5, 5])), policy, limits(2, 2))
    assert (progress.group == -1).all()
    assert sum(work.tokens for _, works in run(progress, policy) for work in works if not work.decode) == 20


def test_what_can_never_fit_is_refused():
    with pytest.raises(CapacityError, match=r"prompt 1 .* 4 blocks .* there are 3"):
        lay_out(groups((0, [5]), (0, [10])), Policy(blocks=3, block_size=4), limits(2, 4))


def test_a_prefix_is_let_go_when_its_last_member_ends_and_not_before():
    policy = Policy(blocks=100, block_size=4, max_batched_tokens=7)
    progress = lay_out(groups((9, [3, 1, 0]), (5, [2, 2])), policy, np.array([2, 6, 3, 1, 4]))
    for scheduler, works in run(progress, policy):
        before = scheduler.progress.held.copy()
        twin = Scheduler(scheduler.progress, policy)
        _, let_go = twin.advance(works)
        unfinished = {
            int(g) for g, phase in zip(progress.group, twin.progress.phase, strict=True) if phase != DONE
        }
        assert set(let_go) == {g for g in range(2) if before[g] == RUNNING and g not in unfinished}


def test_a_prompt_that_is_all_prefix_takes_its_first_token_from_the_prefix():
    policy = Policy(blocks=100, block_size=4, max_batched_tokens=4)
    progress = lay_out(groups((6, [0, 3, 0])), policy, np.array([1, 2, 3]))
    first, second = list(run(progress, policy))[:2]
    assert first[1][0].samples == ()
    assert second[1][0].samples == (0, 2)
    total = sum(work.tokens for _, works in run(progress, policy) for work in works if not work.decode)
    assert total == 6 + 3


def test_a_limited_number_of_sequences():
    policy = Policy(blocks=1000, admission="num_seqs", max_num_seqs=3)
    progress = lay_out(groups((8, [4] * 6), (0, [5]), (0, [6])), policy, limits(8))
    most = max(int((scheduler.progress.phase == RUNNING).sum()) for scheduler, _ in run(progress, policy))
    assert most == 3


def test_policies_that_do_not_exist_are_refused():
    for wrong in (
        {"order": "lifo"},
        {"admission": "hope"},
        {"blocks": 0},
        {"kv_share": 0.0},
        {"max_num_seqs": 0},
    ):
        with pytest.raises(InputError):
            Policy(**{"blocks": 4, **wrong})


@settings(max_examples=120)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.lists(st.integers(0, 6), min_size=1, max_size=5)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 6),
    st.integers(1, 30),
    st.sampled_from(["decode_ratio", "fcfs"]),
    st.sampled_from(["kv_memory", "num_seqs"]),
    st.integers(0, 99),
)
def test_whatever_the_batch_it_ends_within_memory_and_reads_every_token_once(
    sizes, spare, budget, order, admission, seed
):
    """Nothing starves, however small the memory: any that each prompt alone fits in."""
    sizes = [(prefix, [max(1, n) if not prefix else n for n in suffixes]) for prefix, suffixes in sizes]
    made = groups(*sizes)
    count = sum(len(group.members) for group in made)
    limit = np.random.default_rng(seed).integers(1, 7, count)
    longest = max(
        len(group.prefix) + len(suffix) + limit[number]
        for group in made
        for number, suffix in zip(group.members, group.suffixes, strict=True)
    )
    policy = Policy(-(-int(longest) // 4) + spare, 4, budget, order, admission, max_num_seqs=2)
    progress = lay_out(made, policy, limit)
    read = decoded = 0
    for step, (scheduler, works) in enumerate(run(progress, policy)):
        assert step < 2000
        assert scheduler.promised() <= policy.budget
        read += sum(work.tokens for work in works if not work.decode)
        decoded += sum(work.decode for work in works)
    shared = [progress.group[group.members[0]] >= 0 for group in made]
    assert read == sum(
        group.prefill + (0 if together else (len(group.members) - 1) * len(group.prefix))
        for group, together in zip(made, shared, strict=True)
    )
    assert (scheduler.progress.generated == limit).all()
    assert decoded == (limit - 1).sum()


def mixed(seed=0, count=16, size=12):
    """Groups by turns heavy to read and heavy to decode, in an order that helps nobody."""
    rng = np.random.default_rng(seed)
    sizes, decode = [], []
    for index in rng.permutation(count):
        heavy = index % 2
        sizes.append((200 if heavy else 600, [int(n) for n in rng.integers(20, 60, size)]))
        decode += rng.integers(150, 250, size).tolist() if heavy else rng.integers(4, 16, size).tolist()
    return groups(*sizes), np.array(decode)


def test_order_and_admission_each_shorten_the_batch_and_fill_its_iterations():
    made, decode = mixed()
    found = {
        (order, admission): simulate(
            made,
            Policy(1000, 16, 1024, order, admission, max_num_seqs=32),
            decode,
            cost=CostModel(weights=0.01),
        )
        for order in ("decode_ratio", "fcfs")
        for admission in ("kv_memory", "num_seqs")
    }
    both, neither = found["decode_ratio", "kv_memory"], found["fcfs", "num_seqs"]
    for one in (found["decode_ratio", "num_seqs"], found["fcfs", "kv_memory"]):
        assert one.makespan < neither.makespan
    assert both.makespan < found["fcfs", "kv_memory"].makespan
    assert both.makespan < 0.8 * neither.makespan
    assert both.mean_tokens > 1.2 * neither.mean_tokens
    assert len({report.prefill_tokens for report in found.values()}) == 1
    assert all(report.peak_kv <= 1000 * 16 for report in found.values())


def test_simulated_completions_may_end_before_their_limit():
    made = groups((8, [3, 3]))
    report = simulate(made, Policy(100, 4), np.array([2, 5]), limit=limits(2, 9))
    assert report.prefill_tokens == 14
    assert report.decode_tokens == (2 - 1) + (5 - 1)
