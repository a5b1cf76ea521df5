"""The method: exact cases, the naive twin, heavy rows, thinning, order; each with the toy that fails."""

from itertools import pairwise

import numpy as np
import pytest

from unending.core import fork, nbytes
from unending.core.errors import InputError
from unending.laws.equality import state_difference
from unending.parts.numerics.power import correlation, top_right_singular
from unending.systems.learning.streaming_top_eigenvector import Settings
from unending.systems.learning.streaming_top_eigenvector import kernels as at
from unending.systems.learning.streaming_top_eigenvector.baselines import FrequentDirectionsCore, OjaGridCore
from unending.systems.learning.streaming_top_eigenvector.naive import NaiveTopEigenvector


def planted(gap, heavy, seed, n=6000, d=40, norm=0.7):
    """Spectrum (sqrt R, 1, ..., 1) and orthogonal heavy rows, in random order."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    spectrum = np.ones(d)
    spectrum[0] = gap**0.5
    rows = rng.standard_normal((n, d)) / n**0.5 * spectrum @ basis
    turned = np.linalg.qr(rng.standard_normal((d, d)))[0][:heavy]
    rows = np.concatenate([rows, norm * turned])
    return rows[rng.permutation(len(rows))]


def learned(settings, rows, seed=0):
    return settings.update(settings.init(rows.shape[1], seed), rows)


def found(settings, rows, seed=0):
    return settings.estimate(settings.finalize(learned(settings, rows, seed))).direction


CONFIGURATIONS = [
    {"n_rows": 300},
    {},
    {"n_rows": 300, "max_heavy": 0, "combine": "light"},
    {"n_rows": 300, "thinning": 0.5},
    {"max_heavy": 3},
    {"n_rows": 300, "n_blocks": 1},
    {"n_rows": 5},
    {"n_rows": 300, "combine": "combined"},
]


@pytest.mark.parametrize("settings", CONFIGURATIONS, ids=str)
def test_the_compiled_core_equals_the_naive_twin_at_every_row(settings):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((350, 7)) * np.array([2, 1, 1, 1, 1, 1, 1])
    rows[rng.integers(0, 350, 12)] *= 12
    rows[5] = 0
    settings = Settings(**settings)
    state, naive = settings.init(7, 3), NaiveTopEigenvector(settings, 7, 3)
    for row in rows:
        state = settings.update(state, row[None])
        naive.row(row)
        assert correlation(settings.estimate(state).direction, naive.estimate()) > 1 - 1e-12
    assert state.counts[at.OVERFLOW] == naive.overflow
    assert state.counts[at.STORED] == len(naive.store)


@pytest.mark.parametrize("settings", [*CONFIGURATIONS, {"reservoir": 6, "thinning": 0.3}], ids=str)
def test_any_chunking_gives_the_same_bits(settings):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((350, 7)) * rng.lognormal(0, 1.5, (350, 1))
    settings = Settings(**settings)
    whole = learned(settings, rows)
    state = settings.init(7)
    cuts = [0, 0, 1, 2, *sorted(rng.integers(2, 350, 20)), 350]
    for start, stop in pairwise(cuts):
        state = settings.update(state, rows[start:stop])
    assert state_difference(state, whole) is None


def test_when_all_rows_are_heavy_it_is_the_svd():
    rows = np.random.default_rng(2).standard_normal((12, 50))
    assert correlation(found(Settings(n_rows=12), rows), np.linalg.svd(rows)[2][0]) == pytest.approx(
        1, abs=1e-12
    )


def test_when_no_row_is_heavy_it_is_block_power():
    """Against a loop over blocks, each used once: a toy that uses one chunk for all steps gives another vector."""
    rows, settings = planted(4, 0, 3, n=3000), Settings(n_rows=3000, n_blocks=6)
    state = learned(settings, rows, seed=5)
    vector = settings.init(40, 5).vectors[at.LIGHT]
    reused = vector
    for block in np.split(rows, 6):
        vector = block.T @ (block @ vector)
        vector /= np.linalg.norm(vector)
        reused = rows[:500].T @ (rows[:500] @ reused)
        reused /= np.linalg.norm(reused)
    assert state.counts[at.STORED] == 0
    assert correlation(state.vectors[at.LIGHT], vector) == pytest.approx(1, abs=1e-12)
    truth = top_right_singular(rows)
    assert correlation(vector, truth) > correlation(reused, truth) + 0.02


def test_one_block_of_all_rows_is_one_exact_power_step():
    rows = planted(4, 0, 4, n=500)
    settings = Settings(n_rows=500, n_blocks=1, max_heavy=0)
    step = rows.T @ (rows @ settings.init(40).vectors[at.LIGHT])
    assert correlation(learned(settings, rows).vectors[at.LIGHT], step) == pytest.approx(1, abs=1e-12)


def test_with_one_block_or_fewer_rows_than_blocks_oja_answers():
    rows = planted(16, 0, 5, n=2000)
    settings = Settings(n_rows=2000, n_blocks=1)
    estimate = settings.estimate(learned(settings, rows))
    assert estimate.kind == "oja"
    assert correlation(estimate.direction, top_right_singular(rows)) > 0.9
    few = Settings(n_rows=4, n_blocks=6, max_heavy=0)
    assert few.estimate(few.finalize(learned(few, rows[:4]))).kind == "oja"


@pytest.mark.parametrize("seed", range(3))
def test_stored_rows_are_the_heavy_ones(seed):
    rows = planted(2, 10, seed, norm=1.0)
    settings = Settings(n_rows=len(rows))
    state = learned(settings, rows)
    squares = np.einsum("ij,ij->i", rows, rows)
    heavy = set(np.flatnonzero(squares >= 0.3 / 40 * squares.sum()) + 1)
    assert set(state.places[: state.counts[at.STORED]].tolist()) == heavy
    assert state.counts[at.HIGH_WATER] <= 1.5 * len(heavy)
    assert nbytes(state) == nbytes(settings.init(40))


def test_heaviness_is_relative_to_the_running_estimate():
    """A toy with an absolute threshold stores none or all of the same rows in other units."""
    rows = planted(2, 10, 6)
    settings = Settings(n_rows=len(rows))
    stored = [learned(settings, scale * rows).places for scale in (1.0, 2.0**-40, 2.0**40)]
    assert stored[0].any()
    for each in stored[1:]:
        np.testing.assert_array_equal(each, stored[0])


def test_two_heavy_rows_at_the_beginning_do_not_hide_each_other():
    """An estimate scaled up from the first rows alone would call neither heavy once it has seen the other."""
    rows = planted(2, 0, 7)
    rows[8], rows[12] = np.eye(40)[0], np.eye(40)[1]
    settings = Settings(n_rows=len(rows))
    state = learned(settings, rows)
    assert {9, 13} <= set(state.places.tolist())
    others = np.einsum("ij,ij->i", rows[:12], rows[:12]).sum()
    assert 0.3 / 40 * others * len(rows) / 12 > 1.0, "the estimate of the other rows refuses the second"


def test_false_alarms_go_back_into_the_light_sum():
    rows = planted(4, 0, 8, n=1200)
    rows[0] *= 3  # the first row is always above an estimate of zero
    settings = Settings(n_rows=1200, n_blocks=6)
    state = learned(settings, rows[:200])
    assert state.counts[at.HIGH_WATER] >= 1
    assert state.counts[at.STORED] == 0
    step = rows[:200].T @ (rows[:200] @ settings.init(40).vectors[at.LIGHT])
    assert correlation(state.vectors[at.LIGHT], step) == pytest.approx(1, abs=1e-12)


def test_a_store_that_is_too_small_reports_it_and_stays_small():
    rows = planted(2, 20, 9, norm=1.0)
    settings = Settings(n_rows=len(rows), max_heavy=4)
    state = learned(settings, rows)
    assert state.counts[at.HIGH_WATER] == state.counts[at.STORED] == 4
    assert state.counts[at.OVERFLOW] >= 16
    squares = np.sort(np.einsum("ij,ij->i", rows, rows))
    assert state.norms.min() > squares[-21], "what is kept is heavy"
    np.testing.assert_allclose(np.linalg.norm(settings.estimate(state).direction), 1)


def test_memory_does_not_grow_and_bits_follow_the_store():
    rows = planted(2, 10, 10)
    settings = Settings()
    state = settings.init(40)
    sizes, bits = set(), []
    for _ in range(5):
        state = settings.update(state, rows)
        sizes.add(nbytes(state))
        bits.append(settings.bits(state) - 64 * 42 * int(state.counts[at.STORED]))
    assert len(sizes) == len(set(bits)) == 1
    assert sizes.pop() == settings.nbytes(40)


def test_thinning_is_unbiased():
    """Over 10,000 draws the mean of the thinned sum is A^T A v, coordinate by coordinate within 4.5 standard errors."""
    rng = np.random.default_rng(11)
    rows = rng.standard_normal((40, 3)) * rng.lognormal(0, 0.5, (40, 1))
    settings = Settings(n_rows=80, n_blocks=2, max_heavy=0, thinning=3.0)
    sums = []
    start = settings.init(3)
    start.counts[at.SEEN], start.counts[at.BLOCK_START], start.counts[at.BLOCKS] = 40, 40, 1
    start.reals[at.SQUARED] = np.sum(rows**2)
    start.reals[at.CLIPPED] = start.reals[at.SQUARED]
    start.vectors[at.LIGHT] = np.array([0.6, 0.0, 0.8])
    for seed in range(10_000):
        state = fork(start)
        settings._absorb(
            type(state)(**{**vars(state), "seed": seed}), rows[:30], np.sum(rows[:30] ** 2, axis=1)
        )
        sums.append(state.vectors[at.LIGHT_SUM])
    exact = rows[:30].T @ (rows[:30] @ start.vectors[at.LIGHT])
    error = np.std(sums, axis=0) / 100
    assert (error > 0).all()
    assert (np.abs(np.mean(sums, axis=0) - exact) < 4.5 * error).all()


def test_the_first_rows_are_not_thinned_and_a_thinned_stream_still_leads():
    rows = planted(8, 0, 12, n=20_000, d=10)
    first = Settings(n_rows=20_000, thinning=1e-9), Settings(n_rows=20_000)
    thinned, plain = (learned(settings, rows[:4000]) for settings in first)
    np.testing.assert_array_equal(thinned.vectors[at.LIGHT], plain.vectors[at.LIGHT])
    assert plain.counts[at.BLOCKS] == 1
    assert plain.vectors[at.LIGHT_SUM].any()
    assert not thinned.vectors[at.LIGHT_SUM].any(), "nothing of the second block is kept at such a factor"
    truth = top_right_singular(rows)
    assert correlation(found(Settings(n_rows=20_000, thinning=30.0), rows), truth) > 0.97


@pytest.mark.parametrize("gap", [4, 16, 64])
def test_the_loss_is_within_the_stated_rate(gap):
    losses = []
    for seed in range(5):
        rows = planted(gap, 8, 20 + seed, n=8000)
        losses.append(
            1 - correlation(found(Settings(n_rows=len(rows)), rows, seed), top_right_singular(rows))
        )
    assert np.mean(losses) < 1 / gap**0.5


def adversarial(seed, n=6000, d=40):
    """v_1 lives in 4 rows; without them the second axis leads."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d)) / n**0.5
    rows[:, 0] = 0
    rows[:, 1] *= 1.5
    strong = np.zeros((4, d))
    strong[:, 0] = 1.2
    rows = np.concatenate([rows, strong])
    return rows[rng.permutation(n + 4)]


@pytest.mark.parametrize("seed", range(3))
def test_where_heavy_rows_carry_the_direction_dropping_them_loses_it(seed):
    rows = adversarial(seed)
    truth = top_right_singular(rows)
    settings = Settings(n_rows=len(rows))
    state = learned(settings, rows, seed)
    candidates = {kind: settings.candidate(state, kind) for kind in ("light", "combined", "heavy")}
    assert correlation(candidates["light"], truth) < 0.01
    assert correlation(candidates["heavy"], truth) > 0.99
    assert correlation(settings.estimate(state).direction, truth) > 0.98
    averaged = candidates["light"] + candidates["heavy"]
    assert correlation(averaged, truth) < 0.6


def test_sorted_rows_break_what_random_order_allows_and_oja_less():
    ours, grid = [], []
    for seed in range(5):
        rows = planted(16, 0, 30 + seed)
        truth = top_right_singular(rows)
        order = np.argsort(-np.abs(rows @ truth))
        for row_order, place in ((slice(None), 0), (order, 1)):
            ours.append((place, correlation(found(Settings(n_rows=len(rows)), rows[row_order], seed), truth)))
            core = OjaGridCore()
            state = core.update(core.init(40, seed), rows[row_order])
            grid.append((place, correlation(core.components(state)[0], truth)))
    mean = lambda pairs, place: np.mean([value for at_, value in pairs if at_ == place])  # noqa: E731
    assert mean(ours, 0) > 0.98
    assert mean(ours, 1) < 0.5
    assert mean(grid, 1) > mean(ours, 1)


def test_blocks_double_where_the_length_is_unknown():
    settings = Settings(n_blocks=6)
    first = settings.first_stage(10)
    rows = planted(16, 0, 40, n=8 * first, d=10)
    state = learned(settings, rows)
    assert state.counts[at.STAGE_START] + state.counts[at.STAGE_LENGTH] == 16 * first
    assert state.counts[at.BLOCKS] == 6 * 4
    assert correlation(found(settings, rows), top_right_singular(rows)) > 0.98


def test_rows_beyond_the_promised_length_are_learned_too():
    rows = planted(16, 0, 41, n=3000, d=10)
    settings = Settings(n_rows=1000, n_blocks=6)
    state = learned(settings, rows)
    assert state.counts[at.STAGE_START] + state.counts[at.STAGE_LENGTH] == 4000
    assert correlation(found(settings, rows), top_right_singular(rows)) > 0.98


def test_the_reservoir_refines_the_combined_candidate():
    gains = []
    for seed in range(5):
        rows = planted(2, 8, 50 + seed, n=4000, d=20)
        truth = top_right_singular(rows)
        plain, refined = (
            settings.candidate(learned(settings, rows, seed), "combined")
            for settings in (Settings(n_rows=len(rows)), Settings(n_rows=len(rows), reservoir=400))
        )
        gains.append(correlation(refined, truth) - correlation(plain, truth))
    assert np.mean(gains) > 0


def test_estimates_change_nothing_and_are_there_at_any_time():
    settings = Settings()
    state = settings.init(6)
    before = fork(state)
    assert settings.estimate(state).kind == "oja"
    assert np.linalg.norm(settings.estimate(state).direction) == pytest.approx(1)
    assert settings.finalize(state).counts[at.BLOCKS] == 0
    assert state_difference(state, before) is None


def test_until_there_is_something_to_pick_by_oja_answers():
    """A single power step from a random direction would be no answer."""
    rows = planted(16, 0, 42, n=600)
    settings = Settings(n_rows=6000, n_blocks=6)
    early = settings.estimate(settings.finalize(learned(settings, rows)))
    assert early.kind == "oja"
    assert correlation(early.direction, top_right_singular(rows)) > 0.8


def test_sigma_squared_is_estimated():
    rows = planted(8, 0, 60, n=20_000)
    settings = Settings(n_rows=len(rows))
    estimate = settings.estimate(learned(settings, rows))
    assert estimate.mean_square * len(rows) == pytest.approx(np.linalg.norm(rows, 2) ** 2, rel=0.08)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e101])
def test_rows_that_cannot_be_summed_are_refused_and_nothing_changes(value):
    settings = Settings()
    state = learned(settings, np.ones((9, 3)))
    before = fork(state)
    rows = np.ones((2, 3))
    rows[1, 2] = value
    for core, old in (
        (settings, state),
        (OjaGridCore(), OjaGridCore().init(3)),
        (FrequentDirectionsCore(), None),
    ):
        with pytest.raises(InputError, match="row 1"):
            core.update(old or core.init(3), rows)
    assert state_difference(state, before) is None


def test_rows_of_zeros_and_of_nearly_nothing_are_ignored():
    settings = Settings(n_rows=100)
    state = learned(settings, np.concatenate([np.zeros((50, 4)), np.full((50, 4), 1e-160)]))
    assert state.counts[at.SEEN] == 100
    assert state.counts[at.LIGHT_SEEN] == state.counts[at.STORED] == 0


def test_new_columns_begin_like_those_of_a_fresh_state():
    settings = Settings()
    rows = planted(16, 0, 61, n=4000, d=6)
    state = settings.widen(settings.update(settings.init(3, 1), rows[:5, :3]), 6)
    state = settings.finalize(settings.update(state, rows))
    assert correlation(settings.estimate(state).direction, top_right_singular(rows)) > 0.98


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_rows": -1},
        {"heavy_factor": 0.0},
        {"combine": "mean"},
        {"thinning": float("nan")},
        {"max_heavy": -2},
    ],
)
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(InputError):
        Settings(**wrong)


def test_the_growth_test_needs_no_answer_and_comes_near_the_best_of_the_grid():
    chosen, best = [], []
    for seed in range(3):
        rows = planted(8, 0, 70 + seed, n=8000)
        truth = top_right_singular(rows)
        core = OjaGridCore()
        state = core.update(core.init(40, seed), rows)
        chosen.append(correlation(core.components(state)[0], truth))
        best.append(max(correlation(each, truth) for each in state.vectors))
    assert np.mean(chosen) > np.mean(best) - 0.1
    assert np.mean(chosen) > 0.85


def test_the_grid_is_oja_with_fixed_rates():
    rows = np.random.default_rng(3).standard_normal((30, 5))
    core = OjaGridCore(-6, -5)
    state = core.update(core.init(5, 2), rows)
    vector, growth = core.init(5, 2).vectors[0], 0.0
    for row in rows:
        vector = vector + 2.0**-6 / (rows[0] @ rows[0]) * row * (row @ vector)
        growth += np.log(np.linalg.norm(vector))
        vector /= np.linalg.norm(vector)
    np.testing.assert_allclose(state.vectors[0], vector, atol=1e-12)
    assert state.growth[0] == pytest.approx(growth)


def test_the_grid_survives_rows_far_larger_than_the_first():
    """The rates are relative to the first row; a step that is too long for float64 is the row's own direction."""
    core = OjaGridCore()
    state = core.update(core.init(3), np.full((1, 3), 1e-99))
    state = core.update(state, np.array([[3e99, 0.0, 4e99]]))
    np.testing.assert_allclose(
        np.abs(state.vectors), np.tile([0.6, 0, 0.8], (len(core.rates), 1)), atol=1e-12
    )
    assert np.isfinite(state.growth).all()
    assert (np.diff(state.growth) > 0.5).all(), "each rate grows by about ln 2 more than the one before"
    with pytest.raises(InputError, match="exponents"):
        OjaGridCore(high=2000)


@pytest.mark.parametrize("size", [2, 5, 10])
def test_frequent_directions_keeps_its_guarantee(size):
    rows = planted(4, 5, 80, n=1500, d=30)
    core = FrequentDirectionsCore(size)
    state = core.update(core.init(30), rows)
    gap = rows.T @ rows - state.sketch.T @ state.sketch
    values = np.linalg.eigvalsh(gap)
    assert values.min() > -1e-9
    assert values.max() <= np.sum(rows**2) / size
    split = core.init(30)
    for start in range(0, 1500, 7):
        split = core.update(split, rows[start : start + 7])
    assert state_difference(split, state) is None
