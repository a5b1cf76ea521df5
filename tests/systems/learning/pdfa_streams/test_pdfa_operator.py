"""The operator: lines, keys, names, graphs, bad input; and the conditions of the PAC statement."""

import re

import numpy as np
import pytest

from unending.core import Rows, Session, Symbols, Text, nbytes, replay
from unending.core.errors import CapacityError, InputError
from unending.core.random import philox
from unending.laws import check
from unending.systems.learning.pdfa_streams import PDFAStreams
from unending.systems.learning.pdfa_streams.comparing import same_automaton
from unending.systems.learning.pdfa_streams.lines import Weaver, empty_lines, names_of
from unending.systems.learning.pdfa_streams.logs import access_log, shop
from unending.systems.learning.pdfa_streams.pac import (
    comparison_delta,
    hoeffding_radius,
    sample_sizes,
    visits_for_distance,
)

REQUESTS = r'(?P<key>[\d.]+) .*"(\w+ \S+) HTTP'


def strings(operator, chunk):
    """The strings of one chunk, by the fast reader; the plain one agrees (test_pdfa_against_naive)."""
    weaver = Weaver(empty_lines(operator.reading()), operator.reading())
    weaver.text(chunk.text, 0) if isinstance(chunk, Text) else weaver.symbols(chunk.ids, 0)
    weaver.finish(len(chunk))
    names = names_of(weaver.done())
    return [[names[symbol] for symbol in each.ids] for each in weaver.ended]


def test_all_laws_hold():
    report = check(PDFAStreams.example())
    assert report.ok, str(report)


def test_the_automaton_behind_a_log_is_drawn():
    operator = PDFAStreams(symbols=REQUESTS, batch_size=200, gap=500)
    with Session(operator) as session:
        text = "".join(access_log(3000, seed=0))
        for start in range(0, len(text), 4000):
            session.push(Text(text[start : start + 4000]))
        session.finish()
        events = session.poll()
        model = operator.model(session.state)
        assert session.nbytes == operator.bound().resident
    order = [model.symbols.index(each) for each in shop().symbols]
    model.following, model.probabilities = model.following[:, order], model.probabilities[:, [*order, -1]]
    model.symbols = shop().symbols
    assert same_automaton(shop(), model)
    graphs = [event.data for event in events if isinstance(event.data, Text)]
    assert graphs[-1].role == "graph"
    assert "POST /cart 4" in graphs[-1].text
    rows = [event.data.values[0] for event in events if isinstance(event.data, Rows)]
    assert rows[-1][0] < 0.5 * rows[0][0]
    assert len(graphs) < len(rows), "a graph comes when states or transitions changed"


def test_lines_without_keys():
    operator = PDFAStreams(symbols=r"[a-z]+", max_length=3)
    found = strings(operator, Text("ab cd\r\n\n  \n123\nx y z w\nlast"))
    assert found == [["ab", "cd"], [], [], ["x", "y", "z"], ["w"], ["last"]]


def test_groups_make_the_symbol_and_keys_make_the_string():
    operator = PDFAStreams(symbols=r"(?P<key>\w+): (\w+)(?: (\d))?", gap=3)
    found = strings(operator, Text("a: in 1\nb: in\na: out\n\n\n\n\nb: again\n"))
    assert found == [["in"], ["in 1", "out"], ["again"]]


def test_a_group_within_another_adds_nothing():
    """Parentheses inside the key are no part of the symbol, and those inside a symbol do not repeat it."""
    operator = PDFAStreams(symbols=r"(?P<key>(\d+\.)+\d+) ((\w+) \S+)( ok)?")
    text = "10.0.0.1 GET /a\n10.0.0.2 PUT /b ok\n10.0.0.1 GET /b\n"
    assert strings(operator, Text(text)) == [["PUT /b  ok"], ["GET /a", "GET /b"]]


def test_symbols_beyond_the_alphabet_are_one_if_they_have_a_name():
    operator = PDFAStreams(symbols=r"\w+", alphabet=3, rest="(rest)")
    assert strings(operator, Text("a b a\nc b d\nd a\n")) == [
        ["a", "b", "a"],
        ["(rest)", "b", "(rest)"],
        ["(rest)", "a"],
    ]
    assert strings(PDFAStreams(symbols=r"\w+", alphabet=3, rest="b"), Text("a b c d")) == [
        ["a", "b", "b", "b"]
    ]
    for bad in ("x" * 49, "a\0"):
        with pytest.raises(InputError, match="rest"):
            PDFAStreams(rest=bad)


@pytest.mark.parametrize("keyed", [False, True])
def test_a_log_in_which_nothing_matches_is_told_at_its_end(keyed):
    operator = PDFAStreams(symbols=r"(?P<key>\d+) (\w+)" if keyed else "[0-9]+")
    session = Session(operator)
    session.push(Text("abc\n" * 12))
    with pytest.raises(InputError, match=r"none of the 12 lines read has a match of symbols, '.*'"):
        session.finish()
    session.push(Text("7 up\n"))
    session.finish()
    assert any(isinstance(event.data, Rows) for event in session.poll())


def test_a_tree_that_does_not_fit_in_memory_is_refused_in_one_line():
    for nodes in (2**31 - 1, 2**60):
        with pytest.raises(InputError, match="nodes") as raised:
            PDFAStreams(nodes=nodes, alphabet=2000, future_steps=2, sketch=(4, 2**20)).init()
        assert "\n" not in str(raised.value)


def test_ids_end_with_the_id_after_the_last():
    operator = PDFAStreams(alphabet=3)
    assert strings(operator, Symbols(np.array([0, 2, 3, 3, 1]))) == [["0", "2"], [], ["1"]]
    with pytest.raises(InputError, match="symbol 4 is outside the accepted 0 to 3"):
        operator.step(operator.init(), Symbols(np.array([4])))


def test_long_names_and_lines_are_cut_at_the_stated_bounds():
    operator = PDFAStreams(symbols=r"\S+", name_size=16, line_size=60, batch_size=1)
    one, two = "averyveryverylongname-1", "averyveryverylongname-2"
    session = Session(operator)
    session.push(Text(f"{one} {two} ok\n" + "x " * 5000))
    session.push(Text("x\n"))
    session.finish()
    names = operator.model(session.state).symbols
    assert len(set(names)) == 4
    assert names[0].startswith("averyve~") or names[0].startswith("averyvery")
    assert all(len(each.encode()) <= 16 for each in names)
    assert session.state.lines.counts.tolist()[2] == 1
    assert nbytes(session.state) == operator.bound().resident


def test_a_full_alphabet_is_an_error_that_keeps_what_was_learned():
    operator = PDFAStreams(symbols=r"\w+", alphabet=2, batch_size=2)
    session = Session(operator)
    session.push(Text("a b\nb\n"))
    before = session.snapshot()
    with pytest.raises(CapacityError, match="symbol 'c' is new, and the alphabet is full"):
        session.push(Text("a\nb c\n"))
    assert session.snapshot() == before
    session.push(Text("a\nb\n"))
    session.finish()
    assert [event.data.values[0, 1] for event in session.poll() if isinstance(event.data, Rows)] == [1, 1]


@pytest.mark.parametrize("bad", [{"symbols": "("}, {"symbols": "(?P<key"}, {"batch_size": 0}, {"line_size": 0},
    {"line_size": 2**21}, {"name_size": 8}, {"draw_from": 2.0}, {"delta": 0.0}, {"symbols": "[[:alpha:]]+"},
    {"symbols": r"(?P<key>\w+) \w+"}, {"max_length": 2**40}, {"clients": 2**40}, {"correction": float("inf")},
    {"symbols": "a{99999999999}"}])  # fmt: skip
def test_wrong_settings_are_refused_in_one_line(bad):
    with pytest.raises(InputError) as raised:
        PDFAStreams(**bad)
    assert "\n" not in str(raised.value)


def test_a_class_of_another_dialect_is_told():
    with pytest.raises(InputError, match=r"two things: .* in '\[\[:alpha:\]\]\+'; write \\\["):
        PDFAStreams(symbols="[[:alpha:]]+")
    assert strings(PDFAStreams(symbols=r"[\[a]+"), Text("[a] b")) == [["[a"]]


def test_a_stream_of_nothing_but_line_ends_is_a_stream_of_empty_strings():
    events = replay(PDFAStreams(batch_size=5), [Text("\n" * 12)])
    rows = [event.data.values[0] for event in events if isinstance(event.data, Rows)]
    assert [each[1] for each in rows] == [1, 1, 1]
    assert rows[0][0] == 1


def test_there_are_no_events_without_a_string():
    assert replay(PDFAStreams(), []) == []
    assert replay(PDFAStreams(symbols="x"), [Text("abc\nabc\n")]) == []


def test_a_graph_of_the_end_comes_once():
    operator = PDFAStreams(symbols=r"\w", batch_size=3)
    session = Session(operator)
    session.push(Text("a\n" * 40))
    session.finish()
    graphs = [event.data.text for event in session.poll() if isinstance(event.data, Text)]
    assert len(graphs) == 3
    assert re.search(r"\\n40 visits\\n", graphs[-1])


def test_equal_states_pass_a_comparison_as_often_as_hoeffding_says():
    delta, n, m = 0.1, 60, 90
    rng = philox(0, 0)
    x, y = rng.binomial(n, 0.4, 20_000) / n, rng.binomial(m, 0.4, 20_000) / m
    rejected = np.abs(x - y) >= hoeffding_radius(n, delta) + hoeffding_radius(m, delta)
    assert rejected.mean() <= 2 * delta


def test_states_far_apart_fail_with_the_stated_visits():
    mu, delta = 0.3, 0.05
    n = visits_for_distance(mu, delta)
    rng = philox(1, 0)
    x, y = rng.binomial(n, 0.3, 20_000) / n, rng.binomial(n, 0.3 + mu, 20_000) / n
    merged = np.abs(x - y) < 2 * hoeffding_radius(n, delta)
    assert merged.mean() <= 2 * delta
    assert n == int(np.ceil(8 * np.log(2 / delta) / mu**2))


def test_sample_sizes_are_polynomial_and_ordered():
    base = {"states": 5, "symbols": 4, "mu": 0.2, "epsilon": 0.1, "delta": 0.05, "length": 6.0}
    found = sample_sizes(**base)
    assert found.comparison_delta == pytest.approx(comparison_delta(0.025, 5, 4, 105))
    assert found.strings > found.visits > visits_for_distance(0.2, found.comparison_delta) - 1
    for name, harder in (
        ("mu", 0.0005),
        ("epsilon", 0.05),
        ("delta", 0.001),
        ("states", 10),
        ("length", 12.0),
    ):
        more = sample_sizes(**(base | {name: harder}))
        assert more.strings > found.strings
        assert more.strings < 1000 * found.strings
    for bad in ({"mu": 0}, {"delta": 1}, {"length": 0}, {"states": 0}):
        with pytest.raises(InputError):
            sample_sizes(**(base | bad))
    with pytest.raises(InputError):
        hoeffding_radius(0, 0.1)
