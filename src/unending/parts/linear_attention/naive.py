"""The slow references of linear attention, of the signature of `chunked`: a loop over tokens, and a full matrix."""

import torch
from torch import Tensor

from unending.parts.linear_attention.features import FeatureMap
from unending.parts.linear_attention.forms import EPS, LinearState, empty

__all__ = ["quadratic", "recurrent"]


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    *,
    start: LinearState | None = None,
    log_decay: Tensor | None = None,
    keep: Tensor | None = None,
    normalise: bool = True,
    eps: float = EPS,
) -> tuple[Tensor, LinearState]:
    """Token by token, as the definition says; see `chunked`."""
    batch, heads, n, _ = q.shape
    now = start or empty(batch, heads, feature_map.size, v.shape[-1], q.dtype, q.device)
    S, Z, outputs = now.S, now.Z, []
    for t in range(n):
        query, key, value = feature_map(q[:, :, t]), feature_map(k[:, :, t]), v[:, :, t]
        if keep is not None:
            key = key * keep[:, t, None, None].to(key.dtype)
        if log_decay is not None:
            decay = log_decay.expand(batch, heads, n, 1)[:, :, t].exp()
            S, Z = S * decay[..., None], Z * decay
        S = S + torch.einsum("bhf,bhd->bhfd", key, value)
        Z = Z + key
        y = torch.einsum("bhf,bhfd->bhd", query, S)
        if normalise:
            y = y / (torch.einsum("bhf,bhf->bh", query, Z) + eps)[..., None]
        outputs.append(y)
    return torch.stack(outputs, dim=2), LinearState(S, Z)


def quadratic(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    *,
    start: LinearState | None = None,
    log_decay: Tensor | None = None,
    keep: Tensor | None = None,
    normalise: bool = True,
    eps: float = EPS,
) -> tuple[Tensor, LinearState]:
    """All pairs of tokens at once, O(n^2); see `chunked`."""
    batch, heads, n, _ = q.shape
    now = start or empty(batch, heads, feature_map.size, v.shape[-1], q.dtype, q.device)
    queries, keys = feature_map(q), feature_map(k)
    if keep is not None:
        keys = keys * keep[:, None, :, None].to(keys.dtype)
    since = torch.zeros(batch, heads, n, 1, dtype=queries.dtype, device=q.device)
    if log_decay is not None:
        since = since + log_decay.expand(batch, heads, n, 1).cumsum(dim=2)
    seen = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    weights = torch.where(seen, since - since.transpose(-1, -2), -torch.inf).exp()
    scores = weights * torch.einsum("bhif,bhjf->bhij", queries, keys)
    y = scores @ v + since.exp() * torch.einsum("bhif,bhfd->bhid", queries, now.S)
    if normalise:
        total = scores.sum(dim=-1) + since[..., 0].exp() * torch.einsum("bhif,bhf->bhi", queries, now.Z)
        y = y / (total + eps)[..., None]
    left = (since[:, :, -1:] - since).exp() * keys
    S = now.S * since[:, :, -1:].exp() + torch.einsum("bhjf,bhjd->bhfd", left, v)
    return y, LinearState(S, now.Z * since[:, :, -1].exp() + left.sum(dim=2))
