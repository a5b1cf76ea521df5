"""The engine as its users see it: sessions over asyncio, with and without a store."""

import asyncio
from itertools import count
from typing import Any

import pytest
from tests.engine.running import INPUT, alone, engine, feed, number, run

from unending.core import Event, Query, Session, Text, Tokens
from unending.core.errors import (
    BusyError,
    CapacityError,
    InputError,
    KindError,
    SequenceError,
    SessionClosedError,
    SessionExistsError,
    SessionNotFoundError,
    SessionTakenError,
    SnapshotCorruptError,
    SnapshotForeignError,
    StorageError,
)
from unending.engine import Engine, Limits, MemoryStore
from unending.engine.simulation.witness import Witness
from unending.engine.store.faults import FaultyStore


@pytest.mark.parametrize("stored", [False, True])
def test_sessions_side_by_side_give_what_they_give_alone(stored: bool) -> None:
    async def main() -> None:
        async with engine(Limits(slots=4), store=MemoryStore() if stored else None) as eng:
            streams = [await eng.open(f"s{index}", seed=index) for index in range(4)]
            await asyncio.gather(*map(feed, streams))
            for index, stream in enumerate(streams):
                events = [event async for event in stream]
                assert [event.seq for event in events] == list(range(len(events)))
                assert list(map(number, events)) == alone(index)
            assert {view.status for view in eng.sessions()} == {"finished"}

    run(main)


def test_more_sessions_than_slots_are_parked_and_brought_back() -> None:
    async def main() -> None:
        async with engine(Limits(slots=2, idle=0.0, turn=0.0), store=MemoryStore()) as eng:
            streams = []
            for index in range(7):
                stream = await eng.open(f"s{index}", seed=index)
                await stream.push(INPUT[0])
                await stream.idle()
                streams.append(stream)
            assert sum(view.status == "parked" for view in eng.sessions()) == 5
            assert eng.totals().statuses == {"parked": 5, "idle": 2}
            assert eng.totals().state_bytes == 2 * Witness().bound().resident
            assert [view.key for view in eng.sessions("s1")] == ["s1"]
            assert eng.scheduler.check(seated=True) == []
            await asyncio.gather(*(feed(stream, INPUT[1:]) for stream in streams))
            for index, stream in enumerate(streams):
                assert [number(event) async for event in stream] == alone(index)
            assert eng.scheduler.counters.restored >= 5

    run(main)


def test_a_store_carries_sessions_over_to_the_next_engine(tmp_path: Any) -> None:
    async def main() -> None:
        got = []
        async with engine(store=tmp_path / "store") as eng:
            stream = await eng.open("a", seed=3)
            for chunk in INPUT[:3]:
                await stream.push(chunk)
            await stream.idle()
            got = [number(await anext(stream)) for _ in range(4)]
        async with engine(store=tmp_path / "store") as eng:
            assert [view.status for view in eng.sessions()] == ["parked"]
            stream = await eng.resume("a", after=3)
            assert stream.in_seq == 3
            await feed(stream, INPUT[3:])
            got += [number(event) async for event in stream]
        assert got == alone(3)

    run(main)


def test_what_was_acknowledged_survives_a_death_without_farewell() -> None:
    async def main() -> None:
        store = MemoryStore()
        dying = Engine(Witness(), Limits(snapshot_every=2), store=store)
        await dying.__aenter__()
        stream = await dying.open("a")
        receipts = [await stream.push(chunk) for chunk in INPUT[:4]]
        assert [receipt.seq for receipt in receipts] == [1, 2, 3, 4]
        got = [number(await anext(stream)) for _ in range(6)]
        left = store.crash()
        for thread in dying._threads:
            thread.shutdown()
        async with engine(store=left) as eng:
            stream = await eng.resume("a", after=5)
            repeat = await stream.push(INPUT[3], seq=4)
            assert (repeat.seq, stream.in_seq) == (4, 4)
            await feed(stream, INPUT[4:])
            got += [number(event) async for event in stream]
        assert got == alone()

    run(main)


def test_sequence_numbers_are_kept_to() -> None:
    async def main() -> None:
        async with engine() as eng:
            stream = await eng.open("a")
            with pytest.raises(SequenceError, match="send 1") as error:
                await stream.push(INPUT[0], seq=2)
            assert error.value.expected == 1
            await stream.push(INPUT[0], seq=1)
            await stream.push(INPUT[0], seq=1)
            assert stream.in_seq == 1
            await stream.idle()
            with pytest.raises(SequenceError, match="never sent"):
                stream.acknowledge(7)
            assert number(await anext(stream)) == alone()[0]
            await stream.release()
            with pytest.raises(SequenceError, match="never sent"):
                await eng.resume("a", after=40)
            again = await eng.resume("a", after=0)
            await again.release()
            with pytest.raises(SequenceError, match="gone"):
                await eng.resume("a", after=-1)

    run(main)


def test_bad_input_is_refused_and_its_number_is_free() -> None:
    async def main() -> None:
        async with engine() as eng:
            stream = await eng.open("a")
            with pytest.raises(KindError, match="takes Tokens"):
                await stream.push(Text("no"))
            await stream.push(Tokens([1 << 40]))  # the operator finds out later
            with pytest.raises(InputError, match="power of 31"):
                await anext(stream)
            await feed(stream)
            assert [number(event) async for event in stream] == alone()
            with pytest.raises(SessionClosedError, match="finished"):
                await stream.push(INPUT[0])

    run(main)


def test_one_client_holds_a_session() -> None:
    async def main() -> None:
        async with engine() as eng:
            first = await eng.open("a")
            with pytest.raises(SessionExistsError):
                await eng.open("a")
            with pytest.raises(SessionTakenError):
                await eng.resume("a")
            second = await eng.resume("a", take_over=True)
            with pytest.raises(SessionTakenError, match="taken over"):
                await first.push(INPUT[0])
            with pytest.raises(SessionTakenError):
                await anext(first)
            await first.release()
            await feed(second)
            assert [number(event) async for event in second] == alone()
            with pytest.raises(SessionNotFoundError):
                await eng.resume("nobody")

    run(main)


def test_without_a_store_a_full_engine_refuses_with_a_hint() -> None:
    async def main() -> None:
        async with engine(Limits(slots=2)) as eng:
            streams = [await eng.open("a"), await eng.open("b")]
            with pytest.raises(BusyError, match="slots") as error:
                await eng.open("c")
            assert error.value.retry_after > 0
            assert len(eng.sessions()) == 2
            await eng.delete("a")
            with pytest.raises(SessionClosedError, match="deleted"):
                await streams[0].push(INPUT[0])
            await eng.open("c")

    run(main)


def test_memory_is_what_admits() -> None:
    bound = Witness().bound().resident
    assert Engine(Witness(), Limits(slots=9, memory=3 * bound)).scheduler.residence.seats.total == 3
    with pytest.raises(CapacityError, match="more than the engine's memory"):
        Engine(Witness(), Limits(memory=bound - 1))


@pytest.mark.parametrize("late", ["block", "shed", "refuse"])
def test_a_full_queue_follows_the_declared_policy(late: str) -> None:
    async def main() -> None:
        async with engine(Limits(queue_bytes=300, outbox_bytes=100, late=late)) as eng:
            stream = await eng.open("a", explicit=True)
            pushed = [asyncio.create_task(stream.push(Tokens([1, 2, 3, 4]), seq)) for seq in range(1, 13)]
            await asyncio.sleep(0.05)  # nobody takes the outputs, so the queue fills
            if late == "block":
                assert not all(task.done() for task in pushed)
            outputs = []

            async def take() -> None:
                async for event in stream:
                    outputs.append(event)
                    stream.acknowledge(event.seq)

            taker = asyncio.create_task(take())
            results = await asyncio.gather(*pushed, return_exceptions=True)
            if late == "refuse":
                refused = [each for each in results if isinstance(each, Exception)]
                assert isinstance(refused[0], BusyError)
                assert all(isinstance(each, BusyError | SequenceError) for each in refused)
                assert eng.scheduler.counters.refused > 0
            if late == "shed":
                assert any(receipt.shed for receipt in results)  # type: ignore[union-attr]
                assert eng.scheduler.counters.shed == eng.session("a").shed > 0
            await stream.finish()
            await taker
            went_in = sum(not isinstance(each, BaseException) and not each.shed for each in results)
            assert list(map(number, outputs)) == alone(0, [Tokens([1, 2, 3, 4])] * went_in)
            if late == "block":
                assert went_in == 12

    run(main)


def test_an_interrupt_acts_between_ticks() -> None:
    async def main() -> None:
        made = Engine(Witness(longest=5000))
        async with made:
            stream = await made.open("a")
            await stream.push(Query("a long answer"))
            await anext(stream)
            await stream.interrupt()
            await stream.idle()
            ticks = made.session("a").ticks
            assert 0 < ticks < 4000
            await stream.finish()
            assert made.check() == []

    run(main)


def test_what_waits_can_be_taken_without_waiting() -> None:
    async def main() -> None:
        async with engine() as eng:
            stream = await eng.open("a")
            assert stream.take() == []
            await stream.push(INPUT[0])
            await stream.push(Tokens([1 << 40]))  # the operator refuses it when it gets there
            await stream.push(INPUT[2])
            await stream.idle()
            got = list(map(number, stream.take()))
            with pytest.raises(InputError, match="power of 31"):
                stream.take()
            got += map(number, stream.take())
            assert eng.session("a").outbox_bytes == 0
            await stream.finish()
            got += [number(event) async for event in stream]
            assert got == alone(0, [INPUT[0], INPUT[2]])

    run(main)


def test_who_waits_for_rest_is_told_of_it_whatever_else_happens() -> None:
    async def main() -> None:
        async with engine() as eng:
            for index in range(20):
                stream = await eng.open(f"s{index}", explicit=True)
                await stream.push(Query("hm?"))
                await stream.idle()
                last = await anext(stream)
                stream.acknowledge(last.seq)  # the session is looked at, and there is nothing to do
                await asyncio.sleep(0)
                async with asyncio.timeout(5):
                    await stream.idle()
                await eng.delete(f"s{index}")

    run(main)


def test_draining_cuts_a_long_answer_and_the_next_engine_goes_on_with_it(tmp_path: Any) -> None:
    async def main() -> None:
        made = Witness(longest=3000)
        async with Engine(made, store=tmp_path) as eng:
            stream = await eng.open("a")
            await stream.push(Query("a long answer"))
            got = [number(await anext(stream)) for _ in range(5)]
            async with asyncio.timeout(5):
                assert await eng.drain()
            ticks = eng.session("a").ticks
        async with Engine(made, store=tmp_path) as eng:
            stream = await eng.resume("a", after=4)
            await stream.finish()
            got += [number(event) async for event in stream]
            assert eng.session("a").ticks > ticks
        assert got == [number(event) for event in Session(made).run([Query("a long answer")])]

    run(main)


def test_an_engine_left_in_the_middle_of_an_answer_does_nothing_more() -> None:
    async def main() -> None:
        failures = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with Engine(Witness(longest=100_000)) as made:
            stream = await made.open("a")
            await stream.push(Query("a very long answer"))
            await anext(stream)
        await asyncio.sleep(0.05)
        assert failures == []

    run(main)


def test_fork_and_snapshot_go_on_by_themselves() -> None:
    async def main() -> None:
        async with engine(store=MemoryStore()) as eng:
            stream = await eng.open("a")
            for chunk in INPUT[:2]:
                await stream.push(chunk)
            await stream.idle()
            await eng.fork("a", "b")
            with pytest.raises(SessionExistsError):
                await eng.fork("a", "b")
            content = await eng.snapshot("a")
            third = await eng.import_snapshot("c", content)
            with pytest.raises(SnapshotCorruptError):
                await eng.import_snapshot("d", content[:-3])
            assert "d" not in eng.scheduler.entries
            twin = await eng.resume("b")
            for each in (stream, twin, third):
                await feed(each, INPUT[2:])
                assert [number(event) async for event in each] == alone()
            kept = [number(event) for event in Session.resume(Witness(), content).poll()]
            assert kept == alone()[: len(kept)] != []
        async with Engine(Witness(hop_size=5)) as other:
            with pytest.raises(SnapshotForeignError):
                await other.import_snapshot("a", content)
            assert other.sessions() == []

    run(main)


def test_a_disk_that_refuses_costs_time_and_nothing_else() -> None:
    async def main() -> None:
        store = FaultyStore(MemoryStore(), lambda n, operation: operation == "commit" and n % 3 == 0)
        async with engine(store=store) as eng:
            stream = await eng.open("a")
            await feed(stream)
            assert [number(event) async for event in stream] == alone()
            assert eng.scheduler.counters.faults > 0

    run(main)


def test_a_disk_that_is_full_makes_the_engine_busy() -> None:
    async def main() -> None:
        full = False
        store = FaultyStore(MemoryStore(), lambda n, operation: operation == "commit" and full)
        async with engine(store=store) as eng:
            stream = await eng.open("a")
            full = True
            waiting = asyncio.create_task(stream.push(INPUT[0]))
            await asyncio.sleep(0.4)
            assert not waiting.done()  # it is not acknowledged before it is durable
            with pytest.raises(BusyError, match="store refuses"):
                await stream.push(INPUT[1])
            full = False
            assert (await waiting).seq == 1
            await feed(stream, INPUT[1:])
            assert [number(event) async for event in stream] == alone()

    run(main)


def test_a_damaged_session_does_not_touch_the_others(tmp_path: Any) -> None:
    async def main() -> None:
        async with engine(store=tmp_path) as eng:
            for key in "ab":
                stream = await eng.open(key)
                await feed(stream)
                await stream.idle()
        foreign = Engine(Witness(hop_size=3), store=tmp_path)
        async with foreign:
            with pytest.raises(SnapshotForeignError):
                await foreign.resume("a")
            assert foreign.check() == []
        async with engine(store=tmp_path) as eng:
            stream = await eng.resume("b")
            assert stream.finished

    run(main)


def test_watchers_see_what_the_client_gets() -> None:
    async def main() -> None:
        async with engine() as eng:
            stream = await eng.open("a")
            seen: list[Event] = []

            async def look() -> None:
                with eng.watch("a") as outputs:
                    async for event in outputs:
                        seen.append(event)

            watching = asyncio.create_task(look())
            await asyncio.sleep(0)
            await feed(stream)
            events = [event async for event in stream]
            await asyncio.sleep(0.01)
            assert [event.seq for event in seen] == [event.seq for event in events]
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            assert eng._watchers == {}

    run(main)


def test_draining_saves_everything_and_refuses_more(tmp_path: Any) -> None:
    async def main() -> None:
        async with engine(store=tmp_path) as eng:
            stream = await eng.open("a")
            await stream.push(INPUT[0])
            assert await eng.drain()
            with pytest.raises(BusyError, match="shutting down"):
                await stream.push(INPUT[1])
            with pytest.raises(BusyError, match="shutting down"):
                await eng.open("b")
            assert eng.scheduler.counters.snapshots == 1
        with pytest.raises(StorageError):
            Engine(
                Witness(), store=tmp_path / "file" / "below" if (tmp_path / "file").write_text("x") else ""
            )

    run(main)


def test_a_system_that_cannot_tell_whether_work_is_pending_fails_that_session_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        real = Witness.pending
        broken: list[Any] = []

        def pending(self: Witness, state: Any) -> bool:
            if broken and state.left == broken[0]:
                raise RuntimeError("a defect")
            return real(self, state)

        async with engine() as eng:
            one, other = await eng.open("a"), await eng.open("b")
            await one.push(Query("hm?"))
            broken.append(eng.scheduler.entries["a"].alive.state.left)
            monkeypatch.setattr(Witness, "pending", pending)
            with pytest.raises(RuntimeError, match="a defect"):
                async for _ in one:
                    pass
            await other.push(INPUT[0])
            await other.idle()
            assert eng.session("a").status == "failed"
            broken.clear()
            await one.release()
            again = await eng.resume("a")
            await again.finish()
            events = [number(event) async for event in again]
            assert events == alone(0, [Query("hm?")])[-len(events) :]

    run(main)


def test_an_engine_that_cannot_start_holds_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        def no_model(self: Witness, seed: int = 0) -> None:
            raise StorageError("there is no model")

        broken = Engine(Witness(), store=tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Witness, "init", no_model)
            with pytest.raises(StorageError, match="no model"):
                await broken.__aenter__()
        assert not [thread for each in broken._threads for thread in each._threads if thread.is_alive()]
        async with engine(store=tmp_path) as eng:  # the folder is free
            await eng.open("a")

    run(main)


def test_an_engine_that_is_cancelled_while_it_ends_holds_nothing(tmp_path: Any) -> None:
    async def main() -> None:
        inside = asyncio.Event()

        async def live() -> None:
            async with Engine(Witness(longest=10**6), store=tmp_path) as eng:
                eng.scheduler.floor.journal.tell(10**6, None)  # type: ignore[arg-type]
                eng.scheduler.floor.journal.lsn += 1  # something that never gets durable
                inside.set()

        living = asyncio.create_task(live())
        await inside.wait()
        await asyncio.sleep(0.05)
        living.cancel()
        with pytest.raises(asyncio.CancelledError):
            await living
        async with engine(store=tmp_path) as eng:
            await eng.open("a")

    run(main)


def test_the_operator_gets_ready_for_the_width_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        widths = []
        real = Witness._step_many

        def noted(self: Witness, states: Any, chunks: Any, width: int) -> Any:
            widths.append((len(states), width))
            return real(self, states, chunks, width)

        monkeypatch.setattr(Witness, "_step_many", noted)
        async with engine(Limits(slots=5)) as eng:
            assert widths == [(0, 5)]
            await feed(await eng.open("a"))
        assert {width for _, width in widths} == {5}

    run(main)


def test_who_finds_no_slot_leaves_no_wish_behind() -> None:
    async def main() -> None:
        async with engine(Limits(slots=1, idle=100.0, turn=100.0), store=MemoryStore()) as eng:
            await (await eng.open("a")).release()
            await eng.open("b")
            with pytest.raises(BusyError):
                await eng.snapshot("a")
            assert not eng.scheduler.entries["a"].asked

    run(main)


def test_small_input_gathers_to_a_hop() -> None:
    async def main() -> None:
        async with engine(Limits(gather=0.2)) as eng:
            stream = await eng.open("a")
            for token in range(8):
                await stream.push(Tokens([token]))
            await stream.finish()
            assert [number(event) async for event in stream] == alone(0, [Tokens(list(range(8)))])
            assert eng.scheduler.counters.stepped <= 4

    run(main)


def test_views_hold_the_curve_of_a_session() -> None:
    async def main() -> None:
        async with engine(clock=map(float, count()).__next__) as eng:
            stream = await eng.open("a")
            for _ in range(600):
                await stream.push(Tokens([1, 2, 3, 4]))
                stream._outputs.clear()
            await stream.idle()
            view = eng.session("a")
            assert (view.position, view.in_seq, view.system) == (2400.0, 600, "witness")
            assert 2 < len(view.history) <= 256
            positions = [point[0] for point in view.history]
            assert positions == sorted(positions)
            assert {point[4] for point in view.history} == {float(Witness().bound().resident)}

    run(main)
