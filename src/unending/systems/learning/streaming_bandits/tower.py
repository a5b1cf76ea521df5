"""Towers of champions: what wins at one level is judged more closely at the next (Assadi and Wang, STOC 2020)."""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, log, log2
from typing import NamedTuple

from unending.core.errors import InputError
from unending.systems.learning.streaming_bandits.exploration import FINAL, HAND, Algorithm, Draft

__all__ = ["AggressiveTower", "Level", "log_star"]

CHALLENGER, CHAMPION = range(2)
"""Tasks: whose pulls are asked for."""

_TALL = 60
"""2 to a power beyond this is more pulls, or more arms, than there can be."""


class Level(NamedTuple):
    """One level of a tower."""

    pulls: int
    """b, of each arm that is judged here."""
    cap: int
    """c, challengers after which the champion goes up; of no meaning at the top."""


def log_star(n: float) -> int:
    """How often log2 has to be taken of n until it is at most 1."""
    times = 0
    while n > 1:
        n, times = log2(n), times + 1
    return times


@dataclass(frozen=True)
class AggressiveTower(Algorithm):
    """A tower of levels with one stored champion each, O(K / eps^2) pulls.

    An arm that arrives is pulled `b` times and takes the place of the champion of the lowest level if its mean is
    higher. When a level has seen `c` arms, its champion goes up as a challenger, with fresh pulls, and the level is
    empty. When the stream ends, the champions of all levels are pulled afresh and the best is committed to.

    Parameters
    ----------
    arms, horizon, eps
        see `Algorithm`; s is `ceil(1 / eps^2)`.
    levels
        `"logstar"`: log*(K) + 1 levels, `b_l = s 2^(l-1) r_l / r_1`, `c_1 = 2^r_1`, `c_l = 2^r_l / 2^(l-1)` with
        `r_1 = 2`, `r_(l+1) = 2^r_l`. `"log"`: int(ln K) levels, `b_l = growth^l s`, 6 challengers a level.
        `"loglog"`: int(ln ln K) + 1 levels, `b_l = growth^l s`, 10 challengers a level, `ln K s` pulls at the top.
    constants
        `"practical"`, or `"theory"` (logstar only): `eps_l = eps / (10 2^(l-1))`, `r_1 = 4`, at each comparison
        `4 / eps_l^2 (ln(1 / delta) + 3 r_l)` fresh pulls of both arms. These are more pulls than most horizons have.
    growth
        of the pulls from level to level, for log and loglog.
    delta
        probability of failure aimed at, for theory; the top level takes `(K/T)^(1/3)` where that is less.

    Raises
    ------
    InputError
        for unknown `levels` or `constants`, theory constants on other levels than logstar, `growth` outside 1..16, or
        `delta` outside (0, 1).
    """

    levels: str = "logstar"
    constants: str = "practical"
    growth: float = 1.2
    delta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels not in ("logstar", "log", "loglog"):
            raise InputError(f"levels {self.levels!r}; logstar, log and loglog are accepted")
        if self.constants not in ("practical", "theory") or (self._theory and self.levels != "logstar"):
            raise InputError(
                f"constants {self.constants!r} on levels {self.levels!r};"
                " practical, and theory on logstar, are accepted"
            )
        if not (1 <= self.growth <= 16 and 0 < self.delta < 1):
            raise InputError(
                f"growth {self.growth} and delta {self.delta}; 1 to 16 and between 0 and 1 are accepted"
            )

    @property
    def _theory(self) -> bool:
        return self.constants == "theory"

    @property
    def slots(self) -> int:
        return len(self.plan) + 1

    @cached_property
    def plan(self) -> tuple[Level, ...]:
        """The levels, lowest first."""
        k = self.arms
        if self.levels == "log":
            return tuple(Level(self.pulls(self.growth**level), 6) for level in range(max(1, int(log(k)))))
        if self.levels == "loglog":
            top = int(log(log(k))) if k > 2 else 0
            lower = [Level(self.pulls(self.growth**level), 10) for level in range(max(0, top))]
            return (*lower, Level(self.pulls(max(1.0, log(k))), k))
        r = 4.0 if self._theory else 2.0
        first, found = r, []
        for level in range(log_star(k) + 1):
            grown = 2.0 ** min(r, _TALL)
            cap = max(1, min(k, int(grown / 2**level)))
            factor = self._theory_pulls(level, r) if self._theory else 2.0**level * r / first
            found.append(Level(self.pulls(factor), cap))
            r = grown
        return tuple(found)

    @property
    def _top_delta(self) -> float:
        return min(self.delta, (self.arms / self.horizon) ** (1 / 3))

    def _theory_pulls(self, level: int, r: float) -> float:
        """In units of 1 / eps^2."""
        delta = self._top_delta if level == log_star(self.arms) else self.delta
        return 4 * (10 * 2.0**level) ** 2 * (log(1 / delta) + 3 * r)

    @property
    def final_pulls(self) -> int:
        """Fresh pulls of each champion when the stream has ended."""
        n = len(self.plan)
        if self._theory:
            return self.pulls(4 * 10**2 * (log(n) + log(1 / self._top_delta)))
        return ceil(log(n) + 1) * self.unit

    def champion(self, at: Draft) -> int:
        held = [slot for slot in range(1, self.slots) if at.holds(slot)]
        if at.phase == FINAL:
            return max((slot for slot in held if at.counts[slot]), key=at.mean, default=held[0])
        return held[-1] if held else HAND

    def _arrived(self, at: Draft) -> None:
        at.level = 0
        self._compare(at)

    def _compare(self, at: Draft) -> None:
        """The arm in slot `level` (the hand, or the champion one below) challenges the champion in the slot above."""
        if self._theory and not at.holds(at.level + 1):
            self._settle(at, wins=True)
            return
        at.task = CHALLENGER
        at.ask(at.level, self.plan[at.level].pulls)

    def _told(self, at: Draft) -> None:
        if at.phase == FINAL:
            self._next_final(at)
        elif at.task == CHALLENGER and self._theory:
            at.task = CHAMPION
            at.ask(at.level + 1, self.plan[at.level].pulls)
        else:
            above = at.level + 1
            self._settle(at, wins=not at.holds(above) or at.mean(at.level) > at.mean(above))

    def _settle(self, at: Draft, *, wins: bool) -> None:
        level = at.level
        if wins:
            at.copy(level, level + 1)
        at.clear(level)
        if level:
            at.seen[level - 1] = 0
        at.seen[level] += 1
        if at.seen[level] >= self.plan[level].cap and level + 1 < len(self.plan):
            at.level = level + 1
            self._compare(at)

    def _ended(self, at: Draft) -> None:
        at.slot = 0
        if sum(at.holds(slot) for slot in range(1, self.slots)) < 2:
            self.commit(at)
        else:
            self._next_final(at)

    def _next_final(self, at: Draft) -> None:
        for slot in range(at.slot + 1, self.slots):
            if at.holds(slot):
                at.ask(slot, self.final_pulls)
                return
        self.commit(at)
