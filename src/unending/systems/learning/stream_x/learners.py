"""One network that learns along its traces, in torch or on flat arrays; the agents stand on either."""

from copy import deepcopy
from importlib.util import find_spec
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unending.core.errors import InputError
from unending.parts.numerics.overshooting import AdaptiveObGD, BacktrackingObGD, ObGD
from unending.systems.learning.stream_x.networks import MLP, flat_start, sparse_init

__all__ = ["FlatLearner", "TorchLearner", "choose_backend", "flat_net", "make_learner", "rates"]

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
OPTIMIZERS = ("obgd", "adaptive", "backtracking", "sgd", "adam")


class _Driven(torch.optim.Optimizer):
    """A baseline: traces without a bound, their product with the error given to a torch optimiser as a gradient."""

    def __init__(self, params: Any, lr: float, gamma: float, lamda: float, adam: bool) -> None:
        params = list(params)
        super().__init__(params, {})
        betas = (BETA1, BETA2)
        self.inner: Optimizer = (
            torch.optim.Adam(params, lr, betas=betas, eps=EPS) if adam else torch.optim.SGD(params, lr)
        )
        self.decay = gamma * lamda

    @torch.no_grad()
    def step(self, delta: float, reset: bool = False) -> None:  # type: ignore[override]
        """Decay, accumulate, one step of the inner optimiser down -delta z."""
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if "trace" not in state:
                state["trace"] = torch.zeros_like(p)
            state["trace"].mul_(self.decay).add_(p.grad)
            p.grad = -delta * state["trace"]
        self.inner.step()
        if reset:
            for p in self.param_groups[0]["params"]:
                self.state[p]["trace"].zero_()

    def state_dict(self) -> dict[str, Any]:
        """Traces, and what the inner optimiser holds."""
        return {"traces": super().state_dict(), "inner": self.inner.state_dict()}

    def load_state_dict(self, held: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        super().load_state_dict(held["traces"])
        self.inner.load_state_dict(held["inner"])


class TorchLearner:
    """A module and its optimiser: autograd, one trace a parameter. The general path, and the fast one's reference."""

    def __init__(
        self, network: nn.Module, rule: str, lr: float, gamma: float, lamda: float, kappa: float
    ) -> None:
        params = list(network.parameters())
        self.network, self.rule = network, rule
        self.dtype = params[0].dtype
        self.optimizer: Any
        if rule in ("sgd", "adam"):
            self.optimizer = _Driven(params, lr, gamma, lamda, rule == "adam")
        else:
            made = {"obgd": ObGD, "adaptive": AdaptiveObGD, "backtracking": BacktrackingObGD}[rule]
            self.optimizer = made(params, lr, gamma, lamda, kappa)

    def taken(self, x: Any) -> Tensor:
        """An observation as the network takes it."""
        given = np.asarray(x)
        if isinstance(self.network, MLP) and given.shape != (self.network.sizes[0],):
            raise InputError(
                f"an observation has shape {given.shape}, accepted is ({self.network.sizes[0]},)"
            )
        return torch.as_tensor(given, dtype=self.dtype)

    @torch.no_grad()
    def outputs(self, x: Any) -> np.ndarray:
        """Evaluate."""
        return self.network(self.taken(x)).numpy()

    def end_traces(self) -> None:
        """Forget what led here."""
        for held in self.optimizer.state.values():
            held["trace"].zero_()

    def learn(self, quantity: Tensor, delta: float, reset: bool, error: Any = None) -> None:
        """One step that moves the quantity in the direction of the error."""
        self.optimizer.zero_grad()
        quantity.backward()  # type: ignore[no-untyped-call]
        if self.rule == "backtracking":
            self.optimizer.step(delta, error, reset=reset)
        else:
            self.optimizer.step(delta, reset=reset)

    def state_dict(self) -> dict[str, Any]:
        """Weights, traces and moments."""
        # torch hands out its own tensors, which go on changing.
        return deepcopy({"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()})

    def load_state_dict(self, held: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if held.keys() != {"network", "optimizer"}:
            raise InputError("the state is of another backend than torch")
        self.network.load_state_dict(held["network"])
        self.optimizer.load_state_dict(deepcopy(held["optimizer"]))


def rates(rule: str, lr: float, gamma: float, lamda: float, kappa: float) -> Any:
    """The constants of an update on flat arrays."""
    from unending.systems.learning.stream_x.fused import RULES, Rates

    return Rates(float(lr), float(kappa), float(gamma * lamda), BETA1, BETA2, EPS, RULES.index(rule))


def flat_net(sizes: tuple[int, ...], rule: str, w: np.ndarray, *state: np.ndarray) -> Any:
    """A flat network from its weights and, where they are there already, its traces and moments."""
    from unending.systems.learning.stream_x.fused import Net, scratch

    if not state:
        first, second = (
            np.zeros(len(w) if rule in rules else 0, w.dtype) for rules in (("adam",), ("adam", "adaptive"))
        )
        state = (np.zeros_like(w), first, second)
    z, m, v = state
    widths = np.array(sizes, np.int64)
    return Net(w, z, m, v, widths, *scratch(widths, w.dtype))


class FlatLearner:
    """A multilayer perceptron and its traces as flat arrays, for the kernels of `fused`."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        rule: str,
        constants: tuple[float, float, float, float],
        start: tuple[float, int, int],
        dtype: Any,
        layer_norm: bool,
    ) -> None:
        sparsity, seed, stream = start
        self.net = flat_net(sizes, rule, flat_start(sizes, sparsity, seed, stream, dtype))
        self.rates = rates(rule, *constants)
        self.layer_norm = layer_norm

    def outputs(self, x: Any) -> np.ndarray:
        """Evaluate."""
        from unending.systems.learning.stream_x.fused import forward

        return forward(self.net, self.layer_norm, self.taken(x)).copy()

    def taken(self, x: Any) -> np.ndarray:
        """An observation as the kernels take it, which check no bounds and are compiled for float64."""
        given = np.ascontiguousarray(x, dtype=np.float64)
        if given.shape != (self.net.sizes[0],):
            raise InputError(f"an observation has shape {np.shape(x)}, accepted is ({self.net.sizes[0]},)")
        return given

    def end_traces(self) -> None:
        """Forget what led here."""
        self.net.z[:] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Weights, traces and moments."""
        return {name: getattr(self.net, name).copy() for name in ("w", "z", "m", "v")}

    def load_state_dict(self, held: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if held.keys() != {"w", "z", "m", "v"}:
            raise InputError("the state is of another backend than fused")
        for name, array in held.items():
            own = getattr(self.net, name)
            if (array.shape, array.dtype) != (own.shape, own.dtype):
                raise InputError(
                    f"{name} has shape {array.shape} of {array.dtype}, accepted is {own.shape} of {own.dtype}"
                )
        for name, array in held.items():
            getattr(self.net, name)[:] = array


def choose_backend(backend: str, rule: str, network: nn.Module | None) -> str:
    """`"fused"` or `"torch"`; `"auto"` takes the fused one wherever it can be had.

    Raises
    ------
    InputError
        for what does not go together.
    """
    if backend not in ("auto", "fused", "torch"):
        raise InputError(f"backend is {backend!r}, accepted are auto, fused, torch")
    if rule not in OPTIMIZERS:
        raise InputError(f"optimizer is {rule!r}, accepted are {', '.join(OPTIMIZERS)}")
    possible = network is None and rule != "backtracking"
    if backend == "fused" and not possible:
        raise InputError("the fused backend is for the built-in MLP, and without backtracking")
    if backend == "auto":
        return "fused" if possible and find_spec("numba") is not None else "torch"
    return backend


def make_learner(
    backend: str,
    network: nn.Module | None,
    sizes: tuple[int, ...],
    rule: str,
    constants: tuple[float, float, float, float],
    start: tuple[float, int, int],
    dtype: str,
    layer_norm: bool,
) -> Any:
    """A `FlatLearner` or a `TorchLearner`, started sparsely from the same randomness.

    Parameters
    ----------
    constants
        lr, gamma, lamda, kappa.
    start
        sparsity, seed, and which stream of the seed.

    Raises
    ------
    InputError
        for settings that no learner can have.
    """
    lr, gamma, lamda, kappa = constants
    if not (0 <= lr < inf and 0 <= gamma <= 1 and 0 <= lamda <= 1 and kappa > 0):
        raise InputError(
            f"lr, gamma, lamda, kappa are {constants}; accepted are lr of 0 or more, gamma and lamda from 0 to 1, and"
            " kappa of more than 0"
        )
    if min(sizes, default=1) < 1:
        raise InputError(f"widths of layers are {sizes}, accepted are 1 or more")
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype is {dtype!r}, accepted are float32, float64")
    if not 0 <= start[0] <= 1:
        raise InputError(f"sparsity is {start[0]}, accepted is 0 to 1")
    if backend == "fused":
        return FlatLearner(sizes, rule, constants, start, np.dtype(dtype), layer_norm)
    module = MLP(sizes, layer_norm).to(getattr(torch, dtype)) if network is None else network
    return TorchLearner(sparse_init(module, *start), rule, *constants)
