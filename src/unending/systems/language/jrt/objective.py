"""The training objective of JRT-RNN: next tokens behind the prefix, and hidden tokens inside it."""

import numpy as np
import torch
from torch import Tensor, nn

from unending.core.random import philox
from unending.parts.linear_attention import wide

__all__ = ["masked_prefix", "prefix_lm_mlm_loss"]


def masked_prefix(
    ids: Tensor, enc_length: int, mask_id: int, mask_prob: float = 0.15, *, seed: int, step: int = 0
) -> tuple[Tensor, Tensor]:
    """Hide prefix tokens: each of the first `enc_length` becomes the mask token with probability `mask_prob`.

    It is always the mask token: there is no 80/10/10.

    Parameters
    ----------
    ids
        int64 `[batch, n]`.
    seed, step
        name the draw.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        the inputs, int64 `[batch, n]`, and bool `[batch, min(enc_length, n)]`: which are hidden.
    """
    m = min(enc_length, ids.shape[1])
    drawn = philox(seed, step, 2).random((len(ids), m), dtype=np.float32) < mask_prob
    masked = torch.from_numpy(drawn).to(ids.device)
    inputs = ids.clone()
    inputs[:, :m] = inputs[:, :m].masked_fill(masked, mask_id)
    return inputs, masked


def prefix_lm_mlm_loss(
    logits: Tensor, ids: Tensor, enc_length: int, masked: Tensor | None = None, *, mlm_weight: float = 0.25
) -> Tensor:
    """`CE_next(behind the prefix) + mlm_weight * CE_masked(prefix)`, each a mean over its own tokens; a scalar.

    Positions from `enc_length` on predict the token after them. Inside the prefix there is no next-token loss, since
    a non-causal layer sees the answer; nor at its last position. Hidden tokens are predicted at their own position.
    A part without any label is 0. Arora et al. 2024, arXiv 2407.05483.

    Parameters
    ----------
    logits
        `[batch, n, vocabulary]`, of inputs in which the hidden tokens are hidden.
    ids
        int64 `[batch, n]` or `[batch, n + 1]`: the true tokens, and the one after the last, which gives the last
        position its label (then there are n - enc_length labels a row). Negative ids, such as -100, are no labels.
    masked
        bool `[batch, m]` with `m <= enc_length`: hidden positions; without it there is no masked loss.
    """
    n = logits.shape[1]
    following = ids[:, enc_length + 1 : n + 1]
    behind = logits[:, enc_length : enc_length + following.shape[1]]
    loss = _mean_cross_entropy(behind, following)
    if masked is None:
        return loss
    m = masked.shape[1]
    return loss + mlm_weight * _mean_cross_entropy(logits[:, :m], ids[:, :m].masked_fill(~masked, -100))


def _mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels that are not negative; 0 where there are none."""
    counted = labels >= 0
    if not bool(counted.any()):
        return logits.sum() * 0.0
    return nn.functional.cross_entropy(logits[counted].to(wide(logits.dtype)), labels[counted])
