"""Joint decoding: one token of many streams in one pass, with bits that no neighbour changes."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from unending.core.errors import ModelUnsupportedError, NumericalError
from unending.systems.language.jrt.memory import JRTMemory, joined, row
from unending.systems.language.jrt.model import JRTForCausalLM

__all__ = ["decode_together", "joint_rows"]

_TRIALS, _AGES = 3, 5
_SPARE = (0, 1, 2, 4, 8, 16, 32)
"""Rows beyond the wanted ones that are tried until the wanted ones come out alike."""

_tried: "WeakKeyDictionary[JRTForCausalLM, dict[Any, int]]" = WeakKeyDictionary()

Outcome = tuple[Tensor, JRTMemory]


@torch.no_grad()
def decode_together(
    model: JRTForCausalLM, tokens: Sequence[int], memories: Sequence[JRTMemory], width: int
) -> list[Outcome | Exception]:
    """Logits float32 `[vocabulary]` and the memory after one more token of each stream, or that stream's error.

    All rows go through the layers together, the unused ones with an empty memory. The number of rows depends on
    `width` alone, so the bits of a stream depend on no neighbour, nor on how many there are or which row it has.

    Parameters
    ----------
    tokens, memories
        of each stream, `width` at most.

    Raises
    ------
    ModelUnsupportedError
        if no number of rows near `width` has that property.
    """
    rows = joint_rows(model, width)
    idle = rows - len(tokens)
    logits, after = _stepped(model, [*tokens, *[0] * idle], [*memories, *[model.model.empty()] * idle])
    finite = torch.isfinite(logits).all(dim=-1).tolist()
    failed = NumericalError("the model gave NaN or infinite logits in a block of 1 tokens")
    return [
        (logits[index].clone(), row(after, index)) if finite[index] else failed
        for index in range(len(tokens))
    ]


def _stepped(model: JRTForCausalLM, tokens: Sequence[int], memories: Sequence[JRTMemory]) -> Outcome:
    ids = torch.tensor(list(tokens), device=model.device)
    hidden, after = model.model.step(ids, joined(memories))
    return model.lm_head(hidden).float(), after


def joint_rows(model: JRTForCausalLM, width: int) -> int:
    """Rows of a pass whose first `width` rows give equal bits for equal input, whatever the other rows hold.

    A matrix product may treat its last rows otherwise than its first, and an element-wise function the end of its
    array; it depends on sizes, threads and device. It is tried out on the model once, and where it is so, rows are
    added that nobody uses.

    Raises
    ------
    ModelUnsupportedError
        if there is no such number near `width`.
    """
    weight = model.lm_head.weight
    key = (width, weight.dtype, weight.device, torch.get_num_threads())
    known = _tried.setdefault(model, {})
    if key not in known:
        known[key] = next((width + spare for spare in _SPARE if _alike(model, width, width + spare)), 0)
    if not known[key]:
        raise ModelUnsupportedError("the rows of this JRT model depend on each other or on their place")
    return known[key]


@torch.no_grad()
def _alike(model: JRTForCausalLM, width: int, rows: int) -> bool:
    """Whether a stream gives the same bits in each of the first `width` of `rows` rows, beside itself and others."""
    generator = torch.Generator().manual_seed(rows)
    vocabulary = model.config.vocab_size
    for _ in range(_TRIALS):
        ids = torch.randint(0, vocabulary, (rows, _AGES), generator=generator).to(model.device)
        memories = [
            model.model.prefill(ids[index : index + 1, : 1 + index % _AGES])[1] for index in range(rows)
        ]
        tokens = torch.randint(0, vocabulary, (rows,), generator=generator).tolist()
        last = width - 1
        same = _stepped(model, tokens[:1] * rows, memories[:1] * rows)
        tokens[last], memories[last] = tokens[0], memories[0]
        beside = _stepped(model, tokens, memories)
        wanted = _bits(same, 0)
        found = [_bits(same, index) for index in range(width)] + [_bits(beside, 0), _bits(beside, last)]
        if not all(torch.equal(one, two) for each in found for one, two in zip(each, wanted, strict=True)):
            return False
    return True


def _bits(outcome: Outcome, index: int) -> list[Tensor]:
    logits, after = outcome
    return [logits[index], *(each[index] for each in after.tensors)]
