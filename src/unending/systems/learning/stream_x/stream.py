"""Transitions through an agent, one after the other: normalisation, episodes, the update and the next action.

What gymnasium wrappers do around an agent (`wrappers`) is done here within the learner's own state, so that a raw
environment can be fed. All arrays are changed in place; nothing is allocated that lasts.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from unending.systems.learning.stream_x.fused import forward
from unending.systems.learning.stream_x.updates import (
    ac_update,
    best,
    choose,
    epsilon,
    gaussian,
    q_update,
    softmax,
    td_update,
)

__all__ = ["AGENTS", "COUNTS", "NUMBERS", "Memory", "Setting", "begin", "run"]

AGENTS = ("td", "q", "sarsa", "ac")
TD, Q, SARSA, AC = range(4)

COUNTS = ("seen", "rewarded", "updates", "drawn", "running", "length")
"""Whole numbers of a session: observations and rewards in the statistics, updates, actions drawn, whether an
episode is running, and its steps so far."""
SEEN, REWARDED, UPDATES, DRAWN, RUNNING, LENGTH = range(6)
NUMBERS = ("reward_mean", "reward_m2", "reward_trace", "episode_return")
"""Real numbers of a session: moments of the discounted reward sum, that sum, and the return of the episode."""
REWARD_MEAN, REWARD_M2, TRACE, RETURN = range(4)


class Memory(NamedTuple):
    """What is remembered beside the networks."""

    mean: np.ndarray
    """`[d]` float64, of the raw observations."""
    m2: np.ndarray
    """`[d]` float64, sum of squared deviations."""
    raw: np.ndarray
    """`[d]` float64, the newest observation as it came."""
    now: np.ndarray
    """`[d + 1]` float64 (`[d]` without time), the newest observation as the networks see it."""
    numbers: np.ndarray
    """float64, see `NUMBERS`."""
    counts: np.ndarray
    """int64, see `COUNTS`."""


class Setting(NamedTuple):
    """Plain constants of an agent."""

    agent: int
    gamma: float
    layer_norm: bool
    tau: float
    epsilon_start: float
    epsilon_end: float
    epsilon_steps: float
    bootstrap: bool
    time_limit: int
    """0 appends no time."""
    normalize: bool
    scale: bool
    discrete: bool


@njit(cache=True, nogil=True, error_model="numpy")
def observe(memory, setting, raw, step, out):  # type: ignore[no-untyped-def]
    """Take a raw observation into the statistics and write what the networks see of it into `out`."""
    counts = memory.counts
    memory.raw[:] = raw
    if setting.normalize:
        counts[SEEN] += 1
        n = counts[SEEN]
        for i in range(len(raw)):
            away = raw[i] - memory.mean[i]
            memory.mean[i] += away / n
            memory.m2[i] += away * (raw[i] - memory.mean[i])
            variance = memory.m2[i] / (n - 1) if n > 1 else 1.0
            out[i] = (raw[i] - memory.mean[i]) / np.sqrt(variance + 1e-8)
    else:
        out[: len(raw)] = raw
    if setting.time_limit:
        out[len(raw)] = -0.5 + max(step - 1, 0) / setting.time_limit


@njit(cache=True, nogil=True, error_model="numpy")
def scaled(memory, setting, reward, done):  # type: ignore[no-untyped-def]
    """The reward over the running deviation of the discounted sum of rewards; not centred."""
    if not setting.scale:
        return reward
    numbers, counts = memory.numbers, memory.counts
    total = setting.gamma * numbers[TRACE] * (0.0 if done else 1.0) + reward
    numbers[TRACE] = total
    counts[REWARDED] += 1
    n = counts[REWARDED]
    away = total - numbers[REWARD_MEAN]
    numbers[REWARD_MEAN] += away / n
    numbers[REWARD_M2] += away * (total - numbers[REWARD_MEAN])
    variance = numbers[REWARD_M2] / (n - 1) if n > 1 else 1.0
    return reward / np.sqrt(variance + 1e-8)


@njit(cache=True, nogil=True, error_model="numpy")
def draw(net, setting, x, noise, memory, out):  # type: ignore[no-untyped-def]
    """Choose an action for an observation into `out` `[max(1, k)]`; `noise` is the randomness of this choice."""
    memory.counts[DRAWN] += 1
    outputs = forward(net, setting.layer_norm, x)
    if setting.agent == AC:
        if setting.discrete:
            out[0] = choose(softmax(outputs), noise[0])
        else:
            mean, deviation = gaussian(outputs)
            for j in range(len(mean)):
                out[j] = mean[j] + deviation[j] * noise[j]
        return
    share = epsilon(setting.epsilon_start, setting.epsilon_end, setting.epsilon_steps, memory.counts[DRAWN])
    out[0] = int(noise[1] * len(outputs)) if noise[0] < share else best(outputs)


@njit(cache=True, nogil=True, error_model="numpy")
def begin(value, policy, memory, setting, raw):  # type: ignore[no-untyped-def]
    """The first observation of an episode. Traces end with the episode before, if that was left in the middle."""
    counts = memory.counts
    if counts[RUNNING]:
        value.z[:] = value.z.dtype.type(0.0)
        policy.z[:] = policy.z.dtype.type(0.0)
    counts[RUNNING] = 1
    counts[LENGTH] = 0
    memory.numbers[RETURN] = 0.0
    observe(memory, setting, raw, 0, memory.now)


@njit(cache=True, nogil=True, error_model="numpy")
def run(  # type: ignore[no-untyped-def]
    value, policy, memory, setting, rates, policy_rates, raw, actions, rewards, raw2, ends, cuts, noise
):
    """Learn from transitions in order.

    Parameters: raw observations `[n, d]` and the next ones, actions `[n, max(1, k)]` float64, rewards `[n]`, flags of
    termination and truncation `[n]`, and the randomness `[n, r]` of the next `n` choices.

    Returns per transition: error and value before the update `[n, 2]`, the next action `[n, max(1, k)]`, whether
    the episode ended there, and return and length of the episode so far `[n, 2]`; and whether all was finite.
    """
    n = len(rewards)
    counts = memory.counts
    told = np.zeros((n, 2))
    nexts = np.zeros(actions.shape)
    totals = np.zeros((n, 2))
    coming = np.empty(len(memory.now))
    first = counts[DRAWN]
    fine = True
    acting = policy if setting.agent == AC else value
    for t in range(n):
        moved = not counts[RUNNING]
        for i in range(raw.shape[1]):
            moved = moved or raw[t, i] != memory.raw[i]
        if moved:
            begin(value, policy, memory, setting, raw[t])
        done = ends[t] or cuts[t]
        goes_on = not (ends[t] or (cuts[t] and not setting.bootstrap))
        counts[LENGTH] += 1
        counts[UPDATES] += 1
        memory.numbers[RETURN] += rewards[t]
        reward = scaled(memory, setting, rewards[t], done)
        observe(memory, setting, raw2[t], counts[LENGTH], coming)
        steps, norm = counts[UPDATES], 0.0
        if setting.agent == AC:
            told[t, 0], told[t, 1], norm = ac_update(
                value, policy, setting.layer_norm, memory.now, actions[t], setting.discrete, coming, reward,
                goes_on, setting.gamma, setting.tau, done, steps, rates, policy_rates,
            )  # fmt: skip
        elif setting.agent == TD:
            told[t, 0], told[t, 1], norm = td_update(
                value,
                setting.layer_norm,
                memory.now,
                coming,
                reward,
                goes_on,
                setting.gamma,
                done,
                steps,
                rates,
            )
        else:
            after = -1
            if setting.agent == SARSA and goes_on:
                draw(value, setting, coming, noise[counts[DRAWN] - first], memory, nexts[t])
                after = int(nexts[t, 0])
            told[t, 0], told[t, 1], norm = q_update(
                value, setting.layer_norm, memory.now, int(actions[t, 0]), coming, after, reward, goes_on,
                setting.gamma, done, setting.agent == Q, steps, rates,
            )  # fmt: skip
        if not done and (setting.agent == Q or setting.agent == AC):
            draw(acting, setting, coming, noise[counts[DRAWN] - first], memory, nexts[t])
            for j in range(nexts.shape[1]):
                fine = fine and np.isfinite(nexts[t, j])
        memory.now[:] = coming
        totals[t, 0], totals[t, 1] = memory.numbers[RETURN], counts[LENGTH]
        if done:
            counts[RUNNING] = 0
        fine = fine and np.isfinite(told[t, 0]) and np.isfinite(norm)
    for each in (memory.numbers, memory.m2):
        for i in range(len(each)):
            fine = fine and np.isfinite(each[i])
    return told, nexts, totals, fine
