"""Meters of a session: latency, lag, throughput, bytes. They watch a stream and are no part of its state."""

from bisect import bisect_left
from dataclasses import dataclass, field

__all__ = ["Histogram", "Meters"]

_EDGES = tuple(1e-6 * 1.1**power for power in range(220))
"""Upper edges of the buckets in seconds, 1 microsecond to 20 minutes, 10 % apart."""


@dataclass
class Histogram:
    """Counts of durations in logarithmic buckets; a percentile is right to within 10 %."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_EDGES) + 1))
    total: int = 0
    seconds: float = 0.0

    def add(self, duration: float) -> None:
        """Count one duration, in seconds."""
        self.counts[bisect_left(_EDGES, duration)] += 1
        self.total += 1
        self.seconds += duration

    def percentile(self, percent: float) -> float:
        """The duration in seconds that `percent` of all durations do not exceed; 0 when there is none."""
        if not self.total:
            return 0.0
        wanted, seen = self.total * percent / 100, 0
        for edge, count in zip(_EDGES, self.counts, strict=False):
            seen += count
            if count and seen >= wanted:
                return edge
        return _EDGES[-1]


@dataclass
class Meters:
    """What a session measures while it runs.

    `items` counts what came in, `events` what went out, `ticks` the ticks; `latency` is the compute time of each
    step; `newest_in` and `newest_out` are stream times.
    """

    items: int = 0
    events: int = 0
    ticks: int = 0
    latency: Histogram = field(default_factory=Histogram)
    newest_in: float = 0.0
    newest_out: float = 0.0

    @property
    def lag(self) -> float:
        """Stream time between the newest input and the end of the newest final output."""
        return max(0.0, self.newest_in - self.newest_out)

    @property
    def throughput(self) -> float:
        """Items a second of compute time; 0 before the first."""
        return self.items / self.latency.seconds if self.latency.seconds else 0.0
