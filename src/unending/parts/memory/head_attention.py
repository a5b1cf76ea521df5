"""Attention of a layer whose heads have pasts of different lengths."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["attend_by_head", "causal_attention", "streaming_mask"]


def causal_attention(
    query: Tensor, keys: Tensor, values: Tensor, scaling: float, mask: Tensor | None = None
) -> Tensor:
    """Attention in which the last query sees all keys, the one before it all but the last, and so on.

    Parameters
    ----------
    query
        `[b, heads, n, d]`.
    keys, values
        `[b, kv_heads, m, d]`, m at least n; kv_heads divides heads.
    scaling
        factor on the scores.
    mask
        bool `[n, m]` instead: who sees whom.

    Returns
    -------
    torch.Tensor
        `[b, heads, n, d]`.
    """
    n, m = query.shape[2], keys.shape[2]
    if mask is None and 1 < n < m:
        mask = torch.ones(n, m, dtype=torch.bool, device=query.device).tril(m - n)
    causal, grouped = mask is None and n > 1, query.shape[1] != keys.shape[1]
    return nn.functional.scaled_dot_product_attention(
        query, keys, values, mask, is_causal=causal, scale=scaling, enable_gqa=grouped
    )


def streaming_mask(n: int, sink: int, window: int, device: torch.device | None = None) -> Tensor:
    """Whom token i sees where no token was dropped yet: bool `[n, n]`, j <= i and (j < sink or j > i - window)."""
    i, j = torch.arange(n, device=device)[:, None], torch.arange(n, device=device)
    return (j <= i) & ((j < sink) | (j > i - window))


def attend_by_head(
    query: Tensor,
    groups: Sequence[tuple[Tensor, Tensor, Tensor, Tensor | None]],
    kv_heads: int,
    scaling: float,
) -> Tensor:
    """Causal attention of one layer whose heads of keys and values have pasts of different lengths.

    Parameters
    ----------
    query
        `[b, heads, n, d]`.
    groups
        which heads, int64 `[k]`; their keys and values `[b, k, m, d]`; a mask `[n, m]`, or `None` for causal. Each
        head is in one group.
    kv_heads
        heads of keys and values in all; the query heads of one lie beside each other.
    scaling
        factor on the scores.

    Returns
    -------
    torch.Tensor
        `[b, n, heads, d]`.
    """
    batch, heads, n, dim = query.shape
    grouped = query.view(batch, kv_heads, heads // kv_heads, n, dim)
    out = query.new_empty(batch, n, kv_heads, heads // kv_heads, groups[0][2].shape[-1])
    for which, keys, values, mask in groups:
        if len(which):
            chosen = grouped.index_select(1, which).flatten(1, 2)
            done = causal_attention(chosen, keys, values, scaling, mask).unflatten(1, (len(which), -1))
            out.index_copy_(2, which, done.permute(0, 3, 1, 2, 4))
    return out.flatten(2, 3)
