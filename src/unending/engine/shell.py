"""The engine in one process: an asyncio shell around the scheduler, with a thread for steps and two for the store."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from math import inf
from time import perf_counter
from typing import Any, Self

from unending.core import Operator
from unending.core.errors import SessionClosedError, SessionExistsError, SessionTakenError
from unending.engine import jobs, notices
from unending.engine.limits import Limits
from unending.engine.scheduler import Scheduler
from unending.engine.steps import run
from unending.engine.store.journal import Store
from unending.engine.store.stores import DirectoryStore
from unending.engine.stream import Stream
from unending.engine.views import SessionView, Totals, totals, view
from unending.engine.watch import Watch

__all__ = ["Engine"]

_log = logging.getLogger(__name__)
_CHECK_EVERY = 1.0
"""Seconds between two checks of the invariants while there is nothing else to do."""


class Engine:
    """Many sessions of one operator in this process.

    What `push` has acknowledged is durable when there is a store: after a crash at any instant every session goes on
    from it, outputs keep their numbers, and a client that says which one it has last gets each of the others once.

    Parameters
    ----------
    operator
        what every session runs.
    limits
        slots, memory, queues, deadlines, what happens to late input.
    store
        a folder, or a `Store`; without one nothing outlives the process and no session can be parked.
    name
        of the system in listings; the operator's own by default.
    clock
        seconds.
    """

    def __init__(
        self,
        operator: Operator[Any],
        limits: Limits | None = None,
        *,
        store: str | os.PathLike[str] | Store | None = None,
        name: str = "",
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.operator = operator
        self.name = name or operator.spec.name
        self._store: Store | None
        if isinstance(store, str | os.PathLike):
            self._store = DirectoryStore(store)
        else:
            self._store = store
        self._clock = clock
        self.scheduler: Scheduler[Any] = Scheduler(
            operator, limits or Limits(), clock, stored=store is not None
        )
        self._streams: dict[str, Stream] = {}
        self._awaited: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self._watchers: dict[str, list[Watch]] = {}
        self._threads: list[ThreadPoolExecutor] = []
        self._timer: asyncio.TimerHandle | None = None
        self._checked = -inf
        self._due = False
        self._closed = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._threads = [ThreadPoolExecutor(1, f"unending-{what}") for what in ("step", "commit", "store")]
        self._stepper, self._committer, self._keeper = self._threads
        try:
            if self._store is not None:
                known = await self._loop.run_in_executor(self._keeper, self._store.keys)
                self.scheduler.recover(entry.key for entry in known)
            await self._loop.run_in_executor(self._stepper, self._prepare)
        except BaseException:
            await self._end()
            raise
        return self

    def _prepare(self) -> None:
        """Load the model, and let the operator get ready for steps of this width: the first one shall not wait."""
        self.operator.init(0)
        try:
            self.operator.step_many([], [], self.scheduler.residence.seats.total)
        except Exception as error:  # the first step meets it again, and tells those whom it concerns
            _log.warning("%s: not ready to step sessions together: %s", self.name, type(error).__name__)

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.drain()
        finally:
            await self._end()

    async def _end(self) -> None:
        """Tell everybody who waits, and let go of threads and files."""
        self._close(SessionClosedError("the engine has shut down"))
        for thread in self._threads:
            await asyncio.to_thread(thread.shutdown)
        if self._store is not None:
            self._store.close()

    def _close(self, error: SessionClosedError) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for key in [*self._streams, *self._watchers]:
            self._forget(key, error)
        for future in self._awaited.values():
            if not future.done():
                future.set_exception(error)
        self._awaited.clear()

    def _forget(self, key: str, error: SessionClosedError) -> None:
        """There is no such session any more, for whoever holds or watches it."""
        if (stream := self._streams.pop(key, None)) is not None:
            stream.end(error)
        for watch in self._watchers.get(key, ()):
            watch.end()

    async def drain(self, seconds: float = 30.0) -> bool:
        """Accept nothing more, end the steps in flight, save every session; whether that was done in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.scheduler.drain():
                    self.pump()
                    await asyncio.sleep(0.005)
                return True
        _log.error("%s: not every session could be saved within %g s", self.name, seconds)
        return False

    async def open(self, key: str, *, seed: int = 0, explicit: bool = False) -> Stream:
        """Begin a session and take hold of it.

        Raises
        ------
        SessionExistsError
            if there is one of this key.
        BusyError
            if no slot is free and nobody can give his up.
        """
        self.scheduler.open(key, seed)
        return await self._hold(key, explicit=explicit)

    async def resume(
        self, key: str, *, after: int | None = None, take_over: bool = False, explicit: bool = False
    ) -> Stream:
        """Take hold of a session that exists, in memory or in the store.

        Parameters
        ----------
        key
            of the session.
        after
            number of the last output that the client has; outputs follow it. None: from the oldest that is kept.
        take_over
            end the hold of another client, if there is one.
        explicit
            whether outputs are acknowledged only by `Stream.acknowledge`.

        Raises
        ------
        SessionNotFoundError, SessionTakenError, SequenceError, BusyError
            see `Scheduler.resume`.
        """
        self.scheduler.resume(key, after, take_over=take_over)
        return await self._hold(key, explicit=explicit)

    async def import_snapshot(self, key: str, content: bytes, *, explicit: bool = False) -> Stream:
        """Begin a session from the bytes of a snapshot; raises as `open`, and the errors of snapshots."""
        self.scheduler.adopt(key, content)
        return await self._hold(key, explicit=explicit)

    async def _hold(self, key: str, *, explicit: bool) -> Stream:
        if (old := self._streams.pop(key, None)) is not None:
            old.end(SessionTakenError(f"session {key!r} was taken over by another connection"))
        stream = self._streams[key] = Stream(self, key, explicit=explicit)
        try:
            await self._await(key, "ready")
        except BaseException:
            self.let_go(stream)
            raise
        return stream

    async def _await(self, key: str, what: str) -> Any:
        future = self._awaited.setdefault((key, what), self._loop.create_future())
        self.pump()
        return await asyncio.shield(future)

    async def snapshot(self, key: str) -> bytes:
        """The bytes of a snapshot of the session as it is after its last step."""
        self.scheduler.ask(key, "export")
        content: bytes = await self._await(key, "export")
        return content

    async def save(self, key: str) -> None:
        """Put a snapshot into the store now."""
        self.scheduler.ask(key, "save")
        await self._await(key, "save")

    async def fork(self, key: str, to: str) -> None:
        """Begin session `to` from where session `key` is."""
        if to in self.scheduler.entries:
            raise SessionExistsError(f"session {to!r} exists already; choose another name")
        stream = await self.import_snapshot(to, await self.snapshot(key))
        await stream.release()

    async def delete(self, key: str) -> None:
        """Drop a session for good."""
        self.scheduler.ask(key, "delete")
        await self._await(key, "delete")

    @contextmanager
    def watch(self, key: str, *, most: int = 256) -> Iterator[Watch]:
        """Look on: the outputs from here as the client gets them, at most so many behind.

        Raises
        ------
        SessionNotFoundError
            if there is no such session.
        """
        floor = self.scheduler.floor
        floor.find(key)
        watch = Watch(most, floor.limits.outbox_bytes)
        self._watchers.setdefault(key, []).append(watch)
        try:
            yield watch
        finally:
            self._watchers[key].remove(watch)
            if not self._watchers[key]:
                del self._watchers[key]

    def sessions(self, prefix: str = "") -> list[SessionView]:
        """The sessions whose keys begin so, those in the store included, without their histories."""
        floor = self.scheduler.floor
        found = [entry for key, entry in self.scheduler.entries.items() if key.startswith(prefix)]
        return [view(floor, entry, self.name, history=False) for entry in found]

    def totals(self) -> Totals:
        """All sessions, those in the store included, added up."""
        return totals(self.scheduler.floor)

    def session(self, key: str) -> SessionView:
        """One session with its history; `SessionNotFoundError` if there is none."""
        return view(self.scheduler.floor, self.scheduler.floor.find(key), self.name, history=True)

    def check(self) -> list[str]:
        """Broken invariants, none if all is well."""
        return self.scheduler.check()

    def let_go(self, stream: Stream) -> None:
        """End a client's hold."""
        if self._streams.get(stream.key) is stream:
            del self._streams[stream.key]
            self.scheduler.release(stream.key)
            self.pump()
        stream.end(SessionClosedError(f"session {stream.key!r} was released; resume it to go on"))

    def at_end(self, key: str) -> bool:
        """Whether a session is finished and all of its outputs were handed out."""
        entry = self.scheduler.floor.find(key)
        return entry.over and entry.delivered >= entry.made

    def at_rest(self, key: str) -> bool:
        """Whether a session has nothing left to do and nothing left to hand out."""
        floor = self.scheduler.floor
        entry = floor.find(key)
        if entry.record is None and not entry.failed:
            resting = not (entry.queue or entry.waiting or entry.job)
        else:
            resting = bool(entry.failed) or floor.is_idle(entry)
        return resting and entry.delivered >= entry.made

    def pump_soon(self) -> None:
        """Pump once, after everybody who can run now has had his say: their input goes into one step."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self.pump)

    def pump(self) -> None:
        """Tell what there is to tell, and hand out what work there is."""
        self._due = False
        if self._closed:
            return
        scheduler = self.scheduler
        if batch := scheduler.step_work():
            width = scheduler.residence.seats.total
            self._run(
                self._stepper,
                run,
                self.operator,
                batch,
                width,
                then=lambda done: scheduler.stepped(batch, done),
            )
        if (commit := scheduler.commit_work()) is not None:
            self._run(self._committer, self._perform, commit, then=self._committed)
        if (job := scheduler.store_work()) is not None:
            self._run(self._keeper, self._perform, job, then=lambda done: scheduler.performed(job, done))
        self._tell_all()
        self._rest()

    def _tell_all(self) -> None:
        while self.scheduler.notices:
            self._tell(self.scheduler.notices.popleft())

    def _perform(self, job: jobs.Job) -> Any:
        try:
            return jobs.perform(job, self.operator, self._store)
        except Exception as error:  # whatever goes wrong in a job, the scheduler decides what follows from it
            _log.warning("%s: %s failed: %s", self.name, type(job).__name__, error)
            return error

    def _committed(self, outcome: Any) -> None:
        self.scheduler.committed(outcome if isinstance(outcome, Exception) else None)

    def _run(self, thread: ThreadPoolExecutor, work: Any, *given: Any, then: Callable[[Any], None]) -> None:
        future = self._loop.run_in_executor(thread, work, *given)

        def done(finished: "asyncio.Future[Any]") -> None:
            then(finished.result())
            self._tell_all()  # before anybody can open a session under the name of one that is deleted now
            self.pump_soon()

        future.add_done_callback(done)

    def _rest(self) -> None:
        """Set the alarm for work that time alone brings, and look after the invariants when there is leisure."""
        now = self._clock()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.scheduler.wake < inf:
            self._timer = self._loop.call_later(max(0.001, self.scheduler.wake - now), self.pump)
        if not self.scheduler.steps.busy and now - self._checked > _CHECK_EVERY:
            self._checked = now
            for wrong in self.scheduler.check(seated=True):
                _log.error("%s: invariant broken: %s", self.name, wrong)

    def _tell(self, notice: notices.Notice) -> None:
        stream = self._streams.get(notice.key)
        match notice:
            case notices.Ready() | notices.Failed():
                self._answer(notice.key, "ready", getattr(notice, "error", None))
            case notices.Done():
                if notice.what == "delete" and notice.result is None:
                    self._forget(notice.key, SessionClosedError(f"session {notice.key!r} was deleted"))
                self._answer(notice.key, notice.what, notice.result)
            case notices.Delivered():
                if stream is not None:
                    stream.give(notice.event)
                for watch in self._watchers.get(notice.key, ()):
                    watch.give(notice.event)
            case notices.Acknowledged() if stream is not None:
                stream.acknowledged(notice.seq, shed=notice.shed)
            case notices.Refused():
                _log.warning("%s: a step of a session failed: %s", self.name, type(notice.error).__name__)
                if stream is not None:
                    stream.give(notice.error)
            case notices.Idle() | notices.Room() if stream is not None:
                stream.wake()

    def _answer(self, key: str, what: str, result: Any) -> None:
        future = self._awaited.pop((key, what), None)
        if future is None or future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
            future.exception()
        else:
            future.set_result(result)
