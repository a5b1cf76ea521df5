"""L11 and L12: times in order, and bad input refused without harm."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from math import isfinite
from numbers import Real
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import strategies as st

from unending.core import TICK, Chunk, Event, Session, fork
from unending.core.errors import InputError, UnendingError
from unending.laws.bad import bad_chunks
from unending.laws.equality import joined, same_events, state_difference
from unending.laws.play import play, require_end, settle
from unending.laws.restore import go_on
from unending.laws.streams import Cutting, Plan, cut_all, cuttings
from unending.laws.trial import Trial, Violation, require

__all__ = ["robustness", "timing"]


def _require_order(events: list[Event], plan: object) -> None:
    latest = -np.inf
    for index, event in enumerate(events):
        times: dict[str, object] = {"t_start": event.t_start, "t_end": event.t_end}
        for name, value in times.items():
            if not (isinstance(value, Real) and isfinite(value)):
                raise Violation(f"{plan}: {name} of event {index} is {value!r}, not a finite number")
        if event.t_start > event.t_end:
            raise Violation(f"{plan}: event {index} starts at {event.t_start:g} and ends at {event.t_end:g}")
        if event.final:
            if event.t_end < latest - 1e-9:
                raise Violation(
                    f"{plan}: final event {index} ends at {event.t_end:g}, after one that ends at {latest:g}"
                )
            latest = max(latest, event.t_end)


@contextmanager
def _strange_clock() -> Iterator[None]:
    """A wall clock that leaps an hour with each look at it."""
    hours = count(1)
    leaps: dict[str, Any] = {
        name: lambda: 1e9 + 3600.0 * next(hours) for name in ("time", "monotonic", "perf_counter")
    }
    whole: dict[str, Any] = {f"{name}_ns": lambda: int(1e18) + 3600 * 10**9 * next(hours) for name in leaps}
    with mock.patch.multiple(time, **leaps, **whole):
        yield


def timing(trial: Trial) -> str:
    """L11: starts before ends, final ends in order, the same however the stream is cut and whatever the clock says."""
    operator, source = trial.operator, trial.source
    comparable = operator.spec.exactness.kind in ("bitwise", "allclose")

    def body(case: tuple[Plan, Cutting]) -> None:
        plan, cutting = case
        stream = source.stream(plan)
        whole = play(operator, [[chunk] for chunk in stream], trial.seed).events
        pieces = play(operator, cut_all(stream, cutting), trial.seed).events
        _require_order(whole, plan)
        _require_order(pieces, plan)
        if comparable:
            for one, two in zip(_times(whole), _times(pieces), strict=False):
                if one != two:
                    raise Violation(f"{plan}: cut otherwise, an output is at {two}, not at {one}")

    tried = trial.explore(st.tuples(source.plans(), cuttings(5)), body)
    stream = [[chunk] for chunk in source.typical(11)]
    known = play(operator, stream, trial.seed)
    with _strange_clock():
        strange = play(operator, stream, trial.seed)
    how = same_events(strange.events, known.events) or state_difference(strange.state, known.state)
    if how:
        raise Violation(f"under another wall clock: {how}")
    require_end(operator, source.typical(11))
    session = Session(operator, seed=trial.seed)
    numbers = [event.seq for event in go_on(session, [chunk for pieces in stream for chunk in pieces])]
    if numbers != list(range(len(numbers))):
        raise Violation(f"a session numbers its events {numbers[:8]}...")
    return f"{tried} streams"


def _times(events: list[Event]) -> list[str]:
    return [
        f"{each.t_start:.5f}..{each.t_end:.5f} ({kind})"
        for kind, stretches in joined(events).items()
        for each in stretches
    ]


def _refuses(session: Session[Any], chunk: Any, what: str, *, must: bool) -> bool:
    """Push what is bad; whether it was refused. Anything but a one-line `UnendingError` is a violation."""
    before = fork(session.state)
    try:
        session.push(chunk)
    except UnendingError as error:
        if must and not isinstance(error, InputError):
            raise Violation(f"{what}: {type(error).__name__} is raised, not an InputError") from error
        text = str(error)
        if not text.strip() or "\n" in text:
            raise Violation(
                f"{what}: the message of {type(error).__name__} is not one line: {text!r:.80}"
            ) from error
        require(state_difference(session.state, before), f"{what} is refused, but the state has changed")
        return True
    except Exception as error:
        raise Violation(f"{what}: {type(error).__name__} is raised, which is no UnendingError") from error
    if must:
        raise Violation(f"{what} is accepted")
    return False


def robustness(trial: Trial) -> str:
    """L12: bad input gives a typed error of one line, and session and state are as they were before."""
    operator, source = trial.operator, trial.source
    stream = source.typical(12)
    require_end(operator, stream)
    clean, session = (Session(operator, seed=trial.seed) for _ in range(2))
    expected = go_on(clean, stream)
    tried = 0
    events: list[Event] = []
    for chunk in stream:
        while session.pending and operator.spec.ticks is None:
            events += session.poll()
        for what, bad, must in bad_chunks(operator, source):
            tried += 1
            apart = session.fork()
            if _refuses(apart, bad, what, must=must):
                _refuses(session, bad, what, must=must)
            else:
                _refuses(apart, chunk, f"good input after {what}", must=False)
        _earlier(session, chunk)
        _empty(trial, session, chunk)
        session.push(chunk)
    events += go_on(session, [])
    how = same_events(events, expected) or state_difference(session.state, clean.state)
    require(how, "after bad input that was refused, the stream goes on otherwise")
    return f"{tried} bad chunks"


def _earlier(session: Session[Any], chunk: Chunk) -> None:
    early: Any = replace(chunk, t=-5.0)  # type: ignore[type-var]
    _refuses(session, early, f"a {type(chunk).__name__} chunk of t=-5", must=True)
    _refuses(session, TICK, "a Tick pushed from outside", must=True)


def _empty(trial: Trial, session: Session[Any], chunk: Chunk) -> None:
    if not chunk.items:
        return
    twin = session.fork()
    settled, _ = settle(trial.operator, fork(twin.state), trial.operator.spec.ticks)
    try:
        state, events = trial.operator.step(fork(settled), chunk[0:0])
    except UnendingError as error:
        raise Violation(f"an empty {type(chunk).__name__} chunk is refused: {error}") from error
    if events:
        raise Violation(f"an empty {type(chunk).__name__} chunk gives {len(events)} events")
    if how := state_difference(state, settled):
        raise Violation(f"an empty {type(chunk).__name__} chunk changes the state: {how}")
