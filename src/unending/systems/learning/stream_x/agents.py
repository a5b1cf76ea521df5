"""Stream Q and SARSA as agents for gymnasium: each transition is learned from once, then gone."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from unending.core.errors import InputError, NumericalError
from unending.core.random import philox
from unending.systems.learning.stream_x.learners import choose_backend, make_learner
from unending.systems.learning.stream_x.networks import VALUE

__all__ = ["Agent", "Backend", "Controller", "Rule", "StreamQ", "StreamSARSA", "choices", "flat_width"]

Backend = Literal["auto", "fused", "torch"]
Rule = Literal["obgd", "adaptive", "backtracking", "sgd", "adam"]
Callback = Callable[[dict[str, Any]], bool | None]


def flat_width(space: gym.Space) -> int:
    """Width of flat observations; `InputError` for others."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise InputError(
            f"the built-in network takes flat observations, got {space}: flatten them, or give a network"
        )
    return int(space.shape[0])


def choices(space: gym.Space) -> int:
    """Number of discrete actions; `InputError` for other spaces."""
    if not isinstance(space, gym.spaces.Discrete):
        raise InputError(f"this agent takes discrete actions, got {space}")
    if space.start:
        raise InputError(
            f"actions are counted from 0, got {space}: shift them with gymnasium's TransformAction"
        )
    return int(space.n)


class Agent:
    """What the agents share: learners by name, the counts of updates and of drawn actions."""

    def __init__(self, gamma: float, bootstrap_on_truncation: bool, seed: int) -> None:
        self.gamma, self.bootstrap_on_truncation, self.seed = gamma, bootstrap_on_truncation, seed
        self.updates = self.drawn = 0
        self.learners: dict[str, Any] = {}

    def _goes_on(self, terminated: bool, truncated: bool) -> bool:
        return not (terminated or (truncated and not self.bootstrap_on_truncation))

    def _checked(self, delta: float) -> float:
        if not np.isfinite(delta):
            raise NumericalError(
                f"update {self.updates} has an error of {delta}: its input is not finite, or the network has left"
                " finite numbers"
            )
        return float(delta)

    def _noise(self) -> np.random.Generator:
        self.drawn += 1
        return philox(self.seed, self.drawn)

    def state_dict(self) -> dict[str, Any]:
        """Weights, traces, moments and counts; with `wrappers.statistics` all that a stream is resumed from."""
        held = {name: each.state_dict() for name, each in self.learners.items()}
        return {**held, "updates": self.updates, "drawn": self.drawn, "seed": self.seed}

    def load_state_dict(self, held: Mapping[str, Any]) -> None:
        """Go on, bit for bit, from what `state_dict` of an agent of the same settings gave."""
        for name, each in self.learners.items():
            each.load_state_dict(held[name])
        self.updates, self.drawn, self.seed = held["updates"], held["drawn"], held["seed"]

    def memory_bytes(self) -> int:
        """Bytes of weights, traces and moments; the same at every step."""
        total, waiting = 0, [each.state_dict() for each in self.learners.values()]
        while waiting:
            for value in waiting.pop().values():
                if isinstance(value, dict):
                    waiting.append(value)
                elif isinstance(value, np.ndarray | torch.Tensor):
                    total += value.nbytes
        return total


def whole(action: Any, actions: int) -> int:
    """A discrete action, checked: the kernels write where it points."""
    if not isinstance(action, int | np.integer) or not 0 <= action < actions:
        raise InputError(f"an action is {action}, accepted is a whole number from 0 to {actions - 1}")
    return int(action)


class Controller(Agent):
    """An agent that acts."""

    def abandon(self) -> None:
        """The episode is left in the middle: its traces end, all else stays."""
        for each in self.learners.values():
            each.end_traces()

    def act(self, observation: Any) -> Any:
        raise NotImplementedError

    def update(
        self, s: Any, a: Any, reward: float, s2: Any, terminated: bool, truncated: bool = False
    ) -> float:
        raise NotImplementedError

    def learn(
        self, env: gym.Env, steps: int, callback: Callback | None = None, seed: int | None = None
    ) -> list[tuple[int, float, int]]:
        """Act in an environment and learn from each step of it, from a reset on.

        Parameters
        ----------
        env
            as `wrappers.wrap` makes it, or any other whose observations the network takes.
        steps
            how many.
        callback
            is given `{"step", "delta", "reward", "info"}` after each; `True` ends it there.
        seed
            of the environment's first reset.

        Returns
        -------
        list of (step, return, length)
            of each finished episode, raw where `info["episode"]` tells it.
        """
        if not isinstance(env, gym.Env):
            raise InputError(f"a stream is one environment, got {type(env).__name__}: learn in one at a time")
        self.abandon()
        observation, _ = env.reset(seed=seed)
        told_raw = env.has_wrapper_attr("return_queue")  # gymnasium's RecordEpisodeStatistics is there
        episodes, total, length = [], 0.0, 0
        for step in range(1, steps + 1):
            action = self.act(observation)
            after, reward, terminated, truncated, info = env.step(action)
            delta = self.update(observation, action, float(reward), after, terminated, truncated)
            total, length, observation = total + float(reward), length + 1, after
            if terminated or truncated:
                told = info.get("episode") if told_raw else {"r": total, "l": length}
                if told:
                    episodes.append((step, float(told["r"]), int(told["l"])))
                observation, _ = env.reset()
                total, length = 0.0, 0
            if callback and callback({"step": step, "delta": delta, "reward": float(reward), "info": info}):
                break
        return episodes


class StreamQ(Controller):
    """Stream Q(lambda): Watkins' Q with accumulating traces, epsilon-greedy, on one network (arXiv 2410.14606).

    Parameters
    ----------
    observation_space, action_space
        of the (wrapped) environment: flat `Box`, or any with `network`; `Discrete`.
    hidden
        widths of the hidden layers of the built-in MLP.
    network
        another torch module, e.g. `AtariNetwork`; it is started sparsely and learns on the torch path.
    lr, gamma, lamda, kappa
        of ObGD.
    sparsity, layer_norm
        sparse start; normalisation of hidden layers.
    epsilon_start, epsilon_end, epsilon_fraction, total_steps
        the share of random actions falls from start to end over that fraction of the total.
    optimizer
        `"obgd"`, `"adaptive"`, `"backtracking"`, or the unbounded baselines `"sgd"`, `"adam"`.
    bootstrap_on_truncation
        whether a truncated episode is valued as if it went on; the paper's code does not.
    backend
        `"fused"` (numba, MLP only), `"torch"`, or whichever can.
    dtype
        of the built-in network.
    seed
        of first weights and actions.
    """

    _cut = True

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        hidden: tuple[int, ...] = (32, 32),
        network: nn.Module | None = None,
        lr: float = 1.0,
        gamma: float = 0.99,
        lamda: float = 0.8,
        kappa: float = 2.0,
        sparsity: float = 0.9,
        layer_norm: bool = True,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.01,
        epsilon_fraction: float = 0.05,
        total_steps: int = 500_000,
        optimizer: Rule = "obgd",
        bootstrap_on_truncation: bool = False,
        backend: Backend = "auto",
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(gamma, bootstrap_on_truncation, seed)
        self.actions = choices(action_space)
        self.epsilon_start, self.epsilon_end = epsilon_start, epsilon_end
        self.epsilon_steps = max(1.0, epsilon_fraction * total_steps)
        self.backend = choose_backend(backend, optimizer, network)
        sizes = () if network else (flat_width(observation_space), *hidden, self.actions)
        self.value = make_learner(
            self.backend, network, sizes, optimizer, (lr, gamma, lamda, kappa), (sparsity, seed, VALUE), dtype,
            layer_norm,
        )  # fmt: skip
        self.learners = {"value": self.value}

    @property
    def epsilon(self) -> float:
        """Share of random actions at the next choice."""
        slope = (self.epsilon_end - self.epsilon_start) / self.epsilon_steps
        return max(self.epsilon_start + slope * (self.drawn + 1), self.epsilon_end)

    def act(self, observation: Any) -> int:
        """Epsilon-greedy."""
        share = self.epsilon
        explore, which = self._noise().random(2)
        return int(which * self.actions) if explore < share else int(self.value.outputs(observation).argmax())

    def update(
        self, s: Any, a: Any, reward: float, s2: Any, terminated: bool, truncated: bool = False
    ) -> float:
        """Learn from one transition; returns its error before the update."""
        return self._update(s, a, reward, s2, terminated, truncated, -1)

    def _update(
        self, s: Any, a: Any, reward: float, s2: Any, terminated: bool, truncated: bool, a2: int
    ) -> float:
        goes_on, done = self._goes_on(terminated, truncated), bool(terminated or truncated)
        a, x, x2 = whole(a, self.actions), self.value.taken(s), self.value.taken(s2)
        self.updates += 1
        if self.backend == "fused":
            from unending.systems.learning.stream_x.updates import q_update

            each = self.value
            delta, _, _ = q_update(
                each.net, each.layer_norm, x, a, x2, a2, float(reward), goes_on, self.gamma, done, self._cut,
                self.updates, each.rates,
            )  # fmt: skip
            return self._checked(delta)
        network = self.value.network

        def target() -> float:
            with torch.no_grad():
                following = network(x2)
            after = following.max() if a2 < 0 else following[a2]
            return float(reward) + self.gamma * goes_on * float(after)

        wanted, values = target(), network(x)
        delta = wanted - float(values[a].detach())
        reset = done or (self._cut and int(values.argmax()) != a)
        self.value.learn(
            values[a], self._checked(delta), reset, lambda: target() - float(self.value.outputs(s)[a])
        )
        return delta


class StreamSARSA(StreamQ):
    """Stream SARSA(lambda): the error takes the action that comes next, drawn before the update; see `StreamQ`."""

    _cut = False
    _coming: int = -1

    def act(self, observation: Any) -> int:
        """The action that the last update was about, or a new choice at the start of an episode."""
        action = self._coming if self._coming >= 0 else super().act(observation)
        self._coming = -1
        return action

    def update(
        self, s: Any, a: Any, reward: float, s2: Any, terminated: bool, truncated: bool = False
    ) -> float:
        goes_on, done = self._goes_on(terminated, truncated), terminated or truncated
        whole(a, self.actions), self.value.taken(s)  # refused, if so, before anything is drawn
        a2 = super().act(s2) if goes_on else -1
        self._coming = -1 if done else a2
        return self._update(s, a, reward, s2, terminated, truncated, a2)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "coming": self._coming}

    def abandon(self) -> None:
        super().abandon()
        self._coming = -1

    def load_state_dict(self, held: Mapping[str, Any]) -> None:
        super().load_state_dict(held)
        self._coming = held["coming"]
