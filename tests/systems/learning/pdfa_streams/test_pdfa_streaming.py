"""The claims in small: structure recovered, bounded trees, repair of early mistakes, futures that tell states apart."""

import pickle
from copy import deepcopy

import numpy as np
import pytest

from unending.core import nbytes
from unending.core.errors import CapacityError, InputError
from unending.systems.learning.pdfa_streams import StreamingPDFALearner, perplexity, random_pdfa
from unending.systems.learning.pdfa_streams.comparing import (
    closest_states,
    same_automaton,
    skewed_strings,
    twins_apart_late,
)
from unending.systems.learning.pdfa_streams.learning import state_bytes
from unending.systems.learning.pdfa_streams.space_saving_learner import SpaceSavingPDFALearner


def separated(seed):
    """The first draw whose four states are well apart."""
    for attempt in range(400):
        target = random_pdfa(4, 3, 0.8, 5, seed=1000 * seed + attempt)
        least = target.probabilities[:, :-1][target.following >= 0].min()
        if len(target.following) == 4 and closest_states(target) > 0.2 and least > 0.08:
            return target
    raise AssertionError


def test_the_automaton_is_found_again_and_its_perplexity_is_nearly_the_best():
    recovered = 0
    for seed in range(5):
        target = separated(seed)
        model = StreamingPDFALearner(range(3), seed=seed).fit(target.sample(10_000, seed)).model_
        recovered += same_automaton(target, model)
        test = [list(each) for each in sorted({tuple(each) for each in target.sample(300, 99)})]
        truth = np.exp([target.logprob(each) for each in test])
        assert model.perplexity(test, truth) <= 1.01 * perplexity(truth, truth)
    assert recovered >= 4


def test_nodes_stay_flat_while_the_full_tree_grows():
    target = random_pdfa(6, 4, 0.6, 8, seed=0)
    data = target.sample(20_000, 0)
    learner = StreamingPDFALearner(range(4), nodes=4096)
    nodes, full = [], []
    tree = set()
    for start in range(0, 20_000, 2000):
        learner.partial_fit(data[start : start + 2000])
        tree |= {tuple(each[:n]) for each in data[start : start + 2000] for n in range(len(each) + 1)}
        nodes.append(learner.nodes_)
        full.append(len(tree))
    assert full[-1] > 5 * full[0]
    assert nodes[-1] <= 1.2 * nodes[0]
    assert nbytes(learner.state) == state_bytes(learner.settings)


def test_nothing_grows_but_below_the_hypothesis():
    data = random_pdfa(6, 4, 0.6, 8, seed=0).sample(400, 0)
    learner = StreamingPDFALearner(range(4), batch_size=40, nodes=4096).partial_fit(data[:40])
    grown = withheld = 0
    for start in range(40, 400, 40):
        links, used = learner.state.tree.links.copy(), learner.nodes_
        learner.partial_fit(data[start : start + 40])
        parents = learner.state.tree.links[used : learner.nodes_, 0]
        assert (parents < used).all(), "by one layer"
        assert (links[parents, 3] == 1).all()
        grown += len(parents)
        nodes = {tuple(path) for path in paths(links[:used])}
        withheld += sum(
            tuple(each[:n]) not in nodes for each in data[start : start + 40] for n in range(len(each))
        )
    assert grown > 0
    assert withheld > grown, "the full tree would have got these too"


def paths(links):
    """The strings that lead to the nodes of a tree."""
    found = [[]]
    for node in range(1, len(links)):
        parent = links[node, 0]
        found.append([*found[parent], int(np.flatnonzero(links[parent, 4:] == node)[0])])
    return found


def test_a_skewed_first_batch_is_repaired_by_replaying_and_not_by_greed():
    target = separated(1)
    first, data = skewed_strings(target, 100, 0), target.sample(20_000, 0)
    new, old = (
        StreamingPDFALearner(range(3), 100, delta=0.001, strategy=each).partial_fit(first)
        for each in ("new", "old")
    )
    assert new.model_.n_states == old.model_.n_states == 1, "both believe the first batch"
    assert same_automaton(target, new.partial_fit(data).model_)
    assert not same_automaton(target, old.partial_fit(data).model_)


def test_five_steps_of_future_tell_apart_what_one_does_not():
    found = {
        k: sum(
            same_automaton(
                target := twins_apart_late(3, 0.35, seed),
                StreamingPDFALearner(range(4), future_steps=k).fit(target.sample(3000, seed)).model_,
            )
            for seed in range(5)
        )
        for k in (1, 5)
    }
    assert found[5] >= 4
    assert found[1] == 0


def test_the_capacity_is_kept_and_what_is_refused_is_counted():
    target = random_pdfa(6, 4, 0.6, 8, seed=0)
    learner = StreamingPDFALearner(range(4), nodes=200).fit(target.sample(5000, 0))
    assert learner.nodes_ <= 200
    assert learner.state.tree.meta[3] > 0, "children for which there was no room"
    assert learner.state.tree.meta[4] > 0, "nodes given back"
    assert learner.model_.n_states > 1


@pytest.mark.parametrize("sizes", [(1,), (499, 2), (3000,), (0, 7, 0, 512)])
def test_the_cut_into_calls_changes_nothing(sizes):
    data = separated(2).sample(1300, 0)
    whole = StreamingPDFALearner(batch_size=200).fit(data)
    cut = StreamingPDFALearner(batch_size=200)
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        cut.partial_fit(data[at : at + size])
        at, turn = at + size, turn + 1
    cut.flush()
    np.testing.assert_array_equal(cut.state.tree.data, whole.state.tree.data)
    np.testing.assert_array_equal(cut.model_.probabilities, whole.model_.probabilities)


def test_learn_one_is_partial_fit_of_one_and_returns_nothing():
    one, many = StreamingPDFALearner(batch_size=10), StreamingPDFALearner(batch_size=10)
    for string in (data := separated(2).sample(50, 0)):
        assert one.learn_one(string) is None
    many.partial_fit(data)
    np.testing.assert_array_equal(one.model_.probabilities, many.model_.probabilities)


@pytest.mark.parametrize("copied", [deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_goes_on_to_the_same_bits(copied):
    data = separated(3).sample(2500, 0)
    learner = StreamingPDFALearner(batch_size=400).partial_fit(data[:1000])
    other = copied(learner)
    for each in (learner, other):
        each.partial_fit(data[1000:])
    np.testing.assert_array_equal(learner.state.tree.data, other.state.tree.data)
    np.testing.assert_array_equal(learner.model_.probabilities, other.model_.probabilities)


def test_a_query_changes_nothing_and_is_answered_by_the_merged_automaton():
    target = separated(0)
    learner = StreamingPDFALearner(range(3)).partial_fit(target.sample(2000, 0))
    before = [each.copy() for each in learner.state.tree]
    model = learner.model_
    model.predict_proba_next([0]), model.sample(5), model.to_dot()
    assert all((one == two).all() for one, two in zip(learner.state.tree, before, strict=True))
    assert model.n_states < learner.nodes_
    assert (learner.state.tree.links[:, 1] < 0).all(), "the tree itself is unmerged between batches"


def test_new_symbols_are_taken_until_the_alphabet_is_full():
    learner = StreamingPDFALearner(alphabet=3, batch_size=2).partial_fit(["ab", "ba", ""])
    kept = deepcopy(learner)
    with pytest.raises(CapacityError, match=r"symbol 'd' is new, and the alphabet is full \(3 symbols\)"):
        learner.partial_fit(["ac", "cd"])
    assert learner.symbols_ == ["a", "b"]
    with pytest.raises(CapacityError, match="longer than max_length"):
        learner.partial_fit(["c", "a" * 2000])
    for each in (learner, kept):
        each.partial_fit(["ac", ""]).flush()
    np.testing.assert_array_equal(learner.model_.probabilities, kept.model_.probabilities)
    assert learner.symbols_ == ["a", "b", "c"]


def test_empty_strings_are_strings():
    model = StreamingPDFALearner("a").fit([[]] * 30 + ["a"] * 10).model_
    assert model.predict_proba_next()[-1] == pytest.approx(31 / 42)


@pytest.mark.parametrize("bad", ["abc", b"abc", [1, 2], [[[]]], None])
def test_what_is_no_list_of_strings_is_refused(bad):
    learner = StreamingPDFALearner(batch_size=1)
    with pytest.raises(InputError, match="sequence"):
        learner.partial_fit(bad)
    assert learner.symbols_ == []
    assert learner.state.seen == 0


def test_there_is_no_automaton_before_the_first_batch():
    with pytest.raises(InputError, match="before the first batch"):
        _ = StreamingPDFALearner("ab").partial_fit(["a"]).model_
    with pytest.raises(InputError, match="twice"):
        StreamingPDFALearner("aa")


def test_the_compared_approach_learns_too_and_never_takes_back():
    target = separated(0)
    learner = SpaceSavingPDFALearner(3, mu=0.3).partial_fit(target.sample(3000, 0))
    model = learner.model_
    assert 2 <= model.n_states <= 8
    assert model.probabilities.sum(axis=1) == pytest.approx(1)
    assert learner.tests > 0
    with pytest.raises(InputError):
        SpaceSavingPDFALearner(0)
