from dataclasses import dataclass, replace

import numpy as np
import pytest
from toys import Average, Babble, Tally

from unending.core import (
    TICK,
    Bound,
    Control,
    Event,
    Exactness,
    Operator,
    Query,
    Rows,
    Spec,
    Symbols,
    Text,
    Tokens,
    drive,
    fork,
    nbytes,
    replay,
    state,
)
from unending.core.errors import InputError, KindError, NoOfflineError, OwnershipError, UnendingError


@state
class Count:
    items: np.ndarray
    seen: int


@dataclass(frozen=True)
class Counter(Operator[Count]):
    """Counts tokens; fails where it is told to."""

    fail_at: int = 99
    spec = Spec("counter", "tests", "counts", (Tokens,), (Tokens,), Exactness.bitwise())

    @classmethod
    def example(cls):
        return cls()

    def init(self, seed=0):
        return Count(np.zeros(2, np.int64), 0)

    def bound(self):
        return Bound(24)

    def _step(self, state, chunk):
        if self.fail_at in chunk.ids:
            raise KeyboardInterrupt if self.fail_at == 13 else RuntimeError("told to")
        if not chunk.ids.any():
            return state, []
        return replace(state, seen=state.seen + len(chunk)), [
            Event(chunk, state.seen, state.seen + len(chunk))
        ]


def test_step_consumes_its_state() -> None:
    operator = Counter()
    start = operator.init()
    after, _ = operator.step(start, Tokens([1, 2]))
    assert after.seen == 2
    with pytest.raises(OwnershipError, match="this Count was consumed"):
        operator.step(start, Tokens([1]))
    with pytest.raises(OwnershipError):
        start.seen  # noqa: B018


@pytest.mark.parametrize(("fail_at", "error"), [(7, RuntimeError), (13, KeyboardInterrupt)])
def test_a_step_that_raises_leaves_its_state_alive(fail_at: int, error: type[BaseException]) -> None:
    operator = Counter(fail_at)
    start = operator.init()
    with pytest.raises(error):
        operator.step(start, Tokens([fail_at]))
    assert operator.step(start, Tokens([1]))[0].seen == 1


def test_a_step_may_return_the_state_it_was_given() -> None:
    operator = Counter()
    start = operator.init()
    after, _ = operator.step(start, Tokens([0]))
    assert after is not start
    assert after.seen == 0
    after, _ = operator.finish(after)
    assert after.seen == 0


def test_advance_leaves_its_state_alive() -> None:
    operator = Counter()
    start = operator.init()
    for _ in range(2):
        after, events = operator.advance(start, Tokens([5, 6]))
        assert (after.seen, len(events), start.seen) == (2, 1, 0)


def test_an_empty_chunk_changes_nothing() -> None:
    operator = Tally()
    start, _ = operator.step(operator.init(), Symbols([1, 2]))
    kept = fork(start)
    after, events = operator.step(start, Symbols([]))
    assert events == []
    assert np.array_equal(after.table, kept.table)
    average = Average()
    after, events = average.step(average.init(), Rows([]))
    assert (after.rest.count, events) == (0, [])


@pytest.mark.parametrize("name", ["step", "finish", "step_many", "advance", "advance_to_end", "digest"])
def test_what_is_final_cannot_be_defined_again(name: str) -> None:
    with pytest.raises(TypeError, match=f"Wrong.{name} is final"):
        type("Wrong", (Counter,), {name: lambda self: None})


@pytest.mark.parametrize(
    ("chunk", "error", "text"),
    [
        (Text("a"), KindError, "^tally takes Symbols, Query; got Text$"),
        (3, KindError, "^tally takes Symbols, Query; got int, which is not a chunk$"),
        (None, KindError, "NoneType"),
        (Symbols([12]), InputError, "^symbol 12 is outside the accepted 0 to 11$"),
        (Symbols([1], t=float("nan")), InputError, "^the time of a chunk is a finite number, got nan$"),
        (Symbols([1], t="now"), InputError, "'now'"),
    ],
)
def test_what_is_not_taken_is_refused(chunk: object, error: type, text: str) -> None:
    operator = Tally()
    start = operator.init()
    with pytest.raises(error, match=text):
        operator.step(start, chunk)
    assert operator.step(start, Symbols([1]))[0].position == 1


def test_step_many_reports_failures_one_by_one() -> None:
    operator = Tally()
    states = [operator.init() for _ in range(3)]
    results = operator.step_many(states, [Symbols([1]), Symbols([99]), Symbols([2, 3])])
    assert isinstance(results[1], UnendingError)
    assert [results[0][0].position, results[2][0].position] == [1, 2]
    assert states[1].position == 0
    for index in (0, 2):
        with pytest.raises(OwnershipError):
            states[index].position  # noqa: B018


def test_step_many_refuses_a_consumed_state_before_anything_happens() -> None:
    operator = Tally()
    used = operator.init()
    operator.step(used, Symbols([1]))
    other = operator.init()
    with pytest.raises(OwnershipError):
        operator.step_many([other, used], [Symbols([1]), Symbols([1])])
    assert other.position == 0


def test_digest_tells_settings_and_version_apart() -> None:
    assert Average().digest() == Average().digest()
    assert Average().digest() != Average(every=5).digest()
    newer = type("Newer", (Average,), {"spec": replace(Average.spec, version=2)})
    assert Average().digest() != newer().digest()
    assert Average().settings() == {"decay": 0.9, "width": 2, "every": 4}


def test_without_a_reference_the_reason_is_given() -> None:
    with pytest.raises(NoOfflineError, match="counter defines no offline reference"):
        Counter().offline([])
    excused = type("Excused", (Counter,), {"opt_outs": {"L2": "no whole stream"}})
    with pytest.raises(NoOfflineError, match=r"^no whole stream$"):
        excused().offline([])


def test_drive_and_replay_tick_to_idle() -> None:
    operator = Babble()
    stream = [Tokens([1, 2, 3]), Query("why?"), Tokens([4])]
    after, events = drive(operator, operator.init(), stream[0])
    after, events = drive(operator, after, stream[1])
    assert len(events) == 6
    assert not operator.pending(after)
    assert [event.data.ids[0] for event in replay(operator, stream)] == [
        event.data.ids[0] for event in events
    ]


def test_pending_work_and_interrupts() -> None:
    operator = Babble()
    assert operator.takes_interrupt()
    assert not Average().takes_interrupt()
    after, _ = operator.step(operator.init(), Query("why?"))
    after, events = operator.step(after, TICK)
    assert len(events) == 1
    after, _ = operator.step(after, Control("interrupt"))
    assert not operator.pending(after)
    assert nbytes(after) <= operator.bound().resident
