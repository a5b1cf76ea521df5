"""KV blocks as leaves of a state: tensors of fixed size, how often each block is held, how much of it is filled."""

from dataclasses import replace
from typing import Self

import numpy as np
import torch

from unending.core import state
from unending.core.errors import InputError

__all__ = ["KVBlocks", "KVShapes", "block_bytes", "empty_blocks"]

KVShapes = tuple[tuple[int, int], ...]
"""`(kv_heads, head_dim)` of each layer."""


@state
class KVBlocks:
    """Keys and values of many sequences in blocks of equal size, shared by whoever holds their numbers.

    The tensors are written in place, but only where no committed token lies (see `PagedKVPool`); the two arrays are
    made anew by every commit. Dropping a newer `KVBlocks` is therefore undo.
    """

    keys: tuple[torch.Tensor, ...]
    """A layer each, `[blocks, block_size, kv_heads, head_dim]` in model dtype, rotated."""
    values: tuple[torch.Tensor, ...]
    """As `keys`."""
    references: np.ndarray
    """int32 `[blocks]`: how many hold the block; 0 is free."""
    filled: np.ndarray
    """int32 `[blocks]`: rows in use from the first on; 0 where free."""

    def canonical(self) -> Self:
        """Zeros in all rows that are not in use."""
        if not self.keys or not len(self.references):
            return self
        block_size = self.keys[0].shape[1]
        unused = torch.from_numpy(np.arange(block_size) >= self.filled[:, None])

        def cleared(held: torch.Tensor) -> torch.Tensor:
            return held.masked_fill(unused.to(held.device)[:, :, None, None], 0)

        keys, values = (tuple(map(cleared, held)) for held in (self.keys, self.values))
        return replace(self, keys=keys, values=values)


def empty_blocks(
    shapes: KVShapes, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> KVBlocks:
    """Free blocks only.

    Raises
    ------
    InputError
        if there are fewer than 0 blocks or a block holds no token.
    """
    if blocks < 0 or block_size < 1:
        raise InputError(f"a pool has 0 blocks or more of 1 token or more; got {blocks} of {block_size}")

    def tensors() -> tuple[torch.Tensor, ...]:
        return tuple(
            torch.zeros((blocks, block_size, heads, dim), dtype=dtype, device=device) for heads, dim in shapes
        )

    return KVBlocks(tensors(), tensors(), np.zeros(blocks, np.int32), np.zeros(blocks, np.int32))


def block_bytes(shapes: KVShapes, blocks: int, block_size: int, itemsize: int) -> int:
    """Bytes of a `KVBlocks`, from its sizes alone."""
    return blocks * (8 + 2 * itemsize * block_size * sum(heads * dim for heads, dim in shapes))
