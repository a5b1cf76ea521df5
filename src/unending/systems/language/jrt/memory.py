"""What a JRT model remembers of a stream: one state a layer, of fixed size; as a state, and as a transformers cache."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from unending.core import state

__all__ = ["JRTCache", "JRTMemory", "joined", "row"]


@state
class JRTMemory:
    """The state of every layer after some tokens of a stream (or of a batch of streams)."""

    layers: tuple[Any, ...]
    """`LinearState`, `WindowState` or `ConvState`, as the layer is."""
    position: Tensor
    """int64 `[batch]`: tokens so far, padding among them."""

    @property
    def tensors(self) -> list[Tensor]:
        """All of it."""
        return [getattr(each, field.name) for each in self.layers for field in fields(each)] + [self.position]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors; the same after any number of tokens."""
        return sum(each.nbytes for each in self.tensors)


def joined(memories: Sequence[JRTMemory]) -> JRTMemory:
    """The memories of several streams as one batch, in new tensors."""
    layers = [
        type(layer[0])(
            *(torch.cat([getattr(each, field.name) for each in layer]) for field in fields(layer[0]))
        )
        for layer in zip(*(each.layers for each in memories), strict=True)
    ]
    return JRTMemory(tuple(layers), torch.cat([each.position for each in memories]))


def row(memory: JRTMemory, index: int | Tensor) -> JRTMemory:
    """One stream of a batch, or some (int64 `[k]`), in tensors of their own."""
    chosen = torch.as_tensor([index] if isinstance(index, int) else index, device=memory.position.device)
    layers = [
        type(each)(*(getattr(each, field.name).index_select(0, chosen) for field in fields(each)))
        for each in memory.layers
    ]
    return JRTMemory(tuple(layers), memory.position.index_select(0, chosen))


class JRTCache(Cache):
    """The memory in the form of a transformers cache: `model(..., past_key_values=JRTCache())`, `model.generate`.

    Its size does not depend on how many tokens were read. A forward pass puts a new memory in place of the old one
    and writes into neither.
    """

    def __init__(self, memory: JRTMemory | None = None) -> None:
        super().__init__(layers=[])
        self.memory = memory

    @property
    def recurrent_states(self) -> list[Any]:
        """The state of each layer; empty before the first token."""
        return list(self.memory.layers) if self.memory else []

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return self.memory.nbytes if self.memory else 0

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_initialized(self) -> bool:
        return self.memory is not None

    @property
    def is_croppable(self) -> bool:
        return False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.memory.position[0]) if self.memory else 0

    def get_max_length(self, layer_idx: int = 0) -> int:
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take rows of the batch in another order (beam search)."""
        self.memory = row(self.memory, beam_idx) if self.memory else None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the given rows of the batch."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row so many times."""
        if self.memory:
            rows = torch.arange(len(self.memory.position), device=self.memory.position.device)
            self.memory = row(self.memory, rows.repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything."""
        self.memory = None
