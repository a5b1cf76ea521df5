"""The record of a session: all that it is between two steps, and its form in a snapshot."""

import os
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np

from unending.core import snapshot
from unending.core.chunk import Chunk, Event, Tick
from unending.core.operator import Operator

__all__ = ["Record", "pack", "unpack"]

S = TypeVar("S")


class Record(NamedTuple, Generic[S]):
    """A state with its place in the stream. It is replaced as a whole, so that no signal can split a commit."""

    state: S
    in_seq: int = 0
    """Chunks taken in so far."""
    out_seq: int = 0
    """Events produced so far."""
    ticks: int = 0
    time: float = 0.0
    """Stream time that has come in: where the next chunk begins."""
    finished: bool = False

    def after(
        self, chunk: Chunk, state: S, events: Sequence[Event], *, finished: bool = False
    ) -> tuple[Self, list[Event]]:
        """The record after a step that gave `state` and `events`, and the events with their numbers."""
        tick = type(chunk) is Tick
        arrived = self.time if chunk.t is None else chunk.t
        following = self._replace(
            state=state,
            in_seq=self.in_seq + (not tick and not finished),
            out_seq=self.out_seq + len(events),
            ticks=self.ticks + (tick and not finished),
            time=arrived + len(chunk) * chunk.period,
            finished=finished or self.finished,
        )
        numbered = [
            Event(event.data, event.t_start, event.t_end, event.final, self.out_seq + index)
            for index, event in enumerate(events)
        ]
        return following, numbered


def pack(operator: Operator[S], record: Record[S], outbox: Sequence[Event], **more: int) -> bytes:
    """The bytes of a snapshot: state, sequence numbers, outputs that nobody has taken yet, and `more` of the caller."""
    kept, extra = [], {}
    for index, event in enumerate(outbox):
        plain, held = event.data.encode()
        kept.append(
            {"data": plain, "t": [event.t_start, event.t_end], "final": event.final, "seq": event.seq}
        )
        extra.update({f"outbox.{index}.{name}": array for name, array in held.items()})
    session: dict[str, Any] = {**record._asdict(), "outbox": kept, **more}
    del session["state"]
    return snapshot.encode(operator, record.state, session, extra)


def unpack(
    operator: Operator[S], source: str | os.PathLike[str] | bytes
) -> tuple[Record[S], list[Event], dict[str, Any]]:
    """Record, outbox, and the plain values of the session in a snapshot (a path, or its bytes).

    Raises
    ------
    SnapshotCorruptError, SnapshotForeignError, StorageError
        see `unending.core.snapshot`.
    """
    name = "the snapshot" if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else snapshot.read(source)
    state, kept, extra = snapshot.decode(operator, content, name)
    events = [_event(entry, index, extra) for index, entry in enumerate(kept["outbox"])]
    named = {field: kept[field] for field in Record._fields if field != "state"}
    return Record(state, **named), events, kept


def _event(entry: dict[str, Any], index: int, extra: dict[str, np.ndarray]) -> Event:
    prefix = f"outbox.{index}."
    held = {name.removeprefix(prefix): array for name, array in extra.items() if name.startswith(prefix)}
    data = Chunk.decode(entry["data"], held)
    return Event(data, entry["t"][0], entry["t"][1], entry["final"], entry["seq"])
