"""The journal as the scheduler sees it: entries that wait to be durable, and what may be told only then."""

from collections import deque
from typing import Any

from unending.engine.entry import Entry
from unending.engine.jobs import Commit
from unending.engine.notices import Notice
from unending.engine.store.journal import Row

__all__ = ["JournalQueue"]


class JournalQueue:
    """Numbers every entry (`lsn`), hands them to the store in groups, and knows up to where they are durable.

    Without a store everything counts as durable at once.
    """

    def __init__(self, *, stored: bool) -> None:
        self.stored = stored
        self.lsn = 0
        self.durable = 0
        self.failures = 0
        """Commits that failed since the last that did not."""
        self.retry_at = 0.0
        self._rows: list[Row] = []
        self._commit: Commit | None = None
        self._busy = False
        self._told: deque[tuple[int, Notice]] = deque()

    def write(self, entry: Entry[Any], kind: str, seq: int, ticks: int, content: bytes = b"") -> None:
        """Append an entry of a session."""
        self.lsn += 1
        entry.lsn = self.lsn
        if self.stored:
            self._rows.append(Row(entry.key, entry.rows, kind, seq, ticks, content))
        else:
            self.durable = self.lsn
        entry.rows += 1

    def tell(self, lsn: int, notice: Notice) -> None:
        """Keep a notice until the journal is durable up to `lsn`."""
        self._told.append((lsn, notice))

    def due(self) -> list[Notice]:
        """The notices that may be given now, in order."""
        ready = []
        while self._told and self._told[0][0] <= self.durable:
            ready.append(self._told.popleft()[1])
        return ready

    def work(self, now: float) -> Commit | None:
        """All entries that have gathered; None if there are none, one is under way, or it is too soon to retry."""
        if self._busy or now < self.retry_at:
            return None
        if self._commit is None and self._rows:
            self._commit, self._rows = Commit(tuple(self._rows), self.lsn), []
        self._busy = self._commit is not None
        return self._commit

    def committed(self, error: Exception | None, now: float) -> None:
        """How the commit went; one that failed is tried again, a little later each time."""
        assert self._commit is not None, "nothing was handed out to commit"
        self._busy = False
        if error is None:
            self.durable, self._commit, self.failures, self.retry_at = self._commit.lsn, None, 0, 0.0
        else:
            self.failures += 1
            self.retry_at = now + min(1.0, 0.01 * 2.0**self.failures)

    @property
    def waiting(self) -> bool:
        """Whether something is not durable yet."""
        return self.durable < self.lsn
