"""Streams that an operator takes, from what it says of itself: kinds, domain, hop, lookahead."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

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

__all__ = ["EACH", "Cutting", "Plan", "Source"]

Generator = np.random.Generator
Cutting = tuple[tuple[int, ...], ...]
"""Where each chunk of a stream is cut, taken modulo its length; `EACH` cuts it into (nearly) single items."""
EACH = -1

_WORDS = (
    "a",
    "the",
    "stream",
    "never",
    "ends",
    "42",
    "naïve",
    "河流",
    "🙂",
    "(so",
    "far)",
    "\n",
    "  ",
    "e\u0301",
)
_QUESTIONS = ("why?", "what came last", "où?", "go on")


def _tokens(domain: Domain, n: int, rng: Generator) -> Chunk:
    return Tokens(rng.integers(0, domain.get("vocabulary", 256), n))


def _text(domain: Domain, n: int, rng: Generator) -> Chunk:
    words = rng.choice(_WORDS, size=n + 1)
    return Text(" ".join(words.tolist())[:n])


def _audio(domain: Domain, n: int, rng: Generator) -> Chunk:
    channels = domain.get("channels", 1)
    samples = rng.uniform(-1, 1, n if channels == 1 else (n, channels)).astype(np.float32)
    return Audio(samples, domain.get("rate", 16_000))


def _frames(domain: Domain, n: int, rng: Generator) -> Chunk:
    shape = (n, domain.get("height", 8), domain.get("width", 8), domain.get("channels", 3))
    return Frames(rng.integers(0, 256, shape, dtype=np.uint8), float(domain.get("rate", 1)))


def _rows(domain: Domain, n: int, rng: Generator) -> Chunk:
    return Rows(rng.standard_normal((n, domain.get("width", 3))))


def _symbols(domain: Domain, n: int, rng: Generator) -> Chunk:
    alphabet = domain.get("alphabet", 8)
    return Symbols((alphabet * rng.random(n) ** 3).astype(np.int64))


def _edges(domain: Domain, n: int, rng: Generator) -> Chunk:
    return Edges(rng.integers(0, domain.get("nodes", 8), (n, 2)), rng.choice([0.5, 1.0, 2.0], n))


def _transitions(domain: Domain, n: int, rng: Generator) -> Chunk:
    seen = rng.standard_normal((n + 1, domain.get("observation", 3)))
    actions: np.ndarray
    if "action_width" in domain:
        actions = rng.standard_normal((n, domain["action_width"]))
    else:
        actions = rng.integers(0, domain.get("actions", 2), n)
    return Transitions(
        observations=seen[:-1],
        actions=actions,
        rewards=rng.standard_normal(n),
        nexts=seen[1:],
        terminated=rng.random(n) < 0.1,
        truncated=rng.random(n) < 0.05,
    )


def _query(domain: Domain, n: int, rng: Generator) -> Chunk:
    return Query(str(rng.choice(_QUESTIONS))[: domain.get("characters", 100)])


def _control(domain: Domain, n: int, rng: Generator) -> Chunk:
    return Control("interrupt")


DRAW: dict[type[Chunk], Callable[[Domain, int, Generator], Chunk]] = {
    Tokens: _tokens,
    Text: _text,
    Audio: _audio,
    Frames: _frames,
    Rows: _rows,
    Symbols: _symbols,
    Edges: _edges,
    Transitions: _transitions,
    Query: _query,
    Control: _control,
}
"""How a chunk of each kind is drawn: domain, number of items, generator."""


@dataclass(frozen=True)
class Plan:
    """A stream in few numbers: kind and length of each chunk; the content follows from `content` and the place."""

    chunks: tuple[tuple[str, int], ...]
    content: int = 0
    stamped: bool = False

    def __str__(self) -> str:
        return ", ".join(f"{n} {name}" if n else name for name, n in self.chunks) or "the empty stream"


class Source:
    """Streams for one operator."""

    def __init__(self, operator: Operator[Any]) -> None:
        self.domain = operator.domain()
        self.kinds = {kind.__name__: kind for kind in operator.spec.takes if kind in DRAW}
        self.item_kinds = tuple(kind for kind in operator.spec.takes if kind.items)
        self.main = self.item_kinds[0] if self.item_kinds else None
        self.hop = operator.hop
        self.lookahead = operator.spec.lookahead

    def most(self, kind: type[Chunk]) -> int:
        """Items of the longest chunk worth trying: three blocks and the lookahead of the main kind."""
        if not kind.items:
            return 0
        reach = 3 * self.hop + self.lookahead if kind is self.main else 0
        return max(reach, 40 if kind is Text else 10)

    def chunk(self, kind: type[Chunk], n: int, rng: Generator) -> Chunk:
        """A chunk of `n` items (an instant has none)."""
        return DRAW[kind](self.domain.get(kind, {}), n, rng)

    def stream(self, plan: Plan) -> list[Chunk]:
        """The chunks of a plan. Changing one entry of the plan leaves the content of the others as it was."""
        chunks = []
        time = 0.0
        for place, (name, n) in enumerate(plan.chunks):
            chunk = self.chunk(self.kinds[name], n, philox(plan.content, place))
            chunks.append(replace(chunk, t=time) if plan.stamped else chunk)  # type: ignore[type-var]
            time += n * chunk.period
        return chunks

    def plans(self, *, most: int = 5, least: int = 0) -> st.SearchStrategy[Plan]:
        """Plans of `least` to `most` chunks; times are stamped on streams of one kind of item alone."""
        each = [
            st.tuples(st.just(name), st.integers(0, self.most(kind))) for name, kind in self.kinds.items()
        ]
        if not each:
            return st.just(Plan(()))
        # The kinds with items more often than instants.
        each += [strategy for strategy, kind in zip(each, self.kinds.values(), strict=True) if kind.items] * 2
        stamped = st.booleans() if len(self.item_kinds) == 1 else st.just(False)
        chunks = st.lists(st.one_of(each), min_size=least, max_size=most).map(tuple)
        return st.builds(Plan, chunks, st.integers(0, 999), stamped)

    def typical(self, content: int, repeats: int = 2) -> list[Chunk]:
        """A stream with everything in it, several blocks long, where no search is wanted."""
        names = [name for name, kind in self.kinds.items() if kind is not Control]
        sizes = [max(1, self.most(self.kinds[name]) - 1) if self.kinds[name].items else 0 for name in names]
        return self.stream(Plan(tuple(zip(names, sizes, strict=True)) * repeats, content))


def cuttings(most: int) -> st.SearchStrategy[Cutting]:
    """Ways to cut a stream of up to `most` chunks."""
    one = st.one_of(
        st.lists(st.integers(0, 99), max_size=4).map(tuple),
        st.just((EACH,)),
    )
    return st.lists(one, max_size=most).map(tuple)


def cut(chunk: Chunk, places: Sequence[int]) -> list[Chunk]:
    """The pieces of one chunk; an instant stays whole."""
    n = len(chunk)
    if not chunk.items:
        return [chunk]
    if EACH in places:
        inner = list(range(1, n, max(1, n // 32)))
    else:
        inner = sorted(place % (n + 1) for place in places)
    return [chunk[start:stop] for start, stop in pairwise([0, *inner, n])]


def cut_all(stream: Sequence[Chunk], cutting: Cutting) -> list[list[Chunk]]:
    """The pieces of every chunk of a stream."""
    padded = (*cutting, *((),) * len(stream))
    return [cut(chunk, places) for chunk, places in zip(stream, padded, strict=False)]
