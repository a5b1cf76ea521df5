"""A pipeline is an operator: final events of one stage are stepped through the next to idle, depth first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from unending.core.chunk import TICK, Chunk, Control, Domain, Event, Tick
from unending.core.errors import KindError, NoOfflineError
from unending.core.operator import Operator
from unending.core.spec import Bound, Growth, Spec
from unending.core.state import fork, state

__all__ = ["Pipeline", "PipelineState"]


@state
class PipelineState:
    """The states of the stages, in order."""

    stages: tuple[Any, ...]


@dataclass(frozen=True)
class Pipeline(Operator[PipelineState]):
    """`a | b | c`: what `a` gives goes to `b`, what `b` gives to `c`; the events of `c` come out.

    A chunk goes to the first stage that takes its kind; kinds that a stage does not take pass it by in time order.
    Events that can still be revised (`final=False`) do not enter a next stage and are dropped there.
    """

    stages: tuple[Operator[Any], ...]

    @classmethod
    def of(cls, *parts: Operator[Any]) -> Self:
        """Join operators; pipelines among them are flattened.

        Raises
        ------
        KindError
            (a `TypeError`) if a stage takes nothing that the one before it gives.
        """
        stages: list[Operator[Any]] = []
        for part in parts:
            if not isinstance(part, Operator):
                raise KindError(f"a pipeline is made of operators, got {type(part).__name__}")
            stages += part.stages if isinstance(part, Pipeline) else (part,)
        for left, right in pairwise(stages):
            if not set(left.spec.gives) & set(right.spec.takes):
                gives = ", ".join(each.__name__ for each in left.spec.gives)
                takes = ", ".join(each.__name__ for each in right.spec.takes)
                raise KindError(f"{left.spec.name} gives {gives}, but {right.spec.name} takes {takes}")
        return cls(tuple(stages))

    @property
    def spec(self) -> Spec:  # type: ignore[override]
        """Joined from the stages."""
        specs = [stage.spec for stage in self.stages]
        rank = ["bitwise", "allclose", "statistical", "none"]
        weakest = max(
            (spec.exactness for spec in specs), key=lambda each: (rank.index(each.kind), each.tolerance)
        )
        return Spec(
            name=" | ".join(spec.name for spec in specs),
            family="pipeline",
            title="several systems in a row",
            takes=tuple(dict.fromkeys(kind for spec in specs for kind in spec.takes)),
            gives=specs[-1].gives,
            exactness=weakest,
            lookahead=sum(spec.lookahead for spec in specs),
            ticks=specs[0].ticks,
            unit=specs[0].unit,
        )

    def settings(self) -> dict[str, Any]:
        return {f"{index}": stage.digest() for index, stage in enumerate(self.stages)}

    def weights_digest(self) -> str:
        return "-".join(stage.weights_digest() for stage in self.stages)

    @classmethod
    def example(cls) -> Self:
        raise KindError("a pipeline has no example of its own; join the examples of its stages")

    def domain(self) -> Mapping[type[Chunk], Domain]:
        merged: dict[type[Chunk], Domain] = {}
        for stage in reversed(self.stages):
            merged.update(stage.domain())
        return merged

    def bound(self) -> Bound:
        bounds = [stage.bound() for stage in self.stages]
        growth: dict[str, Growth] = {}
        for index, each in enumerate(bounds):
            growth.update({f"{index}.{medium}": grown for medium, grown in each.growth.items()})
        return Bound(sum(each.resident for each in bounds), growth)

    def init(self, seed: int = 0) -> PipelineState:
        return PipelineState(tuple(stage.init(seed) for stage in self.stages))

    def pending(self, state: PipelineState) -> bool:
        return any(stage.pending(each) for stage, each in zip(self.stages, state.stages, strict=True))

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The offline references of the stages, one after the other, for streams that the first stage takes whole."""
        if any(type(chunk) not in self.stages[0].spec.takes for chunk in stream):
            raise NoOfflineError(
                "a chunk that passes the first stage by has no place in time in an offline run"
            )
        events = self.stages[0].offline(stream)
        for stage in self.stages[1:]:
            events = stage.offline([event.data for event in events if event.final])
        return events

    def _step(self, state: PipelineState, chunk: Any) -> tuple[PipelineState, list[Event]]:
        work = _Transaction(self.stages, list(state.stages))
        if type(chunk) is Tick:
            # The deepest stage first: what is already downstream leaves before more comes.
            for index in reversed(range(len(self.stages))):
                if self.stages[index].pending(work.states[index]):
                    work.enter(index, TICK, settle=False)
                    break
        elif type(chunk) is Control and chunk.name == "interrupt":
            for index, stage in enumerate(self.stages):
                if stage.takes_interrupt():
                    work.enter(index, chunk, settle=False)
        else:
            work.enter(work.taker(0, type(chunk)), chunk, settle=False)
        return PipelineState(tuple(work.states)), work.out

    def _finish(self, state: PipelineState) -> tuple[PipelineState, list[Event]]:
        work = _Transaction(self.stages, list(state.stages))
        for index in range(len(self.stages)):
            while self.stages[index].pending(work.states[index]):
                work.enter(index, TICK, settle=False)
            work.end(index)
        return PipelineState(tuple(work.states)), work.out


class _Transaction:
    """The states of the stages while one chunk runs through them; the committed states stay as they were."""

    def __init__(self, stages: tuple[Operator[Any], ...], states: list[Any]) -> None:
        self.stages = stages
        self.states = states
        self.out: list[Event] = []
        self._moved = [0] * len(stages)

    def taker(self, first: int, kind: type[Chunk]) -> int:
        """The first stage from `first` on that takes this kind; the number of stages if none does."""
        for index in range(first, len(self.stages)):
            if kind in self.stages[index].spec.takes:
                return index
        return len(self.stages)

    def enter(self, index: int, chunk: Chunk, *, settle: bool) -> None:
        """Step one stage; pass its final events on; with `settle` tick it to idle."""
        self._own(index)
        self.states[index], events = self.stages[index].advance(self.states[index], chunk)
        self._pass_on(index, events)
        while settle and self.stages[index].pending(self.states[index]):
            self.enter(index, TICK, settle=False)

    def end(self, index: int) -> None:
        self._own(index)
        self.states[index], events = self.stages[index].advance_to_end(self.states[index])
        self._pass_on(index, events)

    def _own(self, index: int) -> None:
        # A stage's step may write to room that its *current* state does not use. From the second step of a stage
        # on, that room can be in use by the committed state, so the stage goes on in a copy.
        if self._moved[index] == 1:
            self.states[index] = fork(self.states[index])
        self._moved[index] += 1

    def _pass_on(self, index: int, events: list[Event]) -> None:
        for event in events:
            target = self.taker(index + 1, type(event.data))
            if target == len(self.stages):
                self.out.append(event)
            elif event.final:
                self.enter(target, event.data, settle=True)
