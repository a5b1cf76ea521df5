"""Sessions that begin from a snapshot: what the store has of them when something goes wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engine.running import INPUT, alone, engine, feed, keys_of, number, run

from unending.core.errors import StorageError, StoreCorruptError
from unending.engine import MemoryStore
from unending.engine.store.faults import FaultyStore


def test_an_import_that_the_disk_refuses_leaves_nothing_behind() -> None:
    async def main() -> None:
        full = False
        inner = MemoryStore()
        store = FaultyStore(inner, lambda n, operation: operation == "begin" and full)
        async with engine(store=store) as eng:
            stream = await eng.open("a")
            await stream.push(INPUT[0])
            content = await eng.snapshot("a")
            full = True
            with pytest.raises(StorageError):
                await eng.import_snapshot("b", content)
            assert keys_of(inner) == ["a"]
            full = False
            fresh = await eng.open("b", seed=5)
            await feed(fresh)
            assert [number(event) async for event in fresh] == alone(5)

    run(main)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"not a snapshot")])
def test_a_fork_whose_snapshot_is_damaged_does_not_begin_anew(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    async def main() -> None:
        async with engine(store=tmp_path) as eng:
            stream = await eng.open("a")
            await stream.push(INPUT[0])
            await stream.idle()
            before = set(tmp_path.glob("snapshots/*/*"))
            await eng.fork("a", "b")
            (written,) = set(tmp_path.glob("snapshots/*/*")) - before
        damage(written)
        async with engine(store=tmp_path) as eng:
            with pytest.raises(StoreCorruptError, match="no snapshot"):
                await eng.resume("b")
            assert (await eng.resume("a")).in_seq == 1

    run(main)
