"""Chunks: what can stand in a stream, and the events that come out of one.

Stream time is counted in seconds for `Audio` and `Frames` and in items for every other kind; it is never
wall-clock time. `t` is the time of the first item; `None` means "right after what came before".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import numpy as np

from unending.core.errors import InputError

__all__ = [
    "TICK",
    "Chunk",
    "Control",
    "Domain",
    "Event",
    "Query",
    "Tick",
    "chunk_kind",
    "kinds",
    "require_unicode",
]

Domain = Mapping[str, int]
"""What a valid chunk of one kind looks like to an operator, e.g. `{"vocabulary": 49152}`."""


def require_unicode(text: str, what: str) -> None:
    """Raise `InputError` if the text cannot be written in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} holds half a surrogate pair at character {error.start}") from error


class Chunk:
    """Base of all kinds. A kind with items can be cut (`chunk[a:b]`) and joined (`Kind.join`)."""

    items: ClassVar[tuple[str, ...]] = ()
    """The fields that hold one entry an item; empty for instants (`Query`, `Control`, `Tick`)."""
    t: float | None

    def __len__(self) -> int:
        return len(getattr(self, self.items[0])) if self.items else 0

    def __bool__(self) -> bool:
        return True

    @property
    def period(self) -> float:
        """Stream time from one item to the next."""
        return 1.0

    def __getitem__(self, part: slice) -> Self:
        if not self.items:
            raise TypeError(f"{type(self).__name__} has no items to slice")
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError("a chunk is cut without stride")
        changes: dict[str, Any] = {name: getattr(self, name)[start:stop] for name in self.items}
        if self.t is not None:
            changes["t"] = self.t + start * self.period
        return replace(self, **changes)  # type: ignore[type-var]

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """One chunk from several that follow each other (all of this kind, at least one)."""
        changes: dict[str, Any] = {}
        for name in cls.items:
            pieces = [getattr(part, name) for part in parts]
            changes[name] = "".join(pieces) if isinstance(pieces[0], str) else np.concatenate(pieces)
        return replace(parts[0], **changes)  # type: ignore[type-var]

    def check(self, domain: Domain) -> None:
        """Raise `InputError` if the content is outside what the operator's domain accepts."""

    def encode(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Plain JSON values and arrays from which `decode` makes the chunk again."""
        plain: dict[str, Any] = {"kind": type(self).__name__}
        held: dict[str, np.ndarray] = {}
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            (held if isinstance(value, np.ndarray) else plain)[each.name] = value
        return plain, held

    @staticmethod
    def decode(plain: Mapping[str, Any], held: Mapping[str, np.ndarray]) -> "Chunk":
        """The inverse of `encode`."""
        values = {name: value for name, value in plain.items() if name != "kind"}
        return kinds()[plain["kind"]](**values, **held)


K = TypeVar("K", bound=Chunk)


@dataclass_transform(frozen_default=True, eq_default=False)
def chunk_kind(cls: type[K]) -> type[K]:
    """Make a class a kind of chunk: a frozen dataclass, compared by identity."""
    return dataclass(frozen=True, eq=False)(cls)


@chunk_kind
class Query(Chunk):
    """A question at a stream time.

    Domain: `characters`; a query of so many is accepted whatever it says, a longer one may turn out not to fit.
    """

    text: str
    t: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InputError("a query must be a text that is not blank")

    def check(self, domain: Domain) -> None:
        require_unicode(self.text, "the query")


@chunk_kind
class Control(Chunk):
    """A change of course: `interrupt`, a prompt, an option. `value` is plain JSON or an array."""

    name: str
    value: Any = None
    t: float | None = None


@chunk_kind
class Tick(Chunk):
    """Do one piece of the work that needs no input."""

    t: float | None = None


TICK = Tick()


@dataclass(frozen=True, eq=False)
class Event:
    """One output: a chunk, the stretch of stream time it speaks of, and whether it can still be revised."""

    data: Chunk
    t_start: float
    t_end: float
    final: bool = True
    seq: int = field(default=-1)
    """Number of the event in its session, from 0; -1 outside a session."""


def kinds() -> dict[str, type[Chunk]]:
    """Every kind of chunk by its name."""
    return {cls.__name__: cls for cls in Chunk.__subclasses__()}
