"""The honest operator that every saboteur begins from."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from unending.core import Bound, Control, Event, Exactness, Operator, Query, Rows, Spec, Tick, state


@state
class RunningState:
    total: np.ndarray
    seen: int
    seed: int
    left: int


def spec(name, **changes):
    described = {
        "name": name,
        "family": "saboteurs",
        "title": "wrong on purpose",
        "takes": (Rows, Query, Control),
        "gives": (Rows,),
        "exactness": Exactness.bitwise(),
    }
    return Spec(**{**described, **changes})


@dataclass(frozen=True)
class Running(Operator[RunningState]):
    """The running sum of rows, after each row; a query gives it twice more, one a tick."""

    width: int = 1
    spec: ClassVar[Spec] = spec("running")

    @classmethod
    def example(cls) -> Self:
        return cls()

    def domain(self):
        return {Rows: {"width": self.width}}

    def init(self, seed=0):
        return RunningState(np.zeros(self.width), 0, seed, 0)

    def bound(self):
        return Bound(24 + 8 * self.width)

    def pending(self, state):
        return state.left > 0

    def event(self, total, seen, length=1):
        return Event(Rows(total[None].copy()), seen - length, seen)

    def add(self, total, row):
        return total + row

    def _step(self, state, chunk):
        if isinstance(chunk, Query):
            return replace(state, left=2), []
        if isinstance(chunk, Control):
            return replace(state, left=0), []
        if isinstance(chunk, Tick):
            return replace(state, left=state.left - 1), [self.event(state.total, state.seen, 0)]
        total, seen, events = state.total, state.seen, []
        for row in chunk.values:
            total = self.add(total, row)
            seen += 1
            events.append(self.event(total, seen))
        return replace(state, total=total, seen=seen), events

    def offline(self, stream):
        total, seen, events = np.zeros(self.width), 0, []
        for chunk in stream:
            if isinstance(chunk, Query):
                events += [self.event(total, seen, 0)] * 2
            for row in chunk.values if isinstance(chunk, Rows) else ():
                total = self.add(total, row)
                seen += 1
                events.append(self.event(total, seen))
        return events
