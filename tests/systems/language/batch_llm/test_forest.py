"""Global prefix grouping against brute force, and against the toys."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unending.core.errors import InputError
from unending.parts.prefix import longest_common_prefix
from unending.systems.language.batch_llm import PrefixForest

PROMPTS = st.lists(st.lists(st.integers(0, 1), max_size=8), min_size=1, max_size=9)


def forest(prompts):
    return PrefixForest.from_prompts(prompts).enlarge()


def common(prompts):
    prefix = np.array(prompts[0])
    for each in prompts[1:]:
        prefix = prefix[: longest_common_prefix(prefix, np.array(each))]
    return len(prefix)


def partitions(n, labels=()):
    """Every way to put n things into groups, as the group of each."""
    if len(labels) == n:
        yield labels
        return
    for label in range(max((-1, *labels)) + 2):
        yield from partitions(n, (*labels, label))


def best_by_brute_force(prompts):
    """Fewest tokens of all ways to group, each group sharing what all of it begins with."""
    best = None
    for labels in partitions(len(prompts)):
        groups = [
            [p for p, own in zip(prompts, labels, strict=True) if own == label] for label in set(labels)
        ]
        cost = sum(sum(map(len, group)) - (len(group) - 1) * common(group) for group in groups)
        best = cost if best is None else min(best, cost)
    return best


def best_by_tree(prompts):
    """The same by dynamic programming: at each branching of the trie, stay in the group above or begin one."""

    def best(members, depth, anchor):
        """Fewest tokens below `depth` for members that agree up to there, in a group that shares `anchor` tokens."""
        if len(members) == 1:
            return len(members[0]) - anchor
        here = common(members)
        ends = [each for each in members if len(each) == here]
        branches = {}
        for each in members:
            if len(each) > here:
                branches.setdefault(each[here], []).append(each)
        stay = len(ends) * (here - anchor) + sum(best(each, here, anchor) for each in branches.values())
        begin = here + sum(best(each, here, here) for each in branches.values())
        return min(stay, begin) if here > anchor else stay

    return best(prompts, 0, 0)


@settings(max_examples=200)
@given(PROMPTS)
def test_expanding_the_groups_gives_every_prompt_back_once(prompts):
    for made in (PrefixForest.from_prompts(prompts), forest(prompts)):
        found = {}
        for group in made.groups():
            assert list(group.members) == sorted(group.members)
            for number, suffix in zip(group.members, group.suffixes, strict=True):
                assert number not in found
                found[number] = [*group.prefix.tolist(), *suffix.tolist()]
        assert found == dict(enumerate(prompts))


@settings(max_examples=200)
@given(PROMPTS)
def test_no_more_than_all_tokens_and_no_less_than_sharing_at_every_level(prompts):
    made = forest(prompts)
    assert made.multi_level <= made.physical <= made.logical == sum(map(len, prompts))
    assert made.multi_level == len({tuple(p[:end]) for p in prompts for end in range(1, len(p) + 1)})
    assert made.physical == sum(len(g.prefix) + sum(map(len, g.suffixes)) for g in made.groups())
    if made.logical:
        assert made.saving_ratio() == pytest.approx(1 - made.physical / made.logical)


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 1), max_size=6), min_size=1, max_size=6))
def test_the_two_ways_to_the_optimum_agree_and_no_grouping_is_below_it(prompts):
    optimum = best_by_brute_force(prompts)
    assert best_by_tree(prompts) == optimum
    assert forest(prompts).physical >= optimum


def workload(seed, depth=3):
    """Prompts of a random tree: system prompts, documents below them, questions below those."""
    rng = np.random.default_rng(seed)

    def grow(before, level):
        span = rng.integers(0, 1000, int(rng.integers(5, 60))).tolist()
        here = before + span
        if level == depth:
            return [here]
        return [each for _ in range(int(rng.integers(1, 5))) for each in grow(here, level + 1)]

    prompts = [each for _ in range(int(rng.integers(1, 4))) for each in grow([], 0)]
    return [prompts[index] for index in rng.permutation(len(prompts))]


def test_enlarged_groups_are_within_two_percent_of_the_optimum_on_average():
    excess = [forest(workload(seed)).physical / best_by_tree(workload(seed)) for seed in range(60)]
    assert min(excess) >= 1
    assert np.mean(excess) < 1.02
    assert max(excess) < 1.1


def naive_enlarge(prompts, minus=1):
    """The rule of the paper on nested lists, written down once more; `minus=0` is the toy's gain."""

    def build(members, at):
        end = common(members) if len(members) > 1 else len(members[0])
        node = {"span": members[0][at:end], "kids": [], "ends": sum(len(each) == end for each in members)}
        branches = {}
        for each in members:
            if len(each) > end:
                branches.setdefault(each[end], []).append(each)
        node["kids"] = [build(each, end) for each in branches.values()]
        return node

    def leaves(node):
        return node["ends"] + sum(map(leaves, node["kids"]))

    def enlarge(node):
        for c in list(node["kids"]):
            enlarge(c)
            for g in list(c["kids"]):
                if (leaves(g) - minus) * len(g["span"]) - len(c["span"]) > 0:
                    c["kids"].remove(g)
                    g["span"] = c["span"] + g["span"]
                    node["kids"].append(g)
                    if len(c["kids"]) == 1 and not c["ends"]:
                        (last,) = c["kids"]
                        c.update(span=c["span"] + last["span"], kids=last["kids"], ends=last["ends"])
                        break
            if not c["kids"] and not c["ends"]:
                node["kids"].remove(c)

    def below(node, anchor, depth):
        depth += len(node["span"])
        return node["ends"] * (depth - anchor) + sum(below(kid, anchor, depth) for kid in node["kids"])

    branches = {}
    for each in prompts:
        branches.setdefault(each[0], []).append(each)
    root = {"span": [], "kids": [build(each, 0) for each in branches.values()], "ends": 0}
    enlarge(root)
    return sum(len(kid["span"]) + below(kid, len(kid["span"]), 0) for kid in root["kids"])


@settings(max_examples=150)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12))
def test_the_rule_equals_the_rule_written_down_once_more(prompts):
    assert forest(prompts).physical == naive_enlarge(prompts)


def test_first_level_prefixes_alone_save_much_less():
    """A system prompt that all share hides the documents behind it."""
    rng = np.random.default_rng(0)
    system = rng.integers(0, 1000, 40).tolist()
    documents = [rng.integers(0, 1000, 100).tolist() for _ in range(4)]
    prompts = [system + documents[n % 4] + rng.integers(0, 1000, 20).tolist() for n in range(32)]
    toy, ours = PrefixForest.from_prompts(prompts), forest(prompts)
    assert len(toy.groups()) == 1
    assert len(ours.groups()) == 4
    assert toy.saving_ratio() < 0.3
    assert ours.saving_ratio() > 0.7
    assert ours.physical == best_by_tree(prompts)


def test_a_gain_that_forgets_that_one_member_pays_costs_tokens():
    worse = 0
    for seed in range(20):
        prompts = workload(seed)
        assert naive_enlarge(prompts, minus=0) >= naive_enlarge(prompts)
        worse += naive_enlarge(prompts, minus=0) > naive_enlarge(prompts)
    assert worse > 10


@pytest.mark.parametrize(
    ("prompts", "physical", "groups"),
    [
        ([], 0, 0),
        ([[1, 2, 3]], 3, 1),
        ([[]], 0, 1),
        ([[], [], [1]], 1, 3),
        ([[1, 2], [1, 2], [1, 2]], 2, 1),
        ([[1, 2], [3, 4]], 4, 2),
        ([[1, 2], [1, 2, 3]], 3, 1),
        ([[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]], 6, 2),
        # Moving both grandchildren up would leave a node with nothing in it.
        ([[1, 2, 2, 2, 5], [1, 2, 2, 2, 6], [1, 3, 3, 3, 5], [1, 3, 3, 3, 6]], 12, 2),
        # A prompt that is the prefix of all others, alone once they have gone.
        ([[1], [1, 2, 2, 5], [1, 2, 2, 6], [1, 2, 2, 7]], 7, 2),
    ],
)
def test_prompts_that_are_easily_got_wrong(prompts, physical, groups):
    made = forest(prompts)
    assert made.physical == physical
    assert len(made.groups()) == groups
    assert sorted(number for group in made.groups() for number in group.members) == list(range(len(prompts)))


def test_a_chain_of_prefixes_is_no_recursion():
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        made = forest([[1] * n for n in range(1, 400)])
        assert sum(len(group.members) for group in made.groups()) == 399
    finally:
        sys.setrecursionlimit(before)


def test_groups_that_the_caller_has_made():
    made = PrefixForest.from_groups([[[[1, 2]], [[3], [4, 5], []]], [[[]], [[7]]]])
    assert [prompt.tolist() for prompt in made.prompts] == [[1, 2, 3], [1, 2, 4, 5], [1, 2], [7]]
    assert [group.prefix.tolist() for group in made.groups()] == [[1, 2], []]
    assert made.physical == 2 + 3 + 1
    for bad in ([[[1]]], [[[[1]], []]], [[[[1], [2]], [[3]]]]):
        with pytest.raises(InputError, match="suffix"):
            PrefixForest.from_groups(bad)
