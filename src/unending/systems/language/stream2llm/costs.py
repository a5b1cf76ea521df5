"""What preemption and computation cost on the hardware at hand."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Self

import numpy as np
import torch
from torch import nn

from unending.core.errors import InputError
from unending.parts.prefix import Piece, forward_pieces
from unending.parts.simulation import Curve, StepCost, fit_curve
from unending.systems.language.stream2llm.memory import pool_of

__all__ = ["CostModel"]


@dataclass(frozen=True)
class CostModel:
    """Seconds that `n` tokens of a request take: to be computed anew, or to be swapped out and in again."""

    recompute: Curve
    swap: Curve

    @property
    def step(self) -> StepCost:
        """The forward pass that `recompute` implies."""
        return StepCost.from_curve(self.recompute)

    def transfer(self, tokens: int) -> float:
        """Seconds of one way of a swap."""
        return self.swap(tokens) / 2 if tokens else 0.0

    @classmethod
    def measure(
        cls,
        model: nn.Module,
        block_size: int = 16,
        longest: int = 1024,
        *,
        runs: int = 7,
        dropped: int = 2,
        clock: Callable[[], float] = perf_counter,
    ) -> Self:
        """Fit both curves to the mean of `runs` runs, less the first `dropped`, at powers of two times `block_size`.

        Parameters
        ----------
        model
            a causal language model of transformers.
        longest
            tokens of the longest run.

        Raises
        ------
        InputError
            if `longest` is less than a block, or no run is left.
        """
        if longest < block_size or not 0 <= dropped < runs:
            raise InputError("longest is a block or more, and runs are more than those dropped")
        weight = next(model.parameters())
        blocks = -(-longest // block_size)
        pool = pool_of(model, blocks, block_size, blocks)
        samples: dict[str, list[tuple[float, float]]] = {"recompute": [], "swap": []}
        size = block_size
        while size <= longest:
            ids = np.arange(size) % 100
            spent: dict[str, list[float]] = {name: [] for name in samples}
            for _ in range(runs):
                began = clock()
                table, rows = pool.extend([], 0, size)
                forward_pieces(model, pool, [Piece(ids, rows)])
                pool.commit()
                computed = clock()
                host = pool.swap_out(table, size)
                pool.commit()
                table = pool.swap_in(host, size)
                pool.commit()
                if weight.device.type == "cuda":
                    torch.cuda.synchronize(weight.device)
                spent["recompute"].append(computed - began)
                spent["swap"].append(clock() - computed)
                pool.release(table)
                pool.commit()
            for name, times in spent.items():
                samples[name].append((size, float(np.mean(times[dropped:]))))
            size *= 2
        return cls(fit_curve(samples["recompute"]), fit_curve(samples["swap"]))
