"""The contract: an operator turns chunks into events and carries all it remembers in an explicit state."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import fields
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, final

from unending.core.chunk import Chunk, Control, Domain, Event, Tick
from unending.core.errors import InputError, KindError, NoOfflineError
from unending.core.spec import Bound, Spec
from unending.core.state import consume, require_alive

if TYPE_CHECKING:
    from unending.core.pipeline import Pipeline

__all__ = ["Operator"]

S = TypeVar("S")


class Operator(ABC, Generic[S]):
    """One published system as a stream citizen.

    A concrete operator is a frozen dataclass whose fields are plain values (`str`, `int`, `float`, `bool`, `None`,
    tuples of them), so that flags, digests and listings come for free. It sets `spec`, defines `example`, `init`,
    `_step` and `bound`, and what else applies; it holds no stream state itself. It is final: wrap it, do not
    inherit from it.

    `_step` and `_finish` never write into memory that the given state can reach in committed form: they rebind, or
    write only to spare room that the state's own pointers leave out. Dropping what they return is therefore undo.
    """

    spec: ClassVar[Spec]
    opt_outs: ClassVar[Mapping[str, str]] = {}
    """Laws that do not apply, each with the reason (`{"L2": "..."}`)."""

    def __init_subclass__(cls) -> None:
        for name in ("step", "finish", "step_many", "advance", "advance_to_end", "digest"):
            if name in cls.__dict__:
                raise TypeError(
                    f"{cls.__name__}.{name} is final: define _{name.removeprefix('advance')} instead"
                )

    @classmethod
    @abstractmethod
    def example(cls) -> Self:
        """A tiny, seeded instance that needs no download: laws, docs and simulation run on it."""

    @abstractmethod
    def init(self, seed: int = 0) -> S:
        """The state before the first chunk."""

    @abstractmethod
    def _step(self, state: S, chunk: Any) -> tuple[S, list[Event]]: ...

    @abstractmethod
    def bound(self) -> Bound:
        """The most bytes one session can ever hold."""

    def _finish(self, state: S) -> tuple[S, list[Event]]:
        return state, []

    def pending(self, state: S) -> bool:
        """Whether there is work that needs no more input; `step(state, TICK)` does a piece of it."""
        return False

    def domain(self) -> Mapping[type[Chunk], Domain]:
        """What a valid chunk of each kind looks like; `step` refuses others with an `InputError`."""
        return {}

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The reference: the events of a whole stream, computed independently of `step`.

        Raises
        ------
        NoOfflineError
            if there is no such reference, with the reason.
        """
        raise NoOfflineError(self.opt_outs.get("L2", f"{self.spec.name} defines no offline reference"))

    def weights_digest(self) -> str:
        """Digest of the pretrained weights in use; empty where there are none."""
        return ""

    @property
    def hop(self) -> int:
        """Items of the main kind in one block of this instance."""
        hop = self.spec.hop
        return hop if isinstance(hop, int) else int(getattr(self, hop))

    def settings(self) -> dict[str, Any]:
        """The fields, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]

    @final
    def digest(self) -> str:
        """Digest of name, version and settings: two operators with the same digest continue each other's states."""
        described = {"name": self.spec.name, "version": self.spec.version, "settings": self.settings()}
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @final
    def admit(self, chunk: Chunk) -> None:
        """Raise `InputError` if the operator does not take this chunk."""
        kind = type(chunk)
        if kind is Tick:
            return
        if kind not in self.spec.takes:
            taken = ", ".join(each.__name__ for each in self.spec.takes)
            given = kind.__name__ if isinstance(chunk, Chunk) else f"{kind.__name__}, which is not a chunk"
            raise KindError(f"{self.spec.name} takes {taken}; got {given}")
        given_time: object = chunk.t
        if given_time is not None and not (isinstance(given_time, Real) and isfinite(given_time)):
            raise InputError(f"the time of a chunk is a finite number, got {given_time!r}")
        chunk.check(self.domain().get(kind, {}))

    @final
    def advance(self, state: S, chunk: Chunk) -> tuple[S, list[Event]]:
        """One step that leaves `state` alive, for callers that commit by themselves; an empty chunk changes nothing.

        Until the caller has dropped one of the two states, the other must not be stepped: they share spare room.
        """
        require_alive(state)
        self.admit(chunk)
        if chunk.items and not len(chunk):
            return copy(state), []
        new, events = self._step(state, chunk)
        return (copy(new) if new is state else new), events

    @final
    def advance_to_end(self, state: S) -> tuple[S, list[Event]]:
        """What `finish` does, leaving `state` alive, for callers that commit by themselves."""
        require_alive(state)
        new, events = self._finish(state)
        return (copy(new) if new is state else new), events

    @final
    def step(self, state: S, chunk: Chunk) -> tuple[S, list[Event]]:
        """Take one chunk into the state, or do one piece of pending work on a `Tick`.

        On success `state` is consumed: its use from then on raises `OwnershipError`. If anything is raised, `state`
        is alive and unchanged.

        Raises
        ------
        OwnershipError
            if the state was consumed before.
        InputError
            if the chunk is of a kind or content that the operator does not take.
        """
        new, events = self.advance(state, chunk)
        consume(state)
        return new, events

    @final
    def finish(self, state: S) -> tuple[S, list[Event]]:
        """Give out what the lookahead still holds; a second call gives nothing more."""
        new, events = self.advance_to_end(state)
        consume(state)
        return new, events

    @final
    def step_many(
        self, states: Sequence[S], chunks: Sequence[Chunk], width: int = 0
    ) -> list[tuple[S, list[Event]] | Exception]:
        """Step many sessions at once; where one fails, its entry is the error and its state is alive.

        Joint work runs at exactly `width` rows, the rest of them masked, so that a session's bits depend neither on
        its neighbours nor on how many there are. A width of 0 is as many rows as there are states.
        """
        for each in states:
            require_alive(each)
        results = self._step_many(states, chunks, width or len(states))
        for old, result in zip(states, results, strict=True):
            if not isinstance(result, Exception):
                consume(old)
        return results

    def _step_many(
        self, states: Sequence[S], chunks: Sequence[Chunk], width: int
    ) -> list[tuple[S, list[Event]] | Exception]:
        results: list[tuple[S, list[Event]] | Exception] = []
        for state, chunk in zip(states, chunks, strict=True):
            try:
                results.append(self.advance(state, chunk))
            except Exception as error:  # one session's failure, of whatever kind, is not its neighbours'
                results.append(error)
        return results

    def __or__(self, other: "Operator[Any]") -> "Pipeline":
        from unending.core.pipeline import Pipeline

        return Pipeline.of(self, other)

    @final
    def takes_interrupt(self) -> bool:
        """Whether `Control("interrupt")` reaches this operator."""
        return Control in self.spec.takes


def drive(operator: Operator[S], state: S, chunk: Chunk) -> tuple[S, list[Event]]:
    """Step one chunk and tick until idle, as a session does; `state` is consumed."""
    state, events = operator.step(state, chunk)
    while operator.pending(state):
        state, more = operator.step(state, Tick())
        events = events + more
    return state, events


def replay(operator: Operator[S], stream: Iterable[Chunk], seed: int = 0) -> list[Event]:
    """All events of a finite stream, from a fresh state to the end of `finish`, each chunk ticked to idle."""
    state = operator.init(seed)
    events: list[Event] = []
    for chunk in stream:
        state, more = drive(operator, state, chunk)
        events += more
    state, more = operator.finish(state)
    return events + more
