"""The kernels on flat arrays against torch: outputs, gradients, whole agents over hundreds of steps."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from unending.core.errors import InputError, NumericalError
from unending.systems.learning.stream_x.actor_critic import StreamAC
from unending.systems.learning.stream_x.agents import StreamQ, StreamSARSA
from unending.systems.learning.stream_x.fused import Rates, apply, backward, forward
from unending.systems.learning.stream_x.learners import flat_net
from unending.systems.learning.stream_x.networks import MLP, flat_start, flatten, sparse_init, unflatten
from unending.systems.learning.stream_x.td import StreamTD

SIZES = (5, 9, 17, 3)


def pair(layer_norm=True, sizes=SIZES):
    torch.set_num_threads(1)
    network = sparse_init(MLP(sizes, layer_norm).double(), 0.3, seed=1)
    return network, flat_net(sizes, "obgd", flatten(network))


@pytest.mark.parametrize("layer_norm", [True, False])
def test_outputs_traces_and_step_are_those_of_autograd(layer_norm):
    network, net = pair(layer_norm)
    rng = np.random.default_rng(0)
    trace, rates = np.zeros_like(net.w), Rates(1.0, 2.0, 0.7, 0.9, 0.999, 1e-8, 0)
    for step in range(1, 6):
        x, head, delta = rng.normal(size=5), rng.normal(size=3), rng.normal()
        network.zero_grad()
        out = network(torch.from_numpy(x))
        out.backward(torch.from_numpy(head))
        np.testing.assert_allclose(forward(net, layer_norm, x), out.detach().numpy(), rtol=1e-12, atol=1e-14)
        gradient = MLP(SIZES, layer_norm).double()
        for p, q in zip(gradient.parameters(), network.parameters(), strict=True):
            p.data = q.grad
        trace = 0.7 * trace + flatten(gradient)
        norm = backward(net, layer_norm, head, 0.7)
        np.testing.assert_allclose(net.z, trace, rtol=1e-10, atol=1e-13)
        assert norm == pytest.approx(np.abs(trace).sum(), rel=1e-12)
        before = net.w.copy()
        alpha = apply(net, delta, norm, step, rates, step == 5)
        assert alpha == pytest.approx(1 / max(2.0 * max(abs(delta), 1.0) * norm, 1.0))
        np.testing.assert_allclose(net.w, before + alpha * delta * trace, rtol=1e-12, atol=1e-14)
        unflatten(network, net.w)
    assert not net.z.any()


def test_flat_start_is_the_sparse_start_of_the_module():
    network = sparse_init(MLP(SIZES), 0.9, seed=3, stream=2)
    np.testing.assert_array_equal(flat_start(SIZES, 0.9, 3, 2), flatten(network))
    twin = unflatten(MLP(SIZES), flatten(network))
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), twin.parameters(), strict=True))


def spaces(width, actions):
    action = gym.spaces.Discrete(actions) if actions > 0 else gym.spaces.Box(-1, 1, (-actions,))
    return gym.spaces.Box(-np.inf, np.inf, (width,)), action


CASES = {
    "q": (StreamQ, 3, {"total_steps": 2000, "hidden": (16, 12)}),
    "q-no-norm": (StreamQ, 3, {"total_steps": 2000, "hidden": (16,), "layer_norm": False}),
    "q-adaptive": (StreamQ, 3, {"total_steps": 2000, "hidden": (16, 12), "optimizer": "adaptive"}),
    "q-sgd": (StreamQ, 3, {"hidden": (16, 12), "optimizer": "sgd", "lr": 1e-3}),
    "q-adam": (StreamQ, 3, {"hidden": (16, 12), "optimizer": "adam", "lr": 1e-3}),
    "q-bootstrap": (StreamQ, 3, {"hidden": (16, 12), "bootstrap_on_truncation": True}),
    "sarsa": (StreamSARSA, 3, {"total_steps": 2000, "hidden": (16, 12)}),
    "ac-discrete": (StreamAC, 3, {"hidden": (16, 12)}),
    "ac-continuous": (StreamAC, -2, {"hidden": (16, 12)}),
    "ac-adaptive": (StreamAC, -2, {"hidden": (16, 12), "optimizer": "adaptive"}),
}


def drive(agents, width, steps, seed=0):
    """Random transitions with ends; the first agent's actions are taken. The largest difference of errors, actions."""
    rng = np.random.default_rng(seed)
    s, errors, actions = rng.normal(size=width), 0.0, 0.0
    for _ in range(steps):
        taken = [each.act(s) for each in agents]
        actions = max(actions, float(np.abs(np.subtract(taken[0], taken[1])).max()))
        s2, reward, ends = rng.normal(size=width), rng.normal(), rng.random(2) < (0.05, 0.03)
        deltas = [each.update(s, taken[0], reward, s2, bool(ends[0]), bool(ends[1])) for each in agents]
        errors = max(errors, abs(deltas[0] - deltas[1]))
        s = rng.normal(size=width) if ends.any() else s2
    return errors, actions


@pytest.mark.parametrize("name", CASES)
def test_an_agent_is_the_same_in_both_backends(name):
    kind, actions, settings = CASES[name]
    made = [
        kind(*spaces(6, actions), sparsity=0.5, dtype="float64", backend=backend, seed=4, **settings)
        for backend in ("fused", "torch")
    ]
    errors, acted = drive(made, 6, 300)
    assert errors < 1e-10
    assert acted < 1e-10
    for fast, plain in zip(made[0].learners.values(), made[1].learners.values(), strict=True):
        np.testing.assert_allclose(fast.net.w, flatten(plain.network), rtol=1e-8, atol=1e-10)
        plain_z = MLP(plain.network.sizes).double()
        for p, q in zip(plain_z.parameters(), plain.network.parameters(), strict=True):
            p.data = plain.optimizer.state[q]["trace"]
        np.testing.assert_allclose(fast.net.z, flatten(plain_z), rtol=1e-8, atol=1e-9)


def test_single_precision_is_close():
    made = [
        StreamAC(*spaces(6, -2), hidden=(16, 12), sparsity=0.5, backend=backend)
        for backend in ("fused", "torch")
    ]
    errors, acted = drive(made, 6, 100)
    assert errors < 1e-3
    assert acted < 1e-3
    assert made[0].critic.net.w.dtype == np.float32


def test_td_is_the_same_in_both_backends():
    made = [
        StreamTD(4, hidden=(8, 8), dtype="float64", backend=each, trace=0.9) for each in ("fused", "torch")
    ]
    rng = np.random.default_rng(5)
    for _ in range(300):
        x, cumulant = rng.normal(size=4), rng.normal()
        told = [each.predict_one(x) for each in made]
        assert told[0] == pytest.approx(told[1], abs=1e-10)
        for each in made:
            each.learn_one(x, cumulant)


def test_the_backend_is_chosen():
    box, few = spaces(4, 2)
    assert StreamQ(box, few).backend == "fused"
    assert StreamQ(box, few, optimizer="backtracking").backend == "torch"
    assert StreamQ(box, few, network=MLP((4, 8, 2))).backend == "torch"
    with pytest.raises(InputError, match="fused backend is for the built-in MLP"):
        StreamQ(box, few, network=MLP((4, 8, 2)), backend="fused")
    with pytest.raises(InputError, match="accepted are auto, fused, torch"):
        StreamQ(box, few, backend="cuda")
    with pytest.raises(InputError, match="accepted are obgd"):
        StreamQ(box, few, optimizer="lion")


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_an_error_that_is_not_finite_changes_no_weight(backend):
    box, few = spaces(4, 2)
    agent = StreamQ(box, few, backend=backend)
    rng = np.random.default_rng(0)
    for _ in range(20):
        agent.update(rng.normal(size=4), 1, 1.0, rng.normal(size=4), False)
    before = agent.value.outputs(np.ones(4))
    for reward in (np.inf, np.nan):
        with pytest.raises(NumericalError, match="left finite numbers"):
            agent.update(np.ones(4), 0, reward, np.zeros(4), False)
    np.testing.assert_array_equal(agent.value.outputs(np.ones(4)), before)
    assert np.isfinite(agent.update(np.ones(4), 0, 1.0, np.zeros(4), False))


def test_a_policy_without_spread_is_an_error_and_not_a_crash():
    """Deviations that underflow once divided by zero inside the kernel."""
    agent = StreamAC(*spaces(3, -2), hidden=(4,), sparsity=0.0)
    agent.actor.net.w[-4:] = -1e4  # all biases of the head: a deviation of exactly 0
    with pytest.raises(NumericalError):
        agent.update(np.ones(3), np.zeros(2), 1.0, np.zeros(3), False)
