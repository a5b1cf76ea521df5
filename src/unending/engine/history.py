"""What is drawn of a session against its stream position, in bounded memory."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["History"]

LENGTH, WIDTH = 256, 5
EVERY, GAP = 32, 0.25
"""So many steps are points all of them; from then on there are so many seconds between two at least."""


@dataclass
class History:
    """At most `LENGTH` points over the whole stream: when full, every other one goes and the stride doubles.

    A point is position, lag, rate, latency, state bytes: stream time, stream time, items a second of compute,
    seconds, bytes.
    """

    values: "array[float]" = field(default_factory=lambda: array("d"))
    """The points one after the other."""
    stride: int = 1
    seen: int = 0
    next_at: float = 0.0

    @property
    def points(self) -> list[tuple[float, ...]]:
        """All points, oldest first."""
        return [tuple(self.values[start : start + WIDTH]) for start in range(0, len(self.values), WIDTH)]

    def due(self, now: float) -> bool:
        """Count one step at `now` seconds; whether it is one to keep."""
        self.seen += 1
        if self.seen % self.stride or (self.seen > EVERY and now < self.next_at):
            return False
        self.next_at = now + GAP
        return True

    def add(self, point: Sequence[float]) -> None:
        """Keep a point."""
        self.values.extend(point)
        if len(self.values) >= LENGTH * WIDTH:
            self.values = array("d", [value for kept in self.points[1::2] for value in kept])
            self.stride *= 2
