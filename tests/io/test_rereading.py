"""JRT-Prompt, as a string and as a transform of a stream."""

import numpy as np
import pytest

from unending.core import Control, Query, Text, Tokens
from unending.core.errors import InputError
from unending.io.rereading import jrt_prompt, read_twice


def written(chunks):
    return "".join(chunk.text for chunk in chunks)


def test_the_prompt_of_the_paper():
    assert (
        jrt_prompt("A film of 1994.", "director")
        == "Information about director. A film of 1994.\nA film of 1994. director:"
    )
    assert jrt_prompt("A film", "director", repeats=1, hint=False) == "A film. director:"
    assert jrt_prompt("A film", "x", repeats=3, hint=False) == "A film.\nA film.\nA film. x:"


def test_the_context_and_not_only_the_question_is_said_again():
    prompt = jrt_prompt("Needle in hay.", "what")
    assert prompt.count("Needle in hay.") == 2


@pytest.mark.parametrize("end", ["", ".", "...", " . \n", "\n\n"])
def test_a_context_ends_with_one_full_stop(end):
    assert jrt_prompt(f"Mr. A. Smith{end}", "name", repeats=1, hint=False) == "Mr. A. Smith. name:"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_a_stream_in_any_pieces_says_the_prompt(size):
    text = "One. Two ... three.. \n. "
    pieces = [Text(text[i : i + size], t=float(i)) for i in range(0, len(text), size)]
    chunks = list(read_twice(pieces, " count ", repeats=2))
    assert written(chunks) == jrt_prompt(text, "count")
    assert isinstance(chunks[-1], Query)
    assert all(chunk.t is None for chunk in chunks)


def test_tokens_are_said_again_without_words_between():
    pieces = [Tokens(np.array([1, 5, 6])), Tokens(np.array([2, 7]), t=3.0)]
    said = list(read_twice(pieces, repeats=2))
    assert np.concatenate([chunk.ids for chunk in said]).tolist() == [1, 5, 6, 2, 7] * 2
    assert list(read_twice(pieces, "which?"))[-1].text == "which?"


def test_other_chunks_pass_by():
    said = list(read_twice([Control("x"), Text("a b")], "q", hint=False))
    kinds = [type(chunk).__name__ for chunk in said]
    assert kinds == ["Control", "Text", "Text", "Text", "Control", "Text", "Text", "Query"]


def test_a_stream_is_read_anew_and_not_kept():
    class Again:
        opened = 0

        def __iter__(self):
            self.opened += 1
            yield from (Text("x ") for _ in range(3))

    source = Again()
    assert written(read_twice(source, "q", repeats=2, hint=False)) == "x x x.\nx x x. q:"
    assert source.opened >= 2


@pytest.mark.parametrize(
    ("stream", "repeats", "message"),
    [
        (iter([Text("a")]), 2, "only once"),
        ([Text("a")], 0, "once or more"),
        ([], 2, "is empty"),
        ([Text("")], 2, "is empty"),
    ],
)
def test_what_cannot_be_read_twice_is_refused(stream, repeats, message):
    with pytest.raises(InputError, match=message):
        list(read_twice(stream, "q", repeats=repeats))


def test_blank_contexts_and_questions_are_refused():
    for context, question in (("  ", "q"), ("a", " ")):
        with pytest.raises(InputError, match="not blank"):
            jrt_prompt(context, question)
