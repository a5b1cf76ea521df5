"""Retention by head: some heads of a layer keep much of the past, the others sinks and recent tokens."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unending.core import state
from unending.core.errors import CapacityError, InputError, ModelUnsupportedError
from unending.parts.backbones.rotary import Rotary, rotate
from unending.parts.memory.cache import MemoryCache
from unending.parts.memory.head_attention import attend_by_head, streaming_mask
from unending.parts.memory.kv import KVMemory, empty, kv_bytes
from unending.parts.memory.retention import SinksAndWindow

__all__ = [
    "PREFILL_MODES",
    "HeadCache",
    "HeadMemory",
    "empty_heads",
    "head_bytes",
    "require_heads",
]

PREFILL_MODES = ("dense_first_chunk", "streaming")
REBASE = 1 << 15
"""Tokens dropped by the full heads after which positions are counted anew, so that they stay small for ever."""

Shapes = tuple[tuple[int, int, int], ...]


@state
class HeadMemory:
    """Keys and values of one stream, the heads of each kind in tensors of their own length.

    Keys are rotated: those of the sinks to their place in the stream, those behind them to that less `base`.
    """

    full: KVMemory
    """A layer each `[1, full heads of the layer, full capacity, head_dim]`."""
    stream: KVMemory
    """A layer each `[1, streaming heads of the layer, sinks + window + chunk, head_dim]`."""
    base: int
    """How far positions lie behind the stream."""


def _shapes(shapes: Shapes, heads: np.ndarray) -> tuple[Shapes, Shapes]:
    full = tuple((batch, int(mask.sum()), dim) for (batch, _, dim), mask in zip(shapes, heads, strict=True))
    rest = tuple(
        (batch, int((~mask).sum()), dim) for (batch, _, dim), mask in zip(shapes, heads, strict=True)
    )
    return full, rest


def require_heads(shapes: Shapes, heads: np.ndarray) -> None:
    """Raise `InputError` if a table of heads, bool `[layers, kv_heads]`, does not fit a model's `shapes`."""
    wanted = [kv_heads for _, kv_heads, _ in shapes]
    if heads.ndim != 2 or [heads.shape[1]] * len(heads) != wanted:
        raise InputError(
            f"the table of heads is {' x '.join(map(str, heads.shape))}, the model has {len(wanted)} layers of"
            f" {wanted[0]} heads of keys and values"
        )


def empty_heads(
    shapes: Shapes,
    heads: np.ndarray,
    capacities: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> HeadMemory:
    """A memory with no token.

    Parameters
    ----------
    shapes
        `(batch, kv_heads, head_dim)` a layer.
    heads
        which are full, bool `[layers, kv_heads]`.
    capacities
        slots of full and of streaming heads.
    dtype, device
        of the tensors.
    """
    made = [
        empty(part, size, dtype, device)
        for part, size in zip(_shapes(shapes, heads), capacities, strict=True)
    ]
    return HeadMemory(made[0], made[1], 0)


def head_bytes(shapes: Shapes, heads: np.ndarray, capacities: tuple[int, int], itemsize: int) -> int:
    """Bytes of a `HeadMemory`, from its sizes alone."""
    parts = zip(_shapes(shapes, heads), capacities, strict=True)
    return sum(kv_bytes(part, size, itemsize) for part, size in parts) + 8


class HeadCache:
    """A view of a `HeadMemory` that stores and attends: the router of forward passes over one stream.

    Rotary positions are absolute, in streaming heads too, as long as the full heads have dropped nothing. From then
    on the sinks of all heads are turned forward by as many tokens as are missing behind them in the full heads, so
    that no distance exceeds what the full heads hold.

    Parameters
    ----------
    memory
        of the state; its own tokens are never overwritten.
    heads
        which are full, bool `[layers, kv_heads]`.
    rotaries
        a layer each.
    full, stream
        what stays after each forward pass in heads of each kind; as many sinks in both.
    limit
        keys that one query can see at most.
    prefill_mode
        `"dense_first_chunk"`: within the first pass, all heads see all that came before; `"streaming"`: streaming
        heads see sinks and window there too.

    Raises
    ------
    InputError
        if the settings do not fit each other.
    ModelUnsupportedError
        if a layer has no rotary positions, or frequencies that depend on the largest one.
    """

    def __init__(
        self,
        memory: HeadMemory,
        heads: np.ndarray,
        rotaries: Sequence[Rotary | None],
        full: SinksAndWindow,
        stream: SinksAndWindow,
        limit: int,
        prefill_mode: str = PREFILL_MODES[0],
    ) -> None:
        if prefill_mode not in PREFILL_MODES:
            raise InputError(f"prefill_mode is {prefill_mode!r}, accepted are {', '.join(PREFILL_MODES)}")
        if full.sink_size != stream.sink_size or full.window_size <= stream.window_size:
            raise InputError("full heads keep as many sinks as streaming heads, and more of the past")
        known = [each for each in rotaries if each is not None and not each.depends_on_maximum]
        if len(known) != len(rotaries):
            raise ModelUnsupportedError(
                "retention by head needs rotary positions whose frequencies do not depend on the largest one"
            )
        self.rotaries, self.retention, self.limit, self.mode = known, stream, limit, prefill_mode
        device = memory.full.keys[0].device
        self._kv_heads = [len(mask) for mask in heads]
        self._which = [
            tuple(torch.from_numpy(np.flatnonzero(part)).to(device) for part in (mask, ~mask))
            for mask in heads
        ]
        self._shift, self._first, self._turns = 0, False, dict[Any, tuple[Tensor, Tensor]]()
        memory = self._rebased(memory)
        self.base = memory.base
        # Turning is done here for both, so to the two caches positions do not exist.
        none: list[Rotary | None] = [None] * len(rotaries)
        self.full = MemoryCache.view(memory.full, none, full, "cache")
        self.stream = MemoryCache.view(memory.stream, none, stream, "cache")

    def memory(self) -> HeadMemory:
        """The state after the forward passes made through this view."""
        return HeadMemory(self.full.memory(), self.stream.memory(), self.base)

    @property
    def seen(self) -> int:
        """Tokens that ever came in."""
        return self.full.seen

    @property
    def position(self) -> int:
        """Position id of the next token."""
        return self.full.seen - self.base

    def make_room(self, coming: int) -> None:
        """Drop from the full heads what must go so that `coming` tokens stay whole in them.

        Raises
        ------
        CapacityError
            if they would push out what streaming heads keep.
        """
        room = self.full.retention.budget - self.stream.retention.budget
        if coming > room:
            raise CapacityError(
                f"{coming} tokens do not fit in one turn: the full heads hold {room} beside what streaming heads keep"
            )
        self.full.make_room(coming)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """As `unending.parts.backbones.routing.Router.attend`, for a batch of one; eviction follows attention."""
        if layer == 0:
            self._begin(query.shape[2])
        mask = None
        if self._first and self.mode == "streaming":
            sizes = self.retention.sink_size, self.retention.window_size
            mask = streaming_mask(query.shape[2], *sizes, query.device)
        groups = []
        for cache, which, seen in zip(
            (self.full, self.stream), self._which[layer], (None, mask), strict=True
        ):
            keys, values = cache.update(key.index_select(1, which), value.index_select(1, which), layer)
            groups.append((which, self._turned(keys, layer), values, seen))
        return attend_by_head(query, groups, self._kv_heads[layer], scaling)

    def _begin(self, new: int) -> None:
        if self.full.count + new > self.limit:
            raise CapacityError(
                f"{new} tokens on top of {self.full.count} kept exceed the {self.limit} positions of the model"
            )
        self._first = self.full.seen == 0
        self._shift = self.full.seen - self.full.count - self.base
        self._turns.clear()

    def _turned(self, keys: Tensor, layer: int) -> Tensor:
        """Keys `[1, heads, m, d]` with the sinks turned forward over what the full heads have dropped."""
        if not self._shift or not keys.shape[1]:
            return keys
        sinks = self.retention.sink_size
        cos, sin = self._turn(self.rotaries[layer], self._shift, keys.device)
        return torch.cat([rotate(keys[:, :, :sinks], cos, sin), keys[:, :, sinks:]], dim=2)

    def _turn(self, rotary: Rotary, by: int, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (id(rotary.module), rotary.layer_type)
        if key not in self._turns:
            self._turns[key] = rotary.angles(torch.tensor([by], device=device))
        return self._turns[key]

    def _rebased(self, memory: HeadMemory) -> HeadMemory:
        """Count positions anew once they lie far ahead: what stands behind the sinks is turned back, in new tensors."""
        by = memory.full.seen - memory.full.count - memory.base
        if by < REBASE:
            return memory

        def back(part: KVMemory) -> KVMemory:
            slots = torch.from_numpy(part.slots[0, self.retention.sink_size : part.count].copy())
            keys = []
            for rotary, held in zip(self.rotaries, part.keys, strict=True):
                cos, sin = self._turn(rotary, -by, held.device)
                slots = slots.to(held.device)
                turned = rotate(held.index_select(2, slots), cos, sin)
                keys.append(held.clone().index_copy_(2, slots, turned))
            return replace(part, keys=tuple(keys))

        return HeadMemory(back(memory.full), back(memory.stream), memory.base + by)
