"""A store in memory, for tests and simulation."""

from collections.abc import Sequence
from dataclasses import replace
from threading import Lock

from unending.core.errors import SessionNotFoundError, StorageError
from unending.engine.store.index import seal
from unending.engine.store.journal import (
    Entry,
    Row,
    Saved,
    Store,
    Stored,
    Tail,
    assemble,
    extend,
    in_order,
    needed,
    retain,
)

__all__ = ["MemoryStore"]


class MemoryStore(Store):
    """Keeps sessions as a directory does, for tests and simulation: it survives `crash`, not the process.

    Parameters
    ----------
    keep
        snapshots kept of each session, at least 1.
    """

    def __init__(self, keep: int = 2) -> None:
        self._keep = keep
        self._open = True
        self._turn = Lock()
        self._tails: dict[str, Tail] = {}
        self._rows: dict[str, dict[int, Row]] = {}
        self._snapshots: dict[str, dict[Saved, bytes]] = {}

    def crash(self) -> "MemoryStore":
        """What a new process finds: all that was committed. This store is closed, whoever still holds it."""
        self._require_open()
        found = MemoryStore(self._keep)
        found._tails, found._rows, found._snapshots = self._tails, self._rows, self._snapshots
        self.close()
        return found

    def commit(self, rows: Sequence[Row]) -> None:
        with self._turn:
            self._append(rows)

    def _append(self, rows: Sequence[Row]) -> None:
        self._require_open()
        tails, fresh = extend(self._tails, rows, lambda key, index: self._rows[key].get(index))
        self._tails |= tails
        for row in fresh:
            self._rows.setdefault(row.key, {})[row.index] = row

    def save(self, key: str, index: int, in_seq: int, content: bytes) -> None:
        with self._turn:
            self._keep_snapshot(key, index, in_seq, content)

    def begin(self, opened: Row, in_seq: int, content: bytes) -> None:
        with self._turn:
            self._append([opened])
            self._keep_snapshot(opened.key, 1, in_seq, content)

    def _keep_snapshot(self, key: str, index: int, in_seq: int, content: bytes) -> None:
        saved = Saved(index, in_seq, len(content), seal(key, index, in_seq, content=content).hex())
        tail = retain(key, self._tail(key), saved, self._keep, set())
        held = self._snapshots.get(key, {}) | {saved: bytes(content)}
        self._snapshots[key] = {each: held[each] for each in tail.snapshots}
        rows = [row for row in self._rows[key].values() if needed(row, tail.base, tail.base_in)]
        self._rows[key] = {row.index: row for row in rows}
        size = sum(len(row.content) for row in rows)
        self._tails[key] = replace(tail, kept=len(rows), size=size)

    def load(self, key: str) -> Stored:
        with self._turn:
            tail = self._tail(key)
            snapshots = [(each.index, each.in_seq, self._snapshots[key][each]) for each in tail.snapshots]
            return assemble(key, tail, list(self._rows[key].values()), snapshots, [])

    def keys(self) -> list[Entry]:
        with self._turn:
            self._require_open()
            entries = [tail.entry(key) for key, tail in self._tails.items()]
        return in_order(entries)

    def drop(self, key: str) -> None:
        with self._turn:
            self._require_open()
            for held in (self._tails, self._rows, self._snapshots):
                held.pop(key, None)

    def close(self) -> None:
        self._open = False

    def _require_open(self) -> None:
        if not self._open:
            raise StorageError("the store is closed")

    def _tail(self, key: str) -> Tail:
        self._require_open()
        if key not in self._tails:
            raise SessionNotFoundError(f"the store has no session {key!r}")
        return self._tails[key]
