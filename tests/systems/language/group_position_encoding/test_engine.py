"""group-position-encoding among others in an engine: joint decoding, and bits that a death does not change."""

import asyncio
from typing import Any

import torch
from tests.systems.language.group_position_encoding.forcing import model

from unending.core import Control, Event, Session, Text
from unending.engine import Engine, Limits, MemoryStore
from unending.parts.backbones.tiny import byte_tokenizer
from unending.systems.language.group_position_encoding import GroupPositionEncoding

LINES = ("so it goes on", "and on\nand on we go", "where to, then?", "the old cat. sat down there\n")


def operator() -> GroupPositionEncoding:
    return GroupPositionEncoding.from_model(
        model(), byte_tokenizer(), k=2, source_capacity=96, target_capacity=48, per_write=6
    )


def script(index: int) -> list[Any]:
    texts = LINES[index % len(LINES) :] + LINES[: index % len(LINES)]
    chunks: list[Any] = [Text(text + " ") for text in texts[: 2 + index % 3]]
    return [*chunks[:1], Control("end"), *chunks[1:]]


def shown(events: list[Event]) -> list[tuple[str, float]]:
    return [(event.data.text, event.t_end) for event in events if isinstance(event.data, Text)]


async def feed(stream: Any, chunks: list[Any]) -> None:
    for chunk in chunks:
        await stream.push(chunk)
    await stream.finish()


def test_sessions_of_different_ages_decode_together_as_alone() -> None:
    torch.set_num_threads(1)
    made = operator()

    async def main() -> None:
        async with Engine(made, Limits(slots=4)) as engine:
            streams = [await engine.open(f"s{index}") for index in range(4)]
            await asyncio.gather(*(feed(stream, script(index)) for index, stream in enumerate(streams)))
            for index, stream in enumerate(streams):
                got = shown([event async for event in stream])
                assert got == shown(list(Session(made).run(script(index))))
                assert got
            counters = engine.scheduler.counters
            assert counters.stepped > 1.5 * counters.steps  # they did go together
            assert engine.check() == []

    asyncio.run(main())


def test_a_death_changes_no_bit_of_a_translation() -> None:
    torch.set_num_threads(1)
    made = operator()

    async def whole(others: int) -> list[Event]:
        async with Engine(made, Limits(slots=3)) as engine:
            streams = [await engine.open(f"s{index}") for index in range(1 + others)]
            await asyncio.gather(*(feed(stream, script(2)) for stream in streams))
            return [event async for event in streams[0]]

    async def with_a_death() -> list[Event]:
        store = MemoryStore()
        dying = Engine(made, Limits(slots=3, snapshot_every=3), store=store)
        await dying.__aenter__()
        stream = await dying.open("s0")
        for chunk in script(2)[:2]:
            await stream.push(chunk)
        got = [await anext(stream) for _ in range(4)]  # in the middle of the first passage
        left = store.crash()
        for thread in dying._threads:
            thread.shutdown()
        async with Engine(made, Limits(slots=3), store=left) as engine:
            neighbour = await engine.open("n")
            feeding = asyncio.create_task(feed(neighbour, script(3)))
            stream = await engine.resume("s0", after=got[-1].seq)
            await feed(stream, script(2)[2:])
            got += [event async for event in stream]
            await feeding
        return got

    alone, crowded, died = (asyncio.run(each) for each in (whole(0), whole(2), with_a_death()))
    assert shown(alone) == shown(crowded) == shown(died)
    assert [event.seq for event in died] == list(range(len(alone)))
