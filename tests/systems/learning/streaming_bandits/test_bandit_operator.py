"""The operator: its rows, its rounds, its reference, what it refuses."""

import numpy as np
import pytest

from unending.core import Control, Rows, Session, nbytes, replay
from unending.core.errors import InputError
from unending.laws import check
from unending.systems.learning.streaming_bandits import ALGORITHMS, ArmStream, StreamingBandits, mix_in, play
from unending.systems.learning.streaming_bandits.operator import COLUMNS


def rows(events):
    return np.concatenate([event.data.values for event in events])


def column(events, name):
    return rows(events)[:, COLUMNS.index(name)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_round_is_a_match(name):
    means = mix_in(40, 2)
    operator = StreamingBandits(name, arms=40, horizon=50_000)
    found = play(ArmStream(means), 50_000, ALGORITHMS[name], 0)
    events = replay(operator, [Rows(means[:, None])])
    assert len(events) == 41
    np.testing.assert_allclose(column(events, "regret")[:40], found.trace[:40, 1])
    last = rows(events)[-1]
    assert last[0] == pytest.approx(found.regret)
    assert last[1:].tolist() == [50_000, 1, found.champion, 0]
    assert [(event.t_start, event.t_end) for event in events][-2:] == [(39, 40), (40, 40)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_cut_anywhere_and_resumed_it_agrees_with_the_plain_loops(name):
    operator = StreamingBandits(name, arms=9, horizon=700, link="logit")
    rng = np.random.default_rng(5)
    chunks = [Rows(rng.standard_normal((n, 1))) for n in (1, 4, 9, 0, 2, 7, 1)]
    chunks.insert(4, Control("commit"))
    session = Session(operator)
    events = []
    for chunk in chunks:
        session.push(chunk)
        events += session.poll()
        session = Session.resume(operator, session.snapshot())
    session.finish()
    events += session.poll()
    np.testing.assert_allclose(rows(events), rows(operator.offline(chunks)), rtol=1e-9, atol=1e-9)
    assert column(events, "round").max() == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_laws_hold_for_every_algorithm(name):
    report = check(StreamingBandits(name, arms=7, horizon=900, link="logit"))
    assert report.ok, str(report)


def test_rounds_go_on_for_ever_in_constant_memory():
    operator = StreamingBandits("tower-log", arms=50, horizon=10_000)
    session = Session(operator)
    for seed in range(20):
        session.push(Rows(mix_in(50, seed)[:, None]))
        events = session.poll()
        assert rows(events)[-1][1] == 10_000
        assert column(events, "round")[-1] == seed
        assert session.nbytes == operator.bound().resident == nbytes(operator.init())


def test_an_early_commitment():
    operator = StreamingBandits(arms=50, horizon=10_000)
    session = Session(operator)
    session.push(Rows(np.full((5, 1), 0.5)))
    session.push(Control("interrupt"))
    assert len(session.poll()) == 5
    session.push(Control("commit"))
    (event,) = session.poll()
    assert event.data.values[0, :2].tolist() == [0.0, 10_000]
    session.push(Control("commit"))
    assert session.poll() == []


def test_the_regret_counts_what_was_pulled_before_the_best_arm_came():
    operator = StreamingBandits("uniform", arms=2, horizon=100)
    events = replay(operator, [Rows(np.array([[0.5], [0.75]]))])
    each = operator.machine().each
    regret, pulls = column(events, "regret"), column(events, "pulls")
    assert (regret[0], pulls[0]) == (0, each)
    assert regret[1] == 0.25 * each
    assert pulls[-1] == 100


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (Rows(np.array([[0.5], [1.5]])), r"arm 3 of the stream \(counted from 0\) is 1\.5"),
        (Rows(np.array([[-0.1]])), "success probability from 0 to 1"),
        (Rows(np.array([[np.nan]])), "NaN"),
        (Rows(np.array([[0.5, 0.5]])), "row width is 2"),
        (Control("stop"), "control 'stop'; commit is accepted"),
    ],
)
def test_bad_input_is_refused_and_the_match_goes_on(chunk, words):
    session = Session(StreamingBandits(arms=6, horizon=500))
    session.push(Rows(np.array([[0.5], [0.9]])))
    session.poll()
    before = session.snapshot()
    with pytest.raises(InputError, match=words):
        session.push(chunk)
    assert session.snapshot() == before
    session.push(Rows(np.array([[0.2]])))
    assert len(session.poll()) == 1


def test_settings_that_are_refused():
    for settings, words in (
        ({"algorithm": "exp3"}, "uniform, naive, game-of-arms"),
        ({"link": "probit"}, "identity and logit"),
        ({"arms": 0}, "0 arms"),
        ({"eps": 2.0}, "eps is 2"),
    ):
        with pytest.raises(InputError, match=words):
            StreamingBandits(**settings)
