"""What a person names as a source."""

import io
import os
import sys

import numpy as np
import pytest

from unending.core import Query, Rows, Symbols, Text, Tokens
from unending.core.errors import InputError, StorageError
from unending.io import sources
from unending.io.sources import STANDARD_TEXT, open_source
from unending.io.text import standard_text

ALL = (Text, Tokens, Symbols, Rows)


@pytest.fixture
def write(tmp_path):
    def written(name, content):
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return written


def values(source, size, skip=0):
    return np.concatenate([chunk.values for chunk in source.chunks(size, skip)])


def test_a_text_file(write):
    source = open_source(write("book.txt", "vidéo 音声"), ALL)
    assert (source.kind, source.size) == (Text, 8)
    assert [chunk.text for chunk in source.chunks(3)] == ["vid", "éo ", "音声"]
    assert [chunk.text for chunk in source.chunks(3, skip=3)] == ["éo ", "音声"]


def test_a_big_text_file_is_not_counted_first(write, monkeypatch):
    monkeypatch.setattr(sources, "_COUNTED", 4)
    assert open_source(write("book.txt", "12345"), ALL).size is None


def test_errors_of_a_text_file(write):
    path = write("book.txt", b"ab\xffc")
    with pytest.raises(InputError, match="byte 2"):
        list(open_source(path, ALL).chunks(9))
    (chunk,) = open_source(path, ALL, encoding_errors="ignore").chunks(9)
    assert chunk.text == "abc"


def test_the_standard_text():
    source = open_source(STANDARD_TEXT, ALL)
    text = standard_text()
    assert (source.kind, source.size) == (Text, len(text))
    assert "".join(chunk.text for chunk in source.chunks(1000, skip=len(text) - 1500)) == text[-1500:]


def test_standard_input(monkeypatch):
    source = open_source("-", ALL)
    assert (source.kind, source.size) == (Text, None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("vidéo\n音声".encode())))
    assert [chunk.text for chunk in source.chunks(4, skip=100)] == ["vidé", "o\n音声"]


def test_standard_input_goes_on_as_it_comes(monkeypatch):
    reading, writing = os.pipe()
    with open(reading) as stdin, open(writing, "wb", buffering=0) as typed:
        monkeypatch.setattr(sys, "stdin", stdin)
        chunks = open_source("-", ALL).chunks(100)
        for line in ("first\n", "séc", "ond\n"):
            typed.write(line.encode())
            assert next(chunks).text == line
        typed.write("é".encode()[:1])
        typed.write("é".encode()[1:])
        assert next(chunks).text == "é"
        typed.close()
        assert list(chunks) == []


def test_standard_input_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        list(open_source("-", ALL).chunks(4))


@pytest.mark.parametrize(("takes", "kind"), [(ALL, Tokens), ((Rows, Symbols), Symbols)])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_a_file_of_ids(write, takes, kind, dtype):
    source = open_source(write("ids.npy", np.arange(10, dtype=dtype)), takes)
    assert (source.kind, source.size) == (kind, 10)
    assert [chunk.ids.tolist() for chunk in source.chunks(4, skip=3)] == [[3, 4, 5, 6], [7, 8, 9]]
    assert list(source.chunks(4, skip=10)) == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_a_file_of_rows(write, dtype):
    rows = np.arange(12).reshape(6, 2).astype(dtype)
    source = open_source(write("rows.npy", rows), ALL)
    assert (source.kind, source.size) == (Rows, 6)
    np.testing.assert_array_equal(values(source, 4, skip=1), rows[1:])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.zeros(3), r"holds float64\[3\]; accepted are integers \[n\] and numbers \[n, width\]"),
        (np.zeros((2, 2, 2)), "holds float64"),
        (np.array(3), "holds int64"),
        (np.zeros((2, 2), complex), "holds complex128"),
        (np.array(["a"]), "holds <U1"),
        (b"", "is not a .npy file of numbers"),
        (b"PK\x03\x04 an archive of arrays", "is not a .npy file of numbers"),
        (b"\x93NUMPY\x01\x00", "is not a .npy file of numbers"),
    ],
)
def test_a_npy_file_that_is_no_stream(write, content, says):
    with pytest.raises(InputError, match=says):
        open_source(write("bad.npy", content), ALL)


def test_a_npy_file_with_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "bad.npy", np.array([print, {}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"is not a \.npy file of numbers"):
        open_source(str(tmp_path / "bad.npy"), ALL)


def test_a_npy_file_that_breaks_off(write, tmp_path):
    path = tmp_path / write("ids.npy", np.arange(100))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"is not a \.npy file of numbers"):
        open_source(str(path), ALL)


def test_an_empty_npy_file_is_an_empty_stream(write):
    assert list(open_source(write("ids.npy", np.zeros(0, int)), ALL).chunks(4)) == []
    assert list(open_source(write("rows.npy", np.zeros((0, 3))), ALL).chunks(4)) == []


@pytest.mark.parametrize("head", ["", "a,b\n", "\n\n", "\ufeffa,b\n"])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_csv_file(write, head, size):
    source = open_source(write("rows.csv", head + "1,2\n\n-3,4e2\n 5 ,6"), ALL)
    assert (source.kind, source.size) == (Rows, None)
    np.testing.assert_array_equal(values(source, size), [[1, 2], [-3, 400], [5, 6]])
    np.testing.assert_array_equal(values(source, size, skip=1), [[-3, 400], [5, 6]])
    names = ("a", "b") if "a" in head else ()
    assert {chunk.names for chunk in source.chunks(size)} == {names}
    assert {chunk.names for chunk in source.chunks(size, skip=1)} == {names}


@pytest.mark.parametrize("content", ["", "\n", "a,b\n"])
def test_an_empty_csv_file_is_an_empty_stream(write, content):
    assert list(open_source(write("rows.csv", content), ALL).chunks(4)) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("1,2\nx,3\n", "line 2 is not a row of numbers .*'x'"),
        ("a,b\nc,d\n", "line 2 is not a row of numbers"),
        ("a,b\n1,\n", "line 2 is not a row of numbers"),
        ("1,2\n\n3\n", "line 3 has 1 columns, the lines before it 2"),
        ("a,b\n1,2,3\n", "line 2 has 3 columns, the lines before it 2"),
        ("1\nnan\n", "line 2 holds NaN or infinity"),
        ("1\n-inf\n", "line 2 holds NaN or infinity"),
        (b"1\n\xff\n", "is not a CSV file in UTF-8"),
        (b"1\n" + b"2" * 200_000, "is not a CSV file in UTF-8 .*field larger"),
    ],
)
def test_a_csv_file_that_is_no_stream(write, content, says):
    with pytest.raises(InputError, match=says):
        list(open_source(write("rows.csv", content), ALL).chunks(100))


@pytest.mark.parametrize("first", ["1,,3", "1,NA,3", ",2,3", "1,2,x"])
def test_a_first_row_with_a_gap_is_not_taken_for_names(write, first):
    source = open_source(write("rows.csv", first + "\n1,2,3\n"), ALL)
    with pytest.raises(InputError, match="line 1 is neither numbers nor names"):
        list(source.chunks(4))
    assert next(open_source(write("rows.csv", ",b,c\n1,2,3\n"), ALL).chunks(4)).names == ("", "b", "c")


@pytest.mark.parametrize("name", ["rows.csv", "rows.npy"])
def test_a_file_that_ends_before_where_reading_goes_on(write, name):
    path = write(name, np.ones((3, 1)) if name.endswith("npy") else "1\n1\n1\n")
    with pytest.raises(InputError, match=f"{name} ends at 3, before 4 where reading was to go on"):
        list(open_source(path, ALL).chunks(2, skip=4))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.npy", "nowhere.csv"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(StorageError, match="no such file"):
        open_source(str(tmp_path / name), ALL)


def test_a_folder(tmp_path):
    with pytest.raises(StorageError, match="it is a folder"):
        open_source(str(tmp_path), ALL)


def test_a_file_that_goes_away(write, tmp_path):
    for name, content in (("a.csv", "1\n"), ("a.npy", np.arange(3)), ("a.txt", "a")):
        source = open_source(write(name, content), ALL)
        (tmp_path / name).unlink()
        with pytest.raises(StorageError, match=f"cannot read .*{name}: No such file or directory"):
            list(source.chunks(2))


@pytest.mark.parametrize(
    ("name", "content", "gives"),
    [
        ("a.txt", "a", "Text"),
        ("a.csv", "1\n", "Rows"),
        ("a.npy", np.arange(3), "Tokens or Symbols"),
        ("a.npy", np.ones((3, 1)), "Rows"),
    ],
)
def test_a_kind_that_is_not_taken(write, name, content, gives):
    with pytest.raises(InputError, match=f"{name} gives {gives}, but the system takes Query"):
        open_source(write(name, content), (Query,))
