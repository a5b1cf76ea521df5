"""Where the positions of a transformers model live: its rotary embedding, or none (ALiBi)."""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unending.core.errors import ModelUnsupportedError

__all__ = ["Rotary", "depends_on_maximum", "position_limit", "rotaries", "rotate"]

_MAXIMUM_DEPENDENT = ("dynamic", "longrope")
_BY_SLOT = ("mpt",)
"""Model types whose attention bias is built over the keys in the order that the cache gives them."""


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the leading `2 * cos.shape[-1]` channels of `x` (..., n, head_dim) by half-split rotary angles.

    Done in float32, given back in the dtype of `x`. `cos` and `sin` are float32, `(..., n, rotary_dim / 2)`.
    """
    half = cos.shape[-1]
    wide = x.float()
    first, second = wide[..., :half], wide[..., half : 2 * half]
    out = torch.empty_like(wide)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half : 2 * half]).addcmul_(first, sin)
    if 2 * half < x.shape[-1]:
        out[..., 2 * half :] = wide[..., 2 * half :]
    return out.to(x.dtype)


@dataclass(frozen=True, eq=False)
class Rotary:
    """The rotary embedding of one layer (Su et al. 2021, arXiv 2104.09864), half-split convention."""

    module: nn.Module
    layer_type: str = ""

    def _name(self, what: str) -> str:
        return f"{self.layer_type}_{what}" if self.layer_type else what

    @property
    def inv_freq(self) -> torch.Tensor:
        """float32 `[rotary_dim / 2]`, read anew each time since some types change it."""
        return getattr(self.module, self._name("inv_freq"))

    @property
    def scaling(self) -> float:
        """Factor on rotated queries and keys (1.0 for the default type)."""
        return float(getattr(self.module, self._name("attention_scaling")))

    @property
    def depends_on_maximum(self) -> bool:
        """Whether the frequencies change with the largest position seen."""
        kind = getattr(self.module, "rope_type", "default")
        return (kind.get(self.layer_type) if isinstance(kind, dict) else kind) in _MAXIMUM_DEPENDENT

    def angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unscaled cos and sin, float32 `[..., n, rotary_dim / 2]`, of positions `[..., n]`."""
        phase = positions[..., None].float() * self.inv_freq.to(positions.device, torch.float32)
        return phase.cos(), phase.sin()


def _check(rotary: Rotary, model: nn.Module) -> None:
    """Compare with the model's own rotation, so that another convention is refused and not assumed."""
    own = getattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb", None)
    if own is None:
        raise ModelUnsupportedError(f"{type(model).__name__} has a rotary embedding of an unknown form")
    generator = torch.Generator().manual_seed(0)
    dim = 2 * rotary.inv_freq.shape[-1]
    key = torch.randn(1, 1, 3, dim, generator=generator).to(rotary.inv_freq.device)
    positions = torch.tensor([[0, 3, 11]], device=key.device)
    arguments = (rotary.layer_type,) if rotary.layer_type else ()
    cos, sin = rotary.module(key, positions, *arguments)
    theirs = own(key, key, cos, sin)[1]
    ours = rotate(key, *(angle[:, None] for angle in rotary.angles(positions))) * rotary.scaling
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=1e-4):
        raise ModelUnsupportedError(
            f"{type(model).__name__} does not rotate in halves (it interleaves, or rotates otherwise);"
            " its keys cannot be re-indexed"
        )


def rotaries(model: nn.Module) -> list[Rotary | None]:
    """The rotary embedding of each layer; `None` where positions come from the order of the keys (MPT's ALiBi).

    Raises
    ------
    ModelUnsupportedError
        if the positions of the model cannot be re-indexed: learned absolute positions, an unknown rotation.
    """
    base: Any = getattr(model, "base_model", model)
    config: Any = base.config.get_text_config()
    layers = config.num_hidden_layers
    if config.model_type in _BY_SLOT:
        return [None] * layers
    module = getattr(base, "rotary_emb", None)
    if module is None:
        raise ModelUnsupportedError(
            f"{type(model).__name__} has no rotary positions: learned absolute positions cannot be re-indexed"
            " (models with RoPE, and MPT, work)"
        )
    kinds: Any = getattr(config, "layer_types", None)
    per_type = kinds is not None and hasattr(module, f"{kinds[0]}_inv_freq")
    found = [Rotary(module, kinds[index] if per_type else "") for index in range(layers)]
    for rotary in {each.layer_type: each for each in found}.values():
        _check(rotary, base)
    return list(found)


def depends_on_maximum(model: nn.Module) -> bool:
    """Whether any rotary frequencies of the model change with the largest position of a pass."""
    kind = getattr(getattr(getattr(model, "base_model", model), "rotary_emb", None), "rope_type", "default")
    return any(each in _MAXIMUM_DEPENDENT for each in (kind.values() if isinstance(kind, dict) else [kind]))


def position_limit(model: nn.Module) -> int:
    """Keys that one query of this model can see at most: trained positions, or a sliding window if it is shorter."""
    base: Any = getattr(model, "base_model", model)
    config = base.config.get_text_config()
    limit = int(
        getattr(config, "max_position_embeddings", 0) or getattr(config, "max_seq_len", 0) or sys.maxsize
    )
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return min(limit, int(window)) if window and slides else limit
