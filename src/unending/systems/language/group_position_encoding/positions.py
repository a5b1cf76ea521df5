"""Where the tokens of source and target stand, and who attends to whom: the paper's groups and its three baselines."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache

from unending.core.errors import InputError, NumericalError
from unending.parts.memory import DualCache, forward
from unending.parts.memory.joint import Attending

__all__ = [
    "ArrivalPositions",
    "GroupPositions",
    "Positions",
    "ReencodedPositions",
    "Unmasked",
    "attend",
    "run",
]


class Positions(Protocol):
    """How a passage is encoded while it arrives."""

    @property
    def phi(self) -> int:
        """Where target positions begin."""

    def view(self, cache: DualCache) -> DualCache | Attending:
        """What a forward pass goes through."""

    def after_read(self, cache: DualCache) -> None:
        """Called whenever the source has grown."""


@dataclass(frozen=True)
class GroupPositions:
    """Group position encoding (Tong et al. 2025, arXiv 2505.16983): the source from 0, the target from `phi`.

    Nothing is encoded twice, no source token sees a target token.
    """

    phi: int = 0

    def __post_init__(self) -> None:
        if self.phi < 0:
            raise InputError(f"phi is {self.phi}, accepted is 0 or more")

    def position_ids(self, n_source: int, n_target: int) -> np.ndarray:
        """Position ids int64 `[n_source + n_target]`, the source first."""
        return np.concatenate([np.arange(n_source), self.phi + np.arange(n_target)]).astype(np.int64)

    def view(self, cache: DualCache) -> DualCache:
        return cache

    def after_read(self, cache: DualCache) -> None:
        """Nothing: the keys of the target stay where they are."""


@dataclass(frozen=True)
class ReencodedPositions:
    """Batch-streaming, a baseline: the target stands behind the source and is encoded again after every read.

    Needs a view of the passage that lives as long as the passage (`StreamingGenerator`).
    """

    phi: int = 0

    def view(self, cache: DualCache) -> DualCache:
        return cache

    def after_read(self, cache: DualCache) -> None:
        cache.pop_target(cache.target_count)
        cache.phi = cache.source_count


@dataclass(frozen=True)
class ArrivalPositions:
    """Interleaved, a baseline: positions in order of arrival, and source tokens see the target before them.

    With `source_sees_target=False` only the input-attention mismatch is removed.
    """

    source_sees_target: bool = True
    phi: int = 0

    def view(self, cache: DualCache) -> Attending:
        return _Interleaved(cache, self.source_sees_target)

    def after_read(self, cache: DualCache) -> None:
        """Nothing: what has arrived stays where it is."""


class _Interleaved:
    """A `DualCache` whose next token always stands behind all others."""

    def __init__(self, cache: DualCache, source_sees_target: bool) -> None:
        self._cache, self._sees = cache, source_sees_target

    @property
    def position(self) -> int:
        return self._cache.seen

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        keys, values = self._cache.update(key, value, layer)
        if self._cache.mode == "read" and self._sees:
            held, count = self._cache.memory(), self._cache.target_count
            keys = torch.cat([held.target_keys[layer][:, :, :count], keys], dim=2)
            values = torch.cat([held.target_values[layer][:, :, :count], values], dim=2)
        return attend(query, keys, values, scaling)


class Unmasked:
    """A `DualCache` whose next tokens see each other both ways (the header, as upstream reads it)."""

    def __init__(self, cache: DualCache) -> None:
        self._cache = cache

    @property
    def position(self) -> int:
        return self._cache.position

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        keys, values = self._cache.update(key, value, layer)
        return attend(query, keys, values, scaling, causal=False)


def attend(query: Tensor, keys: Tensor, values: Tensor, scaling: float, *, causal: bool = True) -> Tensor:
    """The last n of `keys`, `values` `[1, kv_heads, total, d]` are the tokens of `query` `[1, heads, n, d]`.

    Gives `[1, n, heads, d]`; without `causal` the n tokens see each other both ways.
    """
    new, total = query.shape[2], keys.shape[2]
    mask = torch.ones(new, total, dtype=torch.bool, device=query.device)
    mask = mask.tril(total - new) if causal else mask
    out = nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=query.shape[1] != keys.shape[1]
    )
    return out.transpose(1, 2)


@torch.no_grad()
def run(model: Any, ids: list[int], memory: DualCache | Attending, *, causal: bool = True) -> Tensor:
    """Logits, float32 `[n, vocabulary]`, of `ids` behind what the memory holds.

    A `DualCache` goes through the model's own attention, so that any rotary model of transformers will do.
    """
    block = torch.tensor([ids], device=next(model.parameters()).device)
    if not isinstance(memory, Cache):
        return forward(model, block, memory)[0]
    places = torch.arange(memory.position, memory.position + len(ids), device=block.device)[None]
    mask = None
    if not causal and len(ids) > 1:
        total = memory.get_seq_length() + len(ids)
        mask = torch.zeros(1, 1, len(ids), total, dtype=model.dtype, device=block.device)
    out = model(
        input_ids=block, position_ids=places, attention_mask=mask, past_key_values=memory, use_cache=True
    )
    logits: Tensor = out.logits[0].float()
    if not torch.isfinite(logits[-1]).all():
        raise NumericalError(f"the model gave NaN or infinite logits in a block of {len(ids)} tokens")
    return logits
