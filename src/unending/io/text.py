"""Text: files as chunks, and the holding back of text until it may be tokenised."""

import codecs
import re
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from unending.core import Text, state
from unending.core.errors import InputError, StorageError

__all__ = ["HeldText", "feed", "flush", "held_text", "read_characters", "read_text", "standard_text"]


_SPACE_BEGINS = re.compile(r"(?<=\S)\s")


@state
class HeldText:
    """Characters that wait for the end of their word."""

    characters: np.ndarray
    """uint32 `[limit]` code points, of which the first `count` are in use."""
    count: int
    position: int
    """Stream position, in characters, of the next character to arrive."""


def held_text(limit: int = 256) -> HeldText:
    """Nothing held; a word is cut at the latest at stream positions that are multiples of `limit`."""
    return HeldText(np.zeros(limit, dtype=np.uint32), 0, 0)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32)


def _string(codes: np.ndarray) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def feed(held: HeldText, text: str) -> tuple[HeldText, list[str]]:
    """Add text; give back the pieces that may be tokenised on their own.

    A piece ends where white space begins after something else (tokenizers split there whatever follows), or at a
    multiple of the limit. Both depend on the stream alone, so the pieces do not depend on how it is cut into calls.
    """
    limit = len(held.characters)
    whole = _string(held.characters[: held.count]) + text
    begin = held.position - held.count
    spaces = (match.start() for match in _SPACE_BEGINS.finditer(whole))
    forced = range(-begin % limit or limit, len(whole), limit)
    # What was held already has no cut inside; its first character begins a piece.
    cuts = sorted({cut for cut in (*spaces, *forced) if cut >= max(held.count, 1)})
    pieces = [whole[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]
    last = cuts[-1] if cuts else 0
    rest = _codes(whole[last:])
    characters = np.zeros_like(held.characters)
    characters[: len(rest)] = rest
    return HeldText(characters, len(rest), begin + len(whole)), pieces


def flush(held: HeldText) -> tuple[HeldText, str]:
    """Take out what is held."""
    return HeldText(np.zeros_like(held.characters), 0, held.position), _string(held.characters[: held.count])


def read_text(path: str | Path, *, size: int = 2048, errors: str = "strict", skip: int = 0) -> Iterator[Text]:
    """The text of a UTF-8 file as chunks of `size` characters, from character `skip` on; read as it is consumed.

    Raises
    ------
    InputError
        at bytes that are not UTF-8, with their position; `errors="replace"` and `"ignore"` read over them. Where
        the text ends before `skip`.
    StorageError
        if the file cannot be read.
    """
    position = 0
    try:
        with open(path, "rb") as file:
            for piece in _pieces(read_characters(file, str(path), errors), size):
                position += len(piece)
                if position > skip:
                    yield Text(piece[max(0, len(piece) - (position - skip)) :])
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    if position < skip:
        raise InputError(f"{path} ends at {position:,}, before {skip:,} where reading was to go on")


def read_characters(file: BufferedIOBase, name: str, errors: str = "strict") -> Iterator[str]:
    """The characters of an open UTF-8 file as they arrive, in pieces of any length; `name` is for the error's text.

    Raises
    ------
    InputError
        at bytes that are not UTF-8, once what stands before them has been given out.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    done, block = 0, b"begun"
    while block:
        block = file.read1(1 << 16)
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            offset = done - len(decoder.getstate()[0]) + error.start
            yield error.object[: error.start].decode()
            raise InputError(
                f"{name}: byte {offset} is not UTF-8 text; errors 'replace' or 'ignore' read over such bytes"
            ) from error
        done += len(block)


def _pieces(arriving: Iterable[str], size: int) -> Iterator[str]:
    """The same characters, `size` at a time."""
    waiting = ""
    for characters in arriving:
        waiting += characters
        whole = len(waiting) - len(waiting) % size
        yield from (waiting[start : start + size] for start in range(0, whole, size))
        waiting = waiting[whole:]
    if waiting:
        yield waiting


def standard_text() -> str:
    """A long real English text that every Python carries: its language reference (about 465,000 characters)."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
