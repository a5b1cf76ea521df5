"""Arms that arrive once: handles that die when the arm is let go, streams of them, and the paper's two settings."""

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import TypeAlias

import numpy as np

from unending.core.errors import InputError, OwnershipError
from unending.core.random import philox
from unending.parts.sketches.single_pass import SinglePass

__all__ = ["ORDERS", "Arm", "ArmStream", "Sampler", "beta_rewards", "clear_cut", "mix_in"]

Generator: TypeAlias = np.random.Generator

Sampler: TypeAlias = Callable[[Generator, int], np.ndarray]
"""`sampler(rng, n)` gives n rewards, float64 `[n]`, each within 0..1."""

ORDERS = ("given", "random", "best_first", "best_last", "decreasing", "increasing")

_BLOCK = 1 << 16
"""Rewards of other samplers than Bernoulli are drawn so many at a time."""


class Arm:
    """A handle to one arm; pulling it is all that an algorithm may do with it.

    Parameters
    ----------
    index
        its position in the stream.
    mean
        the expected reward, in 0..1. It is the simulation's: algorithms do not get to see it.
    sampler
        draws rewards; without one they are 1 with probability `mean`, else 0.
    counts
        int64 `[K]`, where the environment counts the pulls of each position.

    Raises
    ------
    InputError
        if the mean is outside 0..1.
    """

    __slots__ = ("_alive", "_counts", "_sampler", "index", "mean")

    def __init__(
        self, index: int, mean: float, sampler: Sampler | None = None, counts: np.ndarray | None = None
    ) -> None:
        if not 0 <= mean <= 1:
            raise InputError(f"the mean of arm {index} is {mean}; 0 to 1 is accepted")
        self.index, self.mean = index, mean
        self._sampler, self._counts, self._alive = sampler, counts, True

    @property
    def alive(self) -> bool:
        """Whether it can still be pulled."""
        return self._alive

    def let_go(self) -> None:
        """The arm is gone for good."""
        self._alive = False

    def pull(self, n: int, rng: Generator) -> float:
        """The sum of n rewards; of Bernoulli rewards it is one binomial draw, whatever n is.

        Raises
        ------
        OwnershipError
            if the arm was let go.
        InputError
            if n is below 1, or its sampler gives something else than n numbers from 0 to 1.
        """
        if not self._alive:
            raise OwnershipError(f"arm {self.index} was let go and cannot be pulled again")
        if n < 1:
            raise InputError(f"{n} pulls; 1 upwards are accepted")
        total = float(rng.binomial(n, self.mean)) if self._sampler is None else self._sample(n, rng)
        if self._counts is not None:
            self._counts[self.index] += n
        return total

    def _sample(self, n: int, rng: Generator) -> float:
        assert self._sampler is not None
        total = 0.0
        for start in range(0, n, _BLOCK):
            size = min(_BLOCK, n - start)
            rewards = np.asarray(self._sampler(rng, size), dtype=np.float64)
            if rewards.shape != (size,) or not ((rewards >= 0) & (rewards <= 1)).all():
                raise InputError(f"the sampler of arm {self.index} did not give {size} rewards from 0 to 1")
            total += float(rewards.sum())
        return min(total, float(n))


class ArmStream(SinglePass[Arm]):
    """K arms that pass once. Asking for the next one lets the one before it go, unless it was stored.

    Parameters
    ----------
    means
        float `[K]`, expected rewards in 0..1.
    order
        `"given"`, `"random"`, `"best_first"` and `"best_last"` (the others at random), `"decreasing"`, `"increasing"`.
    seed
        of the order.
    samplers
        one for each mean, for rewards that are not Bernoulli.

    Raises
    ------
    InputError
        for no arms, means outside 0..1 or NaN, an unknown order, or another number of samplers.
    """

    def __init__(
        self,
        means: Sequence[float] | np.ndarray,
        order: str = "given",
        seed: int = 0,
        samplers: Sequence[Sampler] | None = None,
    ) -> None:
        try:
            given = np.asarray(means, dtype=np.float64)
        except (TypeError, ValueError):
            given = np.zeros(0)
        if given.ndim != 1 or not len(given) or not ((given >= 0) & (given <= 1)).all():
            raise InputError("means are a row of one or more numbers from 0 to 1")
        if samplers is not None and len(samplers) != len(given):
            raise InputError(f"{len(samplers)} samplers for {len(given)} means")
        places = _arrange(given, order, seed)
        self.arms = len(given)
        """K, known beforehand."""
        self.counts = np.zeros(len(given), dtype=np.int64)
        """int64 `[K]`: pulls by position in the stream, as the environment saw them."""
        self._means = given[places]
        self._stored: Callable[[int], bool] = lambda index: False
        chosen = None if samplers is None else [samplers[place] for place in places]
        super().__init__(self._pass(chosen))

    def stored(self, holds: Callable[[int], bool]) -> None:
        """Say how to ask whether the arm of a position is stored; until then none is."""
        self._stored = holds

    def _pass(self, samplers: list[Sampler] | None) -> Iterator[Arm]:
        for index, mean in enumerate(self._means.tolist()):
            arm = Arm(index, mean, None if samplers is None else samplers[index], self.counts)
            yield arm
            if not self._stored(index):
                arm.let_go()

    @property
    def means(self) -> np.ndarray:
        """The expected rewards in order of arrival.

        Raises
        ------
        OwnershipError
            while arms are still to come.
        """
        if self.taken < self.arms:
            raise OwnershipError("the means are shown when all arms have passed")
        return self._means.copy()

    @property
    def regret(self) -> float:
        """Sum over the arms of pulls times gap to the best of all K."""
        return float(self.counts @ (self._means.max() - self._means))


def _arrange(means: np.ndarray, order: str, seed: int) -> np.ndarray:
    if order not in ORDERS:
        raise InputError(f"order {order!r}; {', '.join(ORDERS)} are accepted")
    if order == "given":
        return np.arange(len(means))
    if order in ("decreasing", "increasing"):
        rising = np.argsort(means, kind="stable")
        return rising[::-1] if order == "decreasing" else rising
    places = philox(seed, 0, substream=2).permutation(len(means))
    if order == "random":
        return places
    best = int(np.argmax(means))
    others = places[places != best]
    return np.concatenate([[best], others] if order == "best_first" else [others, [best]])


def clear_cut(arms: int, seed: int = 0) -> np.ndarray:
    """The paper's clear-cut setting, float64 `[K]`: means from N(0.5, 0.1) cut to 0..0.8, and 0.82 as the last."""
    _require_some(arms)
    rng = philox(seed, arms, substream=3)
    means = rng.normal(0.5, 0.1, arms)
    while (outside := (means < 0) | (means > 0.8)).any():
        means[outside] = rng.normal(0.5, 0.1, int(outside.sum()))
    means[-1] = 0.82
    return means


def mix_in(arms: int, seed: int = 0) -> np.ndarray:
    """The paper's mix-in setting, float64 `[K]`: means from the uniform distribution on 0..1."""
    _require_some(arms)
    return philox(seed, arms, substream=4).random(arms)


def _require_some(arms: int) -> None:
    if arms < 1:
        raise InputError(f"{arms} arms; 1 upwards are accepted")


def beta_rewards(mean: float, weight: float = 4.0) -> Sampler:
    """Rewards from a Beta distribution of this mean.

    Raises
    ------
    InputError
        if the mean is not strictly between 0 and 1 or the weight is not positive.
    """
    if not (0 < mean < 1 and weight > 0 and isfinite(weight)):
        raise InputError(f"mean {mean} and weight {weight}; between 0 and 1, and above 0, are accepted")
    return lambda rng, n: rng.beta(weight * mean, weight * (1 - mean), n)
