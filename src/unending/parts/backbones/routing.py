"""A forward pass of a transformers model whose attention is somebody else's: joint decoding, paged and shared keys."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import zip_longest
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from unending.core.errors import ModelUnsupportedError
from unending.parts.backbones.rotary import depends_on_maximum

__all__ = ["Router", "require_routable", "routed"]

_NAME = "unending_routed"
_SOFTMAX = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
"""Attentions of transformers that compute the ordinary softmax, which is what a router computes in their place."""
_BEYOND = ("softcap", "s_aux", "position_bias")
"""What some models ask of an attention beyond a scale: capped scores, learned sinks, biases."""


class Router(Protocol):
    """Owner of all memory of the past in a `routed` pass."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Store this pass's keys and values, attend, and give the outputs.

        Parameters
        ----------
        layer
            index of the layer, from 0.
        query
            `[b, heads, n, d]`, rotated to its position.
        key, value
            `[b, kv_heads, n, d]` of this pass's tokens, rotated to their positions; kv_heads divides heads.
        scaling
            factor on the scores.

        Returns
        -------
        torch.Tensor
            `[b, n, heads, d]`.
        """


class _Calls:
    """The router of one pass, and the layers that have called it."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.layers: list[int] = []


_FEW_ROWS, _LARGE = 64, 2**16
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_calls: ContextVar[_Calls] = ContextVar("unending_router")
_twins: "WeakKeyDictionary[nn.Module, nn.Module]" = WeakKeyDictionary()


@torch.no_grad()
def routed(
    model: nn.Module, ids: Tensor, positions: Tensor, router: Router, keep: Tensor | None = None
) -> Tensor:
    """Logits of one forward pass in which `router` does the attention of every layer.

    There is no cache and no mask: who sees what is the router's affair, a sliding window included (`position_limit`
    tells how many keys one query may see). The model itself is not touched: a twin that shares its weights runs, so
    others may use the model at the same time.

    Parameters
    ----------
    model
        a causal language model of transformers.
    ids, positions
        int64 `[b, n]`.
    router
        the attention; called once a layer, in order.
    keep
        int64 `[kept]`: the indices into n whose logits are wanted; all without it.

    Returns
    -------
    torch.Tensor
        float32 `[b, kept, vocabulary]`.

    Raises
    ------
    ModelUnsupportedError
        if the attention of the model is more than a softmax of scaled scores, or is out of reach.
    """
    twin = _twin(model)
    with _routing(router) as calls:
        wanted: Any = 0 if keep is None else keep
        logits = twin(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=wanted).logits
    config: Any = twin.config
    if calls.layers != list(range(config.get_text_config().num_hidden_layers)):
        raise ModelUnsupportedError(
            f"{type(model).__name__} has layers whose attention does not go through transformers' interface"
        )
    return logits.float()


def require_routable(model: nn.Module) -> None:
    """Raise `ModelUnsupportedError` if it can be told beforehand that `routed` refuses the model."""
    name = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        raise ModelUnsupportedError(f"{name} does not take its attention from transformers' interface")
    config: Any = model.config
    attention = config.get_text_config()._attn_implementation
    if attention not in _SOFTMAX:
        raise ModelUnsupportedError(
            f"{name} runs with the attention {attention!r}; accepted are {', '.join(_SOFTMAX)}"
        )
    if depends_on_maximum(model):
        raise ModelUnsupportedError(
            f"the rotary frequencies of {name} depend on the largest position, so one row would change the others"
        )


@contextmanager
def _routing(router: Router) -> Iterator[_Calls]:
    calls = _Calls(router)
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """What transformers calls; `kwargs` are what the interface passes to every attention."""
    asked = [name for name in _BEYOND if kwargs.get(name) is not None]
    if asked:
        raise ModelUnsupportedError(
            f"{type(module).__name__} needs {', '.join(asked)}, which no router knows"
        )
    calls, layer = _calls.get(), int(module.layer_idx)  # type: ignore[arg-type]
    calls.layers.append(layer)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return calls.router.attend(layer, query, key, value, scale), None


AttentionInterface.register(_NAME, _attention)


class _Linear(nn.Linear):
    """A linear layer that takes oneDNN's product where that is faster: few rows of a float32 matrix on a processor.

    MKL's, which `nn.Linear` takes there, moves the matrix twice, and its last rows may differ in their bits.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        few = input.numel() <= _FEW_ROWS * self.in_features and weight.numel() >= _LARGE
        if few and _ONEDNN and weight.dtype == torch.float32 and weight.device.type == "cpu":
            return torch.ops.mkldnn._linear_pointwise(input, weight, self.bias, "none", [], "")  # type: ignore[no-any-return]
        return super().forward(input)


def _twin(model: nn.Module) -> nn.Module:
    """The same modules over the same weights, with a configuration of their own that names our attention."""
    require_routable(model)
    twin = _twins.get(model)
    if twin is None or any(
        mine is None or theirs is None or mine._parameters is not theirs._parameters
        for mine, theirs in zip_longest(twin.modules(), model.modules())
    ):
        made: dict[int, nn.Module] = {}
        twin = _twins[model] = _copied(model, made, {}).eval()
    return twin


def _copied(module: nn.Module, made: dict[int, nn.Module], configs: dict[int, Any]) -> nn.Module:
    """A shallow copy of every module: it shares the dictionaries of parameters and buffers with the original."""
    if id(module) in made:
        return made[id(module)]
    new = made[id(module)] = copy.copy(module)
    if type(new) is nn.Linear:
        new.__class__ = _Linear
    if hasattr(module.__dict__.get("config"), "_attn_implementation"):
        config: Any = copy.deepcopy(module.__dict__["config"], configs)
        config._attn_implementation = _NAME
        new.__dict__["config"] = config
    new.__dict__["_modules"] = {
        name: None if child is None else _copied(child, made, configs)
        for name, child in module._modules.items()
    }
    return new
