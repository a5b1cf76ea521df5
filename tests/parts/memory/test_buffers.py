"""Buffers: four bits to half a step, and the same calls for both kinds."""

import pytest
import torch

from unending.core.errors import InputError
from unending.parts.memory.buffers import FourBitBuffer, PlainBuffer, dequantise, quantise


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("group", [2, 8, 32])
def test_values_come_back_to_half_a_step(group):
    x = 3 * values(2, 3, 5, 32) + 7
    packed, scale, zero = quantise(x, group)
    assert (packed.dtype, packed.shape) == (torch.uint8, (2, 3, 5, 16))
    assert scale.shape == zero.shape == (2, 3, 5, 32 // group)
    error = (dequantise(packed, scale, zero, torch.float32) - x).abs().unflatten(-1, (-1, group)).amax(-1)
    # half a step, and what rounding the scale and the zero point to float16 adds
    assert (error <= 0.5 * scale.float() + 2e-2).all()
    assert group == 2 or error.max() > 0.2 * scale.float().max()


def test_groups_of_one_value_and_whole_levels_are_exact():
    same = torch.full((1, 1, 1, 8), 1.5)
    assert torch.equal(dequantise(*quantise(same, 4), torch.float32), same)
    levels = torch.arange(16.0).view(1, 1, 1, 16)
    packed, scale, zero = quantise(levels, 16)
    assert packed.flatten().tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]
    assert (scale.item(), zero.item()) == (1.0, 0.0)
    assert torch.equal(dequantise(packed, scale, zero, torch.float32), levels)


def test_each_group_has_a_range_of_its_own():
    x = torch.cat([values(1, 1, 1, 8), 1000 * values(1, 1, 1, 8, seed=1)], dim=-1)
    apart, together = (dequantise(*quantise(x, group), torch.float32) for group in (8, 16))
    assert (apart - x)[..., :8].abs().max() < 0.2
    assert (together - x)[..., :8].abs().max() > 0.5  # one range for all: the small channels drown


def test_both_kinds_write_read_and_keep():
    like, new = torch.zeros(1, 2, 0, 8), values(1, 2, 6, 8)
    plain, small = PlainBuffer(like, 10), FourBitBuffer(like, 10, 8)
    for buffer in (plain, small):
        buffer.write(0, new[:, :, :4])
        buffer.write(4, new[:, :, 4:])
    assert torch.equal(plain.read(6), new)
    assert (small.read(6) - new).abs().max() < 0.2
    before = small.read(6)
    for buffer in (plain, small):
        buffer.keep(torch.tensor([0, 3, 5]))
    assert torch.equal(plain.read(3), new[:, :, [0, 3, 5]])
    assert torch.equal(small.read(3), before[:, :, [0, 3, 5]])
    assert (plain.nbytes, small.nbytes) == (2 * 10 * 8 * 4, 2 * 10 * (4 + 2 * 2))


@pytest.mark.parametrize("group", [0, 3, 16])
def test_groups_that_do_not_fit_are_refused(group):
    with pytest.raises(InputError, match="even divisors of the 8"):
        FourBitBuffer(torch.zeros(1, 1, 0, 8), 4, group)
