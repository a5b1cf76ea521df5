"""ObGD and its relatives against scalar arithmetic."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from unending.core.errors import InputError
from unending.parts.numerics.overshooting import AdaptiveObGD, BacktrackingObGD, ObGD


def params(*values):
    return [nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in values]


def give(held, gradients):
    for p, g in zip(held, gradients, strict=True):
        p.grad = torch.tensor(g, dtype=torch.float64)


def by_hand(w, z, g, delta, reset, lr, decay, kappa):
    """Plain lists over all parameters; the independent reference."""
    z = [decay * a + b for a, b in zip(z, g, strict=True)]
    m = kappa * lr * max(abs(delta), 1.0) * sum(abs(each) for each in z)
    alpha = lr / max(m, 1.0)
    w = [a + alpha * delta * b for a, b in zip(w, z, strict=True)]
    return w, [0.0] * len(z) if reset else z, m


@pytest.mark.parametrize("scale", [0.01, 5.0])  # M below 1, and above
def test_obgd_against_scalars(scale):
    held = params([1.0, -2.0], [0.5])
    optimizer = ObGD(held, lr=0.7, gamma=0.9, lamda=0.5, kappa=2.0)
    w, z = [1.0, -2.0, 0.5], [0.0] * 3
    rng = np.random.default_rng(1)
    for step, delta in enumerate((0.3, -4.0, 0.0, 1.5, -0.2)):
        g = (scale * rng.normal(size=3)).tolist()
        give(held, ([g[0], g[1]], [g[2]]))
        reset = step == 2
        w, z, m = by_hand(w, z, g, delta, reset, 0.7, 0.45, 2.0)
        assert (m > 1) == (scale > 1)
        optimizer.step(delta, reset=reset)
        np.testing.assert_allclose(torch.cat([p.detach() for p in held]).numpy(), w, rtol=1e-14)
        traces = torch.cat([optimizer.state[p]["trace"] for p in held]).numpy()
        np.testing.assert_allclose(traces, z, rtol=1e-14)


def test_a_reset_comes_after_the_update():
    (w,) = held = params([0.0])
    optimizer = ObGD(held, lr=0.1)
    give(held, ([1.0],))
    optimizer.step(1.0, reset=True)
    assert w.item() == pytest.approx(0.1)  # a toy that resets before the update does not move
    assert optimizer.state[w]["trace"].item() == 0.0


def test_the_norm_goes_over_the_whole_network():
    held = params([0.0] * 3, [0.0] * 5)
    optimizer = ObGD(held, lr=1.0, kappa=2.0)
    give(held, ([1.0] * 3, [1.0] * 5))
    optimizer.step(1.0)
    for p in held:  # per tensor the steps would be 1/6 and 1/10
        np.testing.assert_allclose(p.detach().numpy(), 1 / 16)


def test_small_errors_are_bounded_as_if_they_were_one_and_large_ones_are_not_cut():
    moved = []
    for delta in (0.001, 1.0, 1000.0):
        (w,) = held = params([0.0])
        optimizer = ObGD(held, lr=1.0, kappa=2.0)
        give(held, ([1.0],))
        optimizer.step(delta)
        moved.append(w.item())
    np.testing.assert_allclose(moved, [0.0005, 0.5, 0.5])


def test_traces_hold_gradients_of_the_value_and_not_of_a_squared_error():
    (w,) = held = params([0.0])
    optimizer = ObGD(held, lr=1.0, gamma=1.0, lamda=1.0)
    for delta in (5.0, -3.0):
        give(held, ([1.0],))
        optimizer.step(delta)
    assert optimizer.state[w]["trace"].item() == 2.0  # with delta in the gradient it would be 2, -15, or so


def test_adaptive_against_scalars():
    (w,) = held = params([1.0])
    optimizer = AdaptiveObGD(held, lr=1.0, gamma=0.9, lamda=0.5, kappa=2.0, beta2=0.9, eps=1e-8)
    z = v = 0.0
    weight = 1.0
    for step, (g, delta) in enumerate(((0.1, 2.0), (-3.0, 0.1), (0.7, -5.0)), 1):
        give(held, ([g],))
        z = 0.45 * z + g
        v = 0.9 * v + 0.1 * (delta * z) ** 2
        direction = z / math.sqrt(v / (1 - 0.9**step) + 1e-8)
        alpha = 1 / max(2.0 * max(abs(delta), 1.0) * abs(direction), 1.0)
        weight += alpha * delta * direction
        optimizer.step(delta, reset=step == 2)
        z = 0.0 if step == 2 else z
        assert w.item() == pytest.approx(weight, rel=1e-12)


def test_backtracking_shrinks_until_the_error_keeps_its_sign():
    (w,) = held = params([0.0])
    optimizer = BacktrackingObGD(held, lr=8.0)
    give(held, ([1.0],))

    def error() -> float:
        return 3.0 - float(w)

    tried = optimizer.step(3.0, error, reset=True)  # 24, 12, 6 and 3
    assert (tried, w.item()) == (4, 3.0)
    assert optimizer.state[w]["trace"].item() == 0.0


def test_backtracking_ends_at_the_bound():
    (w,) = held = params([0.0])
    optimizer = BacktrackingObGD(held, lr=8.0, kappa=2.0, tries=3)
    give(held, ([1.0],))
    assert optimizer.step(1.0, lambda: -1.0) == 4
    assert w.item() == 0.5


def test_linear_values_without_bound_are_td_0():
    """lambda 0 and a small lr: w <- w + lr delta x."""
    rng = np.random.default_rng(2)
    (w,) = held = params([0.0] * 4)
    optimizer = ObGD(held, lr=0.01, gamma=0.9, lamda=0.0, kappa=1e-6)
    plain = np.zeros(4)
    x = rng.normal(size=4)
    for _ in range(200):
        x2, reward = rng.normal(size=4), rng.normal()
        delta = reward + 0.9 * plain @ x2 - plain @ x
        give(held, (x,))
        optimizer.step(delta)
        plain = plain + 0.01 * delta * x
        x = x2
    np.testing.assert_allclose(w.detach().numpy(), plain, rtol=1e-10)


def test_an_optimizer_resumes_bit_for_bit():
    for kind in (ObGD, AdaptiveObGD):
        one, two = params([1.0, 2.0]), params([1.0, 2.0])
        first, second = kind(one), kind(two)
        for step in range(6):
            for held, optimizer in ((one, first), (two, second)):
                give(held, ([0.1 * step, -1.0],))
                optimizer.step(0.5 - step)
            if step == 3:
                second = kind(two)
                second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch shares tensors
        assert torch.equal(one[0], two[0])


def test_senseless_settings_are_refused():
    for settings in ({"gamma": 1.1}, {"lamda": -0.1}, {"lr": -1.0}, {"lr": np.inf}, {"kappa": 0.0}):
        with pytest.raises(InputError):
            ObGD(params([1.0]), **settings)
    with pytest.raises(InputError, match="shrink"):
        BacktrackingObGD(params([1.0]), shrink=1.0)
