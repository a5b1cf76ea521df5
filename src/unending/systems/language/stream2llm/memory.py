"""The KV memory of real models: a pool for an engine, and the blocks of one sequence as a transformers cache."""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Cache

from unending.core.errors import StateError
from unending.parts.backbones import LanguageBackbone
from unending.parts.prefix import KVShapes, PagedKVPool
from unending.systems.language.stream2llm.request import Request

__all__ = ["PagedCache", "PoolBlocks", "pool_of", "shapes_of"]


def shapes_of(model: nn.Module) -> KVShapes:
    """`(kv_heads, head_dim)` of each layer."""
    return tuple((heads, dim) for _, heads, dim in LanguageBackbone("", model, None, "").kv_shapes())


def pool_of(model: nn.Module, blocks: int, block_size: int, host_blocks: int) -> PagedKVPool:
    """A pool for the keys and values of a model, in its dtype and on its device."""
    weight = next(model.parameters())
    return PagedKVPool.of(
        shapes_of(model),
        blocks,
        block_size,
        host_blocks=host_blocks,
        dtype=weight.dtype,
        device=weight.device,
    )


class PagedCache(Cache):
    """The tokens of one sequence in a pool as a `transformers` cache for one step, in which they grow.

    Parameters
    ----------
    pool
        where the blocks are.
    table, count
        the sequence: block numbers, and how many of its tokens there are.
    """

    def __init__(self, pool: PagedKVPool, table: np.ndarray, count: int) -> None:
        super().__init__(layers=[])
        self.pool, self.table, self.count = pool, table, count
        self._rows = np.zeros(0, dtype=np.int64)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put `[1, kv_heads, n, d]` behind what is there; gives all of it, `[1, kv_heads, count, d]`."""
        if layer_idx == 0:
            self.table, self._rows = self.pool.extend(self.table, self.count, key_states.shape[2])
            self.count += key_states.shape[2]
        keys, values = (each[0].transpose(0, 1) for each in (key_states, value_states))
        self.pool.write(layer_idx, self._rows, keys, values)
        keys, values = self.pool.gather(layer_idx, self.table, self.count)
        return keys.transpose(0, 1)[None], values.transpose(0, 1)[None]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.count


class PoolBlocks:
    """The blocks of a real pool, as a scheduler wants them (`Blocks`); a swap copies at once.

    Blocks of the host that come free in a step can be used from the next one on, as where copies are still under way.
    """

    def __init__(self, pool: PagedKVPool) -> None:
        self.pool = pool
        self.block_size, self.total = pool.block_size, pool.total
        self._host_freed = 0

    @property
    def free(self) -> int:
        return self.pool.free

    def grow(self, request: Request, tokens: int, spare: int) -> bool:
        wanted = self.pool.blocks_for(tokens) - len(request.blocks)
        if wanted > self.pool.free:
            return False
        if wanted > 0:
            taken = self.pool.allocate(min(wanted + spare, self.pool.free))
            request.blocks = np.concatenate([request.blocks, taken])
        return True

    def truncate(self, request: Request) -> None:
        valid = request.computed + request.in_flight
        if len(request.blocks):
            kept = self.pool.truncate(request.blocks, valid)
            request.resend |= len(kept) < len(request.blocks)
            request.blocks = kept
        elif len(request.host_blocks):
            keep = self.pool.blocks_for(valid)
            self._free_host(request.host_blocks[keep:])
            request.host_blocks = request.host_blocks[:keep]
        self.pool.commit()

    def release(self, request: Request) -> None:
        self.pool.release(request.blocks)
        self._free_host(request.host_blocks)
        request.blocks, request.host_blocks = request.blocks[:0], request.host_blocks[:0]
        request.resend = True
        self.pool.commit()

    def swap_out(self, request: Request) -> bool:
        if self.pool.blocks_for(request.computed) > self.pool.host_free - self._host_freed:
            return False
        request.host_blocks = self.pool.swap_out(request.blocks, request.computed)
        request.blocks, request.resend = request.blocks[:0], True
        self.pool.commit()
        return True

    def swap_in(self, request: Request) -> bool:
        if len(request.host_blocks) > self.pool.free:
            return False
        self._host_freed += len(request.host_blocks)
        request.blocks = self.pool.swap_in(request.host_blocks, request.computed)
        request.host_blocks, request.resend = request.host_blocks[:0], True
        self.pool.commit()
        return True

    def commit(self) -> None:
        self.pool.commit()
        self._host_freed = 0

    def check(self, requests: list[Request]) -> None:
        self.pool.check()
        for name, blocks, held in (
            ("device", self.pool.blocks, [each.blocks for each in requests]),
            ("host", self.pool.host, [each.host_blocks for each in requests]),
        ):
            owned = np.concatenate([np.zeros(0, dtype=np.int64), *held])
            counts = np.bincount(owned, minlength=len(blocks.references) if blocks else 0)
            if blocks is not None and not np.array_equal(counts, blocks.references):
                raise StateError(f"{name} blocks do not add up: {len(owned)} held by requests")

    def _free_host(self, ids: np.ndarray) -> None:
        if len(ids):
            self.pool.release_host(ids)
            self._host_freed += len(ids)
