"""Every system among others in an engine: what it gives alone, bits that a death does not change."""

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from tests.systems.cases import Case, cases

from unending.core import Chunk, Event, Session, Text
from unending.engine import Engine, Limits, MemoryStore

CASES = cases()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    torch.set_num_threads(1)
    return CASES[request.param]


def shown(events: list[Event]) -> tuple[list[tuple[str, float, str]], list[np.ndarray]]:
    """Role, time and text of each stretch of text; the numbers and times of all other outputs."""
    texts: list[tuple[str, float, str]] = []
    numbers: list[np.ndarray] = []
    for event in events:
        if not isinstance(event.data, Text):
            plain, held = event.data.encode()
            numbers += [held[name].ravel() for name in sorted(held)]
            numbers.append(np.array([event.t_start, event.t_end]))
            if isinstance(plain.get("value"), int):
                numbers.append(np.array([plain["value"]]))
        elif texts and texts[-1][:2] == (event.data.role, event.t_end):
            texts[-1] = (*texts[-1][:2], texts[-1][2] + event.data.text)
        else:
            texts.append((event.data.role, event.t_end, event.data.text))
    return texts, numbers


def same(one: list[Event], two: list[Event], tolerance: float = 0.0) -> bool:
    (texts, numbers), (other_texts, other_numbers) = shown(one), shown(two)
    joined, others = (np.concatenate([np.zeros(0), *each]) for each in (numbers, other_numbers))
    return (
        texts == other_texts
        and joined.shape == others.shape
        and np.allclose(joined, others, tolerance, tolerance)
    )


async def feed(stream: Any, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        await stream.push(chunk)
    await stream.finish()


def test_sessions_of_different_ages_go_together_as_alone(case: Case) -> None:
    made = case.make()

    async def main() -> None:
        async with Engine(made, Limits(slots=4)) as engine:
            streams = [await engine.open(f"s{index}", seed=index) for index in range(4)]
            await asyncio.gather(*(feed(stream, case.script(index)) for index, stream in enumerate(streams)))
            for index, stream in enumerate(streams):
                got = [event async for event in stream]
                wanted = list(Session(made, seed=index).run(case.script(index)))
                assert got
                assert same(got, wanted, 2e-4 if case.joint else 0.0)
            counters = engine.scheduler.counters
            assert not case.joint or counters.stepped > 1.5 * counters.steps  # they did go together
            assert engine.check() == []

    asyncio.run(main())


def test_a_death_changes_no_bit(case: Case) -> None:
    made, script = case.make(), case.script(case.index)

    async def whole(others: int) -> list[Event]:
        async with Engine(made, Limits(slots=3)) as engine:
            streams = [await engine.open(f"s{index}", seed=index) for index in range(1 + others)]
            await asyncio.gather(*(feed(stream, script) for stream in streams))
            return [event async for event in streams[0]]

    async def with_a_death() -> list[Event]:
        store = MemoryStore()
        dying = Engine(made, Limits(slots=3, snapshot_every=3), store=store)
        await dying.__aenter__()
        stream = await dying.open("s0", seed=0)
        for chunk in script[: case.pushed]:
            await stream.push(chunk)
        got = [await anext(stream) for _ in range(case.got)]  # in the middle of what is to come
        left = store.crash()
        for thread in dying._threads:
            thread.shutdown()
        async with Engine(made, Limits(slots=3), store=left) as engine:
            neighbour = await engine.open("n", seed=9)
            feeding = asyncio.create_task(feed(neighbour, case.script(3)))
            stream = await engine.resume("s0", after=got[-1].seq if got else -1)
            await feed(stream, script[case.pushed :])
            got += [event async for event in stream]
            await feeding
            assert engine.check() == []
        return got

    alone, crowded, died = (asyncio.run(each) for each in (whole(0), whole(2), with_a_death()))
    assert same(alone, crowded)
    assert same(alone, died)
    assert [event.seq for event in died] == list(range(len(alone)))
