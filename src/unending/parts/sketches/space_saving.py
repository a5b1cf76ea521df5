"""Space-Saving: the frequent items of a stream in a fixed number of counters."""

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from unending.core.errors import InputError

__all__ = ["SpaceSaving"]

T = TypeVar("T", bound=Hashable)


class SpaceSaving(Generic[T]):
    """Space-Saving (Metwally, Agrawal, El Abbadi 2005) with `capacity` counters.

    An estimate is at least the true count and exceeds it by at most `total / capacity`; every item that makes up more
    than that share of the stream is held. An item that comes when all counters are taken inherits the smallest one,
    of those the one that was touched longest ago.

    Parameters
    ----------
    capacity
        counters.

    Raises
    ------
    InputError
        if the capacity is below 1, or an item is counted less than once.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise InputError(f"Space-Saving needs at least 1 counter, got {capacity}")
        self.capacity = capacity
        self.total = 0
        self._counts: dict[T, int] = {}
        self._errors: dict[T, int] = {}
        self._touched: dict[T, int] = {}
        # Entries (count, time, item); one is stale once its item has a newer one.
        self._heap: list[tuple[int, int, T]] = []
        self._clock = 0

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, item: object) -> bool:
        return item in self._counts

    def __iter__(self) -> Iterator[T]:
        return iter(self._counts)

    def add(self, item: T, count: int = 1) -> None:
        """Count an item `count` (at least 1) times."""
        if count < 1:
            raise InputError(f"an item is counted 1 upwards times, not {count}")
        self.total += count
        if item not in self._counts:
            floor = self._evict() if len(self._counts) == self.capacity else 0
            self._counts[item] = self._errors[item] = floor
        self._counts[item] += count
        self._clock += 1
        self._touched[item] = self._clock
        heapq.heappush(self._heap, (self._counts[item], self._clock, item))
        if len(self._heap) > 8 * self.capacity + 64:
            self._heap = [(self._counts[each], time, each) for each, time in self._touched.items()]
            heapq.heapify(self._heap)

    def _evict(self) -> int:
        while True:
            count, time, item = heapq.heappop(self._heap)
            if self._touched.get(item) == time:
                del self._counts[item], self._errors[item], self._touched[item]
                return count

    def estimate(self, item: T) -> int:
        """An upper bound of the item's count; of an item not held, the smallest counter."""
        if item in self._counts:
            return self._counts[item]
        return min(self._counts.values()) if len(self._counts) == self.capacity else 0

    def error(self, item: T) -> int:
        """By how much `estimate` may exceed the count."""
        return self._errors[item] if item in self._counts else self.estimate(item)

    def items(self) -> list[tuple[T, int]]:
        """Items held and their estimates, the most frequent first."""
        return sorted(self._counts.items(), key=lambda each: -each[1])
