"""Twins: a second model over the same weights, with an attention of its own."""

import copy
from typing import Any

from torch import nn

from unending.core.errors import ModelUnsupportedError

__all__ = ["twin"]


def twin(model: nn.Module, attention: str) -> Any:
    """The same modules over the same weights, with a configuration of their own that names `attention`.

    The model itself is not touched, so others may use it at the same time; gradients pass through the twin.

    Parameters
    ----------
    model
        of transformers.
    attention
        registered with transformers' `AttentionInterface`.

    Raises
    ------
    ModelUnsupportedError
        if the model does not take its attention from that interface.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise ModelUnsupportedError(
            f"{type(model).__name__} does not take its attention from transformers' interface"
        )
    return _copied(model, attention, {}, {}).eval()


def _copied(module: nn.Module, attention: str, made: dict[int, nn.Module], configs: dict[int, Any]) -> Any:
    """A shallow copy of every module: it shares the dictionaries of parameters and buffers with the original."""
    if id(module) in made:
        return made[id(module)]
    new = made[id(module)] = copy.copy(module)
    if hasattr(module.__dict__.get("config"), "_attn_implementation"):
        config: Any = copy.deepcopy(module.__dict__["config"], configs)
        config._attn_implementation = attention
        new.__dict__["config"] = config
    new.__dict__["_modules"] = {
        name: None if child is None else _copied(child, attention, made, configs)
        for name, child in module._modules.items()
    }
    return new
