"""Stream AC: an actor and a critic that learn from each transition once."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from unending.core.errors import InputError, NumericalError
from unending.systems.learning.stream_x.agents import Backend, Controller, Rule, choices, flat_width, whole
from unending.systems.learning.stream_x.learners import choose_backend, make_learner
from unending.systems.learning.stream_x.networks import POLICY, VALUE

__all__ = ["StreamAC"]


class StreamAC(Controller):
    """Stream AC(lambda): a value network and a policy network, each with its traces and bound (arXiv 2410.14606).

    Continuous policies are normal with softplus deviations; actions come out unclipped, and the environment clips
    them. Parameters as of `StreamQ`, and:

    Parameters
    ----------
    kappa_value, kappa_policy
        bounds of the two networks.
    entropy
        weight tau of the entropy, whose gradient is taken along the sign of the error.
    networks
        value and policy modules (outputs 1, and actions or twice the action width) in place of the two MLPs.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        hidden: tuple[int, ...] = (128, 128),
        networks: tuple[nn.Module, nn.Module] | None = None,
        lr: float = 1.0,
        gamma: float = 0.99,
        lamda: float = 0.8,
        kappa_value: float = 2.0,
        kappa_policy: float = 3.0,
        entropy: float = 0.01,
        sparsity: float = 0.9,
        layer_norm: bool = True,
        optimizer: Rule = "obgd",
        bootstrap_on_truncation: bool = False,
        backend: Backend = "auto",
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(gamma, bootstrap_on_truncation, seed)
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        if not self.discrete and not (
            isinstance(action_space, gym.spaces.Box) and len(action_space.shape) == 1
        ):
            raise InputError(f"actions are Discrete or a flat Box, got {action_space}")
        outputs = choices(action_space) if self.discrete else 2 * int(action_space.shape[0])  # type: ignore[index]
        self.entropy = entropy
        self.outputs = outputs
        self.backend = choose_backend(backend, optimizer, networks[0] if networks else None)
        if optimizer == "backtracking":
            raise InputError("backtracking is for value networks: take obgd or adaptive for an actor-critic")
        for place, (name, width, kappa, stream) in enumerate(
            (("critic", 1, kappa_value, VALUE), ("actor", outputs, kappa_policy, POLICY))
        ):
            network = networks[place] if networks else None
            sizes = () if network else (flat_width(observation_space), *hidden, width)
            self.learners[name] = make_learner(
                self.backend, network, sizes, optimizer, (lr, gamma, lamda, kappa), (sparsity, seed, stream), dtype,
                layer_norm,
            )  # fmt: skip
        self.critic, self.actor = self.learners["critic"], self.learners["actor"]

    def act(self, observation: Any) -> Any:
        """Draw from the policy: an int, or float64 `[k]`."""
        outputs = self.actor.outputs(observation)
        if not np.isfinite(outputs).all():
            raise NumericalError("the policy has left finite numbers")
        rng = self._noise()
        if self.backend == "fused":
            from unending.systems.learning.stream_x.updates import choose, gaussian, softmax

            if self.discrete:
                return choose(softmax(outputs), rng.random())
            mean, deviation = gaussian(outputs)
        elif self.discrete:
            p = np.exp(outputs.astype(np.float64) - outputs.max())
            return min(int((np.cumsum(p / p.sum()) <= rng.random()).sum()), len(p) - 1)
        else:
            mean, spread = np.split(outputs.astype(np.float64), 2)
            deviation = np.logaddexp(spread, 0.0)
        return mean + deviation * rng.standard_normal(len(mean))

    def update(
        self, s: Any, a: Any, reward: float, s2: Any, terminated: bool, truncated: bool = False
    ) -> float:
        """Learn from one transition; returns its error before the update."""
        goes_on, done = self._goes_on(terminated, truncated), bool(terminated or truncated)
        action, x, x2 = self._taken(a), self.critic.taken(s), self.critic.taken(s2)
        self.updates += 1
        if self.backend == "fused":
            from unending.systems.learning.stream_x.updates import ac_update

            delta, _, _ = ac_update(
                self.critic.net, self.actor.net, self.critic.layer_norm, x, action, self.discrete, x2, float(reward),
                goes_on, self.gamma, self.entropy, done, self.updates, self.critic.rates, self.actor.rates,
            )  # fmt: skip
            return self._checked(delta)
        critic = self.critic.network
        with torch.no_grad():
            after = float(critic(x2))
        value = critic(x).squeeze()
        delta = self._checked(float(reward) + self.gamma * goes_on * after - float(value.detach()))
        policy = self._policy(self.actor.network(self.actor.taken(s)))
        chosen = policy.log_prob(torch.as_tensor(action, dtype=None if self.discrete else self.actor.dtype))
        quantity = chosen.sum() + self.entropy * float(np.sign(delta)) * policy.entropy().sum()
        self.critic.learn(value, delta, done)
        self.actor.learn(quantity, delta, done)
        return delta

    def _taken(self, action: Any) -> np.ndarray:
        if self.discrete:
            return np.array([float(whole(action, self.outputs))])
        given = np.asarray(action, dtype=np.float64)
        if given.shape != (self.outputs // 2,) or not np.isfinite(given).all():
            raise InputError(f"an action is {action}, accepted are {self.outputs // 2} finite numbers")
        return given

    def _policy(self, outputs: torch.Tensor) -> torch.distributions.Distribution:
        try:
            if self.discrete:
                return torch.distributions.Categorical(logits=outputs)
            mean, spread = outputs.chunk(2)
            return torch.distributions.Normal(mean, functional.softplus(spread))
        except ValueError as error:  # torch's distributions refuse NaN and deviations of 0
            raise NumericalError("the policy has left finite numbers") from error
