"""Reading: text and tokens of a stream as blocks of token ids with the stream times at which they end."""

from dataclasses import replace

import numpy as np

from unending.core import Text, Tokens, blocks, state
from unending.core.errors import InputError
from unending.io import text
from unending.parts.backbones import LanguageBackbone

__all__ = ["Reading", "flush", "read", "reading", "reading_bytes"]

_HELD = 256
"""Characters of one word that are held back at most."""


@state
class Reading:
    """What has arrived of a token stream and is not in a block yet."""

    characters: text.HeldText
    waiting: blocks.Remainder
    """Rows `(token id, stream time at which it ends)`; float64 holds both exactly."""
    time: np.ndarray
    """float64 scalar: stream time that has arrived, in input items (characters of text, tokens)."""


def reading(hop: int) -> Reading:
    """Nothing has arrived; blocks will hold `hop` tokens."""
    return Reading(text.held_text(_HELD), blocks.remainder(hop, (2,), np.float64), np.zeros(()))


def reading_bytes(hop: int) -> int:
    """Bytes of a `Reading`."""
    return (4 * _HELD + 2 * 8) + (16 * hop + 2 * 8) + 8


def read(now: Reading, chunk: Text | Tokens, backbone: LanguageBackbone) -> tuple[Reading, list[np.ndarray]]:
    """Take in a chunk; give back the blocks that became full, float64 `[hop, 2]` (id, end time).

    Text is held back to the last white space. Tokens that follow text end it.

    Raises
    ------
    InputError
        if the chunk is text and the model has no tokenizer.
    """
    if chunk.t is not None:
        now = replace(now, time=np.asarray(chunk.t, dtype=np.float64))
    if not len(chunk):
        return now, []
    begins = float(now.time)
    arrived = np.asarray(now.time + len(chunk))
    if isinstance(chunk, Text):
        begins -= now.characters.count
        characters, pieces = text.feed(now.characters, chunk.text)
        rows = _encode(now, pieces, begins, backbone)
        full: list[np.ndarray] = []
    else:
        now, full = _release(now, backbone)
        characters = now.characters
        rows = np.stack([chunk.ids, begins + np.arange(1, len(chunk) + 1)], axis=1)
    waiting, more = blocks.feed(now.waiting, rows)
    return Reading(characters, waiting, arrived), full + more


def flush(now: Reading, backbone: LanguageBackbone) -> tuple[Reading, list[np.ndarray]]:
    """Everything that waits, as blocks; the last may be shorter than the hop."""
    now, full = _release(now, backbone)
    waiting, rest = blocks.flush(now.waiting)
    return replace(now, waiting=waiting), full + ([rest] if len(rest) else [])


def _release(now: Reading, backbone: LanguageBackbone) -> tuple[Reading, list[np.ndarray]]:
    """Tokenise the text that is held back."""
    if not now.characters.count:
        return now, []
    begins = float(now.time) - now.characters.count
    characters, piece = text.flush(now.characters)
    waiting, full = blocks.feed(now.waiting, _encode(now, [piece], begins, backbone))
    return replace(now, characters=characters, waiting=waiting), full


def _encode(now: Reading, pieces: list[str], begins: float, backbone: LanguageBackbone) -> np.ndarray:
    """Rows `(id, end time)` of pieces of text, the first of which begins at stream time `begins`."""
    if backbone.tokenizer is None:
        raise InputError(f"model {backbone.name} has no tokenizer: push Tokens")
    first = now.waiting.position == 0
    rows = [(token, begins) for token in backbone.opening] if first and pieces else []
    for piece in pieces:
        ids, ends = backbone.encode_piece(piece, first=first)
        rows += [(token, begins + end) for token, end in zip(ids, ends, strict=True)]
        begins += len(piece)
        first = False
    return np.array(rows, dtype=np.float64).reshape(-1, 2)
