"""The River face of a learner whose transform is a product with its components."""

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any

import numpy as np
from river import base

from unending.core import nbytes
from unending.core.random import philox
from unending.parts.estimators.columns import Columns
from unending.parts.estimators.core import LinearCore

__all__ = ["LinearOnline"]


class LinearOnline(base.Transformer):
    """Base of River transformers that stand on a `LinearCore`; a subclass stores its parameters and defines `_core`.

    A subclass has the parameters `on_new_feature`, `max_features` (see `Columns`) and `seed`. Before the first row
    `transform_one` gives an empty dict.
    """

    on_new_feature: str
    max_features: int
    seed: int | None

    def _begin(self) -> None:
        """To be called at the end of `__init__`."""
        self._columns = Columns(self.on_new_feature, self.max_features)
        self._learner = self._core()
        self._state: Any = None
        self._components: np.ndarray | None = None

    @abstractmethod
    def _core(self) -> LinearCore:
        """The learner by this transformer's parameters."""

    def learn_one(self, x: dict[Hashable, Any]) -> None:
        """Learn from one row.

        Raises
        ------
        InputError
            if a value is no finite number, or a feature is new and must not be; nothing has changed then.
        """
        columns = self._columns.admitted(x)
        if not len(columns):
            return
        row = columns.vector(x)
        state = self._state
        if state is None:
            seed = int(np.random.default_rng().integers(2**31)) if self.seed is None else self.seed
            state = self._learner.init(len(columns), int(philox(seed, 0).integers(2**31)))
        elif len(columns) > len(self._columns):
            state = self._learner.widen(state, len(columns))
        self._state, self._columns = self._learner.update(state, row[None]), columns
        self._components = None

    def transform_one(self, x: dict[Hashable, Any]) -> dict[Hashable, float]:
        """The row's coordinates along the components; features that have no column count as 0.

        Raises
        ------
        InputError
            if a value is no finite number.
        """
        if self._state is None:
            return {}
        if self._components is None:
            self._components = self._learner.components(self._state)
        codes = self._components @ self._columns.vector(x)
        prefix = type(self).__name__.lower()
        return {f"{prefix}{k}": float(code) for k, code in enumerate(codes)}

    def memory_bytes(self) -> int:
        """Bytes of the learner's state; 0 before the first row."""
        return 0 if self._state is None else nbytes(self._state)
