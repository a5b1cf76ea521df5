"""What a person names as a source, as chunks of a kind that an operator takes."""

import csv
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unending.core import Chunk, Rows, Symbols, Text, Tokens
from unending.core.errors import InputError, StorageError
from unending.io.text import read_text, standard_text

__all__ = ["STANDARD_TEXT", "Source", "open_source"]

STANDARD_TEXT = "python:topics"
"""Name of the source `standard_text()`: a real text that every Python carries."""


@dataclass(frozen=True)
class Source:
    """A finite or endless stream of chunks that can be read from any item on."""

    name: str
    kind: type[Chunk]
    size: int | None
    """Items (bytes, for a text file: a lower bound of none) where that is known before reading; else `None`."""
    encoding_errors: str = "strict"

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """Chunks of `size` items from item `skip` on.

        Raises
        ------
        InputError
            where the content cannot be read as this kind.
        StorageError
            if the file cannot be read.
        """
        if self.name == "-":
            yield from _standard_input(size)
        elif self.name == STANDARD_TEXT:
            text = standard_text()
            for start in range(skip, len(text), size):
                yield Text(text[start : start + size])
        elif self.kind is Text:
            yield from read_text(self.name, size=size, skip=skip, errors=self.encoding_errors)
        elif self.name.endswith(".csv"):
            yield from _csv_rows(self.name, size, skip)
        else:
            yield from _array_chunks(self.name, self.kind, size, skip)


def open_source(name: str, takes: Collection[type[Chunk]], *, encoding_errors: str = "strict") -> Source:
    """The source of that name, as a kind that is taken.

    Accepted are a text file, `-` (standard input), `python:topics`, a `.npy` file (integers `[n]` are tokens or
    symbols, numbers `[n, width]` are rows) and a `.csv` file of numbers (rows).

    Raises
    ------
    InputError
        if the operator takes none of the kinds that this source gives.
    StorageError
        if there is no such file.
    """
    path = Path(name)
    if name not in ("-", STANDARD_TEXT) and not path.is_file():
        raise StorageError(f"cannot read {name}: there is no such file")
    if path.suffix == ".npy":
        shape, dtype = _npy_header(name)
        ids = len(shape) == 1 and np.issubdtype(dtype, np.integer)
        offered: tuple[type[Chunk], ...] = (Tokens, Symbols) if ids else (Rows,)
        size: int | None = shape[0]
    elif path.suffix == ".csv":
        offered, size = (Rows,), None
    else:
        offered = (Text,)
        size = len(standard_text()) if name == STANDARD_TEXT else None if name == "-" else path.stat().st_size
    for kind in offered:
        if kind in takes:
            return Source(name, kind, size, encoding_errors)
    gives = " or ".join(kind.__name__ for kind in offered)
    raise InputError(
        f"{name} gives {gives}, but the system takes {', '.join(kind.__name__ for kind in takes)}"
    )


def _standard_input(size: int) -> Iterator[Text]:
    while piece := sys.stdin.readline(size):
        yield Text(piece)


def _npy_header(name: str) -> tuple[tuple[int, ...], np.dtype]:
    try:
        array = np.load(name, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{name} is not a .npy file of numbers: {error}") from error
    if array.ndim == 0:
        raise InputError(f"{name} holds a single number; accepted are [n] and [n, width]")
    return array.shape, array.dtype


def _array_chunks(name: str, kind: type[Chunk], size: int, skip: int) -> Iterator[Chunk]:
    array = np.load(name, mmap_mode="r", allow_pickle=False)
    for start in range(skip, len(array), size):
        yield kind(np.array(array[start : start + size]))  # type: ignore[call-arg]


def _csv_rows(name: str, size: int, skip: int) -> Iterator[Rows]:
    with open(name, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        names: tuple[str, ...] = ()
        rows: list[list[float]] = []
        index = 0
        for line, record in enumerate(reader, start=1):
            try:
                values = [float(cell) for cell in record]
            except ValueError as error:
                if line == 1:
                    names = tuple(record)
                    continue
                raise InputError(f"{name}: line {line} is not a row of numbers ({error})") from error
            index += 1
            if index > skip:
                rows.append(values)
            if len(rows) == size:
                yield Rows(np.array(rows), names)
                rows = []
        if rows:
            yield Rows(np.array(rows), names)
