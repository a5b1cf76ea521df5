"""The layer: losses, decoding, settings, learning."""

import numpy as np
import pytest
import torch
from tests.systems.learning.flash_semicrf.semicrf_cases import draw

from unending.core.errors import InputError
from unending.systems.learning.flash_semicrf import SemiMarkovCRF, labels_to_segments, segments_to_labels
from unending.systems.learning.flash_semicrf.durations import DISTRIBUTIONS, DurationScores
from unending.systems.learning.flash_semicrf.naive import segmentations

LENGTHS = torch.tensor([5, 3])


def seeded(*given, **settings):
    return SemiMarkovCRF(*given, **settings, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"centering": "position"},
        {"centering": "label", "restore": True},
        {"duration_transitions": True},
        {"use_sequence_boundaries": False},
        {"backend": "vectorised", "checkpoint_interval": 2},
    ],
    ids=str,
)
def test_likelihoods_of_all_segmentations_sum_to_one(settings):
    crf = seeded(2, 3, init_scale=1.0, **settings)
    h = draw(2, 5, 2)
    paths = list(segmentations(5, 3, 2))
    other = next(segmentations(3, 3, 2))
    with torch.no_grad():
        odds = [
            (-crf.nll(h, LENGTHS, segments=[path, other], reduction="none")[0]).exp().item() for path in paths
        ]
    assert abs(sum(odds) - 1) < 1e-10
    (best, _) = crf.decode(h, LENGTHS)
    assert segments_to_labels(best).tolist() == segments_to_labels(paths[int(np.argmax(odds))]).tolist()


def test_restore_is_the_model_without_centring():
    h, labels = draw(2, 9, 4), torch.randint(3, (2, 9), generator=torch.Generator().manual_seed(0))
    restored = seeded(3, 4, 4, use_boundary_projections=True, restore=True)
    free = seeded(3, 4, 4, use_boundary_projections=True, centering="none")
    free.load_state_dict(restored.state_dict())
    centred = seeded(3, 4, 4, use_boundary_projections=True)
    centred.load_state_dict(restored.state_dict())
    h = h.float()
    loss = restored.nll(h, labels=labels)
    torch.testing.assert_close(loss, free.nll(h, labels=labels), rtol=1e-6, atol=0)
    assert abs(loss - centred.nll(h, labels=labels)) > 1e-4
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in restored.parameters())


def test_labels_and_segments_give_one_loss_and_reductions_agree():
    crf = seeded(2, 2)
    h, labels = draw(2, 5, 2), torch.tensor([[0, 0, 0, 1, 1], [1, 0, 0, 0, 0]])
    paths = [labels_to_segments(row[:n], 2) for row, n in zip(labels.tolist(), LENGTHS.tolist(), strict=True)]
    each = crf.nll(h, LENGTHS, labels, reduction="none")
    torch.testing.assert_close(each, crf.nll(h, LENGTHS, segments=paths, reduction="none"))
    torch.testing.assert_close(each.mean(), crf(h, LENGTHS, labels))
    torch.testing.assert_close(each.sum(), crf.nll(h, LENGTHS, labels, reduction="sum"))
    torch.testing.assert_close(each.sum() / 8, crf.nll(h, LENGTHS, labels, reduction="token"))
    assert (each > 0).all()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_durations(name):
    scores = DurationScores(2, 500, name)
    table = scores()
    assert table.shape == (500, 2)
    if name in ("geometric", "negative_binomial", "uniform"):
        torch.testing.assert_close(table.exp().sum(0), torch.ones(2, dtype=torch.float64), rtol=1e-6, atol=0)
    if name != "uniform":
        table.sum().backward()
        assert all(p.grad.isfinite().all() for p in scores.parameters())


def test_durations_of_ones_own_and_known_values():
    table = torch.arange(6.0).reshape(3, 2)
    assert DurationScores(2, 3, lambda k, c: table)() is table
    poisson = DurationScores(1, 3, "poisson")
    wanted = torch.exp(torch.tensor(-1.0)) / torch.tensor([1.0, 2.0, 6.0])
    torch.testing.assert_close(poisson().exp().flatten(), wanted.double())
    with pytest.raises(InputError, match="durations are learned"):
        DurationScores(2, 3, "cauchy")


def test_marginals_entropy_samples_and_conventions():
    crf, h = seeded(3, 4), draw(2, 5, 3)
    boundary, position = crf.marginals(h, LENGTHS)
    torch.testing.assert_close(position.sum(2), (torch.arange(5) < LENGTHS[:, None]).double())
    torch.testing.assert_close(boundary[torch.arange(2), LENGTHS - 1], torch.ones(2, dtype=torch.float64))
    assert (crf.entropy(h, LENGTHS) > 0).all()
    drawn = crf.sample(h, LENGTHS, 3, torch.Generator().manual_seed(0))
    assert len(drawn) == 3
    assert [rows[1][-1].end for rows in drawn] == [3, 3, 3]
    assert not torch.equal(crf.log_partition(h, LENGTHS), crf.log_partition(h, LENGTHS, start="virtual"))


def test_it_learns():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.repeat(rng.integers(0, 3, (4, 12)), 5, axis=1))
    h = torch.nn.functional.one_hot(labels, 3).double() + 0.5 * draw(4, 60, 3)
    crf = seeded(3, 8, centering="position")
    optimizer = torch.optim.Adam(crf.parameters(), 0.1)
    losses = []
    for _ in range(30):
        loss = crf.nll(h, labels=labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    found = torch.stack([segments_to_labels(path) for path in crf.decode(h)])
    assert (found == labels).double().mean() > 0.85


def test_what_does_not_fit_is_refused():
    crf, h = seeded(2, 3), draw(2, 5, 2)
    for call, message in (
        (lambda: SemiMarkovCRF(0, 3), "1 or more"),
        (lambda: SemiMarkovCRF(2, 0), "1 or more"),
        (lambda: SemiMarkovCRF(2, 3, centering="none", restore=True), "restore puts back"),
        (lambda: SemiMarkovCRF(2, 3, use_boundary_projections=True), "give hidden_dim"),
        (lambda: crf.nll(h), "either labels or segments"),
        (lambda: crf.nll(h, labels=torch.zeros(2, 4, dtype=torch.int64)), "labels are"),
        (lambda: crf.nll(h, labels=torch.full((2, 5), 2)), "label 2 is outside"),
        (lambda: crf.nll(h, labels=torch.zeros(2, 5, dtype=torch.int64), reduction="max"), "reduction is"),
        (lambda: crf.nll(h, labels=torch.full((2, 5), 0.5)), "labels are whole numbers"),
        (lambda: crf.nll(h[0, 0], labels=torch.zeros(2, dtype=torch.int64)), "the input is"),
        (lambda: crf.nll(h[:0], labels=torch.zeros(0, 5, dtype=torch.int64)), "batch >= 1"),
        (lambda: crf.decode(h[:0]), "batch >= 1"),
        (lambda: crf.nll(h, segments=[[(0, 2), (2, 5)]] * 2), "a segment is"),
        (lambda: crf.nll(h, segments=[[(0, 2, 0.7), (2, 5, 0)]] * 2), "a segment is"),
        (lambda: crf.sample(h, n=-1), "number of samples is -1"),
        (lambda: crf.decode(h[..., :1]), "the input is"),
        (lambda: crf.decode(h, torch.tensor([5, 0])), "length 0"),
        (lambda: crf.decode(h * torch.nan), "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            call()
