"""Tasks of the DeepMind Control Suite as gymnasium environments with flat observations.

Importing this module registers every task with gymnasium, as `"dm_control/dog-walk"`. Nothing is drawn: where
`MUJOCO_GL` is not set, it is set to `disable`, so that no display is looked for.
"""

import os
from typing import Any

import gymnasium as gym
import numpy as np

from unending.core.errors import InputError, MissingExtraError

__all__ = ["ControlSuite"]

STEPS = 1000
"""Steps of an episode of every task of the suite but those of `lqr`, which have no end."""

UNLIMITED = 1e9
"""The suite tells actuators without limits as -1e10 to 1e10."""


def _suite() -> Any:
    os.environ.setdefault("MUJOCO_GL", "disable")
    try:
        from dm_control import suite
    except (ImportError, AttributeError) as error:  # the latter: made for an older mujoco than is there
        raise MissingExtraError(
            f"dm_control is missing or does not load ({error}): pip install 'dm_control' 'mujoco<4'"
        ) from error
    return suite


class ControlSuite(gym.Env):
    """`dm_control` domain and task, e.g. `ControlSuite("dog", "walk")`.

    Observations are the task's, flattened and joined in its order, float64 `[d]`; actions `[k]` are scaled from -1..1,
    those of actuators without limits (`lqr`) taken as they are.
    An episode that runs out of time is truncated; one that the task ends with discount 0 is terminated.

    Parameters
    ----------
    domain, task
        names of the suite.

    Raises
    ------
    MissingExtraError
        where dm_control is not installed.
    InputError
        for a task that the suite does not have, or an action of another width or with NaN.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, domain: str, task: str) -> None:
        self.domain, self.task = domain, task
        self._made = self._load()
        seen = self._made.observation_spec()
        width = sum(int(np.prod(each.shape)) for each in seen.values())
        wanted = self._made.action_spec()
        free = wanted.maximum - wanted.minimum >= UNLIMITED
        self._low, self._high = np.where(free, -1.0, wanted.minimum), np.where(free, 1.0, wanted.maximum)
        self._most = np.where(free, np.inf, 1.0)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float64)
        most = self._most.astype(np.float32)
        self.action_space = gym.spaces.Box(-most, most, wanted.shape, np.float32)
        limit = self._made._step_limit
        self.time_limit = round(limit) if np.isfinite(limit) else 0
        """Steps of an episode; 0 where there is no limit."""

    def _load(self) -> Any:
        suite = _suite()
        if (self.domain, self.task) not in suite.ALL_TASKS:
            raise InputError(f"the control suite has no task {self.domain}-{self.task}")
        return suite.load(self.domain, self.task, task_kwargs={"random": np.random.RandomState(0)})

    @staticmethod
    def _flat(observation: dict[str, Any]) -> np.ndarray:
        return np.concatenate([np.ravel(each) for each in observation.values()]).astype(np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._made.task._random = np.random.RandomState(seed)
        return self._flat(self._made.reset().observation), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        given = np.asarray(action, dtype=np.float64)
        if given.shape != self._low.shape or not np.isfinite(given).all():
            raise InputError(f"an action is {self._low.shape[0]} finite numbers, got {given}")
        share = (np.clip(given, -self._most, self._most) + 1) / 2
        told = self._made.step(self._low + share * (self._high - self._low))
        terminated = told.last() and told.discount == 0
        return (
            self._flat(told.observation),
            float(told.reward or 0.0),
            bool(terminated),
            bool(told.last() and not terminated),
            {},
        )

    def close(self) -> None:
        self._made.close()


def _register() -> None:
    for domain, task in _suite().ALL_TASKS:
        name = f"dm_control/{domain}-{task}"
        if name not in gym.registry:
            gym.register(
                name,
                entry_point="unending.io.dm_control:ControlSuite",
                max_episode_steps=None if domain == "lqr" else STEPS,
                kwargs={"domain": domain, "task": task},
            )


_register()
