"""The forms of linear attention: pairs of tokens, chunks of tokens, and one step of the recurrence, on one state.

`S_t = a_t S_(t-1) + map(k_t) v_t^T`, `Z_t = a_t Z_(t-1) + map(k_t)`, `y_t = map(q_t) S_t / (map(q_t) . Z_t + eps)`.
The decay `a_t = exp(log_decay)` has a last axis of 1, a number a head; a channel-wise decay has `size` there.
"""

import torch
from torch import Tensor

from unending.core import state
from unending.core.errors import InputError
from unending.parts.linear_attention.features import FeatureMap

__all__ = ["EPS", "LinearState", "absorb", "chunked", "empty", "pairwise", "step", "wide"]

EPS = 1e-12
_ABSORBED = 1024
"""Tokens whose features `absorb` holds at a time."""


@state
class LinearState:
    """All that linear attention remembers of a stream of any length; float32, or float64 for inputs of float64."""

    S: Tensor
    """`[batch, heads, size, head_dim]`: the sum of `map(k) v^T`."""
    Z: Tensor
    """`[batch, heads, size]`: the sum of `map(k)`."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums over thousands of tokens are kept in: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def empty(
    batch: int, heads: int, size: int, head_dim: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> LinearState:
    """The state before the first token, for inputs of that dtype."""
    kept = wide(dtype)
    return LinearState(
        torch.zeros(batch, heads, size, head_dim, dtype=kept, device=device),
        torch.zeros(batch, heads, size, dtype=kept, device=device),
    )


def _require_scalar(log_decay: Tensor | None) -> None:
    if log_decay is not None and log_decay.shape[-1] != 1:
        raise InputError(
            f"the decay is a number a head: its last axis is {log_decay.shape[-1]}, accepted is 1"
        )


def absorb(
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    *,
    start: LinearState | None = None,
    keep: Tensor | None = None,
) -> LinearState:
    """The sums over keys and values in any order: the state that a non-causal prefix leaves.

    Parameters
    ----------
    k, v
        `[batch, heads, n, dim]` and `[batch, heads, n, head_dim]`.
    feature_map
        applied to `k`.
    start
        what they are added to.
    keep
        bool `[batch, n]`: tokens that count; applied after the feature map, since `map(0)` need not be 0.
    """
    with torch.autocast(k.device.type, enabled=False):
        for begin in range(0, k.shape[2], _ABSORBED):
            part = slice(begin, begin + _ABSORBED)
            features = _features(k[:, :, part], feature_map, None if keep is None else keep[:, part])
            sums = features.transpose(-1, -2) @ v[:, :, part].to(features.dtype)
            marks = features.sum(dim=-2)
            start = (
                LinearState(sums, marks) if start is None else LinearState(start.S + sums, start.Z + marks)
            )
    if start is None:
        return empty(k.shape[0], k.shape[1], feature_map.size, v.shape[-1], k.dtype, k.device)
    return start


def _features(k: Tensor, feature_map: FeatureMap, keep: Tensor | None) -> Tensor:
    features = feature_map(k.to(wide(k.dtype)))
    return features if keep is None else features * keep[:, None, :, None].to(features.dtype)


def chunked(
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
    chunk: int = 128,
) -> tuple[Tensor, LinearState]:
    """Causal linear attention, quadratic inside chunks and recurrent between them: O(n) time, O(chunk) memory.

    Parameters
    ----------
    q, k, v
        `[batch, heads, n, dim]`, the same, and `[batch, heads, n, head_dim]`; any float dtype.
    feature_map
        applied to `q` and `k`.
    start
        the state before the first token: of the tokens so far, of a non-causal prefix (`absorb`), or nothing.
    log_decay
        `<= 0`, broadcastable to `[batch, heads, n, 1]`; without it nothing is forgotten. The start decays too.
    keep
        bool `[batch, n]`: tokens that count as keys; applied after the feature map.
    normalise, eps
        divide by `map(q) . Z + eps`.
    chunk
        tokens that are computed in parallel; it changes the time and not the result.

    Returns
    -------
    (torch.Tensor, LinearState)
        `[batch, heads, n, head_dim]` in the dtype of `v`, and the state after the last token. Sums are kept in
        float32 at least, under autocast too.

    Raises
    ------
    InputError
        if the decay is more than a number a head.
    """
    _require_scalar(log_decay)
    batch, heads, n, _ = q.shape
    kept = wide(q.dtype)
    if log_decay is not None:
        log_decay = log_decay.to(kept).expand(batch, heads, n, 1)
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        for begin in range(0, n, chunk):
            part = slice(begin, begin + chunk)
            out, start = _block(
                q[:, :, part].to(kept),
                k[:, :, part].to(kept),
                v[:, :, part].to(kept),
                feature_map,
                start,
                None if log_decay is None else log_decay[:, :, part].cumsum(dim=2),
                None if keep is None else keep[:, part],
                eps if normalise else None,
            )
            outputs.append(out)
    if start is None:
        start = empty(batch, heads, feature_map.size, v.shape[-1], q.dtype, q.device)
    return (torch.cat(outputs, dim=2) if outputs else torch.zeros_like(v)).to(v.dtype), start


def _block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    start: LinearState | None,
    decayed: Tensor | None,
    keep: Tensor | None,
    eps: float | None,
) -> tuple[Tensor, LinearState]:
    """One chunk; `decayed` `[batch, heads, c, 1]` is the logarithm of the decay since its beginning."""
    scores = feature_map.scores(q, k)
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    if decayed is None:
        scores = scores.masked_fill(later, 0)
    else:
        between = decayed - decayed.transpose(-1, -2)
        scores = scores * between.masked_fill(later, -torch.inf).exp()
    if keep is not None:
        scores = scores * keep[:, None, None, :].to(scores.dtype)
    numerator, denominator = scores @ v, scores.sum(dim=-1, keepdim=True)
    if start is not None:
        features = feature_map(q)
        if decayed is not None:
            features = features * decayed.exp()
        numerator = numerator + features @ start.S
        denominator = denominator + features @ start.Z[..., None]
    out = numerator if eps is None else numerator / (denominator + eps)
    features = _features(k, feature_map, keep)
    if decayed is not None:
        last = decayed[:, :, -1:]
        features = features * (last - decayed).exp()
        if start is not None:
            start = LinearState(start.S * last.exp(), start.Z * last[..., 0].exp())
    sums, marks = features.transpose(-1, -2) @ v, features.sum(dim=-2)
    return out, LinearState(sums, marks) if start is None else LinearState(start.S + sums, start.Z + marks)


def pairwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    *,
    prefix: tuple[Tensor, Tensor] | None = None,
    keep: Tensor | None = None,
    normalise: bool = True,
    eps: float = EPS,
) -> Tensor:
    """Linear attention over all pairs of tokens, without features and without a state: for training on short rows.

    It is the quickest form as long as there are fewer tokens than features.

    Parameters
    ----------
    q, k, v, feature_map, keep, normalise, eps
        as in `chunked`.
    prefix
        keys `[batch, heads, m, dim]` and values `[batch, heads, m, head_dim]` of the first m tokens, which every
        token sees, besides the causal ones.
    """
    kept = wide(q.dtype)
    with torch.autocast(q.device.type, enabled=False):
        queries, counts = q.to(kept), None if keep is None else keep[:, None, None, :].to(kept)
        scores = feature_map.scores(queries, k.to(kept)).tril()
        scores = scores if counts is None else scores * counts
        total, out = scores.sum(dim=-1, keepdim=True), scores @ v.to(kept)
        if prefix is not None:
            seen = feature_map.scores(queries, prefix[0].to(kept))
            seen = seen if counts is None else seen * counts[..., : seen.shape[-1]]
            total, out = total + seen.sum(dim=-1, keepdim=True), out + seen @ prefix[1].to(kept)
        return (out / (total + eps) if normalise else out).to(v.dtype)


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    start: LinearState,
    *,
    log_decay: Tensor | None = None,
    normalise: bool = True,
    eps: float = EPS,
) -> tuple[Tensor, LinearState]:
    """One token of the recurrent form; as `chunked`, without the axis n: q `[batch, heads, dim]` and so on.

    O(size x head_dim) a head, whatever the length of the stream. The start is not written.
    """
    _require_scalar(log_decay)
    kept = start.S.dtype
    with torch.autocast(q.device.type, enabled=False):
        queries, keys = feature_map(q.to(kept)), feature_map(k.to(kept))
        S, Z = start.S, start.Z
        if log_decay is not None:
            decay = log_decay.to(kept).exp()
            S, Z = S * decay[..., None], Z * decay
        S = S + keys[..., :, None] * v.to(kept)[..., None, :]
        Z = Z + keys
        out = (queries[..., None, :] @ S)[..., 0, :]
        if normalise:
            out = out / ((queries * Z).sum(dim=-1, keepdim=True) + eps)
    return out.to(v.dtype), LinearState(S, Z)
