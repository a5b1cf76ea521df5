"""What an engine may hold, and what it does when it cannot."""

from dataclasses import dataclass

from unending.core import Bound
from unending.core.errors import CapacityError, InputError

__all__ = ["LATE", "Limits"]

LATE = ("block", "shed", "refuse")
"""What happens to input that finds its queue full: wait, be dropped and counted, or be refused with a hint."""


@dataclass(frozen=True)
class Limits:
    """The declared limits of one engine.

    Parameters
    ----------
    slots
        sessions whose state is in memory at once; joint work runs at this width.
    memory
        bytes that all states together may take by their bound; fewer slots are used where they would not fit.
    late
        one of `LATE`.
    deadline
        seconds after its arrival by which input should be worked on; the nearest goes first. With `late="shed"`,
        what is past it is dropped and counted.
    batch
        sessions that one step takes on at most; all slots by default.
    gather
        seconds that less than one hop of input may wait for more of it.
    queue_bytes, outbox_bytes
        of input that waits, and of output that its client has not acknowledged, a session.
    snapshot_every
        journal entries of a session between two of its snapshots.
    idle
        seconds without work after which a session may give up its slot to a new one.
    turn
        seconds after which a busy session gives up its slot when another one's input waits for it.
    sessions
        sessions the engine knows at most, those in the store included.
    attempts
        times that a step is tried which fails otherwise than by a typed error.

    Raises
    ------
    InputError
        if a limit makes no sense.
    """

    slots: int = 8
    memory: int | None = None
    late: str = "block"
    deadline: float | None = None
    batch: int | None = None
    gather: float = 0.0
    queue_bytes: int = 1 << 20
    outbox_bytes: int = 4 << 20
    snapshot_every: int = 256
    idle: float = 5.0
    turn: float = 2.0
    sessions: int = 100_000
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.late not in LATE:
            raise InputError(f"late={self.late!r}; accepted are {', '.join(LATE)}")
        counts = ("slots", "queue_bytes", "outbox_bytes", "snapshot_every", "sessions", "attempts")
        for name in counts:
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}; accepted is 1 or more")
        for name in ("gather", "idle", "turn"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}={getattr(self, name)}; accepted is 0 or more seconds")
        if self.deadline is not None and not self.deadline > 0:
            raise InputError(f"deadline={self.deadline}; accepted is a positive number of seconds")
        if self.batch is not None and self.batch < 1:
            raise InputError(f"batch={self.batch}; accepted is 1 or more")

    def room(self, bound: Bound) -> int:
        """Slots that can be used at once.

        Raises
        ------
        CapacityError
            if the memory does not hold a single session.
        """
        if self.memory is None:
            return self.slots
        fitting = self.memory // max(1, bound.resident)
        if not fitting:
            raise CapacityError(
                f"one session may take {bound.resident:,} bytes, more than the engine's memory of {self.memory:,}"
            )
        return min(self.slots, fitting)
