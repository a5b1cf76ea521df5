"""AI on streams that never end: one contract, bounded state, exact resume, honest measurements."""

from typing import Any

from unending import catalogue, core
from unending.core import (
    TICK,
    Audio,
    Bound,
    Chunk,
    Control,
    Edges,
    Event,
    Exactness,
    Frames,
    Operator,
    Paper,
    Pipeline,
    Query,
    Rows,
    Session,
    Spec,
    Symbols,
    Text,
    Tick,
    Tokens,
    Transitions,
    errors,
    fork,
    nbytes,
    state,
)

__version__ = "0.1.0"

__all__ = [
    "TICK",
    "Audio",
    "Bound",
    "Chunk",
    "Control",
    "Edges",
    "Event",
    "Exactness",
    "Frames",
    "Operator",
    "Paper",
    "Pipeline",
    "Query",
    "Rows",
    "Session",
    "Spec",
    "Symbols",
    "Text",
    "Tick",
    "Tokens",
    "Transitions",
    "catalogue",
    "core",
    "errors",
    "fork",
    "nbytes",
    "open",
    "state",
]


def open(system: str, *, seed: int = 0, **settings: Any) -> Session[Any]:
    """A session of a system of the catalogue; `settings` are the fields of its operator.

    Raises
    ------
    SystemNotFoundError
        if there is no such system.
    InputError
        if it has no field of one of these names.
    """
    cls = catalogue.load(system)
    fields = getattr(cls, "__dataclass_fields__", {})
    if unknown := sorted(set(settings) - set(fields)):
        raise errors.InputError(f"{system} has no setting {unknown[0]!r}; it has: {', '.join(fields)}")
    return Session(cls(**settings), seed=seed)
