"""What both stores promise, against a reference that never forgets a row."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unending.core import snapshot
from unending.core.errors import InputError, SessionNotFoundError, StorageError, StoreCorruptError
from unending.engine.store import DirectoryStore, Entry, MemoryStore, Row, Store, Stored

Reopen = Callable[[Store], Store]


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = DirectoryStore(tmp_path / "store") if request.param == "directory" else MemoryStore()
    yield made
    made.close()


@pytest.fixture
def reopen() -> Iterator[Reopen]:
    """What the next process finds."""
    made: list[Store] = []

    def next_of(store: Store) -> Store:
        if isinstance(store, DirectoryStore):
            store.close()
        made.append(store.crash() if isinstance(store, MemoryStore) else DirectoryStore(store.path))
        return made[-1]

    yield next_of
    for store in made:
        store.close()


def keys_of(store: Store) -> list[str]:
    entries = store.keys()
    return [entry.key for entry in entries]


def journal(key: str, length: int, first: int = 0, inputs: int = 0) -> list[Row]:
    """`open`, then an input and a step in turn."""
    rows = []
    for index in range(first, first + length):
        kind = "open" if index == 0 else "input" if index % 2 else "step"
        inputs += kind == "input"
        content = f"{key} {index}".encode() if kind == "input" else b""
        rows.append(Row(key, index, kind, inputs if kind != "open" else 0, index // 2, content))
    return rows


def test_what_was_committed_is_there(store: Store, reopen: Reopen) -> None:
    rows = [*journal("a", 5), *journal("b/../\0ключ", 3)]
    store.commit(rows)
    store.commit([])
    for again in (False, True):
        found = reopen(store) if again else store
        assert found.load("a") == Stored([], rows[:5])
        assert found.load("b/../\0ключ") == Stored([], rows[5:])
        assert keys_of(found) == ["a", "b/../\0ключ"]


def test_a_session_begins_from_a_snapshot(store: Store, reopen: Reopen) -> None:
    opened = Row("a", 0, "import", 0, 0, b"identity")
    store.begin(opened, 5, b"snapshot")
    store.begin(opened, 5, b"snapshot")  # again, by who is not sure
    store.commit([Row("a", 1, "input", 6, 0, b"six")])
    with pytest.raises(StoreCorruptError, match="does not follow on"):
        store.begin(Row("a", 0, "open", 0, 0, b"another"), 0, b"snapshot")
    for again in (False, True):
        found = reopen(store) if again else store
        assert found.load("a") == Stored([(1, 5, b"snapshot")], [opened, Row("a", 1, "input", 6, 0, b"six")])


def test_a_commit_does_not_wait_for_the_writing_of_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, may_go_on = Event(), Event()
    write = snapshot.write

    def slowly(path: Path, content: bytes) -> None:
        writing.set()
        assert may_go_on.wait(20)
        write(path, content)

    rows = journal("a", 9)
    with closing(DirectoryStore(tmp_path, keep=1)) as store, ThreadPoolExecutor() as threads:
        store.commit(rows[:4])
        monkeypatch.setattr(snapshot, "write", slowly)
        saving = threads.submit(store.save, "a", 3, 1, b"three rows")
        assert writing.wait(20)
        threads.submit(store.commit, [*rows[4:], *journal("b", 2)]).result(20)
        assert not saving.done()
        may_go_on.set()
        saving.result(20)
    with closing(DirectoryStore(tmp_path)) as store:
        assert store.load("a") == Stored([(3, 1, b"three rows")], rows[3:])
        assert len(store.load("b").rows) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("a", 4, "step", 1, 0), "row 4 of session 'a' does not follow on: its journal goes on at 3"),
        (Row("a", 3, "input", 3, 0), "input 3 of session 'a' does not follow on input 1"),
        (Row("a", 2, "step", 1, 9), "row 2 of session 'a' does not follow on"),
        (Row("new", 1, "step", 0, 0), "row 1 of session 'new' does not follow on: its journal goes on at 0"),
    ],
)
def test_a_row_that_does_not_follow_on_is_refused_with_all_beside_it(
    store: Store, reopen: Reopen, row: Row, message: str
) -> None:
    store.commit(journal("a", 3))
    with pytest.raises(StoreCorruptError, match=message):
        store.commit([*journal("b", 2), row])
    again = reopen(store)
    assert keys_of(again) == ["a"]
    assert again.load("a").rows == journal("a", 3)


def test_a_commit_may_be_repeated(store: Store) -> None:
    rows = journal("a", 7)
    store.commit(rows[:4])
    store.commit(rows[:4])
    store.commit(rows[2:])
    assert store.load("a").rows == rows
    assert store.keys() == [Entry("a", "open", 7, sum(len(row.content) for row in rows))]


def test_the_journal_is_whole_until_two_snapshots_can_stand_in_for_it(store: Store, reopen: Reopen) -> None:
    rows = journal("a", 9)
    store.commit(rows)
    store.save("a", 5, 2, b"first")
    assert store.load("a") == Stored([(5, 2, b"first")], rows)
    store.save("a", 9, 4, b"second")
    assert store.load("a") == Stored([(9, 4, b"second"), (5, 2, b"first")], rows[5:])
    store.save("a", 9, 4, b"again, otherwise")
    assert [content for *_, content in store.load("a").snapshots] == [b"again, otherwise", b"first"]
    found = reopen(store)
    assert found.load("a") == Stored([(9, 4, b"again, otherwise"), (5, 2, b"first")], rows[5:])


def test_inputs_that_no_snapshot_contains_outlive_the_rows_around_them(store: Store, reopen: Reopen) -> None:
    rows = journal("a", 9)
    store.commit(rows)
    store.save("a", 8, 1, b"one")
    store.save("a", 9, 2, b"two")
    kept = [rows[3], rows[5], rows[7], rows[8]]
    assert reopen(store).load("a") == Stored([(9, 2, b"two"), (8, 1, b"one")], kept)


def test_a_session_can_begin_from_a_snapshot(store: Store) -> None:
    rows = [Row("twin", 0, "fork", 0, 0, b"of a"), Row("twin", 1, "input", 42, 7, b"x")]
    store.commit(rows[:1])
    store.save("twin", 1, 41, b"the other's state")
    with pytest.raises(StoreCorruptError, match="input 1 of session 'twin' does not follow on input 41"):
        store.commit([Row("twin", 1, "input", 1, 0)])
    store.commit(rows[1:])
    assert store.load("twin") == Stored([(1, 41, b"the other's state")], rows)


def test_a_snapshot_must_fit_the_journal(store: Store) -> None:
    store.commit(journal("a", 5))
    with pytest.raises(StoreCorruptError, match="at row 6 does not fit its journal, which has rows 0 to 5"):
        store.save("a", 6, 0, b"")
    with pytest.raises(SessionNotFoundError, match="the store has no session 'b'"):
        store.save("b", 0, 0, b"")


def test_dropped_is_forgotten(store: Store, reopen: Reopen) -> None:
    store.commit([*journal("a", 5), *journal("b", 2)])
    store.save("a", 5, 2, b"state")
    store.drop("a")
    store.drop("a")
    for again in (False, True):
        found = reopen(store) if again else store
        assert keys_of(found) == ["b"]
        with pytest.raises(SessionNotFoundError, match="the store has no session 'a'"):
            found.load("a")
    found.commit(journal("a", 1))
    assert found.load("a") == Stored([], journal("a", 1))


def test_the_list_tells_status_rows_and_bytes(store: Store, reopen: Reopen) -> None:
    store.commit([*journal("a", 4), Row("a", 4, "finish", 0, 1), Row("b", 0, "open", 0, 0, b"12345")])
    store.save("a", 5, 2, b"four")
    assert store.keys() == [Entry("a", "finished", 5, 2 * len(b"a 1") + 4), Entry("b", "open", 1, 5)]
    store.save("a", 5, 2, b"seven!!")
    assert reopen(store).keys()[0] == Entry("a", "finished", 5, 2 * len(b"a 1") + 7)


def test_a_closed_store_says_so(store: Store) -> None:
    store.commit(journal("a", 1))
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: store.commit(journal("b", 1)),
        lambda: store.save("a", 1, 0, b""),
        lambda: store.load("a"),
        store.keys,
        lambda: store.drop("a"),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="is closed"):
            call()


def test_a_key_must_be_text_that_can_be_written(store: Store) -> None:
    with pytest.raises(InputError, match="the key holds half a surrogate pair"):
        store.commit([Row("\ud800", 0, "open", 0, 0)])


class Reference:
    """Keeps everything, and finds what is needed by looking at all of it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.saved: list[tuple[int, int, bytes]] = []

    def stored(self, keep: int) -> Stored:
        kept = sorted({index: (index, in_seq, content) for index, in_seq, content in self.saved}.values())[
            -keep:
        ]
        full = [row for row in self.rows if len(kept) < keep]
        needed = [
            row
            for row in self.rows
            if any(
                row.index >= index or (row.kind == "input" and row.seq > in_seq) for index, in_seq, _ in kept
            )
        ]
        return Stored(kept[::-1], full or needed)


@settings(max_examples=25)
@given(st.data(), st.integers(1, 3))
def test_any_history_reads_as_in_the_reference(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, keep: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    stores: list[Store] = [MemoryStore(keep), DirectoryStore(folder, keep)]
    references = {key: Reference() for key in "ab"}
    for _ in range(data.draw(st.integers(1, 12))):
        key = data.draw(st.sampled_from("ab"))
        reference = references[key]
        inputs = sum(row.kind == "input" for row in reference.rows)
        match data.draw(st.sampled_from(["commit", "commit", "save", "reopen"])):
            case "commit":
                length = data.draw(st.integers(1, 5))
                for index in range(len(reference.rows), len(reference.rows) + length):
                    kind = data.draw(st.sampled_from(["input", "step", "refuse"])) if index else "open"
                    inputs += kind == "input"
                    reference.rows.append(
                        Row(key, index, kind, inputs, index, data.draw(st.binary(max_size=9)))
                    )
                for store in stores:
                    store.commit(reference.rows[-length:])
            case "save" if reference.rows:
                lowest = max((in_seq for _, in_seq, _ in reference.saved), default=0)
                content = data.draw(st.binary(max_size=9))
                reference.saved.append((len(reference.rows), data.draw(st.integers(lowest, inputs)), content))
                for store in stores:
                    store.save(key, *reference.saved[-1])
            case "reopen":
                assert isinstance(stores[0], MemoryStore)
                stores[1].close()
                stores = [stores[0].crash(), DirectoryStore(folder, keep)]
        for key, reference in references.items():
            for store in stores if reference.rows else []:
                assert store.load(key) == reference.stored(keep)
    assert stores[0].keys() == stores[1].keys()
    stores[1].close()
