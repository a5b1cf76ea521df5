"""An operator for trying engines: every output depends on all input and work before it, in their order."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from unending.core import (
    Bound,
    Control,
    Event,
    Exactness,
    Operator,
    Query,
    Spec,
    Tick,
    Tokens,
    blocks,
    state,
)
from unending.core.errors import InputError

__all__ = ["Witness", "WitnessState"]

_MASK = (1 << 62) - 1


@state
class WitnessState:
    """What one stream leaves behind."""

    rest: blocks.Remainder
    sum: int
    """A running checksum of everything that was done."""
    left: int
    """Ticks that are pending."""


@dataclass(frozen=True)
class Witness(Operator[WitnessState]):
    """Gives out a running checksum: one a block of tokens, one a tick of an answer.

    Whatever an engine loses, doubles, reorders or cuts otherwise changes every output from there on.

    Parameters
    ----------
    hop_size
        tokens of a block.
    longest
        ticks of an answer; a query has between 1 and so many.
    """

    hop_size: int = 4
    longest: int = 5

    spec: ClassVar[Spec] = Spec(
        name="witness",
        family="engine",
        title="a running checksum of a stream, for trying engines",
        takes=(Tokens, Query, Control),
        gives=(Tokens,),
        exactness=Exactness.bitwise(),
        hop="hop_size",
        unit="token",
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def bound(self) -> Bound:
        return Bound(8 * self.hop_size + 4 * 8)

    def init(self, seed: int = 0) -> WitnessState:
        return WitnessState(blocks.remainder(self.hop_size), _mix(seed, (17,)), 0)

    def pending(self, state: WitnessState) -> bool:
        return state.left > 0

    def _step(self, state: WitnessState, chunk: Any) -> tuple[WitnessState, list[Event]]:
        now = float(state.rest.position)
        if type(chunk) is Tick:
            total = _mix(state.sum, (1,))
            return replace(state, sum=total, left=state.left - 1), [_event(total, now, now)]
        if type(chunk) is Control:
            if chunk.name != "interrupt":
                raise InputError(f"control {chunk.name!r} is unknown; a witness knows interrupt")
            return replace(state, sum=_mix(state.sum, (2,)), left=0), []
        if type(chunk) is Query:
            rest, block = blocks.flush(state.rest)
            total = _mix(_mix(state.sum, block.tolist()), chunk.text.encode())
            return WitnessState(rest, total, 1 + total % self.longest), []
        if len(chunk) and int(chunk.ids.max()) >= 1 << 31:
            raise InputError("a witness takes tokens below 2 to the power of 31")
        total, events = state.sum, []
        begin = state.rest.position - state.rest.count
        rest, full = blocks.feed(state.rest, chunk.ids)
        for block in full:
            total = _mix(total, block.tolist())
            events.append(_event(total, begin, begin + len(block)))
            begin += len(block)
        return WitnessState(rest, total, state.left), events

    def _finish(self, state: WitnessState) -> tuple[WitnessState, list[Event]]:
        rest, block = blocks.flush(state.rest)
        if not len(block):
            return state, []
        total = _mix(state.sum, block.tolist())
        end = float(state.rest.position)
        return WitnessState(rest, total, state.left), [_event(total, end - len(block), end)]


def _mix(total: int, values: Iterable[int]) -> int:
    for value in values:
        total = (total * 6364136223846793005 + value * 2 + 1442695040888963407) & _MASK
    return total


def _event(total: int, start: float, end: float) -> Event:
    return Event(Tokens(np.array([total])), start, end)
