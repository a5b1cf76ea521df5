"""Buffers of keys or values of fixed length: as they are, or in four bits."""

from typing import Protocol

import torch
from torch import Tensor

from unending.core.errors import InputError

__all__ = ["Buffer", "FourBitBuffer", "PlainBuffer", "dequantise", "quantise"]

_LEVELS = 15


def quantise(x: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Four bits a value, asymmetric: each group of channels has a scale and a zero point of its own.

    Parameters
    ----------
    x
        `[..., d]`.
    group
        channels of a group; even, and a divisor of d.

    Returns
    -------
    tuple
        uint8 `[..., d / 2]`, the even channel in the high half of a byte; scale and zero point, float16
        `[..., d / group]`.
    """
    grouped = x.float().unflatten(-1, (-1, group))
    low, high = grouped.aminmax(dim=-1)
    zero = low.half()
    scale = ((high - zero.float()) / _LEVELS).half()
    # What rounds to a scale of 0 is one value; the stored numbers decide, so that the error is theirs alone.
    step = torch.where(scale > 0, scale, torch.ones_like(scale)).float()[..., None]
    levels = (
        ((grouped - zero.float()[..., None]) / step).round().clamp(0, _LEVELS).to(torch.uint8).flatten(-2)
    )
    return levels[..., ::2] << 4 | levels[..., 1::2], scale, zero


def dequantise(packed: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `quantise`, `[..., d]` in `dtype`, to half a step."""
    levels = torch.stack([packed >> 4, packed & 15], dim=-1).flatten(-2)
    grouped = levels.unflatten(-1, (scale.shape[-1], -1)).float()
    return (grouped * scale.float()[..., None] + zero.float()[..., None]).flatten(-2).to(dtype)


class Buffer(Protocol):
    """Room for keys or values `[batch, heads, size, head_dim]`."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""

    def write(self, start: int, new: Tensor) -> None:
        """Put `new` `[batch, heads, n, head_dim]` at tokens `start` to `start + n`."""

    def read(self, end: int) -> Tensor:
        """The first `end` tokens `[batch, heads, end, head_dim]`."""

    def keep(self, order: Tensor) -> None:
        """Move the tokens `order`, int64 `[k]` ascending, to the front."""


class PlainBuffer:
    """A buffer in the dtype of the model; `like` `[batch, heads, any, head_dim]` gives dtype and device."""

    def __init__(self, like: Tensor, size: int) -> None:
        self.held = like.new_zeros(*like.shape[:2], size, like.shape[3])

    @property
    def nbytes(self) -> int:
        return self.held.nbytes

    def write(self, start: int, new: Tensor) -> None:
        self.held[:, :, start : start + new.shape[2]] = new

    def read(self, end: int) -> Tensor:
        return self.held[:, :, :end]

    def keep(self, order: Tensor) -> None:
        self.held[:, :, : len(order)] = self.held.index_select(2, order)


class FourBitBuffer:
    """A buffer in four bits a value and two float16 numbers a group of channels.

    Raises
    ------
    InputError
        if `group` is odd or does not divide the channels of a head.
    """

    def __init__(self, like: Tensor, size: int, group: int) -> None:
        batch, heads, _, dim = like.shape
        if group < 2 or group % 2 or dim % group:
            raise InputError(f"group is {group}; accepted are even divisors of the {dim} channels of a head")
        self.group, self.dtype = group, like.dtype
        self.packed = torch.zeros(batch, heads, size, dim // 2, dtype=torch.uint8, device=like.device)
        sizes = (batch, heads, size, dim // group)
        self.scale = torch.zeros(sizes, dtype=torch.float16, device=like.device)
        self.zero = torch.zeros_like(self.scale)

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scale.nbytes + self.zero.nbytes

    def write(self, start: int, new: Tensor) -> None:
        for held, part in zip((self.packed, self.scale, self.zero), quantise(new, self.group), strict=True):
            held[:, :, start : start + new.shape[2]] = part

    def read(self, end: int) -> Tensor:
        packed, scale, zero = (each[:, :, :end] for each in (self.packed, self.scale, self.zero))
        return dequantise(packed, scale, zero, self.dtype)

    def keep(self, order: Tensor) -> None:
        for held in (self.packed, self.scale, self.zero):
            held[:, :, : len(order)] = held.index_select(2, order)
