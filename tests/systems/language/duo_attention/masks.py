"""Forward passes with an explicit mask for every head: what the caches are compared with."""

import numpy as np
import torch
from torch import nn

from unending.parts.backbones.routing import routed


class Masked:
    """Router of one pass with a mask `[n, n]` for full and one for streaming heads."""

    def __init__(self, heads, full, stream):
        self.heads, self.full, self.stream = heads, full, stream

    def attend(self, layer, query, key, value, scaling):
        group = query.shape[1] // key.shape[1]
        mask = torch.stack([self.full if head else self.stream for head in self.heads[layer]])
        mask = mask.repeat_interleave(group, dim=0)[None]
        out = nn.functional.scaled_dot_product_attention(
            query, key, value, mask, scale=scaling, enable_gqa=group > 1
        )
        return out.transpose(1, 2)


def causal(n):
    return torch.ones(n, n, dtype=torch.bool).tril()


def visible(n, sink, recent, boundaries):
    """Who sees whom in a streaming head that is cut at the given places: [n, n].

    A token sees what the cut before its block has left, and its own block up to itself.
    """
    mask = torch.zeros(n, n, dtype=torch.bool)
    starts = [0, *boundaries]
    for begin, end in zip(starts, [*boundaries, n], strict=True):
        for i in range(begin, end):
            mask[i, : min(sink, begin)] = True
            mask[i, max(0, begin - recent) : begin] = True
            mask[i, begin : i + 1] = True
    return mask


def masked_logits(model, ids, heads, stream):
    """Logits [n, vocabulary] of ids [n] with `stream` [n, n] as the mask of streaming heads."""
    ids = torch.as_tensor(ids)[None]
    n = ids.shape[1]
    router = Masked(heads, causal(n), stream)
    return routed(model, ids, torch.arange(n)[None], router)[0]


def distance(found, wanted):
    """Largest difference in units of the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def some_heads(layers, kv_heads, seed=0):
    """A table in which layers differ, and both kinds occur."""
    table = np.random.default_rng(seed).random((layers, kv_heads)) < 0.5
    table.flat[0], table.flat[-1] = True, False
    return table
