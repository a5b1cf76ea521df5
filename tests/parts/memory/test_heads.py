"""Retention by head as a state: ragged tensors, positions at and past the cap, views that can be dropped."""

import numpy as np
import pytest
import torch
from tests.parts import models

from unending.core import canonical, fork, leaves, nbytes
from unending.core.errors import CapacityError, InputError, ModelUnsupportedError
from unending.parts import backbones
from unending.parts.backbones.tiny import tiny_model
from unending.parts.memory import SinksAndWindow, forward, heads
from unending.parts.memory.head_attention import attend_by_head, causal_attention
from unending.parts.memory.heads import (
    HeadCache,
    empty_heads,
    head_bytes,
    require_heads,
)
from unending.parts.memory.naive_heads import NaiveHeads

TABLE = np.array([[True, False], [False, False]])
SINK, RECENT, FULL, CHUNK = 2, 6, 20, 4


class Stream:
    """One stream through a model, a state after each block."""

    def __init__(self, name="llama", table=TABLE, mode="dense_first_chunk", full=FULL):
        self.backbone = backbones.load(backbones.register(models.model(name)))
        self.table, self.mode = table, mode
        self.full, self.part = SinksAndWindow(SINK, full - SINK), SinksAndWindow(SINK, RECENT)
        self.sizes = full + CHUNK, SINK + RECENT + CHUNK
        shapes = self.backbone.kv_shapes()
        self.memory = empty_heads(shapes, table, self.sizes, torch.float32, self.backbone.device)
        self.expected = head_bytes(shapes, table, self.sizes, 4)

    def view(self):
        limit = self.backbone.limit
        return HeadCache(
            self.memory, self.table, self.backbone.rotaries, self.full, self.part, limit, self.mode
        )

    def read(self, ids, block=1):
        out = []
        for start in range(0, len(ids), block):
            cache = self.view()
            piece = torch.as_tensor(ids[start : start + block])[None]
            out.append(forward(self.backbone.module, piece, cache)[0])
            self.memory = cache.memory()
        return torch.cat(out)

    def naive(self):
        return NaiveHeads(self.backbone.module, self.table, self.full, self.part, self.mode)


def reference(stream, ids, block=1):
    memory = stream.naive()
    return torch.cat([memory.read(ids[start : start + block]) for start in range(0, len(ids), block)])


@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "qwen3", "llama3-rope", "yarn-rope", "gemma", "neox-partial"]
)
@pytest.mark.parametrize("block", [1, 4])
def test_far_past_the_cap_it_is_the_reference(name, block):
    model = models.model(name)
    kv_heads = backbones.load(backbones.register(model)).kv_shapes()[0][1]
    table = np.zeros((2, kv_heads), dtype=bool)
    table[1, 0] = True
    stream, ids = Stream(name, table), models.tokens(60)
    torch.testing.assert_close(stream.read(ids, block), reference(stream, ids, block), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("table", [np.ones((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool)])
def test_layers_may_be_without_a_kind_of_head(table):
    stream, ids = Stream(table=table), models.tokens(50)
    torch.testing.assert_close(stream.read(ids), reference(stream, ids), atol=2e-4, rtol=2e-4)


def test_below_the_cap_positions_are_absolute_and_full_heads_see_all():
    """With room for everything and all heads full it is the dense model."""
    stream, ids = Stream(table=np.ones((2, 2), dtype=bool), full=64), models.tokens(60)
    with torch.no_grad():
        dense = stream.backbone.module(torch.as_tensor(ids)[None]).logits[0]
    torch.testing.assert_close(stream.read(ids), dense, atol=1e-4, rtol=1e-4)
    assert stream.view().position == 60


def test_no_distance_exceeds_what_full_heads_hold():
    """Past the cap the same text gives the same logits however much came before: nothing grows."""
    stream, tail = Stream(), models.tokens(80, seed=5)
    first = models.tokens(2, seed=6)
    found = []
    for lead in (0, 37, 200):
        other = Stream()
        other.backbone, other.memory = stream.backbone, other.memory
        ids = np.concatenate([first, models.tokens(lead, seed=7), tail])
        found.append(other.read(ids)[-10:])
    # The window's layers reach back 2 x 20 tokens; the last ten tokens are 70 and more behind the lead.
    torch.testing.assert_close(found[1], found[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(found[2], found[0], atol=2e-3, rtol=2e-3)


def test_positions_are_counted_anew_and_nothing_is_seen_of_it(monkeypatch):
    ids = models.tokens(160)
    plain = Stream()
    wanted = plain.read(ids)
    assert plain.memory.base == 0
    monkeypatch.setattr(heads, "REBASE", 30)
    counted = Stream()
    found = counted.read(ids)
    assert counted.memory.base > 0
    assert counted.view().position < 20 + 30 + 2
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-4)


def test_a_view_can_be_dropped_also_when_positions_are_counted_anew(monkeypatch):
    monkeypatch.setattr(heads, "REBASE", 5)
    stream, ids = Stream(), models.tokens(60)
    for start in range(0, 60, 3):
        kept = fork(stream.memory)
        dropped = stream.view()
        forward(stream.backbone.module, torch.as_tensor(ids[start : start + 4])[None], dropped)
        for one, two in zip(
            *(leaves(canonical(each)).values() for each in (stream.memory, kept)), strict=True
        ):
            assert np.array_equal(np.asarray(one), np.asarray(two))
        stream.read(ids[start : start + 3], block=3)


def test_tensors_are_ragged_and_bytes_follow_the_sizes():
    stream = Stream()
    assert [tuple(each.shape) for each in stream.memory.full.keys] == [(1, 1, 24, 16), (1, 0, 24, 16)]
    assert [tuple(each.shape) for each in stream.memory.stream.keys] == [(1, 1, 12, 16), (1, 2, 12, 16)]
    for count in (1, 30, 30):
        stream.read(models.tokens(count))
        assert nbytes(stream.memory) == stream.expected
    tensors = 2 * 4 * 16 * (1 * 24 + 3 * 12)
    assert stream.expected == tensors + (24 + 12) * 16 + 5 * 8
    assert (stream.memory.full.count, stream.memory.stream.count) == (FULL, SINK + RECENT)


def test_room_for_a_turn():
    stream = Stream()
    stream.read(models.tokens(30))
    reference_memory = stream.naive()
    for token in models.tokens(30):
        reference_memory.read(np.array([token]))
    cache = stream.view()
    cache.make_room(9)
    reference_memory.make_room(9)
    ids = models.tokens(9, seed=3)
    found = forward(stream.backbone.module, torch.as_tensor(ids[:4])[None], cache)[0]
    torch.testing.assert_close(found, reference_memory.read(ids[:4]), atol=2e-4, rtol=2e-4)
    with pytest.raises(CapacityError, match="13 tokens do not fit in one turn: the full heads hold 12"):
        stream.view().make_room(13)


def test_the_first_block_may_be_streamed():
    ids = models.tokens(4)
    stream = Stream(mode="streaming")
    stream.part = SinksAndWindow(SINK, 1)
    found, wanted = stream.read(ids, 4), reference(stream, ids, 4)
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-4)
    stream = Stream()
    stream.part = SinksAndWindow(SINK, 1)
    assert (stream.read(ids, 4) - found).abs().max() > 1e-3


def test_causal_attention_is_bottom_right():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 3, 8, generator=generator)
    keys, values = torch.randn(2, 2, 2, 7, 8, generator=generator)
    for n in (1, 2, 3):
        found = causal_attention(query[:, :, :n], keys, values, 0.3)
        for row in range(n):
            seen = 7 - n + row + 1
            alone = causal_attention(query[:, :, row : row + 1], keys[:, :, :seen], values[:, :, :seen], 0.3)
            torch.testing.assert_close(found[:, :, row : row + 1], alone)


def test_heads_come_back_in_their_place():
    generator = torch.Generator().manual_seed(0)
    query, (keys, values) = (
        torch.randn(1, 6, 2, 8, generator=generator),
        torch.randn(2, 1, 3, 5, 8, generator=generator),
    )
    whole = causal_attention(query, keys, values, 0.4).transpose(1, 2)
    parts = [torch.tensor([0, 2]), torch.tensor([1])]
    groups = [(which, keys[:, which], values[:, which], None) for which in parts]
    torch.testing.assert_close(attend_by_head(query, groups, 3, 0.4), whole)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="the table of heads is 2 x 3, the model has 2 layers of 2"):
        require_heads(((1, 2, 16),) * 2, np.ones((2, 3), dtype=bool))
    with pytest.raises(InputError, match="prefill_mode"):
        Stream(mode="both").view()
    stream = Stream()
    stream.full = SinksAndWindow(SINK, RECENT)
    with pytest.raises(InputError, match="more of the past"):
        stream.view()
    stream = Stream(full=126)
    stream.read(models.tokens(124), 4)
    with pytest.raises(CapacityError, match="6 tokens on top of 124 kept exceed the 128"):
        forward(stream.backbone.module, torch.as_tensor(models.tokens(6))[None], stream.view())
    config = models.CONFIGS["llama"]()
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    dynamic = Stream()
    dynamic.backbone = backbones.load(backbones.register(tiny_model(config)))
    with pytest.raises(ModelUnsupportedError, match="rotary"):
        dynamic.view()
