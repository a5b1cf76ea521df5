"""Policies: in which order requests are ranked. The first is served first, the last is preempted first."""

from dataclasses import dataclass
from typing import Protocol

from unending.systems.language.stream2llm.request import Request

__all__ = ["FCFS", "LCAS", "MCPS", "Policy"]

Key = tuple[float, ...]


class Policy(Protocol):
    """An order of requests."""

    def key(self, request: Request) -> Key:
        """What requests are sorted by, ascending; equal ones stay in order of arrival."""


def _by(time: float, request: Request) -> Key:
    """Complete requests first, then those whose input goes on, and of these last the ones that have caught up."""
    return (not request.finished, not request.finished and request.idle, time)


@dataclass(frozen=True)
class FCFS:
    """First come, first served: by time of arrival."""

    def key(self, request: Request) -> Key:
        return _by(request.arrival_time, request)


@dataclass(frozen=True)
class LCAS:
    """Last chunk arrival: by the time of the newest input, the oldest first as upstream does it.

    Parameters
    ----------
    recent_first
        the newest first, as the name and upstream's description have it.
    """

    recent_first: bool = False

    def key(self, request: Request) -> Key:
        return _by(-request.last_chunk_time if self.recent_first else request.last_chunk_time, request)


@dataclass(frozen=True)
class MCPS:
    """Most computed first, so that who has least to lose is preempted; those that have caught up are last."""

    def key(self, request: Request) -> Key:
        return (request.idle, -request.computed, request.arrival_time)
