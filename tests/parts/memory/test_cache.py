"""The cache against an independent loop over raw keys, on real architecture classes; and the toys that must differ."""

import numpy as np
import pytest
import torch
from tests.parts import models
from transformers import DynamicCache, GPT2Config, LlamaConfig

from unending.core.errors import CapacityError, InputError, ModelUnsupportedError
from unending.parts.backbones.rotary import rotaries
from unending.parts.backbones.tiny import tiny_model
from unending.parts.memory import MemoryCache, SinksAndWindow, empty, forward, streaming_losses
from unending.parts.memory.naive import naive_logits, naive_losses
from unending.systems.language import StreamingCache

SINKS, WINDOW = 4, 12
FRAMES = ["cache", "absolute"]


def stream(model, ids, cache, chunk=1):
    blocks = [torch.from_numpy(ids[start : start + chunk])[None] for start in range(0, len(ids), chunk)]
    return torch.cat([forward(model, block, cache)[0] for block in blocks])


def difference(left, right):
    return float((left - right).abs().max())


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", sorted(models.CONFIGS))
def test_token_by_token_equals_the_raw_key_loop(name, frame):
    model, ids = models.model(name), models.tokens(60)
    expected = naive_logits(model, ids, SinksAndWindow(SINKS, WINDOW))
    found = stream(model, ids, StreamingCache(model, SINKS, WINDOW, frame))
    assert difference(found, expected) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("chunk", [2, 5, 16, 40])
def test_blocks_equal_the_raw_key_loop_in_blocks(chunk, frame):
    model, ids = models.model("llama"), models.tokens(100)
    expected = naive_logits(model, ids, SinksAndWindow(SINKS, WINDOW), chunk)
    found = stream(model, ids, StreamingCache(model, SINKS, WINDOW, frame), chunk)
    assert difference(found, expected) < 1e-5 * float(expected.abs().max())


def test_a_block_with_eviction_inside_is_not_token_by_token():
    """The documented deviation of chunked prefill."""
    model, ids = models.model("llama"), models.tokens(60)
    one = stream(model, ids, StreamingCache(model, SINKS, WINDOW, "cache"), 1)
    many = stream(model, ids, StreamingCache(model, SINKS, WINDOW, "cache"), 10)
    assert difference(one, many) > 1e-2


@pytest.mark.parametrize("frame", FRAMES)
def test_dense_until_the_cache_is_full(frame):
    model, ids = models.model("llama"), models.tokens(SINKS + WINDOW + 4)
    with torch.no_grad():
        dense = model(torch.from_numpy(ids)[None]).logits[0]
    found = stream(model, ids, StreamingCache(model, SINKS, WINDOW, frame))
    full = SINKS + WINDOW + 1
    assert difference(found[:full], dense[:full]) < 1e-5 * float(dense.abs().max())
    assert difference(found[full:], dense[full:]) > 1e-2


class _StalePositions(MemoryCache):
    """The toy: keys stay where they were rotated; queries stand at the index in the cache."""

    def _enter(self, keys, rotary):
        return keys

    def _leave(self, keys, rotary, plan):
        return keys


class _AbsoluteGaps(MemoryCache):
    """The toy: absolute positions, and the gap behind the sinks stays."""

    def _leave(self, keys, rotary, plan):
        return keys


class _EvictsBefore(SinksAndWindow):
    """The toy that makes room before it attends: one key too few."""

    @property
    def budget(self):
        return super().budget - 1


class _SinksInsideWindow(SinksAndWindow):
    """The toy that counts the sinks as part of the window."""

    @property
    def budget(self):
        return self.window_size


@pytest.mark.parametrize(
    ("toy", "retention", "frame"),
    [
        (_StalePositions, SinksAndWindow, "cache"),
        (_AbsoluteGaps, SinksAndWindow, "absolute"),
        (MemoryCache, _EvictsBefore, "cache"),
        (MemoryCache, _SinksInsideWindow, "cache"),
    ],
)
def test_the_toys_differ(toy, retention, frame):
    model, ids = models.model("llama"), models.tokens(80)
    expected = naive_logits(model, ids, SinksAndWindow(SINKS, WINDOW))
    found = stream(model, ids, toy(rotaries(model), retention(SINKS, WINDOW), frame))
    assert difference(found, expected) > 1e-2


def test_layers_that_evict_differently_are_the_toy_too():
    """All layers must drop the same slots: with one layer off by one the logits move."""
    model, ids = models.model("llama"), models.tokens(60)
    expected = naive_logits(model, ids, SinksAndWindow(SINKS, WINDOW))
    cache = StreamingCache(model, SINKS, WINDOW, "cache")
    out = []
    for token in ids:
        out.append(forward(model, torch.tensor([[token]]), cache)[0])
        if cache.count == SINKS + WINDOW:
            # The second layer's window, one token late.
            cache.keys[1] = cache.keys[1].roll(1, dims=2)
    assert difference(torch.cat(out), expected) > 1e-2


def test_mpt_bias_follows_the_order_of_the_kept_keys():
    model, ids = models.mpt(), models.tokens(60)
    expected = mpt_by_hand(model, ids, SinksAndWindow(SINKS, WINDOW))
    for frame in FRAMES:
        found = stream(model, ids, StreamingCache(model, SINKS, WINDOW, frame))
        assert difference(found, expected) < 1e-5 * float(expected.abs().max())


@torch.no_grad()
def mpt_by_hand(model, ids, retention):
    """MPT from its weights: lists of keys, the ALiBi slope times the distance in slots."""
    inner = model.transformer
    heads, lists = inner.num_heads, [([], []) for _ in inner.blocks]
    slopes = torch.tensor([2.0 ** (-8 * (head + 1) / heads) for head in range(heads)])
    out = []
    for token in ids:
        hidden = inner.wte(torch.tensor([[token]]))
        for block, (keys, values) in zip(inner.blocks, lists, strict=True):
            q, k, v = block.attn.Wqkv(block.norm_1(hidden)).view(3, heads, -1)
            keys.append(k)
            values.append(v)
            distance = torch.arange(len(keys)) - (len(keys) - 1)
            scores = torch.einsum("hd,nhd->hn", q, torch.stack(keys)) / q.shape[-1] ** 0.5
            weights = (scores + slopes[:, None] * distance).softmax(-1)
            mixed = torch.einsum("hn,nhd->hd", weights, torch.stack(values)).reshape(1, 1, -1)
            hidden = hidden + block.attn.out_proj(mixed)
            hidden = block.ffn(block.norm_2(hidden), hidden)
            kept = retention.keep(len(keys))
            keys[:], values[:] = [keys[i] for i in kept], [values[i] for i in kept]
        out.append(model.lm_head(inner.norm_f(hidden))[0])
    return torch.cat(out)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_batch_equals_its_rows(frame):
    model = models.model("llama")
    rows = [models.tokens(50, seed) for seed in range(3)]
    together = StreamingCache(model, SINKS, WINDOW, frame)
    batch = torch.from_numpy(np.stack(rows))
    found = torch.cat([forward(model, batch[:, i : i + 1], together) for i in range(50)], dim=1)
    for row, ids in enumerate(rows):
        alone = stream(model, ids, StreamingCache(model, SINKS, WINDOW, frame))
        assert difference(found[row], alone) < 1e-4


def padded_batch(lengths, prompt):
    ids = [models.tokens(length, seed) for seed, length in enumerate(lengths)]
    batch = torch.stack(
        [torch.from_numpy(np.concatenate([np.zeros(prompt - len(row), np.int64), row])) for row in ids]
    )
    mask = (torch.arange(prompt)[None] >= prompt - torch.tensor(lengths)[:, None]).long()
    return ids, batch, mask


def test_left_padded_rows_generate_as_they_do_alone():
    model = models.model("llama")
    ids, batch, mask = padded_batch([10, 7, 3], 10)
    settings = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cache = StreamingCache(model, SINKS, WINDOW, attention_mask=mask)
    together = model.generate(batch, attention_mask=mask, past_key_values=cache, **settings)
    for row, prompt in enumerate(ids):
        alone = model.generate(
            torch.from_numpy(prompt)[None], past_key_values=StreamingCache(model, SINKS, WINDOW), **settings
        )
        assert together[row, -40:].tolist() == alone[0, -40:].tolist()


def test_left_padding_that_is_not_announced_is_the_toy():
    model = models.model("llama")
    ids, batch, mask = padded_batch([10, 7, 3], 10)
    settings = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    toy = model.generate(
        batch, attention_mask=mask, past_key_values=StreamingCache(model, SINKS, WINDOW), **settings
    )
    alone = model.generate(
        torch.from_numpy(ids[2])[None], past_key_values=StreamingCache(model, SINKS, WINDOW), **settings
    )
    assert toy[2, -40:].tolist() != alone[0, -40:].tolist()


@pytest.mark.parametrize("frame", FRAMES)
def test_memory_is_constant(frame):
    model, ids = models.model("llama"), models.tokens(200)
    cache = StreamingCache(model, SINKS, WINDOW, frame)
    forward(model, torch.from_numpy(ids[:1])[None], cache)
    held = [tensor.untyped_storage().nbytes() for tensor in (*cache.keys, *cache.values)]
    for start in range(1, 200, 7):
        forward(model, torch.from_numpy(ids[start : start + 7])[None], cache)
        assert [tensor.untyped_storage().nbytes() for tensor in (*cache.keys, *cache.values)] == held
    assert cache.count == SINKS + WINDOW
    assert cache.seen_tokens == 200


def test_kept_positions_are_the_sinks_and_the_last():
    model = models.model("llama")
    cache = StreamingCache(model, 2, 3)
    stream(model, models.tokens(20), cache, 4)
    assert cache.kept_positions.tolist() == [[0, 1, 17, 18, 19]]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_turn_after_make_room_runs_dense(frame):
    """Upstream's chat: room is made before the turn, nothing is evicted in it."""
    model, ids = models.model("llama"), models.tokens(60)
    cache = StreamingCache(model, SINKS, WINDOW, frame)
    stream(model, ids[:50], cache)
    cache.make_room(8)
    assert cache.count == SINKS + WINDOW - 8
    positions = cache.kept_positions[0].tolist()
    found = stream(model, ids[50:58], cache)
    assert cache.kept_positions[0, : len(positions)].tolist() == positions
    whole = StreamingCache(model, SINKS, WINDOW, frame)
    stream(model, ids[:50], whole)
    whole.make_room(8)
    assert difference(found, stream(model, ids[50:58], whole, 8)) < 1e-4


def test_frames_agree_after_evict_range():
    model, ids = models.model("llama"), models.tokens(40)
    out = []
    for frame in FRAMES:
        cache = StreamingCache(model, SINKS, WINDOW, frame)
        stream(model, ids[:20], cache)
        cache.evict_range(6, 9)
        assert cache.count == SINKS + WINDOW - 3
        out.append(stream(model, ids[20:], cache))
    assert difference(*out) < 1e-4


def test_evict_range_outside_is_refused():
    with pytest.raises(InputError, match="outside"):
        StreamingCache(models.model("llama"), 2, 3).evict_range(0, 1)


@pytest.mark.parametrize("chunk", [1, 3, 6, 30])
@pytest.mark.parametrize("frame", FRAMES)
def test_a_view_never_writes_what_its_state_holds(frame, chunk):
    """Dropping the view is undo, also after several passes and passes larger than the spare room."""
    model, ids = models.model("llama"), models.tokens(120)
    retention, layers = SinksAndWindow(SINKS, WINDOW), rotaries(model)
    memory = empty(((1, 2, 16),) * 2, retention.budget + 6, torch.float32, torch.device("cpu"))
    for start in range(0, 40, 4):
        view = MemoryCache.view(memory, layers, retention, frame)
        forward(model, torch.from_numpy(ids[start : start + 4])[None], view)
        memory = view.memory()
    held = [
        tensor[:, :, memory.slots[0, : memory.count]].clone() for tensor in (*memory.keys, *memory.values)
    ]
    first = stream(model, ids[40:100], MemoryCache.view(memory, layers, retention, frame), chunk)
    now = [tensor[:, :, memory.slots[0, : memory.count]] for tensor in (*memory.keys, *memory.values)]
    assert all(torch.equal(*pair) for pair in zip(held, now, strict=True))
    again = stream(model, ids[40:100], MemoryCache.view(memory, layers, retention, frame), chunk)
    assert torch.equal(first, again)


def test_a_view_equals_a_cache_of_its_own():
    model, ids = models.model("llama"), models.tokens(90)
    retention, layers = SinksAndWindow(SINKS, WINDOW), rotaries(model)
    memory = empty(((1, 2, 16),) * 2, retention.budget + 4, torch.float32, torch.device("cpu"))
    out = []
    for start in range(0, 90, 9):
        view = MemoryCache.view(memory, layers, retention, "cache")
        out.append(stream(model, ids[start : start + 9], view, 3))
        memory = view.memory()
    expected = stream(model, ids, StreamingCache(model, SINKS, WINDOW, "cache"), 3)
    assert difference(torch.cat(out), expected) < 1e-5


def test_a_failed_pass_leaves_the_cache_as_it_was():
    model, ids = models.model("llama"), models.tokens(60)
    cache = StreamingCache(model, SINKS, WINDOW, "cache")
    clean = StreamingCache(model, SINKS, WINDOW, "cache")
    for target in (cache, clean):
        stream(model, ids[:40], target)

    def fail(*_):
        raise RuntimeError("in the middle")

    hook = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        forward(model, torch.from_numpy(ids[40:41])[None], cache)
    hook.remove()
    assert cache.seen_tokens == 40
    assert difference(stream(model, ids[40:], cache), stream(model, ids[40:], clean)) == 0


@pytest.mark.parametrize("frame", FRAMES)
def test_half_precision_does_not_drift(frame):
    """Keys are turned from what was stored, never in place: the error does not grow with the stream."""
    model = models.model("llama").to(torch.bfloat16)
    exact, ids = models.model("llama"), models.tokens(400)
    half = stream(model, ids, StreamingCache(model, SINKS, WINDOW, frame))
    whole = naive_logits(exact, ids, SinksAndWindow(SINKS, WINDOW))
    errors = (half - whole).abs().mean(dim=-1)
    assert float(errors[-100:].mean()) < 1.5 * float(errors[50:150].mean())


def test_too_much_for_the_positions_is_refused():
    model = models.model("llama")
    with pytest.raises(CapacityError, match="129 positions"):
        StreamingCache(model, 4, 124)
    cache = StreamingCache(model, 4, 100)
    stream(model, models.tokens(104), cache, 52)
    with pytest.raises(CapacityError, match="prefill_chunk_size=24"):
        forward(model, torch.from_numpy(models.tokens(25))[None], cache)
    assert cache.count == 104


def test_a_sliding_window_limits_what_can_be_kept():
    with pytest.raises(CapacityError, match="at most 64"):
        StreamingCache(models.model("mistral-sliding"), 4, 60)


def test_learned_positions_are_refused():
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    with pytest.raises(ModelUnsupportedError, match="learned absolute positions"):
        StreamingCache(tiny_model(config))


def test_frequencies_that_depend_on_the_maximum_are_refused_in_the_absolute_frame():
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    )
    model, ids = tiny_model(config), models.tokens(60)
    with pytest.raises(ModelUnsupportedError, match='frame="cache"'):
        StreamingCache(model, 4, 12, "absolute")
    expected = naive_logits(model, ids, SinksAndWindow(4, 12))
    assert difference(stream(model, ids, StreamingCache(model, 4, 12, "cache")), expected) < 1e-4


def test_interleaved_rotation_is_refused():
    from transformers import CohereConfig

    config = CohereConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4
    )
    with pytest.raises(ModelUnsupportedError, match="halves"):
        StreamingCache(tiny_model(config))


def test_an_unknown_frame_is_refused():
    with pytest.raises(InputError, match="cache, absolute"):
        StreamingCache(models.model("llama"), frame="slot")


def test_the_absolute_frame_warns_where_it_loses_precision():
    model = models.model("llama")
    cache = StreamingCache(model, SINKS, WINDOW)
    stream(model, models.tokens(20), cache)
    cache.seen = 100_000
    with pytest.warns(UserWarning, match="loses precision"):
        forward(model, torch.tensor([[5]]), cache)


@pytest.mark.parametrize("chunk", [1, 8])
def test_losses_equal_the_reference(chunk):
    model, ids = models.model("llama"), models.tokens(70)
    cache = StreamingCache(model, SINKS, WINDOW, "cache")
    found = torch.cat(list(streaming_losses(model, torch.from_numpy(ids)[None], cache, chunk)), dim=1)[0]
    expected = naive_losses(model, ids, SinksAndWindow(SINKS, WINDOW), chunk)
    assert found.shape == (69,)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_losses_work_with_the_dense_cache_of_transformers():
    model, ids = models.model("llama"), torch.from_numpy(models.tokens(40))[None]
    found = torch.cat(list(streaming_losses(model, ids, DynamicCache(config=model.config), 8)), dim=1)
    with torch.no_grad():
        expected = model(ids, labels=ids).loss
    assert abs(float(found.mean() - expected)) < 1e-4


def test_reset_forgets():
    model, ids = models.model("llama"), models.tokens(40)
    cache = StreamingCache(model, SINKS, WINDOW)
    first = stream(model, ids, cache)
    cache.reset()
    assert cache.seen_tokens == 0
    assert torch.equal(stream(model, ids, cache), first)
