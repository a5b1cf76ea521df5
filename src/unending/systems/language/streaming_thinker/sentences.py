"""Sentences of a text that is still arriving."""

import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from unending.core.errors import InputError

__all__ = ["SentenceSplitter", "Unit", "Units"]

_TITLES = "mr|mrs|ms|dr|prof|rev|hon|st|sr|jr|corp|gen|col|capt|lt|sgt|gov|sen|rep"
_MONTHS = "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
_OTHERS = "vs|etc|cf|fig|figs|eq|eqs|nos|vol|pp|eds|approx|dept|est|inc|ltd|e.g|i.e|a.m|p.m|u.s|u.k|ph.d"
_ABBREVIATIONS = frozenset(f"{_TITLES}|{_MONTHS}|{_OTHERS}".split("|"))
_END = re.compile(
    r"""(?P<stop>[.!?…]+)[)\]"'”’»]*(?=\s)   # a full stop counts once white space follows: 3.5 has none
    |[。！？]+[」』”’]*                        # these need nothing behind them
    |\n[^\S\n]*(?=\n)                          # a blank line""",
    re.VERBOSE,
)
_WORD_BEFORE = re.compile(r"[^\s(\[\"'“‘«]+\Z")


class Unit(NamedTuple):
    """A sentence that has come to its end."""

    text: str
    """Without the white space around it; empty where there was nothing else, and then it is no sentence."""
    end: int
    """Characters of the given text that it uses up."""
    known: int
    """Characters of the given text that had to arrive before it was known to end there."""


class Units(Protocol):
    """What cuts a text into units: sentences, or whatever one thought can be about."""

    @property
    def limit(self) -> int:
        """Characters of one unit at most."""

    def split(self, text: str) -> list[Unit]:
        """The units of a text whose rest is still to come, in order; what follows the last of them is held back.

        Each depends only on the characters up to its `known`, so that it does not matter how a text arrives.
        """


@dataclass(frozen=True)
class SentenceSplitter:
    """Cuts a text at the ends of its sentences, and holds back what might go on.

    A full stop, question or exclamation mark ends a sentence once white space follows it (so not in 3.5), unless it
    belongs to an abbreviation ("Dr.", "e.g.") or an initial ("J. Smith"); so does a blank line. A sentence without
    an end is cut at its last white space within `limit` characters, or there.

    Raises
    ------
    InputError
        if the limit is below 8.
    """

    limit: int = 512

    def __post_init__(self) -> None:
        if self.limit < 8:
            raise InputError(f"a sentence may have 8 characters or more, not {self.limit}")

    def split(self, text: str) -> list[Unit]:
        """See `Units.split`."""
        units, start = [], 0
        while (cut := self._next(text, start)) is not None:
            end, known = cut
            units.append(Unit(text[start:end].strip(), end, known))
            start = end
        return units

    def _next(self, text: str, start: int) -> tuple[int, int] | None:
        """Where the sentence from `start` on ends, and how far that had to be read."""
        piece = text[start : start + self.limit]
        begun = len(piece) - len(piece.lstrip())
        for found in _END.finditer(piece, begun):
            # The white space that the pattern looks ahead to has to be within the limit as well.
            if found["stop"] != "." or not _goes_on(piece[: found.start()]):
                ahead = found.end() + (found["stop"] is not None or piece[found.start()] == "\n")
                return start + found.end(), start + ahead
        if len(piece) < self.limit:
            return None
        space = max(piece.rfind(white, begun) for white in " \n\t")
        return start + (space if space > begun else self.limit), start + self.limit


def _goes_on(before: str) -> bool:
    """Whether a single full stop behind this text belongs to its last word."""
    found = _WORD_BEFORE.search(before)
    word = found[0] if found else ""
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word != "I")
