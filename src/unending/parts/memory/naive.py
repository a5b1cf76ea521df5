"""The slow reference of a streaming KV memory: lists of raw keys, no cache class, every rotation from scratch."""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface

from unending.parts.backbones.rotary import rotaries
from unending.parts.memory.retention import SinksAndWindow
from unending.parts.memory.trained_sinks import SOFTMAX1, softmax1_reference

__all__ = ["NaiveMemory", "naive_logits", "naive_losses"]

_NAME = "unending_naive"


class NaiveMemory:
    """Raw keys and values of each layer, `[batch, kv_heads, n, head_dim]`, in lists that are cut after each block."""

    def __init__(self, model: nn.Module, retention: SinksAndWindow) -> None:
        self.model: Any = model
        self.rotaries = rotaries(model)
        self.retention = retention
        config: Any = model.config
        self.attention: str = config._attn_implementation
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        layer, new = module.layer_idx, query.shape[2]
        keys = torch.cat([self.keys[layer], key], dim=2) if layer in self.keys else key
        values = torch.cat([self.values[layer], value], dim=2) if layer in self.values else value
        total = keys.shape[2]
        places = torch.arange(total)
        turned_keys = _turn(keys, places, self.rotaries[layer])
        turned_query = _turn(query, places[total - new :], self.rotaries[layer])
        groups = query.shape[1] // keys.shape[1]
        scores = turned_query @ turned_keys.repeat_interleave(groups, dim=1).transpose(-1, -2)
        scores = scores * (scaling if scaling is not None else query.shape[-1] ** -0.5)
        future = places[None, :] > places[total - new :, None]
        weights = self._normalised(scores.float().masked_fill(future, -torch.inf)).to(query.dtype)
        out = weights @ values.repeat_interleave(groups, dim=1)
        kept = torch.from_numpy(self.retention.keep(total))
        self.keys[layer], self.values[layer] = keys[:, :, kept], values[:, :, kept]
        return out.transpose(1, 2)

    def _normalised(self, scores: torch.Tensor) -> torch.Tensor:
        return softmax1_reference(scores) if self.attention == SOFTMAX1 else scores.softmax(dim=-1)

    @torch.no_grad()
    def read(self, ids: np.ndarray) -> torch.Tensor:
        """Logits, float32 `[n, vocabulary]`, of one block of token ids int64 `[n]` behind what is held.

        The model's own rotation is switched off by giving every token position 0, so that the keys that reach the
        attention are raw. Models with a rotary embedding only.
        """
        self.model.set_attn_implementation(_NAME)
        _active.append(self)
        try:
            block = torch.from_numpy(np.asarray(ids, dtype=np.int64))[None]
            positions = torch.zeros_like(block)
            return self.model(input_ids=block, position_ids=positions, use_cache=False).logits[0].float()  # type: ignore[no-any-return]
        finally:
            _active.pop()
            self.model.set_attn_implementation(self.attention)

    def make_room(self, coming: int) -> None:
        """Cut the lists so that `coming` tokens fit."""
        for layer, keys in self.keys.items():
            kept = torch.from_numpy(self.retention.keep_for(keys.shape[2], coming))
            self.keys[layer], self.values[layer] = keys[:, :, kept], self.values[layer][:, :, kept]


def _turn(x: torch.Tensor, places: torch.Tensor, rotary: Any) -> torch.Tensor:
    """Textbook rotation: pairs (i, i + half) of the rotary channels by `place * frequency`.

    The factor that some rotary types put on top is there already: the model applies it at position 0 too.
    """
    frequencies = rotary.inv_freq
    half = len(frequencies)
    angle = places[:, None].float() * frequencies
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin())
    return torch.cat([*turned, rest], dim=-1)


_active: list[NaiveMemory] = []


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Any,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    return _active[-1].attend(module, query, key, value, scaling), None


AttentionInterface.register(_NAME, _attention)


def naive_logits(
    model: nn.Module, ids: np.ndarray, retention: SinksAndWindow, chunk: int = 1
) -> torch.Tensor:
    """Logits, float32 `[n, vocabulary]`, of a token sequence int64 `[n]` streamed in blocks of `chunk`."""
    memory = NaiveMemory(model, retention)
    return torch.cat([memory.read(ids[start : start + chunk]) for start in range(0, len(ids), chunk)])


def naive_losses(model: Any, ids: np.ndarray, retention: SinksAndWindow, chunk: int = 1) -> np.ndarray:
    """Next-token losses in nats, float32 `[n - 1]`; see `naive_logits`."""
    logits = naive_logits(model, ids, retention, chunk)[:-1]
    picked = logits.log_softmax(dim=-1).gather(1, torch.from_numpy(ids[1 : len(logits) + 1])[:, None])
    return -picked[:, 0].numpy()
