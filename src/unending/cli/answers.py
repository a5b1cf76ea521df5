"""What comes of a file of prompts: one line of JSON an answer."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from unending.core import Event, Query, Text
from unending.io.sources import StreamSource

__all__ = ["Answers"]


class Answers:
    """Answers to a source of prompts, as lines of JSON; they are held back while a live table is on the terminal."""

    def __init__(self, source: StreamSource, *, show: bool) -> None:
        self.whole: list[dict[str, Any]] = []
        self._source, self._show = source, show
        self._now: tuple[int, str] | None = None

    def see(self, events: Sequence[Event]) -> None:
        """Take note of outputs; an answer is whole once the next one begins."""
        for event in events:
            if self._source.kind is Query and isinstance(event.data, Text) and event.final:
                # The first prompt is at stream time 1.
                index = round(event.t_end) - 1
                if self._now is not None and self._now[0] != index:
                    self._end()
                self._now = (index, (self._now[1] if self._now else "") + event.data.text)

    def _end(self) -> None:
        if self._now is not None:
            self.whole.append({"index": self._now[0], "text": self._now[1]})
            self._now = None
        if self._show and not sys.stdout.isatty():
            self._print()

    def _print(self) -> None:
        for answer in self.whole:
            print(json.dumps(answer, ensure_ascii=False), flush=True)
        self.whole.clear()

    def close(self) -> None:
        """No answer is to come."""
        self._end()
        if self._show:
            self._print()
