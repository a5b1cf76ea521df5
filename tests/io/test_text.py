"""Text: the holding back to the end of a word, and files as chunks of characters."""

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unending.core.errors import InputError, StorageError
from unending.io.text import feed, flush, held_text, read_characters, read_text, standard_text

TEXTS = st.text(st.sampled_from("ab é音😀  \n\t"), max_size=60)
BLOCK = 1 << 16
"""Bytes that a file is read in."""


def pieces(calls, limit):
    held, found = held_text(limit), []
    for call in calls:
        held, more = feed(held, call)
        found += more
    held, rest = flush(held)
    assert held.count == 0
    return found + ([rest] if rest else [])


def cut(text, places):
    bounds = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(bounds)]


@given(TEXTS, st.lists(st.integers(0, 60), max_size=8), st.integers(1, 9))
def test_pieces_do_not_depend_on_the_cutting(text, places, limit):
    whole = pieces([text], limit)
    assert pieces(cut(text, places), limit) == whole
    assert pieces(text, limit) == whole
    assert "".join(whole) == text


@given(TEXTS, st.lists(st.integers(0, 60), max_size=8), st.integers(1, 9))
def test_what_is_held_depends_on_the_stream_alone(text, places, limit):
    states = []
    for calls in ([text], cut(text, places)):
        held = held_text(limit)
        for call in calls:
            held, _ = feed(held, call)
        states.append(held)
    first, second = states
    np.testing.assert_array_equal(first.characters, second.characters)
    assert (first.count, first.position) == (second.count, second.position) == (first.count, len(text))
    assert first.count <= limit


@given(TEXTS, st.integers(1, 9))
def test_pieces_end_where_white_space_begins_and_at_multiples_of_the_limit(text, limit):
    ends = np.cumsum([len(piece) for piece in pieces([text], limit)]).tolist()
    wanted = {
        at
        for at in range(1, len(text))
        if at % limit == 0 or (text[at].isspace() and not text[at - 1].isspace())
    }
    assert set(ends) == wanted | ({len(text)} if text else set())


def test_a_word_without_end_is_cut_at_multiples_of_the_limit():
    held, found = feed(held_text(4), "ab cdefghijklm")
    assert found == ["ab", " c", "defg", "hijk"]
    assert held.count == 2


def test_feeding_leaves_the_old_state_alone():
    held, _ = feed(held_text(8), "abc")
    before = held.characters.copy()
    feed(held, "def ghi")
    flush(held)
    np.testing.assert_array_equal(held.characters, before)
    assert held.count == 3


def written(tmp_path, content):
    path = tmp_path / "book.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(TEXTS, st.integers(1, 9), st.integers(0, 60))
def test_chunks_from_anywhere_are_the_rest_of_the_text(tmp_path_factory, text, size, skip):
    path = written(tmp_path_factory.mktemp("texts"), text)
    if skip > len(text):
        with pytest.raises(InputError, match=f"ends at {len(text)}, before {skip} where"):
            list(read_text(path, size=size, skip=skip))
        return
    chunks = [chunk.text for chunk in read_text(path, size=size, skip=skip)]
    assert "".join(chunks) == text[skip:]
    # Cut at multiples of the size from the beginning, wherever it begins.
    whole = [chunk.text for chunk in read_text(path, size=size)]
    assert all(len(chunk) == size for chunk in whole[:-1])
    if chunks:
        assert chunks[1:] == whole[len(whole) - len(chunks) + 1 :]


@pytest.mark.parametrize("offset", [-3, -2, -1, 0, 1])
def test_a_character_across_the_border_of_two_blocks(tmp_path, offset):
    text = "a" * (BLOCK + offset) + "😀é" + "b" * 10
    path = written(tmp_path, text)
    assert "".join(chunk.text for chunk in read_text(path, size=1000)) == text
    assert "".join(chunk.text for chunk in read_text(path, size=1000, skip=BLOCK - 3)) == text[BLOCK - 3 :]


@pytest.mark.parametrize("at", [0, 1, 500, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK])
def test_the_error_names_the_byte(tmp_path, at):
    path = written(tmp_path, b"a" * at + b"\xff" + b"b" * 100)
    with pytest.raises(InputError, match=rf"book\.txt: byte {at} is not UTF-8 text; errors 'replace'"):
        list(read_text(path))
    found = "".join(chunk.text for chunk in read_text(path, errors="replace"))
    assert found == "a" * at + "\N{REPLACEMENT CHARACTER}" + "b" * 100
    assert "".join(chunk.text for chunk in read_text(path, errors="ignore")) == "a" * at + "b" * 100


@pytest.mark.parametrize("before", [b"", b"a" * 7, b"a" * (BLOCK - 2), b"a" * (BLOCK - 1)])
def test_a_character_that_breaks_off_is_named_where_it_begins(tmp_path, before):
    for end in (b"", b"a"):
        path = written(tmp_path, before + "音".encode()[:2] + end)
        with pytest.raises(InputError, match=f"byte {len(before)} is not"):
            list(read_text(path))


def test_what_stands_before_a_bad_byte_is_read(tmp_path):
    chunks = read_text(written(tmp_path, b"0123456789\xff"), size=4)
    assert [next(chunks).text, next(chunks).text] == ["0123", "4567"]
    with pytest.raises(InputError):
        next(chunks)
    characters = read_characters(io.BytesIO(b"0123456789\xff"), "it")
    assert next(characters) == "0123456789"


def test_an_empty_file_has_no_chunks(tmp_path):
    assert list(read_text(written(tmp_path, ""))) == []


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(StorageError, match=r"cannot read .*nowhere: No such file or directory"):
        list(read_text(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match=r"cannot read .*: Is a directory"):
        list(read_text(tmp_path))


def test_the_standard_text_is_long_and_always_the_same():
    text = standard_text()
    assert len(text) > 300_000
    assert text == standard_text()
    assert text.isprintable() or "\n" in text
