"""Steps: which sessions go into the next one, and what its results change."""

from collections.abc import Sequence
from math import inf
from typing import Generic, TypeVar

from unending.core import TICK, Event, Operator, nbytes
from unending.core.errors import InputError
from unending.core.record import Record
from unending.engine.entry import INTERRUPT, Entry, Input, Output, Work, size_of
from unending.engine.floor import Floor
from unending.engine.notices import Acknowledged, Refused
from unending.engine.residence import Residence

__all__ = ["Batch", "Outcome", "Steps", "run"]

S = TypeVar("S")
Batch = list[tuple[Entry[S], Work]]
"""The sessions of one step, each with what it does."""
Outcome = tuple[S, list[Event]] | Exception


def run(operator: Operator[S], batch: Batch[S], width: int) -> list[Outcome[S]]:
    """Do a step, in whatever thread: ends one by one, all else together."""
    outcomes: dict[int, Outcome[S]] = {}
    joint = [index for index, (_, work) in enumerate(batch) if work.chunk is not None]
    for index, (entry, work) in enumerate(batch):
        if work.chunk is None:
            try:
                outcomes[index] = operator.finish(entry.alive.state)
            except Exception as error:  # whatever a system raises is that session's failure alone
                outcomes[index] = error
    try:
        chunks = [work.chunk for _, work in batch if work.chunk is not None]
        results: Sequence[Outcome[S]] = (
            operator.step_many([batch[index][0].alive.state for index in joint], chunks, width)
            if joint
            else []
        )
    except Exception as error:
        results = [error] * len(joint)
    outcomes.update(zip(joint, results, strict=True))
    return [outcomes[index] for index in range(len(batch))]


class Steps(Generic[S]):
    """Chooses batches and commits their results, one step at a time."""

    def __init__(self, floor: Floor[S], residence: Residence[S]) -> None:
        self.floor = floor
        self.residence = residence
        self.piece = max(256, 4 * floor.operator.hop)
        self.wake = inf
        """When there may be work although nothing happens: seconds of the clock."""
        self.busy = False
        self._began = 0.0
        self._gathering: dict[Entry[S], float] = {}

    def work(self) -> Batch[S]:
        """The next step; empty if there is nothing to do, one is under way, or the engine shuts down."""
        if self.busy or self.floor.draining:
            return []
        now, limits = self.floor.clock(), self.floor.limits
        for entry in [each for each, at in self._gathering.items() if at <= now]:
            del self._gathering[entry]
            self.floor.mark(entry)
        self.wake = min(self._gathering.values(), default=inf)
        most = limits.batch or self.residence.seats.total
        batch: Batch[S] = []
        for entry in self._in_order(most):
            if len(batch) >= most:
                break
            if entry not in self.floor.ready:  # an earlier one has pushed it out of its slot
                continue
            work = self._next(entry, now)
            if work is None:
                self.floor.unmark(entry)
                if not self.residence.answer(entry):
                    self._rest(entry)
            else:
                entry.stepping = True
                self.floor.unmark(entry)
                batch.append((entry, work))
        self.busy, self._began = bool(batch), now
        return batch

    def _in_order(self, most: int) -> list[Entry[S]]:
        """Who goes first: the nearest deadline, then who has waited longest."""
        ready = list(self.floor.ready)
        if len(ready) > most:
            ready.sort(key=lambda entry: (entry.queue[0].due if entry.queue else inf, entry.since_ready))
        return ready

    def _rest(self, entry: Entry[S]) -> None:
        self.residence.welcome(entry)
        self.floor.deliver(entry)
        self.residence.relieve()

    def _next(self, entry: Entry[S], now: float) -> Work | None:
        limits = self.floor.limits
        if entry.failed or (entry.outbox_bytes > limits.outbox_bytes and not entry.replaying):
            return None
        while True:
            try:
                work = entry.choose(self.floor.operator, self.piece, self.floor.operator.hop)
            except Exception as error:  # whatever a system raises is that session's failure alone
                self.floor.counters.faults += 1
                entry.faults += 1
                self._give_up(entry, 0, error)
                return None
            if work is not None and work.row in ("refuse", "shed", "skip"):
                if work.row != "skip":
                    entry.forced.popleft()
                entry.pop()
            elif work is not None and work.count and self._is_late(entry.queue[0], now):
                seq = entry.queue[0].seq
                entry.shed += 1
                self.floor.counters.shed += 1
                self._skip(entry, "shed")
                self.floor.tell(entry, Acknowledged(entry.key, seq, shed=True))
            else:
                break
        if work is not None and work.chunk is not None and limits.gather and self._gathers(entry, work, now):
            return None
        return work

    def _is_late(self, oldest: Input, now: float) -> bool:
        """Whether the next input has missed its deadline, where that means it is dropped."""
        return self.floor.limits.late == "shed" and oldest.due < now and not oldest.taken

    def _gathers(self, entry: Entry[S], work: Work, now: float) -> bool:
        """Whether less than a hop is there and more may still come in time."""
        chunk = work.chunk
        if chunk is None or not chunk.items or len(chunk) >= self.floor.operator.hop or entry.replaying:
            return False
        ready_at = work.arrived + self.floor.limits.gather
        if len(entry.queue) > work.count or now >= ready_at or entry.ending:
            return False
        self._gathering[entry] = ready_at
        self.wake = min(self.wake, ready_at)
        return True

    def _skip(self, entry: Entry[S], kind: str) -> None:
        """Take the oldest input out unread, and say so in the journal."""
        head = entry.queue[0]
        self.floor.journal.write(entry, kind, head.seq, entry.alive.ticks, b"%d" % head.taken)
        entry.pop()

    def stepped(self, batch: Batch[S], outcomes: Sequence[Outcome[S]]) -> None:
        """The results of a step, in the order of its batch."""
        now = self.floor.clock()
        self.busy = False
        counters = self.floor.counters
        counters.steps += 1
        counters.stepped += len(batch)
        counters.step.add(now - self._began)
        share = (now - self._began) / max(1, len(batch))
        for (entry, work), outcome in zip(batch, outcomes, strict=True):
            entry.stepping = False
            entry.touched = now
            entry.turns += 1
            if isinstance(outcome, Exception):
                self._failed(entry, work, outcome)
            else:
                entry.seconds += share
                self._commit(entry, work, *outcome, now)
            if not self.residence.answer(entry):
                self.floor.mark(entry)
                if entry.opening:
                    self.residence.welcome(entry)
                self.floor.deliver(entry)
                self._snapshot(entry)

    def _snapshot(self, entry: Entry[S]) -> None:
        if (
            self.floor.journal.stored
            and entry.steps >= self.floor.limits.snapshot_every
            and not entry.replaying
        ):
            self.residence.save(entry)

    def _commit(self, entry: Entry[S], work: Work, state: S, events: list[Event], now: float) -> None:
        old = entry.alive
        chunk = TICK if work.chunk is None else work.chunk
        record, numbered = old.after(chunk, state, events, finished=work.chunk is None)
        if chunk is INTERRUPT and not work.row:
            entry.forced.popleft()
        elif work.row == "interrupt":
            taken = entry.queue[0].taken if entry.queue else 0
            self.floor.journal.write(entry, "interrupt", old.in_seq, old.ticks, b"%d" % taken)
            entry.interrupt = False
        elif work.row == "step":
            first = entry.queue[0].seq
            self.floor.journal.write(entry, "step", work.through or first, old.ticks, b"%d" % first)
        elif work.count and work.chunk is not None and _repeats(entry):
            entry.forced.popleft()
        entry.record = record._replace(in_seq=old.in_seq)
        entry.made, entry.over = record.out_seq, record.finished
        self._take(entry, work, now)
        entry.since = entry.since + 1 if chunk is TICK else 0
        entry.failures = 0
        entry.dirty = entry.moved = True
        entry.steps += 1
        self._emit(entry, numbered)
        entry.items += len(chunk)
        if entry.history.due(now):
            self._draw(entry)

    def _take(self, entry: Entry[S], work: Work, now: float) -> None:
        """Take out of the queue what the step completed."""
        if work.items:
            entry.queue[0].taken += work.items
            return
        for _ in range(work.count):
            done = entry.pop()
            entry.latency.add(now - done.arrived)
            entry.slowest = max(entry.slowest, now - done.arrived)
            self.floor.counters.latency.add(now - done.arrived)
            self.floor.counters.late += done.due < now

    def _emit(self, entry: Entry[S], events: list[Event]) -> None:
        for event in events:
            if event.final:
                entry.newest = max(entry.newest, event.t_end)
            if event.seq >= entry.acknowledged:
                output = Output(event, entry.lsn, size_of(event.data))
                entry.outbox.append(output)
                entry.outbox_bytes += output.size

    def _draw(self, entry: Entry[S]) -> None:
        record: Record[S] = entry.alive
        held = nbytes(record.state)
        if held > self.floor.bound.resident:
            self.floor.counters.violations += 1
        rate = entry.items / entry.seconds if entry.seconds else 0.0
        entry.state_bytes = held
        entry.history.add([record.time, entry.lag, rate, entry.slowest, float(held)])
        entry.slowest = 0.0

    def _failed(self, entry: Entry[S], work: Work, error: Exception) -> None:
        """The step did not happen. Input errors stand; others are tried again, for nothing accepted may be lost."""
        self.floor.counters.faults += 1
        entry.faults += 1
        entry.failures += 1
        stands = isinstance(error, InputError)
        if not stands and entry.failures < self.floor.limits.attempts:
            return
        entry.failures = 0
        if work.count > 1:
            for each in entry.queue:
                each.alone = True
            return
        seq = entry.queue[0].seq if work.count else 0
        restored = work.count and entry.queue[0].alone  # its outputs may have been delivered before a crash
        if work.count and work.chunk is not None and (stands or not restored):
            self._skip(entry, "refuse")
            entry.moved = True
        elif work.chunk is TICK and self.floor.operator.takes_interrupt():
            entry.interrupt = True
        else:
            self._give_up(entry, seq, error)
            return
        self.floor.tell(entry, Refused(entry.key, seq, error))

    def _give_up(self, entry: Entry[S], seq: int, error: Exception) -> None:
        """The session does nothing more until its client resumes it."""
        entry.failed = f"{type(error).__name__}: {error}"
        self.floor.tell(entry, Refused(entry.key, seq, error))


def _repeats(entry: Entry[S]) -> bool:
    """Whether the journal says how the step that takes the oldest input was cut."""
    forced = entry.forced[0] if entry.forced else None
    return forced is not None and forced.kind == "step" and forced.content == b"%d" % entry.queue[0].seq
