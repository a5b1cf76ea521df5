"""A session: one operator on one stream, with its outputs, meters, snapshots and interruption."""

import os
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Generic, NamedTuple, Self, TypeVar

from unending.core import snapshot
from unending.core.chunk import TICK, Chunk, Control, Event, Tick
from unending.core.errors import InputError, SessionClosedError
from unending.core.meters import Meters
from unending.core.operator import Operator
from unending.core.record import Record, pack, unpack
from unending.core.state import consume, fork, nbytes

__all__ = ["Session"]

S = TypeVar("S")


class _Waiting(NamedTuple):
    """Events not yet polled, newest first, so that adding to them costs the same however many wait."""

    events: list[Event]
    earlier: "_Waiting | None"


class _Held(NamedTuple, Generic[S]):
    """All that a session is. A step commits by storing one new value, which no signal can split."""

    record: Record[S]
    waiting: _Waiting | None


class Session(Generic[S]):
    """One operator on one stream.

    A push or a tick either commits or never happened: if its step raises, the session is as it was before and goes
    on. A Ctrl-C may also arrive between the commit and the return; `in_seq` tells. A session belongs to one thread;
    only `interrupt` may come from another.

    Parameters
    ----------
    operator
        what runs.
    seed
        of the stream's randomness.
    clock
        seconds, for the meters only.
    """

    def __init__(
        self, operator: Operator[S], *, seed: int = 0, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.operator = operator
        self.meters = Meters()
        self._clock = clock
        self._held: _Held[S] | None = _Held(Record(operator.init(seed)), None)
        self._interrupted = False

    def _open(self) -> Record[S]:
        return self._alive().record

    def _alive(self) -> _Held[S]:
        if self._held is None:
            raise SessionClosedError("the session is closed; open a new one or resume a snapshot")
        return self._held

    def _commit(
        self, old: _Held[S], state: S, events: list[Event], *, chunk: Chunk, finished: bool = False
    ) -> None:
        record, numbered = old.record.after(chunk, state, events, finished=finished)
        self._held = _Held(record, _Waiting(numbered, old.waiting) if numbered else old.waiting)
        consume(old.record.state)

    def _advance(self, chunk: Chunk) -> None:
        old = self._alive()
        began = self._clock()
        state, events = self.operator.advance(old.record.state, chunk)
        self._commit(old, state, events, chunk=chunk)
        meters = self.meters
        meters.latency.add(self._clock() - began)
        meters.items += len(chunk)
        meters.ticks += type(chunk) is Tick
        meters.events += len(events)
        meters.newest_in = self._open().time
        for event in events:
            if event.final:
                meters.newest_out = max(meters.newest_out, event.t_end)

    def _heed(self) -> None:
        """Act on an interrupt; with no work pending there is nothing to stop, now or later."""
        if self._interrupted:
            self._interrupted = False
            if self.operator.pending(self._open().state) and self.operator.takes_interrupt():
                self._advance(Control("interrupt"))

    def _tick(self) -> bool:
        """Do one piece of pending work; False when there is none. Acts on an interrupt first."""
        self._heed()
        if not self.operator.pending(self._open().state):
            return False
        self._advance(TICK)
        return True

    def push(self, chunk: Chunk) -> None:
        """Take in one chunk. Pending work is done first, unless the operator works while it reads (`spec.ticks`).

        Raises
        ------
        InputError
            if the chunk is of a kind or content that the operator does not take, or earlier than what came before.
        SessionClosedError
            after `finish` or `close`.
        """
        record = self._open()
        if record.finished:
            raise SessionClosedError("the session is finished; reset() begins a new stream")
        self.operator.admit(chunk)
        if type(chunk) is Tick:
            raise InputError("ticks are the session's own work; push input, poll() output")
        if chunk.t is not None and chunk.t < record.time - 1e-9:
            raise InputError(
                f"the chunk begins at {chunk.t:g}, before {record.time:g} where the stream has got to;"
                " a stream is ordered in time"
            )
        self._heed()
        ticks = self.operator.spec.ticks
        if ticks is None:
            while self._tick():
                pass
        self._advance(chunk)
        for _ in range(ticks or 0):
            if not self._tick():
                break

    def poll(self) -> list[Event]:
        """The outputs that wait, in order. If none waits, pending work is done until one comes; empty means idle."""
        while (held := self._alive()).waiting is None:
            # An interrupt that leaves nothing pending may have given something.
            if not self._tick() and self._alive().waiting is None:
                return []
        events = _flatten(held.waiting)
        self._held = held._replace(waiting=None)
        return events

    def run(self, source: Iterable[Chunk]) -> Iterator[Event]:
        """Push each chunk of a source and give out the events as they come, to the end of `finish`."""
        for chunk in source:
            self.push(chunk)
            while events := self.poll():
                yield from events
        self.finish()
        while events := self.poll():
            yield from events

    def finish(self) -> None:
        """End the stream: do the pending work and what the lookahead holds. A second call changes nothing."""
        if self._open().finished:
            return
        while self._tick():
            pass
        old = self._alive()
        state, events = self.operator.advance_to_end(old.record.state)
        self._commit(old, state, events, chunk=TICK, finished=True)
        self.meters.events += len(events)

    def interrupt(self) -> None:
        """Stop the pending work (an answer in the making) between two ticks; safe from any thread."""
        self._interrupted = True

    def fork(self) -> "Session[S]":
        """A second session that continues from here on its own, sharing no memory with this one."""
        record, waiting = self._alive()
        twin = object.__new__(Session)
        twin.operator, twin.meters, twin._clock = self.operator, Meters(), self._clock
        twin._held, twin._interrupted = _Held(record._replace(state=fork(record.state)), waiting), False
        return twin

    def reset(self, seed: int = 0) -> None:
        """Begin a new stream in this session; what was not polled is dropped."""
        self._held = _Held(Record(self.operator.init(seed)), None)
        self._interrupted = False
        self.meters = Meters()

    def close(self) -> None:
        """Drop the state. Further use raises `SessionClosedError`; closing twice is fine."""
        self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> S:
        """The committed state, to look at; `fork` it before you step it yourself."""
        return self._open().state

    @property
    def nbytes(self) -> int:
        """Exact bytes of the committed state."""
        return nbytes(self._open().state)

    @property
    def pending(self) -> bool:
        """Whether there is work that needs no more input."""
        return self.operator.pending(self._open().state)

    @property
    def finished(self) -> bool:
        """Whether `finish` was called."""
        return self._open().finished

    @property
    def time(self) -> float:
        """Stream time that has come in: where the next chunk begins."""
        return self._open().time

    @property
    def in_seq(self) -> int:
        """Chunks taken in so far."""
        return self._open().in_seq

    @property
    def out_seq(self) -> int:
        """Events produced so far."""
        return self._open().out_seq

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a snapshot: state, sequence numbers, and the outputs that nobody has polled yet.

        Raises
        ------
        StorageError
            if the disk refuses; the session and an older file at `path` are untouched.
        """
        snapshot.write(path, self.snapshot())

    def snapshot(self) -> bytes:
        """The bytes that `save` writes."""
        record, waiting = self._alive()
        return pack(self.operator, record, _flatten(waiting))

    @classmethod
    def resume(
        cls,
        operator: Operator[S],
        source: str | os.PathLike[str] | bytes,
        *,
        clock: Callable[[], float] = perf_counter,
    ) -> "Session[S]":
        """The session of a snapshot (a path, or its bytes), as it was.

        Raises
        ------
        SnapshotCorruptError, SnapshotForeignError, StorageError
            see `unending.core.snapshot`.
        """
        record, events, _ = unpack(operator, source)
        self = object.__new__(cls)
        self.operator, self.meters, self._clock, self._interrupted = operator, Meters(), clock, False
        self._held = _Held(record, _Waiting(events, None) if events else None)
        return self


def _flatten(waiting: _Waiting | None) -> list[Event]:
    batches = []
    while waiting is not None:
        batches.append(waiting.events)
        waiting = waiting.earlier
    return [event for batch in reversed(batches) for event in batch]
