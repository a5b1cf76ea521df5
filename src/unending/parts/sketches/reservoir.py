"""A uniform sample of fixed size from a stream of unknown length (Vitter 1985, Algorithm R)."""

from typing import Generic, TypeVar

from unending.core.errors import InputError
from unending.core.random import philox
from unending.parts.sketches.bounded import BoundedStore

__all__ = ["Reservoir", "reservoir_slot"]

T = TypeVar("T")


def reservoir_slot(seed: int, position: int, capacity: int) -> int:
    """The slot that item `position` of a stream takes, or -1 if it is let go.

    After n items, each of them is held with probability `min(1, capacity / n)`. The draw depends on seed and position
    alone, so a stream may be cut and resumed anywhere.

    Raises
    ------
    InputError
        if the capacity is below 1 or the position below 0.
    """
    if capacity < 1 or position < 0:
        raise InputError(f"capacity {capacity} and position {position}; 1 upwards and 0 upwards are accepted")
    if position < capacity:
        return position
    drawn = int(philox(seed, position, substream=0x5265).integers(position + 1))
    return drawn if drawn < capacity else -1


class Reservoir(Generic[T]):
    """A uniform sample of at most `capacity` items; every subset of that size is equally likely."""

    def __init__(self, capacity: int, seed: int = 0) -> None:
        reservoir_slot(seed, 0, capacity)
        self.seed = seed
        self.position = 0
        self._slots: BoundedStore[int, T] = BoundedStore(capacity)

    def add(self, item: T) -> None:
        """Take one more item of the stream."""
        slot = reservoir_slot(self.seed, self.position, self._slots.capacity)
        self.position += 1
        if slot >= 0:
            if slot in self._slots:
                self._slots.drop(slot)
            self._slots.put(slot, item)

    @property
    def sample(self) -> list[T]:
        """What is held, by slot."""
        return [self._slots[slot] for slot in sorted(self._slots)]
