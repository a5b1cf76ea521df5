"""A small environment, an agent for it, and how a loop of the two is compared with another."""

from dataclasses import dataclass
from typing import ClassVar

import gymnasium
import numpy as np

from unending.core import Bound, Control, Event, Exactness, Operator, Rows, Spec, Transitions, state
from unending.core.random import philox


class Corridor(gymnasium.Env):
    """A walk on a line with noise, over at its ends; `broken` makes it raise at that step of an episode."""

    def __init__(self, continuous: bool = False, broken: int = 0) -> None:
        self.observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
        one = np.ones(1, np.float32)
        self.action_space = gymnasium.spaces.Box(-one, one) if continuous else gymnasium.spaces.Discrete(2)
        self.broken = broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = self.np_random.normal(), 0
        return self._seen(), {}

    def step(self, action):
        self.steps += 1
        if self.steps == self.broken:
            raise RuntimeError("the floor\ngave way")
        assert self.action_space.contains(action)
        self.at += float(np.asarray(action).reshape(-1)[0]) - 0.5 + 0.3 * self.np_random.normal()
        return self._seen(), -abs(self.at), abs(self.at) > 3, False, {}

    def _seen(self):
        return np.array([self.at, self.steps / 10], np.float32)


def registered(name: str, **settings) -> str:
    """The id under which a corridor can be made."""
    if name not in gymnasium.registry:
        gymnasium.register(name, Corridor, max_episode_steps=12, kwargs=settings)
    return name


@state
class Walk:
    seen: np.ndarray
    position: int
    seed: int
    total: np.ndarray


@dataclass(frozen=True)
class Wanderer(Operator[Walk]):
    """Acts at random, and remembers the sum of all it has seen.

    Parameters
    ----------
    observation
        width of an observation.
    actions
        number of discrete actions.
    action_width
        width of a continuous action.
    """

    observation: int = 0
    actions: int = 0
    action_width: int = 0

    spec: ClassVar[Spec] = Spec(
        "wanderer-of-tests",
        "toys",
        "acts at random",
        (Transitions, Control),
        (Control, Rows),
        Exactness.bitwise(),
    )

    @classmethod
    def example(cls):
        return cls(2, 2)

    def init(self, seed=0):
        return Walk(np.zeros(self.observation), 0, seed, np.zeros(()))

    def bound(self):
        return Bound(8 * self.observation + 24)

    def _step(self, state, chunk):
        if isinstance(chunk, Control):
            return Walk(state.seen + chunk.value, state.position, state.seed, np.zeros(())), [
                self._act(state)
            ]
        seen, total, at, events = state.seen, state.total, state.position, []
        for index in range(len(chunk)):
            at += 1
            seen, total = seen + chunk.nexts[index], np.asarray(total + chunk.rewards[index])
            state = Walk(seen, at, state.seed, total)
            if chunk.terminated[index] or chunk.truncated[index]:
                events.append(Event(Rows(np.array([[float(total)]]), ("return",)), at, at))
            else:
                events.append(self._act(state))
        return state, events

    def _act(self, state):
        rng = philox(state.seed, state.position)
        action = (
            2 * rng.normal(size=self.action_width) if self.action_width else int(rng.integers(self.actions))
        )
        return Event(Control("action", action), state.position, state.position)
