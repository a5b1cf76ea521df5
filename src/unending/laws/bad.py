"""Input that no stream should hold, for L12."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from unending.core import (
    Audio,
    Chunk,
    Control,
    Domain,
    Edges,
    Frames,
    Operator,
    Query,
    Rows,
    Symbols,
    Text,
    Tokens,
    Transitions,
)
from unending.core.random import philox
from unending.laws.streams import DRAW, Source

__all__ = ["bad_chunks"]

Bad = tuple[str, Any, bool]
"""What it is, the object, and whether it must be refused (else it may be accepted as well)."""


def bad_chunks(operator: Operator[Any], source: Source) -> Iterator[Bad]:
    """Bad input for one operator."""
    for thing in (None, 3, "text", [1, 2], np.zeros(3), object()):
        yield f"{type(thing).__name__} instead of a chunk", thing, True
    for kind, draw in DRAW.items():
        if kind not in operator.spec.takes:
            yield f"a {kind.__name__} chunk, a kind it does not take", draw({}, 1, philox(0, 0)), True
    for kind in source.kinds.values():
        good = source.chunk(kind, 2, philox(0, 1))
        yield f"a {kind.__name__} chunk of t=nan", replace(good, t=float("nan")), True  # type: ignore[type-var]
        yield f"a {kind.__name__} chunk of t='soon'", replace(good, t="soon"), True  # type: ignore[type-var]
        yield from _not_finite(good)
        yield from _foreign(good, source.domain.get(kind, {}))


def _not_finite(good: Chunk) -> Iterator[Bad]:
    for each in fields(good):  # type: ignore[arg-type]
        array = getattr(good, each.name)
        if isinstance(good, Frames) and each.name == "images":
            array = array.astype(np.float32)
        if isinstance(array, np.ndarray) and np.issubdtype(array.dtype, np.floating):
            for value in (np.nan, np.inf):
                spoilt = array.copy()
                spoilt.flat[-1] = value
                name = f"{value} in {each.name} of a {type(good).__name__} chunk"
                yield name, replace(good, **{each.name: spoilt}), True  # type: ignore[type-var]


def _foreign(good: Chunk, domain: Domain) -> Iterator[Bad]:
    """What is outside a declared domain must be refused; where none is declared, what is odd may be."""
    match good:
        case Tokens() | Symbols():
            most = domain.get("vocabulary" if isinstance(good, Tokens) else "alphabet")
            name = type(good).__name__
            yield f"id -1 in {name}", type(good)(np.array([0, -1])), True
            yield f"id {most or 2**40} in {name}", type(good)(np.array([0, most or 2**40])), most is not None
        case Edges():
            most = domain.get("nodes")
            yield "node -1", Edges(np.array([[0, -1]]), np.ones(1)), True
            yield f"node {most or 2**40}", Edges(np.array([[0, most or 2**40]]), np.ones(1)), most is not None
        case Rows():
            width = good.values.shape[1]
            yield f"rows of width {width + 1}", Rows(np.zeros((2, width + 1))), "width" in domain
            yield "rows of no width", Rows(np.zeros((2, 0))), "width" in domain
            yield "rows of huge numbers", Rows(np.full((2, width), 1e300)), False
        case Audio():
            yield "another sample rate", Audio(good.samples, 2 * good.rate + 1), "rate" in domain
            channels = good.samples.shape[1] + 1 if good.samples.ndim == 2 else 2
            yield f"{channels} channels", Audio(np.zeros((2, channels)), good.rate), "channels" in domain
        case Frames():
            wider = np.concatenate([good.images, good.images], axis=2)
            yield "wider pictures", Frames(wider, good.rate), "width" in domain
            yield "pictures of no channel", Frames(good.images[..., :0], good.rate), "channels" in domain
        case Transitions():
            wider = np.concatenate([good.observations] * 2, axis=1)
            yield "wider observations", replace(good, observations=wider), "observation" in domain
            actions = np.full(len(good), domain.get("actions", 2**40))
            yield f"action {actions[0]}", replace(good, actions=actions), "actions" in domain
            wide = np.zeros((len(good), domain.get("action_width", 1) + 1))
            yield (
                "wider actions",
                replace(good, actions=wide),
                "action_width" in domain or "actions" in domain,
            )
            yield "rewards of huge numbers", replace(good, rewards=np.full(len(good), 1e300)), False
        case Query():
            most = domain.get("characters")
            yield "a very long query", Query("why " * (most or 5_000)), False
            yield "a query with half a surrogate pair", Query("why \ud800?"), True
        case Text():
            yield "text with half a surrogate pair", Text("a \ud800 b"), True
            yield "text of control characters", Text("\x00\x1b\r"), False
        case Control():
            yield "a control of an unknown name", Control("no such control", 3), False
