"""Stream TD(lambda): a prediction of discounted future cumulants, learned from one sample after the other."""

from collections.abc import Mapping
from copy import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from unending.core.errors import InputError
from unending.parts.numerics.moments import RunningMoments
from unending.systems.learning.stream_x.agents import Agent, Backend, Rule, flat_width
from unending.systems.learning.stream_x.learners import choose_backend, make_learner
from unending.systems.learning.stream_x.networks import VALUE

__all__ = ["StreamTD"]


class StreamTD(Agent):
    """Stream TD(lambda) (arXiv 2410.14606): v(s) estimates the discounted sum of the cumulants that come after s.

    `update` takes transitions of observations that wrappers have normalised. `learn_one` and `predict_one` take a
    series as River does, with normalisation inside: raw features in, predictions in the unit of the cumulant out.

    Parameters
    ----------
    observation_space
        flat `Box`, or any with `network`; or an int, the number of features.
    hidden, network, lr, gamma, lamda, kappa, sparsity, layer_norm, optimizer, bootstrap_on_truncation
        see `StreamQ`, and so for `backend`, `dtype` and `seed`.
    trace
        decay beta of the bias-corrected exponential averages that `learn_one` takes in place of the features
        themselves; 0.999 in the paper's series, 0 takes the features.
    """

    def __init__(
        self,
        observation_space: gym.Space | int,
        hidden: tuple[int, ...] = (128, 128),
        network: nn.Module | None = None,
        lr: float = 1.0,
        gamma: float = 0.99,
        lamda: float = 0.8,
        kappa: float = 2.0,
        sparsity: float = 0.9,
        layer_norm: bool = True,
        optimizer: Rule = "obgd",
        bootstrap_on_truncation: bool = False,
        trace: float = 0.0,
        backend: Backend = "auto",
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(gamma, bootstrap_on_truncation, seed)
        if not 0 <= trace < 1:
            raise InputError(f"trace is {trace}, accepted is 0 or more and less than 1")
        width = observation_space if isinstance(observation_space, int) else 0
        if isinstance(observation_space, int):
            if width < 1:
                raise InputError(f"the number of features is {width}, accepted is 1 or more")
        elif network is None:
            width = flat_width(observation_space)
        self.backend = choose_backend(backend, optimizer, network)
        sizes = () if network else (width, *hidden, 1)
        self.value = make_learner(
            self.backend, network, sizes, optimizer, (lr, gamma, lamda, kappa), (sparsity, seed, VALUE), dtype,
            layer_norm,
        )  # fmt: skip
        self.learners = {"value": self.value}
        self.trace = trace
        self.series = _Series(width)

    def predict(self, observation: Any) -> float:
        """The value of an observation."""
        return float(self.value.outputs(observation)[0])

    def update(
        self, s: Any, cumulant: float, s2: Any, terminated: bool = False, truncated: bool = False
    ) -> float:
        """Learn from one transition; returns its error before the update."""
        goes_on, done = self._goes_on(terminated, truncated), bool(terminated or truncated)
        x, x2 = self.value.taken(s), self.value.taken(s2)
        self.updates += 1
        if self.backend == "fused":
            from unending.systems.learning.stream_x.updates import td_update

            each = self.value
            delta, _, _ = td_update(
                each.net,
                each.layer_norm,
                x,
                x2,
                float(cumulant),
                goes_on,
                self.gamma,
                done,
                self.updates,
                each.rates,
            )
            return self._checked(delta)
        network = self.value.network

        def error() -> float:
            with torch.no_grad():
                return float(cumulant) + self.gamma * goes_on * float(network(x2)) - float(network(x))

        delta = self._checked(error())
        self.value.learn(network(x).squeeze(), delta, done, error)
        return delta

    def predict_one(self, x: Mapping[Any, float] | Any) -> float:
        """The discounted sum of the cumulants to come after `x`, in their unit; nothing is changed.

        Parameters
        ----------
        x
            features by name (missing ones are 0, unknown ones are left out), or an array of them.
        """
        series = self.series
        if series.columns is None:
            return 0.0
        averaged = series.averaged(series.row(x), self.trace)[1]
        return self.predict(series.seen.normalize(averaged)) * series.deviation()

    def learn_one(self, x: Mapping[Any, float] | Any, cumulant: float) -> None:
        """Learn that after the last sample came `x`, and with it this cumulant.

        Raises
        ------
        InputError
            for another number of features, NaN or infinity; nothing is changed.
        NumericalError
            for one so large that the statistics would leave finite numbers; nothing is changed.
        """
        series = self.series.copied()
        columns = series.columns
        if columns is None:
            columns = tuple(x) if isinstance(x, Mapping) else tuple(range(len(x)))
            if len(columns) != series.width:
                raise InputError(f"a sample has {len(columns)} features, accepted is {series.width}")
        row = series.row(x, columns)
        if not (np.isfinite(row).all() and np.isfinite(cumulant)):
            raise InputError("a sample holds NaN or infinity; finite numbers are accepted")
        series.columns = columns
        series.average, averaged = series.averaged(row, self.trace)
        series.steps += 1
        series.seen.update(averaged)
        now = series.seen.normalize(averaged)
        series.sum = self.gamma * series.sum + float(cumulant)
        series.sums.update(series.sum)
        if series.steps > 1:
            self.update(series.last, float(cumulant) / series.deviation(), now)
        series.last = now
        self.series = series

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "series": self.series.state_dict()}

    def load_state_dict(self, held: Mapping[str, Any]) -> None:
        super().load_state_dict(held)
        self.series.load_state_dict(held["series"])


def _number(name: Any, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"the value of {name!r} is {value!r}, accepted are numbers") from error


class _Series:
    """What the River face of `StreamTD` remembers of its series."""

    def __init__(self, width: int) -> None:
        self.width, self.steps = width, 0
        self.columns: tuple[Any, ...] | None = None
        self.average, self.last = np.zeros(width), np.zeros(width)
        self.seen, self.sums, self.sum = RunningMoments((width,)), RunningMoments(), 0.0

    def copied(self) -> "_Series":
        """One that can be changed apart from this one: its arrays are rebound, never written to."""
        other = copy(self)
        other.seen, other.sums = copy(self.seen), copy(self.sums)
        return other

    def row(self, x: Any, columns: tuple[Any, ...] | None = None) -> np.ndarray:
        columns = columns or self.columns or ()
        if isinstance(x, Mapping):
            return np.array([_number(name, x.get(name, 0.0)) for name in columns])
        given = np.asarray(x, dtype=np.float64)
        if given.shape != (self.width,):
            raise InputError(f"a sample has shape {given.shape}, accepted is ({self.width},)")
        return given

    def averaged(self, row: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
        average = beta * self.average + (1 - beta) * row
        return average, average / (1 - beta ** (self.steps + 1))

    def deviation(self) -> float:
        return float(np.sqrt(self.sums.variance() + 1e-8))

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps, "columns": self.columns, "average": self.average.copy(), "last": self.last.copy(),
            "seen": self.seen.state_dict(), "sums": self.sums.state_dict(), "sum": self.sum,
        }  # fmt: skip

    def load_state_dict(self, held: Mapping[str, Any]) -> None:
        self.steps, self.columns, self.sum = held["steps"], held["columns"], held["sum"]
        self.average, self.last = held["average"].copy(), held["last"].copy()
        self.seen.load_state_dict(held["seen"])
        self.sums.load_state_dict(held["sums"])
