"""The DeepMind Control Suite as gymnasium environments."""

import os

import numpy as np
import pytest

from unending.core.errors import InputError


@pytest.fixture(autouse=True)
def _headless(monkeypatch, needs):
    needs("dm_control")
    monkeypatch.setitem(os.environ, "MUJOCO_GL", "disable")


def test_an_episode_is_seeded_scaled_and_truncated():
    from unending.io.dm_control import ControlSuite

    one, two = ControlSuite("pendulum", "swingup"), ControlSuite("pendulum", "swingup")
    first, _ = one.reset(seed=3)
    again, _ = two.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    assert first.shape == one.observation_space.shape == (3,)
    assert one.time_limit == 1000
    ends = []
    for _ in range(1000):
        told = one.step(np.array([2.0]))  # clipped to 1
        other = two.step(np.array([1.0]))
        np.testing.assert_array_equal(told[0], other[0])
        ends.append(told[2:4])
    assert ends[-1] == (False, True)
    assert not any(any(each) for each in ends[:-1])
    assert (one.reset()[0] != first).any()
    one.close()


def test_bad_actions_and_tasks_are_refused():
    from unending.io.dm_control import ControlSuite

    env = ControlSuite("pendulum", "swingup")
    env.reset(seed=0)
    for bad in (np.zeros(2), np.array([np.nan])):
        with pytest.raises(InputError, match="1 finite numbers"):
            env.step(bad)
    with pytest.raises(InputError, match="no task cat-walk"):
        ControlSuite("cat", "walk")


def test_gymnasium_knows_the_tasks_by_name():
    import gymnasium as gym

    import unending.io.dm_control  # noqa: F401

    env = gym.make("dm_control/pendulum-swingup", disable_env_checker=True)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (3,)
    assert env.get_wrapper_attr("time_limit") == env.spec.max_episode_steps == 1000
    assert gym.spec("dm_control/lqr-lqr_2_1").max_episode_steps is None


def test_actuators_without_limits_take_actions_as_they_are():
    """The suite tells them as -1e10 to 1e10, and a half once became a push of 5e9."""
    from unending.io.dm_control import ControlSuite

    env = ControlSuite("lqr", "lqr_2_1")
    assert (env.action_space.low == -np.inf).all()
    assert (env.action_space.high == np.inf).all()
    env.reset(seed=0)
    after = env.step(np.array([0.5]))[0]
    assert np.abs(after).max() < 10
    assert np.abs(env.step(np.array([3.0]))[0]).max() < 100
