"""What stands between a gymnasium environment and a stream-x agent: running normalisation, reward scale, time."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import ClipAction, FlattenObservation, FrameStackObservation, RecordEpisodeStatistics

from unending.core.errors import InputError
from unending.parts.numerics.moments import RunningMoments

__all__ = [
    "AddTimeInfo",
    "NormalizeObservation",
    "ScaleReward",
    "load_statistics",
    "statistics",
    "wrap",
    "wrap_pictures",
]


class NormalizeObservation(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """Observations less their running mean, over their running deviation; the statistics outlive the episodes.

    Observations come out in float64, of the same shape. Every one counts, those of a reset too, before it is used.
    """

    def __init__(self, env: gym.Env, eps: float = 1e-8) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, eps=eps)
        super().__init__(env)
        shape = env.observation_space.shape
        if shape is None:
            raise InputError("normalisation takes observations that are arrays: flatten them first")
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, shape, np.float64)
        self.eps = eps
        self.moments = RunningMoments(shape)

    def observation(self, observation: Any) -> np.ndarray:
        """Take it into the statistics, then normalise it."""
        self.moments.update(observation)
        return self.moments.normalize(observation, self.eps)

    def state_dict(self) -> dict[str, Any]:
        """The statistics."""
        return self.moments.state_dict()

    def load_state_dict(self, held: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.moments.load_state_dict(held)


class ScaleReward(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Rewards over the running deviation of their discounted sum; not centred, so that their sign stays.

    The sum u <- gamma u (1 - done) + r goes on over episodes: at an end it is the last reward alone.
    """

    def __init__(self, env: gym.Env, gamma: float = 0.99, eps: float = 1e-8) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, gamma=gamma, eps=eps)
        gym.Wrapper.__init__(self, env)
        self.gamma, self.eps = gamma, eps
        self.moments = RunningMoments()
        self.trace = 0.0

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        goes_on = 0.0 if terminated or truncated else 1.0
        trace = self.gamma * self.trace * goes_on + float(reward)
        self.moments.update(trace)
        self.trace = trace
        scaled = float(reward) / float(np.sqrt(self.moments.variance() + self.eps))
        return observation, scaled, terminated, truncated, info

    def state_dict(self) -> dict[str, Any]:
        """The statistics and the running sum."""
        return {**self.moments.state_dict(), "trace": self.trace}

    def load_state_dict(self, held: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.moments.load_state_dict(held)
        self.trace = float(held["trace"])


class AddTimeInfo(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Appends the time in the episode: -0.5 at a reset and -0.5 + (k - 1) / time_limit at the k-th step.

    Put it outside the normalisation, which it is not to pass through.

    Parameters
    ----------
    time_limit
        steps of an episode; `None` takes the environment's (its spec's, or its attribute `time_limit`), or 10,000.
    """

    def __init__(self, env: gym.Env, time_limit: int | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, time_limit=time_limit)
        gym.Wrapper.__init__(self, env)
        known = env.spec.max_episode_steps if env.spec is not None else None
        if known is None and env.has_wrapper_attr("time_limit"):
            known = env.get_wrapper_attr("time_limit")
        self.time_limit = time_limit or known or 10_000
        shape = env.observation_space.shape
        if shape is None or len(shape) != 1:
            raise InputError(f"time is appended to flat observations, got shape {shape}")
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (shape[0] + 1,), np.float64)
        self.steps = 0

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        self.steps = 0
        return np.append(observation, -0.5), info

    def step(self, action: Any) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        timed = np.append(observation, -0.5 + self.steps / self.time_limit)
        self.steps += 1
        return timed, reward, terminated, truncated, info


def wrap(
    env: gym.Env,
    gamma: float = 0.99,
    normalize: bool = True,
    scale: bool = True,
    time: bool = True,
    time_limit: int | None = None,
) -> gym.Env:
    """A flat environment as stream-x takes it; `info["episode"]` tells raw return and length at an end.

    Parameters
    ----------
    env
        with observations of any space that flattens to one dimension.
    gamma
        of the reward scaling.
    normalize, scale, time
        each of the ingredients, off for ablations.
    time_limit
        see `AddTimeInfo`.
    """
    if env.observation_space.shape is None or len(env.observation_space.shape) != 1:
        env = FlattenObservation(env)
    env = RecordEpisodeStatistics(env)
    if isinstance(env.action_space, gym.spaces.Box):
        env = ClipAction(env)
    if scale:
        env = ScaleReward(env, gamma)
    if normalize:
        env = NormalizeObservation(env)
    return AddTimeInfo(env, time_limit) if time else env


def wrap_pictures(env: gym.Env, gamma: float = 0.99, stack: int = 4) -> gym.Env:
    """An environment of pictures: rewards scaled, pictures normalised point by point and then stacked.

    Observations float64 `[stack, height, width]`. `unending.io.atari.atari` makes such an environment.
    """
    return FrameStackObservation(NormalizeObservation(ScaleReward(env, gamma)), stack)


def _stack(env: gym.Env) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while isinstance(env, gym.Wrapper):
        if isinstance(env, NormalizeObservation | ScaleReward):
            found[type(env).__name__] = env
        env = env.env
    return found


def statistics(env: gym.Env) -> dict[str, Any]:
    """What the wrappers around an environment have learned."""
    return {name: each.state_dict() for name, each in _stack(env).items()}


def load_statistics(env: gym.Env, held: dict[str, Any]) -> None:
    """Give wrappers what `statistics` read off others of their kind."""
    stack = _stack(env)
    if stack.keys() != held.keys():
        raise InputError(f"the statistics are of {sorted(held)}, the environment has {sorted(stack)}")
    for name, each in stack.items():
        each.load_state_dict(held[name])
