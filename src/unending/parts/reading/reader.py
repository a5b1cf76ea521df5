"""What every operator that reads an endless text and answers questions about it does around its memory."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from unending.core import Chunk, Control, Domain, Event, Operator, Query, Tick, Tokens, state
from unending.core.errors import InputError
from unending.parts.backbones import LanguageBackbone
from unending.parts.backbones.operators import OnLanguageModel
from unending.parts.reading import answers, tokens
from unending.parts.reading.answers import Answer
from unending.parts.reading.passes import Pass
from unending.parts.reading.together import Saying, step_together
from unending.parts.reading.tokens import Reading

__all__ = ["Reader", "ReaderState"]


@state
class ReaderState:
    """What one stream leaves behind."""

    memory: Any
    """Keys and values, as the system keeps them."""
    logits: torch.Tensor
    """float32 `[vocabulary]` after the newest token."""
    reading: Reading
    answer: Answer
    seed: int


class Reader(OnLanguageModel, Operator[ReaderState]):
    """Text or tokens go in, next-token losses in nats come out as rows `[n, 1]`.

    A `Query` is put into the stream as a turn, and its answer comes out as text, token by token, through ticks; it
    stays part of the stream. A system is a dataclass with the fields below that says what its memory is.
    """

    chunk: int
    max_new_tokens: int
    temperature: float
    chat: bool

    @abstractmethod
    def _view(self, memory: Any) -> Any:
        """The memory for one step: a transformers cache or `Attending`, with `seen`, `memory()`, `make_room(n)`."""

    @abstractmethod
    def _room(self) -> int:
        """Tokens that a turn and its answer may have together."""

    def _require_sensible(self) -> None:
        """Raise `InputError` if a field that all readers have is out of range."""
        if self.chunk < 1 or self.max_new_tokens < 1 or self.temperature < 0:
            raise InputError("chunk and max_new_tokens are 1 or more, temperature is 0 or more")

    @cached_property
    def _domain(self) -> Mapping[type[Chunk], Domain]:
        # A character of any script is at most four tokens of a byte-level vocabulary.
        around = len(self.backbone.encode_turn("?", chat=self.chat)) if self.backbone.tokenizer else 0
        room = self._room() - self.max_new_tokens - around
        return {Tokens: {"vocabulary": self.backbone.vocabulary}, Query: {"characters": max(1, room // 4)}}

    def domain(self) -> Mapping[type[Chunk], Domain]:
        return self._domain

    def _around(self) -> int:
        """Bytes of a state beside its memory."""
        reading = tokens.reading_bytes(self.chunk) + answers.answer_bytes(self.max_new_tokens)
        return 4 * self.backbone.vocabulary + reading + 8

    def _empty(self, memory: Any, seed: int) -> ReaderState:
        """The state before the first chunk."""
        backbone: LanguageBackbone = self.backbone
        return ReaderState(
            memory=memory,
            logits=torch.zeros(backbone.vocabulary, device=backbone.device),
            reading=tokens.reading(self.chunk),
            answer=answers.no_answer(self.max_new_tokens),
            seed=seed,
        )

    def pending(self, state: ReaderState) -> bool:
        return state.answer.left > 0

    def _step(self, state: ReaderState, chunk: Any) -> tuple[ReaderState, list[Event]]:
        if type(chunk) is Tick:
            return self._decode(state) if state.answer.left else (state, [])
        if type(chunk) is Control:
            if chunk.name != "interrupt":
                raise InputError(f"control {chunk.name!r} is unknown; {self.spec.name} knows interrupt")
            return replace(state, answer=answers.stop(state.answer)), []
        if state.answer.left:
            raise InputError("an answer is in the making: tick until idle, or send Control('interrupt')")
        work, answer = self._begin(state), state.answer
        if type(chunk) is Query:
            self._ask(work, chunk)
            answer = answers.begin(answer)
        else:
            work.read(chunk)
        return _end(work, answer, state.seed), work.events

    def _step_many(
        self, states: Sequence[ReaderState], chunks: Sequence[Chunk], width: int
    ) -> list[tuple[ReaderState, list[Event]] | Exception]:
        return step_together(
            states,
            chunks,
            width,
            module=self.backbone.module,
            ready=lambda state, chunk: type(chunk) is Tick and state.answer.left > 0,
            begin=self._say,
            alone=super()._step_many,
        )

    def _finish(self, state: ReaderState) -> tuple[ReaderState, list[Event]]:
        work = self._begin(state)
        work.flush()
        return _end(work, state.answer, state.seed), work.events

    def _begin(self, state: ReaderState) -> Pass:
        return Pass(self.backbone, self._view(state.memory), state.logits, state.reading)

    def _ask(self, work: Pass, query: Query) -> None:
        work.flush()
        if query.t is not None:
            work.reading = replace(work.reading, time=np.asarray(query.t, dtype=np.float64))
        turn = self.backbone.encode_turn(query.text, chat=self.chat)
        work.cache.make_room(len(turn) + self.max_new_tokens)
        for start in range(0, len(turn), self.chunk):
            work.put(turn[start : start + self.chunk])

    def _say(self, state: ReaderState) -> Saying[ReaderState]:
        work = self._begin(state)
        answer, token = work.speak(state.answer, self.temperature, state.seed)
        return Saying(work, token, lambda done: _end(done, answer, state.seed))

    def _decode(self, state: ReaderState) -> tuple[ReaderState, list[Event]]:
        turn = self._say(state)
        turn.work.put([turn.token])
        return turn.end(turn.work.logits)


def _end(work: Pass, answer: Answer, seed: int) -> ReaderState:
    return ReaderState(work.cache.memory(), work.logits, work.reading, answer, seed)
