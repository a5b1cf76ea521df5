"""Optimisers along eligibility traces whose step cannot overshoot the error of the sample at hand."""

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from unending.core.errors import InputError

__all__ = ["AdaptiveObGD", "BacktrackingObGD", "ObGD"]


class _Traces(Optimizer):
    """Eligibility traces of all parameters: decay by gamma * lamda, then add `p.grad`."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, float]) -> None:
        for name, low, high in (("lr", 0.0, float("inf")), ("gamma", 0.0, 1.0), ("lamda", 0.0, 1.0)):
            if not (low <= defaults[name] <= high and isfinite(defaults[name])):
                raise InputError(
                    f"{name} is {defaults[name]}, accepted are finite numbers, {low:g} to {high:g}"
                )
        if not defaults["kappa"] > 0:
            raise InputError(f"kappa is {defaults['kappa']}, accepted is more than 0")
        super().__init__(params, defaults)

    def _accumulate(self) -> list[tuple[dict[str, Any], Tensor, Tensor]]:
        found = []
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if "trace" not in state:
                    state["trace"] = torch.zeros_like(p)
                z = state["trace"].mul_(group["gamma"] * group["lamda"])
                if p.grad is not None:
                    z.add_(p.grad)
                found.append((group, p, z))
        return found


def _bounded(group: dict[str, Any], delta: float, norm: float) -> float:
    return group["lr"] / max(group["kappa"] * group["lr"] * max(abs(delta), 1.0) * norm, 1.0)


class ObGD(_Traces):
    """Overshooting-bounded gradient descent (Elsayed, Vasan, Mahmood 2024, arXiv 2410.14606).

    `p.grad` is the gradient of the quantity to increase (a value, a log probability), not of a loss: with a trace
    z <- gamma lamda z + grad, a step moves each parameter by alpha delta z, where
    alpha = lr / max(kappa lr max(|delta|, 1) |z|_1, 1) and the norm goes over all parameters together.

    Parameters
    ----------
    params
        parameters or groups.
    lr, gamma, lamda, kappa
        scale of the step, discount, decay of the trace, and the bound: under local linearity one step removes at most
        1/kappa of the sample's error.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        gamma: float = 0.99,
        lamda: float = 0.8,
        kappa: float = 2.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "gamma": gamma, "lamda": lamda, "kappa": kappa})

    @torch.no_grad()
    def step(self, delta: float, reset: bool = False) -> None:  # type: ignore[override]
        """Decay, accumulate, move along the traces; with `reset` the traces are zero afterwards."""
        held = self._accumulate()
        norm = sum(float(z.abs().sum()) for _, _, z in held)
        for group, p, z in held:
            p.add_(z, alpha=_bounded(group, delta, norm) * delta)
            if reset:
                z.zero_()


class AdaptiveObGD(_Traces):
    """ObGD whose directions are divided by running root mean squares of delta z, bias-corrected.

    Parameters
    ----------
    params, lr, gamma, lamda, kappa
        as of `ObGD`.
    beta2, eps
        decay of the mean squares, and what is added to them.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        gamma: float = 0.99,
        lamda: float = 0.8,
        kappa: float = 2.0,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "gamma": gamma, "lamda": lamda, "kappa": kappa, "beta2": beta2, "eps": eps}
        )

    @torch.no_grad()
    def step(self, delta: float, reset: bool = False) -> None:  # type: ignore[override]
        """Decay, accumulate, move along the scaled traces; with `reset` the traces are zero afterwards."""
        directions, norm = [], 0.0
        for group, p, z in self._accumulate():
            state = self.state[p]
            if "squares" not in state:
                state["squares"], state["steps"] = torch.zeros_like(p), 0
            state["steps"] += 1
            v = state["squares"].mul_(group["beta2"]).addcmul_(delta * z, delta * z, value=1 - group["beta2"])
            direction = z / (v / (1 - group["beta2"] ** state["steps"]) + group["eps"]).sqrt()
            norm += float(direction.abs().sum())
            directions.append((group, p, z, direction))
        for group, p, z, direction in directions:
            p.add_(direction, alpha=_bounded(group, delta, norm) * delta)
            if reset:
                z.zero_()


class BacktrackingObGD(_Traces):
    """ObGD by line search: the step starts at `lr` and shrinks until the sample's error does not change its sign.

    Parameters
    ----------
    params, lr, gamma, lamda
        as of `ObGD`.
    kappa
        of the bound that is taken where `tries` trials were all too long.
    shrink, tries
        factor of a trial to the one before it, and how many there are at most.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        gamma: float = 0.99,
        lamda: float = 0.8,
        kappa: float = 2.0,
        shrink: float = 0.5,
        tries: int = 30,
    ) -> None:
        if not 0 < shrink < 1 or tries < 1:
            raise InputError("shrink is between 0 and 1, tries is 1 or more")
        super().__init__(params, {"lr": lr, "gamma": gamma, "lamda": lamda, "kappa": kappa})
        self.shrink, self.tries = shrink, tries

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, delta: float, error: Callable[[], float], reset: bool = False
    ) -> int:
        """Move along the traces; returns the number of trials.

        Parameters
        ----------
        delta
            the sample's error before the step.
        error
            gives it anew at the parameters of a trial; one forward pass or two.
        reset
            put the traces to zero afterwards.
        """
        held = self._accumulate()
        norm = sum(float(z.abs().sum()) for _, _, z in held)
        before = [p.clone() for _, p, _ in held]
        factor, tried = 1.0, 0
        while True:
            for (group, p, z), old in zip(held, before, strict=True):
                alpha = factor * group["lr"] if tried < self.tries else _bounded(group, delta, norm)
                p.copy_(old).add_(z, alpha=alpha * delta)
            if tried == self.tries or error() * delta >= 0:
                break
            factor, tried = factor * self.shrink, tried + 1
        if reset:
            for _, _, z in held:
                z.zero_()
        return tried + 1
