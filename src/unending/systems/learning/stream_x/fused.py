"""The hot loop of stream-x for multilayer perceptrons: flat arrays, hand-written gradients, everything in place.

A network is one flat array. Layer by layer it holds the weights `[n_in, n_out]` (inputs first, so that the inner
loops run over adjacent numbers) and the biases `[n_out]`. Hidden layers are linear, layer normalisation over all
elements without parameters, LeakyReLU; the last layer is linear. The torch twin is `networks.MLP` with
`parts.numerics.overshooting`; tests hold the two equal.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["RULES", "Net", "Rates", "apply", "backward", "forward", "scratch"]

RULES = ("obgd", "adaptive", "sgd", "adam")
"""What is done with the trace: the overshooting bound, its adaptive form, and two unbounded baselines."""
OBGD, ADAPTIVE, SGD, ADAM = range(4)


class Net(NamedTuple):
    """A network, its traces and its workspace; `w`, `z` (and what the rule needs of `m`, `v`) are the state."""

    w: np.ndarray
    """Flat parameters `[p]`, float32 or float64."""
    z: np.ndarray
    """Eligibility traces `[p]`."""
    m: np.ndarray
    """First moments `[p]` of the rule "adam", else `[0]`."""
    v: np.ndarray
    """Second moments `[p]` of "adaptive" and "adam", else `[0]`."""
    sizes: np.ndarray
    """int64 widths: input, hidden layers, output."""
    kept: np.ndarray
    """`[layers, 2, widest]`: normalised pre-activations and outputs of the last forward pass."""
    spread: np.ndarray
    """`[layers]`: one over the standard deviation that each layer normalisation divided by; float64."""
    back: np.ndarray
    """`[3, widest]`: gradients on their way back, and sums."""


class Rates(NamedTuple):
    """Constants of the update, all float64 but `rule`."""

    lr: float
    kappa: float
    decay: float
    """gamma times lambda."""
    beta1: float
    beta2: float
    eps: float
    rule: int


def scratch(sizes: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The workspace `kept`, `spread`, `back` of a network."""
    widest = int(sizes.max())
    return (
        np.zeros((len(sizes), 2, widest), dtype),
        np.zeros(len(sizes)),
        np.zeros((3, widest), dtype),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def forward(net, layer_norm, x):  # type: ignore[no-untyped-def]
    """The outputs `[n_out]` for an input `[n_in]`, as a view into the workspace."""
    w, sizes, kept = net.w, net.sizes, net.kept
    scalar = w.dtype.type
    slope, one, zero = scalar(0.01), scalar(1.0), scalar(0.0)
    layers = len(sizes) - 1
    for i in range(sizes[0]):
        kept[0, 1, i] = x[i]
    at = 0
    for layer in range(layers):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        source, out = kept[layer, 1], kept[layer + 1, 1]
        bias = at + n_in * n_out
        out[:n_out] = w[bias : bias + n_out]
        for i in range(n_in):
            xi = source[i]
            row = w[at + i * n_out : at + (i + 1) * n_out]
            for o in range(n_out):
                out[o] += row[o] * xi
        at = bias + n_out
        if layer == layers - 1:
            break
        normal = kept[layer + 1, 0]
        if layer_norm:
            mean = 0.0
            for o in range(n_out):
                mean += out[o]
            mean /= n_out
            variance = 0.0
            for o in range(n_out):
                variance += (out[o] - mean) ** 2
            net.spread[layer + 1] = 1.0 / np.sqrt(variance / n_out + 1e-5)
            centre, factor = scalar(mean), scalar(net.spread[layer + 1])
            for o in range(n_out):
                normal[o] = (out[o] - centre) * factor
        else:
            normal[:n_out] = out[:n_out]
        for o in range(n_out):
            out[o] = normal[o] * (one if normal[o] > zero else slope)
    return kept[layers, 1, : sizes[layers]]


@njit(cache=True, nogil=True, error_model="numpy")
def _dot(row, g, n):  # type: ignore[no-untyped-def]
    # Eight sums side by side keep the adder busy; a single one would wait for itself.
    zero = g.dtype.type(0.0)
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zero
    whole = n - n % 8
    for o in range(0, whole, 8):
        s0 += row[o] * g[o]
        s1 += row[o + 1] * g[o + 1]
        s2 += row[o + 2] * g[o + 2]
        s3 += row[o + 3] * g[o + 3]
        s4 += row[o + 4] * g[o + 4]
        s5 += row[o + 5] * g[o + 5]
        s6 += row[o + 6] * g[o + 6]
        s7 += row[o + 7] * g[o + 7]
    for o in range(whole, n):
        s0 += row[o] * g[o]
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@njit(cache=True, nogil=True, error_model="numpy")
def backward(net, layer_norm, head, decay):  # type: ignore[no-untyped-def]
    """Decay the traces and add the gradient of the last forward pass, whose outputs have the gradient `head`.

    Returns the sum of the magnitudes of the new traces over the whole network.
    """
    w, z, sizes, kept = net.w, net.z, net.sizes, net.kept
    scalar = w.dtype.type
    keep, slope, zero = scalar(decay), scalar(0.01), scalar(0.0)
    g, below, sums = net.back[0], net.back[1], net.back[2]
    layers = len(sizes) - 1
    for o in range(sizes[layers]):
        g[o] = head[o]
    at = len(w)
    norm = 0.0
    for layer in range(layers - 1, -1, -1):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        source = kept[layer, 1]
        bias = at - n_out
        at = bias - n_in * n_out
        for o in range(n_out):
            z[bias + o] = keep * z[bias + o] + g[o]
            sums[o] = abs(z[bias + o])
        for i in range(n_in):
            xi = source[i]
            row = z[at + i * n_out : at + (i + 1) * n_out]
            for o in range(n_out):
                row[o] = keep * row[o] + xi * g[o]
                sums[o] += abs(row[o])
        for o in range(n_out):
            norm += sums[o]
        if layer == 0:
            break
        for i in range(n_in):
            below[i] = _dot(w[at + i * n_out : at + (i + 1) * n_out], g, n_out)
        normal = kept[layer, 0]
        for i in range(n_in):
            if not normal[i] > zero:
                below[i] *= slope
        if layer_norm:
            mean = along = 0.0
            for i in range(n_in):
                mean += below[i]
                along += below[i] * normal[i]
            centre, tilt, factor = scalar(mean / n_in), scalar(along / n_in), scalar(net.spread[layer])
            for i in range(n_in):
                g[i] = (below[i] - centre - normal[i] * tilt) * factor
        else:
            g[:n_in] = below[:n_in]
    return norm


@njit(cache=True, nogil=True, error_model="numpy")
def apply(net, delta, norm, steps, rates, reset):  # type: ignore[no-untyped-def]
    """Move the weights along the traces; with `reset` the traces are zero afterwards. Returns the step size.

    `norm` is what `backward` returned; `steps` counts this update, from 1.
    """
    w, z, m, v = net.w, net.z, net.m, net.v
    scalar = w.dtype.type
    size = max(abs(delta), 1.0)
    alpha = rates.lr
    if rates.rule == OBGD:
        alpha = rates.lr / max(rates.kappa * rates.lr * size * norm, 1.0)
        change = scalar(alpha * delta)
        for i in range(len(w)):
            w[i] += change * z[i]
    elif rates.rule == SGD:
        change = scalar(alpha * delta)
        for i in range(len(w)):
            w[i] += change * z[i]
    else:
        old, new, eps = scalar(rates.beta2), scalar(1 - rates.beta2), scalar(rates.eps)
        right, step = scalar(1 - rates.beta2**steps), scalar(delta)
        if rates.rule == ADAPTIVE:
            norm = 0.0
            for i in range(len(w)):
                v[i] = old * v[i] + new * (step * z[i]) ** 2
                norm += abs(z[i] / np.sqrt(v[i] / right + eps))
            alpha = rates.lr / max(rates.kappa * rates.lr * size * norm, 1.0)
            change = scalar(alpha * delta)
            for i in range(len(w)):
                w[i] += change * (z[i] / np.sqrt(v[i] / right + eps))
        else:
            first, rest = scalar(rates.beta1), scalar(1 - rates.beta1)
            level, change = scalar(1 - rates.beta1**steps), scalar(alpha)
            for i in range(len(w)):
                g = step * z[i]
                m[i] = first * m[i] + rest * g
                v[i] = old * v[i] + new * g * g
                w[i] += change * (m[i] / level) / (np.sqrt(v[i] / right) + eps)
    if reset:
        z[:] = scalar(0.0)
    return alpha
