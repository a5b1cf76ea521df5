"""Joint decoding: streams of different ages take one token each in one forward pass over their own memories."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import Cache

from unending.core.errors import ModelUnsupportedError, NumericalError
from unending.parts.backbones.rotary import position_limit
from unending.parts.backbones.routing import Router, routed

__all__ = ["Attending", "decode_together", "joint_rows"]

_TRIALS = 3
_SPARE = (0, 1, 2, 4, 8, 16, 32)
"""Rows beyond the wanted ones that are tried until the wanted ones come out alike."""


@runtime_checkable
class Attending(Router, Protocol):
    """The memory of one stream that stores keys and attends over them by itself."""

    @property
    def position(self) -> int:
        """Position id of the next token."""


class _OfCache:
    """A `transformers.Cache` as such a memory: a token sees all that the cache gives back."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    @property
    def position(self) -> int:
        return self.cache.get_seq_length()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        keys, values = self.cache.update(key, value, layer)
        return _attention(query, keys, values, scaling).transpose(1, 2)


class _Rows:
    """Router of a joint pass: each row attends by its own memory, the rows without one over nothing."""

    def __init__(self, memories: Sequence[Attending]) -> None:
        self.memories = memories
        self.errors: list[Exception | None] = [None] * len(memories)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        out = query.new_zeros(query.shape[0], 1, query.shape[1], value.shape[-1])
        for row, memory in enumerate(self.memories):
            if self.errors[row] is None:
                this = slice(row, row + 1)
                try:
                    out[this] = memory.attend(layer, query[this], key[this], value[this], scaling)
                except Exception as error:  # one stream's failure, of whatever kind, is not its neighbours'
                    self.errors[row] = error
        return out


def _attention(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """One query `[1, heads, 1, d]` over all `keys`, `values` `[1, kv_heads, n, d]`: `[1, heads, 1, d]`."""
    grouped = query.shape[1] != keys.shape[1]
    return nn.functional.scaled_dot_product_attention(query, keys, values, scale=scaling, enable_gqa=grouped)


def decode_together(
    model: nn.Module, tokens: Sequence[int], memories: Sequence[Attending | Cache], width: int
) -> list[Tensor | Exception]:
    """Logits after one more token of each stream, float32 `[vocabulary]`, or the error of that stream alone.

    The linear layers run at a number of rows that depends on `width` alone, and the attention of a stream over its
    own keys, so its bits depend on `width` and on no neighbour, nor on how many there are or which row it has.

    Parameters
    ----------
    model
        a causal language model of transformers.
    tokens
        the next token of each stream.
    memories
        of each stream; those whose entry is an error are to be dropped. Of a transformers cache a token sees all.
    width
        rows; as many streams at most.

    Raises
    ------
    ModelUnsupportedError
        if the model does not allow it (`joint_rows`).
    """
    rows, device = joint_rows(model, width), next(model.parameters()).device
    idle = [0] * (rows - len(tokens))
    ids = torch.tensor([*tokens, *idle], device=device)[:, None]
    router = _Rows([each if isinstance(each, Attending) else _OfCache(each) for each in memories])
    places = torch.tensor([*(each.position for each in router.memories), *idle], device=device)[:, None]
    logits = routed(model, ids, places, router)[:, -1]
    finite = torch.isfinite(logits).all(dim=-1).tolist()
    results: list[Tensor | Exception] = []
    for row, error in enumerate(router.errors):
        if error is None and not finite[row]:
            error = NumericalError("the model gave NaN or infinite logits in a block of 1 tokens")
        results.append(logits[row].clone() if error is None else error)
    return results


_tried: "WeakKeyDictionary[nn.Module, dict[Any, int]]" = WeakKeyDictionary()


def joint_rows(model: nn.Module, width: int) -> int:
    """Rows of a pass whose first `width` rows give equal bits for equal input, whatever the other rows hold.

    A matrix product may treat its last rows otherwise than its first, and an element-wise function the end of its
    array (vector and scalar instructions round differently), depending on sizes, threads and device. It is tried out
    on the model once, and where it is so, rows are added that nobody uses.

    Raises
    ------
    ModelUnsupportedError
        if there is no such number near `width`, or `routed` refuses the model.
    """
    weight = next(model.parameters())
    key = (width, weight.dtype, weight.device, torch.get_num_threads())
    known = _tried.setdefault(model, {})
    if key not in known:
        enough = (width + spare for spare in _SPARE if _alike(model, width, width + spare))
        known[key] = next(enough, 0)
    if not known[key]:
        raise ModelUnsupportedError(
            f"the rows of {type(model).__name__} depend on each other or on their place"
        )
    return known[key]


@torch.no_grad()
def _alike(model: nn.Module, width: int, rows: int) -> bool:
    """Whether a token gives the same bits in each of the first `width` of `rows` rows, beside itself and others."""
    config: Any = model.config
    vocabulary, device = config.get_text_config().vocab_size, next(model.parameters()).device
    generator = torch.Generator().manual_seed(rows)
    highest = vocabulary, min(64, position_limit(model))
    ids, ages = (torch.randint(0, high, (_TRIALS, rows), generator=generator) for high in highest)
    for mixed, age in zip(ids.to(device)[..., None], ages.to(device)[..., None], strict=True):
        first, last = mixed[:1].expand(rows, 1), (width - 1) % rows
        same = routed(model, first, age[:1].expand(rows, 1), _Rows([_Itself()] * rows))
        mixed[last], age[last] = mixed[0], age[0]
        beside = routed(model, mixed, age, _Rows([_Itself()] * rows))
        if not all(torch.equal(each, same[0]) for each in (*same[:width], beside[0], beside[last])):
            return False
    return True


class _Itself:
    """Memory of a trial: a token sees itself and one key that is not rotated with it."""

    position = 0

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        keys = torch.cat([torch.ones_like(key), key], dim=2)
        values = torch.cat([torch.zeros_like(value), value], dim=2)
        return _attention(query, keys, values, scaling).transpose(1, 2)
