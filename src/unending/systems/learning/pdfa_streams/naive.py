"""The reference: the same learner with dictionaries and lists, in which undoing is dropping a copy of the tree.

Nodes are named by the string that leads to them. It reads a whole stream at once, and shares with the fast one only
the hash functions, the automaton class and the drawing.
"""

from collections.abc import Sequence
from copy import deepcopy
from math import log2
from typing import Any

import numpy as np

from unending.parts.sketches.count_min import CountMinSketch
from unending.parts.sketches.min_hash import permutations
from unending.systems.learning.pdfa_streams.model import PDFA
from unending.systems.learning.pdfa_streams.naive_states import NaiveNode, Name, consistent, similarity
from unending.systems.learning.pdfa_streams.settings import Settings

__all__ = ["NaiveLearner"]


class NaiveLearner:
    """State merging by the book; see `learning.learn` for the fast one."""

    def __init__(self, settings: Settings, seed: int = 0) -> None:
        self.settings, self.seed = settings, seed
        self.permutations = permutations(seed, settings.minhash, settings.alphabet)
        self.root = self._node((), None)
        self.nodes: list[NaiveNode] = [self.root]
        self.codes: list[set[int]] = [set() for _ in range(settings.tables)]
        self.refinements: list[tuple[Name | None, Name]] = []
        self.reds: list[NaiveNode] = [self.root]
        self.growing: set[Name] = set()
        self.batches = self.known = self.refused = 0
        self.model: PDFA | None = None
        self.batch: list[Sequence[int]] = []
        self.table: list[tuple[dict[int, int], dict[int, int], int, int, bool]] = []
        """The hypothesis: next states, counts, visits, ends, red."""

    def _node(self, name: Name, parent: NaiveNode | None) -> NaiveNode:
        rows, width = self.settings.sketch
        sketches = [CountMinSketch(rows, width, self.seed) for _ in range(self.settings.tables)]
        return NaiveNode(name, sketches=sketches, late_ends=[0] * self.settings.tables, parent=parent)

    def code(self, future: Sequence[int]) -> int:
        """The code of the next j symbols."""
        settings = self.settings
        base = settings.alphabet + 1
        digits = [int(symbol) + 1 for symbol in future]
        if settings.futures == "independent":
            return digits[-1] - 1
        if settings.futures == "minhash":
            hashes = self.permutations[: min(len(future), settings.minhash)]
            digits = [1 + min(int(row[symbol]) for symbol in future) for row in hashes]
        code = 0
        for digit in digits:
            code = code * base + digit
        return code

    def add(self, string: Sequence[int]) -> None:
        """Count one string into the tree."""
        node, at = self.root, 0
        while True:
            node.visits += 1
            for j in range(self.settings.tables):
                if at + j >= len(string):
                    node.late_ends[j] += 1
                    break
                code = self.code(string[at : at + j + 1])
                node.sketches[j].add(code)
                self.codes[j].add(code)
            if at == len(string):
                node.ends += 1
                return
            symbol = int(string[at])
            node.counts[symbol] = node.counts.get(symbol, 0) + 1
            if symbol not in node.children:
                allowed = self.batches == 0 or node.name in self.growing
                if not allowed or node.visits <= self.settings.parent_size:
                    return
                if len(self.nodes) == self.settings.nodes:
                    self.refused += 1
                    return
                node.children[symbol] = self._node((*node.name, symbol), node)
                self.nodes.append(node.children[symbol])
            node, at = node.children[symbol], at + 1

    def consistent(self, r: NaiveNode, b: NaiveNode) -> bool:
        """The test of one pair."""
        return consistent(self.settings, self.codes, r, b)

    def fold(self, r: NaiveNode, b: NaiveNode, test: bool) -> bool:
        """Merge b into r in place, all the way down; False at the first pair that is not consistent."""
        if test and not self.consistent(r, b):
            return False
        r.visits += b.visits
        r.ends += b.ends
        for symbol, count in b.counts.items():
            r.counts[symbol] = r.counts.get(symbol, 0) + count
        for j, sketch in enumerate(b.sketches):
            r.sketches[j].merge(sketch)
            r.late_ends[j] += b.late_ends[j]
        if b.parent is not None:
            for symbol, child in b.parent.children.items():
                if child is b:
                    b.parent.children[symbol] = r
        for symbol in sorted(b.children):
            child = b.children[symbol]
            if symbol not in r.children:
                r.children[symbol] = child
                child.parent = r
            elif not self.fold(r.children[symbol], child, test):
                return False
        return True

    def _whole(self) -> Any:
        return deepcopy((self.root, self.reds))

    def _blues(self, sink: int = 0) -> list[NaiveNode]:
        blues: list[NaiveNode] = []
        for red in self.reds:
            for symbol in sorted(red.children):
                child = red.children[symbol]
                if all(child is not each for each in (*self.reds, *blues)) and child.visits >= sink:
                    blues.append(child)
        return blues

    def _apply(self, r: Name | None, b: Name, test: bool) -> bool:
        """Do a refinement, or leave everything as it was and say no."""
        if r is None:
            if test and self._best(b) is not None:
                return False
            self.reds.append(next(each for each in self._blues() if each.name == b))
            return True
        before = self.root, self.reds
        self.root, self.reds = self._whole()
        red = next(each for each in self.reds if each.name == r)
        blue = next(each for each in self._blues() if each.name == b)
        if self.fold(red, blue, test):
            return True
        self.root, self.reds = before
        return False

    def _best(self, b: Name) -> Name | None:
        blue = next(each for each in self._blues() if each.name == b)
        best, score = None, -1.0
        for red in [each.name for each in self.reds]:
            at = next(each for each in self.reds if each.name == red)
            if not self.consistent(at, blue) or (found := similarity(self.settings, at, blue)) <= score:
                continue
            before = self.root, self.reds
            if self._apply(red, b, True):
                best, score = red, found
            self.root, self.reds = before
        return best

    def _again(self, r: Name | None, b: Name) -> bool:
        """Do a refinement of the last batch if the data still speak for it, or are too many to ask."""
        visits = next(each for each in self._blues() if each.name == b).visits
        if r is not None:
            visits = min(visits, next(each for each in self.reds if each.name == r).visits)
        return self._apply(r, b, not 0 < self.settings.trusted <= visits)

    def _possible(self, r: Name | None, b: Name) -> bool:
        reds = {each.name for each in self.reds}
        return b in {each.name for each in self._blues()} and (r is None or r in reds)

    def close(self) -> tuple[float, int, int, bool]:
        """Learn the waiting strings as one batch; perplexity before, states, nodes, and whether anything changed."""
        bits, steps = 0.0, 0
        for string in self.batch:
            self.known = max([self.known, *(int(symbol) + 1 for symbol in string)])
            cost = self._cost(string)
            bits, steps = bits + cost, steps + len(string) + 1
        for string in self.batch:
            self.add(string)
        self.batch = []
        old = self._shape()
        kept = None if self.settings.strategy == "old" else self._whole()
        self._refine()
        self.batches += 1
        if kept is None:
            self.nodes = self._reached()
        else:
            self.root, self.reds = kept
            self.nodes = sorted(self._reached(), key=lambda node: self._order(node.name))
            if self.refused or 2 * len(self.nodes) > self.settings.nodes:
                self._prune()
        return 2 ** (bits / steps), sum(row[4] for row in self.table), len(self.nodes), old != self._shape()

    def _order(self, name: Name) -> int:
        return next(at for at, node in enumerate(self.nodes) if node.name == name)

    def _reached(self) -> list[NaiveNode]:
        found = [self.root]
        for node in found:
            for child in node.children.values():
                found += [] if any(child is each for each in found) else [child]
        return found

    def _refine(self) -> None:
        done: list[tuple[Name | None, Name]] = []
        waiting = []
        for ref in self.refinements:
            if not self._possible(*ref):
                waiting.append(ref)
            elif self._again(*ref):
                done.append(ref)
        while blues := self._blues(self.settings.sink):
            blue = max(blues, key=lambda node: node.visits).name
            best = self._best(blue)
            self._apply(best, blue, False)
            done.append((best, blue))
            again = True
            while again:
                again = False
                for ref in list(waiting):
                    if self._possible(*ref):
                        waiting.remove(ref)
                        if self._again(*ref):
                            done.append(ref)
                            again = True
        self.refinements = done if self.settings.strategy == "new" else []
        self._emit()
        self.growing = {node.name for node in (*self.reds, *self._blues())}

    def _emit(self) -> None:
        order = [self.root]
        self.table = []
        for node in order:
            row = {}
            for symbol in sorted(node.children):
                child = node.children[symbol]
                known = [at for at, each in enumerate(order) if each is child]
                row[symbol] = known[0] if known else len(order)
                order += [] if known else [child]
            red = any(node is each for each in self.reds)
            self.table.append((row, dict(node.counts), node.visits, node.ends, red))

    def _prune(self) -> None:
        reach = dict.fromkeys(self.growing, 1)
        for r, b in self.refinements:
            reach[b] = 2 if r is None else 1
        reach[()] = 2
        names = [node.name for node in self.nodes]
        for name in names:
            if name:
                reach[name] = max(reach.get(name, -1), reach.get(name[:-1], -1) - 1)
        kept = {name[:n] for name in names if reach[name] >= 0 for n in range(len(name) + 1)}
        self.nodes = [node for node in self.nodes if node.name in kept]
        for node in self.nodes:
            node.children = {a: child for a, child in node.children.items() if child.name in kept}

    def _shape(self) -> list[dict[int, int]]:
        reds = [at for at, row in enumerate(self.table) if row[4]]
        return [{a: reds.index(q) for a, q in self.table[at][0].items() if q in reds} for at in reds]

    def _cost(self, string: Sequence[int]) -> float:
        at: int | None = 0 if self.table else None
        bits = 0.0
        correction = self.settings.correction
        for symbol in (*string, None):
            count = visits = 0
            if at is not None:
                following, counts, visits, ends, _ = self.table[at]
                count = ends if symbol is None else counts.get(symbol, 0)
                at = following.get(symbol) if symbol is not None else None
            bits -= log2((count + correction) / (visits + correction * (self.known + 1)))
        return bits

    def pdfa(self, names: Sequence[str]) -> PDFA:
        """The hypothesis as an automaton."""
        states, correction = len(self.table), self.settings.correction
        following = np.full((states, self.known), -1, np.int64)
        probabilities = np.zeros((states, self.known + 1))
        for at, (row, counts, visits, ends, _) in enumerate(self.table):
            for symbol in range(self.known):
                following[at, symbol] = row.get(symbol, -1)
                probabilities[at, symbol] = counts.get(symbol, 0) + correction
            probabilities[at, -1] = ends + correction
            probabilities[at] /= visits + correction * (self.known + 1)
        visited = np.array([row[2] for row in self.table])
        red = np.array([row[4] for row in self.table])
        return PDFA(following, probabilities, names[: self.known], visited, red)
