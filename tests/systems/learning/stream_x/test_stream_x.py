"""The operator: against agents between wrappers, against its reference, on bad input."""

import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from tests.systems.learning.stream_x.playing import TwoDoors

from unending.core import Control, Rows, Session, Transitions, nbytes
from unending.core.errors import InputError, NumericalError
from unending.core.operator import replay
from unending.laws.equality import events_difference
from unending.systems.learning.stream_x import StreamAC, StreamQ, StreamSARSA, StreamX, wrap

SMALL = {"hidden": (8, 8), "time_limit": 10, "sparsity": 0.5}


def one(s, a, reward, s2, terminated=False, truncated=False) -> Transitions:
    actions = np.array([a]) if np.ndim(a) == 0 else np.asarray(a)[None]
    return Transitions(
        np.asarray(s)[None], actions, np.array([reward]), np.asarray(s2)[None], np.array([terminated]),
        np.array([truncated]),
    )  # fmt: skip


def close_the_loop(op, env, steps, seed=0):
    """Events and actions of an operator that acts in a raw environment."""
    session, events, actions = Session(op, seed=5), [], []

    def push(chunk):
        session.push(chunk)
        new = session.poll()
        events.extend(new)
        return [each.data.value for each in new if type(each.data) is Control]

    s, _ = env.reset(seed=seed)
    (a,) = push(Control("reset", s))
    for _ in range(steps):
        s2, reward, terminated, truncated, _ = env.step(a)
        actions.append(a)
        told = push(one(s, a, reward, s2, terminated, truncated))
        s = s2
        if terminated or truncated:
            assert told == []
            s, _ = env.reset()
            told = push(Control("reset", s))
        (a,) = told
    return session, events, actions


@pytest.mark.parametrize("agent", ["q", "sarsa", "ac"])
def test_in_a_raw_environment_it_is_the_agent_in_a_wrapped_one(agent):
    """Bit for bit: normalisation, reward scale and time inside the state are the wrappers' arithmetic."""
    op = StreamX(agent=agent, observation=3, actions=2, epsilon_steps=100, **SMALL)
    session, events, actions = close_the_loop(op, TwoDoors(), 200)
    env = wrap(TwoDoors(), time_limit=10)
    settings = {"hidden": (8, 8), "sparsity": 0.5, "seed": 5}
    if agent == "ac":
        twin = StreamAC(env.observation_space, env.action_space, **settings)
        networks = [twin.critic.net, twin.actor.net]
    else:
        kind = StreamQ if agent == "q" else StreamSARSA
        twin = kind(
            env.observation_space, env.action_space, total_steps=100, epsilon_fraction=1.0, **settings
        )
        networks = [twin.value.net]
    taken, act = [], twin.act
    twin.act = lambda s: taken.append(act(s)) or taken[-1]
    if agent == "sarsa":  # which draws inside its update
        del twin.act
    episodes = twin.learn(env, 200, seed=0)
    if agent != "sarsa":
        assert taken[:200] == actions
    for held, net in zip((session.state.value, session.state.policy), networks, strict=False):
        np.testing.assert_array_equal(held.w, net.w)
        np.testing.assert_array_equal(held.z, net.z)
    returns = [each.data.values[0].tolist() for each in events if type(each.data) is Rows]
    assert returns == [[ret, float(length)] for _, ret, length in episodes]


def test_continuous_actions_in_a_real_environment():
    op = StreamX(agent="ac", observation=3, action_width=1, hidden=(8, 8), time_limit=200)
    session, events, actions = close_the_loop(op, gym.wrappers.ClipAction(gym.make("Pendulum-v1")), 250)
    env = wrap(gym.make("Pendulum-v1"))
    twin = StreamAC(env.observation_space, env.action_space, hidden=(8, 8), seed=5)
    twin.learn(env, 250, seed=0)
    np.testing.assert_array_equal(session.state.value.w, twin.critic.net.w)
    np.testing.assert_array_equal(session.state.policy.w, twin.actor.net.w)
    assert actions[0].shape == (1,)
    rows = [each.data for each in events if type(each.data) is Rows]
    assert rows[0].names == ("return", "length")
    assert rows[0].values[0, 1] == 200


def tape(op, n, seed=0) -> Transitions:
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(n + 1, op.observation))
    actions = (
        rng.normal(size=(n, op.action_width)) if op.action_width else rng.integers(0, op.actions or 2, n)
    )
    return Transitions(
        seen[:-1], actions, rng.normal(size=n), seen[1:], rng.random(n) < 0.1, rng.random(n) < 0.1
    )


CASES = {
    "td": {"agent": "td"},
    "sarsa": {"agent": "sarsa", "actions": 3},
    "ac-discrete": {"agent": "ac", "actions": 3},
    "ac-continuous": {"agent": "ac", "action_width": 2},
    "q-adaptive": {"agent": "q", "actions": 2, "optimizer": "adaptive"},
    "q-adam": {"agent": "q", "actions": 2, "optimizer": "adam", "lr": 1e-3},
    "q-raw": {"agent": "q", "actions": 2, "normalize": False, "scale": False, "time_limit": -1},
    "q-bootstrap": {"agent": "q", "actions": 2, "bootstrap_on_truncation": True},
    "sarsa-bootstrap": {"agent": "sarsa", "actions": 2, "bootstrap_on_truncation": True},
    "q-unknown-limit": {"agent": "q", "actions": 2, "time_limit": 0},
    "q-no-norm": {"agent": "q", "actions": 2, "layer_norm": False},
}


@pytest.mark.parametrize("name", CASES)
def test_a_tape_gives_what_the_reference_gives_however_it_is_cut(name):
    op = StreamX(observation=3, dtype="float64", epsilon_start=0.5, **{**SMALL, **CASES[name]})
    whole = tape(op, 60)
    stream = [Control("reset", whole.observations[0]), whole, Control("interrupt"), tape(op, 20, seed=1)]
    events = replay(op, stream)
    assert events_difference(events, op.offline(stream), 1e-7) is None
    cut = [stream[0], whole[:1], whole[1:13], whole[13:13], whole[13:], *stream[2:]]
    assert events_difference(replay(op, cut), events, 0.0) is None
    state = op.init()
    assert nbytes(state) == op.bound().resident
    for chunk in stream:
        state, _ = op.step(state, chunk)
    assert nbytes(state) == op.bound().resident


@pytest.mark.slow
@pytest.mark.parametrize("name", ["td", "sarsa", "ac-discrete", "ac-continuous"])
def test_the_laws_hold_for_the_other_agents(name):
    from unending.laws import check

    op = StreamX(observation=3, dtype="float64", **{**SMALL, **CASES[name]})
    report = check(op)
    assert report.ok, str(report)


def test_a_transition_from_elsewhere_begins_an_episode():
    op = StreamX.example()
    state, _ = op.step(op.init(), one(np.ones(3), 0, 1.0, np.zeros(3)))
    assert state.counts[5] == 1
    state, _ = op.step(state, one(np.zeros(3), 1, 1.0, np.ones(3)))
    assert state.counts[5] == 2  # it went on
    state, events = op.step(state, one(np.full(3, 9.0), 1, 2.0, np.ones(3), True))
    assert events[-1].data.values.tolist() == [[2.0, 1.0]]
    op = StreamX(agent="td", observation=3, **SMALL)
    state, _ = op.step(op.init(), one(np.ones(3), 0, 1.0, np.zeros(3)))
    assert state.value.z.any()
    state, _ = op.step(state, Control("reset", np.full(3, 9.0)))
    assert not state.value.z.any()


def test_statistics_are_those_of_all_raw_observations():
    op = StreamX.example()
    made = tape(op, 50)
    state, _ = op.step(op.init(), made)
    seen, before = [], None
    for i in range(50):
        if before is None or not np.array_equal(before, made.observations[i]):
            seen.append(made.observations[i])
        seen.append(made.nexts[i])
        before = None if made.terminated[i] or made.truncated[i] else made.nexts[i]
    np.testing.assert_allclose(state.mean, np.mean(seen, 0), rtol=1e-12)
    np.testing.assert_allclose(state.m2 / (len(seen) - 1), np.var(seen, 0, ddof=1), rtol=1e-10)


def test_bad_input_is_refused_and_what_was_learned_is_kept():
    op = StreamX(agent="q", observation=3, actions=2, **SMALL)
    session = Session(op)
    session.push(tape(op, 30))
    session.poll()
    before = session.snapshot()
    good = np.ones(3)
    for bad, message in (
        (Control("reset", np.ones(4)), "3 finite numbers"),
        (Control("reset", [1.0, np.nan, 0.0]), "3 finite numbers"),
        (Control("reset"), "3 finite numbers"),
        (Control("reset", "start"), "3 numbers"),
        (Control("go"), "knows reset and interrupt"),
        (one(good, 2, 0.0, good), "action 2 is outside"),
        (one(good, 0.5, 0.0, good), "got float64"),
        (one(good, [0, 1], 0.0, good), "one number a step"),
        (one(good, 0, np.nan, good), "NaN or infinity"),
        (one(np.ones(2), 0, 0.0, np.ones(2)), "observation width is 2"),
    ):
        with pytest.raises(InputError, match=message):
            session.push(bad)
        assert session.snapshot() == before
    continuous = StreamX(agent="ac", observation=3, action_width=2, **SMALL)
    with pytest.raises(InputError, match="action width is 1"):
        continuous.step(continuous.init(), one(good, [0.0], 0.0, good))


def test_rewards_that_explode_are_scaled_or_refused_and_the_learned_state_is_kept():
    op = StreamX(agent="q", observation=3, actions=2, **SMALL)
    session = Session(op)
    session.push(tape(op, 30))
    session.poll()
    session.push(one(np.ones(3), 0, 1e12, np.zeros(3)))  # large, but it can be scaled
    session.poll()
    before = session.snapshot()
    with pytest.raises(NumericalError, match="did not happen"):
        session.push(one(np.zeros(3), 0, 1e200, np.ones(3)))
    with pytest.raises(NumericalError, match="did not happen"):
        session.push(one(np.full(3, 1e200), 0, 0.0, np.ones(3)))
    with pytest.raises(NumericalError, match="did not happen"):
        session.push(Control("reset", np.full(3, 1e200)))
    assert session.snapshot() == before
    session.push(one(np.zeros(3), 0, 1.0, np.ones(3)))
    assert np.isfinite(session.state.value.w).all()


def test_sizes_and_settings_are_checked():
    with pytest.raises(InputError, match="observation is 0"):
        StreamX().init()
    with pytest.raises(InputError, match="actions and action_width are 0"):
        StreamX(observation=3).bound()
    with pytest.raises(InputError, match="not both"):
        StreamX(observation=3, actions=2, action_width=1).init()
    with pytest.raises(InputError, match="continuous ones are for 'ac'"):
        StreamX(agent="q", observation=3, action_width=1).init()
    with pytest.raises(InputError, match="observations of 100800 numbers are pictures"):
        StreamX(agent="q", observation=210 * 160 * 3, actions=6).init()
    for settings in (
        {"agent": "x"},
        {"gamma": 2.0},
        {"kappa": 0.0},
        {"hidden": (-1,)},
        {"optimizer": "sgdm"},
        {"hidden": (8, 0)},
        {"lr": np.inf},
        {"entropy": np.nan},
        {"entropy": -1.0},
    ):
        with pytest.raises(InputError):
            StreamX(**settings)
    assert StreamX(observation=17, action_width=6).sizes == ((18, 128, 128, 1), (18, 128, 128, 12))
    assert StreamX(agent="q", observation=4, actions=2).sizes[0] == (5, 32, 32, 2)


def test_the_bound_does_not_come_from_the_state():
    made = StreamX(agent="q", observation=4, actions=2)
    parameters = 6 * 32 + 33 * 32 + 33 * 2
    assert made.bound().resident == 2 * 4 * parameters + 8 * (4 * 3 + 5 + 4 + 6 + 2)
    adam = replace(made, optimizer="adam")
    assert adam.bound().resident - made.bound().resident == 2 * 4 * parameters


def test_the_operator_needs_no_gymnasium():
    """In a process where gymnasium cannot be imported, a tape is learned from, and an agent says what is missing."""
    program = """
import sys
sys.modules["gymnasium"] = None
from unending.core import Control
from unending.core.errors import MissingExtraError
from unending.systems.learning.stream_x import StreamX
import unending.systems.learning.stream_x as stream_x
op = StreamX.example()
_, events = op.step(op.init(), Control("reset", [1.0, 2.0, 3.0]))
assert events[0].data.value in (0, 1)
for ask in (lambda: stream_x.StreamQ, lambda: op.offline([])):
    try:
        ask()
    except MissingExtraError as error:
        assert "unending[rl]" in str(error)
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_all_that_is_compiled_is_compiled_at_the_first_step_and_only_once():
    """In a process of its own: the wait is one, and an empty chunk does not bring another one."""
    program = """
import numpy as np
from unending.core import Control, Transitions
from unending.systems.learning.stream_x import StreamX
from unending.systems.learning.stream_x.stream import begin, draw, run
op = StreamX.example()
state, _ = op.step(op.init(), Control("reset", [1.0, 2.0, 3.0]))
kernels = begin, draw, run
assert [len(each.overloads) for each in kernels] == [1, 1, 1]
seen = np.zeros((4, 3))
made = Transitions(seen, [0, 1, 0, 1], np.ones(4), seen, np.zeros(4, bool), np.zeros(4, bool))
for chunk in (made[1:1], made[:1], made, made[1:3]):
    state, _ = op.step(state, chunk)
assert [len(each.overloads) for each in kernels] == [1, 1, 1]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
