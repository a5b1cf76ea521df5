"""The layers of a JRT model besides its attentions: gated convolution, SwiGLU, norm; and the form of its heads.

Every mixer (here, `prefix_attention`, `sliding_attention`) has the same methods: `forward` for whole sequences,
without a state; `prefill` reads the beginning of a stream in one call, `extend` more of it behind a state, `step` one
token; `empty` is the state before the first token. A state is never written: each call gives a new one, of the same
shapes whatever the length.
"""

import torch
from torch import Tensor, nn

from unending.core import state

__all__ = ["BaseConv", "ConvState", "RMSNorm", "SwiGLU", "heads_apart", "heads_joined"]


@state
class ConvState:
    """The last inputs of a causal convolution."""

    tail: Tensor
    """`[batch, kernel - 1, channels]`; zeros before the first token."""


def heads_apart(x: Tensor, heads: int) -> Tensor:
    """`[batch, n, heads * dim]` as `[batch, heads, n, dim]`."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def heads_joined(x: Tensor) -> Tensor:
    """`[batch, heads, n, dim]` as `[batch, n, heads * dim]`."""
    return x.transpose(1, 2).flatten(2)


class BaseConv(nn.Module):
    """A gated short convolution: `W_out(silu(conv(u1)) * u2)` with `u1, u2` the halves of `W_in x`, biases everywhere.

    The convolution is causal and a channel each.
    """

    def __init__(self, d_model: int, kernel: int = 3) -> None:
        super().__init__()
        self.kernel, self.channels = kernel, 2 * d_model
        self.in_proj = nn.Linear(d_model, 4 * d_model)
        self.conv = nn.Conv1d(self.channels, self.channels, kernel, groups=self.channels)
        self.out_proj = nn.Linear(2 * d_model, d_model)

    def empty(self, batch: int = 1) -> ConvState:
        """The state before the first token."""
        return ConvState(self.out_proj.weight.new_zeros(batch, self.kernel - 1, self.channels))

    def prefill(
        self, x: Tensor, keep: Tensor | None = None, enc_length: int | None = None
    ) -> tuple[Tensor, ConvState]:
        """The beginning of a stream; causal whatever `enc_length`."""
        return self.extend(x, self.empty(len(x)), keep)

    def forward(self, x: Tensor, prefix_mask: Tensor | None = None, enc_length: int | None = None) -> Tensor:
        """Outputs of a whole sequence."""
        return self.prefill(x, prefix_mask)[0]

    def extend(
        self, x: Tensor, start: ConvState, keep: Tensor | None = None, position: Tensor | None = None
    ) -> tuple[Tensor, ConvState]:
        """More tokens `[batch, n, d_model]` behind a state."""
        inner, gate = self.in_proj(x).chunk(2, dim=-1)
        if keep is not None:
            inner = inner * keep[..., None].to(inner.dtype)
        inputs = torch.cat([start.tail.to(inner.dtype), inner], dim=1)
        n, taps = x.shape[1], self.conv.weight[:, 0].unbind(dim=1)
        mixed = inputs[:, :n] * taps[0]
        for lag, tap in enumerate(taps[1:], 1):
            mixed = mixed + inputs[:, lag : lag + n] * tap
        if self.conv.bias is not None:
            mixed = mixed + self.conv.bias
        out = self.out_proj(nn.functional.silu(mixed) * gate)
        return out, ConvState(inputs[:, n:].clone())

    def step(self, x: Tensor, start: ConvState, position: Tensor | None = None) -> tuple[Tensor, ConvState]:
        """One token `[batch, d_model]`."""
        y, end = self.extend(x[:, None], start)
        return y[:, 0], end


class SwiGLU(nn.Module):
    """`W_down(silu(W_gate x) * W_up x)` without biases (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, d_model: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(d_model, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_model]` to `[..., d_model]`."""
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class RMSNorm(nn.Module):
    """Root-mean-square norm of a wide residual (float32 at least), given out in the dtype of the weights."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_model]` to `[..., d_model]`."""
        scale = (x.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()
        return (x * scale).to(self.weight.dtype) * self.weight
