"""What the parts of the scheduler share: the sessions, who can be stepped, the journal, what the shell is told."""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Generic, TypeVar

from unending.core import Operator
from unending.core.errors import SessionNotFoundError
from unending.engine.counters import Counters
from unending.engine.entry import Entry
from unending.engine.journal_queue import JournalQueue
from unending.engine.limits import Limits
from unending.engine.notices import Acknowledged, Delivered, Idle, Notice, Room

__all__ = ["Floor"]

S = TypeVar("S")


class Floor(Generic[S]):
    """The sessions of one engine and their common book-keeping; it decides nothing."""

    def __init__(
        self, operator: Operator[S], limits: Limits, clock: Callable[[], float], *, stored: bool
    ) -> None:
        self.operator = operator
        self.limits = limits
        self.clock = clock
        self.bound = operator.bound()
        self.entries: dict[str, Entry[S]] = {}
        self.ready: dict[Entry[S], None] = {}
        """Sessions in memory that may have something to do, in the order they came."""
        self.journal = JournalQueue(stored=stored)
        self.notices: deque[Notice] = deque()
        self.counters = Counters()
        self.draining = False
        self._undelivered: dict[Entry[S], None] = {}

    def find(self, key: str) -> Entry[S]:
        """The session of this key; `SessionNotFoundError` if there is none."""
        if (entry := self.entries.get(key)) is None:
            raise SessionNotFoundError(f"there is no session {key!r}")
        return entry

    def mark(self, entry: Entry[S]) -> None:
        """The session may have something to do."""
        if entry.record is not None and not (entry.stepping or entry.job) and entry not in self.ready:
            entry.since_ready = self.clock()
            entry.moved = True  # whoever finds it ready is told when it rests again
            self.ready[entry] = None

    def unmark(self, entry: Entry[S]) -> None:
        """The session has nothing to do, or may not."""
        self.ready.pop(entry, None)

    def is_idle(self, entry: Entry[S]) -> bool:
        """Whether a session in memory waits for input."""
        return not (entry in self.ready or entry.stepping or entry.job or entry.queue)

    def tell(self, entry: Entry[S], notice: Notice) -> None:
        """Give a notice as soon as the journal of the session is durable."""
        if not self.journal.stored and type(notice) is Acknowledged and not notice.shed:
            entry.durable = notice.seq  # it is at once, and `push` says so itself
            return
        self.journal.tell(entry.lsn, notice)
        if not self.journal.waiting:
            self.release_notices()

    def release_notices(self) -> None:
        """Give the notices and outputs that the journal no longer holds back."""
        for notice in self.journal.due():
            if isinstance(notice, Acknowledged) and (entry := self.entries.get(notice.key)) is not None:
                entry.durable = max(entry.durable, notice.seq)
            self.notices.append(notice)
        for entry in list(self._undelivered):
            self.deliver(entry)

    def deliver(self, entry: Entry[S]) -> None:
        """Hand out the outputs that are due, and say when the session has come to rest."""
        self._undelivered.pop(entry, None)
        if not entry.held or entry.opening:
            return
        first = entry.outbox[0].event.seq if entry.outbox else 0
        for output in islice(entry.outbox, max(0, entry.delivered - first), None):
            if output.lsn > self.journal.durable:
                self._undelivered[entry] = None
                return
            entry.delivered = output.event.seq + 1
            self.notices.append(Delivered(entry.key, output.event))
        if entry.blocked and entry.queued_bytes < self.limits.queue_bytes // 2 + 1:
            entry.blocked = False
            self.notices.append(Room(entry.key))
        if entry.record is not None and entry.moved and self.is_idle(entry):
            entry.moved = False
            self.notices.append(Idle(entry.key, entry.record.finished))

    def check(self, entries: Iterable[Entry[S]]) -> list[str]:
        """Broken invariants in the book-keeping of these sessions, none if all is well."""
        wrong = []
        for entry in entries:
            queued = sum(each.size for each in entry.queue)
            kept = sum(each.size for each in entry.outbox)
            if (queued, kept) != (entry.queued_bytes, entry.outbox_bytes):
                wrong.append(f"{entry.key}: bytes of queue or outbox are {queued}, {kept}, counted otherwise")
            numbers = [each.seq for each in entry.queue]
            taken = entry.accepted - len(numbers)
            if entry.known and numbers != list(range(taken + 1, entry.accepted + 1)):
                wrong.append(f"{entry.key}: inputs {numbers} do not end at {entry.accepted}")
            if entry.record is not None:
                if entry.known and entry.record.in_seq != taken:
                    wrong.append(
                        f"{entry.key}: {entry.record.in_seq} inputs taken in, {taken} gone from the queue"
                    )
                seqs = [each.event.seq for each in entry.outbox]
                if seqs != list(range(entry.record.out_seq - len(seqs), entry.record.out_seq)):
                    wrong.append(f"{entry.key}: outputs {seqs} do not end before {entry.record.out_seq}")
                if entry.slot < 0:
                    wrong.append(f"{entry.key}: in memory without a slot")
            if entry.delivered < entry.acknowledged and entry.record is not None:
                wrong.append(
                    f"{entry.key}: output {entry.acknowledged} acknowledged, {entry.delivered} delivered"
                )
        return wrong
