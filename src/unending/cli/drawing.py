"""A picture of the graph that a system has learned, kept up to date in a file."""

import time
from collections.abc import Iterable
from pathlib import Path

from unending.cli.pictures import require_writable
from unending.core import Event, Text
from unending.core.errors import InputError, MissingExtraError, StorageError

__all__ = ["Drawing"]

_PLAIN = (".dot", ".gv")
_DRAWN = (".svg", ".png", ".pdf")
_APART = 2.0
"""Seconds between two pictures."""


class Drawing:
    """Draws the newest graph among outputs: texts of the role "graph", in Graphviz's DOT language.

    Raises
    ------
    InputError
        if the file's name ends in nothing that can be drawn.
    MissingExtraError
        if the `graphviz` package or the program `dot` is absent; `.dot` needs neither.
    StorageError
        if the folder does not exist, or no file can be written in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest = self._drawn = ""
        self._when = 0.0
        require_writable(path)
        if path.suffix not in _PLAIN + _DRAWN:
            raise InputError(f"{path} is no name of a drawing; it may end in {', '.join(_PLAIN + _DRAWN)}")
        if path.suffix in _DRAWN:
            _rendered("digraph {}", "svg")

    def see(self, events: Iterable[Event]) -> None:
        """Draw what is new, not more often than every other second."""
        for event in events:
            if isinstance(event.data, Text) and event.data.role == "graph":
                self._newest = event.data.text
        if self._newest != self._drawn and time.monotonic() - self._when > _APART:
            self._draw()

    def close(self) -> str:
        """Draw the last graph; what a person is told."""
        if not self._newest:
            return f"nothing drawn: no graph came out, {self._path} is not written"
        if self._newest != self._drawn:
            self._draw()
        return f"drawing: {self._path}"

    def _draw(self) -> None:
        suffix = self._path.suffix
        content = (
            self._newest.encode() if suffix in _PLAIN else _rendered(self._newest, suffix.removeprefix("."))
        )
        beside = self._path.with_name(f".{self._path.name}.tmp")
        try:
            beside.write_bytes(content)
            beside.replace(self._path)
        except OSError as error:
            raise StorageError(f"cannot write the picture {self._path}: {error.strerror or error}") from error
        self._drawn, self._when = self._newest, time.monotonic()


def _rendered(graph: str, form: str) -> bytes:
    try:
        import graphviz
    except ImportError as error:
        raise MissingExtraError("drawings need graphviz: pip install 'unending[draw]'") from error
    try:
        drawn: bytes = graphviz.Source(graph).pipe(format=form)
    except graphviz.ExecutableNotFound as error:
        raise MissingExtraError(
            "drawings need Graphviz's program dot (on Debian: apt install graphviz); a .dot file needs nothing"
        ) from error
    except graphviz.CalledProcessError as error:
        raise InputError(f"dot cannot draw this graph: {' '.join(str(error).split())}") from error
    return drawn
