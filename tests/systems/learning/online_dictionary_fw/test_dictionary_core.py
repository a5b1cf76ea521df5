"""The method: convergence, invariances, the naive twin, and each toy that fails."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from unending.core import fork, nbytes
from unending.core.errors import InputError
from unending.laws.equality import state_difference
from unending.parts.numerics.frank_wolfe import polar
from unending.systems.learning.online_dictionary_fw import DictionarySettings
from unending.systems.learning.online_dictionary_fw.core import random_orthogonal, spikiness
from unending.systems.learning.online_dictionary_fw.metrics import (
    dictionary_error,
    k_sparse_error,
    matched,
    sparsity,
)
from unending.systems.learning.online_dictionary_fw.naive import NaiveDictionary, msp

torch.set_num_threads(1)


def sparse_rows(n, width, theta, seed):
    """A dictionary, and Bernoulli-Gaussian rows in it."""
    rng = np.random.default_rng(seed)
    truth = random_orthogonal(width, seed + 1000)
    return truth, (rng.standard_normal((n, width)) * (rng.random((n, width)) < theta)) @ truth.T


def learned(settings, rows, seed=0):
    return settings.update(settings.init(rows.shape[1], seed), rows)


@pytest.mark.parametrize("seed", range(5))
def test_one_row_a_step_finds_the_dictionary(seed):
    truth, rows = sparse_rows(3000, 10, 0.3, seed)
    settings = DictionarySettings()
    assert dictionary_error(truth, settings.orthogonal(learned(settings, rows, seed))) < 0.01


@pytest.mark.parametrize(("width", "theta", "p"), [(4, 0.3, 3.0), (10, 0.3, 4.0), (20, 0.2, 3.0)])
@pytest.mark.parametrize("seed", range(5))
def test_minibatches_find_it_too(width, theta, p, seed):
    truth, rows = sparse_rows(15_000, width, theta, seed)
    settings = DictionarySettings(p=p, batch_size=10)
    assert dictionary_error(truth, settings.orthogonal(learned(settings, rows, seed))) < 0.01


@pytest.mark.parametrize(
    "settings",
    [{}, {"batch_size": 4}, {"p": 4.0, "rho_min": 0.3}, {"batch_size": 5, "start": "data"}],
    ids=str,
)
def test_it_equals_the_naive_twin_step_by_step(settings):
    settings = DictionarySettings(**settings)
    _, rows = sparse_rows(60 * settings.batch_size, 5, 0.6, 1)
    rows[7] = 0
    state, naive = settings.init(5, 3), NaiveDictionary(settings, 5, 3)
    for block in np.split(rows, 60):
        state = settings.update(state, block)
        naive.step(block)
        np.testing.assert_allclose(state.dictionary, naive.D, atol=1e-8)
        assert state.gap[0] == pytest.approx(naive.gap, abs=1e-7)
    np.testing.assert_allclose(settings.orthogonal(state), naive.dictionary(), atol=1e-8)


@pytest.mark.parametrize("p", [2.5, 3.0, 4.0])
@pytest.mark.parametrize("complex_rows", [False, True])
def test_the_gradient_is_that_of_autograd(p, complex_rows):
    rng = np.random.default_rng(2)
    rows, D = rng.standard_normal((7, 5)), rng.standard_normal((5, 5))
    if complex_rows:
        rows, D = rows + 1j * rng.standard_normal((7, 5)), D + 1j * rng.standard_normal((5, 5))
    leaf = torch.tensor(D, requires_grad=True)
    value = -(torch.tensor(rows) @ leaf.conj()).abs().pow(p).sum(dim=1).mean()
    value.backward()
    dtype = "complex128" if complex_rows else "float64"
    np.testing.assert_allclose(
        DictionarySettings(p=p, dtype=dtype).gradient(D, rows), leaf.grad.resolve_conj().numpy(), atol=1e-10
    )


@pytest.mark.parametrize("width", [4, 10, 20])
@pytest.mark.parametrize("seed", range(5))
def test_the_iterate_stays_in_the_ball_and_is_not_the_dictionary(width, seed):
    _, rows = sparse_rows(300, width, 0.3, seed)
    settings = DictionarySettings()
    state, inside = settings.init(width, seed), 0.0
    for row in rows:
        state = settings.update(state, row[None])
        values = np.linalg.svd(state.dictionary, compute_uv=False)
        assert values[0] <= 1 + 1e-12
        inside = max(inside, 1 - values[-1])
    assert inside > 0.005, "a toy that projects every step, or shows the iterate, has orthogonal iterates"
    components = settings.components(state)
    np.testing.assert_allclose(components @ components.T, np.eye(width), atol=1e-12)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_signed_permutations_of_the_start_carry_through_from_the_first_row(batch):
    """With one row a step the gradient has rank 1 at first; an arbitrary completion breaks this by O(1)."""
    _, rows = sparse_rows(40 * batch, 6, 0.4, 3)
    settings = DictionarySettings(batch_size=batch)
    turn = np.eye(6)[:, [3, 0, 5, 1, 2, 4]] * np.array([1, -1, 1, 1, -1, 1])
    one = settings.init(6, 4)
    two = type(one)(**{**vars(fork(one)), "dictionary": one.dictionary @ turn})
    for block in np.split(rows, 40):
        one, two = settings.update(one, block), settings.update(two, block)
        np.testing.assert_allclose(two.dictionary, one.dictionary @ turn, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-8, 1e6])
def test_the_scale_of_the_rows_does_not_matter(scale):
    _, rows = sparse_rows(200, 6, 0.4, 5)
    settings = DictionarySettings()
    np.testing.assert_allclose(
        learned(settings, scale * rows).dictionary, learned(settings, rows).dictionary, atol=1e-7
    )


def test_a_minibatch_is_a_mean():
    """The same rows twice in a minibatch are the same step: the gradient does not grow with the size."""
    _, rows = sparse_rows(50, 6, 0.4, 6)
    one, two = DictionarySettings(batch_size=5), DictionarySettings(batch_size=10)
    doubled = np.concatenate([np.concatenate([block, block]) for block in np.split(rows, 10)])
    single, double = learned(one, rows), learned(two, doubled)
    np.testing.assert_allclose(single.gradient, double.gradient, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(single.dictionary, double.dictionary, atol=1e-8)


def test_the_gradient_is_taken_before_the_step():
    """With the lagged order (step first) the first two iterates differ."""
    _, rows = sparse_rows(24, 5, 1.0, 7)
    settings = DictionarySettings(batch_size=12)
    first = learned(settings, rows[:12], seed=1)
    start = settings.init(5, 1).dictionary
    np.testing.assert_allclose(first.gradient, settings.gradient(start, rows[:12]), atol=1e-14)
    second = settings.update(first, rows[12:])
    rho = 2**-0.5
    expected = (1 - rho) * first.gradient + rho * settings.gradient(first.dictionary, rows[12:])
    np.testing.assert_allclose(second.gradient, expected, atol=1e-14)


def minimise(rows, truth, steps, sign):
    """Frank-Wolfe by averaged gradients on `sign * ||D^T y||_p` with p = 1 (sign 1) over the ball."""
    here, average = random_orthogonal(len(truth), 1), np.zeros_like(truth)
    for t, row in enumerate(rows[:steps], start=1):
        average += t**-0.5 * (sign * np.outer(row, np.sign(here.T @ row)) - average)
        here = here + t**-0.75 * (polar(-average, here) - here)
    return here


def test_minimising_the_l1_norm_over_the_ball_collapses():
    truth, rows = sparse_rows(3000, 10, 0.3, 8)
    here = minimise(rows, truth, 3000, 1.0)
    assert np.linalg.norm(here) < 0.3 * np.sqrt(10)
    assert dictionary_error(truth, polar(here, truth)) > 0.3


def test_without_averaging_one_row_a_step_is_too_noisy():
    errors = {"averaged": [], "not": []}
    for seed in range(5):
        truth, rows = sparse_rows(3000, 10, 0.3, seed)
        for name, settings in (
            ("averaged", DictionarySettings()),
            ("not", DictionarySettings(rho_exponent=0.0)),
        ):
            errors[name].append(dictionary_error(truth, settings.orthogonal(learned(settings, rows, seed))))
    assert np.mean(errors["not"]) > 20 * np.mean(errors["averaged"])
    assert min(errors["not"]) > 0.02 > 4 * max(errors["averaged"])


def test_the_wrong_sign_of_the_vertex_finds_the_least_spiky_basis():
    truth, rows = sparse_rows(3000, 10, 0.3, 9)
    here, average = random_orthogonal(10, 1), np.zeros((10, 10))
    settings = DictionarySettings()
    for t, row in enumerate(rows, start=1):
        average += t**-0.5 * (settings.gradient(here, row[None]) - average)
        here = here + t**-0.75 * (polar(average, here) - here)
    assert dictionary_error(truth, polar(here, truth)) > 0.3


def test_the_gap_falls_at_least_as_t_to_the_minus_a_quarter():
    steps, gaps, settings = np.array([100, 316, 1000, 3162, 10_000]), [], DictionarySettings()
    for seed in range(2):
        rows = sparse_rows(30_000, 10, 0.3, seed)[1]
        rows, fresh = rows[:10_000], rows[10_000:]
        state, found, done = settings.init(10, seed), [], 0
        for t in steps:
            state, done = settings.update(state, rows[done:t]), t
            gradient = settings.gradient(state.dictionary, fresh)
            found.append(np.sum(gradient * state.dictionary) + np.linalg.norm(gradient, "nuc"))
        gaps.append(found)
    slope = np.polyfit(np.log(steps), np.log(np.mean(gaps, axis=0)), 1)[0]
    assert slope <= -0.25
    assert state.gap[0] >= 0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 7},
        {"batch_size": 7, "precondition": 50},
        {"polar": "newton_schulz", "start": "data"},
    ],
    ids=str,
)
def test_any_chunking_gives_the_same_bits(settings):
    settings = DictionarySettings(**settings)
    _, rows = sparse_rows(200, 5, 0.4, 10)
    whole = settings.finalize(learned(settings, rows))
    rng = np.random.default_rng(11)
    state, cuts = settings.init(5), [0, 0, 1, 2, *sorted(rng.integers(2, 200, 12).tolist()), 200]
    for start, stop in pairwise(cuts):
        state = settings.update(state, rows[start:stop])
    assert state_difference(settings.finalize(state), whole) is None
    assert nbytes(state) == settings.nbytes(5)


def test_newton_schulz_gives_the_same_dictionary():
    truth, rows = sparse_rows(20_000, 8, 0.3, 12)
    found = [
        settings.orthogonal(learned(settings, rows, 1))
        for settings in (
            DictionarySettings(batch_size=20, polar=method) for method in ("svd", "newton_schulz")
        )
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert dictionary_error(truth, found[1]) < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_complex_dictionaries_are_found_up_to_phases(seed):
    rng = np.random.default_rng(seed)
    truth = random_orthogonal(8, seed + 1000, "complex128")
    codes = (rng.standard_normal((20_000, 8)) + 1j * rng.standard_normal((20_000, 8))) * (
        rng.random((20_000, 8)) < 0.3
    )
    rows = codes @ truth.T
    settings = DictionarySettings(batch_size=10, dtype="complex128")
    found = settings.orthogonal(learned(settings, rows, seed))
    assert dictionary_error(truth, found) < 0.01
    back = rows @ settings.components(learned(settings, rows, seed)).T
    assert sparsity(back[:100], 0.2) < 0.45


def test_preconditioning_makes_a_complete_dictionary_orthogonal():
    rng = np.random.default_rng(13)
    mixing = random_orthogonal(6, 1) @ np.diag([1, 0.9, 0.8, 0.6, 0.5, 0.4]) @ random_orthogonal(6, 2)
    codes = rng.standard_normal((40_000, 6)) * (rng.random((40_000, 6)) < 0.3)
    rows = codes @ mixing.T
    errors = []
    for precondition in (0, 1000):
        settings = DictionarySettings(batch_size=10, precondition=precondition)
        state = learned(settings, rows)
        products = np.abs(settings.components(state) @ mixing)
        products /= np.linalg.norm(products, axis=1, keepdims=True)
        errors.append(1 - np.sum(products**4) / 6)
    assert errors[1] < 0.01 < errors[0]
    np.testing.assert_allclose(settings.components(state) @ settings.mixing(state), np.eye(6), atol=1e-8)


def test_no_step_is_made_during_the_burn_in_and_the_power_is_taken_anew_at_doublings():
    settings = DictionarySettings(batch_size=10, precondition=40)
    _, rows = sparse_rows(200, 4, 1.0, 14)
    state, powers = settings.init(4), []
    for block in np.split(rows, 20):
        state = settings.update(state, block)
        powers.append(state.whitening)
        assert state.steps == max(0, len(powers) - 3)
    changed = [k + 1 for k in range(1, 20) if not np.array_equal(powers[k], powers[k - 1])]
    assert changed == [4, 8, 16]


def test_floors_follow_a_dictionary_that_turns_and_vanishing_steps_do_not():
    errors = {0.0: [], 0.05: []}
    for floor in errors:
        settings = DictionarySettings(batch_size=10, rho_min=floor, gamma_min=floor)
        rng = np.random.default_rng(15)
        truth, state = random_orthogonal(6, 3), settings.init(6)
        for _ in range(60):
            turn = np.eye(6)
            one, two = rng.choice(6, 2, replace=False)
            turn[[one, one, two, two], [one, two, one, two]] = [
                np.cos(0.1),
                -np.sin(0.1),
                np.sin(0.1),
                np.cos(0.1),
            ]
            truth = truth @ turn
            state = settings.update(
                state, (rng.standard_normal((1000, 6)) * (rng.random((1000, 6)) < 0.3)) @ truth.T
            )
            errors[floor].append(dictionary_error(truth, settings.orthogonal(state)))
    assert max(errors[0.05][10:]) < 0.05
    assert np.mean(errors[0.0][-10:]) > 3 * np.mean(errors[0.05][-10:])


def test_codes_that_are_hardly_sparse_break_it_down():
    found = {}
    for theta in (0.1, 0.3, 0.6):
        truth, rows = sparse_rows(10_000, 10, theta, 16)
        settings = DictionarySettings(batch_size=10)
        found[theta] = dictionary_error(truth, settings.orthogonal(learned(settings, rows)))
    assert found[0.1] < 0.01
    assert found[0.3] < 0.01
    assert found[0.6] > 5 * found[0.3]


def test_rows_of_zeros_are_left_out():
    settings = DictionarySettings(batch_size=2)
    state = learned(settings, np.ones((2, 3)))
    again = settings.update(state, np.zeros((4, 3)))
    assert (again.steps, again.samples) == (1, 2)
    np.testing.assert_array_equal(again.gradient, state.gradient)
    half = learned(settings, np.array([[1.0, 1, 1], [0, 0, 0]]))
    np.testing.assert_allclose(half.gradient, state.gradient)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e34])
def test_rows_that_cannot_be_raised_to_the_power_are_refused_and_nothing_changes(value):
    settings = DictionarySettings()
    state = learned(settings, np.ones((9, 3)))
    before = fork(state)
    rows = np.ones((2, 3))
    rows[1, 2] = value
    with pytest.raises(InputError, match="row 1"):
        settings.update(state, rows)
    assert state_difference(state, before) is None


def test_new_columns_are_atoms_of_their_own():
    settings = DictionarySettings(batch_size=3)
    state = settings.widen(learned(settings, np.random.default_rng(0).standard_normal((10, 3))), 5)
    np.testing.assert_array_equal(state.dictionary[3:, 3:], np.eye(2))
    assert state.waiting.count == 1
    assert settings.update(state, np.ones((2, 5))).steps == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"p": 2.0},
        {"batch_size": 0},
        {"polar": "qr"},
        {"dtype": "float32"},
        {"rho_min": 2.0},
        {"start": "dct"},
    ],
)
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(InputError):
        DictionarySettings(**wrong)


def test_comparisons_match_signed_permutations():
    truth = random_orthogonal(5, 1)
    moved = truth[:, [2, 0, 4, 1, 3]] * np.array([1, -1, -1, 1, 1])
    assert dictionary_error(truth, moved) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(matched(truth, moved), truth, atol=1e-12)
    assert np.linalg.norm(truth - moved) > 1, "column by column they are far apart"
    assert 0.5 < dictionary_error(truth, random_orthogonal(5, 2)) < 1


def test_few_codes_say_what_they_leave_out():
    rows = np.array([[3.0, 4.0, 0.0]])
    assert k_sparse_error(rows, np.eye(3), 1) == pytest.approx(9 / 25)
    assert k_sparse_error(rows, np.eye(3), 2) == 0
    assert spikiness(np.array([[0.0, 7.0], [0.0, 0.0]]), 3.0) == 1
    assert spikiness(np.ones((2, 4)), 3.0) == pytest.approx(4**-0.5)


def test_the_batch_method_finds_the_same_basis():
    truth, rows = sparse_rows(5000, 10, 0.3, 17)
    settings = DictionarySettings(batch_size=10)
    assert dictionary_error(truth, msp(rows)) < 0.01
    assert dictionary_error(msp(rows), settings.orthogonal(learned(settings, rows))) < 0.02


@pytest.mark.parametrize("seed", range(2))
def test_on_patches_of_photographs_few_codes_leave_out_less_than_those_of_the_cosine_transform(seed, needs):
    needs("PIL")
    from scipy.fft import dct
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    rows = []
    for picture in load_sample_images().images:
        grey = picture.mean(axis=2)
        tops, lefts = (rng.integers(0, side - 7, 30_000) for side in grey.shape)
        rows.append(np.stack([grey[y : y + 8, x : x + 8].ravel() for y, x in zip(tops, lefts, strict=True)]))
    rows = rng.permutation(np.concatenate(rows))
    rows -= rows.mean(axis=1, keepdims=True)
    train, test = rows[:50_000], rows[50_000:]
    settings = DictionarySettings(batch_size=20)
    found = settings.orthogonal(learned(settings, train, seed))
    one = dct(np.eye(8), norm="ortho", axis=0)
    for k in (2, 4):
        assert k_sparse_error(test, found, k) < k_sparse_error(test, np.kron(one, one).T, k)
