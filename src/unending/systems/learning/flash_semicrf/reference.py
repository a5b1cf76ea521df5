"""The slow twins of the online filter: whole paths carried along, and losses from alphas of the whole sequence."""

import numpy as np
import torch

from unending.systems.learning.flash_semicrf.function import messages
from unending.systems.learning.flash_semicrf.potentials import Potentials, prefix_sums
from unending.systems.learning.flash_semicrf.segments import Segment
from unending.systems.learning.flash_semicrf.streaming import Scores

__all__ = ["naive_decisions", "naive_losses", "potentials_of"]

Open = dict[tuple[int, int], tuple[float, tuple[Segment, ...]]]


def potentials_of(scores: Scores, emissions: np.ndarray) -> Potentials:
    """Potentials of one whole sequence of emissions `[T, C]`."""
    rows = torch.from_numpy(np.asarray(emissions, np.float64))[None]
    cum, _ = prefix_sums(rows, centering="position")
    names = ("transition", "duration", "initial", "final")
    transition, duration, initial, final = (torch.from_numpy(getattr(scores, name)) for name in names)
    return Potentials.of(cum, transition, duration, None, "pi", initial, final)


def naive_losses(scores: Scores, emissions: np.ndarray) -> np.ndarray:
    """Prequential losses `[T]`: every label predicted by a sum over all open segments, from prefix sums."""
    p = potentials_of(scores, emissions)
    alphas, survival = messages(p)[0][0], torch.from_numpy(scores.survival)
    observed = torch.log_softmax(torch.from_numpy(np.asarray(emissions, np.float64)), 1)
    losses = []
    for t in range(len(observed)):
        first = max(0, t - len(survival) + 1)
        entered = torch.logsumexp(alphas[first : t + 1, :, None] + p.transition, 1)
        if first == 0:
            entered[0] = p.initial
        held = (
            entered + p.cum_scores[0, t] - p.cum_scores[0, first : t + 1] + survival[: t + 1 - first].flip(0)
        )
        predicted = torch.log_softmax(torch.logsumexp(held, 0), 0)
        losses.append(float(-torch.logsumexp(predicted + observed[t], 0)))
    return np.array(losses)


def naive_decisions(
    scores: Scores, emissions: np.ndarray, hop: int, max_lag: int
) -> tuple[list[tuple[int, Segment]], int]:
    """Segments with the position at which each is decided, and how many decisions were forced."""
    size, labels = scores.duration.shape
    opens: Open = {(0, c): (float(scores.initial[c]), ()) for c in range(labels)}
    ended: dict[int, tuple[float, tuple[Segment, ...]]] = {}
    decided: list[tuple[int, Segment]] = []
    forced = 0
    for position, row in enumerate(emissions, start=1):
        opens = {(j, c): (score + row[c], path) for (j, c), (score, path) in opens.items()}
        ended = {}
        for c in range(labels):
            ways = [
                (score + scores.duration[position - j - 1, c], (*path, Segment(j, position, c)))
                for (j, label), (score, path) in opens.items()
                if label == c
            ]
            if ways:
                ended[c] = max(ways, key=lambda way: way[0])
        opens = {(j, c): held for (j, c), held in opens.items() if j > position - size}
        for c in range(labels):
            ways = [(score + scores.transition[source, c], path) for source, (score, path) in ended.items()]
            opens[position, c] = max(ways, key=lambda way: way[0])
        while position % hop == 0:
            paths = [path for _, path in (*opens.values(), *ended.values())]
            common = next(
                n for n in range(len(min(paths, key=len)), -1, -1) if len({path[:n] for path in paths}) == 1
            )
            news = paths[0][len(decided) : common]
            base = decided[-1][1].end if decided else 0
            if not news and position - base < max_lag:
                break
            if not news:
                best = max(opens, key=lambda key: opens[key][0] + scores.survival[position - key[0], key[1]])
                news = opens[best][1][len(decided) : len(decided) + 1]
                forced += 1
            decided += [(position, each) for each in news]
            chosen = tuple(each for _, each in decided)
            opens = {key: held for key, held in opens.items() if held[1][: len(chosen)] == chosen}
            ended = {key: held for key, held in ended.items() if held[1][: len(chosen)] == chosen}
    if ended:
        last = max(ended, key=lambda c: ended[c][0] + scores.final[c])
        decided += [(len(emissions), each) for each in ended[last][1][len(decided) :]]
    return decided, forced
