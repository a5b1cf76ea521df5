"""Reordering: the full heads of every layer first, by a permutation of weights that changes no function."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unending.core.errors import ModelUnsupportedError
from unending.parts.memory.heads import require_heads
from unending.systems.language.duo_attention.identification import gate_shape

__all__ = ["reorder_heads_"]

_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")


@torch.no_grad()
def reorder_heads_(model: nn.Module, heads: np.ndarray) -> np.ndarray:
    """Permute the heads of a model in place so that the full ones come first in every layer.

    Rows of the query, key and value projections and columns of the output projection move together, biases too, so
    the model computes what it computed before; the heads of each kind then lie beside each other in memory.

    Parameters
    ----------
    model
        Llama-like: attention modules with `q_proj`, `k_proj`, `v_proj`, `o_proj`. It must not be shared.
    heads
        bool `[layers, kv_heads]`.

    Returns
    -------
    numpy.ndarray
        the table after the permutation, bool `[layers, kv_heads]`.

    Raises
    ------
    ModelUnsupportedError
        if a layer has other projections.
    InputError
        if the table does not fit the model.
    """
    layers, kv_heads = gate_shape(model)
    table = np.asarray(heads, dtype=bool)
    require_heads(((1, kv_heads, 1),) * layers, table)
    found = {
        int(module.layer_idx): module  # type: ignore[arg-type]
        for module in model.modules()
        if hasattr(module, "layer_idx") and all(hasattr(module, name) for name in _NAMES)
    }
    if sorted(found) != list(range(layers)):
        raise ModelUnsupportedError(
            f"{type(model).__name__} has attention without {', '.join(_NAMES)}; its heads are not reordered"
        )
    for index, row in enumerate(table):
        order = torch.from_numpy(np.argsort(~row, kind="stable"))
        attention: Any = found[index]
        for name in _NAMES:
            projection = getattr(attention, name)
            axis = 1 if name == "o_proj" else 0
            projection.weight.copy_(_permuted(projection.weight, order, axis))
            if projection.bias is not None and axis == 0:
                projection.bias.copy_(_permuted(projection.bias, order, 0))
    return np.sort(table, axis=1)[:, ::-1].copy()


def _permuted(weight: Tensor, order: Tensor, axis: int) -> Tensor:
    """A weight whose `axis` is made of one block a head of keys and values, the blocks in another order."""
    blocks = weight.unflatten(axis, (len(order), -1))
    return blocks.index_select(axis, order.to(weight.device)).flatten(axis, axis + 1)
