"""What a toy gets wrong: each check holds for the algorithm and fails for the toy beside it."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from unending.core.errors import OwnershipError
from unending.systems.learning.streaming_bandits import (
    AggressiveTower,
    Arm,
    ArmStream,
    Draft,
    GameOfArms,
    UniformExploration,
    clear_cut,
    play,
)
from unending.systems.learning.streaming_bandits.exploration import COMMIT, DONE, FINAL
from unending.systems.learning.streaming_bandits.simulation import Ledger

ARMS, HORIZON = 59, 10**7


def champions(make, order):
    """How often the best arm is committed to, of ten."""
    return sum(
        play(ArmStream(clear_cut(ARMS, seed), order, seed), HORIZON, make, seed).gap == 0
        for seed in range(10)
    )


@dataclass(frozen=True)
class FirstRewardMisplaced(UniformExploration):
    """The first arm's reward goes to another name, so that the second arm always wins."""

    def _told(self, at):
        if at.arrived == 1:
            at.sums[0] = 0.0
        super()._told(at)


def test_the_first_arm_can_win():
    assert champions(UniformExploration, "best_first") == 10
    assert champions(FirstRewardMisplaced, "best_first") == 0


@dataclass(frozen=True)
class NeverUpdated(AggressiveTower):
    """The final comparison stays with the champion it looked at first."""

    def champion(self, at):
        held = [slot for slot in range(1, self.slots) if at.holds(slot)]
        return held[0] if at.phase == FINAL else super().champion(at)


@pytest.mark.parametrize("levels", ["logstar", "log", "loglog"])
def test_the_best_arm_wins_the_final_comparison_wherever_it_stands(levels):
    for order in ("best_first", "best_last"):
        assert champions(partial(AggressiveTower, levels=levels), order) == 10
    assert (
        min(champions(partial(NeverUpdated, levels=levels), order) for order in ("best_first", "best_last"))
        < 5
    )


def spread(pull):
    rng = np.random.default_rng(1)
    n = 400_000
    return np.std([pull(n, rng) / n for _ in range(400)]) / (0.5 / np.sqrt(n))


def test_the_spread_of_many_pulls_is_that_of_binomials():
    """An approximation of standard deviation 2 / sqrt(n) is four times too wide."""
    assert spread(Arm(0, 0.5).pull) == pytest.approx(1, abs=0.15)
    assert spread(lambda n, rng: n * rng.normal(0.5, 2 / np.sqrt(n))) != pytest.approx(1, abs=0.15)


class ChargedToTheChampion(Ledger):
    """Pulls of a challenger are charged at the best mean met, which is what a champion's would be."""

    def charge(self, mean, pulls):
        super().charge(self.best, pulls)


def test_challengers_are_charged_at_their_own_means():
    stream = ArmStream(clear_cut(ARMS, 0), "random", 0)
    found = play(stream, HORIZON, GameOfArms)
    own, toy = Ledger(), ChargedToTheChampion()
    for ledger in (own, toy):
        ledger.meet(float(stream.means.max()))
        for mean, pulls in zip(stream.means.tolist(), stream.counts.tolist(), strict=True):
            ledger.charge(mean, pulls)
    assert own.regret == pytest.approx(found.regret)
    assert toy.regret != pytest.approx(found.regret)


@dataclass(frozen=True)
class Peeking(UniformExploration):
    """Asks for the arm after this one."""

    def _arrived(self, at):
        super()._arrived(at)
        at.arms[0] += 1


def test_no_arm_is_pulled_before_it_arrives():
    with pytest.raises(OwnershipError, match="never kept"):
        play(ArmStream(clear_cut(ARMS, 0)), HORIZON, Peeking)
    with pytest.raises(OwnershipError, match="when all arms have passed"):
        _ = ArmStream(clear_cut(ARMS, 0)).means


@dataclass(frozen=True)
class GoesBack(UniformExploration):
    """Pulls an arm that it did not store."""

    def _arrived(self, at):
        super()._arrived(at)
        if at.arrived == 5:
            at.arms[0] = 0 if at.arms[1] != 0 else 1


def test_no_arm_is_pulled_after_it_was_let_go():
    with pytest.raises(OwnershipError):
        play(ArmStream(clear_cut(ARMS, 0)), HORIZON, GoesBack)
    stream = iter(ArmStream([0.1, 0.2]))
    first, _ = next(stream), next(stream)
    with pytest.raises(OwnershipError, match="arm 0 was let go"):
        first.pull(1, np.random.default_rng(0))


class Oracle(GameOfArms):
    """Re-estimates a new king by its true mean."""

    def _told(self, at):
        super()._told(at)
        if at.holds(1) and not at.wanted:
            at.sums[1] = at.counts[1] * clear_cut(ARMS, 0)[int(at.arms[1])]


def kings(make):
    """The king's estimate when all rewards are 1, whatever the means are."""
    algorithm = make(ARMS, HORIZON)
    at = Draft(algorithm.start())
    algorithm.arrive(at, 0)
    while due := algorithm.wanted(at):
        algorithm.tell(at, due.pulls, due.pulls)
    return at.mean(1)


def test_a_kings_estimate_is_the_mean_of_its_rewards_and_of_nothing_else():
    assert kings(GameOfArms) == 1.0
    assert kings(Oracle) != 1.0


@dataclass(frozen=True)
class NoCommitment(UniformExploration):
    """Stops counting when it has found its arm."""

    def commit(self, at):
        at.phase, at.wanted = DONE, 0


def test_the_commitment_is_part_of_the_regret():
    # A horizon so short that a wrong arm is often committed to.
    def late(make):
        found = play(ArmStream(clear_cut(ARMS, 0), "random", 0), 1000, make)
        return found.pulls, found.trace[-1, 0] > found.explored

    assert late(UniformExploration) == (1000, True)
    assert late(NoCommitment) != (1000, True)


@dataclass(frozen=True)
class RoundedToZero(UniformExploration):
    """Rounds its pulls down."""

    @property
    def each(self):
        return int((self.horizon / self.arms) ** (2 / 3))


def test_every_arm_is_pulled_at_least_once_while_the_budget_lasts():
    def pulled(make):
        stream = ArmStream(clear_cut(30, 0))
        play(stream, 20, make)
        return int((stream.counts > 0).sum())

    assert pulled(UniformExploration) >= 10
    with pytest.raises(OwnershipError):
        pulled(RoundedToZero)


def test_phases_are_in_order():
    algorithm = AggressiveTower(4, 10**4)
    at = Draft(algorithm.start())
    phases = []
    for arm in range(4):
        algorithm.arrive(at, arm)
        while due := algorithm.wanted(at):
            algorithm.tell(at, 0, due.pulls)
    algorithm.end(at)
    while due := algorithm.wanted(at):
        phases.append(at.phase)
        algorithm.tell(at, 0, due.pulls)
    assert phases[-1] == COMMIT
    assert at.phase == DONE
