"""A small store, what may happen to its files, and a judge of what is read from them afterwards."""

import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unending.core.errors import SessionNotFoundError, StorageError, StoreCorruptError
from unending.engine.store import DirectoryStore, Row, Stored

KEYS = ("plain", "snapped", "carried", "../ключ\0", "large", "finished", "long")


@dataclass
class History:
    """All that was ever put into a store, and what it gives back undamaged."""

    rows: dict[tuple[str, int], Row] = field(default_factory=dict)
    snapshots: set[tuple[str, int, int, bytes]] = field(default_factory=set)
    stored: dict[str, Stored] = field(default_factory=dict)

    def next_row(self, key: str, kind: str, content: bytes = b"") -> Row:
        own = [row for (owner, _), row in self.rows.items() if owner == key]
        inputs = max((row.seq for row in own if row.kind == "input"), default=0)
        row = Row(key, len(own), kind, inputs + (kind == "input"), len(own) // 2, content)
        self.rows[key, row.index] = row
        return row

    def save(self, store: DirectoryStore, key: str, behind: int, content: bytes) -> None:
        """A snapshot that contains all rows and all but the last `behind` inputs."""
        own = [row for (owner, _), row in self.rows.items() if owner == key]
        inputs = max((row.seq for row in own if row.kind == "input"), default=0)
        store.save(key, len(own), inputs - behind, content)
        self.snapshots.add((key, len(own), inputs - behind, content))


def _work(store: DirectoryStore, history: History, rounds: int, generator: np.random.Generator) -> None:
    for turn in range(rounds):
        rows = []
        for key in KEYS:
            length = 9_000 if key == "large" else 60
            rows.append(history.next_row(key, "input", generator.bytes(length)))
            rows.append(history.next_row(key, "step"))
            if key == "long":
                rows += [history.next_row(key, "input", generator.bytes(200)) for _ in range(12)]
        store.commit(rows)
        for key, every, behind in (("snapped", 2, 0), ("carried", 3, 2), ("large", 5, 0)):
            if turn % every == every - 1:
                history.save(store, key, behind, generator.bytes(3_000))


def build(folder: Path, seed: int = 0) -> dict[str, History]:
    """`folder/closed`, a store left in order, and `folder/killed`, one whose process died; with their histories."""
    generator = np.random.default_rng(seed)
    history = History()
    store = DirectoryStore(folder / "work")
    store.commit([history.next_row(key, "open", b'{"seed": 1}') for key in KEYS])
    _work(store, history, 8, generator)
    store.commit([history.next_row("finished", "finish")])
    found = {}
    for variant in ("closed", "killed"):
        history.stored = {key: store.load(key) for key in KEYS}
        found[variant] = History(dict(history.rows), set(history.snapshots), dict(history.stored))
        if variant == "closed":
            store.close()
        shutil.copytree(folder / "work", folder / variant)
        if variant == "closed":
            store = DirectoryStore(folder / "work")
            _work(store, history, 3, generator)
    store.close()
    return found


def harm(folder: Path, generator: np.random.Generator) -> str:
    """Truncate a file, or flip bits of it; what was done, in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    groups = Counter(path.suffix for path in files)
    weights = np.array([1 / groups[path.suffix] for path in files])
    path = files[generator.choice(len(files), p=weights / weights.sum())]
    content = bytearray(path.read_bytes())
    name = path.relative_to(folder)
    if generator.random() < 0.3:
        length = int(generator.integers(len(content)))
        path.write_bytes(content[:length])
        return f"{name} cut to {length} of {len(content)} bytes"
    flips = int(generator.choice([1, 1, 1, 2, 8, 64]))
    places = generator.integers(len(content) * 8, size=flips)
    if generator.random() < 0.2:  # the beginnings of files and pages hold what the rest is found by
        places = generator.integers(8 * 128, size=flips) + 8 * 4096 * generator.integers(
            len(content) // 4096 + 1
        )
        places %= len(content) * 8
    for place in places:
        content[place // 8] ^= 1 << int(place % 8)
    path.write_bytes(content)
    return f"{name}: bits {sorted(places.tolist())} flipped"


class Wrong(AssertionError):
    """Something was given back that is not what was stored."""


def judge(folder: Path, history: History) -> str:
    """`equal`, `named` (some sessions refused or made good, and it says so) or `refused` (the store did not open).

    Raises `Wrong` for anything that differs without a word; an untyped exception passes through.
    """
    try:
        store = DirectoryStore(folder)
    except (StorageError, StoreCorruptError):
        _judge_rest(folder, history)
        return "refused"
    with_faults = bool(store.faults)
    try:
        entries = store.keys()
        _require({entry.key for entry in entries} == set(KEYS), "the list of sessions differs")
        loaded = {}
        for key in KEYS:
            try:
                loaded[key] = _loaded(store, history, key)
            except StoreCorruptError:
                with_faults = True
        with_faults |= any(stored.faults for stored in loaded.values())
        grown = _go_on(store, history, loaded)
    finally:
        store.close()
    _judge_again(folder, grown)
    return "named" if with_faults else "equal"


def _loaded(store: DirectoryStore, history: History, key: str) -> Stored:
    found = store.load(key)
    _require_same(found, history.stored[key], f"{key!r} as found")
    return found


def _require_same(found: Stored, wanted: Stored, what: str) -> None:
    """The same, or a named fault and what the snapshots that are left need to restore the same."""
    same = (found.snapshots, found.rows) == (wanted.snapshots, wanted.rows)
    _require(same or found.faults != wanted.faults, f"{what} differs and no fault is named")
    _require(all(each in wanted.snapshots for each in found.snapshots), f"{what} has another snapshot")
    base, base_in = found.snapshots[-1][:2] if found.snapshots else (0, 0)
    enough = [row for row in wanted.rows if row.index >= base or (row.kind == "input" and row.seq > base_in)]
    _require(found.rows in (enough, wanted.rows), f"{what} has other rows")


def _go_on(store: DirectoryStore, history: History, loaded: dict[str, Stored]) -> dict[str, Stored]:
    """Every session that could be loaded takes one more row."""
    grown = {}
    for key, stored in loaded.items():
        row = Row(key, 1 + max(index for owner, index in history.rows if owner == key), "step", 0, 0, b"more")
        try:
            store.commit([row])
            again = store.load(key)
        except StoreCorruptError:
            continue
        _require_same(again, Stored(stored.snapshots, [*stored.rows, row], stored.faults), f"{key!r} grown")
        grown[key] = again
    return grown


def _judge_again(folder: Path, grown: dict[str, Stored]) -> None:
    try:
        store = DirectoryStore(folder)
    except StoreCorruptError:
        return
    try:
        for key, stored in grown.items():
            try:
                again = store.load(key)
            except StoreCorruptError:
                continue
            _require_same(again, stored, f"{key!r} reopened")
    finally:
        store.close()


def _judge_rest(folder: Path, history: History) -> None:
    """Where loss is accepted, sessions may be gone or older, but nothing may be what never was."""
    try:
        store = DirectoryStore(folder, accept_loss=True)
    except (StorageError, StoreCorruptError):
        return
    try:
        _require(bool(store.faults), "opened now, without a word of what was lost")
        for key in KEYS:
            try:
                stored = store.load(key)
            except (SessionNotFoundError, StoreCorruptError):
                continue
            _require(
                all(history.rows.get((key, row.index)) == row for row in stored.rows), "a row that never was"
            )
            _require(
                {(key, *each) for each in stored.snapshots} <= history.snapshots, "a snapshot that never was"
            )
    finally:
        store.close()


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)


def read_without_checksums(folder: Path) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    """What a store without checksums takes for its content: rows as SQLite gives them, files as they are."""
    db = sqlite3.connect(folder / "index.sqlite")
    try:
        rows = db.execute(
            "SELECT session, idx, kind, seq, ticks, content FROM journal ORDER BY session, idx"
        ).fetchall()
    finally:
        db.close()
    return rows, [path.read_bytes() for path in sorted(folder.glob("snapshots/*/*"))]
