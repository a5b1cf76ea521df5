"""PDFA: a deterministic automaton over strings with probabilities, as it was learned or as it was written down."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unending.core.errors import InputError
from unending.core.random import philox
from unending.systems.learning.pdfa_streams.drawing import dot
from unending.systems.learning.pdfa_streams.strategies import Hypothesis

if TYPE_CHECKING:
    from aalpy.automata import MarkovChain
    from networkx import MultiDiGraph

__all__ = ["PDFA", "perplexity"]


def perplexity(target: np.ndarray, model: np.ndarray) -> float:
    """PAutomaC's score of a model: 2 ** -sum(P_T(x) log2 P_C(x)) over the strings x of a test set.

    Parameters
    ----------
    target, model
        probabilities of the same strings, float `[n]`; each is normalised to sum 1 first. The smallest possible value
        is reached where both are equal.

    Raises
    ------
    InputError
        if lengths differ, a value is negative, a sum is 0, or the model gives 0 to a string that the target has.
    """
    p, q = np.asarray(target, np.float64), np.asarray(model, np.float64)
    if p.shape != q.shape or p.ndim != 1 or not len(p):
        raise InputError(f"perplexity compares two equally long lists, got shapes {p.shape} and {q.shape}")
    if p.min() < 0 or q.min() < 0 or not p.sum() > 0 or not q.sum() > 0:
        raise InputError("probabilities must not be negative nor all 0")
    p, q = p / p.sum(), q / q.sum()
    if (q[p > 0] == 0).any():
        raise InputError(
            "the model gives probability 0 to a string of the target: smooth it (correction > 0)"
        )
    return float(2 ** -(p[p > 0] * np.log2(q[p > 0])).sum())


class PDFA:
    """Probabilistic deterministic finite automaton; state 0 is initial.

    P(s1..sn) is the product of the probabilities of its symbols, each in the state reached, and of ending in the last.
    Where there is no transition, a sink follows in which every symbol and the end are equally likely.

    Parameters
    ----------
    following
        int `[S, A]`: next state, -1 for the sink.
    probabilities
        float64 `[S, A + 1]`: of each symbol, then of the end; rows sum to 1.
    symbols
        the A symbols, in the order of the columns.
    visits
        int64 `[S]`: how often each state was seen; empty if not known.
    red
        bool `[S]`: states that were established; all if not given. The others were too rare to be merged.

    Raises
    ------
    InputError
        if shapes do not fit or a row does not sum to 1.
    """

    def __init__(
        self,
        following: np.ndarray,
        probabilities: np.ndarray,
        symbols: Sequence[Hashable],
        visits: np.ndarray | None = None,
        red: np.ndarray | None = None,
    ) -> None:
        self.following = np.asarray(following, np.int64)
        self.probabilities = np.asarray(probabilities, np.float64)
        self.symbols = tuple(symbols)
        states = len(self.following)
        if self.following.shape != (states, len(self.symbols)) or not states:
            raise InputError(f"{len(self.symbols)} symbols, but transitions of shape {self.following.shape}")
        if self.probabilities.shape != (states, len(self.symbols) + 1):
            raise InputError(
                f"probabilities have shape {self.probabilities.shape}, not states x (symbols + end)"
            )
        if not np.allclose(self.probabilities.sum(axis=1), 1) or self.probabilities.min() < 0:
            raise InputError("the probabilities of a state must not be negative and sum to 1")
        self.visits = np.zeros(states, np.int64) if visits is None else np.asarray(visits, np.int64)
        self.red = np.ones(states, np.bool_) if red is None else np.asarray(red, np.bool_)
        self._ids = {symbol: at for at, symbol in enumerate(self.symbols)}

    @classmethod
    def of(cls, hypothesis: Hypothesis, symbols: Sequence[Hashable], correction: float = 1.0) -> "PDFA":
        """The automaton that a learner holds: P(a | q) = (count + correction) / (visits + correction (A + 1)).

        Raises
        ------
        InputError
            if no batch has been learned yet.
        """
        states, known = hypothesis.meta.tolist()
        if not states:
            raise InputError("there is no automaton before the first batch of strings is learned")
        data = hypothesis.data[:states, : 2 + known].astype(np.float64)
        counted = np.concatenate([data[:, 2:], data[:, 1:2]], axis=1) + correction
        return cls(
            hypothesis.following[:states, :known].copy(),
            counted / (data[:, :1] + correction * (known + 1)),
            symbols[:known],
            hypothesis.data[:states, 0].copy(),
            hypothesis.red[:states] > 0,
        )

    @property
    def n_states(self) -> int:
        """Established states."""
        return int(self.red.sum())

    def _id(self, symbol: Hashable) -> int:
        if symbol not in self._ids:
            raise InputError(f"symbol {symbol!r} is not one of the {len(self.symbols)} of this automaton")
        return self._ids[symbol]

    def state_after(self, prefix: Sequence[Hashable]) -> int:
        """The state that a prefix leads to, -1 for the sink."""
        state = 0
        for symbol in prefix:
            at = self._id(symbol)
            state = int(self.following[state, at]) if state >= 0 else -1
        return state

    def predict_proba_next(self, prefix: Sequence[Hashable] = ()) -> np.ndarray:
        """Probabilities of each symbol, and last of the end, after a prefix: float64 `[A + 1]`, sum 1.

        Raises
        ------
        InputError
            if the prefix holds a symbol that the automaton does not know.
        """
        state = self.state_after(prefix)
        return (
            self.probabilities[state].copy() if state >= 0 else np.full(len(self.symbols) + 1, self._uniform)
        )

    @property
    def _uniform(self) -> float:
        return 1 / (len(self.symbols) + 1)

    def logprob(self, string: Sequence[Hashable]) -> float:
        """Natural logarithm of the probability of a whole string.

        Raises
        ------
        InputError
            if the string holds a symbol that the automaton does not know.
        """
        state, total, steps = 0, 0.0, [self._id(symbol) for symbol in string]
        with np.errstate(divide="ignore"):
            for at in (*steps, -1):
                total += float(np.log(self.probabilities[state, at] if state >= 0 else self._uniform))
                if at >= 0:
                    state = int(self.following[state, at]) if state >= 0 else -1
        return total

    def perplexity(self, strings: Sequence[Sequence[Hashable]], target: np.ndarray) -> float:
        """PAutomaC's perplexity on test strings with known probabilities `[n]`; see `perplexity`."""
        return perplexity(target, np.exp([self.logprob(string) for string in strings]))

    def sample(self, n: int = 1, seed: int = 0, max_length: int = 10_000) -> list[list[Any]]:
        """`n` strings; one that does not end within `max_length` symbols is cut there."""
        drawn: list[list[Any]] = []
        cumulated = self.probabilities.cumsum(axis=1)
        symbols = len(self.symbols)
        for each in range(n):
            rng = philox(seed, each)
            state = 0
            string: list[Any] = []
            while len(string) < max_length:
                u = rng.random()
                at = (
                    int(np.searchsorted(cumulated[state], u, "right"))
                    if state >= 0
                    else int(u * (symbols + 1))
                )
                if at >= symbols:
                    break
                string.append(self.symbols[at])
                state = int(self.following[state, at]) if state >= 0 else -1
            drawn.append(string)
        return drawn

    def transitions(self) -> list[tuple[int, Hashable, int, float]]:
        """(state, symbol, next state, probability) of every transition there is."""
        return [
            (int(q), self.symbols[a], int(self.following[q, a]), float(self.probabilities[q, a]))
            for q, a in np.argwhere(self.following >= 0)
        ]

    def to_dot(self, min_probability: float = 0.0, title: str = "pdfa") -> str:
        """Graphviz text of the established states; see `drawing.dot`."""
        return dot(self, min_probability, title)

    def to_networkx(self) -> "MultiDiGraph":
        """A `networkx.MultiDiGraph`: nodes with `end`, `visits`, `red`; edges with `symbol`, `probability`."""
        import networkx

        graph = networkx.MultiDiGraph(initial=0)
        for state in range(len(self.following)):
            graph.add_node(
                state,
                end=float(self.probabilities[state, -1]),
                visits=int(self.visits[state]),
                red=bool(self.red[state]),
            )
        for source, symbol, target, probability in self.transitions():
            graph.add_edge(source, target, symbol=symbol, probability=probability)
        return graph

    def to_aalpy(self) -> "MarkovChain":
        """An `aalpy` `MarkovChain` that emits symbols: states are (state, symbol read); "" starts and "$" ends it."""
        from aalpy.automata import MarkovChain, McState

        states: dict[tuple[int, Hashable], Any] = {}
        queue: list[tuple[int, Hashable]] = [(0, "")]

        def state_of(key: tuple[int, Hashable]) -> Any:
            if key not in states:
                states[key] = McState(f"q{len(states)}", output=key[1])
                if key[0] >= 0:
                    queue.append(key)
            return states[key]

        first, at = state_of((0, "")), 0
        while at < len(queue):
            here = queue[at]
            at += 1
            row, nexts = self.probabilities[here[0]], self.following[here[0]]
            reached = [((int(nexts[a]), symbol), float(row[a])) for a, symbol in enumerate(self.symbols)]
            for key, probability in [*reached, ((-1, "$"), float(row[-1]))]:
                if probability > 0:
                    states[here].transitions.append((state_of(key), probability))
        return MarkovChain(first, list(states.values()))
