"""What is drawn of a session against its stream position, in bounded memory."""

from dataclasses import dataclass, field

__all__ = ["History"]

LENGTH = 256
EVERY, GAP = 32, 0.25
"""So many steps are points all of them; from then on there are so many seconds between two at least."""


@dataclass
class History:
    """At most `LENGTH` points over the whole stream: when full, every other one goes and the stride doubles.

    A point is `[position, lag, rate, latency, state_bytes]`: stream time, stream time, items a second of compute,
    seconds, bytes.
    """

    points: list[list[float]] = field(default_factory=list)
    stride: int = 1
    seen: int = 0
    next_at: float = 0.0

    def due(self, now: float) -> bool:
        """Count one step at `now` seconds; whether it is one to keep."""
        self.seen += 1
        if self.seen % self.stride or (self.seen > EVERY and now < self.next_at):
            return False
        self.next_at = now + GAP
        return True

    def add(self, point: list[float]) -> None:
        """Keep a point."""
        self.points.append(point)
        if len(self.points) >= LENGTH:
            self.points = self.points[1::2]
            self.stride *= 2
