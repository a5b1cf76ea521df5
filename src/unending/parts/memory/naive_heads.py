"""The slow reference of retention by head: raw keys of every token and head, every rotation and mask from scratch."""

import numpy as np
import torch
from torch import Tensor, nn

from unending.parts.backbones.rotary import Rotary, rotaries
from unending.parts.backbones.routing import routed
from unending.parts.memory.retention import SinksAndWindow

__all__ = ["NaiveHeads"]


class NaiveHeads:
    """All tokens that ever came, and for each kind of head the stream positions of those it still sees.

    Parameters
    ----------
    model
        a causal language model with rotary positions.
    heads
        which are full, bool `[layers, kv_heads]`.
    full, stream
        what stays in heads of each kind after a block.
    prefill_mode
        as in `HeadCache`.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: np.ndarray,
        full: SinksAndWindow,
        stream: SinksAndWindow,
        prefill_mode: str = "dense_first_chunk",
    ) -> None:
        self.model, self.heads, self.mode = model, heads, prefill_mode
        self.rotaries = rotaries(model)
        self.retentions = {True: full, False: stream}
        self.visible = {kind: np.empty(0, dtype=np.int64) for kind in (True, False)}
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.seen = 0

    @torch.no_grad()
    def read(self, ids: np.ndarray) -> Tensor:
        """Logits, float32 `[n, vocabulary]`, of one block of token ids int64 `[n]` behind what is held.

        Every token has position 0 for the model, so that the keys and queries that reach `attend` are raw.
        """
        block = torch.from_numpy(np.asarray(ids, dtype=np.int64))[None]
        logits = routed(self.model, block, torch.zeros_like(block), self)[0]
        new = np.arange(self.seen, self.seen + len(ids))
        for kind, retention in self.retentions.items():
            together = np.concatenate([self.visible[kind], new])
            self.visible[kind] = together[retention.keep(len(together))]
        self.seen += len(ids)
        return logits

    def make_room(self, coming: int) -> None:
        """Hide tokens from the full heads so that `coming` more stay whole."""
        self.visible[True] = self.visible[True][
            self.retentions[True].keep_for(len(self.visible[True]), coming)
        ]

    def _places(self, positions: np.ndarray) -> Tensor:
        """Where tokens stand: those behind the sinks are moved back by what the full heads have dropped."""
        dropped = self.seen - len(self.visible[True])
        sinks = self.retentions[True].sink_size
        return torch.from_numpy(np.where(positions < sinks, positions, positions - dropped))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """As `unending.parts.backbones.routing.Router.attend`, one head of keys at a time."""
        if layer in self.keys:
            self.keys[layer] = torch.cat([self.keys[layer], key], dim=2)
            self.values[layer] = torch.cat([self.values[layer], value], dim=2)
        else:
            self.keys[layer], self.values[layer] = key, value
        new = np.arange(self.seen, self.seen + query.shape[2])
        group = query.shape[1] // key.shape[1]
        rotary, outs = self.rotaries[layer], []
        assert rotary is not None
        for head in range(query.shape[1]):
            kind = bool(self.heads[layer][head // group])
            past = np.concatenate([self.visible[kind], new])
            keys = _turn(self.keys[layer][0, head // group, past], self._places(past), rotary)
            turned = _turn(query[0, head], self._places(new), rotary)
            hidden = past[None] > new[:, None]
            if self.mode == "streaming" and not kind and self.seen == 0:
                kept = self.retentions[False]
                hidden |= (past[None] >= kept.sink_size) & (past[None] <= new[:, None] - kept.window_size)
            scores = (turned @ keys.T * scaling).float().masked_fill(torch.from_numpy(hidden), -torch.inf)
            outs.append(scores.softmax(dim=-1).to(value.dtype) @ self.values[layer][0, head // group, past])
        return torch.stack(outs, dim=1)[None]


def _turn(x: Tensor, places: Tensor, rotary: Rotary) -> Tensor:
    """Textbook rotation of `x` `[n, head_dim]`: pairs (i, i + half) of the rotary channels by `place * frequency`."""
    half = len(rotary.inv_freq)
    angle = places[:, None].float() * rotary.inv_freq
    first, second, rest = x[:, :half], x[:, half : 2 * half], x[:, 2 * half :]
    turned = (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin())
    return torch.cat([*turned, rest], dim=-1)
