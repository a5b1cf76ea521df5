"""The store in a directory: an index of sessions and their journals, and snapshots beside it."""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

from unending.core import snapshot
from unending.core.errors import SessionNotFoundError, StorageError, StoreCorruptError
from unending.engine.store.index import compact, identity, seal, typed
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
    retain,
)
from unending.engine.store.recovery import open_index

__all__ = ["DirectoryStore"]


class DirectoryStore(Store):
    """Sessions in a directory: an SQLite index with the journals, and a file for each snapshot.

    A commit is one transaction and two synchronous writes, whatever the number of rows. Every row and snapshot has a
    checksum, and what is found damaged or missing is never guessed at: either the rest suffices, or there is an error.

    Parameters
    ----------
    path
        of the directory, made if it is missing; one process at a time can have it open.
    keep
        snapshots kept of each session, at least 1.
    accept_loss
        open the directory although commits or whole sessions are known to be missing from it; they are named in
        `faults`, and what the index was is kept as `index.sqlite.damaged`.

    Attributes
    ----------
    faults
        what was found damaged when the directory was opened.

    Raises
    ------
    StorageError
        if the disk refuses, or another process has the directory open.
    StoreCorruptError
        if commits or whole sessions are missing, with their number.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 2, *, accept_loss: bool = False) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}, accepted is a number of snapshots from 1")
        self.path = Path(path)
        self.faults: list[str] = []
        self._keep = keep
        self._bad: dict[str, set[Saved]] = {}
        self._open = True
        self._turn = Lock()
        """Whoever uses the index has it; nobody else does."""
        self._snapshots = self.path / "snapshots"
        with typed(str(self.path)):
            self._snapshots.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take_lock()
            self._index, self.faults = open_index(self.path, accept_loss)
        except BaseException:
            os.close(self._lock)
            raise
        with suppress(OSError):
            self._sweep()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"{self.path} is in use by another engine; a store belongs to one at a time"
            ) from error

    def _sweep(self) -> None:
        """Remove folders that a `drop` left when it was cut off; after a loss they are only set aside."""
        known = {identity(key).hex() for key in (*self._index.tails, *self._index.damaged.values())}
        for folder in self._snapshots.iterdir():
            if folder.name not in known and folder.suffix != ".lost":
                if self.faults:
                    folder.rename(folder.with_suffix(".lost"))
                else:
                    shutil.rmtree(folder)

    def commit(self, rows: Sequence[Row]) -> None:
        with self._turn:
            tails, fresh = self._extended(rows)
            if fresh:
                self._index.change(lambda db: tails, fresh)

    def _extended(self, rows: Sequence[Row]) -> tuple[dict[str, Tail], list[Row]]:
        for key in {row.key for row in rows}:
            self._require_sound(key)
        return extend(self._index.tails, rows, self._find)

    def _find(self, key: str, index: int) -> Row | None:
        return next((row for _, row in self._index.rows(key, index)), None)

    def save(self, key: str, index: int, in_seq: int, content: bytes) -> None:
        self._put(key, index, in_seq, content)

    def begin(self, opened: Row, in_seq: int, content: bytes) -> None:
        self._put(opened.key, 1, in_seq, content, opened)

    def _put(self, key: str, index: int, in_seq: int, content: bytes, opened: Row | None = None) -> None:
        checksum = seal(key, index, in_seq, content=content).hex()
        saved = Saved(index, in_seq, len(content), checksum)

        def entered() -> tuple[Tail, list[Row]]:
            """The record with the snapshot in it as things are now, and the rows that are new."""
            tails, fresh = self._extended([opened] if opened else [])
            tail = tails[key] if opened else self._tail(key)
            return retain(key, tail, saved, self._keep, self._bad.get(key, set())), fresh

        with self._turn:
            if saved not in entered()[0].snapshots:
                return
            new = key not in self._index.tails or saved not in self._index.tails[key].snapshots
        path = self._file(key, saved)
        with typed(str(path)):
            if not path.parent.exists():
                path.parent.mkdir()
                _sync_folder(self._snapshots)
        snapshot.write(path, content)  # commits may come meanwhile
        try:
            with self._turn:
                tail, fresh = entered()
                self._index.change(lambda db: {key: compact(db, key, tail)}, fresh)
        except BaseException:
            if new:
                path.unlink(missing_ok=True)
            raise
        self._bad.pop(key, None)
        kept = {self._file(key, each) for each in tail.snapshots}
        with suppress(OSError):
            for file in path.parent.iterdir():
                if file not in kept:
                    file.unlink()

    def load(self, key: str) -> Stored:
        rows, snapshots, faults = [], [], []
        with self._turn:
            tail, found = self._tail(key), list(self._index.rows(key))
        for index, row in found:
            if row is None:
                faults.append(f"row {index} of session {key!r} is damaged")
            else:
                rows.append(row)
        for saved in tail.snapshots:
            if (content := self._content(key, saved)) is None:
                faults.append(f"the snapshot of session {key!r} at row {saved.index} is damaged or missing")
            else:
                snapshots.append((saved.index, saved.in_seq, content))
        stored = assemble(key, tail, rows, snapshots, faults)
        usable = {index for index, _, _ in stored.snapshots}
        self._bad[key] = {saved for saved in tail.snapshots if saved.index not in usable}
        return stored

    def _content(self, key: str, saved: Saved) -> bytes | None:
        try:
            content = self._file(key, saved).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._file(key, saved)}: {error.strerror or error}") from error
        intact = seal(key, saved.index, saved.in_seq, content=content).hex() == saved.seal
        return content if intact else None

    def keys(self) -> list[Entry]:
        with self._turn:
            self._require_open()
            tails = list(self._index.tails.items())
        damaged = [Entry(key, "damaged", 0, 0) for key in self._index.damaged.values()]
        return in_order(damaged + [tail.entry(key) for key, tail in tails])

    def drop(self, key: str) -> None:
        def work(db: sqlite3.Connection) -> Mapping[str, None]:
            db.execute("DELETE FROM journal WHERE session = ?", (identity(key),))
            return {key: None}

        with self._turn:
            self._require_open()
            if key not in self._index.tails and identity(key) not in self._index.damaged:
                return
            self._index.change(work)
        self._bad.pop(key, None)
        shutil.rmtree(self._folder(key), ignore_errors=True)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._index.close()
            os.close(self._lock)

    def _require_open(self) -> None:
        if not self._open:
            raise StorageError(f"the store in {self.path} is closed")

    def _require_sound(self, key: str) -> None:
        self._require_open()
        if self._index.damaged and identity(key) in self._index.damaged:
            raise StoreCorruptError(f"the record of session {key!r} is damaged")

    def _tail(self, key: str) -> Tail:
        self._require_sound(key)
        if (tail := self._index.tails.get(key)) is None:
            raise SessionNotFoundError(f"the store has no session {key!r}")
        return tail

    def _folder(self, key: str) -> Path:
        return self._snapshots / identity(key).hex()

    def _file(self, key: str, saved: Saved) -> Path:
        return self._folder(key) / f"{saved.index}-{saved.seal[:16]}.safetensors"


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
