"""StreamingLLM: an endless token stream through a KV cache of fixed size, attention sinks and recent tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from unending.core import (
    Bound,
    Chunk,
    Control,
    Event,
    Exactness,
    Paper,
    Query,
    Rows,
    Spec,
    Text,
    Tokens,
)
from unending.core.errors import CapacityError
from unending.parts import backbones
from unending.parts.memory import KVMemory, MemoryCache, SinksAndWindow, empty, kv_bytes
from unending.parts.reading.naive import offline
from unending.parts.reading.reader import Reader, ReaderState

__all__ = ["StreamingCache", "StreamingLLM"]


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


@dataclass(frozen=True)
class StreamingLLM(Reader):
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
        self._require_sensible()

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

    def bound(self) -> Bound:
        backbone = self.backbone
        return Bound(kv_bytes(backbone.kv_shapes(), self._capacity, backbone.dtype.itemsize) + self._around())

    def init(self, seed: int = 0) -> ReaderState:
        backbone = self.backbone
        if backbone.limit < self.retention.budget + self.chunk:
            raise CapacityError(
                f"sinks + window + chunk make {self.retention.budget + self.chunk} positions,"
                f" but {self.model} attends over at most {backbone.limit}"
            )
        memory = empty(backbone.kv_shapes(), self._capacity, backbone.dtype, backbone.device)
        return self._empty(memory, seed)

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The stream by the slow reference of the memory, its text tokenised in whole runs."""
        return offline(self, stream)

    def _room(self) -> int:
        return self.window_size

    def _view(self, memory: KVMemory) -> MemoryCache:
        backbone = self.backbone
        return MemoryCache.view(memory, backbone.rotaries, self.retention, self.frame, backbone.limit)
