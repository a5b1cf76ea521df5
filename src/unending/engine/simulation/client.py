"""A simulated user of an engine: pushes a script, loses the connection, comes back, keeps all that came."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unending.core import Chunk, Event, Query, Tokens
from unending.core.errors import SequenceError, UnendingError
from unending.engine import notices
from unending.engine.scheduler import Scheduler

__all__ = ["SEED", "Client", "script"]

SEED = 7
"""Of every simulated session."""
REFUSED = 1 << 40
"""A token that a `Witness` finds out only when it gets there."""


def script(rng: np.random.Generator) -> list[Chunk | None]:
    """Input of one stream: tokens, short and long, some of them bad, and queries; mostly with an end."""
    chunks: list[Chunk | None] = []
    for _ in range(int(rng.integers(1, 12))):
        if rng.random() < 0.25:
            chunks.append(Query("?" * int(rng.integers(1, 4))))
        else:
            tokens = rng.integers(0, 1000, int(rng.choice([1, 2, 5, 300], p=[0.3, 0.3, 0.3, 0.1])))
            if rng.random() < 0.1:
                tokens[-1] = REFUSED
            chunks.append(Tokens(tokens))
    return [*chunks, None] if rng.random() < 0.7 else chunks


@dataclass
class Client:
    """What one user knows. Of its input it believes only what was acknowledged, and sends the rest again."""

    key: str
    script: list[Chunk | None]
    held: bool = False
    waiting: bool = False
    """Whether it waits to be let in."""
    existing: bool = False
    """Whether it knows that its session exists."""
    accepted: int = 0
    sent: int = 0
    outputs: dict[int, Event] = field(default_factory=dict)
    interrupts: int = 0
    served: bool = False
    complaint: str = ""

    @property
    def done(self) -> bool:
        """Whether all was pushed and acknowledged."""
        return self.accepted >= len(self.script)

    def forget_connection(self) -> None:
        """The process at the other end is gone."""
        self.held = self.waiting = False
        self.sent = self.accepted

    def leave(self, scheduler: Scheduler[Any]) -> None:
        """Let go, in whatever it does."""
        if self.held and not self.waiting:
            self.forget_connection()
            scheduler.release(self.key)

    def act(self, scheduler: Scheduler[Any], choice: int) -> None:
        """Do one thing: come in, acknowledge, push, interrupt (`choice` 5), save (6), leave (7)."""
        if self.waiting or self.served:
            return
        entering = not self.held
        try:
            if entering:
                self._enter(scheduler)
                return
            if self.outputs and scheduler.entries[self.key].delivered >= len(self.outputs):
                scheduler.acknowledge(self.key, len(self.outputs) - 1)
            match choice:
                case 5:
                    self.interrupts += 1
                    scheduler.interrupt(self.key)
                case 6:
                    scheduler.ask(self.key, "save")
                case 7:
                    self.leave(scheduler)
                case _ if self.sent < len(self.script):
                    number = scheduler.push(self.key, self.script[self.sent], self.sent + 1)
                    self.sent = max(self.sent, number)
        except SequenceError:
            self.waiting = False
            self.leave(scheduler)
        except UnendingError:
            if entering:
                self.forget_connection()

    def _enter(self, scheduler: Scheduler[Any]) -> None:
        self.held = self.waiting = True
        if self.existing or self.key in scheduler.entries:
            scheduler.resume(self.key, len(self.outputs) - 1 if self.outputs else None, take_over=True)
        else:
            scheduler.open(self.key, SEED)

    def hear(self, notice: notices.Notice) -> None:
        """What the engine tells it."""
        match notice:
            case notices.Ready():
                self.waiting, self.existing = False, True
                self.sent = self.accepted
            case notices.Failed():
                self.forget_connection()
            case notices.Acknowledged():
                self.accepted = max(self.accepted, notice.seq)
                self.existing = True
            case notices.Delivered() if self.held:
                self._take(notice.event)

    def _take(self, event: Event) -> None:
        if event.seq < len(self.outputs):
            self.complaint = f"output {event.seq} came again although the client had said that it has it"
        elif event.seq > len(self.outputs):
            self.complaint = f"output {event.seq} came when {len(self.outputs)} was due"
        self.outputs[event.seq] = event
