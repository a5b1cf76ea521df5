from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from toys import TOYS, Average, Babble, Smooth

from unending import core
from unending.core import (
    Audio,
    Bound,
    Chunk,
    Control,
    Event,
    Exactness,
    Operator,
    Query,
    Rows,
    Session,
    Spec,
    Text,
    Tick,
    Tokens,
    fork,
    state,
)
from unending.core.errors import InputError, OwnershipError, SessionClosedError
from unending.laws.equality import same_events, state_difference
from unending.laws.injection import count_lines, interrupt
from unending.laws.restore import go_on
from unending.laws.streams import Source

OURS = (str(Path(core.__file__).parent), str(Path(toys.__file__).parent))
"""The code that is interrupted: all of the core, and the operators."""


def drain(session: Session) -> list[Event]:
    events = []
    while more := session.poll():
        events += more
    return events


def test_push_and_poll() -> None:
    session = Session(Average())
    session.push(Rows(np.ones((3, 2))))
    assert session.poll() == []
    session.push(Rows(np.ones((6, 2))))
    first, second = session.poll()
    assert (first.t_start, first.t_end, first.seq) == (0, 4, 0)
    assert (second.t_start, second.t_end, second.seq) == (4, 8, 1)
    assert session.poll() == []
    assert (session.in_seq, session.out_seq) == (2, 2)
    assert session.nbytes <= session.operator.bound().resident


def test_poll_works_until_there_is_an_output() -> None:
    session = Session(Babble())
    session.push(Query("why?"))
    assert session.pending
    assert [[event.seq for event in session.poll()] for _ in range(7)] == [[0], [1], [2], [3], [4], [5], []]
    assert session.meters.ticks == 6


def test_pending_work_is_done_before_input_is_admitted() -> None:
    one, two = Session(Babble()), Session(Babble())
    for session in (one, two):
        session.push(Query("why?"))
    drain(two)
    for session in (one, two):
        session.push(Tokens([1]))
        session.push(Query("and?"))
    assert state_difference(one.state, two.state) is None
    assert len(drain(one)) == 6 + 6


def test_run_gives_events_as_they_come_and_finishes() -> None:
    session = Session(Average())
    events = list(session.run([Rows(np.ones((3, 2))), Rows(np.ones((3, 2)))]))
    assert [(event.t_start, event.t_end) for event in events] == [(0, 4), (4, 6)]
    assert session.finished


def test_finish_happens_once() -> None:
    session = Session(Smooth())
    session.push(Audio(np.ones(5), 100))
    session.finish()
    session.finish()
    assert sum(len(event.data) for event in session.poll()) == 5
    for push in (lambda: session.push(Audio(np.ones(5), 100)),):
        with pytest.raises(SessionClosedError, match="reset"):
            push()
    session.reset()
    session.push(Audio(np.ones(5), 100))
    assert [event.seq for event in session.poll()] == [0]


def test_closed_sessions_refuse_use() -> None:
    with Session(Average()) as session:
        pass
    session.close()
    uses: list[Callable[[], Any]] = [
        session.poll,
        session.finish,
        session.fork,
        session.snapshot,
        lambda: session.push(Rows(np.ones((1, 2)))),
        lambda: session.state,
        lambda: session.nbytes,
    ]
    for use in uses:
        with pytest.raises(SessionClosedError, match="closed"):
            use()


def test_a_fork_goes_its_own_way() -> None:
    session = Session(Babble(), seed=1)
    session.push(Query("why?"))
    session.poll()
    twin = session.fork()
    assert [event.seq for event in drain(twin)] == [1, 2, 3, 4, 5]
    twin.push(Tokens([7]))
    again = drain(session)
    assert [event.seq for event in again] == [1, 2, 3, 4, 5]
    assert session.in_seq == 1


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (Text("a"), "average takes Rows, Query; got Text"),
        (Rows(np.full((1, 2), np.nan)), "NaN"),
        (Rows(np.ones((1, 3))), "row width is 3, accepted is 2"),
        (Rows(np.ones((1, 2)), t=1.0), "before 5 where the stream has got to"),
        (Tick(), "ticks are the session's own work"),
        (None, "not a chunk"),
    ],
)
def test_bad_input_changes_nothing(chunk: Any, text: str) -> None:
    session = Session(Average())
    session.push(Rows(np.ones((5, 2))))
    before = fork(session.state)
    with pytest.raises(InputError, match=text) as caught:
        session.push(chunk)
    assert "\n" not in str(caught.value)
    assert state_difference(session.state, before) is None
    assert (session.in_seq, session.out_seq, session.time) == (1, 1, 5.0)
    session.push(Rows(np.ones((3, 2)), t=5.0))
    assert len(session.poll()) == 2


def test_interrupt_stops_an_answer_between_two_tokens() -> None:
    session = Session(Babble())
    session.push(Query("why?"))
    session.poll()
    session.interrupt()
    assert session.poll() == []
    assert not session.pending
    session.push(Query("why?"))
    assert len(drain(session)) == 6


def test_interrupt_of_an_idle_session_does_not_stop_what_comes_later() -> None:
    session = Session(Babble())
    session.interrupt()
    session.push(Query("why?"))
    assert len(drain(session)) == 6


@dataclass(frozen=True)
class Apologetic(Babble):
    """Says one thing more when it is interrupted."""

    def _step(self, state, chunk):
        state, events = super()._step(state, chunk)
        return state, [Event(Text("sorry"), 0.0, 0.0)] if type(chunk) is Control else events


def test_what_an_interrupt_gives_comes_with_the_poll_that_heeds_it() -> None:
    session = Session(Apologetic())
    session.push(Query("why?"))
    session.poll()
    session.interrupt()
    assert [event.data.text for event in session.poll()] == ["sorry"]


@dataclass(frozen=True)
class Thinking(Babble):
    """Thinks two ticks after each chunk."""

    spec = replace(Babble.spec, name="thinking", ticks=2)


def test_ticks_are_interleaved_where_the_operator_says_so() -> None:
    session = Session(Thinking())
    session.push(Query("why?"))
    assert session.meters.ticks == 2
    session.push(Tokens([1]))
    assert session.meters.ticks == 4
    assert session.pending
    session.finish()
    assert [event.seq for event in session.poll()] == [0, 1, 2, 3, 4, 5]


def test_the_committed_state_is_consumed_by_the_next_push() -> None:
    session = Session(Average())
    old = session.state
    session.push(Rows(np.ones((1, 2))))
    with pytest.raises(OwnershipError):
        old.mean  # noqa: B018


def test_many_outputs_may_wait() -> None:
    session = Session(Average(every=1))
    for _ in range(3000):
        session.push(Rows(np.ones((1, 2))))
    assert [event.seq for event in session.poll()] == list(range(3000))


@dataclass(frozen=True)
class Failing(Average):
    """Raises in the middle of a block."""

    spec = replace(Average.spec, name="failing")

    def _absorb(self, mean, block):
        if (block == 13).any():
            raise MemoryError("told to")
        return super()._absorb(mean, block)


def test_a_push_that_fails_never_happened() -> None:
    session, clean = Session(Failing()), Session(Failing())
    for value in (1.0, 13.0, 2.0):
        chunk = Rows(np.full((4, 2), value))
        if value == 13:
            before = session.snapshot()
            with pytest.raises(MemoryError):
                session.push(chunk)
            assert session.snapshot() == before
        else:
            session.push(chunk)
            clean.push(chunk)
    assert same_events(session.poll(), clean.poll()) is None
    assert session.snapshot() == clean.snapshot()


def sweep(session: Session, call: Callable[[Session], Any]) -> list[Session]:
    """A fork of the session for every line that the call runs, with a Ctrl-C at that line."""
    stopped = []
    whole = session.fork()
    for line in range(1, 1 + count_lines(lambda: call(whole), OURS)):
        twin = session.fork()
        assert interrupt(lambda: call(twin), OURS, line, KeyboardInterrupt)  # noqa: B023 - called at once
        stopped.append(twin)
    return stopped


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.__name__)
def test_ctrl_c_at_any_line_of_a_push(toy: type[Operator]) -> None:
    """The push has happened or it has not; `in_seq` says which, and nothing is lost or doubled."""
    operator = toy.example()
    chunks: list[Chunk] = [chunk[:7] if chunk.items else chunk for chunk in Source(operator).typical(2, 2)]
    for place, chunk in enumerate(chunks):
        session = Session(operator, seed=1)
        for earlier in chunks[:place]:
            session.push(earlier)
        after = session.fork()
        after.push(chunk)
        expected = go_on(after.fork(), chunks[place + 1 :])
        for twin in sweep(session, lambda session: session.push(chunk)):  # noqa: B023
            assert twin.in_seq in (place, place + 1)
            if twin.in_seq == place:
                twin.push(chunk)
            assert state_difference(twin.state, after.state) is None
            events = go_on(twin, chunks[place + 1 :])
            assert same_events(events, expected) is None
            assert [event.seq for event in events] == list(range(len(events)))


def test_ctrl_c_at_any_line_of_finish() -> None:
    session = Session(Babble())
    session.push(Tokens([1, 2]))
    session.push(Query("why?"))
    expected = go_on(session.fork(), [])
    for twin in sweep(session, Session.finish):
        events = go_on(twin, [])
        assert same_events(events, expected) is None


def test_ctrl_c_at_any_line_of_poll() -> None:
    """Nothing is lost, but where the outputs are already on their way to the caller, which is the last line."""
    session = Session(Babble())
    session.push(Query("why?"))
    session.push(Tokens([1, 2]))
    expected = go_on(session.fork(), [])
    *stopped, last = sweep(session, Session.poll)
    for twin in stopped:
        assert same_events(go_on(twin, []), expected) is None
    assert go_on(last, []) == []


class _Thinker(Operator[Any]):
    """Two ticks of work after each chunk, one of them while it reads."""

    spec = Spec(
        "thinker", "toy", "works while it reads", (Tokens, Control), (Tokens,), Exactness.bitwise(), ticks=1
    )

    @classmethod
    def example(cls):
        return cls()

    def settings(self):
        return {}

    def init(self, seed=0):
        return _Work(0)

    def bound(self):
        return Bound(8)

    def pending(self, state):
        return state.left > 0

    def _step(self, state, chunk):
        if type(chunk) is Control:
            return _Work(0), []
        if type(chunk) is Tick:
            return _Work(state.left - 1), [Event(Tokens([state.left]), 0, 0)]
        return _Work(2), []


@state
class _Work:
    left: int


def test_an_interrupt_with_nothing_to_stop_does_not_stop_what_comes():
    session = Session(_Thinker())
    session.interrupt()
    session.push(Tokens([1]))
    assert [event.data.ids.item() for event in session.poll()] == [2]
    assert [event.data.ids.item() for event in session.poll()] == [1]


def test_an_interrupt_stops_what_is_pending_before_the_next_chunk_enters():
    session = Session(_Thinker())
    session.push(Tokens([1]))
    session.poll()
    session.interrupt()
    session.push(Tokens([2]))
    assert [event.data.ids.item() for event in session.poll()] == [2]
