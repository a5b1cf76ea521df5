"""The slow reference of the operator: torch agents, autograd and plain arithmetic, one transition after the other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from unending.core import Chunk, Control, Event, Rows, Transitions
from unending.parts.numerics.moments import RunningMoments
from unending.systems.learning.stream_x.actor_critic import StreamAC
from unending.systems.learning.stream_x.agents import StreamQ, StreamSARSA
from unending.systems.learning.stream_x.td import StreamTD

if TYPE_CHECKING:
    from unending.systems.learning.stream_x.operator import StreamX

__all__ = ["offline"]


def _agent(made: "StreamX", seed: int) -> Any:
    seen = gym.spaces.Box(-np.inf, np.inf, (made.sizes[0][0],), np.float64)
    common: dict[str, Any] = {
        "hidden": made.sizes[0][1:-1], "lr": made.lr, "gamma": made.gamma, "lamda": made.lamda,
        "sparsity": made.sparsity, "layer_norm": made.layer_norm, "optimizer": made.optimizer,
        "bootstrap_on_truncation": made.bootstrap_on_truncation, "backend": "torch", "dtype": made.dtype,
        "seed": seed,
    }  # fmt: skip
    if made.agent == "td":
        return StreamTD(seen, kappa=made.kappa, **common)
    discrete = gym.spaces.Discrete(made.actions) if made.actions else None
    space = discrete or gym.spaces.Box(-np.inf, np.inf, (made.action_width,), np.float64)
    if made.agent == "ac":
        both: dict[str, Any] = {
            "kappa_value": made.kappa,
            "kappa_policy": made.kappa_policy,
            "entropy": made.entropy,
        }
        return StreamAC(seen, space, **both, **common)
    return (StreamQ if made.agent == "q" else StreamSARSA)(
        seen, space, kappa=made.kappa, epsilon_start=made.epsilon_start, epsilon_end=made.epsilon_end,
        epsilon_fraction=1.0, total_steps=made.epsilon_steps, **common,
    )  # fmt: skip


class _Line:
    """An agent between its wrappers' arithmetic, written out."""

    def __init__(self, made: "StreamX", seed: int) -> None:
        self.made, self.agent = made, _agent(made, seed)
        self.seen, self.sums = RunningMoments((made.observation,)), RunningMoments()
        self.trace = self.total = 0.0
        self.raw: np.ndarray | None = None
        self.length, self.now = 0, np.zeros(0)
        self.events: list[Event] = []
        self.time = 0.0

    def look(self, raw: np.ndarray, step: int) -> np.ndarray:
        if self.made.normalize:
            self.seen.update(raw)
            raw = (raw - self.seen.mean) / np.sqrt(self.seen.variance() + 1e-8)
        if self.made.time_limit < 0:
            return raw
        return np.append(raw, -0.5 + (step - 1) / (self.made.time_limit or 10_000) if step else -0.5)

    def begin(self, raw: np.ndarray) -> None:
        if self.raw is not None:
            for learner in self.agent.learners.values():
                learner.end_traces()
        self.raw, self.length, self.total = raw, 0, 0.0
        self.now = self.look(raw, 0)

    def act(self, observation: np.ndarray, start: float, end: float) -> None:
        self.events.append(Event(Control("action", self.agent.act(observation)), start, end))

    def take(self, one: Transitions) -> None:
        raw, raw2, reward = one.observations[0], one.nexts[0], float(one.rewards[0])
        terminated, truncated = bool(one.terminated[0]), bool(one.truncated[0])
        if self.raw is None or not np.array_equal(raw, self.raw):
            self.begin(raw)
        self.length, self.total = self.length + 1, self.total + reward
        done = terminated or truncated
        if self.made.scale:
            self.trace = self.made.gamma * self.trace * (not done) + reward
            self.sums.update(self.trace)
            reward = reward / float(np.sqrt(self.sums.variance() + 1e-8))
        coming = self.look(raw2, self.length)
        start, end = self.time, self.time + 1
        if self.made.agent == "td":
            before = self.agent.predict(self.now)
            delta = self.agent.update(self.now, reward, coming, terminated, truncated)
            told = Rows(np.array([[delta, before]]), names=("error", "prediction"))
            self.events.append(Event(told, start, end))
        else:
            self.agent.update(self.now, one.actions[0], reward, coming, terminated, truncated)
            if done:
                told = Rows(np.array([[self.total, self.length]]), names=("return", "length"))
                self.events.append(Event(told, start, end))
            else:
                self.act(coming, start, end)
        self.now, self.raw, self.time = coming, None if done else raw2, end


def offline(made: "StreamX", stream: Sequence[Chunk], seed: int = 0) -> list[Event]:
    """The events of a whole stream."""
    line = _Line(made, seed)
    for chunk in stream:
        line.time = line.time if chunk.t is None else float(chunk.t)
        if type(chunk) is Transitions:
            for i in range(len(chunk)):
                line.take(chunk[i : i + 1])
        elif type(chunk) is Control and chunk.name == "reset":
            line.begin(np.asarray(chunk.value, dtype=np.float64))
            if made.agent != "td":
                line.act(line.now, line.time, line.time)
    return line.events
