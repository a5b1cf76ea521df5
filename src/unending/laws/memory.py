"""L4 and L9: how much a state holds, and whose memory it is."""

from dataclasses import FrozenInstanceError, fields, replace
from time import perf_counter
from typing import Any

import numpy as np

from unending.core import Chunk, Event, arrays, fork, leaves, nbytes
from unending.core.errors import OwnershipError, StateError
from unending.laws.equality import same_events, state_difference
from unending.laws.play import play, settle, steps
from unending.laws.streams import EACH, cut_all
from unending.laws.trial import Trial, Violation, require

__all__ = ["bound", "ownership"]

Outcome = tuple[Any, list[Event]]
"""A state and the events of the step that led to it."""

ABSURD = 100
"""A bound this many times larger than all that was ever held says nothing."""
_SMALL = 4096
"""... beyond so many bytes that nobody minds."""


def _shape(state: Any) -> dict[str, str]:
    shape = {}
    for name, leaf in leaves(state).items():
        if type(leaf) is int:
            if not -(2**63) <= leaf < 2**63:
                raise Violation(f"leaf {name} is {leaf}, which 64 bits cannot hold")
            shape[name] = "int"
        else:
            shape[name] = f"{leaf.dtype}{list(leaf.shape)}"
    return shape


def _window(trial: Trial) -> int:
    """The longest reach worth assuming: hop, lookahead, or a field that can be a length."""
    numbers = [value for value in trial.operator.settings().values() if type(value) is int and value <= 256]
    return max([trial.source.hop, trial.source.lookahead, 8, *numbers])


def bound(trial: Trial) -> str:
    """L4: on a stream of a hundred windows the state stays within its bound, in leaves of constant shape and type.

    The window is not declared; taken is the largest of hop, lookahead and the operator's integer fields up to 256.
    """
    operator, source, profile = trial.operator, trial.source, trial.profile
    resident = operator.bound().resident
    state = operator.init(trial.seed)
    shape = _shape(state)
    held = nbytes(state)
    rng = trial.rng(4)
    window = _window(trial)
    wanted, items, count, began = profile.windows * window, 0, 0, perf_counter()
    kinds = [kind for kind in source.kinds.values() if kind.items] * 8 + list(source.kinds.values())

    def look(state: Any) -> None:
        nonlocal held
        held = max(held, size := nbytes(state))
        if size > resident:
            raise Violation(f"{size:,} bytes after {items:,} items; the bound is {resident:,}")
        if (now := _shape(state)) != shape:
            name = next(name for name in now | shape if now.get(name) != shape.get(name))
            raise Violation(f"leaf {name} was {shape.get(name)}, after {items:,} items {now.get(name)}")

    look(state)
    while items < wanted and (perf_counter() - began < profile.long_seconds):
        kind = kinds[int(rng.integers(len(kinds)))] if kinds else None
        if kind is not None:
            chunk = source.chunk(kind, int(rng.integers(1, source.most(kind) + 1)) if kind.items else 0, rng)
            state, _ = operator.step(state, chunk)
            items += len(chunk)
            look(state)
        for after, _ in steps(operator, state, operator.spec.ticks):
            state = after
            look(state)
        count += 1
        if not source.item_kinds and count >= wanted:
            break
    state, _ = operator.finish(state)
    look(state)
    if resident > ABSURD * held + _SMALL:
        raise Violation(f"the bound of {resident:,} bytes is absurd: no more than {held:,} were ever held")
    length = f"{items:,} items ({items // window} windows of {window})" if items else f"{count:,} steps"
    return f"{length}, {held:,} of {resident:,} bytes"


def _memory(value: Any, name: str) -> list[tuple[str, int, int]]:
    """Name, address and size of the memory that a chunk or a state keeps alive."""
    if isinstance(value, Chunk):
        found = {each.name: getattr(value, each.name) for each in fields(value)}  # type: ignore[arg-type]
    else:
        found = leaves(value)
    return [
        (f"{name}.{path}", *arrays.storage(leaf)) for path, leaf in found.items() if arrays.is_array(leaf)
    ]


def _overlap(one: list[tuple[str, int, int]], two: list[tuple[str, int, int]]) -> str | None:
    for left, at, size in one:
        for right, other, length in two:
            if size and length and at < other + length and other < at + size:
                return f"{left} and {right}"
    return None


def _require_legal(state: Any) -> None:
    try:
        found = leaves(state)
    except StateError as error:
        raise Violation(str(error)) from error
    if not found:
        raise Violation(f"{type(state).__name__} has no leaves: is its class made with @state?")
    for name, leaf in found.items():
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "biufc":
            raise Violation(f"leaf {name} is an array of {leaf.dtype}; a leaf holds numbers or flags")
    field = fields(state)[0].name
    try:
        setattr(state, field, getattr(state, field))
    except FrozenInstanceError:
        return
    raise Violation(f"{type(state).__name__} is not frozen: it lets {field} be set")


def ownership(trial: Trial) -> str:
    """L9: a consumed state refuses use, a fork shares nothing, inputs are neither changed nor kept, states stay."""
    operator = trial.operator
    state, calm = (operator.init(trial.seed) for _ in range(2))
    _require_legal(state)
    if both := _overlap(_memory(state, "one state"), _memory(calm, "the next")):
        raise Violation(f"two states from init share memory: {both}")
    pieces = [piece for pieces in cut_all(trial.source.typical(9), ((EACH,), (3,), ())) for piece in pieces]
    for chunk in pieces:
        state, _ = settle(operator, state, operator.spec.ticks)
        calm, _ = settle(operator, calm, operator.spec.ticks)
        state, events = _step(trial, state, chunk)
        calm, wanted = operator.step(calm, chunk)
        require(same_events(events, wanted), "beside a stream of which no step was dropped")
    _, events = operator.finish(settle(operator, state, operator.spec.ticks)[0])
    _, wanted = operator.finish(settle(operator, calm, operator.spec.ticks)[0])
    require(same_events(events, wanted), "beside a stream of which no step was dropped")
    _reuse(trial)
    return f"{len(pieces)} steps"


def _step(trial: Trial, state: Any, chunk: Chunk) -> Outcome:
    operator = trial.operator
    kept, given = fork(state), _copy(chunk)
    if both := _overlap(_memory(state, "the state"), _memory(kept, "its fork")):
        raise Violation(f"a fork shares memory: {both}")
    operator.advance(state, chunk)
    require(state_difference(state, kept), "a step that was dropped has changed the state it was given")
    if how := same_events([Event(chunk, 0, 0)], [Event(given, 0, 0)]):
        raise Violation(f"the step changed its input: {how}")
    new, events = operator.step(state, chunk)
    _require_legal(new)
    try:
        leaves(state)
    except OwnershipError:
        pass
    else:
        raise Violation("a state can still be used after a step consumed it")
    if both := _overlap(_memory(new, "the state"), _memory(chunk, "the chunk")):
        raise Violation(f"the state keeps memory of its caller: {both}")
    return new, events


def _copy(chunk: Chunk) -> Chunk:
    plain, held = chunk.encode()
    return Chunk.decode(plain, {name: array.copy() for name, array in held.items()})


def _reuse(trial: Trial) -> None:
    """A caller who uses its buffers again after each step finds the outputs as they were when they came."""
    source = trial.source
    clean = play(trial.operator, [[chunk] for chunk in source.typical(9)], trial.seed)
    as_given: list[Event] = []

    def scribble(chunk: Chunk, events: list[Event]) -> None:
        as_given.extend(replace(event, data=_copy(event.data)) for event in events[len(as_given) :])
        for array in chunk.encode()[1].values():
            if array.flags.writeable:
                array[...] = 0

    again = play(trial.operator, [[chunk] for chunk in source.typical(9)], trial.seed, scribble)
    if how := same_events(again.events[: len(as_given)], as_given):
        raise Violation(f"an output changed after it was given: {how}")
    how = same_events(again.events, clean.events) or state_difference(again.state, clean.state)
    if how:
        raise Violation(f"it changes the outcome that the caller reuses the memory of its chunks: {how}")
