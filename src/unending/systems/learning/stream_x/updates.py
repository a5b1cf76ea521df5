"""One update of each agent on the flat networks of `fused`: what is evaluated, its gradient, and the step.

Where the error (or the policy's gradient) is not finite, nothing is changed and the error that comes back says so.
"""

from math import exp, log, log1p

import numpy as np
from numba import njit

from unending.systems.learning.stream_x.fused import apply, backward, forward

__all__ = ["ac_update", "best", "choose", "epsilon", "gaussian", "q_update", "softmax", "td_update"]


@njit(cache=True, nogil=True, error_model="numpy")
def epsilon(start, end, steps, t):  # type: ignore[no-untyped-def]
    """The share of random actions at the t-th choice (from 1), falling linearly over `steps` choices."""
    return max(start + (end - start) * t / steps, end)


@njit(cache=True, nogil=True, error_model="numpy")
def best(values):  # type: ignore[no-untyped-def]
    """The first index of the largest value."""
    found = 0
    for a in range(1, len(values)):
        if values[a] > values[found]:
            found = a
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def softmax(logits):  # type: ignore[no-untyped-def]
    """Probabilities, float64."""
    top = float(logits[best(logits)])
    p = np.empty(len(logits))
    total = 0.0
    for a in range(len(p)):
        p[a] = exp(logits[a] - top)
        total += p[a]
    return p / total


@njit(cache=True, nogil=True, error_model="numpy")
def choose(p, u):  # type: ignore[no-untyped-def]
    """The index that a uniform number picks from probabilities."""
    a = 0
    while a < len(p) - 1 and u >= p[a]:
        u -= p[a]
        a += 1
    return a


@njit(cache=True, nogil=True, error_model="numpy")
def _softplus(x):  # type: ignore[no-untyped-def]
    return x if x > 20.0 else log1p(exp(x))


@njit(cache=True, nogil=True, error_model="numpy")
def gaussian(outputs):  # type: ignore[no-untyped-def]
    """Means and standard deviations `[k]`, float64, of the outputs `[2 k]` of a continuous policy."""
    k = len(outputs) // 2
    mean, deviation = np.empty(k), np.empty(k)
    for j in range(k):
        mean[j] = outputs[j]
        deviation[j] = _softplus(float(outputs[k + j]))
    return mean, deviation


@njit(cache=True, nogil=True, error_model="numpy")
def td_update(net, layer_norm, s, s2, reward, goes_on, gamma, reset, steps, rates):  # type: ignore[no-untyped-def]
    """Stream TD: the error of v(s), the value v(s) before the update, and the new traces' magnitude."""
    after = float(forward(net, layer_norm, s2)[0]) if goes_on else 0.0
    value = float(forward(net, layer_norm, s)[0])
    delta = reward + gamma * after - value
    if not np.isfinite(delta):
        return delta, value, 0.0
    norm = backward(net, layer_norm, np.ones(1), rates.decay)
    apply(net, delta, norm, steps, rates, reset)
    return delta, value, norm


@njit(cache=True, nogil=True, error_model="numpy")
def q_update(net, layer_norm, s, a, s2, a2, reward, goes_on, gamma, done, cut, steps, rates):  # type: ignore[no-untyped-def]
    """Stream Q (`a2` below 0: the best next action) and SARSA; with `cut` an action that is not greedy ends traces."""
    after = 0.0
    if goes_on:
        values = forward(net, layer_norm, s2)
        after = float(values[best(values) if a2 < 0 else a2])
    values = forward(net, layer_norm, s)
    value = float(values[a])
    reset = done or (cut and best(values) != a)
    delta = reward + gamma * after - value
    if not np.isfinite(delta):
        return delta, value, 0.0
    head = np.zeros(len(values))
    head[a] = 1.0
    norm = backward(net, layer_norm, head, rates.decay)
    apply(net, delta, norm, steps, rates, reset)
    return delta, value, norm


@njit(cache=True, nogil=True, error_model="numpy")
def policy_gradient(outputs, action, discrete, push):  # type: ignore[no-untyped-def]
    """Gradient of log pi(action) + push * entropy with respect to the outputs of the policy, float64."""
    head = np.zeros(len(outputs))
    if discrete:
        p = softmax(outputs)
        entropy = 0.0
        for a in range(len(p)):
            if p[a] > 0.0:
                entropy -= p[a] * log(p[a])
        for a in range(len(p)):
            slope = p[a] * (log(p[a]) + entropy) if p[a] > 0.0 else 0.0
            head[a] = -p[a] - push * slope
        head[int(action[0])] += 1.0
    else:
        mean, deviation = gaussian(outputs)
        k = len(mean)
        for j in range(k):
            away = (action[j] - mean[j]) / deviation[j]
            head[j] = away / deviation[j]
            slope = (away * away - 1.0 + push) / deviation[j]
            x = float(outputs[k + j])
            head[k + j] = slope * (1.0 / (1.0 + exp(-x)) if x <= 20.0 else 1.0)
    return head


@njit(cache=True, nogil=True, error_model="numpy")
def ac_update(  # type: ignore[no-untyped-def]
    critic,
    actor,
    layer_norm,
    s,
    action,
    discrete,
    s2,
    reward,
    goes_on,
    gamma,
    tau,
    reset,
    steps,
    rates,
    policy_rates,
):
    """Stream AC: one error for both networks, computed before either of them moves."""
    after = float(forward(critic, layer_norm, s2)[0]) if goes_on else 0.0
    value = float(forward(critic, layer_norm, s)[0])
    delta = reward + gamma * after - value
    outputs = forward(actor, layer_norm, s)
    head = policy_gradient(outputs, action, discrete, tau * np.sign(delta))
    if not (np.isfinite(delta) and np.isfinite(head).all()):
        return np.nan, value, 0.0
    norm = backward(critic, layer_norm, np.ones(1), rates.decay)
    policy_norm = backward(actor, layer_norm, head, policy_rates.decay)
    apply(critic, delta, norm, steps, rates, reset)
    apply(actor, delta, policy_norm, steps, policy_rates, reset)
    return delta, value, norm + policy_norm
