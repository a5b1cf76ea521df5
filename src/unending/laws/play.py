"""Running an operator over a stream without a session."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from unending.core import TICK, Chunk, Event, Operator

__all__ = ["EndlessError", "Run", "go_through", "play", "require_end", "settle", "steps"]

MOST_TICKS = 2_000
"""Ticks after which work that should come to an end counts as endless."""
ENDLESS_TICKS = 256
"""Ticks that an operator with work without end gets at the end of a stream."""


class EndlessError(Exception):
    """Pending work does not come to an end, so that a session would never admit input again."""


class Run(NamedTuple):
    """What came of a stream: the events, how many of them `finish` gave, and the last state."""

    events: list[Event]
    finished: list[Event]
    state: Any


def steps(operator: Operator[Any], state: Any, most: int | None = None) -> Iterator[tuple[Any, list[Event]]]:
    """Tick until idle, giving state and events after each tick; at most `most` ticks where that is said."""
    done = 0
    while operator.pending(state) and (most is None or done < most):
        if done == MOST_TICKS:
            raise EndlessError(f"there is still pending work after {done:,} ticks without input")
        state, events = operator.step(state, TICK)
        yield state, events
        done += 1


def settle(operator: Operator[Any], state: Any, most: int | None = None) -> tuple[Any, list[Event]]:
    """Tick until idle (or `most` times), as a session does before it admits input."""
    events: list[Event] = []
    for after, more in steps(operator, state, most):
        state = after
        events += more
    return state, events


def play(
    operator: Operator[Any],
    stream: Sequence[Sequence[Chunk]],
    seed: int = 0,
    watch: Callable[[Chunk, list[Event]], None] = lambda chunk, events: None,
) -> Run:
    """All of a stream, given as the pieces of each chunk, from a fresh state to the end of `finish`."""
    return go_through(operator, operator.init(seed), stream, watch)


def go_through(
    operator: Operator[Any],
    state: Any,
    stream: Sequence[Sequence[Chunk]],
    watch: Callable[[Chunk, list[Event]], None] = lambda chunk, events: None,
) -> Run:
    """The rest of a stream from a state, which is consumed, to the end of `finish`.

    Ticks are part of a stream. An operator that works while it reads (`spec.ticks`) gets its ticks after the last
    piece of each chunk, so that cutting a chunk does not change how often it is ticked; any other is ticked to idle
    before each piece. `watch` is called after each piece, with it and all events so far.
    """
    ticks = operator.spec.ticks
    events: list[Event] = []
    for pieces in stream:
        for piece in pieces:
            if ticks is None:
                state, more = settle(operator, state)
                events += more
            state, more = operator.step(state, piece)
            events += more
            watch(piece, events)
        if ticks is not None:
            state, more = settle(operator, state, ticks)
            events += more
    state, more = settle(operator, state, None if ticks is None else ENDLESS_TICKS)
    state, last = operator.finish(state)
    return Run(events + more + last, last, state)


def require_end(operator: Operator[Any], stream: Sequence[Chunk]) -> None:
    """Raise `EndlessError` if a session on this stream would tick for ever."""
    state, _ = settle(operator, operator.init())
    for chunk in stream:
        state, _ = operator.step(state, chunk)
        state, _ = settle(operator, state)
