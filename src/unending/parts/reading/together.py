"""Answers of many sessions in the making at once: one forward pass a token, each session with its own memory."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from unending.core import Chunk, Event, Tick
from unending.core.errors import ModelUnsupportedError
from unending.parts.backbones import LanguageBackbone
from unending.parts.memory.joint import decode_together, joint_rows
from unending.parts.reading.answers import Answer
from unending.parts.reading.passes import Pass

__all__ = ["step_together"]


class Speaking(Protocol):
    """A state with an answer that may be in the making."""

    @property
    def answer(self) -> Answer: ...
    @property
    def seed(self) -> int: ...


S = TypeVar("S", bound=Speaking)
Result = tuple[S, list[Event]] | Exception


def step_together(
    states: Sequence[S],
    chunks: Sequence[Chunk],
    width: int,
    *,
    backbone: LanguageBackbone,
    temperature: float,
    begin: Callable[[S], Pass],
    end: Callable[[Pass, Answer, int], S],
    alone: Callable[[Sequence[S], Sequence[Chunk], int], list[Result[S]]],
) -> list[Result[S]]:
    """`Operator._step_many` of a language operator: ticks of answers in the making run together, `width` at a time.

    Parameters
    ----------
    states, chunks, width
        as in `Operator._step_many`.
    backbone, temperature
        of the operator.
    begin
        opens the pass of a state.
    end
        the new state, of a pass, the answer so far and the seed.
    alone
        steps everything else, and everything where the model does not allow joint decoding (`joint_rows`).
    """
    joint = [
        index
        for index, (state, chunk) in enumerate(zip(states, chunks, strict=True))
        if type(chunk) is Tick and state.answer.left
    ]
    try:
        if joint:
            joint_rows(backbone.module, width)
    except ModelUnsupportedError:
        joint = []
    rest = sorted(set(range(len(states))) - set(joint))
    results: dict[int, Result[S]] = dict(
        zip(rest, alone([states[i] for i in rest], [chunks[i] for i in rest], width), strict=True)
    )
    begun: list[tuple[int, Pass, Answer, int]] = []
    for index in joint:
        try:
            work = begin(states[index])
            begun.append((index, work, *work.speak(states[index].answer, temperature, states[index].seed)))
        except Exception as error:  # one session's failure, of whatever kind, is not its neighbours'
            results[index] = error
    for start in range(0, len(begun), width):
        group = begun[start : start + width]
        tokens, caches = [token for *_, token in group], [work.cache for _, work, *_ in group]
        try:
            found = decode_together(backbone.module, tokens, caches, width)
        except Exception as error:  # of the pass as a whole
            found = [error] * len(group)
        for (index, work, answer, _), logits in zip(group, found, strict=True):
            if isinstance(logits, Exception):
                results[index] = logits
            else:
                work.logits = logits
                results[index] = end(work, answer, states[index].seed), work.events
    return [results[index] for index in range(len(states))]
