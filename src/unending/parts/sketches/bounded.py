"""A store that cannot hold more than it says, and knows the most it ever held."""

from collections.abc import Callable, Collection, Iterator, KeysView
from typing import Generic, TypeVar

from unending.core.errors import CapacityError, InputError, OwnershipError

__all__ = ["BoundedStore"]

K = TypeVar("K")
V = TypeVar("V")


class BoundedStore(Generic[K, V]):
    """At most `capacity` items by key; what leaves is handed to `on_evict`.

    Nothing is evicted by itself: an algorithm with bounded memory has to say what it lets go, and one that does not
    is stopped here.

    Parameters
    ----------
    capacity
        most items held at once.
    on_evict
        called with each item that leaves, so that handles to it can be made useless.

    Raises
    ------
    InputError
        if the capacity is negative.
    """

    def __init__(self, capacity: int, on_evict: Callable[[V], object] | None = None) -> None:
        if capacity < 0:
            raise InputError(f"a store of capacity {capacity}; 0 upwards is accepted")
        self.capacity = capacity
        self.high_water = 0
        """The most items ever held at once."""
        self._items: dict[K, V] = {}
        self._on_evict = on_evict

    def put(self, key: K, item: V) -> None:
        """Hold an item.

        Raises
        ------
        CapacityError
            if the store is full; nothing has changed.
        InputError
            if there is an item of this key.
        """
        if key in self._items:
            raise InputError(f"the store holds an item of key {key!r} already")
        if len(self._items) >= self.capacity:
            raise CapacityError(f"the store holds {self.capacity} items and no more; let one go first")
        self._items[key] = item
        self.high_water = max(self.high_water, len(self._items))

    def drop(self, key: K) -> None:
        """Let one item go.

        Raises
        ------
        OwnershipError
            if it is not here.
        """
        item = self[key]
        del self._items[key]
        if self._on_evict is not None:
            self._on_evict(item)

    def retain(self, keys: Collection[K]) -> None:
        """Let everything go but these."""
        for key in [key for key in self._items if key not in keys]:
            self.drop(key)

    def keys(self) -> KeysView[K]:
        """What is held now."""
        return self._items.keys()

    def __getitem__(self, key: K) -> V:
        try:
            return self._items[key]
        except KeyError:
            raise OwnershipError(f"no item of key {key!r} is stored: it was let go, or never kept") from None

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
