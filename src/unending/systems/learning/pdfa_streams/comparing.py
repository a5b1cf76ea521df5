"""Automata compared, and targets made to be hard: for tests and benchmarks."""

import numpy as np

from unending.core.random import philox
from unending.systems.learning.pdfa_streams.model import PDFA

__all__ = ["closest_states", "same_automaton", "skewed_strings", "twins_apart_late"]


def closest_states(pdfa: PDFA) -> float:
    """The least, over pairs of states, of the largest difference of their next-step probabilities; 1 for one state."""
    p = pdfa.probabilities
    apart = np.abs(p[:, None] - p[None]).max(axis=2)
    return float(apart[~np.eye(len(p), dtype=np.bool_)].min(initial=1.0))


def same_automaton(target: PDFA, found: PDFA) -> bool:
    """Whether the established states of `found` are those of `target`, with the same transitions.

    Both are walked together from their initial states, by ids of symbols, along every transition of the target. Sinks
    of `found` (too rare to be established) and what is behind them are left out.
    """
    pairs: dict[int, int] = {0: 0}
    queue = [(0, 0)]
    while queue:
        one, two = queue.pop()
        for symbol, at in enumerate(target.following[one]):
            if at < 0 or symbol >= len(found.symbols):
                continue
            other = int(found.following[two, symbol])
            if other < 0 or not found.red[other]:
                continue
            if int(at) not in pairs:
                pairs[int(at)] = other
                queue.append((int(at), other))
            elif pairs[int(at)] != other:
                return False
    return len(pairs) == len(target.following) == found.n_states == len(set(pairs.values()))


def skewed_strings(target: PDFA, n: int, seed: int) -> list[list[int]]:
    """Strings in which all states behave alike (the mean of the target's states): whoever believes them merges all."""
    mean = target.probabilities.mean(axis=0)
    following = np.zeros((1, len(target.symbols)), np.int64)
    return PDFA(following, mean[None], range(len(target.symbols))).sample(n, seed)


def twins_apart_late(steps: int, difference: float, seed: int) -> PDFA:
    """Two branches over 4 symbols that are alike for `steps` steps and differ by `difference` in the next."""
    rng = philox(seed, 0, 0x74776E)
    split = 0.4 + 0.2 * rng.random()
    rows: list[tuple[list[int], list[float]]] = [([1, 2, -1, -1], [0.5, 0.5, 0, 0, 0])]
    for depth in range(steps):
        share = 0.3 + 0.4 * rng.random()
        for branch in (1, 2):
            after = 2 * depth + branch + 2
            rows.append(([after, -1, after, -1], [share, 0, 1 - share, 0, 0]))
    end = 2 * steps + 3
    for sign in (1, -1):
        one = split + sign * difference / 2
        rows.append(([end, end, -1, -1], [one, 1 - one, 0, 0, 0]))
    rows.append(([-1, -1, -1, 0], [0, 0, 0, 0.5, 0.5]))
    return PDFA(np.array([row for row, _ in rows]), np.array([p for _, p in rows]), range(4))
