"""Joint decoding: equal to decoding alone, and bits that know no neighbour."""

import copy

import numpy as np
import pytest
import torch
from tests.parts import models
from transformers import DynamicCache, LlamaConfig

from unending.core.errors import CapacityError, ModelUnsupportedError, NumericalError
from unending.parts import backbones
from unending.parts.backbones.tiny import tiny_model
from unending.parts.memory import MemoryCache, SinksAndWindow, forward
from unending.parts.memory.joint import decode_together, joint_rows
from unending.parts.memory.trained_sinks import SOFTMAX1


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def cache(model, age, seed=0, frame="cache", window=12):
    """A memory of four sinks and a window after `age` random tokens."""
    made = MemoryCache(
        backbones.rotaries(model), SinksAndWindow(4, window), frame, limit=backbones.position_limit(model)
    )
    ids = models.tokens(age, seed)
    for start in range(0, age, 5):
        forward(model, torch.from_numpy(ids[start : start + 5])[None], made)
    return made


def same_bits(one, two):
    return all(
        torch.equal(mine, theirs)
        for mine, theirs in zip(one.keys + one.values, two.keys + two.values, strict=True)
    )


@pytest.mark.parametrize("frame", ["cache", "absolute"])
@pytest.mark.parametrize("name", sorted(models.CONFIGS))
def test_together_is_as_alone(name, frame):
    model, ages, width = models.model(name), (1, 7, 16, 40), 5
    caches = [cache(model, age, age, frame) for age in ages]
    alone = copy_all(caches)
    tokens = models.tokens(30, 1)
    for start in range(0, 28, 4):
        now = tokens[start : start + 4].tolist()
        found = decode_together(model, now, caches, width)
        for token, logits, memory in zip(now, found, alone, strict=True):
            torch.testing.assert_close(
                logits, forward(model, torch.tensor([[token]]), memory)[0, -1], atol=1e-4, rtol=1e-4
            )
    for memory, other in zip(caches, alone, strict=True):
        assert (memory.seen, memory.count) == (other.seen, other.count)
        np.testing.assert_array_equal(memory.kept_positions, other.kept_positions)


def copy_all(caches):
    """Caches with tensors of their own over the same rotary modules."""
    made = []
    for each in caches:
        twin = copy.copy(each)
        twin.layers = [copy.copy(layer) for layer in each.layers]
        for layer in twin.layers:
            layer._cache = twin
        twin.keys, twin.values = ([held.clone() for held in side] for side in (each.keys, each.values))
        twin._angles = {}
        made.append(twin)
    return made


def odd(width=40, heads=4):
    """Sizes that are no multiple of a vector register."""
    sizes = {
        "hidden_size": width,
        "intermediate_size": width + 16,
        "num_attention_heads": heads,
        "head_dim": 6,
    }
    return tiny_model(LlamaConfig(**{**models._COMMON, **sizes, "num_key_value_heads": 2, "vocab_size": 101}))


@pytest.mark.parametrize(
    "make",
    [lambda: models.model("llama"), odd, lambda: odd(36), lambda: odd(256)],
    ids=["llama", "40", "36", "large"],
)
@pytest.mark.parametrize("width", [2, 3, 5, 8])
def test_bits_know_no_neighbour_no_row_and_no_number(make, width):
    model, rng = make(), np.random.default_rng(width)
    pool = [cache(model, int(age), index) for index, age in enumerate(rng.integers(1, 40, 8))]
    subject, token, expected = cache(model, 23, 99), 17, None
    for _ in range(40):
        active = int(rng.integers(1, width + 1))
        others = [pool[int(index)] for index in rng.permutation(len(pool))[: active - 1]]
        place = int(rng.integers(0, active))
        caches = copy_all([*others[:place], subject, *others[place:]])
        tokens = rng.integers(3, 97, active).tolist()
        tokens[place] = token
        logits = decode_together(model, tokens, caches, width)[place]
        expected = expected or (logits, caches[place])
        assert torch.equal(logits, expected[0])
        assert same_bits(caches[place], expected[1])


def test_without_added_rows_the_last_row_of_odd_sizes_differs(monkeypatch):
    """The control: that rows are added is what makes the bits equal."""
    from unending.parts.memory import joint

    monkeypatch.setattr(joint, "_SPARE", (0,))
    with pytest.raises(ModelUnsupportedError, match="depend on each other or on their place"):
        joint_rows(odd(36), 3)


def test_one_that_fails_is_alone():
    model = models.model("llama")
    caches = [cache(model, 9), cache(model, 30, 1), cache(model, 16, 2), cache(model, 12, 3)]
    caches[1].limit = 3
    caches[2].values[1].fill_(torch.nan)
    expected = decode_together(model, [5, 8], copy_all([caches[0], caches[3]]), 4)
    kept = copy_all(caches[1:2])[0]
    found = decode_together(model, [5, 6, 7, 8], caches, 4)
    assert torch.equal(found[0], expected[0])
    assert isinstance(found[1], CapacityError)
    assert isinstance(found[2], NumericalError)
    assert torch.equal(found[3], expected[1])
    assert same_bits(caches[1], kept)
    assert caches[1].seen == 30


def test_any_cache_of_transformers_will_do():
    model, ids = models.model("qwen2"), models.tokens(9)
    caches, alone = ([DynamicCache(config=model.config) for _ in range(2)] for _ in range(2))
    for each in (*caches, *alone):
        forward(model, torch.from_numpy(ids)[None], each)
    found = decode_together(model, [4, 5], caches, 2)
    for token, logits, memory in zip((4, 5), found, alone, strict=True):
        torch.testing.assert_close(logits, forward(model, torch.tensor([[token]]), memory)[0, -1])


def test_no_stream_at_all():
    assert decode_together(models.model("llama"), [], [], 3) == []


def _softmax1():
    model = models.model("llama")
    model.set_attn_implementation(SOFTMAX1)
    return model


@pytest.mark.parametrize("make", [models.mpt, _softmax1])
def test_models_that_cannot_are_refused(make):
    with pytest.raises(ModelUnsupportedError):
        joint_rows(make(), 2)
