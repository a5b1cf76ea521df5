"""streaming-thinker among others in an engine: joint decoding, and bits that a death does not change."""

import asyncio
from typing import Any

import torch

from unending.core import Control, Event, Query, Session, Text
from unending.engine import Engine, Limits, MemoryStore
from unending.systems.language.streaming_thinker import StreamingThinking
from unending.systems.language.streaming_thinker.examples import tiny_thinker

SENTENCES = ("Ann has 12. ", "Ben has 3 more. ", "It rains. ", "Cat has 4. ")


def operator() -> StreamingThinking:
    return StreamingThinking.from_model(
        *tiny_thinker(),
        source_tokens=160,
        max_sentences=6,
        max_sentence=64,
        max_unit_tokens=6,
        max_new_tokens=8,
        temperature=1.0,
    )


def script(index: int) -> list[Any]:
    return [
        Query("how many?" * (1 + index % 2)),
        *(Text(each) for each in SENTENCES[index % 3 :]),
        Control("end"),
        Query("who?"),
        Text("Ida has 1. And"),
    ]


def said(events: list[Event]) -> list[tuple[str, float, str]]:
    """Role, time and text of each unit."""
    found: list[tuple[str, float, str]] = []
    for event in events:
        assert isinstance(event.data, Text)
        if found and found[-1][:2] == (event.data.role, event.t_end):
            found[-1] = (*found[-1][:2], found[-1][2] + event.data.text)
        else:
            found.append((event.data.role, event.t_end, event.data.text))
    return found


async def feed(stream: Any, chunks: list[Any]) -> None:
    for chunk in chunks:
        await stream.push(chunk)
    await stream.finish()


def test_sessions_think_together_as_alone() -> None:
    torch.set_num_threads(1)
    made = operator()

    async def main() -> None:
        async with Engine(made, Limits(slots=4)) as engine:
            streams = [await engine.open(f"s{index}", seed=index) for index in range(4)]
            await asyncio.gather(*(feed(stream, script(index)) for index, stream in enumerate(streams)))
            for index, stream in enumerate(streams):
                found = said([event async for event in stream])
                assert found == said(list(Session(made, seed=index).run(script(index))))
            counters = engine.scheduler.counters
            assert counters.stepped > 1.5 * counters.steps  # they did go together
            assert engine.check() == []

    asyncio.run(main())


def test_a_death_changes_no_bit_of_a_thought() -> None:
    torch.set_num_threads(1)
    made = operator()

    async def with_a_death() -> list[Event]:
        store = MemoryStore()
        dying = Engine(made, Limits(slots=3, snapshot_every=3), store=store)
        await dying.__aenter__()
        stream = await dying.open("s0", seed=0)
        for chunk in script(0)[:3]:
            await stream.push(chunk)
        got = [await anext(stream) for _ in range(4)]  # in the middle of the thoughts
        left = store.crash()
        for thread in dying._threads:
            thread.shutdown()
        async with Engine(made, Limits(slots=3), store=left) as engine:
            neighbour = await engine.open("n", seed=9)
            feeding = asyncio.create_task(feed(neighbour, script(1)))
            stream = await engine.resume("s0", after=got[-1].seq)
            await feed(stream, script(0)[3:])
            got += [event async for event in stream]
            await feeding
            assert engine.check() == []
        return got

    async def whole() -> list[Event]:
        async with Engine(made, Limits(slots=3)) as engine:
            stream = await engine.open("s0", seed=0)
            await feed(stream, script(0))
            return [event async for event in stream]

    uncut, cut = asyncio.run(whole()), asyncio.run(with_a_death())
    assert said(cut) == said(uncut)
