"""The directory store on a disk that refuses, beside another process, and killed at random instants."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.store import killed

from unending.core.errors import StorageError
from unending.engine.store import DirectoryStore, Row, Stored

ROOT = Path(__file__).parents[3]
KILLS = 12
CHILD = """
import sys
from tests.engine.store import killed
from unending.engine.store.stores import DirectoryStore
killed.work(DirectoryStore(sys.argv[1]), int(sys.argv[2]))
"""


def rows(first: int, last: int, size: int = 10) -> list[Row]:
    return [
        Row("a", index, "step" if index else "open", 0, index, bytes(size)) for index in range(first, last)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DirectoryStore]:
    made = DirectoryStore(tmp_path / "store")
    made.commit(rows(0, 5))
    made.save("a", 3, 0, b"older")
    yield made
    made.close()


def read_elsewhere(store: DirectoryStore) -> Stored:
    """What a new process would read if this one died now."""
    copy = store.path.with_name("copy")
    shutil.copytree(store.path, copy)
    found = DirectoryStore(copy)
    try:
        assert found.faults == []
        return found.load("a")
    finally:
        found.close()
        shutil.rmtree(copy)


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: SQLite and everybody else get an error from the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


ACTS: dict[str, Callable[[DirectoryStore], None]] = {
    "commit": lambda store: store.commit(rows(5, 8, 9_000)),
    "save": lambda store: store.save("a", 5, 0, bytes(40_000)),
    "drop": lambda store: store.drop("a"),
}


@pytest.mark.parametrize("act", ["commit", "save"])
def test_a_full_disk_leaves_nothing_half_written(store: DirectoryStore, act: str) -> None:
    before = store.load("a")
    log = (store.path / "index.sqlite-wal").stat().st_size
    refused = 0
    for size in range(4_120 if act == "save" else log, log + 45_000, 2_500):
        try:
            with room(size):
                ACTS[act](store)
        except StorageError:
            refused += 1
            assert store.load("a") == read_elsewhere(store) == before
        else:
            break
    assert refused > 5
    after = store.load("a")
    assert after != before
    assert read_elsewhere(store) == after
    assert not list(store.path.rglob("*.tmp"))
    store.commit(rows(8 if act == "commit" else 5, 9))
    assert read_elsewhere(store) == store.load("a")


@pytest.mark.parametrize("act", ["commit", "save", "drop"])
def test_every_system_call_may_fail(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    names = ("open", "fsync", "replace", "pwrite", "mkdir", "unlink")
    real = {name: getattr(os, name) for name in names}
    called = 0
    for failing in range(1, 100):
        called = 0

        def may_fail(name: str, failing: int = failing) -> Callable[..., Any]:
            def call(*given: Any, **named: Any) -> Any:
                nonlocal called
                called += 1
                if called == failing:
                    raise OSError(errno.EROFS, "Read-only file system")
                return real[name](*given, **named)

            return call

        target = DirectoryStore(shutil.copytree(store.path, store.path.with_name(f"target{failing}")))
        before = target.load("a")
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, may_fail(name))
            try:
                ACTS[act](target)
                done = True
            except StorageError:
                done = False
        if not done:
            assert target.load("a") == read_elsewhere(target) == before
            ACTS[act](target)
        if act != "drop":
            assert target.load("a") == read_elsewhere(target) != before
            target.commit(rows(8 if act == "commit" else 5, 9))
        target.close()
        again = DirectoryStore(target.path)
        assert len(again.keys()) == (act != "drop")
        again.close()
        if called < failing:
            break
    assert called >= {"commit": 1, "save": 5, "drop": 1}[act]


def test_a_mark_that_cannot_be_written_holds_up_the_next_commit_only(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", refuse)
        store.commit(rows(5, 6))
        with pytest.raises(StorageError, match=r"cannot use .*index\.sqlite: Input/output error"):
            store.commit(rows(6, 7))
    assert len(store.load("a").rows) == len(read_elsewhere(store).rows) == 6
    store.commit(rows(6, 7))
    assert len(read_elsewhere(store).rows) == 7


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("os.mkdir", refuse)
    with pytest.raises(StorageError, match=f"cannot use .*store: {os.strerror(error)}"):
        DirectoryStore(tmp_path / "store")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        DirectoryStore(tmp_path / "store")
    with pytest.raises(ValueError, match="keep is 0, accepted is a number of snapshots from 1"):
        DirectoryStore(tmp_path / "other", keep=0)


def test_one_engine_at_a_time(store: DirectoryStore) -> None:
    attempt = (
        "import sys; from unending.engine.store.stores import DirectoryStore; DirectoryStore(sys.argv[1])"
    )
    command = [sys.executable, "-c", attempt, str(store.path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "StorageError" in told.stderr
    assert "is in use by another engine" in told.stderr
    with pytest.raises(StorageError, match="is in use by another engine"):
        DirectoryStore(store.path)
    assert len(store.load("a").rows) == 5
    store.close()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_drop_that_was_cut_off_is_completed(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        store.drop("a")
    assert len(list((store.path / "snapshots").iterdir())) == 1
    store.close()
    DirectoryStore(store.path).close()
    assert list((store.path / "snapshots").iterdir()) == []


def test_the_directory_does_not_grow_with_the_stream(store: DirectoryStore) -> None:
    sizes, length = [], 5
    for _ in range(60):
        store.commit(rows(length, length + 40, 500))
        length += 40
        store.save("a", length, 0, bytes(10_000))
        sizes.append(sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file()))
    log = 6 << 20  # the journal of SQLite, which is emptied every 1,000 pages
    assert max(sizes[-10:]) < sizes[5] + log
    assert (store.path / "index.sqlite").stat().st_size < 300_000
    assert len(list((store.path / "snapshots").glob("*/*"))) == 2


def test_what_was_acknowledged_survives_kill(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    folder, acknowledged = tmp_path / "store", 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", CHILD, str(folder), str(acknowledged)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(generator.uniform(0, 0.15))
            child.kill()
            acknowledged = int(child.stdout.read().split("\n")[-2:][0] or acknowledged)
        store = DirectoryStore(folder)
        assert store.faults == []
        there = killed.batches(store)
        assert there in (acknowledged, acknowledged + 1)
        acknowledged = there
        store.close()
    assert acknowledged > KILLS


def test_half_a_batch_is_seen(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    for batch in range(3):
        store.commit([row for place in range(len(killed.KEYS)) for row in killed.rows(batch, place)])
    assert killed.batches(store) == 3
    store.commit(killed.rows(3, 0))
    with pytest.raises(AssertionError):
        killed.batches(store)
    store.close()
