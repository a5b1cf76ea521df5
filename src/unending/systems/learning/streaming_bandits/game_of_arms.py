"""A single stored king that pays for its defence, after Jin et al. (ICML 2021) and Assadi and Wang (STOC 2020)."""

from dataclasses import dataclass
from math import ceil, inf, log

from unending.core.errors import InputError
from unending.core.random import philox
from unending.systems.learning.streaming_bandits.exploration import HAND, Algorithm, Draft

__all__ = ["GameOfArms"]

KING, SIDE = 1, 2
"""Slots."""
CROWNING, CHALLENGE, SAMPLE = range(3)
"""Tasks."""


@dataclass(frozen=True)
class GameOfArms(Algorithm):
    """One king, dethroned when defending it has used up its budget; O(K / eps^2) pulls with high constant probability.

    With `side_run`, a fraction of the arms is pulled `ln K / eps^2` times beside it and the best of them is kept; it is
    taken if the main run exceeds `cap K s` pulls. That gives the bound in expectation, for a second stored arm and
    about `1.5 K s` pulls.

    A new king is judged by fresh pulls: its true gap to the old one is not known to it.

    Parameters
    ----------
    arms, horizon, eps
        see `Algorithm`; s is `ceil(1 / eps^2)`.
    crown
        pulls of a new king, and its first budget, in s.
    increment
        what each challenger adds to the budget, in s.
    margin
        how far below the king a challenger may be and stay, in eps.
    keep_max
        a new king's estimate is no lower than the old one's. Without it, estimates sink by up to the margin at each
        change of kings, and falling means can lead it far below the best arm.
    side_run
        run the fractional sample beside it.
    side_rate, cap
        an arm is in the sample with probability `side_rate / ln K`; the main run is given up after `cap K s` pulls.

    Raises
    ------
    InputError
        if one of the factors is not a positive number (`margin`: 0 too; `cap`: infinity too).
    """

    crown: float = 1.2
    increment: float = 1.0
    margin: float = 0.2
    keep_max: bool = True
    side_run: bool = False
    side_rate: float = 1.5
    cap: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        factors = self.crown, self.increment, self.side_rate
        if not (all(0 < each < inf for each in factors) and self.cap > 0 and 0 <= self.margin < inf):
            raise InputError("crown, increment, side_rate and cap are positive numbers, margin is one from 0")
        if max(self.crown, self.increment) * self.arms * self.unit >= 2**62:
            raise InputError(
                f"a budget of {self.arms:,} arms with {self.unit:,} pulls each does not fit in 64 bits"
            )

    @property
    def slots(self) -> int:
        return 3 if self.side_run else 2

    @property
    def crowning(self) -> int:
        """Pulls of a new king."""
        return ceil(self.crown * self.unit)

    @property
    def sample_pulls(self) -> int:
        """Pulls of an arm of the sample."""
        return ceil(max(1.0, log(self.arms)) * self.unit)

    def in_sample(self, seed: int, arm: int) -> bool:
        """Whether the arm at this position of the stream is in the sample."""
        rate = self.side_rate / log(self.arms) if self.arms > 1 else 1.0
        return bool(philox(seed, arm, substream=1).random() < rate)

    def champion(self, at: Draft) -> int:
        if self.side_run and self._given_up(at) and at.holds(SIDE):
            return SIDE
        return super().champion(at)

    def _given_up(self, at: Draft) -> bool:
        return self.side_run and at.spent > self.cap * self.arms * self.unit

    def _arrived(self, at: Draft) -> None:
        if self.side_run and self.in_sample(at.seed, int(at.arms[HAND])):
            at.task = SAMPLE
            at.ask(HAND, self.sample_pulls)
        else:
            self._challenge(at)

    def _challenge(self, at: Draft) -> None:
        if self._given_up(at):
            at.clear(HAND)
        elif not at.holds(KING):
            at.copy(HAND, KING)
            at.clear(HAND)
            self._crown(at)
        else:
            at.budget += ceil(self.increment * self.unit)
            at.level = 0
            self._climb(at)

    def _climb(self, at: Draft) -> None:
        """Let the challenger have twice as many pulls as before, or the crown."""
        pulls = self.unit << at.level
        if at.budget < pulls:
            # The old king's estimate waits in the hand, for `keep_max`.
            for each in (at.arms, at.sums, at.counts):
                each[[HAND, KING]] = each[[KING, HAND]]
            at.arms[HAND] = -1
            self._crown(at)
            return
        at.budget -= pulls
        at.task = CHALLENGE
        at.spent += pulls
        at.ask(HAND, pulls)

    def _crown(self, at: Draft) -> None:
        at.task = CROWNING
        at.budget = self.crowning
        at.spent += self.crowning
        at.ask(KING, self.crowning)

    def _told(self, at: Draft) -> None:
        if at.task == SAMPLE:
            if not at.holds(SIDE) or at.mean(HAND) > at.mean(SIDE):
                at.copy(HAND, SIDE)
            self._challenge(at)
        elif at.task == CROWNING:
            if self.keep_max and at.counts[HAND] and at.mean(HAND) > at.mean(KING):
                at.sums[KING], at.counts[KING] = at.sums[HAND], at.counts[HAND]
            at.clear(HAND)
        elif at.mean(HAND) <= at.mean(KING) - self.margin * self.gap or self._given_up(at):
            at.clear(HAND)
        else:
            at.level += 1
            self._climb(at)
