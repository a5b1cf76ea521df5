"""Rotation against the models' own."""

import sys

import pytest
import torch
from tests.parts import models

from unending.parts.backbones import position_limit, rotaries, rotate


@pytest.mark.parametrize("name", sorted(models.CONFIGS))
def test_rotation_equals_the_models_own(name):
    model = models.model(name)
    base = model.base_model
    own = sys.modules[type(base).__module__].apply_rotary_pos_emb
    for rotary in rotaries(model):
        dim = base.config.get_text_config().hidden_size // 4
        keys = torch.randn(1, 1, 5, dim, generator=torch.Generator().manual_seed(0))
        positions = torch.tensor([[0, 1, 7, 40, 63]])
        arguments = (rotary.layer_type,) if rotary.layer_type else ()
        expected = own(keys, keys, *rotary.module(keys, positions, *arguments))[1]
        cos, sin = rotary.angles(positions[0])
        torch.testing.assert_close(rotate(keys, cos * rotary.scaling, sin * rotary.scaling), expected)


def test_turning_back_gives_the_key_again():
    keys = torch.randn(2, 3, 9, 16, generator=torch.Generator().manual_seed(1))
    rotary = rotaries(models.model("llama"))[0]
    cos, sin = rotary.angles(torch.arange(9))
    torch.testing.assert_close(rotate(rotate(keys, cos, sin), cos, -sin), keys)


def test_only_the_leading_channels_turn():
    keys = torch.randn(1, 1, 4, 16)
    rotary = rotaries(models.model("neox-partial"))[0]
    turned = rotate(keys, *rotary.angles(torch.arange(4)))
    assert torch.equal(turned[..., 4:], keys[..., 4:])
    assert not torch.equal(turned[..., :4], keys[..., :4])


def test_layer_types_have_their_own_frequencies():
    local, globally = rotaries(models.model("gemma3"))
    assert local.layer_type == "sliding_attention"
    assert globally.layer_type == "full_attention"
    assert not torch.equal(local.inv_freq, globally.inv_freq)


def test_mpt_has_none():
    assert rotaries(models.mpt()) == [None, None]


@pytest.mark.parametrize(
    ("name", "limit"), [("llama", 128), ("mistral", 128), ("mistral-sliding", 64), ("gemma3", 64)]
)
def test_limits(name, limit):
    assert position_limit(models.model(name)) == limit


def test_turning_in_place_in_half_precision_is_the_toy():
    """A thousand shifts by one slot, each rounded to bfloat16, against one rotation from the raw key."""
    rotary = rotaries(models.model("llama"))[0]
    raw = torch.randn(1, 1, 8, 16, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    one, thousand = (rotary.angles(torch.full((8,), shift)) for shift in (1, 1000))
    in_place = raw
    for _ in range(1000):
        in_place = rotate(in_place, *one)
    exact = rotate(raw.double().float(), *thousand)
    error = (in_place.float() - exact).norm() / exact.norm()
    ours = (rotate(raw, *thousand).float() - exact).norm() / exact.norm()
    assert error > 0.3
    assert ours < 0.01
