"""The slow reference: one prompt alone, everything computed anew for every token."""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

__all__ = ["greedy"]


@torch.no_grad()
def greedy(model: Any, prompt: np.ndarray, max_new_tokens: int, stops: Collection[int] = ()) -> list[int]:
    """The likeliest continuation of ids `[n]` by the plain model, to the first of `stops`, which is left out."""
    ids = list(map(int, prompt))
    for _ in range(max_new_tokens):
        best = int(model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1].argmax())
        if best in stops:
            break
        ids.append(best)
    return ids[len(prompt) :]
