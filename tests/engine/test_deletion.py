"""Deleting a session while others are busy with it."""

import asyncio
from typing import Any

import pytest
from tests.engine.running import INPUT, alone, engine, feed, keys_of, number, run

from unending.core import Event, Query, Tokens
from unending.core.errors import SessionClosedError, SessionNotFoundError
from unending.engine import Limits, MemoryStore
from unending.engine.store.faults import FaultyStore


def test_input_for_a_session_that_is_being_deleted_harms_nobody() -> None:
    async def main() -> None:
        async with engine(Limits(attempts=2), store=MemoryStore()) as eng:
            going, staying = await eng.open("going"), await eng.open("staying")
            await going.push(INPUT[0])
            await going.idle()
            deleting = asyncio.create_task(eng.delete("going"))
            await asyncio.sleep(0)
            with pytest.raises(SessionClosedError, match="deleted"):
                await going.push(Tokens([1]))
            await deleting
            async with asyncio.timeout(5):
                await feed(staying)
            assert [number(event) async for event in staying] == alone()
            assert eng.scheduler.counters.faults == 0

    run(main)


def test_who_waits_for_a_session_is_told_that_it_was_deleted() -> None:
    async def main() -> None:
        limits = Limits(slots=1, idle=100.0, turn=100.0)
        async with engine(limits, store=MemoryStore()) as eng:
            stream = await eng.open("a")
            await stream.push(INPUT[0])
            await stream.idle()
            await stream.release()
            busy = await eng.open("b")
            await busy.push(Query("hm?"))
            entry = eng.scheduler.entries["a"]
            entry.waiting = True  # as if nobody could give up his slot
            eng.scheduler.residence._waiting.append(entry)
            resuming = asyncio.create_task(eng.resume("a"))
            exporting = asyncio.create_task(eng.snapshot("a"))
            await asyncio.sleep(0)
            await eng.delete("a")
            async with asyncio.timeout(5):
                for waiting in (resuming, exporting):
                    with pytest.raises((SessionNotFoundError, SessionClosedError), match="deleted"):
                        await waiting

    run(main)


def test_a_watcher_is_told_that_there_is_nothing_more_to_see() -> None:
    async def main() -> None:
        seen: list[Event] = []
        async with engine() as eng:

            async def look(key: str) -> None:
                with eng.watch(key) as outputs:
                    async for event in outputs:
                        seen.append(event)

            stream = await eng.open("a")
            watching = [asyncio.create_task(look("a"))]
            await asyncio.sleep(0)
            await stream.push(INPUT[0])
            await stream.idle()
            await eng.delete("a")
            async with asyncio.timeout(5):
                await watching[0]
            again = await eng.open("a")
            await again.push(INPUT[0])
            await again.idle()
            assert [number(event) for event in seen] == alone(0, [INPUT[0]])[: len(seen)]
            watching = [asyncio.create_task(look("a"))]
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await watching[0]  # the engine has shut down

    run(main)


def test_a_session_opened_at_once_under_the_name_of_a_deleted_one_lives() -> None:
    async def main() -> None:
        async with engine(store=MemoryStore()) as eng:
            for _ in range(10):
                old = await eng.open("a")
                await old.push(Tokens([1]))

                async def reopen() -> Any:
                    while "a" in eng.scheduler.entries:
                        await asyncio.sleep(0)
                    return await eng.open("a")

                new, _ = await asyncio.gather(reopen(), eng.delete("a"))
                with pytest.raises(SessionClosedError, match="deleted"):
                    await old.push(Tokens([1]))
                await new.push(INPUT[0])
                await eng.delete("a")

    run(main)


def test_a_session_that_cannot_be_brought_back_can_be_deleted() -> None:
    async def main() -> None:
        broken = False
        inner = MemoryStore()
        store = FaultyStore(inner, lambda n, operation: operation == "load" and broken)
        async with engine(Limits(slots=1, idle=0.0), store=store) as eng:
            stream = await eng.open("a")
            await feed(stream)
            await stream.idle()
            await stream.release()
            await (await eng.open("b")).release()
            assert eng.scheduler.entries["a"].record is None
            broken = True
            resuming = asyncio.create_task(eng.resume("a"))
            await asyncio.sleep(0)
            await eng.delete("a")
            await asyncio.gather(resuming, return_exceptions=True)
            assert "a" not in eng.scheduler.entries
            assert keys_of(inner) == ["b"]

    run(main)
