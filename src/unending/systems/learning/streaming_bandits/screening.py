"""The two algorithms that give every arm the same number of pulls and keep the best."""

from abc import abstractmethod
from dataclasses import dataclass
from math import inf, log

from unending.core.errors import InputError
from unending.systems.learning.streaming_bandits.exploration import HAND, Algorithm, Draft

__all__ = ["NaiveEpsBest", "UniformExploration"]


@dataclass(frozen=True)
class _Screening(Algorithm):
    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.factor < inf:
            raise InputError(f"factor is {self.factor}; a positive number is accepted")

    @property
    @abstractmethod
    def each(self) -> int:
        """Pulls of each arm."""

    def _arrived(self, at: Draft) -> None:
        at.ask(HAND, self.each)

    def _told(self, at: Draft) -> None:
        if not at.holds(1) or at.mean(HAND) > at.mean(1):
            at.copy(HAND, 1)
        at.clear(HAND)


@dataclass(frozen=True)
class UniformExploration(_Screening):
    """The benchmark: `ceil(factor (T/K)^(2/3) (ln T)^(1/3))` pulls each; one stored arm.

    Regret O(K^(1/3) T^(2/3) (log T)^(1/3)). Parameters beside those of `Algorithm`: `factor`, a positive number
    (`InputError` for others).
    """

    @property
    def each(self) -> int:
        return self.pulls(self.factor * log(self.horizon) ** (1 / 3))


@dataclass(frozen=True)
class NaiveEpsBest(_Screening):
    """`ceil(factor ln K / eps^2)` pulls each; one stored arm; the paper's single-arm bound in expectation.

    Regret O(K^(1/3) T^(2/3) log K). With a factor of 1 it is worse than uniform exploration as soon as
    `ln K > (ln T)^(1/3)`: its merit is asymptotic in T. Parameters beside those of `Algorithm`: `factor`, a positive
    number (`InputError` for others).
    """

    @property
    def each(self) -> int:
        return self.pulls(self.factor * log(self.arms))
