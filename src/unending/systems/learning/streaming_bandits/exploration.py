"""What the algorithms share: the state of an exploration, its budget, its phases, and the pulls it asks for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import ceil, isfinite
from operator import index
from typing import Any, NamedTuple

import numpy as np

from unending.core import state
from unending.core.errors import InputError

__all__ = ["COMMIT", "DONE", "EXPLORE", "FINAL", "HAND", "Algorithm", "Draft", "Exploration", "Wanted"]

EXPLORE, FINAL, COMMIT, DONE = range(4)
"""Phases: arms arrive; the champions are compared; the rest of the budget goes to one arm; the budget is spent."""

MOST_ARMS, MOST_PULLS = 10**8, 10**15
"""Beyond these, sums of rewards would no longer be exact and budgets would not fit in 64 bits."""

HAND = 0
"""The slot of the arm that has just arrived; it is not counted as stored."""


@state
class Exploration:
    """All that an exploration remembers between two pulls. A slot holds one arm and the pulls that judge it."""

    arms: np.ndarray
    """int64 `[slots]`: position in the stream of each slot's arm, -1 where there is none; slot 0 is the hand."""
    sums: np.ndarray
    """float64 `[slots]`: sum of the rewards that the slot's estimate stands on."""
    counts: np.ndarray
    """int64 `[slots]`: how many pulls those are."""
    seen: np.ndarray
    """int64 `[slots]`: challengers that each level of a tower has seen."""
    phase: int
    task: int
    """What the pulls that are asked for are to decide; each algorithm has its own."""
    slot: int
    """The slot that is pulled."""
    wanted: int
    """Pulls of it still to come; 0: the next arm may arrive."""
    level: int
    budget: int
    """Pulls a king may still defend itself with."""
    spent: int
    """Pulls of the main run, where there is one beside it."""
    arrived: int
    used: int
    """Pulls in all."""
    seed: int


class Draft:
    """An `Exploration` on which one works in place; it shares no memory with the state it was made of."""

    arms: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    seen: np.ndarray
    phase: int
    task: int
    slot: int
    wanted: int
    level: int
    budget: int
    spent: int
    arrived: int
    used: int
    seed: int

    def __init__(self, at: Exploration) -> None:
        for name, value in vars(at).items():
            setattr(self, name, value.copy() if isinstance(value, np.ndarray) else value)

    def state(self) -> Exploration:
        """A state of the same value, sharing no memory with this draft."""
        parts: dict[str, Any] = {
            name: value.copy() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }
        return Exploration(**parts)

    def ask(self, slot: int, pulls: int) -> None:
        """Ask for fresh pulls of a slot's arm: its estimate starts anew."""
        self.sums[slot] = 0.0
        self.counts[slot] = 0
        self.slot, self.wanted = slot, pulls

    def mean(self, slot: int) -> float:
        """The empirical mean of a slot's arm."""
        return float(self.sums[slot] / self.counts[slot])

    def copy(self, source: int, target: int) -> None:
        """Put an arm, with its estimate, into another slot as well."""
        for each in (self.arms, self.sums, self.counts):
            each[target] = each[source]

    def clear(self, slot: int) -> None:
        """Let a slot's arm go."""
        self.arms[slot], self.sums[slot], self.counts[slot] = -1, 0.0, 0

    def holds(self, slot: int) -> bool:
        """Whether there is an arm in a slot."""
        return bool(self.arms[slot] >= 0)


class Wanted(NamedTuple):
    """The pulls an algorithm asks for: of which arm (its position in the stream), and how many."""

    arm: int
    pulls: int


@dataclass(frozen=True)
class Algorithm(ABC):
    """One way to find a good arm in a single pass, as a machine that asks for pulls and is told their rewards.

    `arrive` and `end` say what the stream does, `wanted` says which pulls are due, `tell` reports their rewards; the
    machine never sees a mean, an arm ahead, or a gap. Chen Wang: Tight Regret Bounds for Single-pass Streaming
    Multi-armed Bandits, ICML 2023, arXiv 2306.02208.

    Parameters
    ----------
    arms
        K, how many arms the stream brings.
    horizon
        T, pulls in all. Below K the first arms are pulled until T.
    eps
        how near to the best the arm found should be; 0 is the paper's `(K/T)^(1/3)`, at most 1. Others are from 1e-9
        to 1.

    Raises
    ------
    InputError
        if `arms` or `horizon` are no whole numbers from 1, or `eps` is neither 0 nor from 1e-9 to 1.
    """

    arms: int
    horizon: int
    eps: float = 0.0

    def __post_init__(self) -> None:
        for name in ("arms", "horizon"):
            try:
                object.__setattr__(self, name, index(getattr(self, name)))
            except TypeError:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; a whole number is accepted (10**6, not 1e6)"
                ) from None
        if not (1 <= self.arms <= MOST_ARMS and 1 <= self.horizon <= MOST_PULLS):
            raise InputError(
                f"{self.arms} arms and a horizon of {self.horizon} pulls;"
                f" 1 to {MOST_ARMS:,} arms and 1 to {MOST_PULLS:,} pulls are accepted"
            )
        if self.eps != 0 and not 1e-9 <= self.eps <= 1:
            raise InputError(
                f"eps is {self.eps}, accepted is 1e-9 to 1, and 0, which is the paper's (K/T)^(1/3)"
            )

    @property
    def gap(self) -> float:
        """The eps in use, never above 1."""
        return self.eps or min(1.0, (self.arms / self.horizon) ** (1 / 3))

    @property
    def unit(self) -> int:
        """The paper's s, `ceil(1 / eps^2)` pulls, of which all others are multiples; at least 1."""
        return self.pulls(1.0)

    def pulls(self, factor: float) -> int:
        """`ceil(factor / eps^2)` pulls, at least one and no more than the horizon."""
        # The cube root is not exact: without the small step down, 1e4 pulls would become 10,001.
        return max(1, ceil(min(self.horizon, factor / self.gap**2 * (1 - 1e-12))))

    @property
    def slots(self) -> int:
        """The hand and what can be stored."""
        return 2

    @property
    def capacity(self) -> int:
        """Arms that are stored at most; the one that has just arrived is not counted."""
        return self.slots - 1

    def start(self, seed: int = 0) -> Exploration:
        """The state before the first arm."""
        n = self.slots
        empty = np.full(n, -1, dtype=np.int64)
        zeros = np.zeros(n), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        return Exploration(empty, *zeros, EXPLORE, 0, 0, 0, 0, 0, 0, 0, 0, seed)

    def arrive(self, at: Draft, arm: int) -> None:
        """The next arm of the stream is here; what has not been stored before is gone.

        Raises
        ------
        InputError
            if pulls are still due, the stream has ended, or K arms have been here.
        """
        if at.phase not in (EXPLORE, DONE) or at.wanted:
            raise InputError(f"{at.wanted} pulls are still due: an arm arrives when none are")
        if at.arrived >= self.arms:
            raise InputError(f"{self.arms} arms have arrived, and that was to be all")
        at.arrived += 1
        if at.phase == EXPLORE:
            at.clear(HAND)
            at.arms[HAND] = arm
            self._arrived(at)

    def wanted(self, at: Draft) -> Wanted | None:
        """The pulls that are due, never beyond the horizon; `None` if the next arm may come (or all is spent)."""
        if not at.wanted:
            return None
        return Wanted(int(at.arms[at.slot]), min(at.wanted, self.horizon - at.used))

    def tell(self, at: Draft, total: float, pulls: int) -> None:
        """Report the sum of the rewards of `pulls` pulls of the arm that was asked for; parts are welcome.

        Raises
        ------
        InputError
            if these are more pulls than are due, or rewards outside 0..1 (NaN too); nothing has changed.
        """
        try:
            total, pulls = float(total), index(pulls)
        except (TypeError, ValueError):
            raise InputError(
                f"rewards of {total!r} and {pulls!r} pulls; a number and a whole number are accepted"
            ) from None
        due = self.wanted(at)
        most = due.pulls if due else 0
        if not 1 <= pulls <= most:
            raise InputError(f"{pulls} pulls were reported, {most} are due")
        if not (isfinite(total) and 0 <= total <= pulls):
            raise InputError(f"{pulls} rewards add up to {total}; each is to be a number from 0 to 1")
        at.sums[at.slot] += total
        at.counts[at.slot] += pulls
        at.wanted -= pulls
        at.used += pulls
        if not at.wanted and at.phase != COMMIT:
            self._told(at)
        if at.used == self.horizon:
            if not (at.arms[1:] >= 0).any():
                at.copy(HAND, 1)
            at.clear(HAND)
            at.phase, at.wanted = DONE, 0

    def end(self, at: Draft) -> None:
        """No more arms come: compare the champions where there are several, then commit to one.

        Raises
        ------
        InputError
            if pulls are still due or no arm has arrived.
        """
        if at.phase == DONE:
            return
        if at.phase != EXPLORE or at.wanted or not at.arrived:
            raise InputError(f"the stream cannot end with {at.wanted} pulls due after {at.arrived} arms")
        at.clear(HAND)
        at.phase = FINAL
        self._ended(at)

    def commit(self, at: Draft) -> None:
        """Give the rest of the budget to the champion, and let the others go."""
        chosen = self.champion(at)
        for slot in range(self.slots):
            if slot != chosen:
                at.clear(slot)
        at.phase = COMMIT
        at.ask(chosen, self.horizon - at.used)

    def champion(self, at: Draft) -> int:
        """The slot of the arm that would be committed to now; slot 0 is possible only before any was stored."""
        return 1 if at.holds(1) else HAND

    @abstractmethod
    def _arrived(self, at: Draft) -> None:
        """An arm is in the hand: ask for pulls, or let it go."""

    @abstractmethod
    def _told(self, at: Draft) -> None:
        """All pulls that were asked for have been told."""

    def _ended(self, at: Draft) -> None:
        self.commit(at)
