"""What an engine counts over its life."""

from dataclasses import dataclass, field

from unending.core import Histogram

__all__ = ["Counters"]


@dataclass
class Counters:
    """Plain counts since the engine began; `step` and `latency` are durations in seconds."""

    opened: int = 0
    restored: int = 0
    parked: int = 0
    deleted: int = 0
    refused: int = 0
    shed: int = 0
    late: int = 0
    """Inputs that were stepped after their deadline."""
    steps: int = 0
    stepped: int = 0
    """Sessions stepped, over all steps."""
    snapshots: int = 0
    commits: int = 0
    faults: int = 0
    """Steps and store operations that failed."""
    violations: int = 0
    """Broken invariants; always 0 unless there is a defect."""
    step: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    """From the arrival of an input to the end of its step."""

    def hint(self, rounds: int) -> float:
        """Seconds after which a refused client may try again, when `rounds` steps are ahead of it."""
        mean = self.step.seconds / self.step.total if self.step.total else 0.05
        return min(30.0, max(0.05, mean * rounds))
