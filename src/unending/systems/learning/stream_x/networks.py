"""The networks of stream-x in torch, and their sparse start."""

from itertools import pairwise
from math import ceil, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unending.core.errors import InputError
from unending.core.random import philox

__all__ = [
    "MLP",
    "AtariNetwork",
    "MinAtarNetwork",
    "flat_size",
    "flat_start",
    "flatten",
    "sparse_init",
    "unflatten",
]

VALUE, POLICY = 1, 2
"""Streams of randomness of the first weights, apart from each other and from that of the actions (0)."""


def _sparse(shape: tuple[int, ...], sparsity: float, rng: np.random.Generator) -> np.ndarray:
    fan_in = int(np.prod(shape[1:]))
    bound = 1 / sqrt(fan_in)
    weights = rng.uniform(-bound, bound, (shape[0], fan_in))
    for row in weights:
        row[rng.permutation(fan_in)[: ceil(sparsity * fan_in)]] = 0.0
    return weights.reshape(shape)


@torch.no_grad()
def sparse_init(module: nn.Module, sparsity: float = 0.9, seed: int = 0, stream: int = VALUE) -> nn.Module:
    """Start every linear and convolutional layer sparsely, in place: zero biases, and in each output row
    ceil(sparsity * fan_in) weights at zero, the others uniform in +-1/sqrt(fan_in).

    Parameters
    ----------
    module
        its `nn.Linear` and `nn.Conv2d` layers are set, heads too, in the order of `modules()`.
    sparsity
        0 to 1. Where the inputs are so few that ceil leaves none, the layer starts at zero, as upstream's does.
    seed, stream
        the randomness; equal ones give equal weights.
    """
    if not 0 <= sparsity <= 1:
        raise InputError(f"sparsity is {sparsity}, accepted is 0 to 1")
    layers = [each for each in module.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    for place, layer in enumerate(layers):
        drawn = _sparse(tuple(layer.weight.shape), sparsity, philox(seed, place, stream))
        layer.weight.copy_(torch.from_numpy(drawn))
        if layer.bias is not None:
            layer.bias.zero_()
    return module


def _normal(x: Tensor) -> Tensor:
    """Layer normalisation over all elements, channels and places alike, without parameters; then LeakyReLU."""
    return functional.leaky_relu(functional.layer_norm(x, x.shape), 0.01)


class MLP(nn.Module):
    """Linear, normalisation, LeakyReLU for each hidden width, and a linear head; one input `[n_in]` at a time.

    Parameters
    ----------
    sizes
        widths: input, hidden layers, output.
    layer_norm
        off for ablations.
    """

    def __init__(self, sizes: tuple[int, ...], layer_norm: bool = True) -> None:
        super().__init__()
        self.sizes, self.layer_norm = tuple(sizes), layer_norm
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """`[n_in]` to `[n_out]`."""
        *hidden, head = self.layers
        for layer in hidden:
            x = layer(x)
            x = _normal(x) if self.layer_norm else functional.leaky_relu(x, 0.01)
        return head(x)


class _Convolutional(nn.Module):
    def __init__(self, layers: list[nn.Conv2d], width: int, outputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(layers)
        with torch.no_grad():
            x = torch.zeros(shape)
            for layer in layers:
                x = layer(x)
        self.dense = nn.Linear(x.numel(), width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`[channels, height, width]` to `[outputs]`."""
        for layer in self.convolutions:
            x = _normal(layer(x))
        return self.head(_normal(self.dense(x.flatten())))


class AtariNetwork(_Convolutional):
    """For stacks of four 84 x 84 pictures: 32 of 8x8 stride 5, 64 of 4x4 stride 3, 64 of 3x3 stride 2, dense 256."""

    def __init__(self, outputs: int, channels: int = 4) -> None:
        layers = [
            nn.Conv2d(channels, 32, 8, stride=5),
            nn.Conv2d(32, 64, 4, stride=3),
            nn.Conv2d(64, 64, 3, stride=2),
        ]
        super().__init__(layers, 256, outputs, (channels, 84, 84))


class MinAtarNetwork(_Convolutional):
    """For 10 x 10 boards: 16 of 3x3, dense 128."""

    def __init__(self, outputs: int, channels: int) -> None:
        super().__init__([nn.Conv2d(channels, 16, 3)], 128, outputs, (channels, 10, 10))


def flat_size(sizes: tuple[int, ...]) -> int:
    """Parameters of an `MLP` of these widths."""
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))


def flat_start(
    sizes: tuple[int, ...], sparsity: float, seed: int, stream: int, dtype: Any = np.float32
) -> np.ndarray:
    """What `flatten(sparse_init(MLP(sizes), ...))` gives, without torch modules."""
    pieces = []
    for place, (n_in, n_out) in enumerate(pairwise(sizes)):
        drawn = _sparse((n_out, n_in), sparsity, philox(seed, place, stream))
        pieces += [drawn.T.ravel(), np.zeros(n_out)]
    return np.concatenate(pieces).astype(dtype)


def flatten(network: MLP) -> np.ndarray:
    """The parameters in the layout of `fused`: weights `[n_in, n_out]` and biases, layer by layer."""
    pieces = []
    for layer in network.layers:
        pieces += [layer.weight.detach().T.ravel(), layer.bias.detach()]  # type: ignore[union-attr, operator]
    return torch.cat(pieces).numpy().copy()


@torch.no_grad()
def unflatten(network: MLP, flat: np.ndarray) -> MLP:
    """Write parameters of the layout of `fused` into a network."""
    given, at = torch.from_numpy(flat), 0
    for layer in network.layers:
        n_out, n_in = layer.weight.shape  # type: ignore[misc]
        layer.weight.copy_(given[at : at + n_in * n_out].view(n_in, n_out).T)  # type: ignore[operator]
        at += n_in * n_out
        layer.bias.copy_(given[at : at + n_out])  # type: ignore[operator]
        at += n_out
    return network
