"""Automata: probabilities that add up, perplexity, exports, random targets, and the files of the competitions."""

from itertools import product
from xml.etree import ElementTree

import networkx
import numpy as np
import pytest

from unending.core.errors import InputError, StorageError
from unending.systems.learning.pdfa_streams import (
    PDFA,
    PFA,
    StreamingPDFALearner,
    perplexity,
    random_pdfa,
    random_pfa,
    read_abbadingo,
    read_pautomac,
    read_pautomac_model,
    read_solution,
    write_abbadingo,
    write_pautomac,
    write_pautomac_model,
    write_solution,
)
from unending.systems.learning.pdfa_streams.comparing import same_automaton


def learned(seed=0):
    target = random_pdfa(4, 3, 0.7, 4, seed=seed)
    return (
        StreamingPDFALearner("abc").fit([["abc"[a] for a in each] for each in target.sample(2000, 0)]).model_
    )


def longer_than(model, length):
    """P(a string has more than `length` symbols), by matrices; the sink is the last state."""
    states, symbols = model.following.shape
    walk = np.zeros((states + 1, states + 1))
    for q, a in product(range(states), range(symbols)):
        walk[q, model.following[q, a]] += model.probabilities[q, a]
    walk[-1, -1] = symbols / (symbols + 1)
    return float(np.linalg.matrix_power(walk, length + 1)[0].sum())


def test_probabilities_of_all_strings_up_to_a_length_are_what_longer_ones_leave():
    model = learned()
    for length in (0, 3, 6):
        strings = [each for n in range(length + 1) for each in product("abc", repeat=n)]
        total = sum(np.exp(model.logprob(each)) for each in strings)
        assert total <= 1
        assert total == pytest.approx(1 - longer_than(model, length), abs=1e-12)


def test_a_string_is_worth_the_product_of_its_steps():
    model = learned()
    string = list("abca")
    steps = [model.predict_proba_next(string[:n])["abc".index(a)] for n, a in enumerate(string)]
    assert model.logprob(string) == pytest.approx(
        np.log([*steps, model.predict_proba_next(string)[-1]]).sum()
    )
    assert model.predict_proba_next("aa").sum() == pytest.approx(1)
    with pytest.raises(InputError, match="symbol 'x' is not one of the 3"):
        model.logprob("ax")


def test_samples_have_the_frequencies_of_the_model():
    model = random_pdfa(3, 2, 0.9, 3, seed=1)
    drawn = [tuple(each) for each in model.sample(4000, 1)]
    for string in [(), (0,), (1,), (0, 1)]:
        assert drawn.count(string) / 4000 == pytest.approx(np.exp(model.logprob(string)), abs=0.025)
    assert model.sample(3, 7) == model.sample(3, 7)


def test_perplexity_normalises_both_and_is_least_at_the_truth():
    truth = np.array([0.4, 0.1, 0.2])
    assert perplexity(truth, truth) == pytest.approx(perplexity(truth, 0.01 * truth))
    assert perplexity(truth, truth) == pytest.approx(2 ** -(truth / 0.7 * np.log2(truth / 0.7)).sum())
    assert perplexity(truth, truth[::-1]) > perplexity(truth, truth)
    assert perplexity(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == pytest.approx(1)
    for bad in (np.array([0.4, 0, 0.2]), np.zeros(3), np.array([1, -1, 1.0]), np.ones(2)):
        with pytest.raises(InputError):
            perplexity(truth, bad)


def test_the_learned_model_is_smoothed_so_that_no_string_is_impossible():
    model = StreamingPDFALearner("abc").fit(["a", "ab"] * 100).model_
    assert np.isfinite(model.logprob("ccccbbb"))
    assert model.state_after("cc") == -1
    assert model.predict_proba_next("cc") == pytest.approx(0.25)


def test_broken_automata_are_refused():
    for following, probabilities in (
        ([[0]], [[0.5, 0.6]]),
        ([[0]], [[1.0]]),
        ([[0, 0]], [[0.5, 0.5]]),
        (np.zeros((0, 1)), np.zeros((0, 2))),
    ):
        with pytest.raises(InputError):
            PDFA(np.array(following), np.array(probabilities), "a")


def test_networkx_and_aalpy_get_the_same_automaton(needs):
    needs("aalpy")
    model = learned()
    graph = model.to_networkx()
    assert isinstance(graph, networkx.MultiDiGraph)
    for state, end in graph.nodes(data="end"):
        out = sum(p for *_, p in graph.out_edges(state, data="probability"))
        missing = model.probabilities[state, :-1][model.following[state] < 0].sum()
        assert out + end + missing == pytest.approx(1)
    chain = model.to_aalpy()
    state, total = chain.initial_state, 0.0
    for symbol in [*"abc", "$"]:
        state, probability = next((s, p) for s, p in state.transitions if s.output == symbol)
        total += np.log(probability)
    assert total == pytest.approx(model.logprob("abc"))


def test_names_are_escaped_and_what_is_rare_is_one_node():
    names = ['say "hi"', "back\\slash", "new\nline", "long" * 40]
    strings = [['say "hi"', "back\\slash"], ["new\nline"], ["long" * 40]] * 60 + [
        ["new\nline", "back\\slash"]
    ]
    text = StreamingPDFALearner(names, futures="minhash").fit(strings).model_.to_dot(title='a "log"')
    assert 'digraph "a \\"log\\""' in text
    assert 'say \\"hi\\"' in text
    assert "back\\\\slash" in text
    assert "new\N{REPLACEMENT CHARACTER}line" in text
    assert "…" in text
    assert "rare" in text
    assert text.count("{") == text.count("}") == 1
    assert all(len(line) < 400 for line in text.splitlines())


@pytest.mark.debian
def test_graphviz_draws_names_as_they_are(needs):
    """Whatever a log holds: quotes, backslashes, tags, entities, other scripts, emptiness."""
    needs("graphviz")
    import graphviz

    names = [
        'say "hi"',
        "back\\",
        "\\N\\l",
        "<b>&lt;</b>",
        "/x?a=1&copy;=2",
        "&",
        "путь 河流",
        "",
        "tab\t",
        "a]b;c{d}|e",
    ]
    strings = [[name] * 2 for name in names] * 40
    text = StreamingPDFALearner(names, 0).fit(strings).model_.to_dot()
    try:
        picture = graphviz.Source(text).pipe(format="svg").decode()
    except graphviz.ExecutableNotFound:
        pytest.skip("needs the program dot")
    drawn = " ".join(
        "".join(each.itertext()) for each in ElementTree.fromstring(picture).findall(".//{*}text")
    )
    for name in names:
        assert " ".join(name.replace("\t", "\N{REPLACEMENT CHARACTER}").split()) in " ".join(drawn.split())


@pytest.mark.parametrize("seed", range(3))
def test_random_automata_have_the_asked_sizes_and_mean_length(seed):
    model = random_pfa(8, 5, 0.5, 0.3, 7.0, seed)
    walk = np.einsum("qa,qar->qr", model.symbols, model.transitions)
    steps = np.linalg.solve(np.eye(8) - (1 - model.final)[:, None] * walk, 1 - model.final)
    assert model.initial @ steps == pytest.approx(7.0, rel=1e-3)
    assert (model.symbols > 0).any(axis=0).all()
    lengths = [len(each) for each in model.sample(600, seed)]
    assert np.mean(lengths) == pytest.approx(7.0, abs=1.2)
    pdfa = random_pdfa(6, 4, 0.6, 5, seed, min_probability=0.02)
    assert len(pdfa.following) == 6


def test_forward_sums_over_all_paths():
    model = random_pfa(3, 2, 0.9, 0.9, 3.0, seed=4)
    string = (0, 1, 1)
    steps = model.step_matrices()
    by_hand = sum(
        model.initial[p[0]]
        * np.prod([steps[a, q, r] for a, q, r in zip(string, p, p[1:], strict=False)])
        * model.final[p[-1]]
        for p in product(range(3), repeat=4)
    )
    assert model.probabilities([string])[0] == pytest.approx(by_hand)
    with pytest.raises(InputError, match="not deterministic"):
        model.to_pdfa()
    with pytest.raises(InputError, match="sum to 1"):
        PFA(2 * model.initial, model.final, model.symbols, model.transitions)


MODEL = """I: (state)
	(0) 1.0
F: (state)
	(1) 0.25
S: (state,symbol)
	(0,0) 0.4
	(0,1) 0.6
	(1,0) 1.0
T: (state,symbol,state)
	(0,0,1) 1.0
	(0,1,0) 1.0
	(1,0,0) 1.0
"""


def test_a_pautomac_model_is_read_as_its_formula_says(tmp_path):
    path = tmp_path / "1.pautomac_model.txt"
    path.write_text(MODEL)
    model = read_pautomac_model(path)
    # Symbols are conditional on going on: 0.6, then 0.4, and then an end of 0.25.
    assert model.probabilities([[1, 0], [0], [], [0, 0, 0]]) == pytest.approx(
        [0.06, 0.1, 0, 0.4 * 0.75 * 0.4 * 0.25]
    )
    assert np.exp(model.to_pdfa().logprob([0, 0, 0])) == pytest.approx(0.4 * 0.75 * 0.4 * 0.25)
    write_pautomac_model(tmp_path / "again.txt", model)
    again = read_pautomac_model(tmp_path / "again.txt")
    for name in ("initial", "final", "symbols", "transitions"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))


def test_an_automaton_that_never_ends_gives_no_sample_and_no_endless_loop():
    with pytest.raises(InputError, match="none of 100 strings ended within 5 symbols"):
        PFA([1], [0], [[1]], [[[1]]]).sample(1, max_length=5)


def test_a_model_too_large_for_memory_is_refused(tmp_path):
    path = tmp_path / "model.txt"
    path.write_text(
        "I: (state)\n(0) 1\nS: (state,symbol)\n(0,0) 1\nT: (state,symbol,state)\n(0,999999,999999) 1\n"
    )
    with pytest.raises(InputError, match="1000000 states and 1000000 symbols"):
        read_pautomac_model(path)


def test_strings_and_solutions_come_back_as_they_were_written(tmp_path):
    strings = [[0, 1, 2], [], [2]]
    write_pautomac(tmp_path / "1.train", strings, 3)
    assert (tmp_path / "1.train").read_text() == "3 3\n3 0 1 2\n0\n1 2\n"
    assert read_pautomac(tmp_path / "1.train") == (strings, 3)
    write_abbadingo(tmp_path / "1.dat", strings, 3, [1, 0, -1])
    assert read_abbadingo(tmp_path / "1.dat") == (strings, [1, 0, -1], 3)
    write_solution(tmp_path / "s.txt", np.array([0.2, 0.1, 0.1]))
    assert read_solution(tmp_path / "s.txt") == pytest.approx([0.5, 0.25, 0.25])


@pytest.mark.parametrize(("reader", "text", "message"), [
    (read_pautomac, "", "first line"), (read_pautomac, "2 3\n1 0\n", "says 2 strings"),
    (read_pautomac, "1 3\n2 0\n", "line 2: the length"), (read_pautomac, "1 3\n1 3\n", "outside 0 to 2"),
    (read_pautomac, "1 3\n1 x\n", "whole numbers"), (read_abbadingo, "1 3\n1\n", "length"),
    (read_solution, "2\n0.5\n", "says 2"), (read_solution, "x", "count"), (read_solution, "1\n-1\n", "negative"),
    (read_pautomac_model, "I: (state)\n(0) x\n", "no entry"), (read_pautomac_model, "(0) 1\n", "no entry"),
    (read_pautomac_model, "I: (state)\n(0,1) 1\n", "block I"), (read_pautomac_model, "", "no PAutomaC model"),
])  # fmt: skip
def test_broken_files_are_named_with_their_line(tmp_path, reader, text, message):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        reader(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(StorageError):
        reader(tmp_path / "absent")


def test_learning_from_files_recovers_the_model_in_them(tmp_path):
    target = random_pdfa(4, 3, 0.8, 5, seed=5)
    write_pautomac(tmp_path / "x.train", target.sample(8000, 0), 3)
    strings, alphabet = read_pautomac(tmp_path / "x.train")
    assert same_automaton(target, StreamingPDFALearner(range(alphabet)).fit(strings).model_)
