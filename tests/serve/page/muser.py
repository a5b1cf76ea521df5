"""Toy for the page: thinks of every sentence while the text still comes, and answers when all is said."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from unending.core import Bound, Control, Event, Exactness, Operator, Query, Spec, Text, Tick, state


@state
class MuserState:
    heard: int
    """Sentences of this passage."""
    thought: int
    """Sentences that were thought of."""
    closing: int
    """Ticks to the end of the answer."""


@dataclass(frozen=True)
class Muser(Operator[MuserState]):
    """A question begins a passage; `Control("end")` ends it."""

    spec: ClassVar[Spec] = Spec(
        name="muser",
        family="language",
        title="thinks while it reads",
        takes=(Text, Query, Control),
        gives=(Text,),
        exactness=Exactness.bitwise(),
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def init(self, seed: int = 0) -> MuserState:
        return MuserState(0, 0, 0)

    def bound(self) -> Bound:
        return Bound(24)

    def pending(self, state: MuserState) -> bool:
        return state.thought < state.heard or state.closing > 0

    def _step(self, state: MuserState, chunk: Any) -> tuple[MuserState, list[Event]]:
        if type(chunk) is Text:
            return replace(state, heard=state.heard + chunk.text.count(".")), []
        if type(chunk) is Query:
            return MuserState(0, 0, 0), []
        if type(chunk) is Control:
            return replace(state, closing=3 if chunk.name == "end" else 0), []
        assert type(chunk) is Tick
        if state.thought < state.heard:
            after = replace(state, thought=state.thought + 1)
            return after, [_said("thought", f"That was number {after.thought}.", after.thought)]
        role, text = [
            ("answer", f"{state.heard} sentences."),
            ("answer", "I heard "),
            ("deep", "Let us see. "),
        ][state.closing - 1]
        return replace(state, closing=state.closing - 1), [_said(role, text, state.heard)]


def _said(role: str, text: str, at: int) -> Event:
    return Event(Text(text, role=role), float(at), float(at))
