"""A whole engine from one seed: its scheduler, store, threads, clients and clock, with everything that can go wrong."""

from collections.abc import Callable
from typing import Any, Literal

from unending.core import random
from unending.core.errors import StorageError, UnendingError
from unending.engine import jobs
from unending.engine.limits import LATE, Limits
from unending.engine.scheduler import Scheduler
from unending.engine.simulation.client import SEED, Client, script
from unending.engine.simulation.verdict import unexplained
from unending.engine.simulation.witness import Witness
from unending.engine.steps import run
from unending.engine.store.faults import FaultyStore
from unending.engine.store.memory import MemoryStore

__all__ = ["World", "simulate"]


class World:
    """One simulated engine. Every choice comes from the seed.

    Parameters
    ----------
    seed
        of everything.
    trouble
        how often a thing goes wrong: the chance of a failure for each step and each operation of the store, and a
        tenth of it for a crash of the process at each turn.
    mode
        whether an operation of the store that fails was done or not; by chance if None.
    """

    def __init__(
        self, seed: int, trouble: float = 0.05, mode: Literal["before", "after"] | None = None
    ) -> None:
        self.rng = random.philox(seed, 0)
        self.trouble = trouble if self.rng.random() < 0.8 else 0.0
        self.now = 0.0
        self.operator = Witness(hop_size=int(self.rng.integers(1, 6)))
        self.limits = Limits(
            slots=int(self.rng.integers(1, 5)),
            late=LATE[int(self.rng.integers(3))],
            deadline=float(self.rng.choice([0.5, 5.0])) if self.rng.random() < 0.3 else None,
            gather=float(self.rng.choice([0.0, 0.0, 0.1])),
            batch=int(self.rng.integers(1, 4)) if self.rng.random() < 0.5 else None,
            queue_bytes=int(self.rng.choice([200, 1000, 100_000])),
            outbox_bytes=int(self.rng.choice([200, 100_000])),
            snapshot_every=int(self.rng.integers(1, 12)),
            idle=float(self.rng.choice([0.0, 1.0])),
            turn=float(self.rng.choice([0.0, 1.0])),
        )
        self.store = MemoryStore(keep=int(self.rng.integers(1, 3)))
        self.clients = [
            Client(f"client {index}", script(self.rng)) for index in range(int(self.rng.integers(1, 7)))
        ]
        self.dropped: dict[str, dict[int, int]] = {client.key: {} for client in self.clients}
        self.counts = {"crashes": 0, "faults": 0, "turns": 0, "parked": 0, "restored": 0, "shed": 0}
        self.calm = False
        self._mode = mode
        self.fails: Callable[[str], bool] | None = None
        """Says of each `step` and each operation of the store whether it fails; by chance if None."""
        self._begin()

    def _begin(self) -> None:
        """A fresh process on what the last one left."""
        self.scheduler: Scheduler[Any] = Scheduler(self.operator, self.limits, lambda: self.now, stored=True)
        chance: Literal["before", "after"] = "before" if self.rng.random() < 0.5 else "after"
        self.mode: Literal["before", "after"] = self._mode or chance
        self.faulty = FaultyStore(self.store, lambda n, operation: self._fails(operation), self.mode)
        known = self.store.keys()
        self.scheduler.recover(entry.key for entry in known)
        self.step: Any = None
        self.commit: jobs.Commit | None = None
        self.job: jobs.Job | None = None
        for client in self.clients:
            client.forget_connection()

    def _fails(self, operation: str) -> bool:
        if self.fails is not None:
            return not self.calm and self.fails(operation)
        return not self.calm and bool(self.rng.random() < self.trouble)

    def cut(self) -> None:
        """Every client loses its connection, in whatever it does."""
        for client in self.clients:
            client.leave(self.scheduler)

    def turn(self) -> None:
        """One thing happens."""
        self.counts["turns"] += 1
        self.now += float(self.rng.exponential(0.05))
        if not self.calm and self.rng.random() < self.trouble / 10:
            return self.crash()
        match int(self.rng.integers(5)):
            case 0:
                self._step()
            case 1:
                self._commit()
            case 2:
                self._job()
            case _:
                client = self.clients[int(self.rng.integers(len(self.clients)))]
                client.act(self.scheduler, 0 if self.calm else int(self.rng.integers(8)))
        while self.scheduler.notices:
            notice = self.scheduler.notices.popleft()
            next(each for each in self.clients if each.key == notice.key).hear(notice)
        return None

    def crash(self) -> None:
        """The process dies; work in flight may or may not have reached the store."""
        self.counts["crashes"] += 1
        for work in (self.commit, self.job):
            if work is not None and self.rng.random() < 0.5:
                self._perform(work)
        self._tally()
        self.store = self.store.crash()
        self._begin()

    def _tally(self) -> None:
        counters = self.scheduler.counters
        for name, value in (("faults", counters.faults), ("parked", counters.parked)):
            self.counts[name] += value
        self.counts["restored"] += counters.restored
        self.counts["shed"] += counters.shed

    def _step(self) -> None:
        if self.step is None:
            self.step = self.scheduler.step_work() or None
            return
        batch, self.step = self.step, None
        if self._fails("step"):  # the state must be as it was: the work is not done at all
            return self.scheduler.stepped(batch, [RuntimeError("a step fails on purpose")] * len(batch))
        self.scheduler.stepped(batch, run(self.operator, batch, self.limits.slots))
        return None

    def _commit(self) -> None:
        if self.commit is None:
            self.commit = self.scheduler.commit_work()
            return
        commit, self.commit = self.commit, None
        outcome = self._perform(commit)
        self.scheduler.committed(outcome if isinstance(outcome, Exception) else None)

    def _job(self) -> None:
        if self.job is None:
            self.job = self.scheduler.store_work()
            return
        job, self.job = self.job, None
        self.scheduler.performed(job, self._perform(job))

    def _perform(self, job: jobs.Job) -> Any:
        try:
            outcome = jobs.perform(job, self.operator, self.faulty)
        except (UnendingError, OSError) as error:
            if isinstance(job, jobs.Commit) and self.mode == "after" and isinstance(error, StorageError):
                self._note(job)
            return error
        if isinstance(job, jobs.Commit):
            self._note(job)
        return outcome

    def _note(self, commit: jobs.Commit) -> None:
        """What the journal says was dropped is the truth about it."""
        for row in commit.rows:
            if row.kind in ("refuse", "shed"):
                self.dropped[row.key][row.seq] = int(row.content)
            elif row.kind == "input" and row.content == jobs.SHED:
                self.dropped[row.key][row.seq] = 0

    def wrong(self) -> list[str]:
        """Broken invariants now."""
        found = self.scheduler.check()
        found += [f"{client.key}: {client.complaint}" for client in self.clients if client.complaint]
        for client in self.clients:
            entry = self.scheduler.entries.get(client.key)
            if entry is not None and entry.known and entry.accepted < client.accepted:
                found.append(
                    f"{client.key}: input {client.accepted} was acknowledged, {entry.accepted} is known"
                )
        return found

    def settle(self, turns: int = 4000) -> None:
        """No more trouble: one after the other comes back, pushes the rest, gets what is his and leaves."""
        self.calm = True
        for _ in range(turns):
            self.turn()
            for client in self.clients:
                if not client.served and self._satisfied(client):
                    client.leave(self.scheduler)
                    client.served = True
            if all(client.served for client in self.clients):
                return

    def _satisfied(self, client: Client) -> bool:
        entry = self.scheduler.entries.get(client.key)
        if (
            entry is None
            or not client.done
            or not client.held
            or client.waiting
            or entry.queue
            or entry.waiting
        ):
            return False
        if self.scheduler.floor.journal.waiting:
            return False
        if entry.record is None:
            return entry.slot < 0 and entry.known and entry.delivered == len(client.outputs)
        return self.scheduler.floor.is_idle(entry) and len(client.outputs) == entry.record.out_seq

    def verdict(self) -> list[str]:
        """What is wrong in the end: lost, doubled, changed or unexplained outputs, input not worked off."""
        found = self.wrong()
        for client in self.clients:
            if not client.served:
                found.append(
                    f"{client.key} was not served: {client.accepted} of {len(client.script)} accepted"
                )
            story = unexplained(
                self.operator,
                SEED,
                client.script,
                client.outputs,
                dropped=self.dropped[client.key],
                interrupts=client.interrupts + self.counts["faults"],
            )
            if story:
                found.append(f"{client.key}: {story}")
        self._tally()
        return found


def simulate(seed: int, turns: int = 400, trouble: float = 0.05) -> tuple[dict[str, int], list[str]]:
    """A whole life of an engine from one seed: what happened, and what was wrong (nothing, if all is well)."""
    world = World(seed, trouble)
    for _ in range(turns):
        world.turn()
        if found := world.wrong():
            return world.counts, found
    world.settle()
    return world.counts, world.verdict()
