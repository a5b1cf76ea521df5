"""The scheduler: events in, work out. It owns no thread, no clock and no file, so that a seed replays a failure."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, Generic, TypeVar

from unending.core import Chunk, Operator
from unending.core.errors import (
    BusyError,
    InputError,
    SequenceError,
    SessionExistsError,
    SessionTakenError,
)
from unending.engine import jobs
from unending.engine.counters import Counters
from unending.engine.entry import Entry
from unending.engine.floor import Floor
from unending.engine.intake import Intake
from unending.engine.limits import Limits
from unending.engine.notices import Notice
from unending.engine.residence import Residence, sequence_error
from unending.engine.steps import Batch, Outcome, Steps

__all__ = ["Scheduler"]

S = TypeVar("S")


class Scheduler(Generic[S]):
    """Many sessions of one operator.

    A shell calls it with what happens (`open`, `push`, ...), takes work from it (`step_work`, `commit_work`,
    `store_work`), gives back how the work went (`stepped`, `committed`, `performed`), and reads `notices`. All calls
    come from one thread; the work may be done in others, each kind of work one piece at a time.

    Parameters
    ----------
    operator
        what every session runs.
    limits
        slots, memory, queues, deadlines.
    clock
        seconds; the only time it knows.
    stored
        whether there is a store to do its jobs.
    """

    def __init__(
        self, operator: Operator[S], limits: Limits, clock: Callable[[], float], *, stored: bool
    ) -> None:
        self.operator = operator
        self.floor = Floor(operator, limits, clock, stored=stored)
        self.residence = Residence(self.floor)
        self.steps = Steps(self.floor, self.residence)
        self.intake = Intake(self.floor, self.residence)

    @property
    def entries(self) -> dict[str, Entry[S]]:
        """The sessions by their key."""
        return self.floor.entries

    @property
    def notices(self) -> deque[Notice]:
        """What the shell has not been told yet, oldest first; it takes them out."""
        return self.floor.notices

    @property
    def counters(self) -> Counters:
        """What was counted since the engine began."""
        return self.floor.counters

    def recover(self, keys: Iterable[str]) -> None:
        """Make known what the store holds from before."""
        for key in keys:
            self.entries[key] = Entry(key, known=False)

    def open(self, key: str, seed: int = 0) -> None:
        """Begin a session; `Ready` or `Failed` follows.

        Raises
        ------
        SessionExistsError
            if there is one of this key.
        BusyError
            if no slot is free and nobody can give his up.
        """
        self._add(Entry(key, seed, held=True, opening=True))

    def adopt(self, key: str, content: bytes) -> None:
        """Begin a session from the bytes of a snapshot; raises and tells as `open` does."""
        self._add(Entry(key, held=True, opening=True, source=content))

    def _add(self, entry: Entry[S]) -> None:
        self.intake.require_running()
        if entry.key in self.entries:
            raise SessionExistsError(
                f"session {entry.key!r} exists already; resume it or choose another name"
            )
        if len(self.entries) >= self.floor.limits.sessions:
            self.counters.refused += 1
            raise BusyError(f"there are {len(self.entries)} sessions, the limit", 60.0)
        self.entries[entry.key] = entry
        try:
            self.residence.seek(entry, new=True)
        except BusyError:
            del self.entries[entry.key]
            raise
        self.counters.opened += 1

    def resume(self, key: str, after: int | None = None, *, take_over: bool = False) -> None:
        """Take hold of a session that exists; `Ready` or `Failed` follows, then the outputs after number `after`.

        Raises
        ------
        SessionNotFoundError, SessionTakenError, BusyError
            if there is none, if somebody holds it, if it is parked and no slot can be had.
        SequenceError
            if outputs that follow `after` are gone, or `after` is beyond the last.
        """
        self.intake.require_running()
        entry = self.floor.find(key)
        if entry.opening or "delete" in entry.asked or (entry.held and not take_over):
            raise SessionTakenError(f"session {key!r} is held by another connection")
        if entry.record is None:
            self.residence.seek(entry, new=not entry.held)
        elif not entry.replaying and not entry.stepping and after is not None:
            first, last = entry.acknowledged - 1, entry.record.out_seq - 1
            if not first <= after <= last:
                raise sequence_error(after, first, last)
        entry.held = entry.opening = True
        entry.failed = ""
        entry.after = after
        entry.until = max(entry.until, -1 if after is None else after)
        if not entry.stepping:
            self.residence.welcome(entry)
            self.floor.deliver(entry)

    def push(self, key: str, chunk: Chunk | None, seq: int | None = None) -> int:
        """Accept input, or the end of the stream (None); see `Intake.push`. `Acknowledged` follows."""
        return self.intake.push(key, chunk, seq)

    def interrupt(self, key: str) -> None:
        """Stop pending work between two ticks; where there is none, nothing happens."""
        entry = self.floor.find(key)
        entry.interrupt = True
        entry.failed = ""
        self.intake.awaken(entry)

    def acknowledge(self, key: str, seq: int) -> bool:
        """The client has all outputs numbered up to `seq`; whether that made room for work that waited for it.

        Raises
        ------
        SequenceError
            if no output of that number was sent.
        """
        entry = self.floor.find(key)
        if seq >= entry.delivered:
            raise SequenceError(
                f"output {seq} was never sent; the last is {entry.delivered - 1}", entry.delivered - 1
            )
        full = entry.outbox_bytes > self.floor.limits.outbox_bytes
        entry.drop_outputs(seq + 1)
        if full:
            self.floor.mark(entry)
        return full

    def release(self, key: str) -> None:
        """The client lets go; the session stays."""
        if (entry := self.entries.get(key)) is not None:
            entry.held = entry.blocked = False
            self.residence.relieve()

    def ask(self, key: str, what: str) -> None:
        """Wish for `save` (to the store), `export` (bytes for the caller) or `delete`; `Done` follows.

        Raises
        ------
        SessionNotFoundError, BusyError
            if there is none, if it is parked and no slot can be had.
        """
        entry = self.floor.find(key)
        if what not in ("save", "export", "delete"):
            raise InputError(f"{what!r} is unknown; accepted are save, export, delete")
        self.residence.ask(entry, what)

    def step_work(self) -> Batch[S]:
        """The next step, for `engine.steps.run`; empty if there is none, or one is under way."""
        return self.steps.work()

    def stepped(self, batch: Batch[S], outcomes: Sequence[Outcome[S]]) -> None:
        """The results of a step."""
        self.steps.stepped(batch, outcomes)

    def commit_work(self) -> jobs.Commit | None:
        """Journal entries to make durable, for `engine.jobs.perform`; None if none, or some are under way."""
        return self.floor.journal.work(self.floor.clock())

    def committed(self, error: Exception | None) -> None:
        """How the commit went."""
        self.floor.journal.committed(error, self.floor.clock())
        if error is None:
            self.counters.commits += 1
            self.floor.release_notices()
        else:
            self.counters.faults += 1

    def store_work(self) -> jobs.Job | None:
        """The next job of the store, for `engine.jobs.perform`; None if none, or one is under way."""
        return self.residence.work()

    def performed(self, job: jobs.Job, outcome: Any) -> None:
        """The result of a job, or its exception."""
        self.residence.performed(job, outcome)

    @property
    def wake(self) -> float:
        """When to look for work again although nothing happens, in seconds of the clock."""
        journal = self.floor.journal
        return min(self.steps.wake, self.residence.wake, journal.retry_at if journal.failures else inf)

    def drain(self) -> bool:
        """Accept nothing more and save what is in memory; whether all is done."""
        self.floor.draining = True
        done = not self.steps.busy and not self.floor.journal.waiting
        for entry in self.entries.values():
            if entry.stepping or entry.job:
                done = False
            elif self.floor.journal.stored and entry.dirty and entry.record is not None:
                self.residence.save(entry)
                done = False
        return done

    def check(self, *, seated: bool = False) -> list[str]:
        """Broken invariants, none if all is well; they are counted too.

        With `seated`, only sessions in memory are looked at: so many take no time, and nothing happens to the others.
        """
        if seated:
            wrong = self.floor.check(self.residence.seats.held.values())
        else:
            wrong = self.floor.check(self.entries.values()) + self.residence.check()
        self.counters.violations += len(wrong)
        return wrong
