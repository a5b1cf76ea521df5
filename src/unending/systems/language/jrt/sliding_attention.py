"""Softmax attention over the newest tokens, with rotary positions, on a ring of fixed size."""

import torch
from torch import Tensor, nn

from unending.core import state
from unending.core.errors import InputError
from unending.parts import linear_attention
from unending.systems.language.jrt.layers import heads_apart, heads_joined

__all__ = ["SlidingAttention", "WindowState"]


@state
class WindowState:
    """A ring of the newest keys and values: the token at position p lies in slot p modulo the window."""

    keys: Tensor
    """`[batch, heads, window, head_dim]`, rotated to their positions in the stream."""
    values: Tensor
    """As `keys`."""
    filled: Tensor
    """bool `[batch, window]`: slots with a token that counts."""


def _before(x: Tensor, dim: int) -> Tensor:
    """The block before each block along `dim`; zeros before the first."""
    return torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), x.narrow(dim, 0, x.shape[dim] - 1)], dim=dim)


class SlidingAttention(nn.Module):
    """Causal softmax attention over the last `window` tokens, with rotary positions in the stream.

    Phases are computed in float64, so that a position of any size turns by the right angle.
    """

    def __init__(self, d_model: int, n_heads: int, window: int = 256, rope_theta: float = 10_000.0) -> None:
        super().__init__()
        if d_model % n_heads or (d_model // n_heads) % 2 or window < 1:
            raise InputError(
                f"a width of {d_model} is not {n_heads} heads of an even width, which rotary positions need,"
                f" or the window of {window} is not 1 or more"
            )
        self.n_heads, self.head_dim, self.window, self.theta = n_heads, d_model // n_heads, window, rope_theta
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )

    def empty(self, batch: int = 1) -> WindowState:
        """The state before the first token."""
        weight = self.o_proj.weight
        ring = weight.new_zeros(batch, self.n_heads, self.window, self.head_dim)
        filled = torch.zeros(batch, self.window, dtype=torch.bool, device=weight.device)
        return WindowState(ring, ring.clone(), filled)

    def _projected(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[batch, heads, n, head_dim]`, the first two turned to their positions."""
        q, k, v = (heads_apart(each(x), self.n_heads) for each in (self.q_proj, self.k_proj, self.v_proj))
        return self._rotated(q, positions), self._rotated(k, positions), v

    def _rotated(self, x: Tensor, positions: Tensor) -> Tensor:
        """`x` `[batch, heads, n, dim]` turned by `positions` `[batch, n]`, by halves."""
        half = torch.arange(self.head_dim // 2, dtype=torch.float64, device=x.device)
        phase = positions[:, None, :, None].double() * self.theta ** (-2 * half / self.head_dim)
        kept = linear_attention.wide(x.dtype)
        cos, sin = phase.cos().to(kept), phase.sin().to(kept)
        first, second = x.to(kept).chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)

    def prefill(
        self, x: Tensor, keep: Tensor | None = None, enc_length: int | None = None
    ) -> tuple[Tensor, WindowState]:
        """The beginning of a stream; causal whatever `enc_length`."""
        return self.extend(
            x, self.empty(len(x)), keep, torch.zeros(len(x), dtype=torch.int64, device=x.device)
        )

    def forward(self, x: Tensor, prefix_mask: Tensor | None = None, enc_length: int | None = None) -> Tensor:
        """Outputs of a whole sequence, all its blocks of a window at once, for training."""
        n, w = x.shape[1], self.window
        real = (
            torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if prefix_mask is None else prefix_mask
        )
        fill = -n % w
        q, k, v = self._projected(x, torch.arange(n, device=x.device)[None])
        q, k, v = (nn.functional.pad(each, (0, 0, 0, fill)).unflatten(2, (-1, w)) for each in (q, k, v))
        counts = nn.functional.pad(real, (0, fill)).unflatten(1, (-1, w))
        # Each block sees itself and the one before it.
        keys, values = (torch.cat([_before(each, 2), each], dim=3) for each in (k, v))
        counts = torch.cat([_before(counts, 1), counts], dim=2)[:, :, None, :]
        back = torch.arange(w, device=x.device)[:, None] - (torch.arange(2 * w, device=x.device) - w)
        allowed = (back >= 0) & (back < w) & (counts | (back == 0))
        y = nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=allowed[:, None])
        return self.o_proj(heads_joined(y.flatten(2, 3)[:, :, :n]))

    def extend(
        self, x: Tensor, start: WindowState, keep: Tensor | None, position: Tensor
    ) -> tuple[Tensor, WindowState]:
        """More tokens `[batch, n, d_model]` behind a state; `position` int64 `[batch]` is that of the first."""
        positions = position[:, None] + torch.arange(x.shape[1], device=x.device)
        q, k, v = self._projected(x, positions)
        k, v = k.to(start.keys.dtype), v.to(start.values.dtype)
        real = torch.ones_like(positions, dtype=torch.bool) if keep is None else keep
        outputs = []
        # A block writes each slot of the ring once at most.
        for begin in range(0, x.shape[1], self.window):
            part = slice(begin, begin + self.window)
            block = positions[:, part]
            out, start = self._block(q[:, :, part], k[:, :, part], v[:, :, part], real[:, part], start, block)
            outputs.append(out)
        return self.o_proj(heads_joined(torch.cat(outputs, dim=2))), start

    def _block(
        self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, start: WindowState, positions: Tensor
    ) -> tuple[Tensor, WindowState]:
        next_one = positions[:, :1]
        slots = torch.arange(self.window, device=q.device)
        held = next_one - 1 - (next_one - 1 - slots) % self.window
        at, asked = torch.cat([held, positions], dim=1)[:, None, :], positions[:, :, None]
        counts = torch.cat([start.filled, real], dim=1)[:, None, :]
        # Padding sees itself, so that no row of the softmax is empty.
        allowed = (at <= asked) & (at > asked - self.window) & (counts | (at == asked))
        keys, values = torch.cat([start.keys, k], dim=2), torch.cat([start.values, v], dim=2)
        out = nn.functional.scaled_dot_product_attention(
            q.to(keys.dtype), keys, values, attn_mask=allowed[:, None]
        )
        into = positions % self.window
        index = into[:, None, :, None].expand_as(k)
        end = WindowState(
            start.keys.scatter(2, index, k),
            start.values.scatter(2, index, v),
            start.filled.scatter(1, into, real),
        )
        return out, end

    def step(self, x: Tensor, start: WindowState, position: Tensor) -> tuple[Tensor, WindowState]:
        """One token `[batch, d_model]`; `position` int64 `[batch]`, each row its own."""
        y, end = self.extend(x[:, None], start, None, position)
        return y[:, 0], end
