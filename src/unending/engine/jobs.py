"""What the engine asks of its store, off the tick path: the same in production and in the simulation."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from unending.core import Chunk, Event, Operator
from unending.core.errors import SnapshotCorruptError, SnapshotForeignError, StorageError, StoreCorruptError
from unending.core.record import Record, pack, unpack
from unending.engine.codec import decode_chunk
from unending.engine.store.journal import Row, Store, Stored

__all__ = [
    "Commit",
    "Create",
    "Drop",
    "Export",
    "Import",
    "Job",
    "Load",
    "Loaded",
    "Save",
    "identity",
    "perform",
]


END, SHED = b"", b"shed"
"""Content of the journal entry of an input that is the end of the stream, or that was dropped when it came."""


@dataclass(frozen=True)
class Commit:
    """Make these rows durable; `lsn` is the number of the last."""

    rows: Sequence[Row]
    lsn: int


@dataclass(frozen=True)
class Create:
    """A fresh state."""

    key: str
    seed: int


@dataclass(frozen=True)
class Save:
    """Put a snapshot into the store; with `park`, the session gives up its slot then."""

    key: str
    index: int
    record: Record[Any]
    outbox: tuple[Event, ...]
    taken: int
    park: bool


@dataclass(frozen=True)
class Export:
    """The bytes of a snapshot, for the caller who asked for it."""

    key: str
    record: Record[Any]
    outbox: tuple[Event, ...]
    taken: int


@dataclass(frozen=True)
class Import:
    """A session from the bytes of a snapshot; it is saved under its new key."""

    key: str
    content: bytes
    opened: Row


@dataclass(frozen=True)
class Load:
    """A session from the store."""

    key: str


@dataclass(frozen=True)
class Drop:
    """Forget a session for good."""

    key: str


Job = Commit | Create | Save | Export | Import | Load | Drop


@dataclass(frozen=True)
class Loaded:
    """What `Load` found: the newest snapshot that is intact, and the journal behind it."""

    record: Record[Any]
    outbox: list[Event]
    taken: int
    inputs: list[tuple[int, Chunk | None, bool]]
    """Number, chunk (None: the end of the stream), whether it was shed, of each input not in the record yet."""
    decisions: list[Row]
    """What a replay must repeat."""
    rows: int
    """Journal entries in all."""
    seed: int
    faults: list[str]


def identity(operator: Operator[Any]) -> bytes:
    """What the first journal entry of a session says of its operator."""
    return f"{operator.digest()} {operator.weights_digest()}".encode()


def perform(job: Job, operator: Operator[Any], store: Store | None) -> Any:
    """Do a job, in whatever thread. Raises what went wrong.

    Raises
    ------
    StorageError
        if the disk refuses.
    SnapshotCorruptError, SnapshotForeignError, StoreCorruptError
        if what is there cannot be used.
    """
    match job:
        case Create():
            return operator.init(job.seed)
        case Export():
            return pack(operator, job.record, job.outbox, taken=job.taken)
        case Import():
            record, outbox, _ = unpack(operator, job.content)
            if store is not None:
                try:
                    store.begin(job.opened, record.in_seq, job.content)
                except StorageError:
                    with suppress(StorageError):
                        store.drop(job.key)  # should it be there after all
                    raise
            return record, outbox
    if store is None:
        return None
    match job:
        case Commit():
            store.commit(job.rows)
        case Save():
            content = pack(operator, job.record, job.outbox, taken=job.taken)
            store.save(job.key, job.index, job.record.in_seq, content)
        case Drop():
            store.drop(job.key)
        case Load():
            return _restore(job.key, operator, store.load(job.key))
    return None


def _restore(key: str, operator: Operator[Any], stored: Stored) -> Loaded:
    faults = list(stored.faults)
    for index, _, content in stored.snapshots:
        try:
            record, outbox, kept = unpack(operator, content)
        except SnapshotCorruptError as error:
            faults.append(str(error))
            continue
        return _loaded(key, record, outbox, int(kept.get("taken", 0)), stored.rows, index, 0, faults)
    first = stored.rows[0] if stored.rows else None
    if first is None or first.kind != "open" or first.index != 0:
        raise StoreCorruptError(
            f"no snapshot of {key!r} is intact, and its journal does not begin at its start"
        )
    if first.content != identity(operator):
        raise SnapshotForeignError(
            f"{key!r} was begun with other settings or another model than {operator.spec.name} has"
        )
    return _loaded(key, Record(operator.init(first.seq)), [], 0, stored.rows, 1, first.seq, faults)


def _loaded(
    key: str,
    record: Record[Any],
    outbox: list[Event],
    taken: int,
    rows: Sequence[Row],
    index: int,
    seed: int,
    faults: list[str],
) -> Loaded:
    inputs: list[tuple[int, Chunk | None, bool]] = []
    for row in rows:
        if row.kind == "input" and row.seq > record.in_seq:
            plain = row.content in (END, SHED)
            inputs.append((row.seq, None if plain else decode_chunk(row.content), row.content == SHED))
    if [seq for seq, _, _ in inputs] != list(range(record.in_seq + 1, record.in_seq + 1 + len(inputs))):
        raise StoreCorruptError(
            f"the journal of {key!r} does not follow on its snapshot at input {record.in_seq}"
        )
    decisions = [row for row in rows if row.kind not in ("input", "open") and row.index >= index]
    total = max([index, *(row.index + 1 for row in rows)])
    return Loaded(record, outbox, taken, inputs, decisions, total, seed, faults)
