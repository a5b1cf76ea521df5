"""What a store makes of damaged files: what is affected is named, and the rest goes on."""

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.engine.store import damage

from unending.core.errors import SessionNotFoundError, StoreCorruptError
from unending.engine.store import DirectoryStore, Entry, Row
from unending.engine.store.index import identity

TRIED = 150


@pytest.fixture(scope="module")
def built() -> Iterator[tuple[Path, dict[str, damage.History]]]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name), damage.build(Path(name))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed store of two sessions: `a` with snapshots at rows 3 and 5 of 7, `b` without one."""
    store = DirectoryStore(tmp_path / "store")
    store.commit([row(key, index) for key in "ab" for index in range(5)])
    store.save("a", 3, 0, b"older")
    store.save("a", 5, 0, b"newer")
    store.commit([row(key, index) for key in "ab" for index in range(5, 7)])
    store.close()
    return store.path


def row(key: str, index: int, size: int = 2_000) -> Row:
    return Row(key, index, "step" if index else "open", 0, index, bytes([index]) * size)


def rows(key: str, first: int, last: int = 7) -> list[Row]:
    return [row(key, index) for index in range(first, last)]


def alter(folder: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(folder / "index.sqlite")
    assert db.execute(statement, values).rowcount == 1
    db.commit()
    db.close()


def snapshot_file(folder: Path, index: int) -> Path:
    (path,) = folder.glob(f"snapshots/{identity('a').hex()}/{index}-*.safetensors")
    return path


@pytest.mark.parametrize("variant", ["closed", "killed"])
def test_damaged_files_never_give_other_data(
    built: tuple[Path, dict[str, damage.History]], tmp_path: Path, variant: str
) -> None:
    root, histories = built
    wanted = damage.read_without_checksums(shutil.copytree(root / variant, tmp_path / "whole"))
    verdicts: Counter[str] = Counter()
    for seed in range(TRIED):
        target = shutil.copytree(root / variant, root / "target")
        damage.harm(target, np.random.default_rng(seed))
        bare = shutil.copytree(target, root / "bare")
        verdicts[damage.judge(target, histories[variant])] += 1
        with suppress(sqlite3.DatabaseError):
            verdicts["accepted without checksums"] += damage.read_without_checksums(bare) != wanted
        shutil.rmtree(target)
        shutil.rmtree(bare)
    assert set(verdicts) == {"equal", "named", "refused", "accepted without checksums"}
    assert verdicts["accepted without checksums"] > TRIED / 4


def test_the_judge_sees_other_data(built: tuple[Path, dict[str, damage.History]]) -> None:
    root, histories = built
    target = shutil.copytree(root / "closed", root / "target")
    assert damage.judge(target, histories["closed"]) == "equal"
    shutil.rmtree(target)
    shutil.copytree(root / "closed", target)
    with pytest.raises(damage.Wrong):
        damage.judge(target, histories["killed"])
    shutil.rmtree(target)


def test_a_damaged_snapshot_falls_back_to_the_one_before(folder: Path) -> None:
    path = snapshot_file(folder, 5)
    path.write_bytes(b"newes")
    store = DirectoryStore(folder)
    found = store.load("a")
    assert (found.snapshots, found.rows) == ([(3, 0, b"older")], rows("a", 3))
    assert found.faults == ["the snapshot of session 'a' at row 5 is damaged or missing"]
    store.save("a", 7, 0, b"newest")
    assert [index for index, *_ in store.load("a").snapshots] == [7, 3], "the damaged one counts as kept"
    assert not path.exists()
    store.close()


def test_without_an_intact_snapshot_and_a_whole_journal_there_is_an_error(folder: Path) -> None:
    for index in (3, 5):
        snapshot_file(folder, index).unlink()
    store = DirectoryStore(folder)
    with pytest.raises(
        StoreCorruptError, match="session 'a' cannot be restored: the snapshot of session 'a' at row 5"
    ):
        store.load("a")
    assert store.load("b").rows == rows("b", 0)
    store.close()


@pytest.mark.parametrize("column", ["kind", "seq", "ticks", "content", "seal"])
@pytest.mark.parametrize("index", [3, 6])
def test_a_damaged_row_costs_what_needs_it(folder: Path, column: str, index: int) -> None:
    value = {"kind": "input", "seq": 1, "ticks": 99, "content": b"x", "seal": None}[column]
    alter(
        folder, f"UPDATE journal SET {column} = ? WHERE session = ? AND idx = ?", value, identity("a"), index
    )
    store = DirectoryStore(folder)
    assert store.load("b").rows == rows("b", 0)
    if index == 3:
        found = store.load("a")
        assert (found.snapshots, found.rows) == ([(5, 0, b"newer")], rows("a", 5))
        assert found.faults == ["row 3 of session 'a' is damaged"]
    else:
        with pytest.raises(
            StoreCorruptError, match="session 'a' cannot be restored: row 6 of session 'a' is damaged"
        ):
            store.load("a")
    store.close()


@pytest.mark.parametrize("index", [0, 3, 6])
def test_a_missing_row_is_noticed(folder: Path, index: int) -> None:
    alter(folder, "DELETE FROM journal WHERE session = ? AND idx = ?", identity("b"), index)
    store = DirectoryStore(folder)
    with pytest.raises(
        StoreCorruptError, match="session 'b' cannot be restored: rows of session 'b' are missing"
    ):
        store.load("b")
    assert store.load("a").rows == rows("a", 3)
    store.drop("b")
    store.commit(rows("b", 0))
    assert store.load("b").rows == rows("b", 0)
    store.close()


def test_a_damaged_record_costs_its_session_alone(folder: Path) -> None:
    alter(folder, "UPDATE sessions SET rows = 6 WHERE key = 'b'")
    store = DirectoryStore(folder)
    assert [(entry.key, entry.status) for entry in store.keys()] == [("a", "open"), ("b", "damaged")]  # noqa: SIM118
    for call in (lambda: store.load("b"), lambda: store.commit([row("b", 7)])):
        with pytest.raises(StoreCorruptError, match="the record of session 'b' is damaged"):
            call()
    assert store.load("a").rows == rows("a", 3)
    store.drop("b")
    store.commit(rows("b", 0))
    store.close()
    store = DirectoryStore(folder)
    assert store.load("b").rows == rows("b", 0)
    store.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM sessions WHERE key = 'b'", "the records of 1 of 2 sessions are missing"),
        ("UPDATE sessions SET key = 'c' WHERE key = 'b'", "the records of 1 of 2 sessions are missing"),
        ("UPDATE sessions SET id = x'00' WHERE key = 'b'", "the records of 1 of 2 sessions are missing"),
        ("UPDATE sessions SET seal = x'00' WHERE key = 'b'", "not those of the last commit"),
        ("UPDATE meta SET sessions = 1", "the summary of the index is damaged"),
    ],
)
def test_sessions_are_never_lost_in_silence(folder: Path, statement: str, message: str) -> None:
    alter(folder, statement)
    for _ in range(2):
        with pytest.raises(StoreCorruptError, match=message):
            DirectoryStore(folder)
    store = DirectoryStore(folder, accept_loss=True)
    assert any(message in fault for fault in store.faults)
    assert (folder / "index.sqlite.damaged").exists()
    assert store.load("a").rows == rows("a", 3)
    if "missing" in message:
        with pytest.raises(SessionNotFoundError):
            store.load("b")
        store.commit([row("b", 0)])
    store.close()
    store = DirectoryStore(folder)
    assert store.faults == []
    store.close()


def test_a_journal_that_lost_its_end_is_told_with_the_number_of_commits(
    built: tuple[Path, dict[str, damage.History]], tmp_path: Path
) -> None:
    root, histories = built
    folder = shutil.copytree(root / "killed", tmp_path / "store")
    (folder / "index.sqlite-wal").unlink()
    with pytest.raises(StoreCorruptError, match=r"5 of 22 commits are missing at the end of the journal"):
        DirectoryStore(folder)
    store = DirectoryStore(folder, accept_loss=True)
    assert store.load("plain") == histories["closed"].stored["plain"]
    store.close()
    DirectoryStore(folder).close()


@pytest.mark.parametrize("name", ["index.sqlite", "high-water"])
def test_a_missing_file_is_told(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StoreCorruptError, match="is missing"):
        DirectoryStore(folder)
    store = DirectoryStore(folder, accept_loss=True)
    assert bool(store.keys()) is (name == "high-water")
    store.close()
    kept = folder / "snapshots" / (identity("a").hex() + ("" if name == "high-water" else ".lost"))
    assert len(list(kept.iterdir())) == 2
    DirectoryStore(folder).close()


def test_snapshots_without_an_index_are_not_taken_for_an_empty_store(folder: Path) -> None:
    for name in ("index.sqlite", "high-water"):
        (folder / name).unlink()
    with pytest.raises(StoreCorruptError, match="is missing or empty: an unknown number of commits are lost"):
        DirectoryStore(folder)


def test_a_damaged_tree_is_made_anew_from_what_can_be_read(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    sound = [row(key, index, 300) for index in range(9) for key in "bcdefgh"]
    store.commit([*sound, *(row("a", index, 300) for index in range(100))])
    store.close()
    path = store.path / "index.sqlite"
    content = bytearray(path.read_bytes())
    pages = [at for at in range(0, len(content), 4096) if content[at : at + 4096].count(identity("a")) > 8]
    content[pages[3] : pages[3] + 4096] = bytes(4096)
    path.write_bytes(content)
    store = DirectoryStore(store.path)
    assert "is made anew" in store.faults[-1]
    with pytest.raises(
        StoreCorruptError, match="session 'a' cannot be restored: rows of session 'a' are missing"
    ):
        store.load("a")
    for key in "bcdefgh":
        assert store.load(key).rows == [each for each in sound if each.key == key]
    store.close()
    store = DirectoryStore(store.path)
    assert store.faults == []
    assert store.keys()[1] == Entry("b", "open", 9, 9 * 300)
    store.close()


def test_a_row_under_a_garbled_key_is_not_written_around(folder: Path) -> None:
    """SQLite finds rows by their order: one out of order hides others as soon as a page is split."""
    path = folder / "index.sqlite"
    content = bytearray(path.read_bytes())
    places = [at for at in range(len(content)) if content.startswith(identity("b"), at)]
    content[places[len(places) // 2]] ^= 0x80
    path.write_bytes(content)
    store = DirectoryStore(folder)
    assert "PRIMARY KEY order" in store.faults[0]
    assert store.load("a").rows == rows("a", 3)
    with pytest.raises(StoreCorruptError, match="session 'b' cannot be restored"):
        store.load("b")
    store.commit([row("a", index) for index in range(7, 40)])
    assert store.load("a").rows == rows("a", 3, 40)
    store.close()


def test_another_format_is_refused(folder: Path) -> None:
    db = sqlite3.connect(folder / "index.sqlite")
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(StoreCorruptError, match="the index is damaged, or not one of format 1"):
        DirectoryStore(folder)
