"""The training objective: which positions have which label, and what a toy gets wrong."""

import math

import torch
from tests.systems.language.jrt.tiny import model, tokens
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from unending.systems.language.jrt import masked_prefix, prefix_lm_mlm_loss

V, N, M = 11, 20, 8


def case():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, N, V, generator=draw, dtype=torch.float64).requires_grad_()
    ids = torch.randint(0, V, (3, N + 1), generator=draw)
    masked = torch.rand(3, M, generator=draw) < 0.3
    return logits, ids, masked


def test_the_loss_by_its_definition():
    logits, ids, masked = case()
    behind = [cross_entropy(logits[b, i], ids[b, i + 1]) for b in range(3) for i in range(M, N)]
    inside = [cross_entropy(logits[b, i], ids[b, i]) for b in range(3) for i in range(M) if masked[b, i]]
    assert len(behind) == 3 * (N - M)
    wanted = torch.stack(behind).mean() + 0.25 * torch.stack(inside).mean()
    assert_close(prefix_lm_mlm_loss(logits, ids, M, masked).double(), wanted, atol=1e-6, rtol=1e-6)


def test_without_the_token_behind_the_last_there_is_one_label_less():
    logits, ids, _ = case()
    wanted = cross_entropy(logits[:, M : N - 1].flatten(0, 1), ids[:, M + 1 : N].flatten())
    assert_close(prefix_lm_mlm_loss(logits, ids[:, :N], M).double(), wanted, atol=1e-6, rtol=1e-6)


def test_where_gradients_reach():
    """No next-token loss in the prefix, nor at its last position; masked losses at masked positions only."""
    logits, ids, masked = case()
    (both,) = torch.autograd.grad(prefix_lm_mlm_loss(logits, ids, M, masked), logits)
    reached = both.abs().sum(-1) > 0
    assert torch.equal(reached[:, :M], masked)
    assert reached[:, M:].all()
    (next_only,) = torch.autograd.grad(prefix_lm_mlm_loss(logits, ids, M), logits)
    assert next_only[:, :M].abs().max() == 0


def test_labels_of_the_masked_loss_are_not_shifted():
    logits, ids, masked = case()
    sure = torch.zeros_like(logits).scatter(2, ids[:, :N, None], 50.0)
    shifted = torch.zeros_like(logits).scatter(2, ids[:, 1:, None], 50.0)
    inside = [
        prefix_lm_mlm_loss(each[:, :M], ids[:, :M], M, masked, mlm_weight=1.0) for each in (sure, shifted)
    ]
    assert inside[0] < 1e-6
    assert inside[1] > 10


def test_token_zero_is_a_label():
    """Upstream chooses labels by `label > 0`."""
    logits = torch.zeros(1, 4, V)
    zeros = torch.zeros(1, 4, dtype=torch.int64)
    loss = prefix_lm_mlm_loss(logits, zeros, 4, torch.ones(1, 4, dtype=torch.bool), mlm_weight=1.0)
    assert abs(loss.item() - math.log(V)) < 1e-6


def test_nothing_masked_and_nothing_behind_are_zero_and_not_nan():
    logits, ids, masked = case()
    none = torch.zeros_like(masked)
    assert_close(prefix_lm_mlm_loss(logits, ids, M, none), prefix_lm_mlm_loss(logits, ids, M))
    only_prefix = prefix_lm_mlm_loss(logits[:, :M], ids[:, :M], M, none)
    assert only_prefix == 0
    assert torch.autograd.grad(only_prefix, logits)[0].abs().max() == 0


def test_ids_of_minus_one_hundred_are_no_labels():
    logits, ids, _ = case()
    short = ids.clone()
    short[:, 15:] = -100
    wanted = cross_entropy(logits[:, M:14].flatten(0, 1), ids[:, M + 1 : 15].flatten())
    assert_close(prefix_lm_mlm_loss(logits, short, M).double(), wanted, atol=1e-6, rtol=1e-6)


def test_without_a_prefix_it_is_the_ordinary_loss():
    logits, ids, _ = case()
    wanted = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert_close(prefix_lm_mlm_loss(logits, ids, 0).double(), wanted, atol=1e-6, rtol=1e-6)


def test_hidden_tokens_are_always_the_mask_and_in_the_prefix_only():
    ids = torch.randint(0, 9, (400, N))
    inputs, masked = masked_prefix(ids, M, 10, seed=3, step=2)
    assert masked.shape == (400, M)
    assert (inputs[:, :M][masked] == 10).all()
    assert torch.equal(inputs[:, :M][~masked], ids[:, :M][~masked])
    assert torch.equal(inputs[:, M:], ids[:, M:])
    assert 0.13 < masked.float().mean() < 0.17
    again, _ = masked_prefix(ids, M, 10, seed=3, step=2)
    other, _ = masked_prefix(ids, M, 10, seed=3, step=3)
    assert torch.equal(again, inputs)
    assert not torch.equal(other, inputs)
    assert masked_prefix(ids, 0, 10, seed=0)[1].shape == (400, 0)


def test_a_next_token_loss_in_the_prefix_would_leak():
    """A copy of the next token is in the prefix: positions inside it see the answer, those behind do not."""
    net, ids = model(enc_length=8), tokens(1, 20)
    changed = ids.clone()
    changed[:, 5] = (ids[:, 5] + 7) % 60
    moved = (net(changed).logits - net(ids).logits).abs().amax(-1)[0]
    assert moved[4] > 1e-6  # position 4 sees token 5, its label
    behind = ids.clone()
    behind[:, 13] = (ids[:, 13] + 7) % 60
    assert (net(behind).logits - net(ids).logits).abs().amax(-1)[0, 12] < 1e-12


def test_the_model_gives_this_loss():
    net, ids = model(), tokens(2, 21)
    inputs, masked = masked_prefix(ids[:, :-1], 8, 63, seed=0)
    out = net(inputs, labels=ids, masked=masked)
    wanted = prefix_lm_mlm_loss(out.logits, ids, 8, masked, mlm_weight=0.25)
    assert torch.equal(out.loss, wanted)
    assert (net.config.mlm_probability, net.config.mlm_weight) == (0.15, 0.25)
