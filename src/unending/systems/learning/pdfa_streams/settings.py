"""What a learner is told beforehand; checked here, in one place, for the estimator and for the operator."""

from dataclasses import dataclass
from math import inf, log, sqrt

from unending.core.errors import InputError

__all__ = ["Settings"]

STRATEGIES = ("new", "old")
HEURISTICS = ("css", "alergia")
FUTURES = ("minhash", "conditional", "independent")
CODES = 512
"""Codes that are told apart in tests where a table has several rows; see `merging`."""


@dataclass(frozen=True)
class Settings:
    """Settings of streaming state merging.

    Parameters
    ----------
    alphabet
        capacity in symbols, 1 to 2000.
    nodes
        capacity of the prefix tree in nodes. A child that finds no room is not created (counted); after the batch the
        nodes more than two layers below a red state are given back.
    batch_size
        strings of a batch; 0 is all strings in one batch (batch mode).
    strategy
        "new": merges are undone after each batch, replayed and tested anew after the next; "old": greedy, for ever.
    heuristic
        "css": sketches of the next `future_steps` symbols; "alergia": exact counts of the next symbol.
    delta
        significance of one comparison, 0 to 1 (both exclusive): the smaller it is, the more is merged.
    min_state
        states of at most so many visits are consistent with all.
    symbol_count
        "alergia": symbols seen less often than this in both states are compared as one; 0 compares each.
    sink
        states with fewer visits are not yet merged or promoted.
    trusted
        visits of both states from which a replayed merge or promotion is not tested again (the paper's faster
        variant); 0 tests always.
    future_steps
        k, tables a node.
    sketch
        (rows, cells) of a table.
    futures
        codes of the next j symbols: "conditional" (all j in order), "independent" (the j-th alone), "minhash" (their
        set; shipped upstream, but a symbol that came before hides one that differs later).
    minhash
        permutations of MinHash.
    parent_size
        a node needs more visits than this before it gets children.
    compare_ends
        test where strings end, too.
    max_length
        symbols of the longest string.
    correction
        added to each count where probabilities are estimated (Laplace).

    Raises
    ------
    InputError
        if a value is outside what is accepted.
    """

    alphabet: int = 64
    nodes: int = 4096
    batch_size: int = 500
    strategy: str = "new"
    heuristic: str = "css"
    delta: float = 0.01
    min_state: int = 10
    symbol_count: int = 4
    sink: int = 25
    trusted: int = 0
    future_steps: int = 5
    sketch: tuple[int, int] = (1, 20)
    futures: str = "conditional"
    minhash: int = 2
    parent_size: int = 0
    compare_ends: bool = True
    max_length: int = 1024
    correction: float = 1.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("strategy", self.strategy, STRATEGIES),
            ("heuristic", self.heuristic, HEURISTICS),
            ("futures", self.futures, FUTURES),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}, accepted are {', '.join(known)}")
        least = {"alphabet": 1, "nodes": 2, "future_steps": 1, "minhash": 1, "max_length": 1}
        least |= dict.fromkeys(
            ("batch_size", "min_state", "symbol_count", "sink", "trusted", "parent_size"), 0
        )
        for name, low in least.items():
            if not low <= getattr(self, name) < 2**31:
                raise InputError(f"{name} is {getattr(self, name)}, accepted is {low} upwards, below 2^31")
        if len(self.sketch) != 2 or min(self.sketch) < 1:
            raise InputError(f"sketch is {self.sketch}, accepted are (rows, cells), each 1 upwards")
        if not 0 < self.delta < 1:
            raise InputError(f"delta is {self.delta}, accepted is a number between 0 and 1")
        if not 0 < self.correction < inf:
            raise InputError(f"correction is {self.correction}, accepted is a positive number")
        if self.alphabet > 2000:
            raise InputError(f"alphabet is {self.alphabet}, accepted is up to 2000")
        digits = {"independent": 1, "conditional": self.future_steps, "minhash": self.minhash}[self.futures]
        if self.tables and digits * log(self.alphabet + 1, 2) >= 62:
            raise InputError(
                f"codes of {digits} symbols out of {self.alphabet} do not fit in 62 bits: take fewer of either"
            )

    @property
    def tables(self) -> int:
        """Tables a node: none under ALERGIA."""
        return self.future_steps if self.heuristic == "css" else 0

    @property
    def codes(self) -> int:
        """Codes that are told apart in tests."""
        return CODES if self.heuristic == "css" and self.sketch[0] > 1 else 0

    @property
    def mode(self) -> int:
        """Number of the futures' code, as the compiled functions take it."""
        return ("independent", "conditional", "minhash").index(self.futures)

    @property
    def coefficient(self) -> float:
        """Of the Hoeffding bound: sqrt(ln(2 / delta) / 2)."""
        return sqrt(0.5 * log(2 / self.delta))
