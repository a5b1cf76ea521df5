"""Filling a session with what a snapshot and the journal hold of it."""

from collections.abc import Sequence
from math import inf
from typing import TypeVar

from unending.core import Event
from unending.core.record import Record
from unending.engine.entry import Entry, Input, Output, size_of
from unending.engine.jobs import Loaded

__all__ = ["fill", "restore"]

S = TypeVar("S")


def fill(entry: Entry[S], record: Record[S], outbox: Sequence[Event]) -> None:
    """Put a record and its kept outputs into a session."""
    entry.record = record
    entry.made, entry.over = record.out_seq, record.finished
    entry.outbox.extend(Output(event, 0, size_of(event.data)) for event in outbox)
    entry.outbox_bytes = sum(each.size for each in entry.outbox)
    first = outbox[0].seq if outbox else record.out_seq
    entry.drop_outputs(max(first, entry.acknowledged))
    entry.accepted = max(entry.accepted, record.in_seq)
    entry.durable = max(entry.durable, record.in_seq)
    entry.ending = entry.ending or record.finished
    entry.dirty, entry.steps, entry.failed = False, 0, ""
    entry.time = max(entry.time, record.time)
    entry.newest = record.time


def restore(entry: Entry[S], loaded: Loaded, now: float) -> None:
    """Put a session from the store together: snapshot, input that waits, decisions to repeat.

    What memory knows of it (input that came while it was parked) goes behind.
    """
    entry.seed = loaded.seed
    fill(entry, loaded.record, loaded.outbox)
    fresh = {each.seq: each for each in entry.queue}
    entry.queue.clear()
    entry.queued_bytes = 0
    time, taken = loaded.record.time, loaded.taken
    for seq, chunk, shed in loaded.inputs:
        if (known := fresh.pop(seq, None)) is None:
            known = Input(seq, chunk, 64 if shed else size_of(chunk), now, inf, shed=shed)
        known.taken, known.alone = taken, True
        entry.put(known)
        if chunk is not None:
            time = (time if chunk.t is None else chunk.t) + (len(chunk) - taken) * chunk.period
        elif not shed:
            entry.ending = True
        entry.accepted = max(entry.accepted, seq)
        entry.durable = max(entry.durable, seq)
        taken = 0
    for each in fresh.values():
        if each.seq > loaded.record.in_seq:
            entry.put(each)
    entry.time = max(entry.time, time)
    entry.forced.clear()
    entry.forced.extend(loaded.decisions)
    entry.rows = max(entry.rows, loaded.rows)
    entry.until = max(entry.until, entry.delivered - 1)
    entry.known = True
