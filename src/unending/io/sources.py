"""What a person names as a source, as chunks of a kind that an operator takes."""

import csv
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unending.core import Chunk, Event, Operator, Query, Rows, Symbols, Text, Tokens
from unending.core.errors import InputError, StorageError
from unending.io.prompts import count_prompts, read_prompts
from unending.io.text import read_characters, read_text, standard_text

__all__ = ["STANDARD_TEXT", "Source", "StreamSource", "fitted", "open_source"]

STANDARD_TEXT = "python:topics"
"""Name of the source `standard_text()`: a real text that every Python carries."""
_COUNTED = 1 << 28
"""Bytes up to which the characters of a file are counted first."""


class StreamSource(Protocol):
    """Where a stream comes from: a file, or an environment that answers to what comes out."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def kind(self) -> type[Chunk]:
        """The kind of its items."""

    @property
    def size(self) -> int | None:
        """Items, where that is known before reading."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Sizes of its items by the name that operators have for them, such as `{"width": 12}`."""

    @property
    def unit(self) -> str:
        """What its items are called, more than one of them."""

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """Chunks of `size` items from item `skip` on."""

    def see(self, events: Iterable[Event]) -> None:
        """Take note of what came out of the system."""

    def record(self) -> dict[str, Any]:
        """What `restore` needs to go on from here, beside the number of items, as plain values."""

    def restore(self, record: Mapping[str, Any]) -> None:
        """Go on from a record."""

    def close(self) -> None:
        """Let go of what is held open."""


def fitted(operator: Operator[Any], source: StreamSource) -> Operator[Any]:
    """The operator with the sizes it left at 0 taken from the source.

    Raises
    ------
    InputError
        if the source has no rows to take them from.
    """
    settings = operator.settings()
    if settings.get("width") == 0 and source.kind is Rows and "width" not in source.sizes:
        raise InputError(f"{source.name} is an empty stream: it has no rows to take the width from")
    known = {name: size for name, size in source.sizes.items() if settings.get(name) == 0}
    return replace(operator, **known) if known else operator  # type: ignore[type-var]


@dataclass(frozen=True)
class Source:
    """A finite or endless stream of chunks that can be read from any item on."""

    name: str
    kind: type[Chunk]
    size: int | None
    """Items, where that is known before reading."""
    encoding_errors: str = "strict"
    sizes: Mapping[str, int] = field(default_factory=dict)
    """See `StreamSource.sizes`."""

    @property
    def unit(self) -> str:
        """What its items are called, more than one of them."""
        return {Text: "characters", Query: "prompts"}.get(self.kind, self.kind.__name__.lower())

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """Chunks of `size` items from item `skip` on; standard input goes on from wherever it stands.

        Prompts come one a chunk, the k-th at stream time k, counted from 1.

        Raises
        ------
        InputError
            where the content cannot be read as this kind, or ends before `skip`.
        StorageError
            if the file cannot be read.
        """
        if self.name == "-":
            yield from _standard_input(size, self.encoding_errors)
        elif self.name == STANDARD_TEXT:
            text = standard_text()
            for start in range(skip, len(text), size):
                yield Text(text[start : start + size])
        elif self.kind is Query:
            yield from read_prompts(self.name, skip)
        elif self.kind is Text:
            yield from read_text(self.name, size=size, skip=skip, errors=self.encoding_errors)
        elif self.name.endswith(".csv"):
            yield from _csv_rows(self.name, size, skip)
        else:
            yield from _array_chunks(self.name, self.kind, size, skip)

    def see(self, events: Iterable[Event]) -> None:
        """A file hears nothing of what comes out."""

    def record(self) -> dict[str, Any]:
        """The number of items is all that a file needs."""
        return {}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Nothing is to be restored."""

    def close(self) -> None:
        """A file is open only while its chunks are read."""


def open_source(name: str, takes: Collection[type[Chunk]], *, encoding_errors: str = "strict") -> Source:
    """The source of that name, as a kind that is taken.

    Accepted are a text file, `-` (standard input), `python:topics`, a `.npy` file (integers `[n]` are tokens or
    symbols, numbers `[n, width]` are rows), a `.csv` file of numbers (rows) and a `.jsonl` file of prompts (queries).

    Raises
    ------
    InputError
        if the operator takes none of the kinds that this source gives.
    StorageError
        if there is no such file.
    """
    path = Path(name)
    if name not in ("-", STANDARD_TEXT) and (path.is_dir() or not path.exists()):
        raise StorageError(f"cannot read {name}: {'it is a folder' if path.is_dir() else 'no such file'}")
    size: int | None = None
    sizes: dict[str, int] = {}
    offered: tuple[type[Chunk], ...] = (Text,)
    if path.suffix == ".npy":
        array = _array(name)
        offered, size = (Tokens, Symbols) if array.ndim == 1 else (Rows,), len(array)
        sizes = {"width": array.shape[1]} if array.ndim == 2 else {}
    elif path.suffix == ".csv":
        offered = (Rows,)
        sizes = {"width": len(first[1])} if (first := next(_csv_records(name), None)) else {}
    elif path.suffix == ".jsonl":
        offered, size = (Query,), count_prompts(name)
    elif name == STANDARD_TEXT:
        size = len(standard_text())
    elif name != "-":
        size = _characters(path)
    for kind in offered:
        if kind in takes:
            return Source(name, kind, size, encoding_errors, sizes)
    gives = " or ".join(kind.__name__ for kind in offered)
    raise InputError(
        f"{name} gives {gives}, but the system takes {', '.join(kind.__name__ for kind in takes)}"
    )


def _characters(path: Path) -> int | None:
    """Characters of a UTF-8 file, counted where that is quick; `None` for pipes and big files."""
    if not path.is_file() or path.stat().st_size > _COUNTED:
        return None
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    # All bytes of a character after its first are 10xxxxxx.
    return int(np.count_nonzero((content & 0xC0) != 0x80))


def _standard_input(size: int, errors: str) -> Iterator[Text]:
    if sys.stdin is None:
        raise InputError("standard input is closed")
    for characters in read_characters(sys.stdin.buffer, "standard input", errors):  # type: ignore[arg-type]
        # What has arrived goes on at once: the next may be long in coming.
        for start in range(0, len(characters), size):
            yield Text(characters[start : start + size])


def _array(name: str) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(name, mode="r")
    except OSError as error:
        raise StorageError(f"cannot read {name}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise InputError(f"{name} is not a .npy file of numbers ({error})") from error
    if array.ndim == 2 and array.dtype.kind in "biuf":
        return array
    if array.ndim == 1 and array.dtype.kind in "iu":
        return array
    raise InputError(
        f"{name} holds {array.dtype}{list(array.shape)}; accepted are integers [n] and numbers [n, width]"
    )


def _array_chunks(name: str, kind: type[Chunk], size: int, skip: int) -> Iterator[Chunk]:
    array = _array(name)
    _require_reached(name, len(array), skip)
    for start in range(skip, len(array), size):
        yield kind(np.array(array[start : start + size]))  # type: ignore[call-arg]


def _csv_rows(name: str, size: int, skip: int) -> Iterator[Rows]:
    names: tuple[str, ...] = ()
    rows: list[list[float]] = []
    index = width = 0
    for line, record in _csv_records(name):
        try:
            values = [float(cell) for cell in record]
        except ValueError as error:
            if not names and not index:
                if any(map(_is_number, record)):
                    raise InputError(
                        f"{name}: line {line} is neither numbers nor names of columns ({error})"
                    ) from error
                names, width = tuple(record), len(record)
                continue
            raise InputError(f"{name}: line {line} is not a row of numbers ({error})") from error
        if not all(map(isfinite, values)):
            raise InputError(f"{name}: line {line} holds NaN or infinity; finite numbers are accepted")
        width = width or len(values)
        if len(values) != width:
            raise InputError(f"{name}: line {line} has {len(values)} columns, the lines before it {width}")
        index += 1
        if index > skip:
            rows.append(values)
        if len(rows) == size:
            yield Rows(np.array(rows), names)
            rows = []
    if rows:
        yield Rows(np.array(rows), names)
    _require_reached(name, index, skip)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _csv_records(name: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file that are not blank, with their line numbers."""
    try:
        with open(name, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for record in reader:
                if record:
                    yield reader.line_num, record
    except OSError as error:
        raise StorageError(f"cannot read {name}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{name} is not a CSV file in UTF-8 ({error})") from error


def _require_reached(name: str, size: int, skip: int) -> None:
    if size < skip:
        raise InputError(f"{name} ends at {size:,}, before {skip:,} where reading was to go on")
