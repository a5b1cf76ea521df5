"""A routed pass against the plain model, and what it leaves behind."""

import gc
import threading
import weakref
from contextlib import nullcontext

import pytest
import torch
from tests.parts import models
from transformers import Gemma2Config, GPT2Config, LlamaConfig

from unending.core.errors import ModelUnsupportedError
from unending.parts.backbones import routing
from unending.parts.backbones.routing import require_routable, routed
from unending.parts.backbones.tiny import tiny_model
from unending.parts.memory.trained_sinks import SOFTMAX1


class Everything:
    """A router that keeps all it has seen and lets each query see all up to its own place."""

    def __init__(self):
        self.held = {}

    def attend(self, layer, query, key, value, scaling):
        before = self.held.get(layer, (key[:, :, :0], value[:, :, :0]))
        keys, values = (torch.cat(pair, dim=2) for pair in zip(before, (key, value), strict=True))
        self.held[layer] = keys, values
        groups, new, total = query.shape[1] // keys.shape[1], query.shape[2], keys.shape[2]
        keys, values = (each.repeat_interleave(groups, dim=1) for each in (keys, values))
        scores = (query @ keys.transpose(-1, -2)) * scaling
        unseen = torch.ones(new, total, dtype=torch.bool).tril(total - new).logical_not()
        return (scores.masked_fill(unseen, -torch.inf).softmax(-1) @ values).transpose(1, 2)


class Fails:
    def attend(self, layer, query, key, value, scaling):
        if layer == 1:
            raise RuntimeError("the router fails")
        return query.transpose(1, 2)


def _ids(batch=2, length=13):
    return torch.from_numpy(models.tokens(batch * length, seed=3).reshape(batch, length))


def _positions(ids):
    return torch.arange(ids.shape[1]).expand(ids.shape)


@torch.no_grad()
def _plain(model, ids):
    return model(input_ids=ids).logits


@pytest.mark.parametrize("pieces", [[13], [4, 5, 1, 3], [1] * 13])
@pytest.mark.parametrize("name", sorted(models.CONFIGS))
def test_keeping_all_is_the_plain_model(name, pieces):
    model, ids, router = models.model(name), _ids(), Everything()
    positions = _positions(ids)
    logits = [
        routed(model, some, where, router)
        for some, where in zip(ids.split(pieces, dim=1), positions.split(pieces, dim=1), strict=True)
    ]
    torch.testing.assert_close(torch.cat(logits, dim=1), _plain(model, ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 64, 100])
@pytest.mark.parametrize("onednn", [True, False])
def test_large_matrices_take_another_product(length, onednn, monkeypatch):
    monkeypatch.setattr(routing, "_ONEDNN", onednn and routing._ONEDNN)
    sizes = {"hidden_size": 256, "intermediate_size": 384, "max_position_embeddings": 128}
    config = LlamaConfig(**{**models._COMMON, **sizes}, attention_bias=True)
    model, ids = tiny_model(config), _ids(1, length)
    found = routed(model, ids, _positions(ids), Everything())
    torch.testing.assert_close(found, _plain(model, ids), atol=1e-3, rtol=1e-3)


def test_the_router_sees_this_pass_in_grouped_heads_layer_by_layer():
    model, seen = models.model("llama"), []

    class Watching(Everything):
        def attend(self, layer, query, key, value, scaling):
            seen.append((layer, query.shape, key.shape, value.shape, scaling))
            return super().attend(layer, query, key, value, scaling)

    routed(model, _ids(), _positions(_ids()), Watching())
    shapes = torch.Size((2, 4, 13, 16)), torch.Size((2, 2, 13, 16)), torch.Size((2, 2, 13, 16)), 0.25
    assert seen == [(0, *shapes), (1, *shapes)]


def test_only_the_logits_asked_for():
    model, ids = models.model("llama"), _ids()
    whole = routed(model, ids, _positions(ids), Everything())
    some = routed(model, ids, _positions(ids), Everything(), keep=torch.tensor([12, 3]))
    assert whole.shape == (2, 13, 97)
    torch.testing.assert_close(some, whole[:, [12, 3]])


def test_logits_are_float32_and_need_no_gradient():
    model = models.model("llama").bfloat16()
    logits = routed(model, _ids(), _positions(_ids()), Everything())
    assert logits.dtype == torch.float32
    assert not logits.requires_grad


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("router", [Everything, Fails])
def test_the_model_stays_as_it_was(attention, router):
    model, ids = models.model("llama"), _ids()
    model.set_attn_implementation(attention)
    before, names = _plain(model, ids), list(model.state_dict())
    with pytest.raises(RuntimeError) if router is Fails else nullcontext():
        routed(model, ids, _positions(ids), router())
    assert model.config._attn_implementation == attention
    assert list(model.state_dict()) == names
    assert torch.equal(_plain(model, ids), before)
    torch.testing.assert_close(
        routed(model, ids, _positions(ids), Everything()), before, atol=1e-4, rtol=1e-4
    )


def test_another_thread_may_use_the_model_meanwhile():
    model, ids = models.model("llama"), _ids()
    expected, found = _plain(model, ids), []

    class Waiting(Everything):
        def attend(self, layer, query, key, value, scaling):
            inner = [
                lambda: found.append(_plain(model, ids)),
                lambda: found.append(routed(model, ids, _positions(ids), Everything())),
            ]
            threads = [threading.Thread(target=each) for each in inner]
            for each in threads:
                each.start()
            for each in threads:
                each.join(60)
            return super().attend(layer, query, key, value, scaling)

    found.append(routed(model, ids, _positions(ids), Waiting()))
    assert len(found) == 5
    for each in found:
        torch.testing.assert_close(each, expected, atol=1e-4, rtol=1e-4)


def test_changed_weights_count():
    model, ids = models.model("llama"), _ids()
    before = routed(model, ids, _positions(ids), Everything())
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    torch.testing.assert_close(routed(model, ids, _positions(ids), Everything()), 2 * before)
    model.set_output_embeddings(torch.nn.Linear(64, 97, bias=False))
    after = routed(model, ids, _positions(ids), Everything())
    torch.testing.assert_close(after, _plain(model, ids), atol=1e-4, rtol=1e-4)
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(97, 64))
    assert not routed(model, ids, _positions(ids), Everything()).any()


def test_nothing_of_a_model_is_kept_when_it_goes():
    model = models.model("llama")
    routed(model, _ids(), _positions(_ids()), Everything())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def _softmax1():
    model = models.model("llama")
    model.set_attn_implementation(SOFTMAX1)
    return model


def _dynamic():
    return tiny_model(
        LlamaConfig(
            **{**models._COMMON, "num_key_value_heads": 2},
            rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        )
    )


@pytest.mark.parametrize(
    ("make", "why"),
    [(models.mpt, "interface"), (_softmax1, "softmax1"), (_dynamic, "largest position")],
)
def test_a_model_that_cannot_be_routed_is_refused_beforehand(make, why):
    model = make()
    with pytest.raises(ModelUnsupportedError, match=why):
        require_routable(model)
    with pytest.raises(ModelUnsupportedError, match=why):
        routed(model, _ids(), _positions(_ids()), Everything())


def test_capped_scores_are_refused():
    config = Gemma2Config(**models._COMMON, num_key_value_heads=2, head_dim=16, attn_logit_softcapping=5.0)
    with pytest.raises(ModelUnsupportedError, match="softcap"):
        routed(tiny_model(config), _ids(), _positions(_ids()), Everything())


def test_a_layer_that_goes_around_the_interface_is_noticed():
    model = models.model("llama")

    class Around(torch.nn.Module):
        def forward(self, hidden_states, **_):
            return hidden_states

    model.model.layers[1] = Around()
    with pytest.raises(ModelUnsupportedError, match="layers whose attention"):
        routed(model, _ids(), _positions(_ids()), Everything())


def test_learned_positions_are_those_given():
    config = GPT2Config(vocab_size=97, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
    model, ids = tiny_model(config), _ids()
    require_routable(model)
    logits = routed(model, ids, _positions(ids), Everything())
    torch.testing.assert_close(logits, _plain(model, ids), atol=1e-4, rtol=1e-4)
