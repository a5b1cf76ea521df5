"""The layers: prefix linear attention by its definition, its traps, and the states of all mixers."""

import pytest
import torch
from tests.systems.language.jrt.tiny import model, tokens
from torch.testing import assert_close

from unending.core.errors import InputError
from unending.parts.linear_attention import absorb, chunked
from unending.systems.language.jrt import BaseConv, PrefixLinearAttention, SlidingAttention
from unending.systems.language.jrt.layers import heads_apart
from unending.systems.language.jrt.naive import naive_mixer

WIDTH, HEADS, N, M = 12, 2, 21, 8
EXACT = {"atol": 1e-10, "rtol": 1e-10}


def pla(enc_length=M, seed=0, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PrefixLinearAttention(WIDTH, HEADS, 4, enc_length, **settings).double()


def window(size=5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SlidingAttention(WIDTH, HEADS, size).double()


def conv(kernel=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BaseConv(WIDTH, kernel).double()


def inputs(n=N, rows=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, n, WIDTH, generator=generator, dtype=torch.float64)


def stepped(layer, x, start, begin=0):
    """Outputs of one step a token, and the state."""
    outputs = []
    for t in range(x.shape[1]):
        position = torch.full((len(x),), begin + t)
        y, start = layer.step(x[:, t], start, position)
        outputs.append(y)
    return torch.stack(outputs, 1), start


MIXERS = {
    "prefix, M=0": lambda: (pla(0), 0),
    "prefix, M<n": lambda: (pla(), M),
    "prefix, M=n": lambda: (pla(N), N),
    "prefix, M>n": lambda: (pla(50), N),
    "prefix, shared projections": lambda: (pla(share_encoder_projections=True), M),
    "window": lambda: (window(), 0),
    "window of one": lambda: (window(1), 0),
    "window beyond the end": lambda: (window(40), 0),
    "conv": lambda: (conv(), 0),
    "conv of one": lambda: (conv(1), 0),
}


@pytest.mark.parametrize("name", MIXERS)
def test_all_forms_of_a_mixer_agree(name):
    """Full matrices, whole sequences, prefill and more, prefill and steps: forward and gradients."""
    layer, m = MIXERS[name]()
    x = inputs().requires_grad_()
    first = max(m, 9)

    def in_pieces():
        y, state = layer.prefill(x[:, :first])
        more, state = layer.extend(x[:, first:16], state, None, torch.full((2,), first))
        return torch.cat([y, more, stepped(layer, x[:, 16:], state, max(16, first))[0]], 1)

    if m >= N:
        outcomes = [layer(x), layer.prefill(x)[0]]
    else:
        outcomes = [layer(x), layer.prefill(x)[0], in_pieces()]
    wanted = naive_mixer(layer, x, m)
    weights = inputs(seed=1)
    parameters = [x, *(p for p in layer.parameters())]

    def gradients(y):
        return torch.autograd.grad((y * weights).sum(), parameters, allow_unused=True, retain_graph=True)

    for y in outcomes:
        assert_close(y, wanted, **EXACT)
        for ours, theirs in zip(gradients(y), gradients(wanted), strict=True):
            if theirs is not None and ours is not None:
                assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
            else:  # no prefix, no gradient of its projections
                assert theirs is None or theirs.abs().max() == 0


@pytest.mark.parametrize("name", ["prefix, M<n", "window", "conv"])
def test_forms_agree_in_float32(name):
    layer, m = MIXERS[name]()
    wanted, x = naive_mixer(layer, inputs(), m), inputs().float()
    layer = layer.float()
    y, state = layer.prefill(x[:, :10])
    rest, _ = stepped(layer, x[:, 10:], state, 10)
    for found in (layer(x), torch.cat([y, rest], 1)):
        assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)


def test_without_a_prefix_it_is_causal_based():
    layer, x = pla(0), inputs()
    q, k, v = (heads_apart(each(x), HEADS) for each in (layer.q_proj, layer.k_proj, layer.v_proj))
    y, _ = chunked(q, k, v, layer.feature_map)
    assert_close(layer(x), layer.o_proj(y.transpose(1, 2).flatten(2)), **EXACT)


@pytest.mark.parametrize("changed", range(0, N, 3))
def test_prefix_tokens_reach_back_and_later_tokens_do_not(changed):
    layer, x = pla(), inputs()
    other = x.clone()
    other[:, changed] += 1.0
    moved = (layer(other) - layer(x)).abs().amax((0, 2)) > 1e-9
    reached = torch.arange(N) >= (0 if changed < M else changed)
    assert moved.tolist() == reached.tolist()


def test_the_order_of_the_prefix_leaves_its_state():
    layer, x = pla(), inputs()
    order = torch.randperm(M, generator=torch.Generator().manual_seed(1))
    one, two = layer.encode(x[:, :M]), layer.encode(x[:, order])
    assert_close(one.S, two.S, **EXACT)
    assert_close(one.Z, two.Z, **EXACT)


@pytest.mark.parametrize("make", [pla, window, conv])
@pytest.mark.parametrize("fill", [1, 4, 7])
def test_left_padding_counts_for_nothing(make, fill):
    """A prompt shorter than M, padded to M, and its continuation."""
    layer, x = make(), inputs(M - fill)
    noise = inputs(fill, seed=5)
    keep = torch.arange(M)[None].expand(2, M) >= fill
    padded = torch.cat([noise, x], 1)
    y, state = layer.prefill(x)
    z, padded_state = layer.prefill(padded, keep)
    assert_close(z[:, fill:], y, **EXACT)
    assert_close(layer(padded, keep)[:, fill:], y, **EXACT)
    more = inputs(9, seed=6)
    one, _ = stepped(layer, more, state, M - fill)
    two, _ = stepped(layer, more, padded_state, M)
    assert_close(one, two, **EXACT)


@pytest.mark.parametrize("form", ["forward", "prefill"])
def test_masking_before_the_feature_map_is_upstream_s_and_not_exact(form):
    exact, upstream = pla(), pla(mask_after_feature_map=False)
    x, keep = inputs(M), torch.arange(M)[None].expand(2, M) >= 3
    run = {
        "forward": lambda layer: layer(x, keep),
        "prefill": lambda layer: layer.prefill(x, keep)[0],
    }[form]
    assert_close(run(exact)[:, 3:], exact(x[:, 3:]), **EXACT)
    assert (run(upstream)[:, 3:] - exact(x[:, 3:])).abs().max() > 1e-3
    # What is left of a padded key is the constant feature, in the prefix sum and in the causal sum.
    k_enc, v_enc = (heads_apart(each(x), HEADS) for each in (upstream.k_enc_proj, upstream.v_enc_proj))
    masked = absorb(k_enc * keep[:, None, :, None], v_enc, upstream.feature_map)
    assert_close(upstream.encode(x, keep).Z, masked.Z, **EXACT)
    assert_close(
        (upstream.encode(x, keep).Z - exact.encode(x, keep).Z)[..., 0], torch.full((2, HEADS), 3.0).double()
    )


def test_toys_of_prefix_linear_attention_are_others():
    """Two normalisers, no causal term in the prefix, one set of projections: each differs from the layer."""
    layer, x = pla(), inputs()
    phi = layer.feature_map
    q, k, k_enc = (phi(heads_apart(e(x), HEADS)) for e in (layer.q_proj, layer.k_proj, layer.k_enc_proj))
    v, v_enc = (heads_apart(each(x), HEADS) for each in (layer.v_proj, layer.v_enc_proj))
    causal, prefix = (q @ k.mT).tril(), (q @ k_enc.mT)[..., :M]

    def out(y):
        return layer.o_proj(y.transpose(1, 2).flatten(2))

    total = causal.sum(-1, keepdim=True) + prefix.sum(-1, keepdim=True)
    assert_close(layer(x), out((causal @ v + prefix @ v_enc[:, :, :M]) / total), **EXACT)
    separately = causal @ v / causal.sum(-1, keepdim=True)
    separately = separately + prefix @ v_enc[:, :, :M] / prefix.sum(-1, keepdim=True)
    late = causal * (torch.arange(N) >= M)[:, None]
    no_causal_term = (late @ v + prefix @ v_enc[:, :, :M]) / (late.sum(-1, True) + prefix.sum(-1, True))
    for toy in (out(separately), out(no_causal_term)):
        assert (layer(x) - toy)[:, :M].abs().max() > 1e-3
    shared = pla(share_encoder_projections=True)
    shared.load_state_dict(layer.state_dict(), strict=False)
    assert (layer(x) - shared(x)).abs().max() > 1e-3
    assert not hasattr(shared, "k_enc_proj")
    assert {"k_enc_proj.weight", "v_enc_proj.weight"} <= layer.state_dict().keys()


def test_a_prompt_beyond_the_prefix_is_not_encoded_in_full():
    layer, x = pla(), inputs()
    assert (layer.prefill(x)[0] - layer.prefill(x, enc_length=N)[0]).abs().max() > 1e-3
    assert_close(layer.prefill(x, enc_length=N)[0], pla(N)(x), **EXACT)


@pytest.mark.parametrize("make", [pla, window, conv])
def test_states_keep_their_size_and_are_not_written(make):
    layer, x = make(), inputs()
    _, state = layer.prefill(x)
    sizes = [leaf.shape for leaf in vars(state).values()]
    assert sizes == [leaf.shape for leaf in vars(layer.empty(2)).values()]
    before = [leaf.clone() for leaf in vars(state).values()]
    for _ in range(2):
        _, after = layer.extend(x, state, None, torch.tensor([N, N]))
        _, last = layer.step(x[:, 0], state, torch.tensor([N, N]))
    for new in (after, last):
        assert [leaf.shape for leaf in vars(new).values()] == sizes
        for leaf in vars(new).values():
            assert leaf.untyped_storage().nbytes() == leaf.nbytes, "a view keeps more alive than it shows"
    assert all(torch.equal(old, leaf) for old, leaf in zip(before, vars(state).values(), strict=True))


def test_positions_of_any_size_turn_by_the_right_angle():
    """At position 10^9 a float32 phase would be off by whole turns."""
    layer, x = window(), inputs(12, rows=1)
    whole = layer(x)
    _, state = layer.extend(x[:, :6], layer.empty(1), None, torch.tensor([10**9]))
    late, _ = layer.extend(x[:, 6:], state, None, torch.tensor([10**9 + 6]))
    assert_close(late, whole[:, 6:], atol=1e-6, rtol=1e-6)


def test_half_precision_states_hold_wide_sums():
    layer = model(torch.bfloat16).model
    _, memory = layer.prefill(tokens(1, 12))
    assert memory.layers[1].S.dtype == torch.float32
    assert memory.layers[2].keys.dtype == memory.layers[0].tail.dtype == torch.bfloat16
    assert layer._embedded(tokens(1, 2)).dtype == torch.float32  # the residual
    empty = layer.empty()
    assert [each.dtype for each in memory.tensors] == [each.dtype for each in empty.tensors]
    assert [each.shape for each in memory.tensors] == [each.shape for each in empty.tensors]


def test_senseless_sizes_are_refused():
    with pytest.raises(InputError, match="does not divide by 5 heads"):
        PrefixLinearAttention(12, 5)
    for width, heads, size in ((12, 5, 4), (12, 4, 4), (12, 2, 0)):
        with pytest.raises(InputError, match="heads of an even width"):
            SlidingAttention(width, heads, size)
