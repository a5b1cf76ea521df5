"""What a store keeps of a session, and the rules that every store follows: what may come next, what is still needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from unending.core.chunk import require_unicode
from unending.core.errors import StoreCorruptError

__all__ = [
    "Entry",
    "Row",
    "Saved",
    "Store",
    "Stored",
    "Tail",
    "assemble",
    "extend",
    "in_order",
    "needed",
    "retain",
]


@dataclass(frozen=True)
class Row:
    """One journal entry of a session."""

    key: str
    index: int
    """0, 1, 2, ... per session, without gap."""
    kind: str
    """`open` or `import` (from a snapshot), then `input`, `step`, `refuse`, `shed`, `interrupt` or `finish`."""
    seq: int
    """Of an input its number, from 1 without gap (a session that begins from a snapshot may begin higher)."""
    ticks: int
    """Ticks that the session had done before this entry took effect."""
    content: bytes = b""


@dataclass(frozen=True)
class Stored:
    """All that is left of a session."""

    snapshots: list[tuple[int, int, bytes]]
    """`(index, in_seq, content)` of the intact ones, newest first."""
    rows: list[Row]
    """In order: all that the oldest of `snapshots` needs, or without one the whole journal."""
    faults: list[str] = field(default_factory=list)
    """What was found damaged and is made good by the rest."""


@dataclass(frozen=True)
class Entry:
    """One session in the list of a store."""

    key: str
    status: str
    """`open`, `finished` or `damaged`."""
    rows: int
    """Journal entries kept."""
    bytes: int
    """Content of the journal entries and snapshots kept."""


class Store(Protocol):
    """Where sessions survive their process. Synchronous; from any thread.

    A commit may come while something else is under way, and does not wait for the writing of a snapshot. Of
    everything else, and of commits, there is one at a time.
    """

    def commit(self, rows: Sequence[Row]) -> None:
        """Put rows into the journals of their sessions: all or none, durable on return.

        Rows that are there already, exactly so, are passed over: a commit that failed may be repeated.

        Raises
        ------
        StorageError
            if the disk refuses. Nothing is written; should the process die right then, all rows may turn out to be.
        StoreCorruptError
            if a row does not follow on what the store has of its session.
        """

    def save(self, key: str, index: int, in_seq: int, content: bytes) -> None:
        """Keep a snapshot that contains the effect of rows `< index` and of inputs `<= in_seq`.

        The newest few are kept; once there are so many, journal rows that none of them needs are deleted.

        Raises
        ------
        StorageError, StoreCorruptError
            as `commit`.
        """

    def begin(self, opened: Row, in_seq: int, content: bytes) -> None:
        """Begin a session with its first row and the snapshot that it comes from: both or neither, durable on return.

        Raises
        ------
        StorageError, StoreCorruptError
            as `commit`.
        """

    def load(self, key: str) -> Stored:
        """What a session is resumed from. Damage that the rest makes good is named in `faults`.

        Raises
        ------
        SessionNotFoundError
            if the store has no such session.
        StoreCorruptError
            if something that it needs is damaged or missing.
        StorageError
            if the disk refuses.
        """

    def keys(self) -> list[Entry]:
        """Every session in order of their keys, without reading their content."""

    def drop(self, key: str) -> None:
        """Forget a session for good, durable on return; without one of this key, nothing happens."""

    def close(self) -> None:
        """Let go of the files; a second call changes nothing."""


@dataclass(frozen=True)
class Saved:
    """What the index says of a snapshot: `size` in bytes, `seal` its checksum in hexadecimal digits."""

    index: int
    in_seq: int
    size: int
    seal: str


@dataclass(frozen=True)
class Tail:
    """The record of a session: where its journal ends, and from where on it is kept."""

    rows: int = 0
    """Index of the next row."""
    inputs: int = 0
    """Number of the last input."""
    base: int = 0
    """Kept are all rows from this index on ..."""
    base_in: int = 0
    """... and of the earlier ones the inputs of a higher number than this."""
    kept: int = 0
    size: int = 0
    """Bytes of content of the rows kept."""
    finished: bool = False
    snapshots: tuple[Saved, ...] = ()
    """Newest first."""

    def entry(self, key: str) -> Entry:
        """How the session stands in the list."""
        status = "finished" if self.finished else "open"
        return Entry(key, status, self.kept, self.size + sum(saved.size for saved in self.snapshots))


def extend(
    tails: Mapping[str, Tail], rows: Sequence[Row], find: Callable[[str, int], Row | None]
) -> tuple[dict[str, Tail], list[Row]]:
    """The records after a commit of these rows, and those of the rows that are new.

    `find(key, index)` is the row that the store has there.
    """
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row.key, []).append(row)
    grown, fresh = {}, []
    for key, own in by_key.items():
        require_unicode(key, "the key")
        tail = tails.get(key, Tail())
        while own and own[0].index < tail.rows and find(key, own[0].index) == own[0]:
            own = own[1:]
        grown[key] = _grow(tail, own)
        fresh += own
    return grown, fresh


def _grow(tail: Tail, rows: list[Row]) -> Tail:
    index, inputs = tail.rows, tail.inputs
    for row in rows:
        if row.index != index:
            raise StoreCorruptError(
                f"row {row.index} of session {row.key!r} does not follow on: its journal goes on at {index}"
            )
        if row.kind == "input":
            if inputs and row.seq != inputs + 1:
                raise StoreCorruptError(
                    f"input {row.seq} of session {row.key!r} does not follow on input {inputs}"
                )
            inputs = row.seq
        index += 1
    return replace(
        tail,
        rows=index,
        inputs=inputs,
        kept=tail.kept + len(rows),
        size=tail.size + sum(len(row.content) for row in rows),
        finished=tail.finished or any(row.kind == "finish" for row in rows),
    )


def retain(key: str, tail: Tail, saved: Saved, keep: int, bad: set[Saved]) -> Tail:
    """The record with one more snapshot, the newest `keep` of them and none of `bad`.

    As long as there are fewer, the journal is kept whole, so that there are always `keep` ways to restore.
    """
    if not tail.base <= saved.index <= tail.rows:
        raise StoreCorruptError(
            f"a snapshot of session {key!r} at row {saved.index} does not fit its journal,"
            f" which has rows {tail.base} to {tail.rows}"
        )
    others = [old for old in tail.snapshots if old.index != saved.index and old not in bad]
    newest = sorted([saved, *others], key=lambda each: each.index, reverse=True)[:keep]
    base, base_in = (tail.base, tail.base_in) if len(newest) < keep else (newest[-1].index, newest[-1].in_seq)
    inputs = max(tail.inputs, saved.in_seq)
    return replace(tail, inputs=inputs, base=base, base_in=base_in, snapshots=tuple(newest))


def in_order(entries: list[Entry]) -> list[Entry]:
    """Sorted by key."""
    return sorted(entries, key=lambda entry: entry.key)


def needed(row: Row, base: int, base_in: int) -> bool:
    """Whether a snapshot at `base` that contains inputs up to `base_in` needs the row."""
    return row.index >= base or (row.kind == "input" and row.seq > base_in)


def _complete(tail: Tail, rows: list[Row], base: int, base_in: int) -> bool:
    indices = [row.index for row in rows if row.index >= base]
    inputs = [row.seq for row in rows if row.kind == "input" and row.seq > base_in]
    return indices == list(range(base, tail.rows)) and (
        base == 0 or inputs == list(range(base_in + 1, tail.inputs + 1))
    )


def assemble(
    key: str, tail: Tail, rows: list[Row], snapshots: list[tuple[int, int, bytes]], faults: list[str]
) -> Stored:
    """What the intact rows and snapshots suffice for.

    Raises
    ------
    StoreCorruptError
        if they do not suffice to restore the session with all that was acknowledged.
    """
    base, base_in = tail.base, tail.base_in
    if not (whole := _complete(tail, rows, base, base_in)):
        snapshots = [each for each in snapshots if _complete(tail, rows, each[0], each[1])]
        faults = faults or [f"rows of session {key!r} are missing"]
    if not snapshots and (base > 0 or not whole):
        raise StoreCorruptError(f"session {key!r} cannot be restored: {'; '.join(faults[:3])}")
    if not whole:
        base, base_in, _ = snapshots[-1]
    return Stored(snapshots, [row for row in rows if needed(row, base, base_in)], faults)
