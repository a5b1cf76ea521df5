"""One step of the operator: text arrives, and the passage at its head is read and written move by move."""

import numpy as np
from torch import Tensor

from unending.core import Event, Text, state
from unending.parts.memory import DualCache
from unending.systems.language.group_position_encoding import words
from unending.systems.language.group_position_encoding.passage import Passage, Rules, Run, Word, Writer
from unending.systems.language.group_position_encoding.words import Words

__all__ = ["GroupPositionEncodingState", "Work", "line_text"]


@state
class GroupPositionEncodingState:
    """What one stream leaves behind."""

    passage: Passage
    words: Words
    time: np.ndarray
    """float64 scalar: stream time up to which the source was read."""
    line: int
    """Whether something was written on this line of the output."""
    newline: int
    """Whether a line break ended the source of the passage."""


class Work:
    """The moves of one step, on one view of the memory; also the turn of a session among others.

    Parameters
    ----------
    rules, phi
        of the passages.
    longest
        characters of a word.
    run
        runs the model.
    state
        where the step begins.
    """

    def __init__(
        self, rules: Rules, phi: int, longest: int, run: Run, state: GroupPositionEncodingState
    ) -> None:
        self._rules, self._longest, self._run = rules, longest, run
        self._writer = Writer(rules, state.passage, phi)
        self._words, self._time = state.words, float(state.time)
        self._line, self._newline = state.line, state.newline
        self.events: list[Event] = []

    def close(self) -> GroupPositionEncodingState:
        """The state after the moves."""
        time = np.asarray(self._time, dtype=np.float64)
        return GroupPositionEncodingState(
            self._writer.passage(), self._words, time, self._line, self._newline
        )

    def arrive(self, text: str, t: float | None) -> None:
        """Take in text; where it finds no room, the text before it is worked off."""
        self._arrive(text, t, 1.0)

    def end_passage(self, t: float | None) -> None:
        """What arrived is a whole passage, or the end of one; takes no stream time."""
        self._arrive(words.END, t, 0.0)

    def _arrive(self, text: str, t: float | None, period: float) -> None:
        self._words, rest = words.arrive(self._words, text, t, period=period)
        while rest:
            self.move()
            self._words, rest = words.arrive(self._words, rest, period=period)

    def drop(self) -> None:
        """Give up the passage in the making and the text that was not read."""
        self._writer.clear()
        self._words, self._newline = words.forget(self._words, self._words.count), 0

    def is_idle(self) -> bool:
        """Whether nothing can be done before more text arrives."""
        return not self._writer.wants_write() and words.next_item(self._words, self._longest) is None

    def move(self) -> None:
        """One move: a forward pass that writes, or a word or the end of a passage that is read."""
        writer = self._writer
        if writer.wants_write():
            self._written(writer.write(self._run))
            return
        item = words.next_item(self._words, self._longest)
        if item is None:
            return
        if item.text:
            ids = self._rules.template.word(item.text)
            if not writer.room_for(len(ids)) and writer.is_open:
                writer.close(self._run)  # the memory is full: the word begins the next passage
                return
            while not writer.room_for(len(ids)):
                ids = ids[:-1]
            writer.read(item.text, ids, self._run)
        elif writer.is_open:
            writer.close(self._run)
            self._newline = int(item.newline)
        elif item.newline:
            self._break(item.time)
        self._words, self._time = words.forget(self._words, item.used), item.time

    def _written(self, word: Word | None) -> None:
        if word is None:
            return
        first = self._writer.now.written == 1
        text = line_text(word.text, first=first, begun=bool(self._line))
        if text:
            self._line = 1
            self.events.append(Event(Text(text), self._time, self._time))
        if word.last:
            self._writer.clear()
            if self._newline:
                self._break(self._time)
            self._newline = 0

    def _break(self, time: float) -> None:
        self._line = 0
        self.events.append(Event(Text("\n"), time, time))

    def is_one_token(self) -> bool:
        """Whether the next move puts one token through the model."""
        return self._writer.wants_write() and len(self._writer.pending()) == 1

    @property
    def token(self) -> int:
        """The token of such a move."""
        return self._writer.pending()[0]

    @property
    def memory(self) -> DualCache:
        """What it attends over."""
        self._writer.pending()
        return self._writer.cache

    def end(self, logits: Tensor) -> tuple[GroupPositionEncodingState, list[Event]]:
        """The new state and the outputs, of the logits `[vocabulary]` after the token."""
        self._written(self._writer.take(logits))
        return self.close(), self.events


def line_text(text: str, *, first: bool, begun: bool) -> str:
    """How a word stands in the output: line breaks come from the source alone, passages on one line are apart."""
    text = text.replace("\n", " ")
    if not text.strip():
        return ""
    if not begun:
        return text.lstrip()
    return " " + text.lstrip() if first else text
