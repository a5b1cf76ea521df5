from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from unending.core.errors import SessionNotFoundError, StorageError
from unending.engine.store import DirectoryStore, MemoryStore, Row, Store, Stored
from unending.engine.store.faults import FaultyStore

WORK: list[Callable[[Store], None]] = [
    lambda store: store.commit([Row(key, 0, "open", 0, 0, b"seed") for key in "abc"]),
    lambda store: store.commit([Row("a", 1, "input", 1, 0, b"one"), Row("b", 1, "input", 1, 0, b"one")]),
    lambda store: store.save("a", 2, 1, b"first"),
    lambda store: store.commit([Row("a", 2, "step", 1, 0), Row("a", 3, "input", 2, 0, b"two")]),
    lambda store: store.save("a", 4, 1, b"second"),
    lambda store: store.save("b", 2, 0, b"other"),
    lambda store: store.drop("c"),
    lambda store: store.save("a", 4, 2, b"third"),
    lambda store: store.commit([Row("c", 0, "open", 0, 0, b"anew"), Row("b", 2, "step", 1, 4)]),
    lambda store: store.begin(Row("d", 0, "import", 0, 0, b"seed"), 7, b"from elsewhere"),
    lambda store: store.commit([Row("d", 1, "input", 8, 0, b"more")]),
]


def contents(store: Store) -> dict[str, Stored | None]:
    found: dict[str, Stored | None] = {}
    for key in "abcd":
        try:
            found[key] = store.load(key)
        except SessionNotFoundError:
            found[key] = None
    return found


@pytest.mark.parametrize("mode", ["before", "after"])
@pytest.mark.parametrize("kind", ["directory", "memory"])
def test_whichever_write_fails_the_store_reopens_right(
    tmp_path: Path, kind: str, mode: Literal["before", "after"]
) -> None:
    plain = MemoryStore()
    states = [contents(plain)]
    for act in WORK:
        act(plain)
        states.append(contents(plain))
    for failing in range(1, len(WORK) + 1):
        folder = tmp_path / str(failing)
        inner: Store = MemoryStore() if kind == "memory" else DirectoryStore(folder)
        store = FaultyStore(inner, lambda n, _, failing=failing: n == failing, mode)  # type: ignore[misc]
        for step, act in enumerate(WORK, start=1):
            if step == failing:
                with pytest.raises(StorageError):
                    act(store)
                if isinstance(inner, MemoryStore):
                    inner = inner.crash()
                else:
                    inner.close()
                    inner = DirectoryStore(folder)
                assert contents(inner) == states[step if mode == "after" else step - 1]
                store.inner = inner
            act(store)
            assert contents(inner) == states[step]
        assert store.fired == 1
        inner.close()


def test_before_nothing_is_done_and_after_all_of_it() -> None:
    row = Row("a", 0, "open", 0, 0)
    for mode, there in (("before", False), ("after", True)):
        inner = MemoryStore()
        store = FaultyStore(inner, lambda n, operation: n == 1 and operation == "commit", mode)
        with pytest.raises(StorageError, match=f"commit 1 fails on purpose, {mode} it "):
            store.commit([row])
        assert bool(inner.keys()) is there
        store.commit([row])
        assert store.load("a").rows == [row]
        assert (store.operations, store.fired) == (3, 1)


def test_every_operation_can_fail() -> None:
    asked = []

    def note(n: int, operation: str) -> bool:
        asked.append((n, operation))
        return operation == "drop"

    store = FaultyStore(MemoryStore(), note)
    store.commit([Row("a", 0, "open", 0, 0)])
    store.save("a", 1, 0, b"state")
    store.load("a")
    assert len(store.keys()) == 1
    with pytest.raises(StorageError, match="drop 5"):
        store.drop("a")
    assert asked == [(1, "commit"), (2, "save"), (3, "load"), (4, "keys"), (5, "drop")]
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.load("a")
