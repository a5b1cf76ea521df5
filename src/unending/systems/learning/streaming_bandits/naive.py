"""The algorithms once more, as plain loops over one match: what the machines are tested against."""

from collections.abc import Iterator
from math import ceil, log, log2
from typing import Any

from unending.core.random import philox

__all__ = ["Arena", "play_naively"]


class _SpentError(Exception):
    pass


class Arena:
    """One match: means by position, a budget, draws by their number, and a row after each arm."""

    def __init__(self, means: list[float], horizon: int, seed: int, first: int = 0, draws: int = 0) -> None:
        self.means, self.horizon, self.seed, self.first, self.draws = means, horizon, seed, first, draws
        self.counts = [0] * len(means)
        self.held: list[int] = []
        self.champion = -1
        self.now = -1
        self.rows: list[tuple[float, int, int, int]] = []

    def arrivals(self) -> Iterator[int]:
        """Positions within the match; when the next is asked for, the row of the one before is written."""
        while self.now + 1 < len(self.means):
            self.now += 1
            yield self.now
            self.write()

    def write(self) -> None:
        """Regret against the best so far from all counts, pulls, arms stored, champion."""
        best = max(self.means[: self.now + 1])
        regret = sum(n * (best - mean) for n, mean in zip(self.counts, self.means, strict=True))
        self.rows.append((regret, sum(self.counts), len(set(self.held)), self.first + self.champion))

    def draw(self, arm: int, pulls: int) -> float:
        """The mean of so many fresh pulls; at the end of the budget there is nothing more to find out."""
        possible = min(pulls, self.horizon - sum(self.counts))
        if possible == 0:
            raise _SpentError
        total = philox(self.seed, self.draws).binomial(possible, self.means[arm])
        self.draws += 1
        self.counts[arm] += possible
        if possible < pulls:
            raise _SpentError
        return float(total) / pulls

    def keep(self, *arms: int) -> None:
        """Say what is stored; the last one named is the champion."""
        self.held = list(arms)
        self.champion = arms[-1] if arms else -1


def play_naively(algorithm: Any, arena: Arena) -> None:
    """Play one match to its end; `arena.rows` has a row for each arm and one for the end."""
    run = {
        "UniformExploration": _screening,
        "NaiveEpsBest": _screening,
        "GameOfArms": _game_of_arms,
        "AggressiveTower": _tower,
    }[type(algorithm).__name__]
    k, t = algorithm.arms, algorithm.horizon
    eps = algorithm.eps or min(1.0, (k / t) ** (1 / 3))
    try:
        run(algorithm, arena, k, t, eps)
        left = t - sum(arena.counts)
        arena.held = [arena.champion]
        if left:
            arena.draw(arena.champion, left)
    except _SpentError:
        if not arena.held:
            arena.keep(arena.now)
        if len(arena.rows) <= arena.now:
            arena.write()
        for _ in arena.arrivals():
            pass
    arena.write()


def _pulls(factor: float, eps: float, horizon: int) -> int:
    return max(1, min(horizon, ceil(factor / eps**2 * (1 - 1e-12))))


def _screening(algorithm: Any, arena: Arena, k: int, t: int, eps: float) -> None:
    uniform = type(algorithm).__name__ == "UniformExploration"
    each = _pulls(algorithm.factor * (log(t) ** (1 / 3) if uniform else log(k)), eps, t)
    best = -1.0
    for arm in arena.arrivals():
        if (mean := arena.draw(arm, each)) > best:
            best = mean
            arena.keep(arm)


def _game_of_arms(algorithm: Any, arena: Arena, k: int, t: int, eps: float) -> None:
    s = _pulls(1.0, eps, t)
    first, more = ceil(algorithm.crown * s), ceil(algorithm.increment * s)
    king, king_mean, budget, main = -1, 0.0, 0, 0
    side, side_mean = -1, -1.0

    def show() -> None:
        over = algorithm.side_run and main > algorithm.cap * k * s
        arms = [side, king] if not over else [king, side]
        arena.keep(*(arm for arm in arms if arm >= 0))

    for arm in arena.arrivals():
        if algorithm.side_run:
            rate = algorithm.side_rate / log(k) if k > 1 else 1.0
            if philox(arena.seed, arena.first + arm, substream=1).random() < rate:
                mean = arena.draw(arm, ceil(max(1.0, log(k)) * s))
                if mean > side_mean:
                    side, side_mean = arm, mean
                    show()
            if main > algorithm.cap * k * s:
                continue
        dethroned = king < 0
        if king >= 0:
            budget += more
            level = 0
            while True:
                n = s * 2**level
                if budget < n:
                    dethroned = True
                    break
                budget -= n
                main += n
                show()
                if arena.draw(arm, n) <= king_mean - algorithm.margin * eps:
                    break
                if algorithm.side_run and main > algorithm.cap * k * s:
                    break
                level += 1
        if dethroned:
            old = king_mean if king >= 0 else 0.0
            king, budget = arm, first
            main += first
            show()
            king_mean = arena.draw(arm, first)
            if algorithm.keep_max:
                king_mean = max(old, king_mean)


def _levels(algorithm: Any, k: int, t: int, eps: float) -> list[tuple[int, float]]:
    if algorithm.levels == "log":
        return [(_pulls(algorithm.growth**i, eps, t), 6) for i in range(max(1, int(log(k))))]
    if algorithm.levels == "loglog":
        n = max(0, int(log(log(k)))) if k > 2 else 0
        return [(_pulls(algorithm.growth**i, eps, t), 10) for i in range(n)] + [
            (_pulls(max(1.0, log(k)), eps, t), float("inf"))
        ]
    top, x = 0, float(k)
    while x > 1:
        x, top = log2(x), top + 1
    found = []
    r = 4.0 if algorithm.constants == "theory" else 2.0
    for i in range(top + 1):
        if algorithm.constants == "theory":
            delta = min(algorithm.delta, (k / t) ** (1 / 3)) if i == top else algorithm.delta
            beta = 1 / (1 / (10 * 2**i)) ** 2
            pulls = _pulls(4 * beta * (log(1 / delta) + 3 * r), eps, t)
        else:
            pulls = _pulls(r / 2 * 2**i, eps, t)
        r = 2.0 ** min(r, 60)
        found.append((pulls, max(1.0, min(float(k), r // 2**i))))
    return found


def _tower(algorithm: Any, arena: Arena, k: int, t: int, eps: float) -> None:
    theory = algorithm.constants == "theory"
    levels = _levels(algorithm, k, t, eps)
    champions: list[list[Any]] = [[] for _ in levels]  # [arm, mean] or nothing
    seen = [0] * len(levels)

    def show() -> None:
        arena.keep(*(each[0] for each in champions if each))

    for arm in arena.arrivals():
        rising = arm
        for level, (pulls, cap) in enumerate(levels):
            if theory and not champions[level]:
                mean = 0.0
            else:
                mean = arena.draw(rising, pulls)
            if theory and champions[level]:
                champions[level][1] = arena.draw(champions[level][0], pulls)
            if level:
                champions[level - 1], seen[level - 1] = [], 0
            if not champions[level] or mean > champions[level][1]:
                champions[level] = [rising, mean]
            seen[level] += 1
            show()
            if seen[level] < cap or level + 1 == len(levels):
                break
            rising = champions[level][0]
    held = [each[0] for each in champions if each]
    if len(held) > 1:
        if theory:
            delta = min(algorithm.delta, (k / t) ** (1 / 3))
            fresh = _pulls(4 * 10**2 * (log(len(levels)) + log(1 / delta)), eps, t)
        else:
            fresh = ceil(log(len(levels)) + 1) * _pulls(1.0, eps, t)
        means = [arena.draw(arm, fresh) for arm in held]
        arena.champion = held[means.index(max(means))]
