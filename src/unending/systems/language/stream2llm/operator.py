"""Stream2LLM as a stream operator: one prompt whose context streams in, changes, and is asked about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

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
    Spec,
    Text,
    Tick,
    Tokens,
)
from unending.core.errors import CapacityError, InputError
from unending.parts.backbones.operators import OnLanguageModel
from unending.parts.prefix import PagedKVPool, block_bytes
from unending.parts.reading import Reading, answers, tokens
from unending.parts.reading.together import step_together
from unending.systems.language.stream2llm import context, naive
from unending.systems.language.stream2llm.context import Stream2LLMState
from unending.systems.language.stream2llm.memory import PagedCache
from unending.systems.language.stream2llm.prompt import Frame, frame_of

__all__ = ["Stream2LLM"]


@dataclass(frozen=True)
class Stream2LLM(OnLanguageModel, Operator[Stream2LLMState]):
    """Stream2LLM (Bachkaniwala, Luo, So, Mahajan, Rong 2026, arXiv 2604.16395) as a stream operator.

    A session is one prompt at a time. `Text` and `Tokens` append to its context and are prefilled on ticks, a block
    at a time, while more is on its way. `Control("replace-context", text)` replaces the context; what is computed of
    the longest common prefix in tokens stays. A `Query` closes the prompt; its answer comes out as text, token by
    token, on ticks. Then the context is as before, open to more. Stream time counts input items: characters of
    `Text`, tokens of `Tokens`.

    Parameters
    ----------
    model
        friendly name, path or hub id of a causal language model with rotary positions.
    max_context
        tokens of context at most; more are refused with a `CapacityError`.
    max_question
        tokens of a question at most, with what the chat template puts around it.
    max_new_tokens
        longest answer.
    chunk
        tokens of one prefill pass; passes end at multiples of it.
    block_size
        tokens of a KV block.
    dtype
        of weights and KV memory.
    temperature
        0 takes the likeliest token.
    chat
        put instruction, context and question in the tokenizer's chat template; off, they are one text.
    instruction
        what the chat template has before the context.
    """

    model: str = "smollm2-135m"
    max_context: int = 4096
    max_question: int = 256
    max_new_tokens: int = 128
    chunk: int = 64
    block_size: int = 16
    dtype: str = "float32"
    temperature: float = 0.0
    chat: bool = True
    instruction: str = "Answer the question from the text."

    spec: ClassVar[Spec] = Spec(
        name="stream2llm",
        family="language",
        title="a language model that reads its context while it is still arriving or changing",
        takes=(Tokens, Text, Query, Control),
        gives=(Text,),
        exactness=Exactness.allclose(2e-4),
        paper=Paper(
            "Stream2LLM: Overlap Context Streaming and Prefill for Reduced Time-to-First-Token",
            "Rajveer Bachkaniwala, Chengqi Luo, Richard So, Divya Mahajan, Kexin Rong",
            2026,
            "2604.16395",
        ),
        hop="chunk",
        unit="token",
    )

    def __post_init__(self) -> None:
        sizes = self.max_context, self.max_question, self.max_new_tokens, self.chunk, self.block_size
        if min(sizes) < 1 or self.temperature < 0:
            raise InputError(
                "max_context, max_question, max_new_tokens, chunk and block_size are 1 or more, temperature 0 or more"
            )

    @classmethod
    def example(cls) -> Self:
        from transformers import LlamaConfig

        from unending.parts.backbones.tiny import byte_tokenizer, tiny_model

        config = LlamaConfig(
            vocab_size=272,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=1 << 14,
            eos_token_id=256,
            bos_token_id=None,
            pad_token_id=257,
        )
        return cls.from_model(
            tiny_model(config),
            byte_tokenizer(),
            max_context=4096,
            max_question=8,
            max_new_tokens=2,
            chunk=4,
            block_size=4,
            temperature=1.0,
        )

    @property
    def capacity(self) -> int:
        """Tokens that a session has room for: context, question and answer."""
        return self.max_context + self.max_question + self.max_new_tokens

    @property
    def block_count(self) -> int:
        """KV blocks of a session."""
        return -(-self.capacity // self.block_size)

    @cached_property
    def frame(self) -> Frame:
        """What stands around the context."""
        return frame_of(self.backbone, self.instruction, chat=self.chat)

    @cached_property
    def _domain(self) -> Mapping[type[Chunk], Domain]:
        # A character of any script is at most four tokens of a byte-level vocabulary.
        around = len(self.frame.question("?")) if self.backbone.tokenizer else 0
        return {
            Tokens: {"vocabulary": self.backbone.vocabulary},
            Query: {"characters": max(1, (self.max_question - around) // 4)},
        }

    def domain(self) -> Mapping[type[Chunk], Domain]:
        return self._domain

    def bound(self) -> Bound:
        backbone = self.backbone
        shapes = tuple((heads, dim) for _, heads, dim in backbone.kv_shapes())
        memory = block_bytes(shapes, self.block_count, self.block_size, backbone.dtype.itemsize)
        answer = answers.answer_bytes(self.max_new_tokens)
        return Bound(memory + answer + context.books(self.capacity, self.block_count, backbone.vocabulary))

    def init(self, seed: int = 0) -> Stream2LLMState:
        if self.backbone.limit < self.capacity:
            raise CapacityError(
                f"max_context + max_question + max_new_tokens make {self.capacity:,} positions,"
                f" but {self.model} attends over at most {self.backbone.limit:,}"
            )
        return context.empty_state(self, seed)

    def pending(self, state: Stream2LLMState) -> bool:
        return not state.paused and (state.answer.left > 0 or self._ready(state))

    def _ready(self, state: Stream2LLMState) -> bool:
        """Whether a whole block of context waits to be read."""
        return (state.computed // self.chunk + 1) * self.chunk <= state.count

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The stream without streaming: every prompt in one pass, when its question has come."""
        return naive.offline(self, stream)

    def _step(self, state: Stream2LLMState, chunk: Any) -> tuple[Stream2LLMState, list[Event]]:
        if type(chunk) is Tick:
            return self._tick(state) if self.pending(state) else (state, [])
        if type(chunk) is Control and chunk.name == "interrupt":
            stopped = context.close(state) if state.answer.left else state
            return replace(stopped, paused=int(self._ready(stopped))), []
        if state.answer.left:
            raise InputError("an answer is in the making: tick until idle, or send Control('interrupt')")
        reading = state.reading
        if chunk.t is not None:
            reading = replace(reading, time=np.asarray(chunk.t, dtype=np.float64))
        if type(chunk) is Control:
            return self._replace(state, chunk, reading), []
        if type(chunk) is Query:
            return context.asked(self, state, self.frame.question(chunk.text), reading), []
        return context.appended(self, state, *tokens.read(state.reading, chunk, self.backbone)), []

    def _tick(self, state: Stream2LLMState) -> tuple[Stream2LLMState, list[Event]]:
        events: list[Event] = []
        if _speaks(state):
            state, events = context.speak(self, state)
            if not state.answer.left:
                return state, events
        return context.read_on(self, state), events

    def _replace(self, state: Stream2LLMState, control: Control, reading: Reading) -> Stream2LLMState:
        if control.name != "replace-context":
            raise InputError(
                f"control {control.name!r} is unknown; stream2llm knows interrupt and replace-context"
            )
        if isinstance(control.value, str):
            chunk: Text | Tokens = Text(control.value)
        elif isinstance(control.value, list | tuple | np.ndarray):
            chunk = Tokens(np.array(control.value, dtype=None if len(control.value) else np.int64))
        else:
            raise InputError("replace-context takes the new context as its value: text, or token ids")
        chunk.check(self.domain().get(type(chunk), {}))
        return context.replaced(self, state, chunk, float(reading.time))

    def _step_many(
        self, states: Sequence[Stream2LLMState], chunks: Sequence[Chunk], width: int
    ) -> list[tuple[Stream2LLMState, list[Event]] | Exception]:
        return step_together(
            states,
            chunks,
            width,
            module=self.backbone.module,
            ready=lambda state, chunk: type(chunk) is Tick and _speaks(state),
            begin=self._say,
            alone=super()._step_many,
        )

    def _say(self, state: Stream2LLMState) -> "_Saying | tuple[Stream2LLMState, list[Event]]":
        state, events = context.speak(self, state)
        if not state.answer.left:
            return state, events
        pool = PagedKVPool(state.blocks)
        table = state.table[: pool.blocks_for(state.computed)]
        return _Saying(state, events, PagedCache(pool, table, state.computed))


@dataclass(frozen=True, eq=False)
class _Saying:
    """The turn of a session whose next token of the answer is chosen and is to be read."""

    state: Stream2LLMState
    events: list[Event]
    memory: PagedCache

    @property
    def token(self) -> int:
        return int(self.state.tokens[self.state.count - 1])

    def end(self, logits: Tensor) -> tuple[Stream2LLMState, list[Event]]:
        cache = self.memory
        return context.has_read(self.state, cache.pool, cache.table, cache.count, logits), self.events


def _speaks(state: Stream2LLMState) -> bool:
    """All of a closed prompt is read, so that the next tick gives a token of the answer."""
    return state.answer.left > 0 and state.computed == state.count
