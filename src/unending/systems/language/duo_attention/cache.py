"""DuoAttention in transformers' own form: a cache with a past of its own for each kind of head, and its attention."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import AttentionMaskInterface

from unending.core.errors import CapacityError, InputError, ModelUnsupportedError
from unending.parts.backbones.rotary import depends_on_maximum, position_limit, rotaries
from unending.parts.memory.head_attention import attend_by_head, causal_attention, streaming_mask
from unending.parts.memory.heads import PREFILL_MODES, require_heads
from unending.parts.memory.retention import SinksAndWindow
from unending.systems.language.duo_attention.identification import gate_shape

__all__ = ["ATTENTION", "DuoCache", "DuoLayer"]

ATTENTION = "duo"
"""The name under which the attention is registered; `model.set_attn_implementation(ATTENTION)`."""


@dataclass(frozen=True, eq=False)
class _Packed:
    """What a layer of the cache gives to the attention in place of one tensor: `attend_by_head`'s groups."""

    groups: list[tuple[Tensor, Tensor, Tensor, Tensor | None]]
    kv_heads: int


def _attention(
    module: Any,
    query: Tensor,
    key: Any,
    value: Any,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """What transformers calls; `kwargs` are what the interface passes to every attention."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not isinstance(key, _Packed):
        return causal_attention(query, key, value, scale, attention_mask).transpose(1, 2), None
    if attention_mask is not None:
        raise InputError("a DuoCache is causal by itself: pass no 4D mask")
    return attend_by_head(query, key.groups, key.kv_heads, scale), None


def _mask(attention_mask: Tensor | None = None, allow_is_causal_skip: bool = True, **kwargs: object) -> None:
    """No mask is ever built; `kwargs` are what the interface passes to every mask function."""
    if not allow_is_causal_skip or (attention_mask is not None and not bool(attention_mask.all())):
        raise InputError(
            f"the attention {ATTENTION!r} is plainly causal: rows of one length, without padding"
        )


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)


class DuoLayer(CacheLayerMixin):
    """One layer: the full heads' past grows, the streaming heads' past is cut after each use."""

    is_sliding = False
    is_croppable = False

    def __init__(self, cache: "DuoCache", heads: np.ndarray) -> None:
        super().__init__()
        self.cache, self.heads, self.seen = cache, heads, 0
        self.full: list[Any] = []
        self.stream: list[Any] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        device = key_states.device
        self.which = [torch.from_numpy(np.flatnonzero(part)).to(device) for part in (self.heads, ~self.heads)]
        self.full, self.stream = (
            [each.index_select(1, which)[:, :, :0] for each in (key_states, value_states)]
            for which in self.which
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new, first = key_states.shape[2], self.seen == 0
        self.cache.require_room(self.seen + new)
        pair = (key_states, value_states)
        full = [self._appended(index, each.index_select(1, self.which[0])) for index, each in enumerate(pair)]
        joined = [
            torch.cat([held, each.index_select(1, self.which[1])], dim=2)
            for held, each in zip(self.stream, pair, strict=True)
        ]
        self.seen += new
        keep = torch.from_numpy(self.cache.retention.keep(joined[0].shape[2])).to(key_states.device)
        self.stream = [each.index_select(2, keep) for each in joined]
        packed = self._packed(full, joined, new if first else 0)
        return packed, packed

    def _appended(self, index: int, new: Tensor) -> Tensor:
        """The whole past of the full heads, in a buffer that grows by steps."""
        end = self.seen + new.shape[2]
        held = self.full[index]
        if end > held.shape[2]:
            step = self.cache.step
            grown = new.new_empty(*new.shape[:2], -(-end // step) * step, new.shape[3])
            grown[:, :, : self.seen] = held[:, :, : self.seen]
            self.full[index] = held = grown
        held[:, :, self.seen : end] = new
        return held[:, :, :end]

    def _packed(self, full: list[Tensor], stream: list[Tensor], first: int) -> _Packed:
        mask = None
        if first and self.cache.prefill_mode == "streaming":
            kept = self.cache.retention
            mask = streaming_mask(first, kept.sink_size, kept.window_size, full[0].device)
        groups = [(self.which[0], full[0], full[1], None), (self.which[1], stream[0], stream[1], mask)]
        return _Packed(groups, len(self.heads))

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.full, self.stream, self.seen, self.is_initialized = [], [], 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.full, self.stream = (
            [each.index_select(0, beam_idx) for each in held] for held in (self.full, self.stream)
        )


class DuoCache(Cache):
    """The cache of DuoAttention (Xiao et al. 2024, arXiv 2410.10819): `model.generate(..., past_key_values=cache)`.

    Full heads keep every token, streaming heads sinks and recent ones; both at their true, absolute positions. A
    step attends over what is kept and all of its own tokens, then the streaming heads are cut. All rows of a batch
    have one length, without padding.

    Parameters
    ----------
    model
        of transformers, with rotary positions and `model.set_attn_implementation("duo")`.
    heads
        which are full, bool `[layers, kv_heads]`; see `HeadGates.binarize`.
    sink, recent
        tokens that a streaming head keeps; the token itself comes on top.
    prefill_mode
        `"dense_first_chunk"`, as upstream: within the first call all heads are full; `"streaming"`: the streaming
        heads see there what they see in identification.
    step
        tokens by which the full heads' tensors grow.

    Raises
    ------
    ModelUnsupportedError
        if the model's attention or positions do not allow it.
    InputError
        if the table does not fit the model, or a setting makes no sense.
    CapacityError
        at a token beyond the positions that the model attends over.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: np.ndarray,
        sink: int = 64,
        recent: int = 256,
        *,
        prefill_mode: str = PREFILL_MODES[0],
        step: int = 256,
    ) -> None:
        _require(model, heads, prefill_mode)
        if step < 1:
            raise InputError("the full heads grow by 1 or more tokens")
        self.retention, self.prefill_mode, self.step = SinksAndWindow(sink, recent), prefill_mode, step
        self.limit = position_limit(model)
        super().__init__(layers=[DuoLayer(self, row) for row in np.asarray(heads, dtype=bool)])

    def require_room(self, length: int) -> None:
        """Raise `CapacityError` if the model does not attend over `length` tokens."""
        if length > self.limit:
            raise CapacityError(f"{length} tokens exceed the {self.limit} that the model attends over")

    @property
    def nbytes(self) -> int:
        """Bytes of all key and value tensors."""
        return sum(each.nbytes for layer in self.layers for each in (*layer.full, *layer.stream))


def _require(model: nn.Module, heads: np.ndarray, prefill_mode: str) -> None:
    config: Any = model.config
    if config.get_text_config()._attn_implementation != ATTENTION:
        raise ModelUnsupportedError(
            f'the model needs this attention: model.set_attn_implementation("{ATTENTION}")'
        )
    if depends_on_maximum(model) or None in rotaries(model):
        raise ModelUnsupportedError(
            "DuoAttention needs rotary positions that do not depend on the largest one"
        )
    layers, kv_heads = gate_shape(model)
    require_heads(((1, kv_heads, 1),) * layers, np.asarray(heads))
    if prefill_mode not in PREFILL_MODES:
        raise InputError(f"prefill_mode is {prefill_mode!r}, accepted are {', '.join(PREFILL_MODES)}")
