"""Simulated time: events in order, Poisson arrivals, percentiles."""

import heapq
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Generic, TypeVar

import numpy as np

from unending.core.errors import InputError
from unending.core.random import philox

__all__ = ["Timeline", "percentiles", "poisson_times"]

T = TypeVar("T")


class Timeline(Generic[T]):
    """Events by time, those of one time in the order in which they were put in; `now` never goes back."""

    def __init__(self, events: Iterable[tuple[float, T]] = ()) -> None:
        self.now = 0.0
        self._order = count()
        self._waiting = [(time, next(self._order), event) for time, event in events]
        heapq.heapify(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, time: float, event: T) -> None:
        """Add an event.

        Raises
        ------
        InputError
            if its time has passed.
        """
        if not time >= self.now:
            raise InputError(f"an event at {time:g} s is in the past: it is {self.now:g} s")
        heapq.heappush(self._waiting, (time, next(self._order), event))

    @property
    def next_time(self) -> float:
        """When the next event is due; infinity without one."""
        return self._waiting[0][0] if self._waiting else float("inf")

    def until(self, time: float) -> list[tuple[float, T]]:
        """Move on to `time`; the events up to and at it, in order, are taken out."""
        due = []
        while self._waiting and self._waiting[0][0] <= time:
            at, _, event = heapq.heappop(self._waiting)
            due.append((at, event))
        self.now = max(self.now, time)
        return due


def poisson_times(n: int, rate: float, seed: int = 0) -> np.ndarray:
    """The first `n` arrivals of a Poisson process of `rate` a second, from 0 on: float64 `[n]`, in seconds."""
    if n < 0 or not rate > 0:
        raise InputError(f"arrivals need a number of 0 or more and a rate above 0; got {n} and {rate:g}")
    return philox(seed, 0, 1).exponential(1 / rate, n).cumsum()


def percentiles(values: Sequence[float], ranks: Sequence[float] = (50, 95, 99)) -> dict[str, float]:
    """`{"p50": ..., "p95": ..., "p99": ...}` by linear interpolation; NaN of no values."""
    found = np.percentile(values, ranks) if len(values) else np.full(len(ranks), np.nan)
    return {f"p{rank:g}": float(each) for rank, each in zip(ranks, found, strict=True)}
