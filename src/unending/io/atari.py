"""Atari games as deep agents take them: grey pictures 84 x 84, every fourth, one life an episode."""

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import AtariPreprocessing, RecordEpisodeStatistics

from unending.core.errors import MissingExtraError

__all__ = ["EpisodicLife", "FireReset", "atari"]


class EpisodicLife(gym.Wrapper):
    """A lost life ends the episode for the learner; the game goes on until its last one."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.lives, self.over = 0, True

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.over = terminated or truncated
        lives = int(self.env.unwrapped.ale.lives())  # type: ignore[attr-defined]
        terminated = terminated or 0 < lives < self.lives
        self.lives = lives
        return observation, reward, terminated, truncated, info

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        if self.over or options.get("seed") is not None:
            observation, info = self.env.reset(**options)
        else:
            observation, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                observation, info = self.env.reset(**options)
        self.over = False
        self.lives = int(self.env.unwrapped.ale.lives())  # type: ignore[attr-defined]
        return observation, info


class FireReset(gym.Wrapper):
    """Presses fire after a reset, in games that begin with it."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        observation, _, terminated, truncated, info = self.env.step(1)
        if terminated or truncated:
            observation, info = self.env.reset(**options)
        return observation, info


def atari(game: str, repeat_action_probability: float = 0.0) -> gym.Env:
    """A game, e.g. `"ALE/Breakout-v5"`, preprocessed; observations uint8 `[84, 84]`.

    Up to 30 idle steps at a start, every fourth picture (the larger of two at each point), a lost life is an end, and
    fire is pressed at a start. Rewards are the game's, and `info["episode"]` tells the score of a whole game. Running
    normalisation and the stack of four come on top: `systems.learning.stream_x.wrap_pictures`.

    Parameters
    ----------
    game
        name in gymnasium's registry.
    repeat_action_probability
        sticky actions; 0 is the setting of the NoFrameskip-v4 games.

    Raises
    ------
    MissingExtraError
        where ale-py or OpenCV is not installed.
    """
    try:
        import ale_py
        import cv2  # noqa: F401 (resizing in gymnasium's wrapper)
    except ImportError as error:
        raise MissingExtraError(f"{error}: pip install 'ale-py' 'opencv-python-headless'") from error
    gym.register_envs(ale_py)
    env: gym.Env = gym.make(game, frameskip=1, repeat_action_probability=repeat_action_probability)
    env = RecordEpisodeStatistics(env)
    env = AtariPreprocessing(env, noop_max=30, frame_skip=4, screen_size=84, grayscale_obs=True)
    env = EpisodicLife(env)
    meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
    if len(meanings) > 1 and meanings[1] == "FIRE":
        env = FireReset(env)
    return env
