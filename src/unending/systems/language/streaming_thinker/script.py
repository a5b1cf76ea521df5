"""The automaton of the writer: which source segments the next token may see, what must come next, where units end."""

from dataclasses import dataclass, replace
from typing import Any, Self

from unending.core import state
from unending.core.errors import InputError
from unending.systems.language.streaming_thinker.layout import DEPTHS, Layout, Marks

__all__ = ["ANSWER", "DEEP", "DONE", "ROLES", "THOUGHTS", "Progress", "Script"]

THOUGHTS, DEEP, ANSWER, DONE = range(4)
ROLES = ("thought", "deep", "answer", "")
"""What an output of each part is called."""


@state
class Progress:
    """How far the writer is."""

    part: int
    """`THOUGHTS`, `DEEP`, `ANSWER` or `DONE`."""
    unit: int
    """Target segment of the next token."""
    said: int
    """Tokens of this unit, or part, so far."""
    token: int
    """The newest target token, which the model has not read yet."""


@dataclass(frozen=True)
class Script:
    """What the writer goes by; it holds no state.

    Parameters
    ----------
    header, connector, think_end
        ids that are given, not chosen; the header ends with `<SEP>`.
    lookahead
        source segments that a thought sees beyond its own; upstream's inference has 1.
    max_unit_tokens
        tokens after which a thought is ended by force.
    max_new_tokens
        tokens of the deep part, and of the answer, after which each is ended by force.
    stops
        ids that end a text for the tokenizer or the model.
    """

    marks: Marks
    header: tuple[int, ...]
    connector: tuple[int, ...]
    think_end: tuple[int, ...]
    lookahead: int = 0
    max_unit_tokens: int = 64
    max_new_tokens: int = 256
    stops: frozenset[int] = frozenset()

    @classmethod
    def of(cls, tokenizer: Any, layout: Layout, depth: str, **limits: Any) -> Self:
        """For a layout; `limits` are the other fields.

        Raises
        ------
        InputError
            if the depth is unknown or a limit is out of range.
        """
        if depth not in DEPTHS:
            raise InputError(f"depth {depth!r} is unknown; accepted are {', '.join(DEPTHS)}")
        made = cls(Marks.of(tokenizer), (), (), (), **limits)
        if made.lookahead < 0 or made.max_unit_tokens < 1 or made.max_new_tokens < 1:
            raise InputError("lookahead is 0 or more, max_unit_tokens and max_new_tokens are 1 or more")

        def ids(text: str, *more: int) -> tuple[int, ...]:
            return (*(tokenizer(text, add_special_tokens=False)["input_ids"] if text else ()), *more)

        marks, index = made.marks, DEPTHS.index(depth)
        return replace(
            made,
            header=ids(layout.header, marks.sep),
            # At depth D1 nothing is reasoned beyond the thoughts.
            connector=ids(layout.connectors[index], *((marks.eor,) if depth == "D1" else ())),
            think_end=ids(layout.think_end),
        )

    def target_tokens(self, units: int) -> int:
        """Tokens that a target of so many thoughts and the restated question has at most."""
        thoughts = (units + 1) * (self.max_unit_tokens + 1)
        return (
            len(self.header)
            + thoughts
            + len(self.connector)
            + len(self.think_end)
            + 2 * (self.max_new_tokens + 1)
        )

    def start(self) -> Progress:
        """Where the writer stands once it has read the header but for its last token."""
        return Progress(THOUGHTS, 1, 0, self.header[-1])

    def sees(self, now: Progress, segments: int, *, closed: bool) -> int | None:
        """Source segments that the next token sees; None while they have not come, or when all is said.

        Parameters
        ----------
        segments
            whole source segments that are there; with `closed`, the last is the end of turn and no more comes.
        """
        if now.part == DONE:
            return None
        wanted = now.unit + 1 + self.lookahead
        if self.part(now, segments, closed=closed) == THOUGHTS and segments >= wanted:
            return wanted
        return segments if closed else None

    def part(self, now: Progress, segments: int, *, closed: bool) -> int:
        """The part that the next token belongs to: a thought for each segment but the end of turn, then the rest."""
        if now.part == THOUGHTS and closed and now.unit >= segments - 1:
            return DEEP
        return now.part

    def forced(self, now: Progress, part: int, *, question: bool) -> int | None:
        """The token that must come next; None where the model is free."""
        said, marks = (now.said if part == now.part else 0), self.marks
        if part == THOUGHTS:
            return self._due(now, question) if said >= self.max_unit_tokens else None
        given, last = (self.connector, marks.eor) if part == DEEP else (self.think_end, marks.eoa)
        if said < len(given):
            return given[said]
        return last if said >= len(given) + self.max_new_tokens else None

    def _due(self, now: Progress, question: bool) -> int:
        return self.marks.eoq if question and now.unit == 1 else self.marks.eot

    def admit(self, now: Progress, part: int, chosen: int, *, question: bool) -> int:
        """What goes into the target for a token that was chosen: within thoughts a stop is only the end of a unit."""
        stops = part == THOUGHTS and chosen in self.stops and chosen not in self.marks.boundaries
        return self._due(now, question) if stops else chosen

    def after(self, now: Progress, part: int, token: int) -> Progress:
        """The progress once `token` was said in `part`."""
        marks, said = self.marks, (now.said if part == now.part else 0) + 1
        if part == THOUGHTS and token in marks.boundaries:
            return Progress(THOUGHTS, now.unit + 1, 0, token)
        ended = token == marks.eoa or token in self.stops
        if part == DEEP and said <= len(self.connector):
            ended = False
        if part == ANSWER and said <= len(self.think_end):
            ended = False
        if part in (DEEP, ANSWER) and ended:
            return Progress(DONE, now.unit, said, token)
        if part == DEEP and token == marks.eor:
            return Progress(ANSWER, now.unit, 0, token)
        return Progress(part, now.unit, said, token)

    def silent(self, now: Progress, part: int, token: int) -> bool:
        """Whether a token shows no text: a mark, a stop, or one of the fixed texts."""
        said = now.said if part == now.part else 0
        fixed = (0, len(self.connector), len(self.think_end))[part]
        return said < fixed or token in self.marks.boundaries or token in self.stops
