"""StreamingLLM: an endless token stream through a KV cache of fixed size, attention sinks and recent tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    blocks,
    random,
    state,
)
from unending.core.errors import InputError
from unending.io import text as held
from unending.parts import backbones
from unending.parts.memory import (
    KVMemory,
    MemoryCache,
    SinksAndWindow,
    empty,
    forward,
    kv_bytes,
    next_token_losses,
)
from unending.parts.memory.naive import naive_losses

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
    characters: held.HeldText
    waiting: blocks.Remainder
    """Rows `(token id, stream time at which it ends)` that wait for a full block."""
    time: np.ndarray
    """float64 scalar: stream time that has arrived."""
    answer: np.ndarray
    """int64 `[max_new_tokens]`, the answer in the making."""
    answered: int
    shown: int
    """Tokens of the answer whose text went out."""
    left: int
    """Tokens that the answer may still have; 0 when none is in the making."""
    seed: int


@dataclass(frozen=True)
class StreamingLLM(Operator[StreamingLLMState]):
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
            module, tokenizer, sink_size=2, window_size=10, chunk=4, max_new_tokens=3, temperature=1.0
        )

    @classmethod
    def from_model(cls, module: nn.Module, tokenizer: Any = None, **settings: Any) -> Self:
        """The operator over a model that is in memory already; `settings` are the other fields."""
        dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
        return cls(model=backbones.register(module, tokenizer), dtype=dtype, **settings)

    @property
    def backbone(self) -> backbones.LanguageBackbone:
        """The model, loaded at the first use."""
        return backbones.load(self.model, self.dtype)

    @property
    def retention(self) -> SinksAndWindow:
        """What stays in the cache."""
        return SinksAndWindow(self.sink_size, self.window_size)

    @property
    def _capacity(self) -> int:
        return self.retention.budget + self.chunk

    def domain(self) -> Mapping[type[Chunk], Domain]:
        return {Tokens: {"vocabulary": self.backbone.vocabulary}, Query: {"characters": 8 * self.window_size}}

    def weights_digest(self) -> str:
        return self.backbone.digest

    def bound(self) -> Bound:
        backbone = self.backbone
        cache = kv_bytes(backbone.kv_shapes(), self._capacity, backbone.dtype.itemsize)
        held_text = 4 * _HELD_CHARACTERS + 2 * 8
        waiting = 16 * self.chunk + 2 * 8
        return Bound(cache + 4 * backbone.vocabulary + held_text + waiting + 8 + 8 * self.max_new_tokens + 4 * 8)

    def init(self, seed: int = 0) -> StreamingLLMState:
        backbone = self.backbone
        self._view(empty(backbone.kv_shapes(), 1, backbone.dtype, backbone.device))
        return StreamingLLMState(
            memory=empty(backbone.kv_shapes(), self._capacity, backbone.dtype, backbone.device),
            logits=torch.zeros(backbone.vocabulary, device=backbone.device),
            characters=held.held_text(_HELD_CHARACTERS),
            waiting=blocks.remainder(self.chunk, (2,), np.float64),
            time=np.zeros(()),
            answer=np.zeros(self.max_new_tokens, dtype=np.int64),
            answered=0,
            shown=0,
            left=0,
            seed=seed,
        )

    def pending(self, state: StreamingLLMState) -> bool:
        return state.left > 0

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """Losses of a stream of tokens by the slow reference, which knows no cache class."""
        if any(type(chunk) is not Tokens for chunk in stream):
            return super().offline(stream)
        ids = np.concatenate([chunk.ids for chunk in stream]) if stream else np.zeros(0, np.int64)
        losses = naive_losses(self.backbone.module, ids, self.retention, self.chunk)
        return [Event(Rows(losses[:, None], ("loss",)), 1, len(ids))] if len(losses) else []

    def _step(self, state: StreamingLLMState, chunk: Any) -> tuple[StreamingLLMState, list[Event]]:
        if type(chunk) is Tick:
            return self._decode(state) if state.left else (state, [])
        if type(chunk) is Control:
            if chunk.name != "interrupt":
                raise InputError(f"control {chunk.name!r} is unknown; streaming-llm knows interrupt")
            return replace(state, left=0), []
        if state.left:
            raise InputError("an answer is in the making: tick until idle, or send Control('interrupt')")
        if chunk.t is not None:
            state = replace(state, time=np.asarray(chunk.t, dtype=np.float64))
        if type(chunk) is Query:
            return self._ask(state, chunk)
        if type(chunk) is Text:
            return self._read_text(state, chunk.text)
        ends = state.time + np.arange(1, len(chunk) + 1)
        state, first = self._release(state) if len(chunk) else (state, [])
        state, events = self._read(state, np.stack([chunk.ids, ends], axis=1))
        return replace(state, time=np.asarray(state.time + len(chunk))), first + events

    def _finish(self, state: StreamingLLMState) -> tuple[StreamingLLMState, list[Event]]:
        return self._flush(state)

    def _view(self, memory: KVMemory) -> MemoryCache:
        backbone = self.backbone
        return MemoryCache.view(memory, backbone.rotaries, self.retention, self.frame, backbone.limit)

    def _read_text(self, state: StreamingLLMState, text: str) -> tuple[StreamingLLMState, list[Event]]:
        begins = state.time - state.characters.count
        characters, pieces = held.feed(state.characters, text)
        state = replace(state, characters=characters, time=np.asarray(state.time + len(text)))
        return self._read(state, self._encode(state, pieces, float(begins)))

    def _encode(self, state: StreamingLLMState, pieces: list[str], begins: float) -> np.ndarray:
        """Rows `(id, end time)` of pieces of text, the first of which begins at a stream time."""
        backbone = self.backbone
        if backbone.tokenizer is None:
            raise InputError(f"model {self.model} has no tokenizer: push Tokens")
        first = state.memory.seen == 0 and state.waiting.position == 0
        rows = [(token, begins) for token in backbone.opening] if first and pieces else []
        for piece in pieces:
            ids, ends = backbone.encode_piece(piece, first=first)
            rows += [(token, begins + end) for token, end in zip(ids, ends, strict=True)]
            begins += len(piece)
            first = False
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def _read(self, state: StreamingLLMState, rows: np.ndarray) -> tuple[StreamingLLMState, list[Event]]:
        waiting, full = blocks.feed(state.waiting, rows)
        state = replace(state, waiting=waiting)
        return self._forward(state, full)

    def _release(self, state: StreamingLLMState) -> tuple[StreamingLLMState, list[Event]]:
        """Tokenise the text that is held back."""
        if not state.characters.count:
            return state, []
        begins = float(state.time) - state.characters.count
        characters, piece = held.flush(state.characters)
        state = replace(state, characters=characters)
        return self._read(state, self._encode(state, [piece], begins))

    def _flush(self, state: StreamingLLMState) -> tuple[StreamingLLMState, list[Event]]:
        state, events = self._release(state)
        waiting, rest = blocks.flush(state.waiting)
        state, more = self._forward(replace(state, waiting=waiting), [rest] if len(rest) else [])
        return state, events + more

    def _forward(
        self, state: StreamingLLMState, full: list[np.ndarray]
    ) -> tuple[StreamingLLMState, list[Event]]:
        if not full:
            return state, []
        backbone, events = self.backbone, []
        cache, logits = self._view(state.memory), state.logits
        for block in full:
            ids = torch.from_numpy(block[:, 0].astype(np.int64))[None].to(backbone.device)
            before = logits[None] if cache.seen else None
            scores = forward(backbone.module, ids, cache)
            losses = next_token_losses(before, scores, ids)[0].cpu().numpy()
            logits = scores[0, -1].clone()
            if len(losses):
                ends = block[len(block) - len(losses) :, 1]
                events.append(Event(Rows(losses[:, None], ("loss",)), float(ends[0]), float(ends[-1])))
        return replace(state, memory=cache.memory(), logits=logits), events

    def _ask(self, state: StreamingLLMState, query: Query) -> tuple[StreamingLLMState, list[Event]]:
        state, events = self._flush(state)
        ids = self.backbone.encode_turn(query.text, chat=self.chat)
        cache = self._view(state.memory)
        cache.evict_for_space(len(ids) + self.max_new_tokens)
        state = replace(state, memory=cache.memory(), answered=0, shown=0, left=self.max_new_tokens)
        return self._put(state, ids), events

    def _put(self, state: StreamingLLMState, ids: list[int]) -> StreamingLLMState:
        """Read tokens that are no input of the stream and give no losses."""
        cache, logits = self._view(state.memory), state.logits
        for start in range(0, len(ids), self.chunk):
            block = torch.tensor([ids[start : start + self.chunk]], device=self.backbone.device)
            logits = forward(self.backbone.module, block, cache)[0, -1].clone()
        return replace(state, memory=cache.memory(), logits=logits)

    def _decode(self, state: StreamingLLMState) -> tuple[StreamingLLMState, list[Event]]:
        token = self._choose(state)
        ended = token in self.backbone.stops
        answer = state.answer.copy()
        if not ended:
            answer[state.answered] = token
        count = state.answered + (not ended)
        left = 0 if ended else state.left - 1
        pieces, shown = self._new_text(answer, count, state.shown, last=left == 0)
        state = self._put(replace(state, answer=answer, answered=count, shown=shown, left=left), [token])
        now = float(state.time)
        return state, [Event(Text(piece), now, now) for piece in pieces]

    def _choose(self, state: StreamingLLMState) -> int:
        if self.temperature == 0:
            return int(state.logits.argmax())
        weights = torch.softmax(state.logits.double() / self.temperature, dim=-1).cpu().numpy()
        draw = random.philox(state.seed, state.memory.seen).random()
        return int(min(np.searchsorted(np.cumsum(weights), draw * weights.sum()), len(weights) - 1))

    def _new_text(self, answer: np.ndarray, count: int, shown: int, *, last: bool) -> tuple[list[str], int]:
        """Text that is complete now, and the tokens it covers; a character cut between tokens waits."""
        if self.backbone.tokenizer is None:
            return [], count
        before, now = self.backbone.decode(answer[:shown].tolist()), self.backbone.decode(answer[:count].tolist())
        if now.endswith("�") and not last:
            return [], shown
        return ([now[len(before) :]] if len(now) > len(before) else []), count


_HELD_CHARACTERS = 256
