"""Probabilistic automata that need not be deterministic: PAutomaC's models, and random ones by its recipe."""

from collections.abc import Sequence

import numpy as np

from unending.core.errors import InputError
from unending.core.random import philox
from unending.systems.learning.pdfa_streams.model import PDFA

__all__ = ["PFA", "random_pdfa", "random_pfa"]

_TRIES = 100


class PFA:
    """Probabilistic finite automaton: P(s1..sn) = sum over paths of I(q0) prod (1 - F(q)) S(q,s) T(q,s,q') F(qn).

    Parameters
    ----------
    initial
        float64 `[S]`: I, sums to 1.
    final
        float64 `[S]`: F, the probability to stop in a state.
    symbols
        float64 `[S, A]`: S, of a symbol if the string goes on; rows sum to 1 where F is below 1.
    transitions
        float64 `[S, A, S]`: T, of the next state; sums to 1 where S is above 0.

    Raises
    ------
    InputError
        if shapes do not fit or something does not sum to 1.
    """

    def __init__(
        self, initial: np.ndarray, final: np.ndarray, symbols: np.ndarray, transitions: np.ndarray
    ) -> None:
        self.initial, self.final = np.asarray(initial, np.float64), np.asarray(final, np.float64)
        self.symbols, self.transitions = np.asarray(symbols, np.float64), np.asarray(transitions, np.float64)
        states, alphabet = self.symbols.shape
        shapes = (self.initial.shape, self.final.shape, self.transitions.shape)
        if shapes != ((states,), (states,), (states, alphabet, states)):
            raise InputError(f"{states} states and {alphabet} symbols, but I, F and T have shapes {shapes}")
        on = self.final < 1
        used = (self.symbols > 0) & on[:, None]
        sums = (self.initial.sum(), self.symbols[on].sum(axis=1), self.transitions.sum(axis=2)[used])
        if not all(np.allclose(each, 1, atol=1e-4) for each in sums):
            raise InputError("I, the symbols of a state and the transitions of a symbol must each sum to 1")

    def step_matrices(self) -> np.ndarray:
        """Probability to emit a symbol in a state and go to another, float64 `[A, S, S]`."""
        emitted = (1 - self.final)[:, None] * self.symbols
        return np.moveaxis(emitted[:, :, None] * self.transitions, 1, 0)

    def probabilities(self, strings: Sequence[Sequence[int]]) -> np.ndarray:
        """Probability of each string of symbol ids, float64 `[n]` (forward algorithm)."""
        steps = self.step_matrices()
        found = []
        for string in strings:
            forward = self.initial
            for symbol in string:
                forward = forward @ steps[symbol]
            found.append(float(forward @ self.final))
        return np.array(found)

    def sample(self, n: int, seed: int = 0, max_length: int = 10_000) -> list[list[int]]:
        """`n` strings of symbol ids; one that does not end within `max_length` symbols is drawn anew.

        Raises
        ------
        InputError
            if a hundred in a row do not end.
        """
        first, symbols, after = self.initial.cumsum(), self.symbols.cumsum(1), self.transitions.cumsum(2)
        drawn: list[list[int]] = []
        position = lost = 0

        def pick(cumulated: np.ndarray, u: float) -> int:
            # The scale keeps a row that sums to 1 - 1e-17 from running over its end.
            return min(int(np.searchsorted(cumulated, u * cumulated[-1], "right")), len(cumulated) - 1)

        while len(drawn) < n:
            rng = philox(seed, position)
            position += 1
            state = pick(first, rng.random())
            string: list[int] = []
            while rng.random() >= self.final[state] and len(string) < max_length:
                symbol = pick(symbols[state], rng.random())
                string.append(symbol)
                state = pick(after[state, symbol], rng.random())
            lost += 1
            if len(string) < max_length:
                drawn.append(string)
                lost = 0
            elif lost == _TRIES:
                raise InputError(f"none of {_TRIES} strings ended within {max_length} symbols")
        return drawn

    def to_pdfa(self) -> PDFA:
        """The same as a deterministic automaton over the ids 0..A-1, of the states that can be reached.

        Raises
        ------
        InputError
            if it is not deterministic.
        """
        starts = np.flatnonzero(self.initial)
        if len(starts) > 1 or ((self.transitions > 0).sum(axis=2) > 1).any():
            raise InputError(
                "this automaton is not deterministic: a start or a symbol leads to several states"
            )
        emitted = (1 - self.final)[:, None] * self.symbols
        order, place = [int(starts[0])], {int(starts[0]): 0}
        rows = []
        for state in order:
            row = np.full(self.symbols.shape[1], -1, np.int64)
            for symbol in np.flatnonzero(emitted[state]):
                target = int(self.transitions[state, symbol].argmax())
                if target not in place:
                    place[target] = len(order)
                    order.append(target)
                row[symbol] = place[target]
            rows.append(row)
        probabilities = np.concatenate([emitted[order], self.final[order, None]], axis=1)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return PDFA(np.array(rows), probabilities, range(self.symbols.shape[1]))


def random_pfa(
    states: int = 20,
    alphabet: int = 8,
    symbol_sparsity: float = 0.4,
    transition_sparsity: float = 0.2,
    mean_length: float = 10.0,
    seed: int = 0,
    *,
    deterministic: bool = False,
) -> PFA:
    """A random automaton by the recipe of PAutomaC (Verwer, Eyraud, de la Higuera 2012).

    The share `symbol_sparsity` of all (state, symbol) pairs is possible, for each of them the share
    `transition_sparsity` of states follows (one, if deterministic), the same share of states is initial and final;
    every state has a symbol and every symbol a state. Probabilities are drawn from flat Dirichlet distributions; those
    of stopping are scaled until the mean length of a string is `mean_length`.

    Raises
    ------
    InputError
        if a size is below 1, a share is not in 0..1, or the mean length is not positive.
    """
    shares = symbol_sparsity, transition_sparsity
    if states < 1 or alphabet < 1 or not all(0 <= each <= 1 for each in shares) or not mean_length > 0:
        raise InputError(
            f"{states} states, {alphabet} symbols, shares {shares}, mean length {mean_length}: not possible"
        )
    rng = philox(seed, 0, 0x706661)
    possible = rng.random((states, alphabet)) < symbol_sparsity
    for q in range(states):
        possible[q, (q if q < alphabet else rng.integers(alphabet))] = True
    for a in range(alphabet):
        possible[rng.integers(states), a] = True
    symbols = np.where(possible, rng.standard_exponential((states, alphabet)), 0)
    symbols /= symbols.sum(axis=1, keepdims=True)
    transitions = np.zeros((states, alphabet, states))
    following = 1 if deterministic else max(1, round(transition_sparsity * states))
    # A random walk over a permutation reaches every state from the first.
    order = np.concatenate([[0], 1 + rng.permutation(states - 1)])
    linked = {int(order[i]): int(order[i + 1]) for i in range(states - 1)}
    for q, a in np.argwhere(possible):
        targets = rng.choice(states, following, replace=False)
        if q in linked:
            targets[0] = linked.pop(int(q))
            targets = np.unique(targets)
        transitions[q, a, targets] = rng.standard_exponential(len(targets))
        transitions[q, a] /= transitions[q, a].sum()
    some = 1 if deterministic else max(1, round(transition_sparsity * states))
    initial = np.zeros(states)
    starts = np.concatenate([[0], 1 + rng.permutation(states - 1)[: some - 1]]).astype(np.int64)
    initial[starts] = rng.standard_exponential(len(starts))
    initial /= initial.sum()
    final = np.zeros(states)
    ends = rng.permutation(states)[: max(1, round(max(symbol_sparsity, transition_sparsity) * states))]
    final[ends] = rng.random(len(ends))
    return PFA(initial, _stopping(final, initial, symbols, transitions, mean_length), symbols, transitions)


def _stopping(
    shape: np.ndarray, initial: np.ndarray, symbols: np.ndarray, transitions: np.ndarray, mean_length: float
) -> np.ndarray:
    """Stopping probabilities with the odds of `shape`, scaled for the mean length (by bisection)."""
    walk = np.einsum("qa,qar->qr", symbols, transitions)
    low, high = -30.0, 30.0
    final = shape
    for _ in range(80):
        middle = (low + high) / 2
        odds = shape * np.exp(middle)
        final = np.where(shape > 0, odds / (1 + odds), 1e-6)
        steps = np.linalg.solve(np.eye(len(shape)) - (1 - final)[:, None] * walk, 1 - final)
        low, high = (middle, high) if initial @ steps > mean_length else (low, middle)
    return final


def random_pdfa(
    states: int = 10,
    alphabet: int = 5,
    symbol_sparsity: float = 0.6,
    mean_length: float = 10.0,
    seed: int = 0,
    min_probability: float = 0.0,
) -> PDFA:
    """A random deterministic automaton by the same recipe; only states that can be reached count.

    With `min_probability` draws are repeated (seeds `seed`, `seed + 1000`, ...) until every transition is at least so
    probable in its state and all states can be reached.

    Raises
    ------
    InputError
        as in `random_pfa`, and if 500 draws give none that is good enough.
    """
    for attempt in range(500):
        found = random_pfa(
            states, alphabet, symbol_sparsity, 0, mean_length, seed + 1000 * attempt, deterministic=True
        ).to_pdfa()
        least = found.probabilities[:, :-1][found.following >= 0].min()
        if not min_probability or (len(found.following) == states and least >= min_probability):
            return found
    raise InputError(
        f"no automaton of {states} states with transitions of {min_probability} upwards was drawn"
    )
