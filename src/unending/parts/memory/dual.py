"""Two KV groups in one memory: a source that is read and a target that is written, each with its own positions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from unending.core import state
from unending.core.errors import CapacityError, InputError, StateError

__all__ = ["DualCache", "DualMemory", "dual_bytes", "empty_dual"]

Shapes = Sequence[tuple[int, int, int]]


@state
class DualMemory:
    """Keys and values of a source and of a target, in slots in order of arrival.

    A step writes only to slots behind the counts, so an older state of the same tensors stays what it was.
    """

    source_keys: tuple[Tensor, ...]
    """A layer each, `[batch, kv_heads, source capacity, head_dim]` in model dtype, rotated to their positions."""
    source_values: tuple[Tensor, ...]
    target_keys: tuple[Tensor, ...]
    """A layer each, `[batch, kv_heads, target capacity, head_dim]`."""
    target_values: tuple[Tensor, ...]
    ends: np.ndarray
    """int64 `[segments at most]`: source tokens up to the end of each whole segment."""
    source_count: int
    target_count: int
    segments: int
    """Whole segments of the source."""

    def canonical(self) -> Self:
        """Zeros in the slots that hold nothing."""

        def cleared(held: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
            fresh = tuple(torch.zeros_like(each) for each in held)
            for new, each in zip(fresh, held, strict=True):
                new[:, :, :count] = each[:, :, :count]
            return fresh

        return replace(
            self,
            source_keys=cleared(self.source_keys, self.source_count),
            source_values=cleared(self.source_values, self.source_count),
            target_keys=cleared(self.target_keys, self.target_count),
            target_values=cleared(self.target_values, self.target_count),
            ends=np.where(np.arange(len(self.ends)) < self.segments, self.ends, 0),
        )


def empty_dual(
    shapes: Shapes, source: int, target: int, segments: int, dtype: torch.dtype, device: torch.device
) -> DualMemory:
    """A memory for `source` and `target` tokens and so many source segments; `shapes` as of `kv.empty`."""

    def buffers(size: int) -> tuple[Tensor, ...]:
        return tuple(
            torch.zeros((batch, heads, size, dim), dtype=dtype, device=device) for batch, heads, dim in shapes
        )

    return DualMemory(
        source_keys=buffers(source),
        source_values=buffers(source),
        target_keys=buffers(target),
        target_values=buffers(target),
        ends=np.zeros(segments, dtype=np.int64),
        source_count=0,
        target_count=0,
        segments=0,
    )


def dual_bytes(shapes: Shapes, source: int, target: int, segments: int, itemsize: int) -> int:
    """Bytes of a `DualMemory`, from its sizes alone."""
    a_token = sum(2 * batch * heads * dim * itemsize for batch, heads, dim in shapes)
    return a_token * (source + target) + 8 * segments + 3 * 8


class DualCache(Cache):
    """A source that is read and a target that is written to it, with position ids of their own.

    Reading appends to the source and is causal in it: no source token ever sees a target token. Writing appends to
    the target, which sees the source (its first `visible` tokens) and is causal in itself. A key carries its position
    in its rotation, so a source that grows later is legal: no token is encoded twice (Tong et al. 2025, arXiv
    2505.16983).

    As a `transformers.Cache` it goes into `model(..., past_key_values=cache, position_ids=...)`; the caller passes
    `position_ids` from `position` on and sets `mode` before each forward pass. As a memory that attends by itself
    (`unending.parts.memory.joint.Attending`) it is what `forward` and `decode_together` take.

    Parameters
    ----------
    memory
        the tensors; they are shared, not copied. See `DualCache.of` for a new one.
    phi
        where target positions begin.
    """

    def __init__(self, memory: DualMemory, phi: int = 0) -> None:
        super().__init__(layers=[_Layer(self, index) for index in range(len(memory.source_keys))])
        self.phi = phi
        self.mode = "read"
        self.visible: int | None = None
        """Source tokens that a write sees; None for all that are there."""
        self._held = memory
        self._source, self._target = memory.source_count, memory.target_count
        self._ends, self._segments = memory.ends, memory.segments
        self._committed = memory.target_count

    @classmethod
    def of(
        cls, model: nn.Module, source: int, target: int, *, segments: int = 1024, phi: int = 0, batch: int = 1
    ) -> Self:
        """A new cache for a causal language model of transformers."""
        from unending.parts.backbones.language import kv_shapes

        weight = next(model.parameters())
        shapes = kv_shapes(model.config, batch)
        return cls(empty_dual(shapes, source, target, segments, weight.dtype, weight.device), phi)

    def memory(self) -> DualMemory:
        """The state after what was done through this view."""
        return replace(
            self._held,
            source_count=self._source,
            target_count=self._target,
            ends=self._ends,
            segments=self._segments,
        )

    @property
    def source_count(self) -> int:
        """Source tokens that are there."""
        return self._source

    @property
    def target_count(self) -> int:
        """Target tokens that are there."""
        return self._target

    @property
    def segments(self) -> int:
        """Whole source segments that are there."""
        return self._segments

    @property
    def room(self) -> tuple[int, int, int]:
        """Source tokens, target tokens and segments that still fit."""
        held = self._held
        return (
            held.source_keys[0].shape[2] - self._source,
            held.target_keys[0].shape[2] - self._target,
            len(held.ends) - self._segments,
        )

    @property
    def position(self) -> int:
        """Position id of the next token in this mode."""
        return self._source if self.mode == "read" else self.phi + self._target

    @property
    def seen(self) -> int:
        """Tokens that are there, of both groups."""
        return self._source + self._target

    def end_of(self, segment: int) -> int:
        """Source tokens up to the end of a whole segment, counted from 0."""
        if not 0 <= segment < self._segments:
            raise InputError(f"segment {segment} is not among the {self._segments} whole ones")
        return int(self._ends[segment])

    def end_segment(self) -> None:
        """What was read since the last segment is one.

        Raises
        ------
        CapacityError
            if there is no room for another segment.
        """
        if self._segments == len(self._ends):
            raise CapacityError(f"the source has {self._segments} segments already, which is all that fit")
        self._ends = self._ends.copy()
        self._ends[self._segments] = self._source
        self._segments += 1

    def pop_target(self, n: int = 1) -> None:
        """Forget the last `n` target tokens.

        Raises
        ------
        StateError
            if they were written before this view was opened: an older state may still stand on them.
        """
        if self._target - n < self._committed:
            raise StateError(
                f"{n} target tokens cannot be dropped: {self._target - self._committed} were written in this step"
            )
        self._target -= n

    def clear(self) -> None:
        """Forget everything; what older states hold is not touched."""

        def fresh(held: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(map(torch.zeros_like, held))

        old = self._held
        self._held = replace(
            old,
            source_keys=fresh(old.source_keys),
            source_values=fresh(old.source_values),
            target_keys=fresh(old.target_keys),
            target_values=fresh(old.target_values),
            ends=np.zeros_like(old.ends),
        )
        self._source = self._target = self._segments = self._committed = 0
        self._ends, self.visible = self._held.ends, None

    def reset(self) -> None:
        """As `clear`."""
        self.clear()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Store keys and values `[1, kv_heads, n, d]` and attend with `query` `[1, heads, n, d]`."""
        keys, values = self._append(layer, key, value)
        new, total = key.shape[2], keys.shape[2]
        mask = None
        if new > 1:
            mask = torch.ones(new, total, dtype=torch.bool, device=key.device).tril(total - new)
        grouped = query.shape[1] != keys.shape[1]
        out = nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=grouped
        )
        return out.transpose(1, 2)

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store what comes, and give back all that it may see, itself last."""
        held, new = self._held, key.shape[2]
        reading = self.mode == "read"
        count = self._source if reading else self._target
        keys, values = (
            (held.source_keys[layer], held.source_values[layer])
            if reading
            else (held.target_keys[layer], held.target_values[layer])
        )
        if count + new > keys.shape[2]:
            name = "source" if reading else "target"
            raise CapacityError(
                f"{new} tokens on top of {count} exceed the {keys.shape[2]} that a {name} holds"
            )
        keys[:, :, count : count + new] = key
        values[:, :, count : count + new] = value
        if layer == len(held.source_keys) - 1:
            if reading:
                self._source += new
            else:
                self._target += new
        if reading:
            return keys[:, :, : count + new], values[:, :, : count + new]
        before = self._seen_source
        return (
            torch.cat([held.source_keys[layer][:, :, :before], keys[:, :, : count + new]], dim=2),
            torch.cat([held.source_values[layer][:, :, :before], values[:, :, : count + new]], dim=2),
        )

    @property
    def _seen_source(self) -> int:
        return self._source if self.visible is None else min(self.visible, self._source)


class _Layer(CacheLayerMixin):
    """One layer of a `DualCache` as transformers wants to see it."""

    is_sliding = False
    is_croppable = False

    def __init__(self, cache: DualCache, index: int) -> None:
        super().__init__()
        self._cache, self._index = cache, index

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.is_initialized = True
        return self._cache._append(self._index, key_states, value_states)

    def get_seq_length(self) -> int:
        cache = self._cache
        return cache.source_count if cache.mode == "read" else cache._seen_source + cache.target_count

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        held = self._cache._held
        return held.source_keys[0].shape[2] + held.target_keys[0].shape[2]

    def reset(self) -> None:
        self.is_initialized = False
