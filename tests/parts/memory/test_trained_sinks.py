import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AutoModelForCausalLM, GemmaConfig, GPTNeoXConfig, LlamaConfig, Qwen2Config

from unending.core.errors import InputError
from unending.parts.memory.trained_sinks import (
    SOFTMAX1,
    SinkToken,
    softmax1,
    softmax1_attention,
    softmax1_reference,
)
from unending.parts.training import Recipe, train

SIZES = {
    "vocab_size": 53,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=False),
    "tied": LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "neox": GPTNeoXConfig(**SIZES, rotary_pct=0.25),
    "gemma": GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=8),
}


def tiny(name="llama", attention="eager"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        copy.deepcopy(CONFIGS[name]), attn_implementation=attention
    ).eval()


def some_ids(rows=2, length=12, seed=1):
    return torch.randint(1, 53, (rows, length), generator=torch.Generator().manual_seed(seed))


def sinks(name="llama", n=1):
    return SinkToken(tiny(name), n, torch.Generator().manual_seed(7)).eval()


# The sink token


@pytest.mark.parametrize("n", [1, 3])
def test_sink_token_equals_embeddings_put_first_by_hand(n):
    net, ids = sinks(n=n), some_ids()
    rows = torch.stack([torch.cat([net.sinks, net.model.model.embed_tokens(row)]) for row in ids])
    by_hand = net.model(inputs_embeds=rows).logits[:, n:]
    output = net(input_ids=ids, labels=ids)
    assert torch.equal(output.logits, by_hand)
    targets = [by_hand[row, t] for row in range(2) for t in range(11)]
    expected = cross_entropy(torch.stack(targets), ids[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)


def test_the_sink_changes_the_model_and_an_absent_one_does_not():
    net, ids = sinks(), some_ids()
    plain = net.model(input_ids=ids).logits
    assert (net(ids).logits - plain).abs().max() > 1e-3


def test_labels_of_minus_100_carry_no_loss():
    net, ids = sinks(), some_ids()
    labels = ids.clone()
    labels[:, 6:] = -100
    torch.testing.assert_close(net(ids, labels=labels).loss, net(ids[:, :6], labels=ids[:, :6]).loss)


def test_right_padding_does_not_leak_and_left_padding_is_refused():
    net, ids = sinks(), some_ids()
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    torch.testing.assert_close(net(ids, mask).logits[0, :8], net(ids[:1, :8]).logits[0])
    with pytest.raises(InputError, match="left padding"):
        net(ids, mask.flip(1))


def test_the_sink_learns():
    net = sinks()
    before = net.sinks.detach().clone()
    recipe = Recipe(steps=5, peak=1e-2, warmup=1)
    train(
        net,
        lambda seed, step: some_ids(seed=step),
        lambda m, x: m(x, labels=x).loss,
        recipe,
        quiet=True,
    )
    assert (net.sinks - before).abs().min() > 0


def test_gradient_of_the_sink_against_a_finite_difference():
    net, ids = sinks(), some_ids()
    net(ids, labels=ids).loss.backward()
    # Steepest ascent gives the largest difference that single precision can show.
    direction, step = net.sinks.grad / net.sinks.grad.norm(), 1e-2
    losses = []
    for sign in (1, -1):
        moved = {"sinks": (net.sinks + sign * step * direction).detach()}
        losses.append(torch.func.functional_call(net, moved, (ids, None, ids)).loss.item())
    torch.testing.assert_close(
        (losses[0] - losses[1]) / (2 * step), net.sinks.grad.norm().item(), rtol=0.02, atol=0
    )


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("n", [1, 2])
def test_folded_sinks_are_ordinary_ids(name, n, tmp_path):
    net, ids = sinks(name, n), some_ids()
    wrapped = net(ids).logits
    folded = net.fold(silent_id=0)
    assert folded.config.vocab_size == 53 + n
    assert folded.config.bos_token_id == 53
    folded.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    prefix = torch.arange(53, 53 + n).expand(2, n)
    for model in (folded, loaded):
        logits = model(input_ids=torch.cat([prefix, ids], 1)).logits
        torch.testing.assert_close(logits[:, n:, :53], wrapped, atol=1e-6, rtol=0)
        torch.testing.assert_close(logits[..., 53:], logits[..., :1].expand(-1, -1, n), atol=1e-6, rtol=0)


def test_folding_leaves_the_trained_model_alone():
    net = sinks("tied")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.fold(0)
    assert net.model.config.tie_word_embeddings
    assert net.model.get_output_embeddings().weight is net.model.get_input_embeddings().weight
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="n_sinks"):
        SinkToken(tiny(), 0)
    with pytest.raises(ValueError, match="silent_id"):
        sinks().fold(53)


# Softmax-off-by-one


def test_softmax1_equals_its_definition():
    scores = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)) * 4
    torch.testing.assert_close(softmax1(scores), softmax1_reference(scores), atol=1e-6, rtol=1e-5)
    assert (softmax1(scores).sum(-1) < 1).all()
    assert (softmax1(scores) - scores.softmax(-1)).abs().max() > 1e-2


def test_softmax1_is_stable_where_the_definition_is_not():
    large = torch.tensor([1000.0, 999.0])
    assert softmax1_reference(large).isnan().any()
    torch.testing.assert_close(softmax1(large), large.softmax(-1))
    assert torch.equal(softmax1(torch.full((4,), -torch.inf)), torch.zeros(4))
    assert torch.equal(softmax1(torch.full((4,), torch.finfo(torch.float32).min)), torch.zeros(4))
    assert softmax1(torch.zeros(3, dtype=torch.bfloat16)).tolist() == [0.25] * 3


def test_softmax1_gradient():
    scores = torch.randn(2, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weight = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    ours, reference = [
        torch.autograd.grad((f(scores) * weight).sum(), scores)[0] for f in (softmax1, softmax1_reference)
    ]
    torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_attention_equals_one_more_key_and_value_of_zeros(key_heads):
    def draw(seed, *shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()

    module = torch.nn.Identity().eval()
    q, k, v = draw(0, 2, 4, 5, 8), draw(1, 2, key_heads, 9, 8), draw(2, 2, key_heads, 9, 8)
    hidden = torch.ones(5, 9, dtype=torch.bool).triu(5)
    mask = torch.zeros(1, 1, 5, 9).masked_fill(hidden, torch.finfo(torch.float32).min)
    ours, weights = softmax1_attention(module, q, k, v, mask)
    extra = [torch.nn.functional.pad(x.repeat_interleave(4 // key_heads, 1), (0, 0, 1, 0)) for x in (k, v)]
    reference = scaled_dot_product_attention(q, *extra, torch.nn.functional.pad(mask, (1, 0))).transpose(1, 2)
    torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-5)
    assert weights.shape == (2, 4, 5, 9)
    assert (weights[..., hidden] == 0).all()
    pull = draw(3, *ours.shape).detach()
    for a, b in zip(
        *[torch.autograd.grad((x * pull).sum(), (q, k, v)) for x in (ours, reference)], strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "neox", "gemma"])
def test_a_model_with_softmax1_is_causal_and_differs_from_softmax(name):
    model, ids = tiny(name, SOFTMAX1), some_ids()
    logits = model(input_ids=ids).logits
    changed = ids.clone()
    changed[:, -1] = 1 + changed[:, -1] % 52
    torch.testing.assert_close(model(input_ids=changed).logits[:, :-1], logits[:, :-1])
    assert (tiny(name)(input_ids=ids).logits - logits).abs().max() > 1e-4


def test_a_model_with_softmax1_decodes_from_its_cache_as_in_one_pass():
    model, ids = tiny(attention=SOFTMAX1), some_ids()
    whole, cache, pieces = model(input_ids=ids).logits, None, []
    for t in range(12):
        output = model(input_ids=ids[:, t : t + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        pieces.append(output.logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=0)


def test_padding_is_masked_under_softmax1():
    model, ids = tiny(attention=SOFTMAX1), some_ids()
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    padded = model(input_ids=ids, attention_mask=mask).logits[0, :8]
    torch.testing.assert_close(padded, model(input_ids=ids[:1, :8]).logits[0])


def test_a_saved_model_can_be_opened_with_softmax1(tmp_path):
    model, ids = tiny(attention=SOFTMAX1), some_ids()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=SOFTMAX1).eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
