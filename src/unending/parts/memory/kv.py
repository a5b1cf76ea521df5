"""The state of a KV memory: slots of fixed number, and which of them hold which token."""

from dataclasses import replace
from typing import Self

import numpy as np
import torch

from unending.core import state

__all__ = ["KVMemory", "empty", "kv_bytes"]


@state
class KVMemory:
    """Keys and values of one stream (or of a batch of streams in step), held in slots.

    A step writes new tokens only to slots that no kept token uses, and makes a new `slots`: what an older state
    points to is never written, so dropping the newer one is undo.
    """

    keys: tuple[torch.Tensor, ...]
    """A layer each, `[batch, kv_heads, capacity, head_dim]` in model dtype."""
    values: tuple[torch.Tensor, ...]
    """As `keys`."""
    slots: np.ndarray
    """int64 `[rows, capacity]`: a permutation; the first `count` are the slots of the kept tokens in stream order,
    the rest are free. `rows` is 1 where all of the batch keep the same tokens."""
    positions: np.ndarray
    """int64 `[rows, capacity]`: stream positions of the kept tokens (the first `count`)."""
    count: int
    seen: int
    """Tokens that ever came in."""

    def canonical(self) -> Self:
        """The kept tokens in the first slots, in order; zeros in the free ones."""

        def ordered(held: torch.Tensor) -> torch.Tensor:
            out = torch.zeros_like(held)
            for row in range(held.shape[0]):
                order = torch.from_numpy(self.slots[row % len(self.slots), : self.count].copy()).to(
                    held.device
                )
                out[row, :, : self.count] = held[row].index_select(1, order)
            return out

        slots = np.tile(np.arange(self.slots.shape[1], dtype=np.int64), (len(self.slots), 1))
        positions = np.where(np.arange(self.slots.shape[1]) < self.count, self.positions, 0)
        keys, values = (tuple(ordered(each) for each in held) for held in (self.keys, self.values))
        return replace(self, keys=keys, values=values, slots=slots, positions=positions)


def empty(
    shapes: tuple[tuple[int, int, int], ...], capacity: int, dtype: torch.dtype, device: torch.device
) -> KVMemory:
    """A memory with no token; `shapes` holds `(batch, kv_heads, head_dim)` a layer."""

    def buffers() -> tuple[torch.Tensor, ...]:
        return tuple(
            torch.zeros((batch, heads, capacity, dim), dtype=dtype, device=device)
            for batch, heads, dim in shapes
        )

    row = np.arange(capacity, dtype=np.int64)[None]
    return KVMemory(buffers(), buffers(), row, np.zeros_like(row), 0, 0)


def kv_bytes(shapes: tuple[tuple[int, int, int], ...], capacity: int, itemsize: int) -> int:
    """Bytes of a `KVMemory`, from its sizes alone."""
    tensors = sum(2 * batch * heads * capacity * dim * itemsize for batch, heads, dim in shapes)
    return tensors + 2 * 8 * capacity + 2 * 8
