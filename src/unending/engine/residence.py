"""Which sessions are in memory: slots given and taken, states brought from the store and put there."""

from collections import deque
from math import inf
from typing import Any, Generic, TypeVar

from unending.core.errors import BusyError, SequenceError, SessionNotFoundError, StorageError
from unending.core.record import Record
from unending.engine import jobs
from unending.engine.entry import Entry
from unending.engine.floor import Floor
from unending.engine.notices import Done, Failed, Ready, Refused
from unending.engine.restoring import fill, restore
from unending.engine.seats import Seats, victim
from unending.engine.store.journal import Row

__all__ = ["Residence"]

RETRY = 0.2
"""Seconds after which the store is asked again for a session that it refused to give."""
LOOK = 0.02
"""Seconds after which another look is taken for who may give up a slot, while somebody waits."""

S = TypeVar("S")


class Residence(Generic[S]):
    """Seats sessions, parks them, and does the jobs of the store for them, one at a time."""

    def __init__(self, floor: Floor[S]) -> None:
        self.floor = floor
        self.seats = Seats(floor.limits.room(floor.bound))
        self._waiting: deque[Entry[S]] = deque()
        self._parking = 0
        self._jobs: deque[tuple[int, jobs.Job]] = deque()
        self._busy = False
        self._again: dict[Entry[S], float] = {}
        """Sessions that the store refused to give, each with the time to ask again."""

    @property
    def wake(self) -> float:
        """When to look for work again although nothing happens."""
        looking = self.floor.clock() + LOOK if len(self._waiting) > self._parking else inf
        return min(looking, *self._again.values()) if self._again else looking

    def seek(self, entry: Entry[S], *, new: bool) -> None:
        """Find the session a slot and bring it to memory; with `new`, only if that can be done without delay.

        Raises
        ------
        BusyError
            with `new`, if every slot is taken by a session that is not idle.
        """
        if entry.slot >= 0 or entry.waiting or "delete" in entry.asked:
            return
        if self.seats.free:
            return self._bring(entry)
        if new and self._victim(new=True) is None:
            self.floor.counters.refused += 1
            why = (
                "none of their sessions is idle"
                if self.floor.journal.stored
                else "there is no store to park one in"
            )
            raise BusyError(f"all {self.seats.total} slots are taken and {why}", self.floor.counters.hint(20))
        entry.waiting = True
        self._waiting.append(entry)
        return self.relieve(new=new)

    def _victim(self, *, new: bool) -> Entry[S] | None:
        if not self.floor.journal.stored:
            return None
        entries = self.seats.held.values()
        idle = [each for each in entries if each.record is not None and self.floor.is_idle(each)]
        return victim(entries, self.floor.limits, self.floor.clock(), idle, new=new)

    def relieve(self, *, new: bool = False) -> None:
        """Seat who waits, and park others for the rest of them where that may be done."""
        while self._waiting and self.seats.free:
            self._bring(self._waiting.popleft())
        while len(self._waiting) > self._parking and (found := self._victim(new=new)) is not None:
            self.floor.unmark(found)
            if found.dirty:
                self._parking += 1
                self.save(found, park=True)
            else:
                self._park(found)

    def _park(self, entry: Entry[S]) -> None:
        unfinished = bool(entry.queue) or self.floor.operator.pending(entry.alive.state)
        entry.record = None
        entry.outbox.clear()
        entry.outbox_bytes = 0
        entry.steps = 0
        self.floor.unmark(entry)
        self.floor.counters.parked += 1
        self._free(entry)
        if unfinished or entry.opening or entry.asked:
            self.seek(entry, new=False)

    def _free(self, entry: Entry[S]) -> None:
        self.seats.leave(entry)
        self.relieve()

    def _bring(self, entry: Entry[S]) -> None:
        self.seats.take(entry, self.floor.clock())
        entry.waiting, entry.job = False, True
        if entry.source is not None:
            opened = Row(entry.key, 0, "import", entry.seed, 0, jobs.identity(self.floor.operator))
            self._do(jobs.Import(entry.key, entry.source, opened))
        elif entry.known and not entry.rows:
            self._do(jobs.Create(entry.key, entry.seed))
        else:
            self._do(jobs.Load(entry.key))

    def save(self, entry: Entry[S], *, park: bool = False) -> None:
        """Put a snapshot of a session that is not being stepped into the store."""
        entry.job = True
        self.floor.unmark(entry)
        kept = tuple(each.event for each in entry.outbox)
        taken = entry.queue[0].taken if entry.queue else 0
        index = entry.forced[0].index if entry.forced else entry.rows
        self._do(jobs.Save(entry.key, index, entry.alive, kept, taken, park))

    def ask(self, entry: Entry[S], what: str) -> None:
        """Note a client's wish (save, export, delete) and grant it as soon as nothing else has the session."""
        if entry.record is None and what != "delete":
            self.seek(entry, new=True)
        entry.asked[what] = None
        self.answer(entry)

    def answer(self, entry: Entry[S]) -> bool:
        """Grant the first wish that can be granted now; whether one was."""
        if entry.stepping or entry.job or not entry.asked:
            return False
        if "delete" in entry.asked:
            entry.job = True
            self.floor.unmark(entry)
            if entry.waiting:
                entry.waiting = False
                self._waiting.remove(entry)
            self._again.pop(entry, None)
            self._do(jobs.Drop(entry.key))
            return True
        if entry.record is None or (entry.queue and entry.queue[0].taken):
            return False
        what = next(iter(entry.asked))
        if what == "save":
            self.save(entry)
        elif entry.replaying and not self.floor.is_idle(entry):
            return False
        else:
            entry.job = True
            self.floor.unmark(entry)
            kept = tuple(each.event for each in entry.outbox)
            self._do(jobs.Export(entry.key, entry.alive, kept, 0))
        return True

    def _do(self, job: jobs.Job) -> None:
        self._jobs.append((self.floor.journal.lsn, job))

    def work(self) -> jobs.Job | None:
        """The next job whose journal is durable; None if there is none, or one is under way."""
        if self._busy:
            return None
        now = self.floor.clock()
        for entry in [each for each, at in self._again.items() if at <= now]:
            del self._again[entry]
            self.seek(entry, new=False)
        if self._waiting:
            self.relieve()
        for index, (lsn, job) in enumerate(self._jobs):
            if lsn <= self.floor.journal.durable:
                del self._jobs[index]
                self._busy = True
                return job
        return None

    def performed(self, job: jobs.Job, outcome: Any) -> None:
        """How a job went: its result, or the exception."""
        self._busy = False
        entry = self.floor.entries[job.key]  # type: ignore[union-attr]
        entry.job = False
        failed = isinstance(outcome, Exception)
        self.floor.counters.faults += failed
        match job:
            case jobs.Save():
                self._saved(entry, job, outcome)
            case jobs.Export():
                del entry.asked["export"]
                self.floor.notices.append(Done(entry.key, "export", outcome))
            case jobs.Drop():
                self._dropped(entry, outcome)
            case _ if failed:
                self._lost(entry, outcome)
            case jobs.Create():
                entry.record = Record(outcome)
                identity = jobs.identity(self.floor.operator)
                self.floor.journal.write(entry, "open", entry.seed, 0, identity)
            case jobs.Import():
                entry.source = None
                entry.rows = 1
                fill(entry, outcome[0], outcome[1])
            case jobs.Load():
                self.floor.counters.restored += 1
                self.floor.counters.faults += len(outcome.faults)
                restore(entry, outcome, self.floor.clock())
        if not self.answer(entry) and entry.record is not None:
            self.floor.mark(entry)
            self.welcome(entry)
            self.floor.deliver(entry)

    def _saved(self, entry: Entry[S], job: jobs.Save, outcome: Any) -> None:
        failed = isinstance(outcome, Exception)
        self._parking -= job.park
        entry.steps = 0
        if not failed:
            self.floor.counters.snapshots += 1
            entry.dirty = False
        if "save" in entry.asked:
            del entry.asked["save"]
            self.floor.notices.append(Done(entry.key, "save", outcome))
        if job.park and not failed:
            self._park(entry)

    def _dropped(self, entry: Entry[S], outcome: Any) -> None:
        if isinstance(outcome, Exception):
            del entry.asked["delete"]
            self.floor.notices.append(Done(entry.key, "delete", outcome))
            if entry.record is None and (entry.opening or entry.asked or entry.queue):
                self.seek(entry, new=False)
            return
        gone = SessionNotFoundError(f"session {entry.key!r} was deleted")
        if entry.opening:
            self.floor.notices.append(Failed(entry.key, gone))
        for what in entry.asked:
            self.floor.notices.append(Done(entry.key, what, None if what == "delete" else gone))
        entry.asked.clear()
        entry.record = None
        del self.floor.entries[entry.key]
        self.floor.counters.deleted += 1
        self._free(entry)

    def _lost(self, entry: Entry[S], error: Exception) -> None:
        """A session could not be brought to memory."""
        nowhere = entry.known and not entry.rows
        dropping = "delete" in entry.asked and not nowhere  # what cannot be read can still be dropped
        for what in entry.asked:
            if what != "delete":
                self.floor.notices.append(Done(entry.key, what, error))
            elif nowhere:
                self.floor.notices.append(Done(entry.key, what, None))
        entry.asked = {"delete": None} if dropping else {}
        if entry.opening:
            entry.opening = entry.held = False
            self.floor.notices.append(Failed(entry.key, error))
        elif dropping:
            pass
        elif isinstance(error, StorageError):
            self._again[entry] = self.floor.clock() + RETRY
        else:
            entry.failed = str(error)
            self.floor.notices.append(Refused(entry.key, 0, error))
        if nowhere:
            del self.floor.entries[entry.key]
        self._free(entry)

    def welcome(self, entry: Entry[S]) -> None:
        """Tell a client that waits for the session as soon as it is where the client left it."""
        if not entry.opening or entry.record is None or (entry.replaying and not self.floor.is_idle(entry)):
            return
        first, last = entry.acknowledged - 1, entry.record.out_seq - 1
        after, entry.until = entry.after, -1
        entry.opening = False
        if after is not None and not first <= after <= last:
            entry.held = False
            self.floor.notices.append(Failed(entry.key, sequence_error(after, first, last)))
            return
        if after is not None:
            entry.drop_outputs(after + 1)
        entry.delivered = entry.acknowledged
        entry.moved = True
        self.floor.tell(entry, Ready(entry.key))

    def check(self) -> list[str]:
        """Broken invariants: slots held and free make the total, and nobody's slot is another's."""
        seated = [each.slot for each in self.floor.entries.values() if each.slot >= 0]
        wrong = []
        if sorted([*seated, *self.seats.free]) != list(range(self.seats.total)):
            wrong.append(f"slots {seated} held and {self.seats.free} free are not {self.seats.total}")
        if any(each.slot != slot for slot, each in self.seats.held.items()):
            wrong.append(f"of slots {sorted(self.seats.held)} one is another's")
        if len(self.seats.held) != len(seated):
            wrong.append(f"slots {sorted(self.seats.held)} are said to be held, {seated} are")
        if len(self._waiting) != sum(each.waiting for each in self.floor.entries.values()):
            wrong.append("who waits for a slot is not who stands in the line")
        return wrong


def sequence_error(after: int, first: int, last: int) -> SequenceError:
    """What is wrong with the number of the last output that a client says it has."""
    what = "was acknowledged before and what follows it is gone" if after < first else "was never sent"
    return SequenceError(
        f"output {after} {what}; accepted is {first} to {last}", first if after < first else last
    )
