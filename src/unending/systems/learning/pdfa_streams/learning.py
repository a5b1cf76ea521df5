"""The learner's explicit state, and the functions on it that both faces (estimator, operator) stand on."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from unending.core import state
from unending.core.errors import CapacityError, InputError
from unending.systems.learning.pdfa_streams.merging import rule_of
from unending.systems.learning.pdfa_streams.settings import Settings
from unending.systems.learning.pdfa_streams.strategies import (
    Hypothesis,
    empty_hypothesis,
    refine,
    score_strings,
)
from unending.systems.learning.pdfa_streams.tree import BATCHES, NODES, Tree, add_strings, empty_tree

__all__ = ["Learned", "Learning", "begin", "close_batch", "learn", "refused_without_room", "state_bytes"]

HELD = 4096
"""Symbols that wait until they are counted into the tree together (at least `max_length`): it saves copies."""


@state
class Learning:
    """All that a learner carries."""

    tree: Tree
    hypothesis: Hypothesis
    held: np.ndarray
    """int32 `[max(4096, max_length)]`: symbols of strings that are not yet in the tree, the first `symbols`."""
    starts: np.ndarray
    """int64 `[512]`: where these strings start."""
    symbols: int
    strings: int
    """Strings that are held."""
    batch: int
    """Strings of the unfinished batch, the held ones among them."""
    known: int
    """Symbols known: largest id counted so far, plus 1."""
    spent: np.ndarray
    """float64 `[2]`: bits and steps of the batch under the hypothesis before it."""
    seen: int
    """Strings learned from since the start."""


@dataclass(frozen=True)
class Learned:
    """What a batch gave.

    Parameters
    ----------
    strings
        learned from so far, this batch included.
    perplexity
        of its steps (symbols and ends) under the hypothesis before the batch: 2 to the mean bits.
    states, nodes
        red states of the new hypothesis; nodes of the tree that is kept.
    changed
        whether states or transitions between red states differ from the hypothesis before.
    hypothesis
        a copy of the new one, of as many rows as it has states.
    """

    strings: int
    perplexity: float
    states: int
    nodes: int
    changed: bool
    hypothesis: Hypothesis


@contextmanager
def refused_without_room(size: int) -> Iterator[None]:
    """Turn a `MemoryError` at the making of a state of `size` bytes into an `InputError`."""
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"there is no memory for a state of {size:,} bytes: take fewer nodes, or a smaller alphabet or sketch"
        ) from error


def begin(settings: Settings, seed: int = 0) -> Learning:
    """Nothing seen yet; an `InputError` if the state does not fit in memory."""
    with refused_without_room(state_bytes(settings)):
        return Learning(
            empty_tree(settings, seed),
            empty_hypothesis(settings),
            np.zeros(max(HELD, settings.max_length), np.int32),
            np.zeros(512, np.int64),
            0,
            0,
            0,
            0,
            np.zeros(2),
            0,
        )


def state_bytes(settings: Settings) -> int:
    """Bytes of `Learning`; they do not change along the stream."""
    n, a, m = settings.nodes, settings.alphabet, settings.minhash
    k, (d, w) = settings.tables, settings.sketch
    tree = n * (4 * (4 + a) + 8 * (2 + a + k * (2 + d * w)) + 8)
    tree += 8 * k * settings.codes + 8 * d + 4 * m * a + 64
    hypothesis = n * (4 * a + 8 * (2 + a) + 4) + 16
    return tree + hypothesis + 4 * max(HELD, settings.max_length) + 8 * 512 + 16 + 5 * 8


def learn(
    learning: Learning, settings: Settings, strings: Iterable[Sequence[int]], *, own: bool = False
) -> tuple[Learning, list[Learned]]:
    """Take strings of symbol ids into the learner; full batches are closed.

    Parameters
    ----------
    learning, settings
        the state, which stays as it is unless `own`, and what it was begun with.
    strings
        each a sequence of ids below `alphabet`, at most `max_length` long; an empty one is a string too.
    own
        work in the memory of the given state, which must not be used again.

    Raises
    ------
    InputError
        if an id is outside the alphabet; the given state is unharmed.
    CapacityError
        if a string is too long; the given state is unharmed.
    """
    given = [_checked(string, settings) for string in strings]
    work = _Work(learning, settings, own)
    for string in given:
        work.push(string)
    return work.done()


def close_batch(
    learning: Learning, settings: Settings, *, own: bool = False
) -> tuple[Learning, list[Learned]]:
    """End the unfinished batch, if it holds a string; parameters as in `learn`."""
    work = _Work(learning, settings, own)
    work.close()
    return work.done()


def _checked(string: Sequence[int], settings: Settings) -> np.ndarray:
    ids = np.asarray(string, np.int64)
    if len(ids) > settings.max_length:
        raise CapacityError(
            f"a string of {len(ids)} symbols is longer than max_length, {settings.max_length}"
        )
    if len(ids) and not (ids.min() >= 0 and ids.max() < settings.alphabet):
        bad = int(ids.min() if ids.min() < 0 else ids.max())
        raise InputError(f"symbol {bad} is outside the accepted 0 to {settings.alphabet - 1}")
    return ids.astype(np.int32)


class _Work:
    """One call's work on a state: small arrays are copied at once, tree and hypothesis when they change."""

    def __init__(self, learning: Learning, settings: Settings, own: bool) -> None:
        self.settings, self.own = settings, own
        self.tree, self.hypothesis = learning.tree, learning.hypothesis
        self.held, self.starts, self.spent = (
            each if own else each.copy() for each in (learning.held, learning.starts, learning.spent)
        )
        self.symbols, self.strings, self.batch = learning.symbols, learning.strings, learning.batch
        self.known, self.seen = learning.known, learning.seen
        self.reports: list[Learned] = []

    def push(self, string: np.ndarray) -> None:
        if self.strings == len(self.starts) or self.symbols + len(string) > len(self.held):
            self._count()
        self.held[self.symbols : self.symbols + len(string)] = string
        self.starts[self.strings] = self.symbols
        self.symbols += len(string)
        self.strings += 1
        self.batch += 1
        self.seen += 1
        if self.batch == self.settings.batch_size:
            self.close()

    def _take(self) -> None:
        if not self.own:
            self.tree = Tree(*(each.copy() for each in self.tree))
            self.hypothesis = Hypothesis(*(each.copy() for each in self.hypothesis))
            self.own = True

    def _count(self) -> None:
        """Score what is held under the hypothesis, then count it into the tree."""
        self._take()
        settings, held = self.settings, self.held[: self.symbols]
        starts = np.append(self.starts[: self.strings], self.symbols)
        bits, steps, self.known = score_strings(
            self.hypothesis, held, starts, self.known, settings.correction
        )
        self.spent += (bits, steps)
        first = bool(self.tree.meta[BATCHES] == 0)
        add_strings(self.tree, held, starts, settings.mode, first, settings.parent_size)
        self.held[:], self.starts[:] = 0, 0
        self.symbols = self.strings = 0

    def close(self) -> None:
        if not self.batch:
            return
        self._count()
        before = self.hypothesis.following.copy(), self.hypothesis.red.copy()
        settings = self.settings
        refine(
            self.tree,
            self.hypothesis,
            rule_of(settings),
            settings.batch_size > 0,
            settings.strategy == "old",
        )
        self.hypothesis.meta[1] = self.known
        states = int(self.hypothesis.meta[0])
        new = self.hypothesis
        copied = Hypothesis(
            new.following[:states].copy(), new.data[:states].copy(), new.red[:states].copy(), new.meta.copy()
        )
        self.reports.append(
            Learned(
                self.seen,
                float(2 ** (self.spent[0] / self.spent[1])),
                int(self.hypothesis.red.sum()),
                int(self.tree.meta[NODES]),
                _red_part(*before) != _red_part(self.hypothesis.following, self.hypothesis.red),
                copied,
            )
        )
        self.spent[:] = 0
        self.batch = 0

    def done(self) -> tuple[Learning, list[Learned]]:
        learning = Learning(
            self.tree,
            self.hypothesis,
            self.held,
            self.starts,
            self.symbols,
            self.strings,
            self.batch,
            self.known,
            self.spent,
            self.seen,
        )
        return learning, self.reports


def _red_part(following: np.ndarray, red: np.ndarray) -> bytes:
    """The transitions between red states: equal for equal automata (states are in breadth-first order)."""
    states = np.flatnonzero(red)
    part = following[states]
    kept = np.where((part >= 0) & (red[part] > 0), part, -1)
    numbering = np.full(len(red) + 1, -1, np.int32)
    numbering[states] = np.arange(len(states))
    return numbering[kept].tobytes()
