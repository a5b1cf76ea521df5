"""What an input counts for, and which inputs are taken together in one step."""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from unending.core import (
    Audio,
    Bound,
    Chunk,
    Control,
    Event,
    Exactness,
    Frames,
    Operator,
    Rows,
    Spec,
    Text,
    state,
)
from unending.engine import Engine, Limits
from unending.engine.entry import size_of


@state
class Seen:
    count: int


@dataclass(frozen=True)
class Describe(Operator[Seen]):
    """Says of each chunk what it is. A hop of 100 makes the engine join short ones."""

    spec: ClassVar[Spec] = Spec(
        name="describe",
        family="toys",
        title="says what it gets",
        takes=(Audio, Frames, Rows, Text),
        gives=(Text,),
        exactness=Exactness.none("it speaks of how the stream is cut"),
        hop=100,
    )

    @classmethod
    def example(cls) -> Self:
        return cls()

    def init(self, seed: int = 0) -> Seen:
        return Seen(0)

    def bound(self) -> Bound:
        return Bound(8)

    def _step(self, state: Seen, chunk: Any) -> tuple[Seen, list[Event]]:
        array = getattr(chunk, chunk.items[0])
        told = array if isinstance(array, str) else f"{array.dtype} {array.shape}"
        return Seen(state.count + 1), [Event(Text(told), 0.0, 0.0)]


def told(*chunks: Chunk) -> str:
    """What comes out when all of these wait at once behind a first one."""

    async def main() -> str:
        async with asyncio.timeout(20), Engine(Describe(), Limits(gather=0.05)) as engine:
            stream = await engine.open("a")
            await asyncio.gather(*map(stream.push, chunks))
            await stream.finish()
            out = [event.data.text async for event in stream]  # type: ignore[attr-defined]
            assert engine.check() == []
            return ", ".join(out)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Rows([[1.0, 2.0]]), Rows([[3.0, 4.0]]), "float64 (2, 2)"),
        (Rows([[1.0, 2.0]]), Rows([[3.0]]), "float64 (1, 2), float64 (1, 1)"),
        (Rows([[1.0]]), Rows(np.ones((1, 1), np.float32)), "float64 (1, 1), float32 (1, 1)"),
        (Rows([[1.0]], names=("a",)), Rows([[2.0]], names=("b",)), "float64 (1, 1), float64 (1, 1)"),
        (Audio([0.5], 8000), Audio([[0.5]], 8000), "float32 (1,), float32 (1, 1)"),
        (
            Frames(np.zeros((1, 2, 2, 3), np.uint8)),
            Frames(np.zeros((1, 2, 2, 3), np.float32)),
            "uint8 (1, 2, 2, 3), float32 (1, 2, 2, 3)",
        ),
        (Text("a"), Text("b"), "ab"),
        (Text("a", role="x"), Text("b"), "a, b"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_only_what_is_alike_is_joined(one: Chunk, other: Chunk, both: str) -> None:
    assert told(one, other) == both


def test_nothing_is_lost_beside_a_chunk_without_items() -> None:
    assert told(Rows([]), Rows([[1.0, 2.0]]), Rows([[3.0, 4.0]])) == "float64 (2, 2)"


@pytest.mark.parametrize(
    "chunk",
    [
        Text("x" * 5000),
        Rows([[1.0]], names=("x" * 5000,)),
        Rows(np.zeros((625, 1))),
        Control("x", {"a": [{"b": "x" * 5000}]}),
        Control("x" * 5000),
        Control("x", [1] * 625),
        Control("x", {"x" * 5000: None}),
        Control("x", {"a": np.zeros(625)}),
    ],
    ids=lambda chunk: type(chunk).__name__,
)
def test_a_chunk_counts_for_all_that_it_holds(chunk: Chunk) -> None:
    assert 5000 <= size_of(chunk) < 50_000
