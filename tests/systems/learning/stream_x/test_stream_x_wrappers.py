"""The wrappers' arithmetic, and what it must not do."""

import gymnasium as gym
import numpy as np
import pytest

from unending.core.errors import InputError
from unending.systems.learning.stream_x import (
    AddTimeInfo,
    NormalizeObservation,
    ScaleReward,
    StreamQ,
    load_statistics,
    statistics,
    wrap,
    wrap_pictures,
)


class Tape(gym.Env):
    """Plays observations, rewards and ends; a reset takes the next observation too."""

    def __init__(self, observations, rewards, ends, shape=None) -> None:
        self.tape = list(observations)
        self.rewards, self.ends = list(rewards), list(ends)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, shape or self.tape[0].shape, np.float64)
        self.action_space = gym.spaces.Discrete(2)
        self.at = self.step_at = 0

    def _next(self):
        self.at += 1
        return self.tape[self.at - 1]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._next(), {}

    def step(self, action):
        self.step_at += 1
        ended = self.ends[self.step_at - 1]
        return self._next(), self.rewards[self.step_at - 1], ended == "end", ended == "cut", {}


def random_tape(n=60, seed=0):
    rng = np.random.default_rng(seed)
    ends = rng.choice(["", "end", "cut"], n, p=[0.8, 0.1, 0.1])
    return Tape(rng.normal(3.0, 2.0, (2 * n + 1, 4)), rng.normal(1.0, 5.0, n), ends)


def play(env, steps):
    seen, rewards = [env.reset()[0]], []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(0)
        seen.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            seen.append(env.reset()[0])
    return seen, rewards


def test_observations_are_normalised_with_all_that_came_before_and_resets_count():
    made = random_tape()
    seen, _ = play(NormalizeObservation(made), 60)
    raw = np.array(made.tape[: made.at])
    for n, each in enumerate(seen, 1):
        variance = raw[:n].var(0, ddof=1) if n > 1 else np.ones(4)
        np.testing.assert_allclose(each, (raw[n - 1] - raw[:n].mean(0)) / np.sqrt(variance + 1e-8), rtol=1e-9)
    assert len(seen) == made.at  # a toy that starts anew each episode would differ after the first


def test_rewards_are_divided_by_the_deviation_of_the_discounted_sum_and_not_centred():
    made = random_tape()
    _, scaled = play(ScaleReward(made, 0.9), 60)
    sums, total = [], 0.0
    for reward, end in zip(made.rewards, made.ends, strict=True):
        total = reward if end else 0.9 * total + reward  # at an end the last reward alone, which goes on
        sums.append(total)
    for n, each in enumerate(scaled, 1):
        variance = np.var(sums[:n], ddof=1) if n > 1 else 1.0
        assert each == pytest.approx(made.rewards[n - 1] / np.sqrt(variance + 1e-8), rel=1e-9)
        assert np.sign(each) == np.sign(made.rewards[n - 1])


def test_time_is_appended_as_it_is():
    env = AddTimeInfo(
        NormalizeObservation(Tape([np.full(2, 7.0)] * 9, [0.0] * 9, ["", "", "", "end"] * 2)), 10
    )
    seen, _ = play(env, 5)
    assert [each[-1] for each in seen] == pytest.approx([-0.5, -0.5, -0.4, -0.3, -0.2, -0.5, -0.5])
    assert env.observation_space.shape == (3,)


def test_the_time_limit_is_the_environments():
    assert wrap(gym.make("CartPole-v1")).get_wrapper_attr("time_limit") == 500
    assert AddTimeInfo(random_tape()).time_limit == 10_000
    with pytest.raises(InputError, match="flat observations"):
        AddTimeInfo(Tape([np.zeros((2, 2))], [], []))


def test_wrap_keeps_raw_returns_and_clips_actions():
    env = wrap(gym.make("Pendulum-v1"))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4,)
    total, done = 0.0, False
    while not done:
        _, reward, terminated, truncated, info = env.step(np.array([9.0]))
        total, done = total + reward, terminated or truncated
    assert info["episode"]["r"] < -100 < total < 0


def test_pictures_are_normalised_before_they_are_stacked():
    frames = np.random.default_rng(0).integers(0, 255, (20, 3, 3)).astype(float)
    env = wrap_pictures(Tape(frames, [1.0] * 9, [""] * 9))
    env.reset()
    for _ in range(5):
        seen = env.step(0)[0]
    assert seen.shape == (4, 3, 3)
    wanted = (frames[5] - frames[:6].mean(0)) / np.sqrt(frames[:6].var(0, ddof=1) + 1e-8)
    np.testing.assert_allclose(seen[-1], wanted, rtol=1e-9)
    earlier = (frames[4] - frames[:5].mean(0)) / np.sqrt(frames[:5].var(0, ddof=1) + 1e-8)
    np.testing.assert_allclose(seen[-2], earlier, rtol=1e-9)  # not with the statistics of the newest


def test_statistics_move_to_another_environment():
    one, two = (wrap(random_tape(seed=each)) for each in (0, 0))
    play(one, 30)
    load_statistics(two, statistics(one))
    held, given = statistics(two), statistics(one)
    for name in given:
        for part in given[name]:
            np.testing.assert_array_equal(held[name][part], given[name][part])
    with pytest.raises(InputError, match="the environment has"):
        load_statistics(wrap(random_tape(), scale=False), given)


def test_a_reward_of_nan_is_refused_and_the_statistics_are_kept():
    made = Tape([np.zeros(2)] * 9, [1.0, 2.0, np.nan, 3.0], [""] * 9)
    env = ScaleReward(made)
    env.reset()
    env.step(0)
    env.step(0)
    before = env.state_dict()
    with pytest.raises(InputError, match="NaN"):
        env.step(0)
    assert env.state_dict() == before


def test_a_crash_of_the_environment_leaves_the_agent_learned():
    class Crash(Tape):
        def step(self, action):
            if self.step_at == 30:
                raise RuntimeError("the simulator died")
            return super().step(action)

    rng = np.random.default_rng(0)
    env = wrap(Crash(rng.normal(size=(99, 4)), rng.normal(size=60), [""] * 60))
    agent = StreamQ(env.observation_space, env.action_space)
    with pytest.raises(RuntimeError, match="died"):
        agent.learn(env, 60)
    assert agent.updates == 30
    assert len(agent.learn(wrap(random_tape()), 20)) > 0
    assert agent.updates == 50
