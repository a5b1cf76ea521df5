"""torch-struct 0.5, row by row: it gives wrong results on rows of mixed lengths."""

import warnings

import pytest
import torch
from tests.systems.learning.flash_semicrf.semicrf_cases import draw

from unending.systems.learning.flash_semicrf import Potentials, SemiCRFDistribution, prefix_sums


@pytest.fixture
def torch_struct(needs):
    needs("torch_struct")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_struct
    return torch_struct


def edges(p):
    """`edge[b, n, k, c, c']`: a segment of label c starts at n, lasts k, and follows one of label c'."""
    cum, size = p.cum_scores.detach(), p.max_duration
    batch, positions, labels = cum.shape
    edge = cum.new_full((batch, positions - 1, size + 1, labels, labels), -1e9)
    for k in range(1, min(size, positions - 1) + 1):
        content = cum[:, k:] - cum[:, :-k] + p.duration.detach()[k - 1]
        move = p.transition.detach() if p.static else p.transition.detach()[k - 1]
        edge[:, : positions - k, k] = content[..., None] + move.T
    return edge


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("length", "durations"), [(9, 3), (6, 5), (5, 1), (2, 2)])
def test_partition_and_marginals_are_those_of_torch_struct(torch_struct, static, length, durations):
    labels = 3
    transition = draw(labels, labels) if static else draw(durations, labels, labels)
    p = Potentials.of(
        prefix_sums(draw(1, length, labels, seed=1))[0], transition, draw(durations, labels, seed=2)
    )
    if durations == 1:
        # Its semi-Markov chart needs two durations; forbid the second.
        edge = torch.cat([edges(p), torch.full_like(edges(p)[:, :, :1], -1e9)], 2)
    else:
        edge = edges(p)
    peer = torch_struct.SemiMarkovCRF(edge, lengths=torch.tensor([length + 1]))
    ours = SemiCRFDistribution(p, interval=2)
    torch.testing.assert_close(ours.partition, peer.partition.reshape(1), rtol=0, atol=1e-10)
    marginals = peer.marginals.sum(-1)
    starts = marginals.sum(2)[0]
    torch.testing.assert_close(ours.posteriors.starts[0], starts, rtol=0, atol=1e-8)
    queries = torch.tensor(
        [
            [0, n, k, c]
            for n in range(length)
            for k in range(1, min(durations, length - n) + 1)
            for c in range(labels)
        ]
    )
    wanted = marginals[0][queries[:, 1], queries[:, 2], queries[:, 3]]
    torch.testing.assert_close(ours.segment_posterior(queries), wanted, rtol=0, atol=1e-8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("static", [True, False])
def test_one_duration_is_a_linear_chain(torch_struct, static):
    length, labels = 8, 3
    emissions, transition = draw(1, length, labels), draw(labels, labels, seed=1)
    given = transition if static else transition[None]
    p = Potentials.of(
        prefix_sums(emissions, None, "none")[0], given, torch.zeros(1, labels).double(), start="pi"
    )
    # Its edges hold the emission of the token they lead to; the first token's stands on the first edge.
    edge = (emissions[:, 1:, :, None] + transition.T).clone()
    edge[:, 0] += emissions[:, 0, None, :]
    peer = torch_struct.LinearChainCRF(edge)
    ours = SemiCRFDistribution(p, interval=3)
    torch.testing.assert_close(ours.partition, peer.partition.reshape(1), rtol=0, atol=1e-10)
    position = torch.cat([peer.marginals[:, :1].sum(2), peer.marginals.sum(3)], 1)
    torch.testing.assert_close(ours.marginals[1], position, rtol=0, atol=1e-8)
    assert [segment.label for segment in ours.argmax[0]] == position_path(peer)


def position_path(peer):
    best = peer.argmax[0].detach()
    return [int(best[0].sum(0).argmax()), *(int(each.sum(1).argmax()) for each in best)]
