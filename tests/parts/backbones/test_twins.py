"""Twins: the same weights, another attention, and the first model as it was."""

import pytest
import torch
from tests.parts import models

from unending.core.errors import ModelUnsupportedError
from unending.parts.backbones.twins import twin


def test_a_twin_shares_weights_and_has_its_own_attention():
    model = models.model("llama")
    other = twin(model, "eager")
    assert other.config._attn_implementation == "eager"
    assert model.config._attn_implementation != "eager"
    assert other.model.layers[0].self_attn.config is not model.model.layers[0].self_attn.config
    assert other.model.layers[0].self_attn.q_proj.weight is model.model.layers[0].self_attn.q_proj.weight
    ids = torch.as_tensor(models.tokens(9))[None]
    with torch.no_grad():
        torch.testing.assert_close(other(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_gradients_pass_through_it():
    model = models.model("llama")
    other = twin(model, "sdpa")
    loss = other(torch.as_tensor(models.tokens(9))[None]).logits.sum()
    (slope,) = torch.autograd.grad(loss, [model.model.embed_tokens.weight])
    assert slope.abs().max() > 0


def test_a_model_of_another_make_is_refused():
    with pytest.raises(ModelUnsupportedError, match="interface"):
        twin(models.mpt(), "eager")
