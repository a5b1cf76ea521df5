"""When two outputs, or two states, count as equal.

Chunking may decide how an output is divided into events, so final events are compared after joining: per kind of
data, events are joined while each begins where the one before it ended (instants at one time included), and the
joined stretches must agree in data, begin and end. Events without items are left out, the `t` of the data is not
looked at, and neither are events that may still be revised: those report how far the input has come, which
chunking decides. Where the chunking is the same, `same_events` compares everything, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from unending.core import Chunk, Event, Exactness, arrays, canonical, leaves

__all__ = ["events_difference", "same_events", "state_difference", "tolerance_of"]

_TIME = 1e-6


def tolerance_of(exactness: Exactness) -> float:
    """What two runs over the same stream may differ by, absolute and relative; 0 is bitwise."""
    return exactness.tolerance if exactness.kind == "allclose" else 0.0


def _values(ours: Any, theirs: Any, tolerance: float) -> str | None:
    """How two leaves or two fields of a chunk differ; None if they do not."""
    if not (arrays.is_array(ours) and arrays.is_array(theirs)):
        return (
            None if type(ours) is type(theirs) and ours == theirs else f"{ours!r:.40} is not {theirs!r:.40}"
        )
    (one, one_type), (two, two_type) = arrays.to_numpy(ours), arrays.to_numpy(theirs)
    if one_type != two_type or one.shape != two.shape:
        return f"{one_type}{list(one.shape)} is not {two_type}{list(two.shape)}"
    if arrays.equal(ours, theirs):
        return None
    if one_type == "bfloat16":
        one, two = ((each.astype(np.uint32) << 16).view(np.float32) for each in (one, two))
    inexact = np.issubdtype(one.dtype, np.inexact)
    if inexact and tolerance and np.allclose(one, two, rtol=tolerance, atol=tolerance, equal_nan=True):
        return None
    where = np.flatnonzero(~((one == two) | ((one != one) & (two != two))).ravel())
    if not len(where):
        return "the bits differ (signed zero or NaN)"
    at = int(where[0])
    return f"{one.ravel()[at]!s} is not {two.ravel()[at]!s} at element {at} of {one.size}"


def _data(ours: Chunk, theirs: Chunk, tolerance: float) -> str | None:
    for each in fields(ours):  # type: ignore[arg-type]
        if each.name != "t" and (
            how := _values(getattr(ours, each.name), getattr(theirs, each.name), tolerance)
        ):
            return f"{each.name}: {how}"
    return None


@dataclass(frozen=True)
class _Stretch:
    data: Chunk
    t_start: float
    t_end: float


def _alike(left: Chunk, right: Chunk) -> bool:
    """Whether two chunks of one kind can be joined: all but their items is equal, and so is an item's shape."""
    for each in fields(left):  # type: ignore[arg-type]
        one, two = getattr(left, each.name), getattr(right, each.name)
        if each.name in left.items:
            if isinstance(one, np.ndarray) and (one.shape[1:] != two.shape[1:] or one.dtype != two.dtype):
                return False
        elif each.name != "t" and one != two:
            return False
    return True


def joined(events: Sequence[Event]) -> dict[str, list[_Stretch]]:
    """Final events by kind of data, joined where they touch."""
    groups: dict[str, list[list[Event]]] = {}
    for event in events:
        if not event.final or (event.data.items and not len(event.data)):
            continue
        kind = groups.setdefault(type(event.data).__name__, [])
        last = kind[-1][-1] if kind else None
        touches = last is not None and abs(last.t_end - event.t_start) < _TIME
        if event.data.items and touches and last is not None and _alike(last.data, event.data):
            kind[-1].append(event)
        else:
            kind.append([event])
    return {
        name: [
            _Stretch(_join([event.data for event in group]), group[0].t_start, group[-1].t_end)
            for group in kind
        ]
        for name, kind in groups.items()
    }


def _join(parts: list[Chunk]) -> Chunk:
    return replace(type(parts[0]).join(parts), t=None) if parts[0].items else parts[0]  # type: ignore[type-var]


def events_difference(ours: Sequence[Event], theirs: Sequence[Event], tolerance: float) -> str | None:
    """How the joined final events of two runs differ, in one line; None if they do not."""
    one, two = joined(ours), joined(theirs)
    for name in dict.fromkeys([*one, *two]):
        left, right = one.get(name, []), two.get(name, [])
        for index, (mine, other) in enumerate(zip(left, right, strict=False)):
            where = f"{name} output {index} at {mine.t_start:g}..{mine.t_end:g}"
            if abs(mine.t_start - other.t_start) > _TIME or abs(mine.t_end - other.t_end) > _TIME:
                return f"{where} has times {other.t_start:g}..{other.t_end:g} in the other run"
            if how := _data(mine.data, other.data, tolerance):
                return f"{where}: {how}"
        if len(left) != len(right):
            return f"{len(left)} stretches of {name} are not {len(right)}"
    return None


def same_events(ours: Sequence[Event], theirs: Sequence[Event], tolerance: float = 0.0) -> str | None:
    """How two lists of events differ, one by one and in every respect; None if they do not."""
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if type(mine.data) is not type(other.data):
            return f"event {index} is {type(mine.data).__name__}, not {type(other.data).__name__}"
        if (mine.t_start, mine.t_end, mine.final) != (other.t_start, other.t_end, other.final):
            return f"event {index} is at {mine.t_start:g}..{mine.t_end:g}, not {other.t_start:g}..{other.t_end:g}"
        if how := _data(mine.data, other.data, tolerance):
            return f"event {index}: {how}"
    return None if len(ours) == len(theirs) else f"{len(ours)} events are not {len(theirs)}"


def state_difference(ours: Any, theirs: Any, tolerance: float = 0.0) -> str | None:
    """How two states differ in their canonical form; None if they do not."""
    one, two = leaves(canonical(ours)), leaves(canonical(theirs))
    if one.keys() != two.keys():
        return f"the leaves {sorted(one)} are not {sorted(two)}"
    for name in one:
        if how := _values(one[name], two[name], tolerance):
            return f"leaf {name}: {how}"
    return None
