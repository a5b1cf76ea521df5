"""Was every output right? A client's story held against the operator, run alone and without an engine."""

from collections.abc import Mapping, Sequence
from typing import Any

from unending.core import TICK, Chunk, Control, Event, Operator
from unending.core.errors import InputError

__all__ = ["unexplained"]


def unexplained(
    operator: Operator[Any],
    seed: int,
    inputs: Sequence[Chunk | None],
    outputs: Mapping[int, Event],
    *,
    dropped: Mapping[int, int] | None = None,
    interrupts: int = 0,
) -> str:
    """What in `outputs` no run of the operator explains; empty if all is well.

    The run is stepped afresh: every input in order, ticks to idle, and an interrupt exactly where an output shows
    that there was one, at most `interrupts` times. Outputs are compared bit for bit, so this needs an operator whose
    outputs depend on all that came before, such as `Witness`.

    Parameters
    ----------
    operator, seed
        what ran.
    inputs
        accepted input in order, `None` for the end of the stream.
    outputs
        what the client got, by number.
    dropped
        inputs that the journal says were dropped (numbers from 1), each with the items that were read of it.
    """
    missing = sorted(set(range(len(outputs))) - set(outputs))
    if missing:
        return f"output {missing[0]} of {max(outputs) + 1} is missing"
    state, place = operator.init(seed), 0

    def differs(events: Sequence[Event]) -> str:
        nonlocal place
        for event in events:
            if place >= len(outputs):
                return ""
            got, place = outputs[place], place + 1
            if not _same(got, event):
                return f"output {place - 1} is {_show(got)}, a run alone gives {_show(event)}"
        return ""

    for number, chunk in enumerate(inputs, 1):
        if chunk is not None and dropped is not None and number in dropped:
            if not dropped[number]:
                continue
            chunk = chunk[: dropped[number]]
        try:
            state, events = operator.finish(state) if chunk is None else operator.step(state, chunk)
        except InputError as error:
            return f"a run alone refuses input {number} ({error}), and the journal does not say that this one did"
        if wrong := differs(events):
            return f"{wrong} (input {number})"
        while operator.pending(state):
            following, events = operator.advance(state, TICK)
            more = len(outputs) > place
            if more and events and not _same(outputs[place], events[0]) and interrupts:
                interrupts -= 1
                state, events = operator.step(state, Control("interrupt"))
                continue
            state = following
            if wrong := differs(events):
                return f"{wrong} (a tick of input {number})"
            if not more and interrupts:
                break
    return f"output {place} was never made by a run alone" if place < len(outputs) else ""


def _same(one: Event, other: Event) -> bool:
    (plain, held), (other_plain, other_held) = one.data.encode(), other.data.encode()
    return (one.t_start, one.t_end, one.final, plain) == (
        other.t_start,
        other.t_end,
        other.final,
        other_plain,
    ) and {name: array.tobytes() for name, array in held.items()} == {
        name: array.tobytes() for name, array in other_held.items()
    }


def _show(event: Event) -> str:
    return f"{event.data} at {event.t_start:g} to {event.t_end:g}"
