"""The cache in transformers' form: equal to dense passes with a mask for every head, and what a toy would give."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.parts import models
from tests.systems.language.duo_attention.masks import (
    causal,
    distance,
    masked_logits,
    some_heads,
    visible,
)
from transformers import DynamicCache

from unending.core.errors import CapacityError, InputError, ModelUnsupportedError
from unending.parts.memory import streaming_losses
from unending.systems.language import StreamingCache
from unending.systems.language.duo_attention import ATTENTION, DuoCache, StaticDuoCache, gate_shape

SINK, RECENT, LENGTH = 2, 9, 48
EXACT, APART = 4e-6, 1e-3
FAMILIES = ("llama", "llama-multihead", "qwen2", "qwen3")


def duo(name):
    """A model as it is, and the same with the attention of the cache."""
    model = models.model(name)
    other = copy.deepcopy(model)
    other.set_attn_implementation(ATTENTION)
    return model, other


def ids_of(n=LENGTH):
    return models.tokens(n)


@torch.no_grad()
def read(model, ids, cache, blocks):
    """Logits [n, vocabulary] of ids read in blocks that end at the given places."""
    ids = torch.as_tensor(ids)[None]
    places = [0, *blocks, ids.shape[1]]
    out = [
        model(input_ids=ids[:, begin:end], past_key_values=cache).logits[0] for begin, end in pairwise(places)
    ]
    return torch.cat(out)


def one_by_one(n=LENGTH):
    return list(range(1, n))


@pytest.mark.parametrize("name", FAMILIES)
def test_all_heads_full_is_the_dense_cache(name):
    model, other = duo(name)
    heads = np.ones(gate_shape(model), dtype=bool)
    for blocks in ([], [7, 30], one_by_one()):
        dense = read(model, ids_of(), DynamicCache(config=model.config), blocks)
        assert distance(read(other, ids_of(), DuoCache(other, heads, SINK, RECENT), blocks), dense) < EXACT


@pytest.mark.parametrize("name", FAMILIES)
def test_token_by_token_is_a_dense_pass_with_a_mask_for_every_head(name):
    model, other = duo(name)
    heads = some_heads(*gate_shape(model))
    wanted = masked_logits(model, ids_of(), heads, visible(LENGTH, SINK, RECENT, one_by_one()))
    assert distance(read(other, ids_of(), DuoCache(other, heads, SINK, RECENT), one_by_one()), wanted) < EXACT
    flipped = masked_logits(model, ids_of(), ~heads, visible(LENGTH, SINK, RECENT, one_by_one()))
    assert distance(flipped, wanted) > APART


def test_the_mask_of_decoding_is_sinks_and_recent_and_the_token_itself():
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    formula = (j <= i) & ((j < SINK) | (j >= i - RECENT))
    assert torch.equal(visible(LENGTH, SINK, RECENT, one_by_one()), formula)


def test_a_four_dimensional_mask_of_the_real_model_gives_the_same():
    """The same heads in every layer, so that transformers' own eager attention can be given the mask."""
    model, other = duo("llama")
    heads = np.tile([True, False], (2, 1))
    stream = visible(LENGTH, SINK, RECENT, one_by_one())
    mask = torch.stack([causal(LENGTH)] * 2 + [stream] * 2)[None]
    bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = eager(input_ids=torch.as_tensor(ids_of())[None], attention_mask=bias).logits[0]
    assert distance(read(other, ids_of(), DuoCache(other, heads, SINK, RECENT), one_by_one()), wanted) < EXACT


@pytest.mark.parametrize("blocks", [[20], [5, 10, 37], [30, 31, 32, 47]])
def test_chunked_prefill_equals_the_mask_of_its_boundaries(blocks):
    model, other = duo("llama")
    heads = some_heads(2, 2)
    wanted = masked_logits(model, ids_of(), heads, visible(LENGTH, SINK, RECENT, blocks))
    found = read(other, ids_of(), DuoCache(other, heads, SINK, RECENT), blocks)
    assert distance(found, wanted) < EXACT
    # A toy that masks by window inside the chunk, too:
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    toy = masked_logits(model, ids_of(), heads, (j <= i) & ((j < SINK) | (j >= i - RECENT)))
    assert distance(toy, found) > APART


def test_a_toy_that_evicts_before_it_attends_sees_less():
    model, other = duo("llama")
    heads = some_heads(2, 2)
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    toy = masked_logits(model, ids_of(), heads, (j <= i) & ((j < SINK) | (j > i - RECENT)))
    found = read(other, ids_of(), DuoCache(other, heads, SINK, RECENT), one_by_one())
    assert distance(toy, found) > APART


def test_the_first_call_is_dense_or_streaming_as_asked():
    model, other = duo("llama")
    heads, blocks = some_heads(2, 2), [30]
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    streamed = visible(LENGTH, SINK, RECENT, blocks)
    streamed[:30] = ((j <= i) & ((j < SINK) | (j > i - RECENT)))[:30]
    for mode, mask in (("dense_first_chunk", visible(LENGTH, SINK, RECENT, blocks)), ("streaming", streamed)):
        found = read(other, ids_of(), DuoCache(other, heads, SINK, RECENT, prefill_mode=mode), blocks)
        assert distance(found, masked_logits(model, ids_of(), heads, mask)) < EXACT
    dense, strict = (
        masked_logits(model, ids_of(), heads, mask) for mask in (visible(LENGTH, 2, 9, [30]), streamed)
    )
    assert distance(dense, strict) > APART


def test_streaming_heads_keep_absolute_positions():
    """StreamingLLM's slot positions are another system: with no full head at all the two differ."""
    model, other = duo("llama")
    none, ids = np.zeros((2, 2), dtype=bool), torch.as_tensor(ids_of())[None]
    ours = torch.cat(list(streaming_losses(other, ids, DuoCache(other, none, SINK, RECENT))), dim=1)
    absolute = masked_logits(model, ids_of(), none, visible(LENGTH, SINK, RECENT, one_by_one()))
    losses = torch.nn.functional.cross_entropy(absolute[:-1], ids[0, 1:], reduction="none")
    slots = torch.cat(list(streaming_losses(model, ids, StreamingCache(model, SINK, RECENT, "cache"))), dim=1)
    before = SINK + RECENT
    assert (ours[0] - losses).abs().max() < 1e-4
    assert (ours[0] - slots[0])[:before].abs().max() < 1e-4  # nothing was dropped yet
    assert (ours[0] - slots[0])[before + 5 :].abs().max() > 1e-2


def test_lengths_and_bytes_are_ragged_and_follow_the_formula():
    _, other = duo("llama")
    heads = np.array([[True, False], [False, False]])
    cache = DuoCache(other, heads, SINK, RECENT, step=16)
    for done, blocks in ((5, []), (21, []), (48, [3, 4])):
        cache = DuoCache(other, heads, SINK, RECENT, step=16)
        read(other, ids_of(done), cache, blocks)
        assert cache.get_seq_length() == done
        kept = min(done, SINK + RECENT)
        assert [tuple(each.shape[1:3]) for each in cache.layers[0].stream] == [(1, kept)] * 2
        assert [tuple(each.shape[1:3]) for each in cache.layers[1].stream] == [(2, kept)] * 2
        room = -(-done // 16) * 16
        assert [tuple(each.shape[1:3]) for each in cache.layers[0].full] == [(1, room)] * 2
        # two tensors of float32 with 16 channels: one full head, three streaming ones
        assert cache.nbytes == 2 * 4 * 16 * (room * 1 + kept * 3)
        rectangle = 2 * 4 * 16 * room * 4
        assert done < 16 or cache.nbytes < rectangle
    # slices of a longer tensor would keep it all alive
    assert all(
        each.untyped_storage().nbytes() == each.nbytes for layer in cache.layers for each in layer.stream
    )


@pytest.mark.parametrize("static", [False, True])
def test_generate_goes_through_it(static):
    model, other = duo("llama")
    prompt = torch.as_tensor(ids_of(30))[None]
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    full = np.ones((2, 2), dtype=bool)

    def cache(heads):
        if static:
            return StaticDuoCache(other, heads, SINK, RECENT, max_length=64, max_chunk=30)
        return DuoCache(other, heads, SINK, RECENT)

    def generated(of, past):
        return of.generate(prompt, attention_mask=torch.ones_like(prompt), past_key_values=past, **settings)

    assert torch.equal(generated(other, cache(full)), generated(model, DynamicCache(config=model.config)))
    heads = some_heads(2, 2)
    out = generated(other, cache(heads))[0]
    stream = visible(len(out), SINK, RECENT, list(range(30, len(out))))
    wanted = masked_logits(model, out, heads, stream)[29:-1].argmax(-1)
    assert torch.equal(out[30:], wanted)


def test_batches_and_beams_go_through_it():
    _, other = duo("llama")
    heads = some_heads(2, 2)
    rows = torch.from_numpy(np.stack([models.tokens(20, seed) for seed in range(3)]))
    with torch.no_grad():
        together = other(input_ids=rows, past_key_values=DuoCache(other, heads, SINK, RECENT)).logits
    for row, logits in zip(rows, together, strict=True):
        assert distance(read(other, row, DuoCache(other, heads, SINK, RECENT), []), logits) < EXACT
    settings = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(rows)
    full = np.ones((2, 2), dtype=bool)
    ours = other.generate(rows, attention_mask=mask, past_key_values=DuoCache(other, full), **settings)
    assert torch.equal(ours, models.model("llama").generate(rows, attention_mask=mask, **settings))


def test_a_cache_can_be_used_again():
    _, other = duo("llama")
    cache = DuoCache(other, some_heads(2, 2), SINK, RECENT)
    first = read(other, ids_of(), cache, [20])
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(read(other, ids_of(), cache, [20]), first)


def test_the_static_variant_gives_the_same_in_buffers_of_fixed_size():
    _, other = duo("llama")
    heads = some_heads(2, 2)
    static = StaticDuoCache(other, heads, SINK, RECENT, max_length=LENGTH, max_chunk=20)
    blocks = [20, 21, 22, 30]
    wanted = read(other, ids_of(), DuoCache(other, heads, SINK, RECENT), blocks)
    assert distance(read(other, ids_of(), static, blocks), wanted) < EXACT
    full, streaming = int(heads.sum()), int((~heads).sum())
    size = 2 * 4 * 16 * (LENGTH * full + (SINK + RECENT + 20) * streaming)
    assert static.nbytes == size
    places = held(static)
    static.clear()
    assert distance(read(other, ids_of(), static, blocks), wanted) < EXACT
    assert held(static) == places
    assert static.nbytes == size


def held(static):
    return [each.held.data_ptr() for layer in static.layers for each in (*layer.full, *layer.stream)]


def test_in_four_bits_it_holds_an_eighth_and_stays_near():
    _, other = duo("llama")
    heads, sizes = some_heads(2, 2), {"max_length": LENGTH, "max_chunk": 20}
    plain = StaticDuoCache(other, heads, SINK, RECENT, **sizes)
    small = StaticDuoCache(other, heads, SINK, RECENT, **sizes, group=16)
    wanted = read(other, ids_of(), plain, [20, 30])
    found = read(other, ids_of(), small, [20, 30])
    # 16 float32 channels: 64 bytes become 8, and 4 for scale and zero point
    assert small.nbytes * 64 == plain.nbytes * 12
    error = float((found - wanted).norm() / wanted.norm())
    assert 1e-3 < error < 0.4
    with pytest.raises(InputError, match="group is 6"):
        read(other, ids_of(), StaticDuoCache(other, heads, SINK, RECENT, **sizes, group=6), [20])


def test_static_put_compress_and_evict():
    _, other = duo("llama")
    heads = np.array([[True, False], [True, False]])
    cache = StaticDuoCache(other, heads, 2, 3, max_length=20, max_chunk=8)
    keys = torch.arange(2 * 20 * 16, dtype=torch.float32).view(1, 2, 20, 16)

    def put(begin, end):
        for layer in range(2):
            found = cache.put(layer, keys[:, :, begin:end], -keys[:, :, begin:end])
        return found

    (full, _), (stream, values) = put(0, 8)
    assert torch.equal(full, keys[:, :1, :8])
    assert torch.equal(stream, keys[:, 1:, :8])  # attends to all, and is cut afterwards
    assert torch.equal(values, -stream)
    (full, _), (stream, _) = put(8, 9)
    assert torch.equal(stream[0, 0], keys[0, 1, [0, 1, 5, 6, 7, 8]])
    cache.evict_last(1)  # not cut since: exact
    (full, _), (stream, _) = put(9, 10)
    assert torch.equal(full[0, 0], keys[0, 0, [0, 1, 2, 3, 4, 5, 6, 7, 9]])
    assert torch.equal(stream[0, 0], keys[0, 1, [0, 1, 5, 6, 7, 9]])
    cache.compress()
    cache.evict_last(1)  # cut: what token 9 has pushed out is gone
    (_, _), (stream, _) = put(10, 11)
    assert torch.equal(stream[0, 0], keys[0, 1, [0, 1, 6, 7, 10]])


def test_what_it_cannot_do_is_refused():
    model, other = duo("llama")
    heads = some_heads(2, 2)
    with pytest.raises(ModelUnsupportedError, match="set_attn_implementation"):
        DuoCache(model, heads)
    with pytest.raises(InputError, match="2 layers of 2 heads"):
        DuoCache(other, np.ones((2, 4), dtype=bool))
    with pytest.raises(InputError, match="prefill_mode"):
        DuoCache(other, heads, prefill_mode="sparse")
    with pytest.raises(InputError, match="grow"):
        DuoCache(other, heads, step=0)
    with pytest.raises(InputError, match="max_chunk"):
        StaticDuoCache(other, heads, max_length=4, max_chunk=8)
    rows = torch.as_tensor(ids_of(6))[None]
    with pytest.raises(InputError, match="without padding"):
        other(
            input_ids=rows,
            attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1]]),
            past_key_values=DuoCache(other, heads),
        )
    with pytest.raises(InputError, match="4D mask"):
        other(input_ids=rows, attention_mask=causal(6)[None, None], past_key_values=DuoCache(other, heads))
    with pytest.raises(CapacityError, match="129 tokens exceed the 128"):
        read(other, ids_of(129), DuoCache(other, heads), [])
    with pytest.raises(CapacityError, match="21 tokens exceed the 20"):
        read(other, ids_of(21), StaticDuoCache(other, heads, max_length=20, max_chunk=20), [10])
    with pytest.raises(CapacityError, match="buffers take 8"):
        read(other, ids_of(9), StaticDuoCache(other, heads, max_length=20, max_chunk=8), [])
    cache = StaticDuoCache(other, heads, max_length=20, max_chunk=8)
    with pytest.raises(InputError, match="no beam search"):
        cache.reorder_cache(torch.tensor([0]))
    with pytest.raises(ModelUnsupportedError):
        DuoCache(models.mpt(), heads)


def test_without_the_cache_its_attention_is_the_ordinary_one():
    model, other = duo("llama")
    ids = torch.as_tensor(ids_of())[None]
    with torch.no_grad():
        assert distance(other(ids).logits, model(ids).logits) < EXACT
