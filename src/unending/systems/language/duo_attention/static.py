"""The cache of DuoAttention in buffers of fixed size, for measurements and for devices that dislike allocation."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unending.core.errors import CapacityError, InputError
from unending.parts.memory.buffers import Buffer, FourBitBuffer, PlainBuffer
from unending.parts.memory.heads import PREFILL_MODES
from unending.systems.language.duo_attention.cache import DuoCache, DuoLayer

__all__ = ["StaticDuoCache"]


class _StaticLayer(DuoLayer):
    """One layer in buffers of fixed size. It is cut when the next tokens come, so that until then they can go again."""

    cache: "StaticDuoCache"
    full: list[Any]
    stream: list[Any]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        sizes = self.cache.max_length, self.cache.retention.budget + self.cache.max_chunk
        self.full, self.stream = (
            [self._buffer(each, size) for each in held]
            for held, size in zip((self.full, self.stream), sizes, strict=True)
        )
        self.kept = 0

    def _buffer(self, like: Tensor, size: int) -> Buffer:
        group = self.cache.group
        return FourBitBuffer(like, size, group) if group else PlainBuffer(like, size)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.compress()
        new, first = key_states.shape[2], self.seen == 0
        self.cache.require_room(self.seen + new)
        if new > self.cache.max_chunk:
            raise CapacityError(f"{new} tokens at once, but the buffers take {self.cache.max_chunk}")
        starts, views = (self.seen, self.kept), []
        for held, which, start in zip((self.full, self.stream), self.which, starts, strict=True):
            for buffer, each in zip(held, (key_states, value_states), strict=True):
                buffer.write(start, each.index_select(1, which))
            views.append([buffer.read(start + new) for buffer in held])
        self.seen, self.kept = self.seen + new, self.kept + new
        packed = self._packed(views[0], views[1], new if first else 0)
        return packed, packed

    def compress(self) -> None:
        """Cut the streaming heads to sinks and recent tokens."""
        keep = self.cache.retention.keep(self.kept if self.is_initialized else 0)
        if self.is_initialized and len(keep) < self.kept:
            order = torch.from_numpy(keep).to(self.which[0].device)
            for buffer in self.stream:
                buffer.keep(order)
            self.kept = len(keep)

    def evict_last(self, count: int) -> None:
        """Forget the newest tokens."""
        if self.is_initialized:
            self.seen, self.kept = max(0, self.seen - count), max(0, self.kept - count)

    def clear(self) -> None:
        """Forget all tokens and keep the buffers."""
        self.seen = self.kept = 0

    def get_max_length(self) -> int:
        return self.cache.max_length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        raise InputError("a StaticDuoCache takes no beam search; DuoCache does")


class StaticDuoCache(DuoCache):
    """`DuoCache` in buffers that are made once: nothing is allocated while it runs.

    Parameters
    ----------
    model, heads, sink, recent, prefill_mode
        as for `DuoCache`.
    max_length
        tokens that the full heads take.
    max_chunk
        tokens of one call.
    group
        0 keeps keys and values as they are; else they are held in four bits, with a scale and a zero point in
        float16 for so many channels (upstream: all 128 of a head).
    """

    def __init__(
        self,
        model: nn.Module,
        heads: np.ndarray,
        sink: int = 64,
        recent: int = 256,
        *,
        max_length: int,
        max_chunk: int,
        group: int = 0,
        prefill_mode: str = PREFILL_MODES[0],
    ) -> None:
        super().__init__(model, heads, sink, recent, prefill_mode=prefill_mode)
        if not 1 <= max_chunk <= max_length:
            raise InputError("accepted are 1 <= max_chunk <= max_length")
        self.max_length, self.max_chunk, self.group = max_length, max_chunk, group
        self.limit = min(self.limit, max_length)
        self.layers = [_StaticLayer(self, row) for row in np.asarray(heads, dtype=bool)]

    def put(
        self, layer: int, keys: Tensor, values: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Add keys and values `[batch, kv_heads, n, head_dim]`; what full and streaming heads now attend over.

        The views of the streaming heads hold until the next `put` or `compress` of the layer.
        """
        packed, _ = self.update(keys, values, layer)
        (_, *full, _), (_, *stream, _) = packed.groups
        return (full[0], full[1]), (stream[0], stream[1])

    def compress(self) -> None:
        """Cut the streaming heads of all layers now, and not when the next tokens come."""
        for layer in self.layers:
            layer.compress()

    def evict_last(self, count: int) -> None:
        """Forget the newest `count` tokens.

        Before `compress` this is exact for the tokens of the last call. After it, a streaming head has lost what
        those tokens had pushed out: its window is shorter by as many, which is an approximation.
        """
        for layer in self.layers:
            layer.evict_last(count)

    def clear(self) -> None:
        """Forget everything and keep the buffers."""
        for layer in self.layers:
            layer.clear()
