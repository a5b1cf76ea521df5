"""A store that fails on purpose, for n-th-failure sweeps and the simulation."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from unending.core.errors import StorageError
from unending.engine.store.journal import Entry, Row, Store, Stored

__all__ = ["FaultyStore"]

R = TypeVar("R")


class FaultyStore(Store):
    """Hands every operation on to another store, except for those that it is told to let fail.

    Parameters
    ----------
    inner
        the store that does the work.
    fail
        `fail(n, operation)` says whether the n-th operation, counted from 1, raises `StorageError`; `operation` is
        `"commit"`, `"save"`, `"begin"`, `"load"`, `"keys"` or `"drop"`.
    mode
        `"before"`: a failing operation does nothing. `"after"`: it is done and then raises, as when the process hears
        of an error although the disk has the data.
    """

    def __init__(
        self, inner: Store, fail: Callable[[int, str], bool], mode: Literal["before", "after"] = "before"
    ) -> None:
        self.inner = inner
        self.operations = 0
        self.fired = 0
        self._fail = fail
        self._mode = mode

    def commit(self, rows: Sequence[Row]) -> None:
        self._do("commit", lambda: self.inner.commit(rows))

    def save(self, key: str, index: int, in_seq: int, content: bytes) -> None:
        self._do("save", lambda: self.inner.save(key, index, in_seq, content))

    def begin(self, opened: Row, in_seq: int, content: bytes) -> None:
        self._do("begin", lambda: self.inner.begin(opened, in_seq, content))

    def load(self, key: str) -> Stored:
        return self._do("load", lambda: self.inner.load(key))

    def keys(self) -> list[Entry]:
        return self._do("keys", self.inner.keys)

    def drop(self, key: str) -> None:
        self._do("drop", lambda: self.inner.drop(key))

    def close(self) -> None:
        self.inner.close()

    def _do(self, operation: str, act: Callable[[], R]) -> R:
        self.operations += 1
        failing = self._fail(self.operations, operation)
        self.fired += failing
        if failing and self._mode == "before":
            raise StorageError(f"{operation} {self.operations} fails on purpose, before it is done")
        result = act()
        if failing:
            raise StorageError(f"{operation} {self.operations} fails on purpose, after it was done")
        return result
