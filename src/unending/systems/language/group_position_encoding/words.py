"""Text that has arrived and is not read yet, and the words and line breaks at its head."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from unending.core import state

__all__ = ["END", "Item", "Words", "arrive", "forget", "next_item", "no_words", "words_bytes"]

END = "\x1e"
"""Ends a passage without a line break (U+001E, the record separator)."""


@state
class Words:
    """Characters that wait to be read; runs of blanks are kept as one."""

    characters: np.ndarray
    """uint32 `[capacity]` code points, of which the first `count` are in use."""
    times: np.ndarray
    """float64 `[capacity]`: stream time at which each of them ends."""
    count: int
    time: np.ndarray
    """float64 scalar: stream time that has arrived, in characters."""

    def canonical(self) -> Self:
        """Zeros in the slots that hold nothing."""
        used = np.arange(len(self.times)) < self.count
        return replace(
            self,
            characters=np.where(used, self.characters, 0).astype(np.uint32),
            times=np.where(used, self.times, 0.0),
        )


@dataclass(frozen=True)
class Item:
    """The head of the text: a word, or (without text) the end of a passage."""

    text: str
    newline: bool
    used: int
    """Characters that it takes up, blanks before it included."""
    time: float
    """Stream time at which it ends."""


def no_words(capacity: int) -> Words:
    """Nothing has arrived."""
    return Words(np.zeros(capacity, dtype=np.uint32), np.zeros(capacity), 0, np.zeros(()))


def words_bytes(capacity: int) -> int:
    """Bytes of a `Words`."""
    return 12 * capacity + 8 + 8


def arrive(words: Words, text: str, t: float | None = None, *, period: float = 1.0) -> tuple[Words, str]:
    """Take in as much of a text as there is room for; give back the rest of it.

    `t` is the stream time at which it begins, if not right behind what came before; a character lasts `period`.
    """
    begins = float(words.time) if t is None else float(t)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32)
    space = np.array([character.isspace() for character in text], dtype=bool)
    blank = space & (codes != ord("\n")) & (codes != ord(END))
    before = words.count == 0 or chr(int(words.characters[words.count - 1])).isspace()
    kept = np.flatnonzero(~(blank & np.concatenate([[before], space[:-1]])))
    room = len(words.characters) - words.count
    end = len(text) if len(kept) <= room else int(kept[room])
    kept = kept[:room]
    characters, times = words.characters.copy(), words.times.copy()
    after = words.count + len(kept)
    characters[words.count : after] = codes[kept]
    times[words.count : after] = begins + period * (kept + 1)
    return Words(characters, times, after, np.asarray(begins + period * end)), text[end:]


def next_item(words: Words, longest: int) -> Item | None:
    """The next word or line break, or None until it has arrived whole; a word is cut after `longest` characters."""
    head = _text(words, min(words.count, longest + 2))
    start = 1 if head[:1].isspace() and head[0] not in ("\n", END) else 0
    if len(head) == start:
        return None
    if head[start] in ("\n", END):
        return Item("", head[start] == "\n", start + 1, float(words.times[start]))
    end = next((at for at in range(start, len(head)) if head[at].isspace()), len(head))
    end = min(end, start + longest)
    if end == len(head) and end < start + longest:
        return None
    return Item(head[start:end], False, end, float(words.times[end - 1]))


def forget(words: Words, used: int) -> Words:
    """Drop characters at the head."""
    left = words.count - used
    characters, times = np.zeros_like(words.characters), np.zeros_like(words.times)
    characters[:left], times[:left] = (held[used : words.count] for held in (words.characters, words.times))
    return replace(words, characters=characters, times=times, count=left)


def _text(words: Words, n: int) -> str:
    return words.characters[:n].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
