"""All forms of linear attention are one: values and gradients, against a loop over tokens."""

from functools import partial

import pytest
import torch

from unending.core.errors import InputError
from unending.parts.linear_attention import (
    EluPlusOne,
    Identity,
    LinearState,
    Taylor,
    absorb,
    chunked,
    empty,
    pairwise,
    step,
)
from unending.parts.linear_attention.naive import quadratic, recurrent

torch.set_num_threads(1)
BATCH, HEADS, N, DIM, HEAD_DIM = 2, 3, 23, 4, 5

CONFIGURATIONS = {
    "based": {"feature_map": Taylor(DIM)},
    "elu": {"feature_map": EluPlusOne(DIM)},
    "elu, decay a head": {"feature_map": EluPlusOne(DIM), "decay": (1, HEADS, 1, 1)},
    "taylor, decay a token": {"feature_map": Taylor(DIM), "decay": (BATCH, HEADS, N, 1)},
    "retention": {"feature_map": Identity(DIM), "decay": (1, HEADS, 1, 1), "normalise": False},
    "padded": {"feature_map": Taylor(DIM), "padded": True},
    "behind a state": {"feature_map": Taylor(DIM), "started": True},
    "behind a state, decay": {"feature_map": EluPlusOne(DIM), "decay": (1, HEADS, 1, 1), "started": True},
}


def case(feature_map, decay=None, normalise=True, padded=False, started=False, dtype=torch.float64):
    """Inputs that need gradients, and the settings that every form takes."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()

    inputs = [normal(BATCH, HEADS, N, DIM), normal(BATCH, HEADS, N, DIM), normal(BATCH, HEADS, N, HEAD_DIM)]
    settings = {"normalise": normalise}
    if decay:
        logits = normal(*decay)
        inputs.append(logits)
        settings["log_decay"] = -torch.nn.functional.softplus(logits)
    if padded:
        settings["keep"] = torch.arange(N) >= torch.tensor([[3], [0]])
    if started:
        keys, values = normal(BATCH, HEADS, 7, DIM), normal(BATCH, HEADS, 7, HEAD_DIM)
        inputs += [keys, values]
        settings["start"] = absorb(keys, values, feature_map)
    return inputs, settings


def outcome(form, name, dtype=torch.float64):
    """Outputs, state, and gradients of a scalar that depends on all of them."""
    inputs, settings = case(**CONFIGURATIONS[name], dtype=dtype)
    y, state = form(*inputs[:3], CONFIGURATIONS[name]["feature_map"], **settings)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    rows = slice(3, None) if "keep" in settings else slice(None)  # a padded row divides by nothing
    total = (y * weights)[:, :, rows].sum() + state.S.square().sum() + state.Z.sum()
    return y[:, :, rows], state, torch.autograd.grad(total, inputs)


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("form", [quadratic, *(partial(chunked, chunk=c) for c in (1, 4, 23, 64))])
def test_forms_agree_forward_and_backward(form, name):
    y, state, gradients = outcome(form, name)
    wanted_y, wanted, wanted_gradients = outcome(recurrent, name)
    torch.testing.assert_close(y, wanted_y, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(state.S, wanted.S, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(state.Z, wanted.Z, atol=1e-10, rtol=1e-10)
    for ours, theirs in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-10)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_forms_agree_in_float32(name):
    y, _, _ = outcome(partial(chunked, chunk=8), name, torch.float32)
    wanted, _, _ = outcome(recurrent, name)
    scale = wanted.abs().max().item()
    torch.testing.assert_close(y.double() / scale, wanted / scale, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", [0, 9, N])
def test_pairs_with_a_prefix_are_chunks_behind_its_sums(prefix):
    inputs, settings = case(Taylor(DIM), padded=True, started=True)
    q, k, v, *_ = inputs
    keep = settings["keep"]
    k_enc, v_enc = (x.detach().roll(3, 2)[:, :, :prefix].requires_grad_() for x in (k, v))
    given = (k_enc, v_enc) if prefix else None
    start = absorb(k_enc, v_enc, Taylor(DIM), keep=keep[:, :prefix]) if prefix else None
    ours = pairwise(q, k, v, Taylor(DIM), prefix=given, keep=keep)
    theirs, _ = chunked(q, k, v, Taylor(DIM), start=start, keep=keep, chunk=5)
    torch.testing.assert_close(ours[:, :, 3:], theirs[:, :, 3:], atol=1e-10, rtol=1e-10)
    wanted = [q, k, v, *([k_enc, v_enc] if prefix else [])]
    gradients = (torch.autograd.grad(y[:, :, 3:].square().sum(), wanted) for y in (ours, theirs))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["based", "elu, decay a head", "retention", "behind a state"])
def test_steps_go_on_where_chunks_end(name):
    (q, k, v, *_), settings = case(**CONFIGURATIONS[name])
    feature_map = CONFIGURATIONS[name]["feature_map"]
    whole, end = chunked(q, k, v, feature_map, **settings)
    decay = settings.pop("log_decay", None)
    head = slice(0, 10)
    _, state = chunked(q[:, :, head], k[:, :, head], v[:, :, head], feature_map, log_decay=decay, **settings)
    settings.pop("start", None)
    for t in range(10, N):
        one = None if decay is None else decay.expand(BATCH, HEADS, N, 1)[:, :, t]
        before = state.S.clone()
        now = state
        y, state = step(q[:, :, t], k[:, :, t], v[:, :, t], feature_map, now, log_decay=one, **settings)
        assert torch.equal(now.S, before), "a step writes into the state it came from"
        torch.testing.assert_close(y, whole[:, :, t], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(state.S, end.S, atol=1e-10, rtol=1e-10)


def test_the_order_of_a_prefix_leaves_its_sums():
    _, k, v, *_ = case(Taylor(DIM))[0]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    one, two = absorb(k, v, Taylor(DIM)), absorb(k[:, :, order], v[:, :, order], Taylor(DIM))
    torch.testing.assert_close(one.S, two.S, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(one.Z, two.Z, atol=1e-12, rtol=1e-12)


def test_a_long_prefix_is_absorbed_in_pieces():
    draw = torch.Generator().manual_seed(0)
    k, v = (torch.randn(1, 2, 2500, DIM, generator=draw, dtype=torch.float64) for _ in range(2))
    keep = torch.arange(2500)[None] >= 1100
    exact = Taylor(DIM)(k[:, :, 1100:])
    state = absorb(k, v, Taylor(DIM), keep=keep)
    torch.testing.assert_close(state.S, exact.mT @ v[:, :, 1100:], atol=1e-9, rtol=1e-10)
    torch.testing.assert_close(state.Z, exact.sum(2), atol=1e-9, rtol=1e-10)
    none = absorb(k[:, :, :0], v[:, :, :0], Taylor(DIM))
    assert none.S.abs().sum() == 0


@pytest.mark.parametrize("feature_map", [Taylor(DIM), EluPlusOne(DIM), Identity(DIM)])
def test_scores_are_products_of_features(feature_map):
    q, k, *_ = case(feature_map)[0]
    torch.testing.assert_close(
        feature_map.scores(q, k), feature_map(q) @ feature_map(k).mT, atol=1e-12, rtol=1e-12
    )
    assert feature_map(q).shape[-1] == feature_map.size


def test_taylor_features_are_the_second_order_expansion_of_the_exponential():
    q, k, *_ = case(Taylor(DIM))[0]
    s = (q * k).sum(-1) / DIM**0.5
    torch.testing.assert_close((Taylor(DIM)(q) * Taylor(DIM)(k)).sum(-1), 1 + s + s**2 / 2)
    assert Taylor(16).size == 273


def test_sums_are_kept_in_float32_of_bfloat16_and_under_autocast():
    """4,000 keys of half precision: the constant feature counts to 4,000, where bfloat16 would stop at 256."""
    ones = torch.ones(1, 1, 4000, DIM, dtype=torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32):
        x = ones.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            y, state = chunked(x, x, x, Taylor(DIM))
            _, stepped = step(x[:, :, 0], x[:, :, 0], x[:, :, 0], Taylor(DIM), state)
        assert state.S.dtype == state.Z.dtype == torch.float32
        assert state.Z[0, 0, 0] == 4000
        assert stepped.Z[0, 0, 0] == 4001
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), torch.ones_like(y.float()), atol=1e-2, rtol=0)


def test_masking_before_the_feature_map_still_counts_the_constant_feature():
    """The trap: `map(0)` is not 0."""
    _, k, v, *_ = case(Taylor(DIM))[0]
    keep = torch.arange(N)[None].expand(BATCH, N) >= 4
    exact = absorb(k[:, :, 4:], v[:, :, 4:], Taylor(DIM))
    after = absorb(k, v, Taylor(DIM), keep=keep)
    before = absorb(k * keep[:, None, :, None], v, Taylor(DIM))
    torch.testing.assert_close(after.S, exact.S, atol=1e-12, rtol=1e-12)
    assert (before.Z - exact.Z)[..., 0].tolist() == [[4.0] * HEADS] * BATCH
    assert (before.S - exact.S).abs().max() > 0.1


def test_nothing_read_is_the_empty_state():
    none = torch.zeros(BATCH, HEADS, 0, DIM)
    y, state = chunked(none, none, none, Taylor(DIM))
    assert y.shape == none.shape
    wanted = empty(BATCH, HEADS, Taylor(DIM).size, DIM, torch.float32)
    assert isinstance(state, LinearState)
    assert torch.equal(state.S, wanted.S)
    assert torch.equal(state.Z, wanted.Z)


def test_a_decay_a_channel_is_refused():
    q, k, v, *_ = case(Taylor(DIM))[0]
    with pytest.raises(InputError, match="number a head"):
        chunked(q, k, v, Taylor(DIM), log_decay=torch.zeros(1, HEADS, 1, 21))
