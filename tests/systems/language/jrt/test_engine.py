"""jrt among others in an engine: joint decoding, and bits that a death does not change."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from unending.core import Event, Query, Rows, Session, Text, Tokens
from unending.engine import Engine, Limits, MemoryStore
from unending.systems.language.jrt import JRT


def operator() -> JRT:
    example = JRT.example()
    return replace(example, enc_length=6, max_new_tokens=12)


def script(index: int) -> list[Any]:
    rng = np.random.default_rng(index)
    return [
        Tokens(rng.integers(0, 200, 3 + 7 * index)),
        Query("why?"),
        Text("and so it went on " * index),
        Query("how?"),
    ]


def shown(events: list[Event]) -> tuple[str, list[float]]:
    """The text of all answers, and all losses."""
    text = "".join(event.data.text for event in events if isinstance(event.data, Text))
    losses = [event.data.values.ravel() for event in events if isinstance(event.data, Rows)]
    return text, np.concatenate(losses).tolist() if losses else []


async def feed(stream: Any, chunks: list[Any]) -> None:
    for chunk in chunks:
        await stream.push(chunk)
    await stream.finish()


def test_sessions_of_different_ages_decode_together_as_alone() -> None:
    torch.set_num_threads(1)
    made = operator()

    async def main() -> None:
        async with Engine(made, Limits(slots=4)) as engine:
            streams = [await engine.open(f"s{index}", seed=index) for index in range(4)]
            await asyncio.gather(*(feed(stream, script(index)) for index, stream in enumerate(streams)))
            for index, stream in enumerate(streams):
                text, losses = shown([event async for event in stream])
                wanted_text, wanted = shown(list(Session(made, seed=index).run(script(index))))
                assert text == wanted_text
                assert np.allclose(losses, wanted, atol=2e-4)
            counters = engine.scheduler.counters
            assert counters.stepped > 1.5 * counters.steps  # they did go together
            assert engine.check() == []

    asyncio.run(main())


def test_a_death_changes_no_bit_of_a_conversation() -> None:
    torch.set_num_threads(1)
    made = operator()

    async def whole(others: int) -> list[Event]:
        async with Engine(made, Limits(slots=3)) as engine:
            streams = [await engine.open(f"s{index}", seed=index) for index in range(1 + others)]
            await asyncio.gather(*(feed(stream, script(2)) for stream in streams))
            return [event async for event in streams[0]]

    async def with_a_death() -> list[Event]:
        store = MemoryStore()
        dying = Engine(made, Limits(slots=3, snapshot_every=3), store=store)
        await dying.__aenter__()
        stream = await dying.open("s0", seed=0)
        for chunk in script(2)[:2]:
            await stream.push(chunk)
        got = [await anext(stream) for _ in range(7)]  # in the middle of the first answer
        left = store.crash()
        for thread in dying._threads:
            thread.shutdown()
        async with Engine(made, Limits(slots=3), store=left) as engine:
            neighbour = await engine.open("n", seed=9)
            feeding = asyncio.create_task(feed(neighbour, script(3)))
            stream = await engine.resume("s0", after=got[-1].seq)
            await feed(stream, script(2)[2:])
            got += [event async for event in stream]
            await feeding
        return got

    alone, crowded, died = (asyncio.run(each) for each in (whole(0), whole(2), with_a_death()))
    assert shown(alone) == shown(crowded) == shown(died)
    assert [event.seq for event in died] == list(range(len(alone)))
