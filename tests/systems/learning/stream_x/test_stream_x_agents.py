"""The agents: rules of the paper that a toy gets wrong, equalities in the tabular case, resuming, memory."""

import copy
import gc

import gymnasium as gym
import numpy as np
import pytest
import torch
from tests.systems.learning.stream_x.playing import TwoDoors
from torch import nn

from unending.core.errors import InputError, NumericalError
from unending.systems.learning.stream_x import (
    MLP,
    MinAtarNetwork,
    StreamAC,
    StreamQ,
    StreamSARSA,
    StreamTD,
    load_statistics,
    statistics,
    wrap,
)
from unending.systems.learning.stream_x.networks import flatten

BOX, THREE = gym.spaces.Box(-np.inf, np.inf, (4,)), gym.spaces.Discrete(3)


def trace_of(agent: StreamQ) -> np.ndarray:
    return agent.value.net.z


def test_an_action_that_is_not_greedy_ends_the_traces_after_the_update():
    agent = StreamQ(BOX, THREE, sparsity=0.0)
    s, s2 = np.ones(4), np.zeros(4)
    greedy = int(agent.value.outputs(s).argmax())
    agent.update(s, greedy, 1.0, s2, False)
    assert trace_of(agent).any()
    before = agent.value.net.w.copy()
    agent.update(s, (greedy + 1) % 3, 1.0, s2, False)
    assert not trace_of(agent).any()
    assert (agent.value.net.w != before).any()  # it was learned from all the same


def test_a_random_draw_that_is_the_greedy_action_counts_as_greedy():
    agent = StreamQ(BOX, THREE, sparsity=0.0, epsilon_end=1.0)  # every action is drawn at random
    s = np.ones(4)
    kept = set()
    for _ in range(30):
        a = agent.act(s)
        greedy = int(agent.value.outputs(s).argmax())
        agent.update(s, a, 0.1, s, False)
        kept.add((a == greedy, bool(trace_of(agent).any())))
    assert kept == {(True, True), (False, False)}


def test_sarsa_keeps_its_traces_and_takes_the_action_it_drew():
    agent = StreamSARSA(BOX, THREE, sparsity=0.0, epsilon_end=1.0)
    s = np.ones(4)
    for _ in range(10):
        a = agent.act(s)
        agent.update(s, a, 0.1, s, False)
        assert trace_of(agent).any()
        drawn = agent.drawn
        assert agent.act(s) in range(3)
        assert agent.drawn == drawn  # no second draw: the error was about this action
        agent._coming = a
    agent.update(s, 0, 0.1, s, True)
    assert not trace_of(agent).any()


@pytest.mark.parametrize(("bootstrap", "wanted"), [(False, 1.0), (True, 1.0 + 0.99 * 5.0)])
def test_truncation_bootstraps_only_if_asked(bootstrap, wanted):
    network = MLP((1, 2))
    agent = StreamQ(BOX, gym.spaces.Discrete(2), network=network, bootstrap_on_truncation=bootstrap)
    with torch.no_grad():
        network.layers[0].bias.copy_(torch.tensor([5.0, 0.0]))
        network.layers[0].weight.zero_()
    s = np.zeros(1)
    assert agent.update(s, 1, 1.0, s, False, True) == pytest.approx(wanted)


def test_epsilon_falls_linearly_and_stays():
    agent = StreamQ(BOX, THREE, total_steps=1000, epsilon_fraction=0.1)
    seen = []
    for _ in range(150):
        seen.append(agent.epsilon)
        agent.act(np.ones(4))
    np.testing.assert_allclose(seen[:100], 1 + (0.01 - 1) * np.arange(1, 101) / 100)
    assert set(seen[100:]) == {0.01}


def watkins(steps, alpha, gamma, lamda):
    """Tabular Watkins Q(lambda) with accumulating traces, written out."""
    q, z = np.zeros((5, 2)), np.zeros((5, 2))
    for s, a, reward, s2, done in steps:
        greedy = a == q[s].argmax()
        delta = reward + gamma * (0.0 if done else q[s2].max()) - q[s, a]
        z *= gamma * lamda
        z[s, a] += 1
        q += alpha * delta * z
        if done or not greedy:
            z[:] = 0
    return q


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_on_tabular_features_it_is_watkins_q_lambda(backend):
    """One-hot states, a linear network, and a bound that never binds."""
    rng = np.random.default_rng(0)
    states = gym.spaces.Box(0, 1, (5,))
    agent = StreamQ(
        states, gym.spaces.Discrete(2), hidden=(), sparsity=1.0, lr=0.05, kappa=1e-9, gamma=0.9, lamda=0.7,
        backend=backend, dtype="float64",
    )  # fmt: skip
    # The bias would be a sixth feature: inputs are shifted so that it never learns anything they cannot tell.
    steps, s = [], 0
    for _ in range(300):
        a, s2, done = int(rng.integers(2)), int(rng.integers(5)), bool(rng.random() < 0.1)
        steps.append((s, a, float(rng.normal()), s2, done))
        s = int(rng.integers(5)) if done else s2
    for s, a, reward, s2, done in steps:
        agent.update(np.eye(5)[s], a, reward, np.eye(5)[s2], done)
        _without_bias(agent)
    learned = np.array([agent.value.outputs(row) for row in np.eye(5)])
    np.testing.assert_allclose(learned, watkins(steps, 0.05, 0.9, 0.7), rtol=1e-9, atol=1e-12)


def _without_bias(agent):
    if agent.backend == "fused":
        agent.value.net.w[-2:] = agent.value.net.z[-2:] = 0.0
    else:
        bias = agent.value.network.layers[0].bias
        bias.data.zero_()
        agent.value.optimizer.state[bias]["trace"].zero_()


def test_the_entropy_is_always_pushed_up():
    """With a policy gradient of zero on average what is left is tau |delta| grad H, whatever the error's sign."""
    from unending.systems.learning.stream_x.updates import policy_gradient

    logits = np.array([2.0, 0.0, -1.0])
    p = np.exp(logits) / np.exp(logits).sum()
    slope = -p * (np.log(p) + -(p * np.log(p)).sum())
    for sign in (1.0, -1.0):
        head = policy_gradient(logits, np.array([1.0]), True, 0.01 * sign)
        score = np.eye(3)[1] - p
        np.testing.assert_allclose(sign * (head - score), 0.01 * slope, rtol=1e-9)


def test_both_networks_move_by_the_error_from_before_either_moved():
    box = gym.spaces.Box(-1, 1, (2,))
    agent = StreamAC(BOX, box, sparsity=0.0, dtype="float64", hidden=(8,))
    s, s2 = np.ones(4), np.zeros(4)
    wanted = 1.0 + 0.99 * agent.critic.outputs(s2)[0] - agent.critic.outputs(s)[0]
    still = StreamAC(BOX, box, sparsity=0.0, dtype="float64", hidden=(8,), kappa_value=1e12)
    assert agent.update(s, np.zeros(2), 1.0, s2, False) == pytest.approx(wanted, rel=1e-12)
    still.update(s, np.zeros(2), 1.0, s2, False)
    assert np.abs(agent.critic.net.w - still.critic.net.w).max() > 1e-3
    np.testing.assert_array_equal(agent.actor.net.w, still.actor.net.w)  # however far the critic moved


def test_a_bounded_step_does_not_overshoot_and_a_plain_one_does():
    """Property 5: after a step the error on the same sample keeps its sign in at least 99 of 100 steps."""
    bounded, plain = (
        StreamTD(6, hidden=(32, 32), optimizer=rule, dtype="float64", sparsity=0.5)
        for rule in ("obgd", "sgd")
    )
    rng, kept, s = np.random.default_rng(0), {"obgd": 0, "sgd": 0}, np.zeros(6)
    for _ in range(300):
        s2 = 0.9 * s + rng.normal(size=6)
        reward = 0.3 * s2[0] + 0.1 * rng.normal()
        plain.load_state_dict(bounded.state_dict())
        for name, agent in (("sgd", plain), ("obgd", bounded)):
            before = agent.update(s, reward, s2)
            after = reward + 0.99 * agent.predict(s2) - agent.predict(s)
            kept[name] += before * after >= 0
        s = s2
    assert kept["obgd"] >= 297
    assert kept["sgd"] < 240


@pytest.mark.parametrize("backend", ["fused", "torch"])
@pytest.mark.parametrize("kind", [StreamQ, StreamSARSA, StreamAC])
def test_a_stream_resumes_bit_for_bit(kind, backend):
    torch.set_num_threads(1)

    def made():
        env = wrap(TwoDoors())
        return env, kind(env.observation_space, env.action_space, hidden=(8, 8), backend=backend)

    env, agent = made()
    agent.learn(env, 60, seed=1)
    held = copy.deepcopy((agent.state_dict(), statistics(env)))
    straight = agent.learn(env, 60, seed=2), agent.state_dict()
    env2, again = made()
    again.load_state_dict(held[0])
    load_statistics(env2, held[1])
    resumed = again.learn(env2, 60, seed=2), again.state_dict()
    assert straight[0] == resumed[0]
    _same(straight[1], resumed[1])


def _same(one, two):
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            _same(one[name], two[name])
    elif isinstance(one, np.ndarray | torch.Tensor):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
    else:
        assert one == two


@pytest.mark.slow
def test_nothing_grows_over_a_hundred_thousand_steps():
    import tracemalloc

    env = wrap(TwoDoors())
    agent = StreamQ(env.observation_space, env.action_space, hidden=(8, 8))
    agent.learn(env, 2_000, seed=0)
    held, bytes_before = agent.memory_bytes(), 0
    tracemalloc.start()
    for turn in range(5):
        agent.learn(env, 20_000)
        gc.collect()
        now = tracemalloc.get_traced_memory()[0]
        bytes_before = now if turn < 2 else bytes_before  # Python's lists of free tuples fill up at first
    tracemalloc.stop()
    assert agent.updates == 102_000
    assert agent.memory_bytes() == held
    assert now - bytes_before < 20_000


def test_a_better_door_is_found():
    for kind in (StreamQ, StreamSARSA, StreamAC):
        env = wrap(TwoDoors())
        agent = kind(
            env.observation_space,
            env.action_space,
            hidden=(16, 16),
            **({} if kind is StreamAC else {"total_steps": 3000}),
        )
        found = [each[1] for each in agent.learn(env, 3000, seed=0)]
        assert np.mean(found[-50:]) > 0.8, kind  # at random 0


def test_pictures_learn_on_the_torch_path():
    boards = gym.spaces.Box(0, 1, (4, 10, 10))
    agent = StreamQ(boards, THREE, network=MinAtarNetwork(3, 4))
    rng = np.random.default_rng(0)
    for _ in range(3):
        delta = agent.update(rng.random((4, 10, 10)), 0, 1.0, rng.random((4, 10, 10)), False)
    assert np.isfinite(delta)
    both = StreamAC(boards, THREE, networks=(MinAtarNetwork(1, 4), MinAtarNetwork(3, 4)))
    assert both.act(rng.random((4, 10, 10))) in range(3)
    assert np.isfinite(both.update(rng.random((4, 10, 10)), 0, 1.0, rng.random((4, 10, 10)), True))


def test_backtracking_leaves_the_error_with_its_sign():
    agent = StreamQ(BOX, THREE, optimizer="backtracking", sparsity=0.0, dtype="float64")
    rng = np.random.default_rng(0)
    for _ in range(50):
        s, s2, reward = rng.normal(size=4), rng.normal(size=4), rng.normal()
        delta = agent.update(s, 0, reward, s2, True)
        assert delta * (reward - agent.value.outputs(s)[0]) >= 0


def test_wrong_spaces_are_refused():
    with pytest.raises(InputError, match="discrete actions"):
        StreamQ(BOX, BOX)
    with pytest.raises(InputError, match="flat observations"):
        StreamQ(gym.spaces.Box(0, 1, (2, 2)), THREE)
    with pytest.raises(InputError, match="Discrete or a flat Box"):
        StreamAC(BOX, gym.spaces.MultiBinary(3))
    with pytest.raises(InputError, match="backtracking is for value networks"):
        StreamAC(BOX, THREE, optimizer="backtracking")
    with pytest.raises(InputError, match="shape"):
        StreamQ(BOX, THREE).load_state_dict(StreamQ(BOX, gym.spaces.Discrete(2)).state_dict())


def test_many_environments_at_once_are_no_stream():
    agent = StreamQ(BOX, gym.spaces.Discrete(2))
    with pytest.raises(InputError, match="a stream is one environment"):
        agent.learn(gym.make_vec("CartPole-v1", num_envs=2), 10)


def test_memory_is_weights_and_traces():
    agent = StreamQ(BOX, THREE, hidden=(8, 8))
    count = sum(p.numel() for p in MLP((4, 8, 8, 3)).parameters())
    assert agent.memory_bytes() == 2 * 4 * count
    assert StreamQ(BOX, THREE, hidden=(8, 8), optimizer="adaptive").memory_bytes() == 3 * 4 * count
    assert isinstance(MLP((4, 3)), nn.Module)
    assert len(flatten(MLP((4, 8, 8, 3)))) == count


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_an_observation_or_action_of_another_size_is_refused_and_nothing_is_written(backend):
    """The kernels check no bounds: an action outside once wrote beyond the outputs."""
    s, wide = np.ones(4), np.ones(5)
    nets = {"hidden": (8,), "backend": backend}
    for kind in (StreamQ, StreamSARSA):
        agent = kind(BOX, THREE, **nets)
        for bad in (3, -1, 0.5, np.zeros(2)):
            with pytest.raises(InputError, match="accepted is a whole number from 0 to 2"):
                agent.update(s, bad, 0.0, s, False)
    box = gym.spaces.Box(-1, 1, (2,))
    for agent, action, bad_actions in (
        (StreamAC(BOX, box, **nets), np.zeros(2), (np.zeros(1), 0.0, np.array([0.0, np.nan]))),
        (StreamAC(BOX, THREE, **nets), 1, (3, -1)),
    ):
        for bad in bad_actions:
            with pytest.raises(InputError, match="accepted"):
                agent.update(s, bad, 0.0, s, False)
        for first, second in ((wide, s), (s, wide[:3])):
            with pytest.raises(InputError, match="accepted is \\(4,\\)"):
                agent.update(first, action, 0.0, second, False)
        with pytest.raises(InputError, match="accepted is \\(4,\\)"):
            agent.act(wide)
        assert agent.updates == 0


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_an_episode_that_learn_left_in_the_middle_is_not_carried_into_the_next_one(backend):
    """`learn` resets the environment: neither traces nor the action drawn for another place go on."""
    env = wrap(TwoDoors())
    for kind in (StreamQ, StreamSARSA, StreamAC):
        agent = kind(env.observation_space, env.action_space, hidden=(8,), backend=backend)
        agent.learn(env, 200, lambda told: not told["info"].get("episode") and told["step"] > 20, seed=0)
        traces = [each for learner in agent.learners.values() for each in _traces(learner.state_dict())]
        agent.learn(env, 0)
        after = [each for learner in agent.learners.values() for each in _traces(learner.state_dict())]
        if kind is not StreamQ:  # which may have cut them
            assert any(each.any() for each in traces)
        assert not any(each.any() for each in after)
        assert getattr(agent, "_coming", -1) == -1


def _traces(held):
    if "z" in held:
        return [held["z"]]
    return [each["trace"] for each in held["optimizer"]["state"].values()]


def test_a_state_of_other_settings_is_refused():
    flat, module = (StreamQ(BOX, THREE, hidden=(8,), backend=backend) for backend in ("fused", "torch"))
    with pytest.raises(InputError, match="another backend"):
        flat.load_state_dict(module.state_dict())
    with pytest.raises(InputError, match="another backend"):
        module.load_state_dict(flat.state_dict())
    double = StreamQ(BOX, THREE, hidden=(8,), dtype="float64")
    with pytest.raises(InputError, match="float64"):
        flat.load_state_dict(double.state_dict())


@pytest.mark.parametrize("backend", ["fused", "torch"])
@pytest.mark.parametrize("actions", [THREE, gym.spaces.Box(-1, 1, (2,))])
def test_a_policy_that_has_left_finite_numbers_is_an_error_in_both_backends(backend, actions):
    agent = StreamAC(BOX, actions, hidden=(8,), backend=backend)
    held = agent.state_dict()
    for each in held["actor"]["network"].values() if backend == "torch" else [held["actor"]["w"]]:
        each[:] = np.nan
    agent.load_state_dict(held)
    with pytest.raises(NumericalError):
        agent.act(np.ones(4))
    with pytest.raises(NumericalError):
        agent.update(np.ones(4), 1 if actions is THREE else np.zeros(2), 0.0, np.ones(4), False)


@pytest.mark.parametrize("backend", ["fused", "torch"])
@pytest.mark.parametrize(
    "settings",
    [{"lr": np.nan}, {"lr": np.inf}, {"gamma": 3.0}, {"lamda": -1.0}, {"kappa": 0.0}, {"sparsity": 2.0},
     {"hidden": (8, 0)}, {"dtype": "int8"}],
)  # fmt: skip
def test_senseless_settings_are_refused_by_both_backends(backend, settings):
    with pytest.raises(InputError, match="accepted"):
        StreamQ(BOX, THREE, backend=backend, **settings)


def test_actions_that_are_not_counted_from_zero_are_refused():
    """They once were given to the environment one too low."""
    with pytest.raises(InputError, match="counted from 0"):
        StreamQ(BOX, gym.spaces.Discrete(3, start=1))
