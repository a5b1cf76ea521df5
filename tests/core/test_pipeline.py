from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from toys import Average, Babble, Delay, Loud, Smooth, Tally

from unending import core
from unending.core import (
    Bound,
    Control,
    Event,
    Exactness,
    Operator,
    Pipeline,
    PipelineState,
    Query,
    Rows,
    Session,
    Spec,
    Text,
    Tokens,
    fork,
    replay,
    state,
)
from unending.core.errors import KindError, NoOfflineError, SnapshotForeignError
from unending.core.pipeline import _Transaction
from unending.laws.equality import same_events, state_difference
from unending.laws.injection import count_lines, interrupt
from unending.laws.restore import go_on

OURS = (str(Path(core.__file__).parent), str(Path(toys.__file__).parent))


@state
class Nothing:
    seen: int


@dataclass(frozen=True)
class Picky(Operator[Nothing]):
    """Passes tokens on, with a guess before each, and fails at one of them."""

    fail_at: int = -1
    spec = Spec("picky", "tests", "fails", (Tokens, Control), (Tokens,), Exactness.bitwise())

    @classmethod
    def example(cls):
        return cls()

    def init(self, seed=0):
        return Nothing(0)

    def bound(self):
        return Bound(8)

    def _step(self, state, chunk):
        if isinstance(chunk, Control):
            return Nothing(-1), []
        if self.fail_at in chunk.ids:
            raise MemoryError("told to")
        guess = Event(Tokens([0]), state.seen, state.seen, final=False)
        return Nothing(state.seen + len(chunk)), [guess, Event(chunk, state.seen, state.seen + len(chunk))]


def ids(events: list[Event]) -> list[int]:
    return [int(each) for event in events if event.final for each in event.data.ids]


def test_stages_are_joined_and_flattened() -> None:
    pipeline = Delay() | Delay() | Babble()
    assert [type(stage) for stage in pipeline.stages] == [Delay, Delay, Babble]
    assert (Delay() | (Delay() | Babble())).digest() == pipeline.digest()
    assert pipeline.spec.name == "delay | delay | babble"
    assert pipeline.spec.takes == (Tokens, Query, Control)
    assert pipeline.spec.gives == (Tokens,)
    assert pipeline.spec.lookahead == 6
    assert pipeline.bound().resident == 2 * Delay().bound().resident + 32
    assert pipeline.domain()[Tokens] == {"vocabulary": 1000}


@pytest.mark.parametrize(
    ("join", "text"),
    [
        (lambda: Average() | Babble(), "average gives Rows, but babble takes Tokens, Query, Control"),
        (lambda: Loud() | Smooth(), "loud gives Text, but smooth takes Audio"),
        (lambda: Delay() | 3, "a pipeline is made of operators, got int"),
    ],
)
def test_stages_that_do_not_fit_are_a_type_error_where_they_are_joined(join: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        join()
    with pytest.raises(KindError, match=text):
        join()


def test_exactness_is_that_of_the_weakest_stage() -> None:
    assert (Average() | Average()).spec.exactness == Exactness.allclose(1e-9)
    assert (Delay() | Delay()).spec.exactness == Exactness.bitwise()


def test_final_events_go_on_and_guesses_do_not() -> None:
    events = replay(Picky() | Delay(window=0) | Picky(), [Tokens([1, 2, 3])])
    assert ids(events) == [1, 2, 3]
    assert [event.final for event in events] == [False, True]


def test_kinds_that_a_stage_does_not_take_pass_it_by() -> None:
    session = Session(Delay() | Babble(), seed=1)
    session.push(Tokens([1, 2, 3, 4, 5]))
    session.push(Query("why?"))
    babbling = Session(Babble(), seed=1)
    babbling.push(Tokens([1, 2]))
    babbling.push(Query("why?"))
    assert ids(go_on(session, [])) == ids(go_on(babbling, []))


def test_what_no_stage_takes_is_refused() -> None:
    session = Session(Delay() | Babble())
    with pytest.raises(KindError, match="takes Tokens, Query, Control; got Text"):
        session.push(Text("a"))


def test_interrupt_reaches_every_stage_that_takes_it() -> None:
    session = Session(Picky() | Babble())
    session.push(Query("why?"))
    session.poll()
    session.interrupt()
    assert session.poll() == []
    assert session.state.stages[0].seen == -1
    assert session.state.stages[1].left == 0


def test_finish_drains_the_stages_in_order() -> None:
    events = replay(Delay() | Delay(window=5), [Tokens(np.arange(20))])
    assert ids(events) == list(range(20))


def test_offline_chains_the_references() -> None:
    pipeline = Delay() | Delay()
    stream = [Tokens([1, 2]), Tokens([3])]
    assert ids(pipeline.offline(stream)) == [1, 2, 3]
    with pytest.raises(NoOfflineError, match="passes the first stage by"):
        (Delay() | Babble()).offline([Query("why?")])
    with pytest.raises(KindError, match="example of its own"):
        Pipeline.example()


def test_a_pipeline_is_saved_and_resumed() -> None:
    pipeline = Delay() | Babble()
    session = Session(pipeline, seed=3)
    session.push(Tokens([1, 2, 3, 4]))
    session.push(Query("why?"))
    session.poll()
    again = Session.resume(pipeline, session.snapshot())
    assert same_events(go_on(again, []), go_on(session, [])) is None
    with pytest.raises(SnapshotForeignError, match="other settings"):
        Session.resume(Delay(window=4) | Babble(), session.snapshot())


# A stage that takes several steps for one chunk, and writes into the spare room of its ring at each.


def primed(pipeline: Pipeline) -> tuple[PipelineState, PipelineState]:
    start, _ = pipeline.step(pipeline.init(), Tokens(np.arange(1, 21)))
    return start, fork(start)


def test_a_chunk_that_is_dropped_after_many_steps_of_a_stage_never_happened() -> None:
    pipeline = Delay() | Delay()
    start, before = primed(pipeline)
    pipeline.advance(start, Tokens(np.arange(900, 930)))
    assert state_difference(start, before) is None
    one, two = (pipeline.finish(pipeline.step(each, Tokens([77]))[0])[1] for each in (start, before))
    assert ids(one) == ids(two)


def test_without_the_copy_it_would_have_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the fork in `_own` is what the test above stands on."""
    monkeypatch.setattr(_Transaction, "_own", lambda self, index: None)
    pipeline = Delay() | Delay()
    start, before = primed(pipeline)
    pipeline.advance(start, Tokens(np.arange(900, 930)))
    assert state_difference(start, before) is not None


def test_a_stage_that_fails_undoes_the_stages_before_it() -> None:
    pipeline = Delay() | Delay() | Picky(fail_at=915)
    session = Session(pipeline)
    session.push(Tokens(np.arange(1, 21)))
    before, content = fork(session.state), session.snapshot()
    with pytest.raises(MemoryError):
        session.push(Tokens(np.arange(900, 930)))
    assert state_difference(session.state, before) is None
    assert session.snapshot() == content
    session.push(Tokens([50, 51]))
    assert ids(go_on(session, [])) == [*range(1, 21), 50, 51]


def test_ctrl_c_at_any_line_of_a_pipeline() -> None:
    pipeline = Delay() | Delay(window=5) | Babble(vocabulary=1000)
    session = Session(pipeline, seed=2)
    session.push(Tokens(np.arange(1, 13)))
    whole = session.fork()
    chunk, query = Tokens(np.arange(20, 29)), Query("why?")
    lines = count_lines(lambda: whole.push(chunk), OURS)
    expected = go_on(whole.fork(), [query])
    assert lines > 100
    for line in range(1, lines + 1):
        twin = session.fork()
        assert interrupt(lambda: twin.push(chunk), OURS, line, KeyboardInterrupt)  # noqa: B023 - called at once
        if twin.in_seq == 1:
            assert state_difference(twin.state, session.state) is None
            twin.push(chunk)
        assert state_difference(twin.state, whole.state) is None
        assert same_events(go_on(twin, [query]), expected) is None


def test_a_query_may_be_answered_by_an_inner_stage() -> None:
    symbols = replace(Tally.spec, name="tokens-to-rows", takes=(Tokens, Query))
    counts = type("Counts", (Tally,), {"spec": symbols, "domain": lambda self: {Tokens: {"vocabulary": 12}}})
    session = Session(Delay() | counts() | Average(width=12, every=1))
    session.push(Tokens([1, 2, 3, 4, 5, 6]))
    session.push(Query("how many?"))
    (event,) = session.poll()
    assert isinstance(event.data, Rows)
