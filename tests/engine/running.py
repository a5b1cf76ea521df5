"""A running engine of `Witness`es, and what its sessions should give out."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from unending.core import Event, Query, Session, Tokens
from unending.engine import Engine, Store, Stream
from unending.engine.simulation.witness import Witness

INPUT = [Tokens([1, 2, 3, 4, 5]), Query("hello"), Tokens(list(range(40))), Query("?"), Tokens([9])]


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(within())


@asynccontextmanager
async def engine(*given: Any, **settings: Any) -> AsyncIterator[Engine]:
    """An engine whose invariants hold when the test is through with it."""
    made = Engine(Witness(), *given, **settings)
    async with made:
        yield made
        assert made.check() == []
    assert made.scheduler.counters.violations == 0
    assert made.check() == []


def alone(seed: int = 0, chunks: list[Any] = INPUT) -> list[int]:
    """Outputs of a plain session."""
    return [int(event.data.ids[0]) for event in Session(Witness(), seed=seed).run(chunks)]  # type: ignore[attr-defined]


def number(event: Event) -> int:
    return int(event.data.ids[0])  # type: ignore[attr-defined]


def keys_of(store: Store) -> list[str]:
    """The sessions that a store has."""
    entries = store.keys()
    return [entry.key for entry in entries]


async def feed(stream: Stream, chunks: list[Any] = INPUT) -> None:
    for chunk in chunks:
        await stream.push(chunk)
    await stream.finish()
