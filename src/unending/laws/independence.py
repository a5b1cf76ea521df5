"""L6 and L10: a session depends on its own stream and seed, on no neighbour and on no global generator."""

import random  # noqa: TID251 - its state is watched here
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from unending.core import TICK, Chunk, Event, Operator, fork
from unending.laws.equality import same_events, state_difference, tolerance_of
from unending.laws.play import Run, play, settle
from unending.laws.rebuild import build, describe
from unending.laws.streams import cut_all
from unending.laws.trial import Trial, Violation, require

__all__ = ["neighbours", "seed"]

BATCHED = 1e-4
"""What outputs may differ by, absolute and relative, between batch shapes, unless the exactness allows more."""

WIDTH = 4
"""Slots of the batch; `_beside_failure` takes three of them."""

Outcome = tuple[Any, list[Event]]
Steps = list[tuple[Any, Chunk, Outcome]]
"""State before, chunk, and what came of it when stepped alone."""


def _alone(trial: Trial, content: int) -> Steps:
    """All steps of one session, ticks included."""
    operator = trial.operator
    done: Steps = []
    state = operator.init(trial.seed + content)

    def take(chunk: Chunk) -> None:
        nonlocal state
        before = fork(state)
        state, events = operator.step(state, chunk)
        done.append((before, chunk, (fork(state), events)))

    for pieces in cut_all(trial.source.typical(content, 1) or [TICK] * 6, ((5,),) * 9):
        for piece in pieces:
            if piece is TICK and not operator.pending(state):
                continue
            take(piece)
            left = operator.spec.ticks or 24
            while operator.pending(state) and left:
                take(TICK)
                left -= 1
            state, _ = settle(operator, state, operator.spec.ticks)
    return done


def neighbours(trial: Trial) -> str:
    """L6: a session's bits depend on the width of the batch, not on who is in it, on its slot, or on how many are.

    Against the session stepped alone, outputs agree bit for bit with the default `step_many`, which is a loop, and
    else within the tolerance of the exactness, at least 1e-4.
    """
    operator, rng = trial.operator, trial.rng(6)
    loop = type(operator)._step_many is Operator._step_many
    tolerance = 0.0 if loop else max(tolerance_of(operator.spec.exactness), BATCHED)
    subject = _alone(trial, 60)
    pool = [entry for content in (61, 62, 63) for entry in _alone(trial, content)]
    for before, chunk, alone in subject:
        alike = [
            entry for entry in pool if type(entry[1]) is type(chunk) and len(entry[1]) == len(chunk)
        ] or pool
        entry = before, chunk, alone
        expected = _together(operator, entry, [], 0, tolerance)
        # Full of its like, full of its like again, partly full of anything.
        for many, among in ((WIDTH - 1, alike), (WIDTH - 1, alike), (int(rng.integers(1, WIDTH - 1)), pool)):
            others = [among[int(index)] for index in rng.integers(0, len(among), many)]
            place = int(rng.integers(0, many + 1))
            outcome = _together(operator, entry, others, place, tolerance)
            _bitwise(outcome, expected, f"in slot {place}, {many + 1} of {WIDTH} occupied")
        beside = _beside_failure(operator, entry, alike[int(rng.integers(len(alike)))], tolerance)
        _bitwise(beside, expected, "beside a slot that failed")
    against = "bitwise" if loop else f"alone within {tolerance:g}"
    return f"{len(subject)} steps in {WIDTH} slots, one to all of them occupied, {against}"


def _bitwise(outcome: Outcome, expected: Outcome, where: str) -> None:
    how = same_events(outcome[1], expected[1]) or state_difference(outcome[0], expected[0])
    require(how, f"{where}, it differs from one in slot 0 of as many without neighbours")


def _together(
    operator: Operator[Any], subject: Any, others: list[Any], place: int, tolerance: float
) -> Outcome:
    entries = [*others[:place], subject, *others[place:]]
    results = operator.step_many(
        [fork(before) for before, _, _ in entries], [chunk for _, chunk, _ in entries], WIDTH
    )
    for index, (result, (_, _, (state, events))) in enumerate(zip(results, entries, strict=True)):
        if isinstance(result, Exception):
            raise Violation(
                f"slot {index} of {len(entries)} fails among neighbours, and alone it does not: {result}"
            )
        how = same_events(result[1], events, tolerance) or state_difference(result[0], state, tolerance)
        if how:
            raise Violation(f"slot {index} of {len(entries)} differs from the session stepped alone: {how}")
    outcome = results[place]
    assert not isinstance(outcome, Exception)
    return outcome


def _beside_failure(operator: Operator[Any], subject: Any, other: Any, tolerance: float) -> Outcome:
    """A neighbour that fails keeps its state, and the others do not notice."""
    before, chunk, _ = subject
    failing = fork(other[0])
    kept = fork(failing)
    bad: Any = object()
    results = operator.step_many([failing, fork(before), fork(other[0])], [bad, chunk, other[1]], WIDTH)
    if not isinstance(results[0], Exception):
        raise Violation("a slot with an object that is no chunk does not fail")
    require(state_difference(failing, kept), "the state of a slot that failed has changed")
    _, more = operator.step(failing, other[1])
    require(same_events(more, other[2][1], tolerance), "a slot that failed goes on otherwise")
    if isinstance(results[1], Exception):
        raise Violation(f"a slot fails because its neighbour does: {results[1]}")
    return results[1]


def _global_state() -> tuple[Any, ...]:
    torch = sys.modules.get("torch")
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - watched, not used
    return (
        random.getstate(),
        (name, np.asarray(keys).tobytes(), *rest),
        torch.get_rng_state().numpy().tobytes() if torch is not None else b"",
    )


@contextmanager
def _globals_at(start: int) -> Iterator[None]:
    """Run with the global generators at some known state, and put them back."""
    torch = sys.modules.get("torch")
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None  # noqa: NPY002
    random.seed(start)
    np.random.seed(start)  # noqa: NPY002, TID251
    if torch is not None:
        torch.random.default_generator.manual_seed(start)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        if torch is not None:
            torch.set_rng_state(kept[2])


def seed(trial: Trial) -> str:
    """L10: equal seed and settings give equal outputs; no global generator is read or advanced."""
    operator = trial.operator
    if not isinstance(twin := build(describe(operator)), Operator):
        raise Violation("an operator cannot be built again from its settings")

    def run(what: Operator[Any], start: int) -> Run:
        with _globals_at(start):
            before = _global_state()
            made = play(what, [[chunk] for chunk in trial.source.typical(10)], trial.seed)
            for name, one, two in zip(("random", "numpy", "torch"), before, _global_state(), strict=True):
                if one != two:
                    raise Violation(f"it advances the global generator of {name}")
        return made

    first = run(operator, 1)
    again: list[tuple[str, Callable[[], Run]]] = [
        ("a second run of the same seed", lambda: run(operator, 1)),
        ("a run with the global generators elsewhere", lambda: run(operator, 2)),
        ("another instance of the same settings", lambda: run(twin, 1)),
    ]
    for name, make in again:
        second = make()
        how = same_events(second.events, first.events) or state_difference(second.state, first.state)
        if how:
            raise Violation(f"{name} differs: {how}")
    return f"{len(first.events)} events, four runs"
