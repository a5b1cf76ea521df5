"""States of the reference learner: what they count, and the test and score of a pair of them."""

from dataclasses import dataclass, field
from math import sqrt

from unending.parts.sketches.count_min import CountMinSketch
from unending.systems.learning.pdfa_streams.settings import Settings

__all__ = ["NaiveNode", "consistent", "similarity"]

Name = tuple[int, ...]


@dataclass
class NaiveNode:
    """A state: counts of what was seen in it, and the states after it by symbol."""

    name: Name
    visits: int = 0
    ends: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    children: dict[int, "NaiveNode"] = field(default_factory=dict)
    sketches: list[CountMinSketch] = field(default_factory=list)
    late_ends: list[int] = field(default_factory=list)
    parent: "NaiveNode | None" = None


def consistent(settings: Settings, codes: list[set[int]], r: NaiveNode, b: NaiveNode) -> bool:
    """The test of one pair."""
    if r.visits <= settings.min_state or b.visits <= settings.min_state:
        return True

    def alike(x: int, y: int, n: int, m: int) -> bool:
        return abs(x / n - y / m) < settings.coefficient * (1 / sqrt(n) + 1 / sqrt(m))

    if settings.heuristic == "alergia":
        n, m = r.visits, b.visits
        pairs = [(r.counts.get(a, 0), b.counts.get(a, 0)) for a in {*r.counts, *b.counts}]
        rare = [pair for pair in pairs if max(pair) < settings.symbol_count]
        pairs = [pair for pair in pairs if pair not in rare]
        pairs += [(sum(x for x, _ in rare), sum(y for _, y in rare))]
        pairs += [(r.ends, b.ends)] if settings.compare_ends else []
        return all(alike(x, y, n, m) for x, y in pairs)
    for j, (one, two) in enumerate(zip(r.sketches, b.sketches, strict=True)):
        n, m = one.total + r.late_ends[j], two.total + b.late_ends[j]
        if not n or not m:
            continue
        pairs = [(one.estimate(code), two.estimate(code)) for code in sorted(codes[j])]
        pairs += [(r.late_ends[j], b.late_ends[j])] if settings.compare_ends else []
        if not all(alike(x, y, n, m) for x, y in pairs):
            return False
    return True


def similarity(settings: Settings, r: NaiveNode, b: NaiveNode) -> float:
    """The score of one pair."""
    score = 0.0
    vectors: list[tuple[list[int], list[int]]] = [
        ([r.late_ends[j], *one.cells.ravel().tolist()], [b.late_ends[j], *two.cells.ravel().tolist()])
        for j, (one, two) in enumerate(zip(r.sketches, b.sketches, strict=True))
    ]
    if settings.heuristic == "alergia":
        every = range(settings.alphabet)
        vectors = [
            (
                [r.ends, *(r.counts.get(a, 0) for a in every)],
                [b.ends, *(b.counts.get(a, 0) for a in every)],
            )
        ]
    for x, y in vectors:
        dot, left, right = (
            float(sum(p * q for p, q in zip(*z, strict=True))) for z in ((x, y), (x, x), (y, y))
        )
        if left > 0 and right > 0:
            score += dot / sqrt(left * right)
    return score
