"""The log partition and its gradients: against every segmentation, the naive twin, and what is known in closed form."""

import json
import subprocess
import sys

import pytest
import torch
from tests.systems.learning.flash_semicrf.semicrf_cases import case, draw

from unending.core.errors import InputError, NumericalError
from unending.systems.learning.flash_semicrf import (
    Potentials,
    SemiCRFDistribution,
    checkpoint_interval,
    prefix_sums,
    semi_crf_log_partition,
)
from unending.systems.learning.flash_semicrf.function import log_partition, posteriors, scan
from unending.systems.learning.flash_semicrf.naive import naive_log_partition, path_score, segmentations

BACKENDS = ("compiled", "vectorised")
WEIGHTS = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def gradients(total, leaves):
    return torch.autograd.grad((total * WEIGHTS[: len(total)]).sum(), leaves)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("start", ["pi", "virtual"])
@pytest.mark.parametrize(("length", "durations", "labels"), [(6, 3, 2), (5, 4, 2), (4, 2, 3), (4, 1, 3)])
def test_equals_the_sum_over_every_segmentation(static, start, length, durations, labels):
    leaves, potentials = case(
        [length, length - 2], durations, labels, static=static, start=start, projections=True
    )
    p = potentials()
    scores = [
        torch.stack([path_score(p, b, path) for path in segmentations(n, durations, labels)])
        for b, n in enumerate((length, length - 2))
    ]
    truth = torch.stack([torch.logsumexp(each, 0) for each in scores])
    wanted = gradients(truth, leaves)
    for backend in BACKENDS:
        total = log_partition(potentials(), 2, backend)
        torch.testing.assert_close(total, truth, rtol=0, atol=1e-10)
        for mine, theirs in zip(gradients(total, leaves), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
        for b, each in enumerate(scores):
            assert abs((each - total[b]).exp().sum().item() - 1) < 1e-10


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("interval", [1, 2, 5, 6, 7, 50, None])
def test_any_checkpoint_interval_and_mixed_lengths_give_the_naive_result(backend, static, interval):
    """Rows end on, before and behind a checkpoint; intervals shorter than K; one row of a single token."""
    for durations, scale in ((5, 1.0), (5, 40.0), (1, 40.0), (2, 40.0)):
        leaves, potentials = case([21, 12, 1], durations, 3, static=static, projections=True, scale=scale)
        truth = naive_log_partition(potentials())
        total = log_partition(potentials(), interval, backend)
        torch.testing.assert_close(total, truth, rtol=1e-9, atol=0)
        for mine, theirs in zip(gradients(total, leaves), gradients(truth, leaves), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [(10, 4, 4), (5, 10, 5), (6, 9, 10)])
def test_a_short_row_does_not_shift_with_its_neighbours(backend, lengths):
    """Normalising a row that has ended would add its neighbours' shifts to its log partition."""
    _, potentials = case(lengths, 3, 2, scale=20.0)
    p = potentials()
    together = log_partition(p, 2, backend)
    for b, length in enumerate(lengths):
        own = Potentials.of(
            p.cum_scores[b : b + 1, : length + 1], p.transition, p.duration, None, "pi", p.initial, p.final
        )
        torch.testing.assert_close(log_partition(own, 2, backend)[0], together[b], rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("static", [True, False])
def test_gradcheck(backend, static):
    leaves, potentials = case([6, 1, 4], 3, 2, static=static, projections=True)
    assert torch.autograd.gradcheck(lambda *given: log_partition(potentials(*given), 2, backend), leaves)


def test_a_second_derivative_is_refused():
    leaves, potentials = case([6], 3, 2)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(log_partition(potentials()).sum(), leaves[:1], create_graph=True)


def test_drift_over_many_checkpoints_is_put_back_at_each_segment():
    """Emissions far from zero: the offset of a segment's own checkpoint decides whether its posterior is right."""
    leaves, potentials = case([40], 4, 3, centering="none", scale=1.0)
    with torch.no_grad():
        leaves[0] += 300.0
    truth = naive_log_partition(potentials())
    wanted = gradients(truth, leaves)
    for backend in BACKENDS:
        total = log_partition(potentials(), 5, backend)
        torch.testing.assert_close(total, truth, rtol=1e-12, atol=0)
        for mine, theirs in zip(gradients(total, leaves), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("forbidden", [-1e9, -torch.inf])
@pytest.mark.parametrize("start", ["pi", "virtual"])
def test_what_is_forbidden_never_happens_and_gives_no_nan(backend, forbidden, start):
    emissions = draw(1, 30, 3)
    transition = draw(3, 3, seed=1)
    transition.fill_diagonal_(forbidden)
    transition[:, 2] = forbidden
    duration = draw(4, 3, seed=2)
    duration[0] = forbidden
    initial = torch.tensor([0.0, 0.0, forbidden], dtype=torch.float64)
    leaves = [
        each.requires_grad_()
        for each in (emissions, transition, duration, initial)[: 4 if start == "pi" else 3]
    ]
    given = (None, "pi", initial) if start == "pi" else (None, "virtual")
    p = Potentials.of(prefix_sums(emissions)[0], transition, duration, *given)
    total = log_partition(p, 5, backend)
    assert total.isfinite().all()
    found = torch.autograd.grad(total.sum(), leaves)
    assert all(each.isfinite().all() for each in found)
    if start == "pi":  # the virtual source may be of any label
        assert (found[1].diagonal() == 0).all()
    assert (found[1][:, 2] == 0).all()
    assert (found[2][0] == 0).all()
    assert (found[2][:, 2] == 0).all()
    assert posteriors(p, 5, backend).starts[..., 2].abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_possible_is_impossible_and_not_log_c_above_it(backend):
    """Two tokens cannot be made of segments of three."""
    duration = torch.tensor([[-torch.inf], [-torch.inf], [0.0]], dtype=torch.float64).expand(3, 4)
    p = Potentials.of(
        torch.zeros(1, 3, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64), duration
    )
    assert log_partition(p, 1, backend).item() <= -1e29


def test_centring_by_label_is_another_model_and_restore_or_position_are_not():
    emissions = draw(1, 12, 3) + torch.tensor([3.0, -1.0, 0.0])
    transition, duration = draw(3, 3, seed=1), draw(4, 3, seed=2)

    def starts(centering):
        return posteriors(
            Potentials.of(prefix_sums(emissions, None, centering)[0], transition, duration)
        ).starts

    torch.testing.assert_close(starts("position"), starts("none"), rtol=0, atol=1e-12)
    assert (starts("label") - starts("none")).abs().max() > 0.05
    cum, mean = prefix_sums(emissions)
    put_back = duration + torch.arange(1, 5)[:, None] * mean[0]
    restored = Potentials.of(cum, transition, put_back)
    torch.testing.assert_close(posteriors(restored).starts, starts("none"), rtol=0, atol=1e-12)
    free = Potentials.of(prefix_sums(emissions, None, "none")[0], transition, duration)
    torch.testing.assert_close(log_partition(restored), log_partition(free), rtol=1e-12, atol=0)


def test_means_are_taken_over_true_lengths_and_a_single_position_stays():
    emissions = draw(2, 6, 2)
    cum, mean = prefix_sums(emissions, torch.tensor([4, 1]))
    torch.testing.assert_close(mean[0], emissions[0, :4].mean(0))
    assert cum[0, 4].abs().max() < 1e-12
    assert (cum[0, 4:] == cum[0, 4]).all()
    torch.testing.assert_close(cum[1, 1], emissions[1, 0])
    assert (mean[1] == 0).all()


def test_the_interval_follows_the_rule():
    assert checkpoint_interval(100_000, 32) == 64
    assert checkpoint_interval(100, 4) == 20
    assert checkpoint_interval(100_000, 1000) == 1000
    assert checkpoint_interval(100_000, 16, torch.float32) == 32


def test_posteriors_tile_a_hundred_thousand_positions():
    """Over every token the probabilities of the segments that cover it sum to 1."""
    emissions = draw(1, 100_000, 4) + torch.tensor([3.0, -0.3, 1.0, 0.0])
    p = Potentials.of(prefix_sums(emissions)[0], draw(4, 4, seed=1), draw(16, 4, seed=2))
    found = posteriors(p)
    before = torch.cat([torch.zeros(1, 1, 4, dtype=torch.float64), found.ends[:, :-1]], 1)
    covered = (found.starts - before).cumsum(1)
    assert covered.min() > -1e-8
    torch.testing.assert_close(covered.sum(2), torch.ones(1, 100_000, dtype=torch.float64), rtol=0, atol=1e-8)
    held = scan(p)
    edge = 100_000 * 16 * 4 * 4 * 8
    assert held.checkpoints.nbytes + held.offsets.nbytes < edge / 100


def test_a_hundred_thousand_positions_leave_no_edge_tensor_in_memory():
    program = """
import json, resource, torch
from unending.systems.learning.flash_semicrf import Potentials, semi_crf_log_partition
def go(n):
    cum = torch.randn(1, n + 1, 8, dtype=torch.float64).cumsum(1).requires_grad_()
    zeros = torch.zeros(8, 8, dtype=torch.float64), torch.zeros(32, 8, dtype=torch.float64)
    semi_crf_log_partition(cum, *zeros).sum().backward()
    return cum.grad.isfinite().all().item()
go(64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([go(100_000), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    finite, kib = json.loads(done.stdout)
    # Prefix sums and their gradient are 6.4 MB each; the edge tensor would be 1.6 GB.
    assert finite
    assert kib < 100_000


def test_float32_messages_need_normalisation():
    """The table of the benchmark in small: T=20,000, K=16, C=4, all state float32."""
    emissions = draw(1, 20_000, 4) + torch.tensor([3.0, -0.3, 1.0, 0.0])
    transition, duration = draw(4, 4, seed=1), draw(16, 4, seed=2)

    def error(centering, interval):
        truth = log_partition(Potentials.of(prefix_sums(emissions, None, centering)[0], transition, duration))
        cum = prefix_sums(emissions, None, centering, torch.float32)[0].requires_grad_()
        total = log_partition(Potentials.of(cum, transition, duration), interval)
        (grad,) = torch.autograd.grad(total.sum(), [cum])
        assert grad.isfinite().all()
        return abs((total.double() - truth) / truth).item()

    assert error("label", 32) < 1e-6
    assert error("none", 32) < 1e-6
    assert error("none", 20_000) > 10 * error("none", 32)


def test_a_row_without_any_segmentation_gives_no_gradient_and_no_path():
    cum = torch.zeros(2, 5, 2, dtype=torch.float64).requires_grad_()
    duration = torch.tensor([[-torch.inf] * 2, [-torch.inf] * 2, [0.0] * 2], dtype=torch.float64)
    lengths = torch.tensor([4, 3])  # four tokens cannot be made of segments of three
    for backend in BACKENDS:
        total = semi_crf_log_partition(cum, torch.zeros(2, 2), duration, lengths, start="pi", backend=backend)
        (grad,) = torch.autograd.grad(total.sum(), [cum])
        assert (grad[0] == 0).all()
        torch.testing.assert_close(grad[1, 3], torch.full((2,), 0.5, dtype=torch.float64))
    found = SemiCRFDistribution(Potentials.of(cum, torch.zeros(2, 2), duration, lengths, "pi"))
    assert found.marginals[1].sum(2).tolist() == [[0.0] * 4, [1.0] * 3 + [0.0]]
    for call in (found.best, found.sample, lambda: found.entropy):
        with pytest.raises(NumericalError, match="leave row 0 no segmentation"):
            call()


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.float32])
def test_tables_of_another_dtype_are_taken_in_that_of_the_scores(narrow):
    cum, square, table = draw(1, 6, 2), draw(2, 2, seed=1).to(narrow), draw(3, 2, seed=2).to(narrow)
    for start in ("pi", "virtual"):
        total = semi_crf_log_partition(cum, square, table, start=start)
        assert total.dtype == torch.float64
        truth = naive_log_partition(Potentials.of(cum, square.double(), table.double(), None, start))
        torch.testing.assert_close(total, truth, rtol=1e-12, atol=0)


def test_what_does_not_fit_is_refused():
    cum, square, table = torch.zeros(1, 4, 2), torch.zeros(2, 2), torch.zeros(3, 2)
    for given, settings, message in (
        ((cum[0], square, table), {}, "cum_scores are"),
        ((cum[:, :1], square, table), {}, "T, C >= 1, got"),
        ((cum, torch.zeros(3, 3), table), {}, "transition is"),
        ((cum, square, torch.zeros(3, 3)), {}, "duration is"),
        ((cum, square, table, torch.tensor([0])), {}, "length 0 is outside the accepted 1 to 3"),
        ((cum, square, table, torch.tensor([4])), {}, "length 4 is outside"),
        ((cum, square, table, torch.tensor([1.5])), {}, "lengths are 1 integers"),
        ((cum, square, table), {"start": "nowhere"}, "start is"),
        ((cum, square, table), {"initial": torch.zeros(2)}, 'need start="pi"'),
        ((cum, square, table), {"interval": 0}, "checkpoint interval is 0"),
        ((cum, square, table), {"backend": "magic"}, "backend is one of"),
        ((cum.half(), square, table), {}, "float32 or float64"),
        ((cum, square, table), {"start_scores": torch.zeros(1, 2, 2)}, "start_scores are"),
        ((cum, square * torch.nan, table), {}, "NaN"),
        ((cum[:0], square, table), {}, "batch, T, C >= 1"),
        ((cum.long(), square, table), {}, "float32 or float64, got torch.int64"),
        ((cum, square.to("meta"), table), {}, "transition is on meta, cum_scores are on cpu"),
        ((cum, square, table), {"start": "pi", "initial": table}, r"initial scores are \[2\]"),
        (
            (cum, torch.zeros(3, 2, 2), table),
            {"start": "pi", "initial": square},
            r"initial scores are \[3, 2\]",
        ),
        ((cum, square, table), {"start": "pi", "final": table}, r"final scores are \[2\]"),
        ((cum, square, table), {"interval": 1.5}, "checkpoint interval is 1.5"),
        ((cum - 1e31, square, table), {}, "cum_scores holds NaN, infinity or a score beyond 1e"),
        ((cum, square + 1e31, table), {}, "transition holds NaN, infinity or a score beyond 1e"),
    ):
        with pytest.raises(InputError, match=message):
            semi_crf_log_partition(*given, **settings)
    for emissions, lengths, centering, message in (
        (torch.zeros(1, 0, 2), None, "none", "T, C >= 1"),
        (torch.zeros(1, 3, 2), torch.tensor([0]), "none", "length 0"),
        (torch.full((1, 3, 2), torch.nan), None, "none", "NaN or infinity"),
        (torch.zeros(1, 3, 2), None, "median", "centering is"),
    ):
        with pytest.raises(InputError, match=message):
            prefix_sums(emissions, lengths, centering)
