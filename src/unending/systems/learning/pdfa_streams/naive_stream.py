"""The reference of the operator: a whole stream as one list of ended strings, learned by `NaiveLearner`."""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from unending.core import Chunk, Event, Rows, Symbols, Text
from unending.systems.learning.pdfa_streams.lines import Ended
from unending.systems.learning.pdfa_streams.naive import NaiveLearner

if TYPE_CHECKING:
    from unending.systems.learning.pdfa_streams.operator import PDFAStreams

__all__ = ["offline", "strings_of"]

_ITEMS = "the string of symbol chunks"


def _named(match: re.Match[str], size: int) -> str:
    groups, key = range(1, match.re.groups + 1), match.re.groupindex.get("key")
    places = {at: set(range(*match.span(at))) for at in groups}
    outer = [at for at in groups if not any(places[at] <= places[each] for each in range(1, at))]
    name = " ".join(match[at] for at in outer if at != key and match[at]) if groups else match[0]
    name = name.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(name.encode()) <= size:
        return name
    mark = "~" + blake2b(name.encode(), digest_size=4).hexdigest()
    while len((name + mark).encode()) > size:
        name = name[:-1]
    return name + mark


def strings_of(operator: "PDFAStreams", stream: Sequence[Chunk]) -> tuple[list[Ended], list[str], int]:
    """Every string of a stream in the order of ending; names of symbols; the end of the stream."""
    names: list[str] = []
    ended: list[Ended] = []
    open_: dict[str, list[int]] = {}
    last: dict[str, tuple[int, int]] = {}
    rest, position, lines = "", 0, 0
    keyed = "key" in re.compile(operator.symbols).groupindex

    def end(key: str, at: int) -> None:
        ended.append(Ended(at, len(names), open_.pop(key, [])))
        last.pop(key, None)

    def add(key: str, symbol: int, at: int) -> None:
        if len(open_.setdefault(key, [])) == operator.max_length:
            ended.append(Ended(at, len(names), open_[key]))
            open_[key] = []
        open_[key].append(symbol)

    def line(text: str, at: int) -> None:
        nonlocal lines
        lines += 1
        text = text[: operator.line_size].removesuffix("\r")
        found = []
        for match in re.finditer(operator.symbols, text):
            if match[0]:
                name = _named(match, operator.name_size)
                if name not in names and operator.rest and len(names) >= operator.alphabet - 1:
                    name = operator.rest
                if name not in names:
                    names.append(name)
                found.append((match["key"] or "" if keyed else "", names.index(name)))
        if keyed:
            for number, (key, symbol) in enumerate(found):
                if key not in last and len(last) == operator.clients:
                    end(min(last, key=lambda each: last[each]), at)
                last[key] = lines, number
                add(key, symbol, at)
            for key in sorted(last, key=lambda each: last[each]):
                if operator.gap and last[key][0] + operator.gap < lines:
                    end(key, at)
        elif found or not text.strip():
            ids, most = [symbol for _, symbol in found], operator.max_length
            pieces = [ids[start : start + most] for start in range(0, max(1, len(ids)), most)]
            ended.extend(Ended(at, len(names), piece) for piece in pieces)

    for chunk in stream:
        if isinstance(chunk, Text):
            for character in chunk.text:
                position += 1
                if character == "\n":
                    line(rest, position)
                    rest = ""
                else:
                    rest += character
        elif isinstance(chunk, Symbols):
            for symbol in chunk.ids.tolist():
                position += 1
                if symbol == operator.alphabet:
                    end(_ITEMS, position)
                else:
                    add(_ITEMS, symbol, position)
    if rest:
        line(rest, position)
    for key in sorted(last, key=lambda each: last[each]):
        end(key, position)
    if _ITEMS in open_:
        end(_ITEMS, position)
    return ended, names, position


def offline(operator: "PDFAStreams", stream: Sequence[Chunk], seed: int = 0) -> list[Event]:
    """The events of a whole stream."""
    ended, names, position = strings_of(operator, stream)
    learner = NaiveLearner(operator.settings_of(), seed)
    events: list[Event] = []
    began, drawn = 0, True

    def draw(named: int) -> str:
        numbers = [str(each) for each in range(named, operator.alphabet)]
        return learner.pdfa(names[:named] + numbers).to_dot(operator.draw_from)

    def close(at: int, named: int) -> None:
        nonlocal began, drawn
        *row, changed = learner.close()
        events.append(Event(Rows(np.array([row]), ("perplexity", "states", "nodes")), began, at))
        if changed:
            events.append(Event(Text(draw(named), role="graph"), began, at))
        began, drawn = at, changed

    for each in ended:
        learner.batch.append(each.ids)
        if len(learner.batch) == operator.batch_size:
            close(each.position, each.named)
    if learner.batch:
        close(position, len(names))
    if not drawn:
        events.append(Event(Text(draw(len(names)), role="graph"), position, position))
    return events
