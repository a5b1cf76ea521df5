"""Text to strings of symbols: lines, a regular expression, and strings of several clients that are woven together."""

import re
import warnings
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from unending.core import state
from unending.core.errors import CapacityError, InputError

__all__ = ["Ended", "Lines", "Reading", "Weaver", "empty_lines", "expression", "line_bytes", "names_of"]


@state
class Lines:
    """What reading text carries along."""

    partial: np.ndarray
    """uint32 `[line_size]`: code points of the line that has not ended yet."""
    characters: int
    """... how many; what a line holds beyond `line_size` is not read."""
    names: np.ndarray
    """uint8 `[alphabet, name_size]`: UTF-8 names of the symbols, in order of their ids, filled with 0."""
    named: int
    keys: np.ndarray
    """uint64 `[open]`: hashes of the keys of open strings."""
    open: np.ndarray
    """int32 `[open + 1, max_length]`: their symbols; the last row is the string of `Symbols` chunks."""
    lengths: np.ndarray
    """int32 `[open + 1]`."""
    touched: np.ndarray
    """int64 `[open]`: line (from 1) * 2^20 + match in it, which last added to each; 0 where a place is free."""
    counts: np.ndarray
    """int64 `[4]`: lines; lines without a match; lines cut at `line_size`; strings cut at `max_length`."""


LINES, SKIPPED, CUT_LINES, CUT_STRINGS = range(4)
MATCHES = 1 << 20
"""Places for the matches of a line in `touched`: more than a line has characters."""


@dataclass(frozen=True)
class Reading:
    """How text is read; fields as in `PDFAStreams`."""

    symbols: str
    alphabet: int
    max_length: int
    line_size: int
    name_size: int
    clients: int
    gap: int
    rest: str


def expression(pattern: str) -> re.Pattern[str]:
    """The compiled expression.

    Raises
    ------
    InputError
        in one line, if it is none, if it looks like one of another dialect (`[[:alpha:]]`), or if it has a group `key`
        and no other: the symbols would be the keys.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            found = re.compile(pattern)
    except FutureWarning as warning:
        raise InputError(
            f"symbols may mean two things: {warning} in {pattern[:80]!r}; write \\[ (or \\-, \\&, \\~, \\|) for the"
            " character itself, and a-z and the like for classes such as [:alpha:]"
        ) from warning
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"symbols is no regular expression: {error} in {pattern[:80]!r}") from error
    if "key" in found.groupindex and found.groups == 1:
        raise InputError(
            f"symbols has a group for the key and none for the symbol, {pattern[:80]!r}: add (...)"
        )
    return found


def empty_lines(reading: Reading) -> Lines:
    """Nothing read."""
    places = _places(reading)
    return Lines(
        np.zeros(reading.line_size, np.uint32),
        0,
        np.zeros((reading.alphabet, reading.name_size), np.uint8),
        0,
        np.zeros(places, np.uint64),
        np.zeros((places + 1, reading.max_length), np.int32),
        np.zeros(places + 1, np.int32),
        np.zeros(places, np.int64),
        np.zeros(4, np.int64),
    )


def line_bytes(reading: Reading) -> int:
    """Bytes of `Lines`."""
    places = _places(reading)
    fixed = 4 * reading.line_size + reading.alphabet * reading.name_size + 2 * 8 + 4 * 8
    return fixed + 16 * places + 4 * (places + 1) * (reading.max_length + 1)


def _places(reading: Reading) -> int:
    return reading.clients if "key" in re.compile(reading.symbols).groupindex else 0


def names_of(lines: Lines, named: int = -1) -> list[str]:
    """Names of all ids of the alphabet when so many were named (-1: now); another id is its number."""
    count = lines.named if named < 0 else named
    names = [bytes(row).rstrip(b"\0").decode() for row in lines.names[:count]]
    return names + [str(each) for each in range(count, len(lines.names))]


class Ended(NamedTuple):
    """A string that has ended."""

    position: int
    """Of the stream, at its end."""
    named: int
    """Symbols that had a name then."""
    ids: list[int]


class Weaver:
    """One step's work on `Lines`: gives the strings that end, each with the position at which it did."""

    def __init__(self, lines: Lines, reading: Reading) -> None:
        self.reading = reading
        self.expression = re.compile(reading.symbols)
        self.keyed = "key" in self.expression.groupindex
        self.partial, self.characters = lines.partial, lines.characters
        self.names, self.named = lines.names, lines.named
        self.ids = {bytes(row).rstrip(b"\0"): at for at, row in enumerate(lines.names[: lines.named])}
        self.keys, self.open, self.lengths, self.touched, self.counts = (
            each.copy() for each in (lines.keys, lines.open, lines.lengths, lines.touched, lines.counts)
        )
        self.ended: list[Ended] = []

    def done(self) -> Lines:
        """The state after the step."""
        return Lines(
            self.partial,
            self.characters,
            self.names,
            self.named,
            self.keys,
            self.open,
            self.lengths,
            self.touched,
            self.counts,
        )

    def text(self, text: str, position: int) -> None:
        """Characters that follow on, the first of them at `position` of the stream."""
        *complete, rest = text.split("\n")
        for line in complete:
            position += len(line) + 1
            if self.characters:
                line = _string(self.partial[: self.characters]) + line
                self.characters = 0
            self._line(line, position)
        room = self.reading.line_size - self.characters
        # One character past the limit would have to be remembered to tell that the line was cut; a full line says so.
        kept = np.frombuffer(rest[:room].encode("utf-32-le"), "<u4")
        self.partial = np.concatenate([self.partial[: self.characters], kept.astype(np.uint32)])
        self.characters = len(self.partial)
        self.partial = np.pad(self.partial, (0, self.reading.line_size - self.characters))

    def symbols(self, ids: np.ndarray, position: int) -> None:
        """Ids that follow on; `alphabet` itself ends the string."""
        for at, symbol in enumerate(ids.tolist(), position + 1):
            if symbol == self.reading.alphabet:
                self._end(len(self.keys), at)
            else:
                self._add(len(self.keys), symbol, at)

    def finish(self, position: int) -> None:
        """The stream is over: the last line and all open strings end."""
        if self.characters:
            line = _string(self.partial[: self.characters])
            self.partial, self.characters = np.zeros_like(self.partial), 0
            self._line(line, position)
        for place in np.argsort(self.touched, kind="stable"):
            if self.touched[place]:
                self._end(int(place), position)
        if self.lengths[-1]:
            self._end(len(self.keys), position)

    def _line(self, line: str, position: int) -> None:
        self.counts[LINES] += 1
        if len(line) >= self.reading.line_size:
            line = line[: self.reading.line_size]
            self.counts[CUT_LINES] += 1
        line = line.removesuffix("\r")
        matches = [match for match in self.expression.finditer(line) if match[0]]
        if self.keyed:
            for number, match in enumerate(matches):
                now = int(self.counts[LINES]) * MATCHES + number
                place = self._place(match["key"] or "", now, position)
                self._add(place, self._id(self._symbol(match)), position)
            if self.reading.gap:
                self._close_idle(position)
            self.counts[SKIPPED] += not matches
        elif matches or not line.strip():
            string = [self._id(self._symbol(match)) for match in matches]
            most = self.reading.max_length
            pieces = [string[at : at + most] for at in range(0, len(string), most)] or [[]]
            self.counts[CUT_STRINGS] += len(pieces) - 1
            self.ended += [Ended(position, self.named, piece) for piece in pieces]
        else:
            self.counts[SKIPPED] += 1

    def _symbol(self, match: re.Match[str]) -> bytes:
        key = self.expression.groupindex.get("key", 0)
        parts: list[str] = []
        outer: list[tuple[int, int]] = []
        for at in range(1, self.expression.groups + 1):
            start, end = match.span(at)
            if start < end and not any(low <= start and end <= high for low, high in outer):
                outer.append((start, end))
                parts += [match[at]] if at != key else []
        name = " ".join(parts) if self.expression.groups else match[0]
        encoded = name.replace("\0", "\N{REPLACEMENT CHARACTER}").encode()
        if len(encoded) <= self.reading.name_size:
            return encoded
        # A long name keeps its beginning; eight digits of its hash tell it from others.
        mark = b"~" + blake2b(encoded, digest_size=4).hexdigest().encode()
        return encoded[: self.reading.name_size - len(mark)].decode(errors="ignore").encode() + mark

    def _id(self, name: bytes) -> int:
        if name not in self.ids and self.reading.rest and self.named >= self.reading.alphabet - 1:
            name = self.reading.rest.encode()
        if name in self.ids:
            return self.ids[name]
        if self.named == self.reading.alphabet:
            raise CapacityError(
                f"symbol {name.decode()!r} is new, and the alphabet is full ({self.named} symbols): set a larger"
                " `alphabet`, an expression that makes fewer symbols, or `rest`, a name for all further ones"
            )
        row = np.zeros(self.reading.name_size, np.uint8)
        row[: len(name)] = np.frombuffer(name, np.uint8)
        self.names = self.names.copy()
        self.names[self.named] = row
        self.ids[name] = self.named
        self.named += 1
        return self.named - 1

    def _place(self, key: str, now: int, position: int) -> int:
        hashed = np.uint64(int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little"))
        found = np.flatnonzero((self.keys == hashed) & (self.touched > 0))
        if len(found):
            place = int(found[0])
        else:
            place = int(np.argmin(self.touched))  # a free one, or the one untouched for longest
            if self.touched[place]:
                self._end(place, position)
            self.keys[place] = hashed
        self.touched[place] = now
        return place

    def _add(self, place: int, symbol: int, position: int) -> None:
        if self.lengths[place] == self.reading.max_length:
            self.counts[CUT_STRINGS] += 1
            self.ended.append(Ended(position, self.named, self.open[place].tolist()))
            self.lengths[place] = 0
        self.open[place, self.lengths[place]] = symbol
        self.lengths[place] += 1

    def _end(self, place: int, position: int) -> None:
        self.ended.append(Ended(position, self.named, self.open[place, : self.lengths[place]].tolist()))
        self.open[place], self.lengths[place] = 0, 0
        if place < len(self.keys):
            self.keys[place], self.touched[place] = 0, 0

    def _close_idle(self, position: int) -> None:
        last = self.touched // MATCHES
        idle = np.flatnonzero((last > 0) & (last + self.reading.gap < self.counts[LINES]))
        for place in idle[np.argsort(self.touched[idle], kind="stable")]:
            self._end(int(place), position)


def _string(codes: Any) -> str:
    return bytes(codes.astype("<u4").tobytes()).decode("utf-32-le")
