"""Generation through `generate` and through our own loops."""

from itertools import islice

import pytest
import torch
from tests.parts import models

from unending.core.errors import NumericalError
from unending.parts.memory import decode_in_cache_frame, forward, stream_generate
from unending.systems.language import StreamingCache

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3", "neox-partial"]
GREEDY = {"max_new_tokens": 50, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def by_hand(model, prompt, count):
    """Greedy decoding with the cache frame, token by token after the prompt."""
    cache = StreamingCache(model, 4, 12, "cache")
    logits = forward(model, prompt, cache)[0, -1]
    out = []
    for _ in range(count):
        out.append(int(logits.argmax()))
        logits = forward(model, torch.tensor([[out[-1]]]), cache)[0, -1]
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_takes_the_cache_as_it_is(name):
    model = models.model(name)
    prompt = torch.from_numpy(models.tokens(9))[None]
    out = model.generate(prompt, past_key_values=StreamingCache(model, 4, 12), **GREEDY)
    assert out[0, 9:].tolist() == by_hand(model, prompt, 50)


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_with_the_loop_for_the_cache_frame(name):
    model = models.model(name)
    prompt = torch.from_numpy(models.tokens(9))[None]
    cache = StreamingCache(model, 4, 12, "cache")
    out = model.generate(prompt, past_key_values=cache, custom_generate=decode_in_cache_frame, **GREEDY)
    assert out[0, 9:].tolist() == by_hand(model, prompt, 50)


def test_plain_generate_in_the_cache_frame_is_the_toy():
    """`generate` passes growing position ids: the reason why the default frame is the absolute one."""
    model = models.model("llama")
    prompt = torch.from_numpy(models.tokens(9))[None]
    out = model.generate(prompt, past_key_values=StreamingCache(model, 4, 12, "cache"), **GREEDY)
    assert out[0, 9:].tolist() != by_hand(model, prompt, 50)


def test_generate_goes_on_in_a_second_turn():
    model = models.model("llama")
    cache = StreamingCache(model, 4, 40)
    first = model.generate(torch.from_numpy(models.tokens(9))[None], past_key_values=cache, **GREEDY)
    more = torch.cat([first, torch.from_numpy(models.tokens(5, seed=1))[None]], dim=1)
    second = model.generate(more, past_key_values=cache, **GREEDY)

    other = StreamingCache(model, 4, 40, "cache")
    for token in more[0, :-1]:
        forward(model, token.reshape(1, 1), other)
    logits = forward(model, more[:, -1:], other)[0, -1]
    expected = []
    for _ in range(50):
        expected.append(int(logits.argmax()))
        logits = forward(model, torch.tensor([[expected[-1]]]), other)[0, -1]
    # The last token of a turn is not in the cache yet, so the second prompt is one block of it and the new ones.
    assert second[0, more.shape[1] :].tolist()[:10] == expected[:10]


def test_long_prompts_go_in_pieces():
    model = models.model("llama")
    prompt = torch.from_numpy(models.tokens(400))[None]
    out = model.generate(
        prompt, past_key_values=StreamingCache(model, 4, 12), prefill_chunk_size=50, **GREEDY
    )
    cache = StreamingCache(model, 4, 12, "cache")
    for piece in prompt.split(50, dim=1):
        logits = forward(model, piece, cache)[0, -1]
    expected = []
    for _ in range(50):
        expected.append(int(logits.argmax()))
        logits = forward(model, torch.tensor([[expected[-1]]]), cache)[0, -1]
    assert out[0, 400:].tolist() == expected


def test_beam_search_reorders_the_rows():
    model = models.model("llama")
    prompt = torch.from_numpy(models.tokens(9))[None]
    settings = {**GREEDY, "max_new_tokens": 5, "num_beams": 3}
    with_ours = model.generate(prompt, past_key_values=StreamingCache(model, 4, 40), **settings)
    assert torch.equal(with_ours, model.generate(prompt, **settings))


def test_sampling_and_stopping_in_the_cache_frame_loop():
    model = models.model("llama")
    prompt = torch.from_numpy(models.tokens(9))[None]
    greedy = by_hand(model, prompt, 20)
    stop = greedy[6]
    cache = StreamingCache(model, 4, 12, "cache")
    out = model.generate(
        prompt,
        past_key_values=cache,
        custom_generate=decode_in_cache_frame,
        **{**GREEDY, "eos_token_id": stop},
    )
    assert out[0, 9:].tolist() == greedy[: greedy.index(stop) + 1]


def test_padded_batches_are_refused_by_the_cache_frame_loop():
    model = models.model("llama")
    batch = torch.from_numpy(models.tokens(8)).reshape(2, 4)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    cache = StreamingCache(model, 4, 12, "cache")
    with pytest.raises(ValueError, match="equal length"):
        model.generate(
            batch, attention_mask=mask, past_key_values=cache, custom_generate=decode_in_cache_frame, **GREEDY
        )


def test_endless_generation_holds_its_memory():
    model = models.model("llama")
    cache = StreamingCache(model, 4, 12, "cache")
    tokens = list(islice(stream_generate(model, models.tokens(30), cache, chunk=7), 300))
    assert len(tokens) == 300
    assert cache.seen_tokens == 30 + 299
    assert cache.count == 16


def test_endless_generation_needs_a_beginning():
    model = models.model("llama")
    with pytest.raises(ValueError, match="no token"):
        next(stream_generate(model, [], StreamingCache(model, 4, 12, "cache")))


def test_logits_that_are_no_numbers_stop_the_stream():
    model = models.model("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(NumericalError, match="NaN"):
        forward(model, torch.tensor([[1, 2]]), StreamingCache(model, 4, 12))
