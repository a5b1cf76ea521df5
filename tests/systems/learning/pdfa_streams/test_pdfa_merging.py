"""Trees, tests, folds and undos: the exact equalities of the specification."""

import numpy as np
import pytest

from unending.core.errors import CapacityError, InputError
from unending.core.random import philox
from unending.systems.learning.pdfa_streams import StreamingPDFALearner, learn_batch, random_pdfa
from unending.systems.learning.pdfa_streams.learning import begin, learn
from unending.systems.learning.pdfa_streams.merging import consistent, fold, rule_of, undo
from unending.systems.learning.pdfa_streams.settings import Settings
from unending.systems.learning.pdfa_streams.tree import (
    CHILD,
    FIRST,
    NODES,
    PARENT,
    REP,
    add_strings,
    empty_tree,
)

SETTINGS = Settings(
    alphabet=4, nodes=3000, delta=0.3, min_state=2, sink=3, future_steps=3, sketch=(2, 9), max_length=60
)


def data(seed=0, n=400, states=5):
    return [each[:60] for each in random_pdfa(states, 4, 0.7, 5, seed=seed).sample(n, seed)]


def tree_of(strings, settings=SETTINGS, seed=0):
    tree = empty_tree(settings, seed)
    flat = np.array([symbol for string in strings for symbol in string], np.int32)
    starts = np.cumsum([0, *map(len, strings)]).astype(np.int64)
    add_strings(tree, flat, starts, settings.mode, True, 0)
    return tree


def copies(tree):
    return [each.copy() for each in tree]


def same(tree, kept):
    return all((one == two).all() for one, two in zip(tree, kept, strict=True))


@pytest.mark.parametrize("futures", ["independent", "conditional", "minhash"])
def test_a_thousand_random_merges_are_undone_to_the_bit(futures):
    tree = tree_of(data(), Settings(**(vars(SETTINGS) | {"futures": futures})))
    kept, rule, rng = copies(tree), rule_of(SETTINGS), philox(0, 0)
    used = int(tree.meta[NODES])
    log, stack = np.empty((2 * 3000, 2), np.int32), np.empty((3000, 3), np.int32)
    made = end = 0
    marks = []
    while made < 1000:
        # Merge the child of a state into a state: what red-blue merging does, without asking whether it is sensible.
        node = int(rng.integers(1, used))
        r = 0 if rng.random() < 0.5 else int(tree.links[node, PARENT])
        top = tree.links[node, PARENT]
        free = tree.links[node, REP] < 0 and tree.links[r, REP] < 0 and r != node and (top == r or top == 0)
        if free and not below(tree, r, node):
            marks.append(end)
            end = fold(tree, rule, r, node, False, log, end, stack)
            made += 1
        if marks and (not free or rng.random() < 0.5):
            end = undo(tree, log, end, marks.pop())
    undo(tree, log, end, 0)
    assert same(tree, kept)


def below(tree, r, node):
    """Whether r lies in the subtree of node."""
    while r >= 0:
        if r == node:
            return True
        r = int(tree.links[r, PARENT])
    return False


def test_a_failed_fold_leaves_no_trace():
    """The pair and its first children agree; what disagrees comes after them, so a part is merged already."""
    strings = [[0, 0, 2, 0]] * 60 + [[1, 0, 2, 1]] * 60
    settings = Settings(**(vars(SETTINGS) | {"future_steps": 1, "delta": 0.1}))
    tree = tree_of(strings, settings)
    kept = copies(tree)
    log, stack = np.full((6000, 2), -7, np.int32), np.empty((3000, 3), np.int32)
    a, b = int(tree.links[0, CHILD]), int(tree.links[0, CHILD + 1])
    assert fold(tree, rule_of(settings), a, b, True, log, 0, stack) == -1
    assert (log[:2] >= 0).all(), "merges had been made before the test failed"
    assert same(tree, kept)


def test_folding_keeps_every_count_and_gives_a_deterministic_automaton():
    strings = data()
    model = learn_batch(strings, delta=0.01, sink=5)
    state = StreamingPDFALearner(range(4), 0, nodes=9000, delta=0.01, sink=5).fit(strings).state
    hypothesis = state.hypothesis
    visits, ends, counts = hypothesis.data[:, 0], hypothesis.data[:, 1], hypothesis.data[:, 2:]
    np.testing.assert_array_equal(visits, ends + counts.sum(axis=1))
    assert ends.sum() == len(strings)
    # One successor by each symbol, and what leaves by it arrives there.
    arriving = np.zeros(len(visits), np.int64)
    arriving[0] = len(strings)
    for state_, symbol in np.argwhere(hypothesis.following >= 0):
        arriving[hypothesis.following[state_, symbol]] += counts[state_, symbol]
    np.testing.assert_array_equal(arriving, visits)
    assert model.n_states < 60


def test_a_merged_table_is_the_table_of_all_the_strings():
    """Tables of all nodes share their hash functions; with one seed a node they could not be added."""
    left, right = [[0, *each] for each in data(1, 50)], [[1, *each] for each in data(2, 60)]
    joined = tree_of([each[1:] for each in left + right])
    tree = tree_of(left + right)
    log, stack = np.empty((6000, 2), np.int32), np.empty((3000, 3), np.int32)
    a, b = int(tree.links[0, CHILD]), int(tree.links[0, CHILD + 1])
    fold(tree, rule_of(SETTINGS), a, b, False, log, 0, stack)
    np.testing.assert_array_equal(tree.data[a], joined.data[0])


def test_tables_never_underestimate():
    strings = data(3, 200)
    settings = Settings(**(vars(SETTINGS) | {"futures": "conditional"}))
    tree = tree_of(strings, settings)
    from unending.systems.learning.pdfa_streams.naive import NaiveLearner

    naive = NaiveLearner(settings, 0)
    for string in strings:
        naive.add(string)
    rows, cells = settings.sketch
    for j in range(3):
        first = FIRST + 4 + j * (FIRST + rows * cells) + FIRST
        np.testing.assert_array_equal(
            tree.data[0, first : first + rows * cells], naive.root.sketches[j].cells.ravel()
        )
        truth = {}
        for string in strings:
            if len(string) > j:
                code = naive.code(string[: j + 1])
                truth[code] = truth.get(code, 0) + 1
        assert all(naive.root.sketches[j].estimate(code) >= count for code, count in truth.items())


def test_permuting_a_batch_changes_no_count():
    strings = data(4)
    other = [strings[at] for at in philox(0, 0).permutation(len(strings))]
    one, two = (learn(begin(SETTINGS), SETTINGS, each + [[]] * 100)[0] for each in (strings, other))
    np.testing.assert_array_equal(one.hypothesis.data, two.hypothesis.data)
    np.testing.assert_array_equal(one.hypothesis.following, two.hypothesis.following)


def test_one_endless_batch_is_batch_mode():
    strings = data(5)
    settings = {"sink": 5, "delta": 0.05, "nodes": 9000, "future_steps": 4, "sketch": (3, 20)}
    stream = StreamingPDFALearner(range(4), len(strings), **settings).partial_fit(strings).model_
    batch = learn_batch(strings, alphabet=range(4), **settings)
    np.testing.assert_array_equal(stream.following, batch.following)
    np.testing.assert_array_equal(stream.probabilities, batch.probabilities)


@pytest.mark.parametrize("strategy", ["new", "old"])
@pytest.mark.parametrize("seed", range(4))
def test_one_step_of_future_without_collisions_is_alergia(strategy, seed):
    strings = data(seed, 2000, 6)
    common = {
        "batch_size": 200,
        "strategy": strategy,
        "symbol_count": 0,
        "delta": 0.2,
        "sink": 5,
        "nodes": 5000,
    }
    sketched = StreamingPDFALearner(
        range(4), future_steps=1, sketch=(1, 512), futures="conditional", **common
    )
    exact = StreamingPDFALearner(range(4), heuristic="alergia", **common)
    for start in range(0, 2000, 200):
        for learner in (sketched, exact):
            learner.partial_fit(strings[start : start + 200])
        one, two = sketched.state.tree, exact.state.tree
        np.testing.assert_array_equal(one.links, two.links)
        np.testing.assert_array_equal(one.refinements, two.refinements)
        np.testing.assert_array_equal(sketched.model_.probabilities, exact.model_.probabilities)


def test_the_fold_tests_what_it_identifies_not_the_top_pair_alone():
    """Both children of the root go on alike by one step, and differ in the step after it."""
    strings = [[0, 2, 0]] * 60 + [[1, 2, 1]] * 60
    settings = Settings(**(vars(SETTINGS) | {"future_steps": 1, "delta": 0.1, "futures": "independent"}))
    tree, rule = tree_of(strings, settings), rule_of(settings)
    log, stack = np.empty((6000, 2), np.int32), np.empty((3000, 3), np.int32)
    a, b = int(tree.links[0, CHILD]), int(tree.links[0, CHILD + 1])
    assert consistent(tree, rule, a, b)
    assert fold(tree, rule, a, b, True, log, 0, stack) == -1


@pytest.mark.parametrize("heuristic", ["css", "alergia"])
def test_states_that_differ_in_where_strings_end_stay_apart(heuristic):
    """Every symbol is as frequent in one state as in the other; in one of them strings end half as often, and what
    the rest goes on with is spread over symbols that are each too rare to tell."""
    spread = [[a] for a in range(2, 12)]
    strings = (
        [[0, *each] for each in spread * 6] + [[0]] * 20 + [[1, *each] for each in spread * 3] + [[1]] * 50
    )
    found = {}
    for ends in (True, False):
        learner = StreamingPDFALearner(
            range(12), 0, 0.1, 1, (1, 64), heuristic=heuristic, compare_ends=ends, sink=40, symbol_count=0,
            futures="independent",
        )  # fmt: skip
        found[ends] = learner.fit(strings).model_.following[0]
    assert found[True][0] != found[True][1]
    assert found[False][0] == found[False][1], "the toy that forgets the end merges them"


@pytest.mark.parametrize("bad", [{"alphabet": 0}, {"strategy": "x"}, {"heuristic": "x"}, {"futures": "x"}, {"nodes": 1},
    {"delta": 0}, {"delta": 1.5}, {"sketch": (0, 4)}, {"sketch": (1,)}, {"correction": 0.0}, {"sink": -1},
    {"alphabet": 2001}, {"futures": "conditional", "alphabet": 2000, "future_steps": 6}])  # fmt: skip
def test_settings_outside_are_refused_in_one_line(bad):
    with pytest.raises(InputError) as raised:
        Settings(**bad)
    assert "\n" not in str(raised.value)


def test_codes_are_bounded_only_where_there_are_codes():
    assert Settings(alphabet=2000, futures="independent", minhash=9).alphabet == 2000
    assert Settings(alphabet=2000, heuristic="alergia", future_steps=9).tables == 0
    assert StreamingPDFALearner(np.int64(5)).settings.alphabet == 5


def test_bad_strings_are_refused_and_nothing_is_learned():
    state, _ = learn(begin(SETTINGS), SETTINGS, data(0, 30))
    for bad, error in (([0, 4], InputError), ([-1], InputError), ([0] * 61, CapacityError)):
        with pytest.raises(error):
            learn(state, SETTINGS, [[0, 1], bad])
    again, _ = learn(state, SETTINGS, [[0, 1]])
    assert again.seen == 31
