"""The compiled learner against the one of dictionaries and copies, decision for decision."""

import numpy as np
import pytest

from unending.core import Symbols, Text, fork, replay
from unending.core.random import philox
from unending.systems.learning.pdfa_streams import PDFAStreams, random_pdfa
from unending.systems.learning.pdfa_streams.learning import begin, learn
from unending.systems.learning.pdfa_streams.model import PDFA
from unending.systems.learning.pdfa_streams.naive import NaiveLearner
from unending.systems.learning.pdfa_streams.naive_stream import offline
from unending.systems.learning.pdfa_streams.settings import Settings

BASE = {
    "alphabet": 4,
    "nodes": 400,
    "batch_size": 60,
    "delta": 0.6,
    "min_state": 3,
    "sink": 5,
    "future_steps": 3,
    "sketch": (1, 7),
    "max_length": 40,
}
CASES = {
    "shipped": {},
    "minhash": {"futures": "minhash"},
    "independent": {"futures": "independent"},
    "rows": {"sketch": (3, 6)},
    "alergia": {"heuristic": "alergia"},
    "trusted": {"trusted": 40},
    "old": {"strategy": "old"},
    "old alergia": {"strategy": "old", "heuristic": "alergia"},
    "full": {"nodes": 60},
    "parents": {"parent_size": 2, "compare_ends": False},
}


def strings(seed, n=240):
    target = random_pdfa(4, 4, 0.7, mean_length=4, seed=seed)
    return [string[:40] for string in target.sample(n, seed)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_compiled_learner_is_the_plain_one(case, seed):
    settings = Settings(**(BASE | CASES[case]))
    state, naive = begin(settings, seed), NaiveLearner(settings, seed)
    data = strings(seed)
    for start in range(0, len(data), settings.batch_size):
        state, (report,) = learn(state, settings, data[start : start + settings.batch_size])
        naive.batch = data[start : start + settings.batch_size]
        *row, changed = naive.close()
        assert [report.perplexity, report.states, report.nodes] == pytest.approx(row, rel=1e-12)
        assert report.changed == changed
        expected, found = naive.pdfa("abcd"), PDFA.of(state.hypothesis, "abcd")
        np.testing.assert_array_equal(found.following, expected.following)
        np.testing.assert_array_equal(found.visits, expected.visits)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-14)
        np.testing.assert_array_equal(found.red, expected.red)


def test_both_count_what_found_no_room():
    settings = Settings(**(BASE | CASES["full"]))
    state, naive = begin(settings, 0), NaiveLearner(settings, 0)
    state, _ = learn(state, settings, strings(0))
    for start in range(0, 240, 60):
        naive.batch = strings(0)[start : start + 60]
        naive.close()
    assert state.tree.meta[3] == naive.refused > 0
    assert state.tree.meta[4] > 0, "nodes were given back"


@pytest.mark.parametrize("pattern", [
    r"\w+", r"(?P<key>[abc]):(\w)", r"(?P<key>\w)(\w)?", r"(\w)=(\d)|(x)", r"((\w):(\w))", r"(?P<key>(\w):)((\w))",
])  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rest", ["", "b"])
def test_the_operator_reads_as_the_plain_reader(pattern, seed, rest):
    operator = PDFAStreams(
        symbols=pattern, alphabet=5 if rest else 300, rest=rest, nodes=100, batch_size=7,
        clients=2, gap=3, max_length=5, line_size=30,
        name_size=16, min_state=1, sink=2, future_steps=2, sketch=(1, 5),
    )  # fmt: skip
    rng = philox(seed, 0)
    words = [
        "a:x",
        "b:y",
        "c:z",
        "d:q",
        "x",
        "a=1",
        "b=2",
        "\n",
        "\n",
        "\n\n",
        "\r\n",
        " ",
        "é",
        "averylongsymbolnameofbytes",
    ]
    text = "".join(rng.choice(words, 250))
    half = len(text) // 2
    ids = rng.integers(0, 4, 40)
    ids[rng.random(40) < 0.3] = operator.alphabet
    stream = [Text(text[:half]), Symbols(ids), Text(text[half:])]
    expected = offline(operator, stream)
    pieces = [stream[0][i : i + 9] for i in range(0, half, 9)] + [stream[1][:7], stream[1][7:], stream[2]]
    found = replay(operator, pieces)
    assert len(found) == len(expected) > 4
    for one, two in zip(found, expected, strict=True):
        assert (one.t_start, one.t_end) == (two.t_start, two.t_end)
        if isinstance(one.data, Text):
            assert one.data.text == two.data.text
        else:
            np.testing.assert_allclose(one.data.values, two.data.values, rtol=1e-12)


def test_a_step_leaves_the_state_it_came_from():
    settings = Settings(**BASE)
    state, _ = learn(begin(settings, 0), settings, strings(0, 100))
    kept = fork(state)
    learn(state, settings, strings(1, 200))
    for one, two in zip(state.tree, kept.tree, strict=True):
        np.testing.assert_array_equal(one, two)
