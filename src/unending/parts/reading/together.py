"""Tokens of many sessions at once: one forward pass for one token of each, every session with its own memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor, nn
from transformers import Cache

from unending.core import Chunk, Event
from unending.core.errors import ModelUnsupportedError
from unending.parts.memory.joint import Attending, decode_together, joint_rows
from unending.parts.reading.passes import Pass

__all__ = ["Saying", "Turn", "step_together"]

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
Result = tuple[S, list[Event]] | Exception


class Turn(Protocol[S_co]):
    """The step of one session in which one token goes through the model."""

    @property
    def token(self) -> int:
        """What goes in."""

    @property
    def memory(self) -> Attending | Cache:
        """What it attends over, and where its keys go."""

    def end(self, logits: Tensor) -> tuple[S_co, list[Event]]:
        """The new state and the outputs, once the logits `[vocabulary]` after the token are there."""


@dataclass(frozen=True, eq=False)
class Saying(Generic[S]):
    """A turn of a system that chooses a token of its answer from the logits it has, and then reads it."""

    work: Pass
    token: int
    closing: Callable[[Pass], S]
    """The new state, of the pass with its new logits."""

    @property
    def memory(self) -> Any:
        return self.work.cache

    def end(self, logits: Tensor) -> tuple[S, list[Event]]:
        self.work.logits = logits
        return self.closing(self.work), self.work.events


def step_together(
    states: Sequence[S],
    chunks: Sequence[Chunk],
    width: int,
    *,
    module: nn.Module,
    ready: Callable[[S, Chunk], bool],
    begin: Callable[[S], Turn[S] | tuple[S, list[Event]]],
    alone: Callable[[Sequence[S], Sequence[Chunk], int], list[Result[S]]],
) -> list[Result[S]]:
    """`Operator._step_many` of a language operator: steps of one token run together, `width` at a time.

    Parameters
    ----------
    states, chunks, width
        as in `Operator._step_many`.
    module
        the model.
    ready
        whether a step is one token through the model, and nothing else.
    begin
        opens such a step, or gives its result where no token turns out to be needed.
    alone
        steps everything else, and everything where the model does not allow joint decoding (`joint_rows`).
    """
    joint = [index for index, pair in enumerate(zip(states, chunks, strict=True)) if ready(*pair)]
    try:
        if joint or not states:  # a step of nobody: whoever asks wants the trial over before there is a hurry
            joint_rows(module, width)
    except ModelUnsupportedError:
        joint = []
    rest = sorted(set(range(len(states))) - set(joint))
    results: dict[int, Result[S]] = dict(
        zip(rest, alone([states[i] for i in rest], [chunks[i] for i in rest], width), strict=True)
    )
    begun: list[tuple[int, Turn[S]]] = []
    for index in joint:
        try:
            opened = begin(states[index])
            if isinstance(opened, tuple):
                results[index] = opened
            else:
                begun.append((index, opened))
        except Exception as error:  # one session's failure, of whatever kind, is not its neighbours'
            results[index] = error
    for start in range(0, len(begun), width):
        group = begun[start : start + width]
        tokens, memories = [turn.token for _, turn in group], [turn.memory for _, turn in group]
        try:
            found = decode_together(module, tokens, memories, width)
        except Exception as error:  # of the pass as a whole
            found = [error] * len(group)
        for (index, turn), logits in zip(group, found, strict=True):
            try:
                results[index] = logits if isinstance(logits, Exception) else turn.end(logits)
            except Exception as error:  # as above
                results[index] = error
    return [results[index] for index in range(len(states))]
