"""Files of automata learning: PAutomaC's strings, solutions and models, and Abbadingo's labelled strings."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unending.core.errors import InputError, StorageError
from unending.systems.learning.pdfa_streams.pfa import PFA

__all__ = [
    "read_abbadingo",
    "read_pautomac",
    "read_pautomac_model",
    "read_solution",
    "write_abbadingo",
    "write_pautomac",
    "write_pautomac_model",
    "write_solution",
]

_ENTRIES = 2**28
"""Entries of T that are held at most, 2 GiB."""
_ENTRY = re.compile(r"^\(\s*(\d+(?:\s*,\s*\d+)*)\s*\)\s+(\S+)$")


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def _numbers(path: str | Path, number: int, line: str) -> list[int]:
    try:
        return [int(each) for each in line.split()]
    except ValueError as error:
        raise InputError(f"{path}, line {number}: {line[:60]!r} is not a row of whole numbers") from error


def _rows(path: str | Path, labelled: int) -> tuple[list[list[int]], int]:
    """Rows (label,) length, symbols of a file with the header "count alphabet"; blank lines at the end are let be."""
    lines = _lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    header = _numbers(path, 1, lines[0]) if lines else []
    if len(header) != 2:
        raise InputError(f"{path}: the first line must be two numbers, of strings and of symbols")
    count, alphabet = header
    if len(lines) - 1 != count:
        raise InputError(f"{path}: the header says {count} strings, the file holds {len(lines) - 1}")
    rows = [_numbers(path, number, line) for number, line in enumerate(lines[1:], 2)]
    for number, row in enumerate(rows, 2):
        symbols = row[labelled + 1 :]
        if len(row) <= labelled or row[labelled] != len(symbols):
            raise InputError(f"{path}, line {number}: the length does not agree with the symbols that follow")
        if symbols and not (min(symbols) >= 0 and max(symbols) < alphabet):
            raise InputError(f"{path}, line {number}: a symbol is outside 0 to {alphabet - 1}")
    return rows, alphabet


def read_pautomac(path: str | Path) -> tuple[list[list[int]], int]:
    """Strings of symbol ids and the size of the alphabet, out of a `.train` or `.test` file.

    Raises
    ------
    InputError
        at the first line that is not of the format, with its number.
    StorageError
        if the file cannot be read.
    """
    rows, alphabet = _rows(path, 0)
    return [row[1:] for row in rows], alphabet


def write_pautomac(path: str | Path, strings: Sequence[Sequence[int]], alphabet: int) -> None:
    """Write a `.train` or `.test` file."""
    rows = [" ".join(map(str, (len(string), *string))) for string in strings]
    _write(path, [f"{len(rows)} {alphabet}", *rows])


def read_abbadingo(path: str | Path) -> tuple[list[list[int]], list[int], int]:
    """Strings, their labels (1 accepted, 0 rejected, -1 unknown) and the size of the alphabet; raises as above."""
    rows, alphabet = _rows(path, 1)
    return [row[2:] for row in rows], [row[0] for row in rows], alphabet


def write_abbadingo(
    path: str | Path, strings: Sequence[Sequence[int]], alphabet: int, labels: Sequence[int] | None = None
) -> None:
    """Write a `.dat` file; without labels every string is accepted."""
    rows = [
        " ".join(map(str, (label, len(string), *string)))
        for string, label in zip(strings, labels or [1] * len(strings), strict=True)
    ]
    _write(path, [f"{len(rows)} {alphabet}", *rows])


def read_solution(path: str | Path) -> np.ndarray:
    """Probabilities of the test strings, float64 `[n]`, out of a `_solution.txt` file; raises as above."""
    values = [line.strip() for line in _lines(path) if line.strip()]
    try:
        count, found = int(values[0]), np.array([float(each) for each in values[1:]])
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: a count and then one probability a line were expected") from error
    if len(found) != count or not np.isfinite(found).all() or (found < 0).any():
        raise InputError(
            f"{path}: the header says {count}, the file holds {len(found)} (none may be negative)"
        )
    return found


def write_solution(path: str | Path, probabilities: np.ndarray) -> None:
    """Write a `_solution.txt` file; the probabilities are normalised to sum 1, as PAutomaC's are."""
    values = np.asarray(probabilities, np.float64)
    _write(path, [str(len(values)), *(repr(float(each)) for each in values / values.sum())])


def read_pautomac_model(path: str | Path) -> PFA:
    """The automaton of a `_model.txt` file.

    Its blocks are `I: (state)`, `F: (state)`, `S: (state,symbol)` and `T: (state,symbol,state)`. Missing
    entries are 0; the numbers of states and symbols are the largest that occur. Raises as above.
    """
    entries: dict[str, dict[tuple[int, ...], float]] = {name: {} for name in "IFST"}
    places = {"I": 1, "F": 1, "S": 2, "T": 3}
    block = ""
    for number, line in enumerate(_lines(path), 1):
        text = line.strip()
        if not text:
            continue
        if text[:2] in ("I:", "F:", "S:", "T:"):
            block = text[0]
            continue
        match = _ENTRY.match(text)
        try:
            if match is None or not block:
                raise ValueError
            key, value = tuple(int(each) for each in match[1].split(",")), float(match[2])
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: {text[:60]!r} is no entry of a PAutomaC model"
            ) from error
        if len(key) != places[block] or not 0 <= value <= 1 + 1e-6:
            raise InputError(f"{path}, line {number}: {text[:60]!r} does not fit in block {block}")
        entries[block][key] = min(value, 1.0)
    if not entries["I"] or not entries["S"]:
        raise InputError(f"{path} holds no PAutomaC model: blocks I, F, S and T were expected")
    states = 1 + max(
        max(key[0], key[-1] if block != "S" else 0) for block in "IFST" for key in entries[block]
    )
    alphabet = 1 + max(key[1] for block in "ST" for key in entries[block])
    if states * alphabet * states > _ENTRIES:
        raise InputError(f"{path}: {states} states and {alphabet} symbols are more than fit in a dense table")
    arrays = {
        "I": np.zeros(states),
        "F": np.zeros(states),
        "S": np.zeros((states, alphabet)),
        "T": np.zeros((states, alphabet, states)),
    }
    for block, found in entries.items():
        for key, value in found.items():
            arrays[block][key] = value
    return PFA(arrays["I"], arrays["F"], arrays["S"], arrays["T"])


def write_pautomac_model(path: str | Path, model: PFA) -> None:
    """Write a `_model.txt` file, entries of 0 left out."""
    blocks = (
        ("I: (state)", model.initial),
        ("F: (state)", model.final),
        ("S: (state,symbol)", model.symbols),
        ("T: (state,symbol,state)", model.transitions),
    )
    lines = []
    for title, values in blocks:
        lines.append(title)
        lines += [
            f"\t({','.join(str(int(each)) for each in key)}) {float(values[tuple(key)])!r}"
            for key in np.argwhere(values > 0)
        ]
    _write(path, lines)


def _write(path: str | Path, lines: list[str]) -> None:
    try:
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
