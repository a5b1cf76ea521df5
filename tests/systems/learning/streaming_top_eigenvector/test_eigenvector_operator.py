"""The operator: reports before learning, answers, bounds, bad input."""

import numpy as np
import pytest

from unending.core import Control, Rows, Session, nbytes, replay
from unending.core.errors import InputError
from unending.parts.numerics.power import correlation, top_right_singular
from unending.systems.learning.streaming_top_eigenvector import Settings, StreamingTopEigenvector

ROWS = np.random.default_rng(0).standard_normal((640, 6)) * np.array([4, 1, 1, 1, 1, 1])


def test_reports_are_measured_before_the_rows_are_learned():
    op = StreamingTopEigenvector(width=6, report=32, n_rows=640, n_blocks=4)
    reports = np.concatenate([event.data.values for event in replay(op, [Rows(ROWS)], seed=3)])
    settings = Settings(n_rows=640, n_blocks=4)
    state = settings.init(6, 3)
    for rows, report in zip(np.split(ROWS, 20), reports, strict=True):
        share = np.sum((rows @ settings.estimate(state).direction) ** 2) / np.sum(rows**2)
        assert report[0] == pytest.approx(share)
        state = settings.update(state, rows)
    assert reports[-1, 0] > 0.7 > reports[0, 0]


def test_the_direction_can_be_asked_for_and_asking_changes_nothing():
    session = Session(StreamingTopEigenvector(width=6, report=32, n_rows=640, n_blocks=4))
    session.push(Rows(ROWS))
    session.poll()
    before = session.operator.bound().resident, nbytes(session.state)
    session.push(Control("direction"))
    [event] = session.poll()
    assert correlation(event.data.values[0], top_right_singular(ROWS)) > 0.98
    assert (session.operator.bound().resident, nbytes(session.state)) == before


def test_a_short_last_block_is_reported_at_the_end_and_once():
    session = Session(StreamingTopEigenvector(width=6, report=32))
    session.push(Rows(ROWS[:40]))
    assert [event.t_end for event in session.poll()] == [32]
    session.finish()
    assert [(event.t_start, event.t_end) for event in session.poll()] == [(32, 40)]


def test_bad_input_is_refused_and_the_learned_state_kept():
    session = Session(StreamingTopEigenvector(width=6, report=32))
    session.push(Rows(ROWS[:64]))
    kept = session.state.learned.vectors.copy()
    spoilt = ROWS[:40].copy()
    spoilt[39] = 1e200
    for wrong in (Rows(ROWS[:2] * np.nan), Rows(ROWS[:2, :3]), Rows(spoilt), Control("vectors")):
        with pytest.raises(InputError):
            session.push(wrong)
    np.testing.assert_array_equal(session.state.learned.vectors, kept)
    session.push(Rows(ROWS[64:96]))
    assert len(session.poll()) == 3


def test_rows_without_a_width_are_asked_about():
    with pytest.raises(InputError, match="how many columns"):
        StreamingTopEigenvector().init()
    with pytest.raises(InputError, match="report"):
        StreamingTopEigenvector(report=0)


def test_a_refused_row_is_named_by_its_place_in_the_stream():
    """Sources push some hundred rows at a time; a place within one push says nothing to who reads the message."""
    session = Session(StreamingTopEigenvector(width=6, report=32))
    session.push(Rows(ROWS[:45]))
    with pytest.raises(InputError, match="row 48 "):
        session.push(Rows(np.concatenate([ROWS[:3], np.full((1, 6), 1e200)])))
