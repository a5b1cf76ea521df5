"""A tiny environment to learn in."""

import gymnasium as gym
import numpy as np


class TwoDoors(gym.Env):
    """The sign of the first number says which of two doors pays; some steps of corridor lie before it."""

    def __init__(self, corridor: int = 2) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = gym.spaces.Discrete(2)
        self.corridor, self.at, self.side = corridor, 0, 1.0

    def _seen(self) -> np.ndarray:
        return np.array([self.side, self.at / (self.corridor + 1), self.np_random.normal()])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.side = 0, float(self.np_random.choice([-1.0, 1.0]))
        return self._seen(), {}

    def step(self, action):
        self.at += 1
        ended = self.at > self.corridor
        reward = self.side * (1.0 if action else -1.0) if ended else 0.0
        return self._seen(), reward, ended, False, {}
