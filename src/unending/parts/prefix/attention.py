"""Attention in parts: outputs over two sets of keys, merged by the log-sum-exp of their scores."""

import torch
from torch import Tensor

__all__ = ["attention", "merge_attention"]


def attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention that also gives the log-sum-exp of its scores; in float32, whatever comes in.

    Parameters
    ----------
    query
        `[*, n, heads, d]`.
    key, value
        `[*, m, kv_heads, d]`; kv_heads divides heads, and consecutive heads share one (grouped queries).
    scaling
        factor on the scores.
    mask
        bool `[*, n, m]`, True where a query sees a key; without it all are seen.

    Returns
    -------
    out, lse
        float32 `[*, n, heads, d]` and float32 `[*, n, heads]`; zero and -inf where a query sees nothing.
    """
    n, kv_heads = query.shape[-3], key.shape[-2]
    # The queries that share one head of keys are rows of one product: [*, kv_heads, heads / kv_heads * n, d].
    rows = (query.float() * scaling).unflatten(-2, (kv_heads, -1)).movedim(-4, -2).flatten(-3, -2)
    scores = rows @ key.float().transpose(-3, -2).transpose(-2, -1)
    if mask is not None:
        by_query = scores.unflatten(-2, (-1, n))
        scores = by_query.masked_fill(~mask[..., None, None, :, :], -torch.inf).flatten(-3, -2)
    top = scores.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).min)
    weights = (scores - top).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    out = weights @ value.float().transpose(-3, -2) / total.clamp_min(torch.finfo(torch.float32).tiny)
    lse = (top + total.log()).squeeze(-1)
    return (
        out.unflatten(-2, (-1, n)).movedim(-2, -4).flatten(-3, -2),
        lse.unflatten(-1, (-1, n)).movedim(-1, -3).flatten(-2, -1),
    )


def merge_attention(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two disjoint sets of keys, from that over each.

    Parameters
    ----------
    out_a, out_b
        `[*, d]`.
    lse_a, lse_b
        float32 `[*]`: the log-sum-exp of the scores that each output was weighted by.

    Returns
    -------
    out, lse
        as either of the two.
    """
    lse = torch.logaddexp(lse_a, lse_b)
    # Where neither part sees a key, -inf minus -inf would be NaN.
    base = lse.clamp_min(torch.finfo(torch.float32).min)
    share_a, share_b = ((each - base).exp()[..., None] for each in (lse_a, lse_b))
    return share_a * out_a + share_b * out_b, lse
