"""Source and target in one memory: reading and writing step by step against one masked forward pass."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from unending.core import fork
from unending.core.errors import CapacityError, InputError, StateError
from unending.laws.equality import state_difference
from unending.parts.backbones.tiny import tiny_model
from unending.parts.memory import DualCache, dual_bytes, forward
from unending.parts.memory.joint import decode_together
from unending.parts.transcript import (
    Transcript,
    collate,
    positions,
    reach_wait_k,
    visible_counts,
)

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
MODELS = {"llama": LlamaConfig(**SIZES), "qwen3": Qwen3Config(**SIZES, head_dim=16)}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    return tiny_model(MODELS[request.param], 1)


def transcript(seed=0):
    rng = np.random.default_rng(seed)
    return Transcript(*(tuple(rng.integers(0, 97, n) for n in rng.integers(1, 5, parts)) for parts in (5, 6)))


def in_one_pass(model, one, reach, phi):
    batch = collate([one], [reach], phi=phi)
    with torch.no_grad():
        logits = model(
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
        ).logits
    return logits[0]


def step(model, cache, ids, form):
    """One forward pass in the form of transformers or of a router."""
    block = torch.as_tensor(ids)[None]
    if form == "router":
        return forward(model, block, cache)[0]
    place = torch.arange(cache.position, cache.position + block.shape[1])[None]
    with torch.no_grad():
        return model(input_ids=block, position_ids=place, past_key_values=cache).logits[0]


@pytest.mark.parametrize("form", ["router", "transformers"])
@pytest.mark.parametrize(("k", "phi"), [(1, 0), (2, 64), (9, 0)])
def test_reading_and_writing_is_the_masked_forward_pass(model, form, k, phi):
    one = transcript(k)
    reach = reach_wait_k(len(one.source), len(one.target), k)
    wanted = in_one_pass(model, one, reach, phi)
    counts = visible_counts(one.source_lengths, one.target_lengths, reach)
    cache, read = DualCache.of(model, 32, 32, phi=phi), []
    segments = list(one.source)
    got = []
    for token, count in zip(one.target_ids, counts, strict=True):
        cache.mode = "read"
        while cache.source_count < count:
            read.append(step(model, cache, segments.pop(0), form))
            cache.end_segment()
        cache.mode = "write"
        got.append(step(model, cache, [token], form))
    assert torch.allclose(torch.cat(got), wanted[len(one.source_ids) :], atol=1e-5)
    # No source row ever saw the target.
    source = torch.cat(read)
    assert torch.allclose(source, wanted[: len(source)], atol=1e-5)


def test_a_toy_that_continues_the_positions_is_elsewhere(model):
    one = transcript()
    reach = reach_wait_k(len(one.source), len(one.target), 9)
    grouped, shifted = in_one_pass(model, one, reach, 0), in_one_pass(model, one, reach, len(one.source_ids))
    n = len(one.source_ids)
    assert (grouped[n:] - shifted[n:]).abs().max() > 1e-3
    # With phi = |S| it is the ordinary causal model.
    with torch.no_grad():
        plain = model(input_ids=torch.as_tensor(one.ids)[None]).logits[0]
    assert torch.allclose(shifted, plain, atol=1e-5)


def test_without_a_mask_transformers_takes_groups_for_packed_sequences(model):
    one = transcript()
    n = len(one.source_ids)
    places = torch.as_tensor(positions(np.full(len(one.target_ids), n), n))[None]
    with torch.no_grad():
        blind = model(input_ids=torch.as_tensor(one.ids)[None], position_ids=places, use_cache=False).logits[
            0
        ]
    reach = np.full(len(one.target), len(one.source))
    assert (blind - in_one_pass(model, one, reach, 0))[n:].abs().max() > 1e-3


def test_writes_see_only_what_is_visible(model):
    """A reader that is ahead does not change a writer whose view is frozen at whole segments."""
    one = transcript()
    behind, ahead = (DualCache.of(model, 32, 32) for _ in range(2))
    for cache, segments in ((behind, one.source[:2]), (ahead, one.source)):
        for segment in segments:
            step(model, cache, segment, "router")
            cache.end_segment()
        cache.mode = "write"
    ahead.visible = ahead.end_of(1)
    ours, theirs = (step(model, cache, one.target_ids, "router") for cache in (ahead, behind))
    assert torch.equal(ours, theirs)
    ahead.visible = None
    ahead.pop_target(len(one.target_ids))
    assert not torch.allclose(step(model, ahead, one.target_ids, "router"), theirs, atol=1e-4)


def test_a_popped_token_was_never_there(model):
    cache = DualCache.of(model, 16, 16)
    step(model, cache, [1, 2, 3], "router")
    cache.mode = "write"
    step(model, cache, [4, 5], "router")
    once = step(model, cache, [6], "router")
    cache.pop_target()
    assert torch.equal(step(model, cache, [6], "router"), once)
    again = DualCache(cache.memory())
    with pytest.raises(StateError, match="0 were written in this step"):
        again.pop_target()


def test_older_states_stand_after_steps_that_were_dropped(model):
    cache = DualCache.of(model, 16, 16)
    step(model, cache, [1, 2, 3], "router")
    cache.end_segment()
    old = cache.memory()
    kept = fork(old)
    view = DualCache(old)
    step(model, view, [7, 8], "router")
    view.mode = "write"
    step(model, view, [9], "router")
    view.clear()
    view.mode = "read"
    step(model, view, [5, 5, 5, 5], "router")
    assert not state_difference(old.canonical(), kept.canonical(), 0.0)


def test_streams_of_different_ages_write_together(model):
    caches = []
    for age in (1, 5, 9):
        cache = DualCache.of(model, 32, 32, phi=3)
        step(model, cache, np.arange(age) + 1, "router")
        cache.mode = "write"
        step(model, cache, np.arange(age), "router")
        caches.append(cache)
    alone = [DualCache(fork(cache.memory()), phi=3) for cache in caches]
    for cache in alone:
        cache.mode = "write"
    together = decode_together(model, [4, 5, 6], caches, 4)
    for token, cache, logits in zip((4, 5, 6), alone, together, strict=True):
        assert torch.allclose(step(model, cache, [token], "router")[0], logits, atol=1e-5)


def test_what_does_not_fit_is_refused(model):
    cache = DualCache.of(model, 4, 2, segments=1)
    step(model, cache, [1, 2, 3], "router")
    cache.end_segment()
    with pytest.raises(CapacityError, match="2 tokens on top of 3 exceed the 4"):
        step(model, cache, [1, 2], "router")
    with pytest.raises(CapacityError, match="1 segments"):
        cache.end_segment()
    with pytest.raises(InputError, match="segment 1"):
        cache.end_of(1)
    cache.mode = "write"
    step(model, cache, [1, 2], "router")
    with pytest.raises(CapacityError, match="that a target holds"):
        step(model, cache, [1], "router")
    assert cache.room == (1, 0, 0)


def test_bytes_follow_from_the_sizes(model):
    cache = DualCache.of(model, 12, 7, segments=5)
    memory = cache.memory()
    tensors = [*memory.source_keys, *memory.source_values, *memory.target_keys, *memory.target_values]
    held = sum(each.nbytes for each in tensors) + memory.ends.nbytes + 3 * 8
    shapes = tuple((1, each.shape[1], each.shape[3]) for each in memory.source_keys)
    assert dual_bytes(shapes, 12, 7, 5, 4) == held


def test_eager_and_sdpa_agree(model):
    """Eager and sdpa, both with the cache of transformers' own forward."""
    config = copy.deepcopy(model.config)
    eager = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    logits = []
    for each in (model, eager):
        cache = DualCache.of(each, 16, 16)
        step(each, cache, [1, 2, 3, 4], "transformers")
        cache.mode = "write"
        logits.append(step(each, cache, [5, 6], "transformers"))
    assert torch.allclose(*logits, atol=1e-5)
