"""Text that waits: words, line breaks, times, and a buffer that fills up."""

import numpy as np
import pytest

from unending.systems.language.group_position_encoding import words


def items(pieces, longest=8, capacity=64):
    """All items of a text that arrives in pieces, (text, newline, time)."""
    held, found = words.no_words(capacity), []

    def take(held):
        while item := words.next_item(held, longest):
            found.append((item.text, item.newline, item.time))
            held = words.forget(held, item.used)
        return held

    for piece in pieces:
        held, rest = words.arrive(held, piece)
        held = take(held)
        assert not rest
    held, _ = words.arrive(held, words.END, period=0.0)
    held = take(held)
    assert held.count == 0
    return found, float(held.time)


TEXT = "so it  is\n\n and\there \n goes\u3000naïvete河流 verylongword x"


def test_the_words_of_a_text():
    found, time = items([TEXT])
    assert [text for text, newline, _ in found if not newline and text] == [
        *("so", "it", "is", "and", "here", "goes", "naïvete河", "流", "verylong", "word", "x")
    ]
    assert [at for text, newline, at in found if newline] == [10.0, 11.0, 22.0]
    assert found[0] == ("so", False, 2.0)
    assert found[-2:] == [("x", False, float(len(TEXT))), ("", False, float(len(TEXT)))]
    assert time == len(TEXT)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_of_any_size_give_the_same(size):
    pieces = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    assert items(pieces) == items([TEXT])


def test_a_full_buffer_gives_back_the_rest():
    held, rest = words.arrive(words.no_words(4), "ab cdef")
    assert rest == "def"
    assert float(held.time) == 4
    held = words.forget(held, words.next_item(held, 8).used)
    held, rest = words.arrive(held, rest)
    assert rest == "f"
    assert held.times[: held.count].tolist() == [3, 4, 5, 6]
    assert words.words_bytes(4) == held.characters.nbytes + held.times.nbytes + 8 + held.time.nbytes


def test_what_was_forgotten_leaves_no_trace():
    held, _ = words.arrive(words.no_words(8), "ab cd")
    held = words.forget(held, 2)
    assert held.count == 3
    assert not held.characters[3:].any()
    assert not held.times[3:].any()
    assert np.array_equal(held.canonical().characters, held.characters)
    stamped, _ = words.arrive(held, "e", t=50.0)
    assert stamped.times[3] == 51
