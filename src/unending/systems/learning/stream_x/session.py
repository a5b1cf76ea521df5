"""The state of the operator, and the copy that a step works on."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from unending.core import state
from unending.core.random import philox
from unending.systems.learning.stream_x.learners import flat_net, rates
from unending.systems.learning.stream_x.stream import AGENTS, Memory, Setting

if TYPE_CHECKING:
    from unending.systems.learning.stream_x.operator import StreamX

__all__ = ["StreamXState", "Weights", "copied", "randomness", "work"]


@state
class Weights:
    """One network: weights, traces, and the moments that its rule needs (else `[0]`), each flat `[p]`."""

    w: np.ndarray
    z: np.ndarray
    m: np.ndarray
    v: np.ndarray


@state
class StreamXState:
    """All that a session of stream-x remembers; nothing in it grows."""

    value: Weights
    policy: Weights
    """Of no size but for the actor-critic."""
    mean: np.ndarray
    m2: np.ndarray
    """float64 `[observation]`: running moments of the raw observations."""
    raw: np.ndarray
    """float64 `[observation]`: the newest observation."""
    now: np.ndarray
    """float64 `[observation + 1]`: the same as the networks see it, with the time."""
    numbers: np.ndarray
    """float64: moments of the discounted reward sum, the sum, the return of the episode."""
    counts: np.ndarray
    """int64: observations, rewards, updates, actions drawn, whether an episode runs, its length."""
    time: np.ndarray
    """float64 `[]`: stream time of the next item."""
    seed: int


def copied(state: StreamXState, time: float | None) -> StreamXState:
    """A state of equal value whose arrays may be written to, at a stream time where that is given."""
    networks: dict[str, Any] = {
        name: Weights(each.w.copy(), each.z.copy(), each.m.copy(), each.v.copy())
        for name, each in (("value", state.value), ("policy", state.policy))
    }
    arrays: dict[str, Any] = {
        name: getattr(state, name).copy() for name in ("mean", "m2", "raw", "now", "numbers", "counts")
    }
    at = state.time.copy() if time is None else np.array(float(time))
    return replace(state, **networks, **arrays, time=at)


def randomness(made: "StreamX", seed: int, drawn: int, n: int) -> np.ndarray:
    """What the next `n` choices of an action draw from, `[n, r]`, when `drawn` were made before."""
    if made.agent == "td":
        return np.zeros((n, 1))
    noise = np.empty((n, 2 if made.discrete else made.action_width))  # of two dimensions where n is 0, too
    for i in range(n):
        rng = philox(seed, drawn + 1 + i)
        noise[i] = rng.random(2) if made.discrete else rng.standard_normal(made.action_width)
    return noise


def work(made: "StreamX", state: StreamXState) -> tuple[Any, Any, Memory, Setting, tuple[Any, Any]]:
    """Both networks, memory, setting and rates as the kernels take them, over the arrays of a state."""
    nets = [
        flat_net(sizes, made.optimizer, each.w, each.z, each.m, each.v)
        for sizes, each in zip(made.sizes, (state.value, state.policy), strict=True)
    ]
    memory = Memory(state.mean, state.m2, state.raw, state.now, state.numbers, state.counts)
    setting = Setting(
        AGENTS.index(made.agent), float(made.gamma), made.layer_norm, float(made.entropy),
        float(made.epsilon_start), float(made.epsilon_end), float(made.epsilon_steps),
        made.bootstrap_on_truncation, max(0, made.time_limit or 10_000), made.normalize, made.scale, made.discrete,
    )  # fmt: skip
    constants = tuple(
        rates(made.optimizer, made.lr, made.gamma, made.lamda, kappa)
        for kappa in (made.kappa, made.kappa_policy)
    )
    return nets[0], nets[1], memory, setting, (constants[0], constants[1])
