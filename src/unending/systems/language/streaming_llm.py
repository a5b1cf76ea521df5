"""StreamingLLM: an endless token stream through a KV cache of fixed size, attention sinks and recent tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from unending.core import (
    Bound,
    Chunk,
    Control,
    Domain,
    Event,
    Exactness,
    Operator,
    Paper,
    Query,
    Rows,
    Spec,
    Text,
    Tick,
    Tokens,
    state,
)
from unending.core.errors import CapacityError, InputError
from unending.parts import backbones
from unending.parts.backbones.operators import OnLanguageModel
from unending.parts.memory import KVMemory, MemoryCache, SinksAndWindow, empty, kv_bytes
from unending.parts.reading import Answer, Pass, Reading, answers, tokens
from unending.parts.reading.naive import offline
from unending.parts.reading.together import Saying, step_together

__all__ = ["StreamingCache", "StreamingLLM", "StreamingLLMState"]


class StreamingCache(MemoryCache):
    """Attention sinks and a window of recent tokens as a `transformers` cache (Xiao et al. 2023, arXiv 2309.17453).

    `model.generate(..., past_key_values=StreamingCache(model))` works as it is in the default absolute frame; the
    cache frame is for loops that pass no `position_ids`, such as `stream_generate` and `decode_in_cache_frame`.

    Parameters
    ----------
    model
        a causal language model with rotary positions (half-split; partial too), or MPT.
    sink_size, window_size
        tokens kept for ever from the start, and tokens kept last; the token itself comes on top.
    frame
        `"absolute"` or `"cache"`; see `MemoryCache`.
    attention_mask
        int `[batch, n]` of a left-padded prompt, so that the sinks are each row's first real tokens.

    Raises
    ------
    ModelUnsupportedError
        if the model's positions cannot be re-indexed.
    CapacityError
        if `sink_size + window_size + 1` exceeds what the model attends over.
    """

    def __init__(
        self,
        model: nn.Module,
        sink_size: int = 4,
        window_size: int = 1020,
        frame: str = "absolute",
        attention_mask: torch.Tensor | None = None,
    ) -> None:
        padding = None if attention_mask is None else (attention_mask == 0).sum(dim=1).tolist()
        super().__init__(
            backbones.rotaries(model),
            SinksAndWindow(sink_size, window_size),
            frame,
            limit=backbones.position_limit(model),
            padding=padding,
        )


@state
class StreamingLLMState:
    """What one stream leaves behind."""

    memory: KVMemory
    logits: torch.Tensor
    """float32 `[vocabulary]` after the newest token."""
    reading: Reading
    answer: Answer
    seed: int


@dataclass(frozen=True)
class StreamingLLM(OnLanguageModel, Operator[StreamingLLMState]):
    """StreamingLLM (Xiao, Tian, Chen, Han, Lewis 2023, arXiv 2309.17453) as a stream operator.

    Text or tokens go in; next-token losses in nats come out as rows `[n, 1]`. A `Query` is put into the stream as a
    turn, and its answer comes out as text, token by token, through ticks; it stays part of the stream.
    Stream time counts input items: characters of `Text`, tokens of `Tokens`.

    Parameters
    ----------
    model
        friendly name, path or hub id of a causal language model.
    sink_size, window_size
        tokens kept from the start and at the end.
    chunk
        tokens of one forward pass; 1 is the paper's token-by-token mode, more is faster and evicts after the block.
    frame
        where keys are rotated: `"cache"` (exact for ever) or `"absolute"`.
    dtype
        of weights and cache.
    max_new_tokens
        longest answer.
    temperature
        0 takes the likeliest token.
    chat
        use the tokenizer's chat template for queries.
    """

    model: str = "smollm2-135m"
    sink_size: int = 4
    window_size: int = 1020
    chunk: int = 64
    frame: str = "cache"
    dtype: str = "float32"
    max_new_tokens: int = 128
    temperature: float = 0.0
    chat: bool = True

    spec: ClassVar[Spec] = Spec(
        name="streaming-llm",
        family="language",
        title="a language model over an endless text, with attention sinks and a window",
        takes=(Tokens, Text, Query, Control),
        gives=(Rows, Text),
        exactness=Exactness.allclose(2e-4),
        paper=Paper(
            "Efficient Streaming Language Models with Attention Sinks",
            "Guangxuan Xiao, Yuandong Tian, Beidi Chen, Song Han, Mike Lewis",
            2023,
            "2309.17453",
        ),
        hop="chunk",
        unit="token",
    )

    def __post_init__(self) -> None:
        SinksAndWindow(self.sink_size, self.window_size)
        if self.chunk < 1 or self.max_new_tokens < 1 or self.temperature < 0:
            raise InputError("chunk and max_new_tokens are 1 or more, temperature is 0 or more")

    @classmethod
    def example(cls) -> Self:
        from unending.parts.backbones.tiny import tiny_llama

        module, tokenizer = tiny_llama()
        return cls.from_model(
            module, tokenizer, sink_size=2, window_size=14, chunk=4, max_new_tokens=2, temperature=1.0
        )

    @property
    def retention(self) -> SinksAndWindow:
        """What stays in the cache."""
        return SinksAndWindow(self.sink_size, self.window_size)

    @property
    def _capacity(self) -> int:
        return self.retention.budget + self.chunk

    @cached_property
    def _domain(self) -> Mapping[type[Chunk], Domain]:
        # A character of any script is at most four tokens of a byte-level vocabulary.
        room = (
            self.window_size
            - self.max_new_tokens
            - (len(self.backbone.encode_turn("?", chat=self.chat)) if self.backbone.tokenizer else 0)
        )
        return {Tokens: {"vocabulary": self.backbone.vocabulary}, Query: {"characters": max(1, room // 4)}}

    def domain(self) -> Mapping[type[Chunk], Domain]:
        return self._domain

    def bound(self) -> Bound:
        backbone = self.backbone
        cache = kv_bytes(backbone.kv_shapes(), self._capacity, backbone.dtype.itemsize)
        around = tokens.reading_bytes(self.chunk) + answers.answer_bytes(self.max_new_tokens)
        return Bound(cache + 4 * backbone.vocabulary + around + 8)

    def init(self, seed: int = 0) -> StreamingLLMState:
        backbone = self.backbone
        if backbone.limit < self.retention.budget + self.chunk:
            raise CapacityError(
                f"sinks + window + chunk make {self.retention.budget + self.chunk} positions,"
                f" but {self.model} attends over at most {backbone.limit}"
            )
        return StreamingLLMState(
            memory=empty(backbone.kv_shapes(), self._capacity, backbone.dtype, backbone.device),
            logits=torch.zeros(backbone.vocabulary, device=backbone.device),
            reading=tokens.reading(self.chunk),
            answer=answers.no_answer(self.max_new_tokens),
            seed=seed,
        )

    def pending(self, state: StreamingLLMState) -> bool:
        return state.answer.left > 0

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The stream by the slow reference of the memory, its text tokenised in whole runs."""
        return offline(self, stream)

    def _step(self, state: StreamingLLMState, chunk: Any) -> tuple[StreamingLLMState, list[Event]]:
        if type(chunk) is Tick:
            return self._decode(state) if state.answer.left else (state, [])
        if type(chunk) is Control:
            if chunk.name != "interrupt":
                raise InputError(f"control {chunk.name!r} is unknown; streaming-llm knows interrupt")
            return replace(state, answer=answers.stop(state.answer)), []
        if state.answer.left:
            raise InputError("an answer is in the making: tick until idle, or send Control('interrupt')")
        work, answer = self._begin(state), state.answer
        if type(chunk) is Query:
            self._ask(work, chunk)
            answer = answers.begin(answer)
        else:
            work.read(chunk)
        return self._end(work, answer, state.seed), work.events

    def _step_many(
        self, states: Sequence[StreamingLLMState], chunks: Sequence[Chunk], width: int
    ) -> list[tuple[StreamingLLMState, list[Event]] | Exception]:
        return step_together(
            states,
            chunks,
            width,
            module=self.backbone.module,
            ready=lambda state, chunk: type(chunk) is Tick and state.answer.left > 0,
            begin=self._say,
            alone=super()._step_many,
        )

    def _finish(self, state: StreamingLLMState) -> tuple[StreamingLLMState, list[Event]]:
        work = self._begin(state)
        work.flush()
        return self._end(work, state.answer, state.seed), work.events

    def _begin(self, state: StreamingLLMState) -> Pass:
        backbone = self.backbone
        cache = MemoryCache.view(state.memory, backbone.rotaries, self.retention, self.frame, backbone.limit)
        return Pass(backbone, cache, state.logits, state.reading)

    def _end(self, work: Pass, answer: Answer, seed: int) -> StreamingLLMState:
        return StreamingLLMState(work.cache.memory(), work.logits, work.reading, answer, seed)

    def _ask(self, work: Pass, query: Query) -> None:
        work.flush()
        if query.t is not None:
            work.reading = replace(work.reading, time=np.asarray(query.t, dtype=np.float64))
        turn = self.backbone.encode_turn(query.text, chat=self.chat)
        work.cache.evict_for_space(len(turn) + self.max_new_tokens)
        for start in range(0, len(turn), self.chunk):
            work.put(turn[start : start + self.chunk])

    def _say(self, state: StreamingLLMState) -> Saying[StreamingLLMState]:
        work = self._begin(state)
        answer, token = work.speak(state.answer, self.temperature, state.seed)
        return Saying(work, token, lambda done: self._end(done, answer, state.seed))

    def _decode(self, state: StreamingLLMState) -> tuple[StreamingLLMState, list[Event]]:
        turn = self._say(state)
        turn.work.put([turn.token])
        return turn.end(turn.work.logits)
