"""Intake: which input is accepted, under which number, and what happens to input that finds no room."""

from math import inf
from typing import Generic, TypeVar

from unending.core import Chunk
from unending.core.errors import BusyError, InputError, SequenceError, SessionClosedError
from unending.engine import codec, jobs
from unending.engine.entry import Entry, Input, size_of
from unending.engine.floor import Floor
from unending.engine.notices import Acknowledged
from unending.engine.residence import Residence

__all__ = ["Intake"]

S = TypeVar("S")


class Intake(Generic[S]):
    """Puts input into the queues of sessions and into the journal."""

    def __init__(self, floor: Floor[S], residence: Residence[S]) -> None:
        self.floor = floor
        self.residence = residence

    def require_running(self) -> None:
        """Raise `BusyError` while the engine shuts down."""
        if self.floor.draining:
            raise BusyError("the engine is shutting down", 5.0)

    def push(self, key: str, chunk: Chunk | None, seq: int | None = None) -> int:
        """Accept input, or the end of the stream (None); gives its number, `Acknowledged` follows.

        Raises
        ------
        InputError
            if the operator does not take it; its number is not used up.
        SequenceError
            if its number does not follow on. A number that was accepted before is acknowledged again.
        BusyError
            if the queue is full; with `late="block"` its `retry_after` is 0 and `Room` follows.
        SessionClosedError
            after the end of the stream.
        """
        entry = self.floor.find(key)
        following = entry.accepted + 1
        if seq is not None and seq < following:
            if seq <= entry.durable:
                self.floor.notices.append(Acknowledged(key, seq))
            return seq
        if seq is not None and seq > following:
            raise SequenceError(
                f"input {seq} does not follow on {entry.accepted}; send {following}", following
            )
        self.require_running()
        if "delete" in entry.asked:  # what the journal said of it later would belong to nobody
            raise SessionClosedError(f"session {key!r} is being deleted")
        if entry.ending:
            raise SessionClosedError(f"session {key!r} is finished; open a new one")
        if entry.failed:
            raise SessionClosedError(f"session {key!r} has failed ({entry.failed}); resume it to try again")
        if self.floor.journal.failures >= self.floor.limits.attempts:
            self.floor.counters.refused += 1
            raise BusyError("the store refuses to write, so nothing can be accepted", 1.0)
        if chunk is not None:
            self._require_fitting(entry, chunk)
        size = size_of(chunk)
        if chunk is not None and entry.queue and entry.queued_bytes + size > self.floor.limits.queue_bytes:
            return self._full(entry, following)
        content = jobs.END if chunk is None or not self.floor.journal.stored else codec.encode_chunk(chunk)
        now, deadline = self.floor.clock(), self.floor.limits.deadline
        entry.put(Input(following, chunk, size, now, inf if deadline is None else now + deadline))
        if chunk is None:
            entry.ending = True
        else:
            entry.time = (entry.time if chunk.t is None else chunk.t) + len(chunk) * chunk.period
        self._accept(entry, content)
        return following

    def _accept(self, entry: Entry[S], content: bytes, *, shed: bool = False) -> None:
        entry.accepted += 1
        self.floor.journal.write(entry, "input", entry.accepted, 0, content)
        self.floor.tell(entry, Acknowledged(entry.key, entry.accepted, shed))
        self.awaken(entry)

    def awaken(self, entry: Entry[S]) -> None:
        """The session has something to do: step it, or bring it to memory first."""
        if entry.record is not None:
            self.floor.mark(entry)
        elif entry.slot < 0:
            self.residence.seek(entry, new=False)

    def _require_fitting(self, entry: Entry[S], chunk: Chunk) -> None:
        self.floor.operator.admit(chunk)
        if chunk.t is not None and chunk.t < entry.time - 1e-9:
            raise InputError(
                f"the chunk begins at {chunk.t:g}, before {entry.time:g} where the stream has got to;"
                " a stream is ordered in time"
            )

    def _full(self, entry: Entry[S], following: int) -> int:
        """The declared policy for input that finds no room."""
        match self.floor.limits.late:
            case "block":
                entry.blocked = True
                raise BusyError(f"the queue of {entry.key!r} is full", 0.0)
            case "shed":
                entry.shed += 1
                self.floor.counters.shed += 1
                entry.put(Input(following, None, 64, self.floor.clock(), inf, shed=True))
                self._accept(entry, jobs.SHED, shed=True)
                return following
        self.floor.counters.refused += 1
        wait = self.floor.counters.hint(len(entry.queue))
        raise BusyError(f"the queue of {entry.key!r} is full ({entry.queued_bytes:,} bytes wait)", wait)
