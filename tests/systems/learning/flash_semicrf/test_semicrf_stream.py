"""The online filter and the operator: losses, certain segments, forced ones, endless streams, bad input."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from unending.core import Control, Query, Rows, Session, nbytes, replay
from unending.core.errors import InputError, KindError, NumericalError
from unending.systems.learning.flash_semicrf import (
    FlashSemiCRF,
    Potentials,
    Scores,
    Segment,
    SemiCRFDistribution,
    SemiMarkovCRF,
    StreamingSemiCRF,
)
from unending.systems.learning.flash_semicrf.function import log_partition
from unending.systems.learning.flash_semicrf.reference import naive_decisions, naive_losses, potentials_of


def scores(labels=3, durations=4, seed=0, forbidden=True):
    rng = np.random.default_rng(seed)
    transition = rng.standard_normal((labels, labels))
    if forbidden:
        np.fill_diagonal(transition, -1e9)
    drawn = [rng.standard_normal(shape) for shape in ((durations, labels), labels, labels)]
    return Scores(transition, *drawn)


def emissions(n, labels=3, seed=1, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal((n, labels))


def decisions(crf, rows, pieces):
    found, losses = [], []
    for piece in np.array_split(rows, pieces):
        seen = crf.push(piece)
        found += zip(seen.decided_at, seen.segments, strict=True)
        losses.append(seen.losses)
    return found + [(len(rows), each) for each in crf.finish()], np.concatenate(losses)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(("labels", "durations", "hop"), [(3, 4, 4), (2, 1, 1), (4, 7, 5), (1, 3, 2)])
def test_decisions_and_losses_are_those_of_the_naive_twin(scale, labels, durations, hop):
    held = scores(labels, durations, forbidden=labels > 1)
    rows = emissions(60, labels, scale=scale)
    found, losses = decisions(StreamingSemiCRF(held, hop, 40), rows, 7)
    wanted, _ = naive_decisions(held, rows, hop, 40)
    if labels > 1:  # segments of one label tie when their durations change places
        assert found == wanted
    np.testing.assert_allclose(losses, naive_losses(held, rows), rtol=0, atol=1e-9)
    assert (losses >= -1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_segments_are_those_of_viterbi_over_the_whole(seed):
    held, rows = scores(4, 6, seed), emissions(500, 4, seed)
    found, _ = decisions(StreamingSemiCRF(held, 8, 256), rows, 11)
    (best,) = SemiCRFDistribution(potentials_of(held, rows)).argmax
    assert [each for _, each in found] == best
    lags = [at - each.end for at, each in found]
    assert min(lags) >= 0
    assert np.mean(lags) < 60


def test_a_decision_is_forced_at_the_cap_and_what_follows_agrees_with_it():
    """Rows that say nothing: paths do not meet, until the cap makes them."""
    rng = np.random.default_rng(0)
    transition = 0.01 * rng.standard_normal((2, 2))
    np.fill_diagonal(transition, -1e9)
    held = Scores(transition, 0.01 * rng.standard_normal((4, 2)), np.zeros(2), np.zeros(2))
    rows = emissions(90, 2, scale=0.05)
    crf = StreamingSemiCRF(held, 2, 8)
    found, _ = decisions(crf, rows, 5)
    wanted, forced = naive_decisions(held, rows, 2, 8)
    assert found == wanted
    assert crf.state.forced == forced > 0
    segments = [each for _, each in found]
    assert segments[0].start == 0
    assert segments[-1].end == 90
    assert all(a.end == b.start and a.label != b.label for a, b in pairwise(segments))
    assert max(at - each.end for at, each in found) <= 8 + 2


def test_the_log_partition_so_far_is_that_of_the_rows_so_far():
    held, rows = scores(), emissions(30)
    crf = StreamingSemiCRF(held)
    assert crf.log_partition == 0.0
    for n, row in enumerate(rows, start=1):
        crf.push(row[None])
        cum = torch.from_numpy(np.concatenate([np.zeros((1, 3)), rows[:n].cumsum(0)]))[None]
        tables = (torch.from_numpy(getattr(held, name)) for name in ("transition", "duration"))
        ends = (torch.from_numpy(held.initial), torch.from_numpy(held.final))
        truth = log_partition(Potentials.of(cum, *tables, None, "pi", *ends))
        assert abs(crf.log_partition - truth.item()) < 1e-9


def test_where_emissions_are_log_likelihoods_losses_add_up_to_the_likelihood():
    """Normalised scores make a hidden semi-Markov model; its loss is -log p(x) up to each row's own normaliser."""
    rng = np.random.default_rng(0)
    transition, duration = np.log(rng.dirichlet(np.ones(3), 3)), np.log(rng.dirichlet(np.ones(2), 3).T)
    held = Scores(transition, duration, np.log(np.full(3, 1 / 3)), np.zeros(3))
    likelihood = np.log(rng.dirichlet(np.ones(3), 6))
    losses = StreamingSemiCRF(held).push(likelihood).losses
    # All ways of labelling six tokens, the last segment cut off or not.
    total = -np.inf
    paths = {(): 0.0}
    for _ in range(6):
        longer = {}
        for path, score in paths.items():
            at = sum(k for k, _ in path)
            if at >= 6:
                total = np.logaddexp(total, score)
                continue
            for c in range(3):
                lead = transition[path[-1][1], c] if path else held.initial[c]
                for k in (1, 2):
                    content = likelihood[at : min(6, at + k), c].sum()
                    longer[(*path, (k, c))] = score + lead + duration[k - 1, c] + content
        paths = longer
    total = np.logaddexp.reduce([total, *paths.values()])
    normalisers = np.logaddexp.reduce(likelihood, axis=1)
    assert abs(losses.sum() - (normalisers.sum() - total)) < 1e-9


def test_an_endless_stream_keeps_its_precision_and_its_size():
    held, rows = scores(), emissions(50_000) + 1e4
    crf = StreamingSemiCRF(held, 4, 64)
    size = nbytes(crf.state)
    for piece in np.array_split(rows, 50):
        seen = crf.push(piece)
        assert nbytes(crf.state) == size
    later = StreamingSemiCRF(held, 4, 64)
    fresh = later.push(rows[-1000:]).losses[-500:]
    np.testing.assert_allclose(seen.losses[-500:], fresh, rtol=0, atol=1e-9)


def test_an_operator_from_a_module_a_file_and_constants(tmp_path):
    module = SemiMarkovCRF(3, 4, centering="position", generator=torch.Generator().manual_seed(0))
    made = FlashSemiCRF.from_module(module, hop_rows=2, max_lag=32)
    Scores.of(module).save(tmp_path / "scores.safetensors")
    read = FlashSemiCRF(scores=str(tmp_path / "scores.safetensors"), hop_rows=2, max_lag=32)
    rows = Rows(emissions(40))
    one, other = replay(made, [rows]), replay(read, [rows])
    assert [each.data.encode()[0] for each in one] == [each.data.encode()[0] for each in other]
    assert read.weights_digest()
    assert read.domain() == {Rows: {"width": 3}}
    segments = [Segment(**each.data.value) for each in one if isinstance(each.data, Control)]
    with torch.no_grad():
        (best,) = module.decode(torch.from_numpy(rows.values)[None])
    np.testing.assert_equal(
        np.repeat([s.label for s in segments], [s.end - s.start for s in segments]),
        np.repeat([s.label for s in best], [s.end - s.start for s in best]),
    )
    for durations in ("geometric", "poisson", "uniform"):
        events = replay(FlashSemiCRF(width=3, durations=durations), [rows])
        assert events[0].data.names == ("loss",)
    module.restore, module.centering = True, "label"
    assert FlashSemiCRF.from_module(module).tables().duration.shape == (4, 3)


def test_what_cannot_be_set_is_refused(tmp_path):
    label = SemiMarkovCRF(3, 4)
    moving = SemiMarkovCRF(3, 4, duration_transitions=True, centering="none")
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    from safetensors.numpy import save_file

    save_file({"weights": np.zeros(3)}, tmp_path / "other.safetensors")
    scores().save(tmp_path / "three.safetensors")
    for call, message in (
        (lambda: FlashSemiCRF.from_module(label), 'centering is "position" or "none"'),
        (lambda: FlashSemiCRF.from_module(moving), r"transitions \[C, C\]"),
        (lambda: FlashSemiCRF().init(), "number of labels is not known"),
        (lambda: FlashSemiCRF().bound(), "number of labels is not known"),
        (lambda: FlashSemiCRF(width=-1), "width is 0 or more"),
        (lambda: FlashSemiCRF(durations="cauchy"), "durations are"),
        (lambda: FlashSemiCRF(mean_duration=1.0), "mean_duration is"),
        (lambda: FlashSemiCRF(max_lag=3), "max_lag is 3"),
        (lambda: FlashSemiCRF(width=3, scores=str(tmp_path / "gone")).init(), "cannot read the scores"),
        (lambda: FlashSemiCRF(scores=str(tmp_path / "no.safetensors")).init(), "cannot read the scores"),
        (lambda: FlashSemiCRF(scores=str(tmp_path / "other.safetensors")).init(), "wanted are transition"),
        (lambda: FlashSemiCRF(width=4, scores=str(tmp_path / "three.safetensors")).init(), "width is 4"),
        (lambda: FlashSemiCRF(width=3, duration=(0.0,)).init(), "do not fit 3 labels"),
        (lambda: FlashSemiCRF.from_tables(np.zeros((2, 2)), np.full((3, 2), np.nan)), "holds NaN"),
        (lambda: FlashSemiCRF.from_tables(np.zeros((2, 3)), np.zeros((3, 2))), "transition is"),
        (lambda: FlashSemiCRF.from_tables(np.zeros((2, 2)), np.zeros(())), "duration is"),
        (lambda: Scores(np.zeros((2, 2)), np.zeros((0, 2)), np.zeros(2), np.zeros(2)), "K, C >= 1"),
        (lambda: StreamingSemiCRF(scores()).push([["a", "b", "c"]]), "numbers"),
        (lambda: StreamingSemiCRF(scores(), 4, 7), "max_lag is 7, accepted is 2 K = 8"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Rows(np.full((2, 3), np.nan)), "NaN"),
        (Rows(np.zeros((2, 4))), "row width is 4, accepted is 3"),
        (Rows(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1e12]])), "row 11 differ by 1e"),
        (Rows(np.array([[1.7e308, -1.7e308, 0.0]])), r"row 10 reach 1.7e\+308"),
        (Rows(np.full((2, 3), 1e300)), "row 10 reach 1e"),
        (Query("why?"), "takes Rows"),
    ],
)
def test_bad_rows_change_nothing(bad, message):
    session = Session(FlashSemiCRF.example())
    session.push(Rows(emissions(10)))
    session.poll()
    before = session.snapshot()
    with pytest.raises((InputError, KindError), match=message):
        session.push(bad)
    assert session.snapshot() == before
    session.push(Rows(np.zeros((0, 3))))
    assert session.poll() == []
    session.push(Rows(emissions(3)))


def test_an_empty_stream_has_no_segment():
    assert replay(FlashSemiCRF.example(), []) == []
    assert StreamingSemiCRF(scores()).finish() == []


def test_scores_that_end_every_path_are_told():
    held = Scores(np.array([[-np.inf]]), np.zeros((2, 1)), np.zeros(1), np.zeros(1))
    crf = StreamingSemiCRF(held)
    crf.push(np.zeros((2, 1)))
    with pytest.raises(NumericalError, match="no segmentation possible at position 2"):
        crf.push(np.zeros((1, 1)))
    assert crf.state.position == 2
    assert crf.finish() == [Segment(0, 2, 0)]
