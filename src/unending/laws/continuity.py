"""L5, L7 and L8: a stream that is cut, stopped in its middle, or brought to its end."""

from time import perf_counter
from typing import Any

from hypothesis import strategies as st

from unending.core import TICK, Chunk, Control, Event, Query, Session, fork
from unending.core.errors import InputError, SessionClosedError
from unending.laws.equality import events_difference, same_events, state_difference, tolerance_of
from unending.laws.injection import code_of, count_lines, interrupt
from unending.laws.play import MOST_TICKS, play, require_end, settle
from unending.laws.restore import POLL, Act, act, digests, go_on
from unending.laws.streams import Cutting, Plan, cut, cut_all, cuttings
from unending.laws.trial import Trial, Violation, require

__all__ = ["cancel", "finish", "snapshot"]


def _acts(trial: Trial) -> list[Act]:
    """Pushes of all sizes, with and without polls between them."""
    source, rng = trial.source, trial.rng(5)
    acts: list[Act] = []
    for chunk in source.typical(5):
        for piece in cut(chunk, [int(place) for place in rng.integers(0, 100, 3)]):
            acts += [piece, POLL, POLL][: int(rng.integers(1, 4))]
    return acts or [POLL] * 10


def snapshot(trial: Trial) -> str:
    """L5: cut anywhere, restored in a fresh process, it goes on bit for bit; equal states give equal bytes."""
    operator, profile = trial.operator, trial.profile
    require_end(operator, trial.source.typical(5))
    acts = _acts(trial)
    places = sorted(
        {int(place) for place in trial.rng(6).integers(0, len(acts) + 1, profile.cuts)} | {0, len(acts)}
    )
    session = Session(operator, seed=trial.seed)
    events: list[Event] = []
    snapshots = []
    for done in range(len(acts) + 1):
        if done in places:
            content = session.snapshot()
            if session.fork().snapshot() != content:
                raise Violation(f"after {done} acts, equal states give other bytes")
            snapshots.append((done, len(events), content))
        if done < len(acts):
            events += act(session, acts[done])
    events += go_on(session, [])
    uncut = digests(events, session.state)
    try:
        found = trial.restorer.restore(acts, [(done, content) for done, _, content in snapshots])
    except InputError as error:
        raise Violation(str(error)) from error
    for (done, seen, _), lines in zip(snapshots, found, strict=True):
        for ours, theirs in zip(uncut[seen:], lines, strict=False):
            if ours != theirs:
                raise Violation(f"cut after {done} of {len(acts)} acts: {theirs} (uncut: {ours})")
        if len(lines) != len(uncut) - seen:
            raise Violation(
                f"cut after {done} of {len(acts)} acts: {len(lines)} lines are not {len(uncut) - seen}"
            )
    return f"{len(places)} cuts of {len(acts)} acts, {len(snapshots[-1][2]):,} bytes"


class _Injected(RuntimeError):
    """An error that no operator expects."""


def cancel(trial: Trial) -> str:
    """L7: a step that is dropped or stopped at any line never happened; an interrupt leaves the session usable."""
    operator, source, rng = trial.operator, trial.source, trial.rng(7)
    prefix, began = code_of(operator), perf_counter()
    chunks, others = ([p for pieces in cut_all(source.typical(n), ((7, 8),)) for p in pieces] for n in (7, 8))
    state, calm = (operator.init(trial.seed) for _ in range(2))
    injected, done = 0, 0

    def disturb(state: Any, what: Chunk) -> None:
        """Drop a step and stop some in their middle; the state must not notice."""
        nonlocal injected
        before, name = fork(state), type(what).__name__
        lines = count_lines(lambda: operator.advance(state, what), prefix)
        require(state_difference(state, before), f"a dropped {name} step has changed the state")
        every = 1 + rng.permutation(lines)[: trial.profile.injections]
        for line in every.tolist():
            if perf_counter() - began > 3 * trial.profile.seconds * (done + 1) / len(chunks):
                break
            error = (KeyboardInterrupt, _Injected)[line % 2]
            injected += interrupt(lambda: operator.advance(state, what), prefix, line, error)
            how = state_difference(state, before)
            require(how, f"{error.__name__} at line {line} of {lines} of a {name} step has changed the state")

    def both(what: Chunk) -> None:
        nonlocal state, calm
        state, events = operator.step(state, what)
        calm, wanted = operator.step(calm, what)
        require(same_events(events, wanted), "beside a stream that nothing happened to")

    for chunk, other in zip(chunks, others, strict=True):
        disturb(state, other)
        disturb(state, chunk)
        both(chunk)
        for tick in range(operator.spec.ticks or MOST_TICKS):
            if not operator.pending(state):
                break
            if tick < 2:
                disturb(state, TICK)
            both(TICK)
        done += 1
    state, events = operator.finish(state)
    calm, wanted = operator.finish(calm)
    require(same_events(events, wanted), "beside a stream that nothing happened to")
    require(state_difference(state, calm), "beside a stream that nothing happened to")
    _interrupted(trial)
    return f"{injected} exceptions in {len(chunks)} chunks"


def _interrupted(trial: Trial) -> None:
    """An interrupt between two ticks stops the work at hand, and nothing else."""
    operator, source = trial.operator, trial.source
    for chunk in [
        *source.typical(7),
        *([source.chunk(Query, 0, trial.rng(8))] if "Query" in source.kinds else []),
    ]:
        session = Session(operator, seed=trial.seed)
        session.push(chunk)
        if not session.pending:
            continue
        operator.advance(session.state, TICK)
        session.interrupt()
        if operator.takes_interrupt():
            stopped, _ = operator.step(fork(session.state), Control("interrupt"))
            if operator.pending(stopped) and operator.spec.ticks is None:
                raise Violation("work is still pending after an interrupt")
        session.poll()
        session.push(chunk)
        settle(operator, fork(session.state), operator.spec.ticks)


def finish(trial: Trial) -> str:
    """L8: `finish` gives what was held back, once, however the stream was cut; after it a push is refused."""
    operator, source = trial.operator, trial.source
    require_end(operator, source.typical(8))
    exactness = operator.spec.exactness
    comparable = exactness.kind in ("bitwise", "allclose")

    def body(case: tuple[Plan, Cutting, Cutting]) -> None:
        plan, *cuttings = case
        stream = source.stream(plan)
        state = _finish_session(trial, stream, cuttings[0])
        _, more = operator.finish(fork(state))
        after, again = operator.finish(fork(state))
        if more or again:
            raise Violation(f"{plan}: a second finish gives {len(more)} more events")
        if how := state_difference(after, state):
            raise Violation(f"{plan}: a second finish changes the state: {how}")
        if comparable:
            one, two = (play(operator, cut_all(stream, cutting), trial.seed).finished for cutting in cuttings)
            if how := events_difference(one, two, tolerance_of(exactness)):
                raise Violation(f"{plan}; what finish gives depends on how the stream was cut: {how}")

    tried = trial.explore(st.tuples(source.plans(), cuttings(5), cuttings(5)), body)
    return f"{tried} streams"


def _finish_session(trial: Trial, stream: list[Chunk], cutting: Cutting) -> Any:
    session = Session(trial.operator, seed=trial.seed)
    for pieces in cut_all(stream, cutting):
        for piece in pieces:
            session.push(piece)
    session.finish()
    given = session.out_seq
    session.finish()
    if session.out_seq != given:
        raise Violation("finishing a session twice gives more events")
    kinds = [*trial.source.kinds.values()]
    if kinds:
        try:
            session.push(trial.source.chunk(kinds[0], 1, trial.rng(8)))
        except SessionClosedError:
            pass
        else:
            raise Violation("a finished session takes a push")
    return session.state
