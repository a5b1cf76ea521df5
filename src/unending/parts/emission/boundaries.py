"""Where a word that is being generated ends, and which words end a sentence."""

from enum import Enum

__all__ = ["Boundary", "at_boundary", "ends_sentence"]

_MARKS = (".", ",", ":", ";", "?", "!")
_CLOSING = "\"')]}»”’"
_SENTENCE = (".", "?", "!", "。", "？", "！", "…")


class Boundary(Enum):
    """What ended a write."""

    OPEN = "open"
    """Nothing yet: the word goes on."""
    SPACE = "space"
    """Its newest token begins the next word: it is no part of this one."""
    MARK = "mark"
    """Punctuation, or one token that holds a space."""
    STOP = "stop"
    """The token that ends the target."""
    FULL = "full"
    """As many tokens as a write may have."""


def at_boundary(text: str, last: str, tokens: int, *, stopped: bool, cap: int = 50) -> Boundary:
    """Whether a write has reached the end of its word (Tong et al. 2025, arXiv 2505.16983).

    Parameters
    ----------
    text
        all that was written, the newest token included; a space before the word is its first character.
    last
        text of the newest token.
    tokens
        how many tokens were written, the newest included.
    stopped
        the newest token ends the target.
    cap
        tokens that one write may have.
    """
    if stopped:
        return Boundary.STOP
    if any(character.isspace() for character in text[1:]):
        return Boundary.SPACE if tokens > 1 else Boundary.MARK
    if last.strip() in _MARKS:
        return Boundary.MARK
    return Boundary.FULL if tokens >= cap else Boundary.OPEN


def ends_sentence(word: str) -> bool:
    """Whether a word ends a sentence: a full stop, question or exclamation mark, closing quotes aside."""
    return word.rstrip().rstrip(_CLOSING).endswith(_SENTENCE)
