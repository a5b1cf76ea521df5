"""The operator: reports before learning, the dictionary on request, bad input."""

import numpy as np
import pytest

from unending.core import Control, Rows, Session, replay
from unending.core.errors import InputError
from unending.systems.learning.online_dictionary_fw import DictionarySettings, OnlineDictionaryFW
from unending.systems.learning.online_dictionary_fw.core import random_orthogonal, spikiness
from unending.systems.learning.online_dictionary_fw.metrics import dictionary_error

RNG = np.random.default_rng(0)
TRUTH = random_orthogonal(6, 1000)
ROWS = (RNG.standard_normal((6000, 6)) * (RNG.random((6000, 6)) < 0.3)) @ TRUTH.T


def test_reports_are_measured_before_the_rows_are_learned():
    op = OnlineDictionaryFW(width=6, batch_size=50)
    reports = np.concatenate([event.data.values for event in replay(op, [Rows(ROWS)], seed=3)])
    settings = DictionarySettings(batch_size=50)
    state = settings.init(6, 3)
    for rows, report in zip(np.split(ROWS, 120), reports, strict=True):
        assert report[0] == pytest.approx(spikiness(rows @ settings.orthogonal(state), 3.0))
        state = settings.update(state, rows)
        assert report[1] == pytest.approx(state.gap[0])
    assert reports[-20:, 0].mean() > reports[:2, 0].mean() + 0.1
    assert (reports[:, 1] >= -1e-12).all()
    assert ((reports[:, 2] >= -1e-12) & (reports[:, 2] <= 1)).all()


def test_the_dictionary_can_be_asked_for():
    session = Session(OnlineDictionaryFW(width=6, batch_size=10))
    session.push(Rows(ROWS))
    session.poll()
    session.push(Control("dictionary"))
    [event] = session.poll()
    assert dictionary_error(TRUTH, event.data.values.T) < 0.03


def test_a_short_last_minibatch_is_learned_at_the_end_and_once():
    session = Session(OnlineDictionaryFW(width=6, batch_size=10))
    session.push(Rows(ROWS[:25]))
    assert [event.t_end for event in session.poll()] == [10, 20]
    session.finish()
    assert [(event.t_start, event.t_end) for event in session.poll()] == [(20, 25)]


def test_bad_input_is_refused_and_the_learned_state_kept():
    session = Session(OnlineDictionaryFW(width=6, batch_size=10))
    session.push(Rows(ROWS[:60]))
    kept = session.state.dictionary.copy()
    spoilt = ROWS[:40].copy()
    spoilt[39] = 1e200
    for wrong in (Rows(ROWS[:2] * np.nan), Rows(ROWS[:2, :3]), Rows(spoilt), Control("atoms")):
        with pytest.raises(InputError):
            session.push(wrong)
    np.testing.assert_array_equal(session.state.dictionary, kept)


def test_rows_without_a_width_are_asked_about():
    with pytest.raises(InputError, match="how many columns"):
        OnlineDictionaryFW().init()


def test_a_refused_row_is_named_by_its_place_in_the_stream():
    """Sources push some hundred rows at a time; a place within one push says nothing to who reads the message."""
    session = Session(OnlineDictionaryFW(width=6, batch_size=10))
    session.push(Rows(ROWS[:45]))
    with pytest.raises(InputError, match="row 48 "):
        session.push(Rows(np.concatenate([ROWS[:3], np.full((1, 6), 1e200)])))
