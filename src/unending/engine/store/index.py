"""The SQLite file of a store: records of sessions and their journals, every row under a checksum of its own."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from unending.core.errors import StorageError, StoreCorruptError
from unending.engine.store.journal import Row, Saved, Tail
from unending.engine.store.mark import Mark

__all__ = [
    "FORMAT",
    "SCHEMA",
    "UNREADABLE",
    "Index",
    "combine",
    "compact",
    "connect",
    "identity",
    "seal",
    "typed",
    "unpack_tail",
    "write_summary",
]

FORMAT = 1
SCHEMA = (
    "CREATE TABLE meta (id INTEGER PRIMARY KEY, commits INTEGER, sessions INTEGER, digest TEXT, seal BLOB)",
    "CREATE TABLE sessions (id BLOB PRIMARY KEY, key TEXT, rows INTEGER, inputs INTEGER, base INTEGER,"
    " base_in INTEGER, kept INTEGER, size INTEGER, finished INTEGER, snapshots TEXT, seal BLOB) WITHOUT ROWID",
    "CREATE TABLE journal (session BLOB, idx INTEGER, kind TEXT, seq INTEGER, ticks INTEGER, seal BLOB,"
    " content BLOB, PRIMARY KEY (session, idx)) WITHOUT ROWID",
)
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged file raises; a message that quotes the damage may not be text."""
_REFUSALS = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
}


def identity(key: str) -> bytes:
    """16 bytes that stand for a key, in the index and as the name of its folder."""
    return sha256(key.encode("utf-8", "surrogatepass")).digest()[:16]


def seal(*fields: str | int, content: bytes = b"") -> bytes:
    """Checksum of a row: 16 bytes over all of its fields and their types."""
    digest = blake2b(json.dumps(fields).encode(), digest_size=16)
    digest.update(content)
    return digest.digest()


def pack_row(row: Row) -> tuple[Any, ...]:
    """A journal entry as it lies in the index."""
    checksum = seal(row.key, row.index, row.kind, row.seq, row.ticks, content=row.content)
    return identity(row.key), row.index, row.kind, row.seq, row.ticks, checksum, row.content


def unpack_row(key: str, found: tuple[Any, ...]) -> Row | None:
    """The inverse of `pack_row` without the session's column; None if it is damaged."""
    index, kind, seq, ticks, checksum, content = found
    try:
        intact = checksum == seal(key, index, kind, seq, ticks, content=content)
    except (TypeError, ValueError):
        return None
    return Row(key, index, kind, seq, ticks, content) if intact else None


def pack_tail(key: str, tail: Tail) -> tuple[Any, ...]:
    """A session's record as it lies in the index."""
    held = json.dumps([[saved.index, saved.in_seq, saved.size, saved.seal] for saved in tail.snapshots])
    counts = (tail.rows, tail.inputs, tail.base, tail.base_in, tail.kept, tail.size, int(tail.finished))
    return identity(key), key, *counts, held, seal(key, *counts, held)


def unpack_tail(found: tuple[Any, ...]) -> Tail | None:
    """The inverse of `pack_tail`; None if it is damaged."""
    name, key, *counts, finished, held, checksum = found
    try:
        if name != identity(key) or checksum != seal(key, *counts, finished, held):
            return None
    except (TypeError, ValueError, AttributeError):
        return None
    snapshots = tuple(Saved(*each) for each in json.loads(held))
    rows, inputs, base, base_in, kept, size = counts
    return Tail(rows, inputs, base, base_in, kept, size, bool(finished), snapshots)


@contextmanager
def typed(what: str) -> Iterator[None]:
    """Turn what SQLite and the disk raise into `StorageError` and `StoreCorruptError`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
        short = code in (sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS)
        if code & 0xFF in _REFUSALS and not short:
            raise StorageError(f"cannot use {what}: {error}") from error
        raise StoreCorruptError(f"{what} is damaged: {error}") from error
    except UnicodeDecodeError as error:
        raise StoreCorruptError(f"{what} is damaged: not even the message about it can be read") from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot use {what}: {error.strerror or error}") from error
    except MemoryError as error:
        raise StorageError(f"cannot use {what}: out of memory") from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection that no other process can share, and whose commits are durable on return."""
    db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        for setting in (
            "locking_mode=EXCLUSIVE",
            "journal_mode=WAL",
            "synchronous=FULL",
            "cell_size_check=ON",
            "trusted_schema=OFF",
            "journal_size_limit=16777216",
        ):
            db.execute(f"PRAGMA {setting}")
    except BaseException:
        db.close()
        raise
    return db


class Index:
    """The records of all sessions, in memory and on disk, and the journals on disk.

    Parameters
    ----------
    path, db
        the file and a connection to it.
    mark
        the high-water mark beside it.
    commits
        number of the last commit.
    records
        all rows of the table `sessions`.
    """

    def __init__(
        self, path: Path, db: sqlite3.Connection, mark: Mark, commits: int, records: list[tuple[Any, ...]]
    ) -> None:
        self.tails: dict[str, Tail] = {}
        self.damaged: dict[bytes, str] = {}
        """Identities of sessions whose record is damaged, and what it gives as their key."""
        self._path, self._db, self._mark, self._commits = path, db, mark, commits
        self._behind = False
        self._seals: dict[bytes, bytes] = {}
        for record in records:
            self._seals[record[0]] = record[-1]
            if (tail := unpack_tail(record)) is None:
                self.damaged[record[0]] = str(record[1])
            else:
                self.tails[record[1]] = tail
        self._digest = combine(self._seals.values())

    def change(
        self, work: Callable[[sqlite3.Connection], Mapping[str, Tail | None]], fresh: Sequence[Row] = ()
    ) -> None:
        """One transaction, durable on return: journal entries that are new, and what `work` does.

        `work` gives the new records (None: the session is no more).

        Raises
        ------
        StorageError, StoreCorruptError
            with nothing changed.
        """
        with typed(str(self._path)):
            if self._behind:
                self._mark.advance(self._commits)
                self._behind = False
            try:
                self._db.execute("BEGIN")
                self._db.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)", map(pack_row, fresh))
                tails = work(self._db)
                seals, digest = self._write(tails)
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
        self._commits += 1
        self._digest = digest
        for key, tail in tails.items():
            name = identity(key)
            if tail is None:
                self.tails.pop(key, None)
                self.damaged.pop(name, None)
                self._seals.pop(name, None)
            else:
                self.tails[key], self._seals[name] = tail, seals[name]
        try:
            self._mark.advance(self._commits)
        except OSError:
            self._behind = True  # the commit itself is durable; the next one waits for the mark

    def _write(self, tails: Mapping[str, Tail | None]) -> tuple[dict[bytes, bytes], int]:
        records = [pack_tail(key, tail) for key, tail in tails.items() if tail is not None]
        fresh = {record[0]: record[-1] for record in records}
        touched = [identity(key) for key in tails]
        before = [self._seals[name] for name in touched if name in self._seals]
        digest = self._digest ^ combine(before) ^ combine(fresh.values())
        gone = [(name,) for name in touched if name not in fresh]
        self._db.executemany("DELETE FROM sessions WHERE id = ?", gone)
        self._db.executemany("REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", records)
        write_summary(self._db, self._commits + 1, len(self._seals) - len(before) + len(fresh), digest)
        return fresh, digest

    def rows(self, key: str, index: int | None = None) -> Iterator[tuple[int, Row | None]]:
        """Index and content of each journal entry of a session (or of the one at `index`); None if damaged."""
        where, given = ("", ()) if index is None else (" AND idx = ?", (index,))
        with typed(str(self._path)):
            for found in self._db.execute(
                f"SELECT idx, kind, seq, ticks, seal, content FROM journal WHERE session = ?{where} ORDER BY idx",
                (identity(key), *given),
            ):
                yield found[0], unpack_row(key, found)

    def close(self) -> None:
        """Let go of the files."""
        with suppress(sqlite3.Error):
            self._db.close()
        self._mark.close()


def combine(seals: Iterable[bytes]) -> int:
    """A checksum over a set of rows, from which one can be taken as it was added: the exclusive or."""
    total = 0
    for each in seals:
        total ^= int.from_bytes(each, "little") if isinstance(each, bytes) else 0
    return total


def write_summary(db: sqlite3.Connection, commits: int, sessions: int, digest: int) -> None:
    """Write how many commits there were, and what the records of all sessions add up to."""
    summary = (commits, sessions, f"{digest:x}")
    db.execute("REPLACE INTO meta VALUES (0, ?, ?, ?, ?)", (*summary, seal(*summary)))


def compact(db: sqlite3.Connection, key: str, tail: Tail) -> Tail:
    """Delete what no snapshot needs, and count what is left."""
    name = identity(key)
    db.execute(
        "DELETE FROM journal WHERE session = ? AND idx < ? AND NOT (kind = 'input' AND seq > ?)",
        (name, tail.base, tail.base_in),
    )
    kept, size = db.execute(
        "SELECT count(*), coalesce(sum(length(content)), 0) FROM journal WHERE session = ?", (name,)
    ).fetchone()
    return replace(tail, kept=kept, size=size)
