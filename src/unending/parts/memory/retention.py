"""Retention: which tokens of a KV memory stay."""

from dataclasses import dataclass

import numpy as np

from unending.core.errors import CapacityError, InputError

__all__ = ["SinksAndWindow"]


@dataclass(frozen=True)
class SinksAndWindow:
    """Keep the first `sink_size` tokens for ever and the last `window_size` (Xiao et al. 2023, arXiv 2309.17453).

    A `sink_size` of 0 is the plain sliding window.

    Raises
    ------
    InputError
        if there is no window or a size is negative.
    """

    sink_size: int = 4
    window_size: int = 1020

    def __post_init__(self) -> None:
        if self.sink_size < 0 or self.window_size < 1:
            raise InputError(
                f"sink_size={self.sink_size}, window_size={self.window_size}: accepted are sinks of 0 or more"
                " and a window of 1 or more"
            )

    @property
    def budget(self) -> int:
        """Tokens that are kept at most."""
        return self.sink_size + self.window_size

    def keep(self, total: int, padding: int = 0) -> np.ndarray:
        """Indices, int64 ascending, of the tokens that stay out of `total` tokens in order.

        `padding` tokens at the left of the row are not real: they go first, and the sinks are the first real ones.
        """
        return self._without(total, max(total - self.budget, 0), padding)

    def keep_for(self, total: int, coming: int, padding: int = 0) -> np.ndarray:
        """Indices of the tokens that stay so that `coming` more fit without any further eviction.

        Raises
        ------
        CapacityError
            if `coming` tokens do not fit beside the sinks.
        """
        if self.sink_size + coming > self.budget:
            raise CapacityError(
                f"{coming} tokens do not fit in one turn: the window holds {self.window_size} beside the sinks"
            )
        return self._without(total, max(total + coming - self.budget, 0), padding)

    def _without(self, total: int, dropped: int, padding: int) -> np.ndarray:
        from_padding = min(dropped, padding)
        left = padding - from_padding
        order = np.arange(from_padding, total, dtype=np.int64)
        first = left + self.sink_size
        return np.delete(order, slice(first, first + dropped - from_padding))
