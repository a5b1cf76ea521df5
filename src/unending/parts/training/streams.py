"""Streams to train and to judge on that need no download: recall tasks, and text that every Python carries."""

import ast
import hashlib
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unending.core.random import philox

__all__ = ["RecallStream", "byte_windows", "digest", "library_docstrings", "library_sources", "repeats"]

START, ASK = 0, 1
"""Ids that `RecallStream` reserves: the first token of every stream, and the mark of a query."""

_DRAWS = 64  # random distances that one generator gives

_LEFT_OUT = {
    *("test", "tests", "idlelib", "idle_test", "tkinter", "turtledemo", "lib2to3", "distutils", "ensurepip"),
    *("msilib", "encodings", "pydoc_data", "__phello__"),
}


@dataclass(frozen=True)
class RecallStream:
    """Records ``key value`` and, every few lines, a query whose answer lies some lines back.

    The layout is ``START``, then for ever: `every` records of two tokens, then one query ``ASK key value`` whose
    last token is the answer. Everything follows from the seed and the position. No key repeats within
    ``keys // 2`` lines, so a query has one answer. StreamEval of Xiao et al., "Efficient Streaming Language
    Models with Attention Sinks", 2023, arXiv 2309.17453, in symbols: a query every 10 lines, answered 20 lines
    back.

    Attributes
    ----------
    seed : int
        names the stream.
    every : int
        records between two queries.
    distance : int
        how many records lie from the one asked for to the query: 1 asks for the newest. 0 draws it for every
        query, evenly from 1 to ``min(records so far, keys // 2)``.
    keys, values : int
        sizes of the two alphabets; `keys` is even.
    """

    seed: int
    every: int = 10
    distance: int = 20
    keys: int = 256
    values: int = 64

    def __post_init__(self) -> None:
        if self.keys % 2 or self.keys < 2 or self.values < 1 or self.every < 1:
            raise ValueError("RecallStream needs an even number of keys, a value and a positive `every`")
        if not 0 <= self.distance <= self.keys // 2:
            raise ValueError(f"distance is {self.distance}; a key is unique for {self.keys // 2} lines only")

    @property
    def vocabulary(self) -> int:
        """How many token ids there are: two marks, the keys, the values."""
        return 2 + self.keys + self.values

    @property
    def period(self) -> int:
        """Tokens from one query to the next."""
        return 2 * self.every + 3

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """The token ids at positions start to stop, int64 [stop - start]."""
        if not 0 <= start <= stop:
            raise ValueError(f"positions run from 0 upwards; asked for {start} to {stop}")
        first, last = max(start - 1, 0) // self.period, max(stop - 2, 0) // self.period
        records = self._records(first * self.every, (last + 1) * self.every)
        asked = self._asked(first, last + 1)
        oldest = min(int(asked.min()), first * self.every)
        answers = self._records(oldest, (last + 1) * self.every)[asked - oldest]
        periods = np.full((last + 1 - first, self.period), ASK, np.int64)
        periods[:, : 2 * self.every] = records.reshape(last + 1 - first, -1)
        periods[:, -2:] = answers
        whole = np.concatenate([[START] if first == 0 else [], periods.ravel()]).astype(np.int64)
        offset = 0 if first == 0 else 1 + first * self.period
        return whole[start - offset : stop - offset]

    def answers(self, start: int, stop: int) -> np.ndarray:
        """Positions in [start, stop) that hold an answer at the asked distance, int64 [n].

        Queries before the stream is `distance` records long ask for the first record and are left out.
        """
        queries = np.arange(max(start - 1, 0) // self.period, max(stop - 1, 0) // self.period + 1)
        queries = queries[(queries + 1) * self.every >= self.distance]
        at = 1 + queries * self.period + self.period - 1
        return at[(at >= start) & (at < stop)]

    def _records(self, start: int, stop: int) -> np.ndarray:
        """Lines start to stop as ids, int64 [stop - start, 2]. Blocks of keys come from two halves by turns."""
        half = self.keys // 2
        blocks = range(start // half, (stop - 1) // half + 1)
        pairs = np.empty((len(blocks), half, 2), np.int64)
        for row, block in enumerate(blocks):
            draw = philox(self.seed, block)
            # Blocks take turns on two halves of the keys: a key returns only after a whole other block.
            pairs[row, :, 0] = 2 + half * (block % 2) + draw.permutation(half)
            pairs[row, :, 1] = 2 + self.keys + draw.integers(self.values, size=half)
        offset = blocks.start * half
        return pairs.reshape(-1, 2)[start - offset : stop - offset]

    def _asked(self, first: int, stop: int) -> np.ndarray:
        """The records that queries first to stop ask for, int64 [stop - first]."""
        seen = (np.arange(first, stop) + 1) * self.every
        if self.distance:
            return np.maximum(seen - self.distance, 0)
        blocks = range(first // _DRAWS, (stop - 1) // _DRAWS + 1)
        even = np.concatenate([philox(self.seed, block, 1).random(_DRAWS) for block in blocks])
        even = even[first - blocks.start * _DRAWS :][: stop - first]
        return seen - 1 - (even * np.minimum(seen, self.keys // 2)).astype(np.int64)


def repeats(rows: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """Rows that say their own beginning over and over: element t becomes element t modulo the period.

    Rows like these teach a small model to copy (induction) long before ordinary text would.

    Parameters
    ----------
    rows : numpy.ndarray
        int64 [n, length].
    periods : numpy.ndarray
        int64 [n], each at least 1.

    Returns
    -------
    numpy.ndarray
        int64 [n, length].
    """
    return np.take_along_axis(rows, np.arange(rows.shape[1]) % periods[:, None], axis=1)


def library_sources() -> dict[str, str]:
    """Every module of this Python's standard library, path to source text, in the order of the paths.

    Left out are what some distributions leave out (tests, tkinter, idlelib), tables, what describes the machine it
    was built on, and ``pydoc_data``, from which `unending.io.text.standard_text` comes: that text is held out. The
    result is the same for the same Python version.
    """
    root = Path(sysconfig.get_path("stdlib"))
    sources = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        top = name.parts[0].removesuffix(".py")
        if top in sys.stdlib_module_names and not (
            _LEFT_OUT & {*name.parts, top} or top.startswith("_sysconfig")
        ):
            sources[name.as_posix()] = path.read_text("utf-8")
    return sources


def library_docstrings() -> dict[str, str]:
    """The docstrings of `library_sources`, path to texts joined by blank lines, modules without any left out."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    result = {}
    for path, source in library_sources().items():
        found = [
            ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, documented)
        ]
        if text := "\n\n".join(text for text in found if text):
            result[path] = text
    return result


def byte_windows(text: bytes, seed: int, step: int, rows: int, length: int) -> np.ndarray:
    """Pieces of a text, drawn by (seed, step).

    Parameters
    ----------
    text : bytes
        at least `length` bytes.
    seed, step : int
        name the draw: the same pair gives the same pieces.
    rows, length : int
        shape of the result.

    Returns
    -------
    numpy.ndarray
        byte values, int64 [rows, length].
    """
    if len(text) < length:
        raise ValueError(f"the text has {len(text)} bytes, a window {length}")
    starts = philox(seed, step).integers(len(text) - length + 1, size=rows)
    return np.frombuffer(text, np.uint8)[starts[:, None] + np.arange(length)].astype(np.int64)


def digest(text: bytes) -> str:
    """SHA-256 in hexadecimal, by which a model card names its data."""
    return hashlib.sha256(text).hexdigest()
