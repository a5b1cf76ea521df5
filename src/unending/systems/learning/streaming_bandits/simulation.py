"""Playing an algorithm against arms: pulls are drawn, the arms it may hold are enforced, the regret is counted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from unending.core.errors import InputError
from unending.core.random import philox
from unending.parts.sketches.bounded import BoundedStore
from unending.systems.learning.streaming_bandits.arms import Arm, ArmStream
from unending.systems.learning.streaming_bandits.exploration import (
    COMMIT,
    EXPLORE,
    HAND,
    Algorithm,
    Draft,
    Wanted,
)

__all__ = ["Ledger", "Match", "Result", "explore", "play"]

Maker: TypeAlias = Callable[[int, int], Algorithm]
"""Gives an algorithm for K arms and T pulls; each algorithm class is one."""


@dataclass(frozen=True)
class Result:
    """What came of T pulls."""

    regret: float
    """Sum over all pulls, those of the exploration included, of the best mean of all K less the mean of the arm."""
    pulls: int
    """Pulls made, exactly T."""
    explored: int
    """Pulls before the commitment."""
    max_stored: int
    """Most arms that were stored at once; the one that has just arrived is not counted."""
    champion: int
    """Position in the stream of the arm that was committed to."""
    gap: float
    """Best mean of all K less the champion's."""
    trace: np.ndarray
    """float64 `[points, 2]`: pulls made, and regret so far against the best mean seen so far; a point an arm, one after
    the final comparisons, one at the end."""


class Ledger:
    """The regret of one match against the best mean seen so far; after the last arm that is the regret."""

    def __init__(self, regret: float = 0.0, best: float = 0.0, pulls: int = 0) -> None:
        self.regret, self.best, self.pulls = regret, best, pulls

    def meet(self, mean: float) -> None:
        """An arm has arrived; where it is better than all before, all pulls so far were that much worse."""
        if mean > self.best:
            self.regret += self.pulls * (mean - self.best)
            self.best = mean

    def charge(self, mean: float, pulls: int) -> None:
        """Pulls were made of an arm of this mean."""
        self.regret += pulls * (self.best - mean)
        self.pulls += pulls


class Match:
    """One algorithm at play: it draws what the algorithm asks for and holds the arms that the algorithm stores.

    The draws are those of `philox(seed, number of the draw)`, so a match that is taken apart and set up again from
    its parts goes on as if nothing had happened.
    """

    def __init__(self, algorithm: Algorithm, at: Draft, seed: int = 0, draws: int = 0) -> None:
        self.algorithm, self.at, self.seed, self.draws = algorithm, at, seed, draws
        self.ledger = Ledger()
        self.store: BoundedStore[int, Arm] = BoundedStore(algorithm.capacity, on_evict=Arm.let_go)
        self._hand: Arm | None = None
        self._held: bytes = b""

    def resume(self, means: np.ndarray) -> None:
        """Take the stored arms up again, given their means by slot."""
        self._held = self.at.arms[HAND + 1 :].tobytes()
        for index, mean in zip(self.at.arms.tolist()[HAND + 1 :], means.tolist()[HAND + 1 :], strict=True):
            if index >= 0 and index not in self.store:
                self.store.put(index, Arm(index, mean))

    def arrive(self, arm: Arm) -> None:
        """An arm arrives; all pulls that follow from it are made before the next."""
        self.ledger.meet(arm.mean)
        self._hand = arm
        self.algorithm.arrive(self.at, arm.index)
        self._settle()
        self._hand = None

    def close(self) -> None:
        """No more arms come: make the final comparisons."""
        self.algorithm.end(self.at)
        self._settle()

    def commit(self) -> None:
        """Give the rest of the budget to the champion, after the final comparisons."""
        if self.at.phase == EXPLORE:
            self.close()
        while due := self.algorithm.wanted(self.at):
            self._pull(due)

    @property
    def champion(self) -> int:
        """Position of the arm that would be committed to now; -1 before there is one."""
        return int(self.at.arms[self.algorithm.champion(self.at)])

    def _settle(self) -> None:
        self._keep()
        while self.at.phase != COMMIT and (due := self.algorithm.wanted(self.at)):
            self._pull(due)

    def _pull(self, due: Wanted) -> None:
        hand = self._hand
        arm = hand if hand is not None and hand.index == due.arm else self.store[due.arm]
        total = arm.pull(due.pulls, philox(self.seed, self.draws))
        self.draws += 1
        self.ledger.charge(arm.mean, due.pulls)
        self.algorithm.tell(self.at, total, due.pulls)
        self._keep()

    def _keep(self) -> None:
        """Store what the algorithm stores, and let the rest go."""
        stored = self.at.arms[HAND + 1 :]
        if stored.tobytes() == self._held:
            return
        self._held = stored.tobytes()
        wanted = {index for index in stored.tolist() if index >= 0}
        self.store.retain(wanted)
        for index in wanted - self.store.keys():
            if self._hand is None or self._hand.index != index:
                raise InputError(f"arm {index} cannot be stored: it is neither at hand nor stored")
            self.store.put(index, self._hand)


def _begin(stream: ArmStream, horizon: int, make: Maker, seed: int) -> Match:
    algorithm = make(stream.arms, horizon)
    match = Match(algorithm, Draft(algorithm.start(seed)), seed)
    stream.stored(match.store.__contains__)
    return match


def explore(stream: ArmStream, horizon: int, make: Maker, seed: int = 0) -> Arm:
    """Read the stream and give the arm that would be committed to, alive; it is an eps-best one if all goes well.

    Raises
    ------
    OwnershipError
        if the stream has been read.
    """
    match = _begin(stream, horizon, make, seed)
    for arm in stream:
        match.arrive(arm)
    match.close()
    return match.store[match.champion]


def play(stream: ArmStream, horizon: int, make: Maker, seed: int = 0) -> Result:
    """Explore, then commit: exactly `horizon` pulls in all.

    Parameters
    ----------
    stream
        the arms; it is read once. Its `counts` are filled in.
    horizon
        T.
    make
        an algorithm class (`GameOfArms`), or `functools.partial` of one.
    seed
        of the rewards and of the algorithm's own coins.

    Raises
    ------
    OwnershipError
        if the stream has been read.
    """
    match = _begin(stream, horizon, make, seed)
    ledger, trace = match.ledger, []
    for arm in stream:
        match.arrive(arm)
        trace.append((ledger.pulls, ledger.regret))
    match.close()
    explored = match.at.used
    trace.append((ledger.pulls, ledger.regret))
    match.commit()
    trace.append((ledger.pulls, ledger.regret))
    champion, means = match.champion, stream.means
    return Result(
        regret=stream.regret,
        pulls=int(stream.counts.sum()),
        explored=explored,
        max_stored=match.store.high_water,
        champion=champion,
        gap=float(means.max() - means[champion]),
        trace=np.array(trace),
    )
