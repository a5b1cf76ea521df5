"""Segmentations: the best, samples, marginals, entropy and gold scores against every segmentation."""

import pytest
import torch
from tests.systems.learning.flash_semicrf.semicrf_cases import case

from unending.core.errors import InputError
from unending.systems.learning.flash_semicrf import (
    Segment,
    SemiCRFDistribution,
    gold_score,
    labels_to_segments,
    segments_to_labels,
)
from unending.systems.learning.flash_semicrf.naive import path_score, segmentations

CASES = [(True, 6, 4, 2), (False, 5, 3, 2), (True, 4, 1, 3), (False, 5, 5, 2)]


def listed(potentials, b):
    """Every segmentation of row b, its score, its probability."""
    length, (durations, labels) = int(potentials.lengths[b]), potentials.duration.shape
    paths = list(segmentations(length, durations, labels))
    scores = torch.stack([path_score(potentials, b, path) for path in paths]).detach()
    return paths, scores, scores.softmax(0)


@pytest.fixture(params=CASES, ids=str)
def potentials(request):
    static, length, durations, labels = request.param
    return case([length, length - 2], durations, labels, static=static, projections=True)[1]()


@pytest.mark.parametrize("interval", [1, 2, 3, None])
def test_marginals_entropy_and_queries(potentials, interval):
    found = SemiCRFDistribution(potentials, interval)
    boundary, position = found.marginals
    for b in range(2):
        paths, _, odds = listed(potentials, b)
        ends, labels, segments = torch.zeros_like(boundary[b]), torch.zeros_like(position[b]), {}
        for path, p in zip(paths, odds, strict=True):
            for start, end, label in path:
                ends[end - 1] += p
                labels[start:end, label] += p
                segments[b, start, end - start, label] = segments.get((b, start, end - start, label), 0) + p
        torch.testing.assert_close(boundary[b], ends, rtol=0, atol=1e-10)
        torch.testing.assert_close(position[b], labels, rtol=0, atol=1e-10)
        asked = found.segment_posterior(torch.tensor(list(segments)))
        torch.testing.assert_close(asked, torch.stack(list(segments.values())), rtol=0, atol=1e-10)
        torch.testing.assert_close(found.entropy[b], -(odds * odds.log()).sum(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("interval", [1, 2, 3, None])
@pytest.mark.parametrize("keep", [True, False])
def test_the_best_segmentation(potentials, interval, keep):
    scores, best = SemiCRFDistribution(potentials, interval).best(keep)
    for b in range(2):
        paths, listed_scores, _ = listed(potentials, b)
        torch.testing.assert_close(scores[b], listed_scores.max(), rtol=0, atol=1e-10)
        assert (
            segments_to_labels(best[b]).tolist() == segments_to_labels(paths[listed_scores.argmax()]).tolist()
        )


@pytest.mark.parametrize("interval", [1, 3, None])
def test_samples_have_the_right_marginals(potentials, interval):
    count = 3000
    found = SemiCRFDistribution(potentials, interval)
    drawn = found.sample(count, torch.Generator().manual_seed(0))
    boundary, position = found.marginals
    for b in range(2):
        ends, labels = torch.zeros_like(boundary[b]), torch.zeros_like(position[b])
        for rows in drawn:
            for start, end, label in rows[b]:
                ends[end - 1] += 1 / count
                labels[start:end, label] += 1 / count
        assert (ends - boundary[b]).abs().max() < 0.05
        assert (labels - position[b]).abs().max() < 0.05
    again = found.sample(5, torch.Generator().manual_seed(0))
    assert again[0] == SemiCRFDistribution(potentials, 2).sample(5, torch.Generator().manual_seed(0))[0]


def test_probabilities_of_all_segmentations_sum_to_one(potentials):
    """The gold score and log Z count transitions, durations and boundaries alike."""
    found = SemiCRFDistribution(potentials)
    ones, others = listed(potentials, 0)[0], listed(potentials, 1)[0]
    total = sum(found.log_prob([path, others[0]])[0].exp().item() for path in ones)
    assert abs(total - 1) < 1e-10
    total = sum(found.log_prob([ones[0], path])[1].exp().item() for path in others)
    assert abs(total - 1) < 1e-10


def test_labels_become_segments_and_long_runs_are_cut():
    assert labels_to_segments([1, 1, 1, 1, 1, 0, 0, 1], 2) == [
        Segment(0, 2, 1),
        Segment(2, 4, 1),
        Segment(4, 5, 1),
        Segment(5, 7, 0),
        Segment(7, 8, 1),
    ]
    labels = torch.randint(3, (50,), generator=torch.Generator().manual_seed(0))
    assert segments_to_labels(labels_to_segments(labels, 4)).tolist() == labels.tolist()
    with pytest.raises(InputError, match="at least one"):
        labels_to_segments([], 4)
    with pytest.raises(InputError, match="largest duration is 0"):
        labels_to_segments([1], 0)
    assert segments_to_labels([]).tolist() == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ([(0, 0, 1), (0, 5, 0)], "0..0 is empty"),
        ([(0, 2, 1), (3, 5, 0)], "starts at 3, the one before it ends at 2"),
        ([(0, 3, 1), (3, 4, 0)], "cover 4 of 5 tokens"),
        ([(0, 5, 0)], "longer than the largest duration 3"),
        ([(0, 3, 2), (3, 5, 0)], "label 2 is outside the accepted 0 to 1"),
        ([], "cover 0 of 5"),
    ],
)
def test_segments_that_do_not_tile_a_row_are_refused(path, message):
    p = case([5], 3, 2)[1]()
    with pytest.raises(InputError, match=message):
        gold_score(p, [path])


def test_other_queries_are_refused():
    found = SemiCRFDistribution(case([5, 3], 3, 2)[1]())
    outside = ([2, 0, 1, 0], [-1, 0, 1, 0], [0, 0, 1, 2], [0, 0, 1, -1])
    for query in ([0, -1, 1, 0], [0, 0, 4, 0], [1, 2, 2, 0], [0, 0, 0, 0], *outside):
        with pytest.raises(InputError, match="is not one of this distribution"):
            found.segment_posterior(torch.tensor([query]))
    for query in (torch.tensor([0, 0, 1, 0]), torch.zeros(1, 4)):
        with pytest.raises(InputError, match="queries are whole numbers"):
            found.segment_posterior(query)
    with pytest.raises(InputError, match="the checkpoint interval is 0"):
        SemiCRFDistribution(found.potentials, 0)
    with pytest.raises(InputError, match="lists of segments for 2 rows"):
        found.log_prob([[(0, 3, 1), (3, 5, 0)]])


def test_the_gold_score_is_differentiable():
    leaves, potentials = case([5, 3], 3, 2, static=False, projections=True)
    path = [[(0, 3, 1), (3, 5, 0)], [(0, 1, 0), (1, 3, 1)]]
    score = gold_score(potentials(), path)
    wanted = torch.stack([path_score(potentials(), b, each) for b, each in enumerate(path)])
    torch.testing.assert_close(score, wanted)
    for mine, theirs in zip(
        torch.autograd.grad(score.sum(), leaves), torch.autograd.grad(wanted.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
