"""Reordering changes no function, whatever the family, and puts the full heads first."""

import copy

import numpy as np
import pytest
import torch
from tests.parts import models
from tests.systems.language.duo_attention.masks import distance, masked_logits, some_heads, visible

from unending.core.errors import InputError, ModelUnsupportedError
from unending.parts.backbones.tiny import tiny_model
from unending.systems.language.duo_attention import ATTENTION, DuoCache, gate_shape, reorder_heads_

SINK, RECENT, LENGTH = 2, 9, 40


def biased(name):
    """A family whose projections have biases that are not zero."""
    config = models.CONFIGS[name]()
    config.attention_bias = True
    model = tiny_model(config)
    for each in model.parameters():
        if each.ndim == 1:
            torch.nn.init.normal_(each, std=0.3, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("name", ["llama", "llama-multihead", "qwen2", "qwen3"])
def test_a_reordered_model_computes_the_same(name):
    model = biased(name)
    heads = some_heads(*gate_shape(model))
    heads[0] = np.arange(heads.shape[1]) == heads.shape[1] - 1  # surely moved
    other = copy.deepcopy(model)
    table = reorder_heads_(other, heads)
    assert [row.tolist() for row in table] == [sorted(row.tolist(), reverse=True) for row in heads]
    ids = models.tokens(LENGTH)
    batch = torch.as_tensor(ids)[None]
    with torch.no_grad():
        assert distance(other(batch).logits, model(batch).logits) < 4e-6
    other.set_attn_implementation(ATTENTION)
    cache = DuoCache(other, table, SINK, RECENT)
    with torch.no_grad():
        found = torch.cat(
            [other(input_ids=each, past_key_values=cache).logits[0] for each in batch.split(1, dim=1)]
        )
    wanted = masked_logits(model, ids, heads, visible(LENGTH, SINK, RECENT, range(1, LENGTH)))
    assert distance(found, wanted) < 4e-6
    unmoved = copy.deepcopy(model)
    unmoved.set_attn_implementation(ATTENTION)
    cache = DuoCache(unmoved, table, SINK, RECENT)
    with torch.no_grad():
        toy = torch.cat(
            [unmoved(input_ids=each, past_key_values=cache).logits[0] for each in batch.split(1, dim=1)]
        )
    assert distance(toy, wanted) > 1e-3  # the table alone, without the weights


def test_other_attentions_and_tables_are_refused():
    with pytest.raises(ModelUnsupportedError, match="q_proj"):
        reorder_heads_(models.model("neox-partial"), np.ones((2, 4), dtype=bool))
    with pytest.raises(InputError, match="2 layers of 2 heads"):
        reorder_heads_(models.model("llama"), np.ones((3, 2), dtype=bool))
