"""Where a generated word ends."""

import pytest

from unending.parts.emission import Boundary, at_boundary, ends_sentence


@pytest.mark.parametrize(
    ("text", "last", "tokens", "stopped", "wanted"),
    [
        (" foo", " foo", 1, False, Boundary.OPEN),
        (" foobar", "bar", 2, False, Boundary.OPEN),
        (" foo bar", " bar", 2, False, Boundary.SPACE),
        ("foo ", " ", 2, False, Boundary.SPACE),
        (" foo\n", "\n", 2, False, Boundary.SPACE),
        (" foo bar", " foo bar", 1, False, Boundary.MARK),
        (" foo.", ".", 2, False, Boundary.MARK),
        (" ,", " ,", 1, False, Boundary.MARK),
        (" foo?!", "?!", 2, False, Boundary.OPEN),
        (" foo", "", 2, True, Boundary.STOP),
        (" " + "a" * 50, "a", 50, False, Boundary.FULL),
    ],
)
def test_the_rules_of_a_write(text, last, tokens, stopped, wanted):
    assert at_boundary(text, last, tokens, stopped=stopped) is wanted


def test_the_space_before_a_word_is_no_boundary():
    """A toy that looks for any space would end every word at its first token."""
    assert at_boundary(" foo", " foo", 1, stopped=False) is Boundary.OPEN


@pytest.mark.parametrize("word", ["end.", "end?", "so!", 'said."', "終。", "end…"])
def test_words_that_end_a_sentence(word):
    assert ends_sentence(word)


@pytest.mark.parametrize("word", ["end", "end,", ".5", '"', ""])
def test_words_that_do_not(word):
    assert not ends_sentence(word)
