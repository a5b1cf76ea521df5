"""A stream that can be read once."""

from collections.abc import Iterable, Iterator
from typing import Generic, Self, TypeVar

from unending.core.errors import OwnershipError

__all__ = ["SinglePass"]

T = TypeVar("T")


class SinglePass(Generic[T]):
    """An iterator over anything, which refuses a second pass, an index and a length.

    A plain generator ends silently when it is read again, and a list can be peeked into; an algorithm that claims
    one pass is tested on this.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items: Iterator[T] = iter(items)
        self._started = False
        self.taken = 0
        """Items that were handed out."""

    def __iter__(self) -> Self:
        if self._started:
            raise OwnershipError(f"this stream passes once, and {self.taken} of its items have been taken")
        self._started = True
        return self

    def __next__(self) -> T:
        self._started = True
        item = next(self._items)
        self.taken += 1
        return item
