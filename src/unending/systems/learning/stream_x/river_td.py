"""Stream TD as a River estimator, for River's pipelines."""

from typing import Any

from river import base

from unending.core.errors import InputError
from unending.systems.learning.stream_x.td import StreamTD

__all__ = ["RiverTD"]


class RiverTD(base.Regressor):
    """Predicts the discounted sum of the targets to come: `StreamTD` with the features of its first sample.

    `predict_one(x)` before anything was learned is 0.0. A feature that the first sample did not have is left out, or
    refused; one that is missing counts as 0. With `gamma` 0 the prediction is of the next sample's target.

    Parameters
    ----------
    hidden, lr, gamma, lamda, kappa, sparsity, optimizer, trace, seed
        see `StreamTD`.
    on_new_feature
        `"ignore"` or `"raise"`.
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (128, 128),
        lr: float = 1.0,
        gamma: float = 0.99,
        lamda: float = 0.8,
        kappa: float = 2.0,
        sparsity: float = 0.9,
        optimizer: str = "obgd",
        trace: float = 0.0,
        on_new_feature: str = "ignore",
        seed: int = 0,
    ) -> None:
        if on_new_feature not in ("ignore", "raise"):
            raise InputError(f"on_new_feature is {on_new_feature!r}, accepted are ignore and raise")
        self.hidden, self.lr, self.gamma, self.lamda, self.kappa = hidden, lr, gamma, lamda, kappa
        self.sparsity, self.optimizer, self.trace, self.seed = sparsity, optimizer, trace, seed
        self.on_new_feature = on_new_feature
        self.model: StreamTD | None = None

    def learn_one(self, x: dict[Any, Any], y: float) -> None:
        """Learn that `x` came, and with it the target `y`."""
        if not x:
            raise InputError("a sample has no features")
        if self.model is None:
            self.model = StreamTD(
                len(x), self.hidden, None, self.lr, self.gamma, self.lamda, self.kappa, self.sparsity,
                optimizer=self.optimizer, trace=self.trace, seed=self.seed,  # type: ignore[arg-type]
            )  # fmt: skip
        elif self.on_new_feature == "raise" and (new := set(x) - set(self.model.series.columns or ())):
            raise InputError(f"features {sorted(map(str, new))} were not in the first sample")
        self.model.learn_one(x, float(y))

    def predict_one(self, x: dict[Any, Any]) -> float:
        """The discounted sum of the targets after `x`."""
        return self.model.predict_one(x) if self.model else 0.0

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {"hidden": (8, 8)}
