"""DuoAttention as a stream operator: retrieval heads keep much of the past, streaming heads sinks and recent tokens."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

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
from unending.core.errors import CapacityError, InputError
from unending.parts.memory.heads import (
    PREFILL_MODES,
    HeadCache,
    HeadMemory,
    empty_heads,
    head_bytes,
    require_heads,
)
from unending.parts.memory.naive_heads import NaiveHeads
from unending.parts.memory.retention import SinksAndWindow
from unending.parts.reading.naive import offline
from unending.parts.reading.reader import Reader, ReaderState
from unending.systems.language.duo_attention.gates import HeadGates

__all__ = ["DuoAttention"]


@dataclass(frozen=True)
class DuoAttention(Reader):
    """DuoAttention (Xiao, Tang, Zuo, Guo, Yang, Tang, Fu, Han 2024, arXiv 2410.10819) as a stream operator.

    Text or tokens go in; next-token losses in nats come out as rows `[n, 1]`. A `Query` is put into the stream as a
    turn, and its answer comes out as text, token by token, through ticks; it stays part of the stream.
    Stream time counts input items: characters of `Text`, tokens of `Tokens`.

    Until `full_size` tokens have come this is the paper: absolute positions in all heads, full heads that drop
    nothing. From then on full heads too keep sinks and the most recent, and the sinks of all heads move up to what
    follows them in the full heads, so a stream may be endless.

    Parameters
    ----------
    model
        friendly name, path or hub id of a causal language model.
    pattern
        head gates: a shipped name, a folder as `HeadGates.save` writes it, or a table like `"1 0 / 0.5 0"`.
    sparsity
        share of streaming heads.
    sink_size, recent_size
        tokens that a streaming head keeps from the start and at the end.
    full_size
        tokens that a full head keeps at most.
    chunk
        tokens of one forward pass; streaming heads are cut after each.
    prefill_mode
        what streaming heads see in the first chunk: `dense_first_chunk`, everything, or `streaming`, sinks and recent.
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
    pattern: str = "smollm2-135m"
    sparsity: float = 0.5
    sink_size: int = 64
    recent_size: int = 256
    full_size: int = 4096
    chunk: int = 64
    prefill_mode: str = PREFILL_MODES[0]
    dtype: str = "float32"
    max_new_tokens: int = 128
    temperature: float = 0.0
    chat: bool = True

    spec: ClassVar[Spec] = Spec(
        name="duo-attention",
        family="language",
        title="a language model over a long text, the whole past only in the heads that retrieve",
        takes=(Tokens, Text, Query, Control),
        gives=(Rows, Text),
        exactness=Exactness.allclose(2e-4),
        paper=Paper(
            "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads",
            "Guangxuan Xiao, Jiaming Tang, Jingwei Zuo, Junxian Guo, Shang Yang, Haotian Tang, Yao Fu, Song Han",
            2024,
            "2410.10819",
        ),
        hop="chunk",
        unit="token",
    )

    def __post_init__(self) -> None:
        SinksAndWindow(self.sink_size, self.recent_size)
        self._require_sensible()
        if not 0 <= self.sparsity <= 1 or self.prefill_mode not in PREFILL_MODES:
            raise InputError(
                f"sparsity is a share from 0 to 1, prefill_mode one of {', '.join(PREFILL_MODES)}"
            )
        if self.full_size <= (streaming := self.sink_size + self.recent_size):
            raise InputError(
                f"full_size is {self.full_size}: full heads keep more than the {streaming} of streaming heads"
            )

    @classmethod
    def example(cls) -> Self:
        from unending.parts.backbones.tiny import tiny_llama

        module, tokenizer = tiny_llama()
        sizes = {"sink_size": 2, "recent_size": 6, "full_size": 24, "chunk": 4, "max_new_tokens": 2}
        return cls.from_model(module, tokenizer, pattern="1 0 / 0 0.2", temperature=1.0, **sizes)

    @property
    def retention(self) -> SinksAndWindow:
        """What stays in streaming heads."""
        return SinksAndWindow(self.sink_size, self.recent_size)

    @property
    def _retentions(self) -> tuple[SinksAndWindow, SinksAndWindow]:
        return SinksAndWindow(self.sink_size, self.full_size - self.sink_size), self.retention

    @cached_property
    def gates(self) -> HeadGates:
        """The gates that the pattern names."""
        return HeadGates.load(self.pattern)

    @cached_property
    def heads(self) -> np.ndarray:
        """Which heads are full, bool `[layers, kv_heads]`."""
        heads = self.gates.binarize(self.sparsity)
        require_heads(self.backbone.kv_shapes(), heads)
        return heads

    @property
    def _capacities(self) -> tuple[int, int]:
        return self.full_size + self.chunk, self.retention.budget + self.chunk

    def weights_digest(self) -> str:
        return f"{self.backbone.digest}-{hashlib.sha256(self.gates.values.tobytes()).hexdigest()[:16]}"

    def bound(self) -> Bound:
        backbone = self.backbone
        shapes, itemsize = backbone.kv_shapes(), backbone.dtype.itemsize
        memory = head_bytes(shapes, self.heads, self._capacities, itemsize)
        return Bound(memory + self._around())

    def init(self, seed: int = 0) -> ReaderState:
        backbone = self.backbone
        if backbone.limit < self.full_size + self.chunk:
            raise CapacityError(
                f"full_size + chunk make {self.full_size + self.chunk} positions,"
                f" but {self.model} attends over at most {backbone.limit}"
            )
        shapes, dtype, device = backbone.kv_shapes(), backbone.dtype, backbone.device
        made = self._empty(empty_heads(shapes, self.heads, self._capacities, dtype, device), seed)
        self._begin(made)  # refuses a model that the memory does not know before there is a stream
        return made

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The stream by the slow reference of the memory, its text tokenised in whole runs."""
        return offline(
            self, stream, NaiveHeads(self.backbone.module, self.heads, *self._retentions, self.prefill_mode)
        )

    def _room(self) -> int:
        return self.full_size - self.retention.budget

    def _view(self, memory: HeadMemory) -> HeadCache:
        backbone = self.backbone
        kept, limit = self._retentions, backbone.limit
        return HeadCache(memory, self.heads, backbone.rotaries, *kept, limit, self.prefill_mode)
