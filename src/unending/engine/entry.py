"""One session inside the engine: its record, the input that waits, the output that is kept, and what comes next."""

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from unending.core import TICK, Chunk, Control, Event, Histogram, Operator
from unending.core.record import Record
from unending.engine.history import History
from unending.engine.store.journal import Row

__all__ = ["Entry", "Input", "Output", "Work", "size_of"]

S = TypeVar("S")
INTERRUPT = Control("interrupt")


def size_of(chunk: Chunk | None) -> int:
    """Bytes that a chunk is counted for: its arrays and texts, wherever in it they are, and something for the rest."""
    total = 64
    held: list[Any] = list(vars(chunk).values()) if chunk is not None else []
    while held:
        value = held.pop()
        kind = type(value)
        if kind is np.ndarray:
            total += value.nbytes
        elif kind is str:
            total += len(value)
        elif kind is list or kind is tuple or kind is dict:
            total += 32 * len(value)
            held.extend(value)
            if kind is dict:
                held.extend(value.values())
    return total


@dataclass
class Input:
    """A chunk that was accepted; `chunk` is None for the end of the stream."""

    seq: int
    chunk: Chunk | None
    size: int
    arrived: float
    due: float
    taken: int = 0
    """Items of it that were stepped already."""
    shed: bool = False
    """Whether it only holds the place of a chunk that was dropped."""
    alone: bool = False
    """Whether it may not be joined with others: a replay must cut as the first run did."""


@dataclass(frozen=True)
class Output:
    """An event with the number of the journal entry that must be durable before it goes out."""

    event: Event
    lsn: int
    size: int


@dataclass
class Work:
    """One step of one session: a chunk, a tick, an interrupt, or the end (`chunk` is None)."""

    chunk: Chunk | None
    through: int = 0
    """Number of the last input that this step completes; 0 for none."""
    count: int = 0
    """Inputs it takes from."""
    items: int = 0
    """Items it takes from the last of them, where that stays behind."""
    arrived: float = 0.0
    row: str = ""
    """Kind of journal entry that this decision needs so that a replay repeats it; empty if it would anyway."""


@dataclass(eq=False)
class Entry(Generic[S]):
    """All that the scheduler knows of one session."""

    key: str
    seed: int = 0
    record: Record[S] | None = None
    slot: int = -1
    queue: deque[Input] = field(default_factory=deque)
    queued_bytes: int = 0
    accepted: int = 0
    durable: int = 0
    ending: bool = False
    time: float = 0.0
    """Stream time accepted: where the next input begins."""
    rows: int = 0
    lsn: int = 0
    outbox: deque[Output] = field(default_factory=deque)
    outbox_bytes: int = 0
    made: int = 0
    """Outputs so far, known also while the session is parked."""
    over: bool = False
    """Whether the end of the stream was worked off."""
    delivered: int = 0
    """Number of the next output to hand out."""
    acknowledged: int = 0
    """Outputs numbered below are dropped."""
    forced: deque[Row] = field(default_factory=deque)
    """Decisions of the journal that a replay must repeat."""
    until: int = -1
    """Outputs up to here came out before the process died: until they are there again, no new decision is made."""
    interrupt: bool = False
    held: bool = False
    """Whether a client has hold of it."""
    opening: bool = False
    """Whether a client waits for it to be in memory."""
    after: int | None = None
    """The last output that client has."""
    source: bytes | None = None
    """The snapshot that it comes from."""
    asked: dict[str, None] = field(default_factory=dict)
    """What clients have asked of it: save, export, delete."""
    blocked: bool = False
    """Whether a client waits for room in the queue."""
    moved: bool = False
    """Whether it did something since it last came to rest."""
    known: bool = True
    """Whether memory knows its numbers; False for one that only the store knows."""
    stepping: bool = False
    job: bool = False
    """Whether a job of the store has it: it is not stepped."""
    waiting: bool = False
    """Whether it waits for a slot."""
    dirty: bool = False
    """Whether it was stepped since its last snapshot."""
    steps: int = 0
    """Steps since the last snapshot."""
    since: int = 0
    """Ticks since the last chunk."""
    since_ready: float = 0.0
    failures: int = 0
    state_bytes: int = 0
    failed: str = ""
    touched: float = 0.0
    seated: float = 0.0
    turns: int = 0
    """Steps since it got its slot."""
    shed: int = 0
    faults: int = 0
    items: int = 0
    seconds: float = 0.0
    newest: float = 0.0
    slowest: float = 0.0
    """Longest latency since the last point of the history."""
    latency: Histogram = field(default_factory=Histogram)
    history: History = field(default_factory=History)

    @property
    def alive(self) -> Record[S]:
        """The record; only where the session is in memory."""
        assert self.record is not None, f"{self.key} is parked"
        return self.record

    @property
    def replaying(self) -> bool:
        """Whether it repeats what the process that died had done."""
        return bool(self.forced) or (self.record is not None and self.record.out_seq <= self.until)

    @property
    def lag(self) -> float:
        """Stream time between the newest input and the end of the newest final output."""
        return max(0.0, self.time - self.newest)

    def put(self, entry: Input) -> None:
        """Append an accepted input."""
        self.queue.append(entry)
        self.queued_bytes += entry.size

    def pop(self) -> Input:
        """Remove the oldest input; it counts as taken in."""
        first = self.queue.popleft()
        self.queued_bytes -= first.size
        self.record = self.alive._replace(in_seq=first.seq)
        return first

    def drop_outputs(self, below: int) -> None:
        """Forget outputs that their client has."""
        self.acknowledged = max(self.acknowledged, below)
        while self.outbox and self.outbox[0].event.seq < self.acknowledged:
            self.outbox_bytes -= self.outbox.popleft().size
        self.delivered = max(self.delivered, self.acknowledged)

    def choose(self, operator: Operator[Any], piece: int, hop: int) -> Work | None:
        """What this session does next, or None: it waits for input."""
        record = self.alive
        pending = operator.pending(record.state)
        forced = self.forced[0] if self.forced else None
        head = self.queue[0] if self.queue else None
        here = b"%d" % (head.taken if head else 0)
        if pending and operator.takes_interrupt():
            if forced is not None and forced.kind == "interrupt":
                if (forced.seq, forced.ticks, forced.content) == (record.in_seq, record.ticks, here):
                    return Work(INTERRUPT)
            elif self.interrupt and not self.replaying:
                return Work(INTERRUPT, row="interrupt")
        if self.interrupt and not pending and not self.replaying:
            self.interrupt = False
        if pending and self._ticks(operator, forced, head):
            return Work(TICK)
        if head is None:
            return None
        if head.shed:
            return Work(None, 0, 1, row="skip")
        if head.chunk is None:
            return Work(None, head.seq, 1, arrived=head.arrived)
        if forced is not None and forced.kind in ("refuse", "shed"):
            if (forced.seq, forced.content) == (head.seq, here):
                return Work(None, 0, 1, row=forced.kind)
        elif forced is not None and forced.kind == "step" and forced.content == b"%d" % head.seq:
            return self._join(head, piece, hop, forced.seq, rowed=False)
        return self._join(head, piece, hop, 0, rowed=operator.spec.ticks is not None)

    def _ticks(self, operator: Operator[Any], forced: Row | None, head: Input | None) -> bool:
        """Whether pending work goes before the next input."""
        every = operator.spec.ticks
        if every is None or head is None:
            return True
        if forced is not None and forced.kind == "step":
            return self.alive.ticks < forced.ticks
        return self.since < every or self.replaying

    def _join(self, head: Input, piece: int, hop: int, through: int, *, rowed: bool) -> Work:
        """The next piece of a long input, or several short ones that follow each other up to a hop."""
        chunk = head.chunk
        assert chunk is not None
        left = len(chunk) - head.taken
        if chunk.items and (head.taken or left > piece):
            take = min(left, piece)
            part = chunk[head.taken : head.taken + take]
            if take < left:
                return Work(part, 0, 1, take, head.arrived, "step" if rowed else "")
            return Work(part, head.seq, 1, 0, head.arrived, "step" if rowed else "")
        parts, last = [chunk], head
        total = len(chunk)
        for each in islice(self.queue, 1, None):
            other = each.chunk
            if through:
                wanted = each.seq <= through
            else:
                wanted = bool(chunk.items) and total < hop and not head.alone and not each.alone
            if not wanted or other is None or each.shed or not _joins(chunk, other):
                break
            parts.append(other)
            total += len(other)
            last = each
        joined = type(chunk).join(parts) if len(parts) > 1 else chunk
        row = "step" if not through and (rowed or len(parts) > 1) else ""
        return Work(joined, last.seq, len(parts), 0, head.arrived, row)


def _joins(one: Chunk, other: Chunk) -> bool:
    """Whether a chunk can be appended to another: alike in all but its items, with no time of its own."""
    if type(one) is not type(other) or other.t is not None:
        return False
    for name, value in vars(one).items():
        its = getattr(other, name)
        if name not in one.items:
            if name != "t" and value != its:
                return False
        elif isinstance(value, np.ndarray) and (value.dtype, value.shape[1:]) != (its.dtype, its.shape[1:]):
            return False
    return True
