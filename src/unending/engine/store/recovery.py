"""Opening the index of a store: what is missing, what is damaged, and going on with the rest."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unending.core.errors import StoreCorruptError
from unending.engine.store.index import (
    FORMAT,
    SCHEMA,
    UNREADABLE,
    Index,
    combine,
    connect,
    identity,
    seal,
    typed,
    write_summary,
)
from unending.engine.store.mark import Mark

__all__ = ["open_index"]


@dataclass
class _Survey:
    """What was found: the records, the number of commits, what is missing, and whether the tables are sound."""

    commits: int
    records: list[tuple[Any, ...]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unsound: str = ""


def open_index(folder: Path, accept_loss: bool) -> tuple[Index, list[str]]:
    """The index of a store, new if the folder is empty, and what was found damaged.

    Where the file is damaged, what is readable is copied into a new one, and the old one stays beside it.

    Raises
    ------
    StorageError
        if the disk refuses.
    StoreCorruptError
        if commits or sessions are missing and `accept_loss` is not set, or the file cannot be read at all.
    """
    path, high_water = folder / "index.sqlite", folder / "high-water"
    with typed(str(path)), ExitStack() as undo:
        if not (high_water.exists() or path.exists() or any((folder / "snapshots").iterdir())):
            Mark.create(high_water, 0)
        number = Mark.read(high_water)
        if number != 0 and not accept_loss and not (path.is_file() and path.stat().st_size):
            raise StoreCorruptError(f"{path} is missing or empty: {_commits(number)} are lost")
        db = undo.enter_context(closing(connect(path)))
        found = _survey(db, number)
        if found.lost and not accept_loss:
            raise StoreCorruptError(f"{folder}: {'; '.join(found.lost)} (accept_loss goes on with the rest)")
        faults = list(found.lost)
        if found.unsound:
            faults.append(f"{path} was damaged: {found.unsound}")
        if found.lost:
            found.records = [record for record in found.records if _names_session(record)]
        if faults:
            faults.append(f"{path} is made anew from what can be read; {path}.damaged is the old one")
            _rebuild(db, path, found)
            db = undo.enter_context(closing(connect(path)))
        if found.lost:
            Mark.create(high_water, found.commits)
        index = Index(path, db, Mark(high_water), found.commits, found.records)
        undo.pop_all()
        return index, faults


def _commits(number: int | None) -> str:
    return "an unknown number of commits" if number is None else f"{number} commits"


def _names_session(record: tuple[Any, ...]) -> bool:
    return isinstance(record[1], str) and record[0] == identity(record[1])


def _survey(db: sqlite3.Connection, number: int | None) -> _Survey:
    found = _Survey(number or 0)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    schema = tuple(sql for (sql,) in db.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"))
    if not schema and version == 0:
        _create(db)
        if number != 0:
            found.lost.append(f"{_commits(number)} are missing")
        return found
    if schema != SCHEMA or version != FORMAT:
        raise StoreCorruptError(f"the index is damaged, or not one of format {FORMAT}")
    try:
        told = str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
        found.unsound = "" if told == "ok" else " ".join(told.split())
    except UNREADABLE as error:
        found.unsound = str(error)
    try:
        for record in db.execute("SELECT * FROM sessions"):
            found.records.append(record)
        _compare(found, db.execute("SELECT * FROM meta").fetchall(), number)
    except UNREADABLE as error:
        found.lost.append(f"the list of sessions is damaged ({error})")
    return found


def _create(db: sqlite3.Connection) -> None:
    db.execute("BEGIN")
    for statement in SCHEMA:
        db.execute(statement)
    write_summary(db, 0, 0, 0)
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.execute("COMMIT")


def _compare(found: _Survey, summaries: list[tuple[Any, ...]], number: int | None) -> None:
    """Hold the records against the summary, and the summary against the high-water mark."""
    try:
        ((_, commits, sessions, digest, checksum),) = summaries
        intact = checksum == seal(commits, sessions, digest)
    except (TypeError, ValueError):
        intact = False
    if not intact:
        found.lost.append("the summary of the index is damaged, commits or sessions may be missing")
        return
    found.commits = max(commits, found.commits)
    if number is None:
        found.lost.append("the high-water mark is missing or damaged, commits may be missing")
    elif commits < number:
        found.lost.append(f"{number - commits} of {number} commits are missing at the end of the journal")
    named = sum(map(_names_session, found.records))
    if named != sessions:
        found.lost.append(f"the records of {abs(sessions - named)} of {sessions} sessions are missing")
    elif f"{combine(record[-1] for record in found.records):x}" != digest:
        found.lost.append("the records of sessions are not those of the last commit")


def _rebuild(db: sqlite3.Connection, path: Path, found: _Survey) -> None:
    """Put a new file in place of the damaged one; rows keep their checksums. Closes the connection."""
    new, old = path.with_name("index.sqlite.new"), path.with_name("index.sqlite.damaged")
    for leftover in (new, Path(f"{new}-wal"), old, Path(f"{old}-wal")):
        leftover.unlink(missing_ok=True)
    with closing(connect(new)) as copy:
        _create(copy)
        copy.execute("BEGIN")
        copy.executemany(
            "INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", found.records
        )
        names = dict.fromkeys(record[0] for record in found.records)
        copy.executemany("INSERT OR IGNORE INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)", _readable(db, names))
        digest = combine(record[-1] for record in found.records)
        write_summary(copy, found.commits, len(found.records), digest)
        copy.execute("COMMIT")
    db.close()
    if (log := Path(f"{path}-wal")).exists():
        os.replace(log, f"{old}-wal")
    os.link(path, old)
    os.replace(new, path)


def _readable(db: sqlite3.Connection, names: dict[Any, None]) -> Iterator[tuple[Any, ...]]:
    """Journal rows of these sessions, however they can be got at: all through and one by one, from both ends."""
    for order in ("ASC", "DESC"):
        every, end = "SELECT * FROM journal", f"ORDER BY session {order}, idx {order}"
        with suppress(*UNREADABLE):
            yield from (row for row in db.execute(f"{every} {end}") if row[0] in names)
        for name in names:
            with suppress(*UNREADABLE):
                yield from db.execute(f"{every} WHERE session = ? {end}", (name,))
