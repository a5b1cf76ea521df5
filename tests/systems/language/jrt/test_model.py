"""JRTForCausalLM: state against full forward, padding, generation, checkpoints, the layouts of the paper."""

import pytest
import torch
from tests.systems.language.jrt.tiny import SHAPE, model, tokens
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM

from unending.core.errors import InputError
from unending.parts import backbones
from unending.parts.backbones import language
from unending.systems.language.jrt import JRTCache, JRTConfig, JRTForCausalLM
from unending.systems.language.jrt.naive import naive_logits

EXACT = {"atol": 1e-10, "rtol": 1e-10}


@pytest.mark.parametrize("enc_length", [0, 8, 30])
def test_full_forward_is_the_reference(enc_length):
    net, ids = model(enc_length=enc_length), tokens(2, 30)
    wanted = naive_logits(net, ids, min(enc_length, 30))
    assert_close(net(ids).logits, wanted, **EXACT)
    assert_close(net(ids, use_cache=True).logits, wanted, **EXACT)


@pytest.mark.parametrize("n", [8, 9, 17])
def test_prefill_and_decoding_are_the_full_forward(n):
    net, ids = model(), tokens(2, 26)
    full, cache = net(ids).logits, JRTCache()
    begun = net(ids[:, :n], past_key_values=cache).logits
    assert_close(begun, full[:, :n], **EXACT)
    memory = cache.memory
    for t in range(n, 26):
        hidden, memory = net.model.step(ids[:, t], memory)
        assert_close(net.lm_head(hidden), full[:, t], **EXACT)
        once = net(ids[:, t : t + 1], past_key_values=cache).logits
        assert_close(once[:, 0], full[:, t], **EXACT)
    assert cache.get_seq_length() == 26


def test_a_prefix_read_in_two_calls_is_another_prefix():
    """Why prefill must be one call."""
    net, ids, cache = model(), tokens(1, 20), JRTCache()
    net(ids[:, :4], past_key_values=cache)
    assert (net(ids[:, 4:], past_key_values=cache).logits - net(ids).logits[:, 4:]).abs().max() > 1e-3


def test_non_causality_of_the_whole_model():
    net, ids = model(), tokens(1, 20)
    inside, behind = ids.clone(), ids.clone()
    inside[:, 6] = (ids[:, 6] + 1) % 60
    behind[:, 12] = (ids[:, 12] + 1) % 60
    assert (net(inside).logits - net(ids).logits)[:, :6].abs().max() > 1e-6
    assert_close(net(behind).logits[:, :12], net(ids).logits[:, :12], **EXACT)


def test_left_padded_rows_are_the_rows_alone():
    net, lengths = model(), (3, 8, 5)
    rows = [tokens(1, n, seed=n) for n in lengths]
    padded = torch.cat([torch.nn.functional.pad(row, (8 - row.shape[1], 0), value=62) for row in rows])
    mask = torch.arange(8)[None] >= 8 - torch.tensor(lengths)[:, None]
    cache = JRTCache()
    together = net(padded, attention_mask=mask.int(), past_key_values=cache).logits
    assert_close(net(padded, attention_mask=mask.int()).logits[:, -1], together[:, -1], **EXACT)
    more = tokens(3, 6, seed=9)
    after = net(more, past_key_values=cache).logits
    for index, row in enumerate(rows):
        whole = JRTCache()
        alone = net(row, past_key_values=whole).logits
        assert_close(together[index, 8 - row.shape[1] :], alone[0], **EXACT)
        rest = net(more[index : index + 1], past_key_values=whole).logits
        assert_close(after[index], rest[0], **EXACT)
    upstream = model(mask_after_feature_map=False)
    assert (upstream(padded, attention_mask=mask.int()).logits[0, -1] - together[0, -1]).abs().max() > 1e-4


def test_bytes_of_the_memory_do_not_depend_on_the_prompt():
    net = model()
    sizes = set()
    for n in (1, 8, 30, 300):
        cache = net(tokens(1, n), use_cache=True).past_key_values
        sizes.add(cache.nbytes)
        cache.memory = net.model.step(tokens(1, 1)[:, 0], cache.memory)[1]
        sizes.add(cache.nbytes)
    assert sizes == {net.model.empty().nbytes}


def test_generate_is_greedy_decoding_at_constant_size():
    net, ids = model(torch.float32), tokens(2, 11)
    cache = JRTCache()
    out = net.generate(ids, max_new_tokens=12, do_sample=False, past_key_values=cache)
    wanted = ids
    for _ in range(12):
        wanted = torch.cat([wanted, net(wanted).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, wanted)
    assert cache.nbytes == 2 * net.model.empty().nbytes
    assert torch.equal(net.generate(ids, max_new_tokens=12, do_sample=False), wanted)
    assert torch.equal(net.generate(ids, max_new_tokens=12, do_sample=False, use_cache=False), wanted)
    beams = net.generate(ids, max_new_tokens=5, num_beams=3, do_sample=False)
    uncached = net.generate(ids, max_new_tokens=5, num_beams=3, do_sample=False, use_cache=False)
    assert torch.equal(beams, uncached)


def test_generate_with_padded_rows():
    net, row = model(torch.float32), tokens(1, 5)
    padded = torch.nn.functional.pad(row, (3, 0), value=62)
    mask = (torch.arange(8)[None] >= 3).int()
    out = net.generate(padded, attention_mask=mask, max_new_tokens=8, do_sample=False)
    alone = net.generate(row, max_new_tokens=8, do_sample=False)
    assert torch.equal(out[:, 8:], alone[:, 5:])


def test_a_checkpoint_is_the_model(tmp_path):
    net, ids = model(torch.float32, enc_length=6, window=7), tokens(2, 20)
    net.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is JRTForCausalLM
    assert torch.equal(again(ids).logits, net(ids).logits)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.to_dict() == again.config.to_dict()
    assert (config.enc_length, config.window, config.linear_layers) == (6, 7, [1, 3])


def test_backbones_load_a_checkpoint_folder(tmp_path):
    net, ids = model(torch.float32), tokens(1, 20)
    net.save_pretrained(tmp_path)
    try:
        backbone = backbones.load(str(tmp_path))
        assert backbone.vocabulary == 64
        assert torch.equal(backbone.module(ids).logits, net(ids).logits)
        assert backbone.digest
    finally:
        language._loaded.pop((str(tmp_path), "float32"))


@pytest.mark.parametrize(
    ("config", "layers", "linear", "window", "parameters"),
    [
        (JRTConfig.jrt_360m(), 26, [1, 6, 11, 16, 21], [2, 7, 12, 17, 22], 356_611_072),
        (JRTConfig.jrt_1b(), 36, [1, 6, 11, 16, 21, 27, 33], [2, 7, 12, 17, 22, 28, 34], 1_375_222_016),
    ],
)
def test_the_layouts_of_the_paper(config, layers, linear, window, parameters):
    with torch.device("meta"):
        net = JRTForCausalLM(config)
    kinds = [type(layer.mixer).__name__ for layer in net.model.layers]
    assert len(kinds) == layers
    assert [i for i, kind in enumerate(kinds) if kind == "PrefixLinearAttention"] == linear
    assert [i for i, kind in enumerate(kinds) if kind == "SlidingAttention"] == window
    assert sum(each.numel() for each in net.parameters()) == parameters
    width, heads = config.hidden_size, 16
    assert net.model.layers[1].mixer.feature_map.size == 273
    memory = net.model.empty()
    dim = width // heads
    assert memory.layers[1].S.shape == (1, heads, 273, dim)
    assert memory.layers[2].keys.shape == (1, heads, 256, dim)
    assert memory.layers[0].tail.shape == (1, 2, 2 * width)


def test_senseless_configurations_are_refused():
    for changes, message in (
        ({"window_layers": (1,)}, "once at most"),
        ({"linear_layers": (9,)}, "once at most"),
        ({"num_attention_heads": 5}, "heads of an even width"),
        ({"num_attention_heads": 8}, "heads of an even width"),
        ({"window": 0}, "1 or more"),
        ({"enc_length": -1}, "0 or more"),
    ):
        with pytest.raises(InputError, match=message):
            JRTConfig(**{**SHAPE, **changes})


def test_without_mlp_and_untied():
    net, ids = model(intermediate_size=0, tie_word_embeddings=False), tokens(1, 12)
    assert all(layer.mlp is None for layer in net.model.layers)
    assert net.lm_head.weight is not net.model.embed_tokens.weight
    assert_close(net(ids).logits, naive_logits(net, ids, 8), **EXACT)


def test_training_under_autocast_runs():
    net, ids = model(torch.float32), tokens(2, 21)
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(ids[:, :-1], labels=ids).loss
        cached = net(ids, use_cache=True)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert cached.past_key_values.memory.layers[1].S.dtype == torch.float32
