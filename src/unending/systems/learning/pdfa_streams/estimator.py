"""The learner in the form of an estimator: `partial_fit`, `learn_one`, `model_`."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Self

import numpy as np

from unending.core.errors import CapacityError, InputError
from unending.systems.learning.pdfa_streams.learning import Learned, Learning, begin, close_batch, learn
from unending.systems.learning.pdfa_streams.model import PDFA
from unending.systems.learning.pdfa_streams.settings import Settings
from unending.systems.learning.pdfa_streams.strategies import Hypothesis

__all__ = ["StreamingPDFALearner", "learn_batch"]


class StreamingPDFALearner:
    """State merging on an endless stream of strings (Baumgartner, Verwer, arXiv 2604.02244).

    Strings are sequences of hashable symbols; the empty one is a string too. Each is counted once and not kept.
    However the strings are cut into calls, the outcome is the same. A call works in place: after one that Ctrl-C cut
    short, go on from a copy made before. (`PDFAStreams` in a session takes a whole push or nothing of it.)

    Parameters
    ----------
    alphabet
        the symbols, if they are known; or how many there may be at most: new ones then get a place when they come.
    batch_size
        strings between two hypotheses; 0 learns everything at `flush` (batch mode).
    delta, future_steps, sketch, minhash, min_state, sink, strategy, heuristic, futures, nodes, trusted, parent_size
        see `Settings`.
    seed
        of the hash functions and permutations.

    Attributes
    ----------
    model_
        `PDFA`: the newest hypothesis (there is none before the first batch is full or flushed).
    reports_
        list of `Learned`, one a batch of the last call.
    symbols_
        the symbols known so far.

    Raises
    ------
    InputError
        if a setting is outside what is accepted.
    """

    def __init__(
        self,
        alphabet: int | Sequence[Hashable] = 64,
        batch_size: int = 500,
        delta: float = 0.01,
        future_steps: int = 5,
        sketch: tuple[int, int] = (1, 20),
        minhash: int = 2,
        min_state: int = 10,
        sink: int = 25,
        *,
        strategy: str = "new",
        heuristic: str = "css",
        futures: str = "conditional",
        nodes: int = 4096,
        trusted: int = 0,
        parent_size: int = 0,
        symbol_count: int = 4,
        compare_ends: bool = True,
        max_length: int = 1024,
        correction: float = 1.0,
        seed: int = 0,
    ) -> None:
        size = int(alphabet) if isinstance(alphabet, int | np.integer) else None
        fixed = () if isinstance(alphabet, int | np.integer) else tuple(alphabet)
        if len(set(fixed)) != len(fixed):
            raise InputError("a symbol stands twice in the alphabet")
        self.settings = Settings(
            alphabet=len(fixed) if size is None else size,
            nodes=nodes,
            batch_size=batch_size,
            strategy=strategy,
            heuristic=heuristic,
            delta=delta,
            min_state=min_state,
            symbol_count=symbol_count,
            sink=sink,
            trusted=trusted,
            future_steps=future_steps,
            sketch=sketch,
            futures=futures,
            minhash=minhash,
            parent_size=parent_size,
            compare_ends=compare_ends,
            max_length=max_length,
            correction=correction,
        )
        self.seed = seed
        self.symbols_: list[Hashable] = list(fixed)
        self.reports_: list[Learned] = []
        self._ids: dict[Hashable, int] = {symbol: at for at, symbol in enumerate(fixed)}
        self._fixed = len(fixed)
        self.state: Learning = begin(self.settings, seed)

    def _numbers(self, strings: Iterable[Sequence[Hashable]]) -> tuple[list[list[int]], list[Hashable]]:
        """Ids of the symbols, and the symbols that are new; nothing is changed."""
        if isinstance(strings, str | bytes):
            raise InputError("strings is one string, accepted is a list of sequences of hashable symbols")
        try:
            return self._numbered(strings)
        except TypeError as error:
            raise InputError(f"strings is no list of sequences of hashable symbols: {error}") from error

    def _numbered(self, strings: Iterable[Sequence[Hashable]]) -> tuple[list[list[int]], list[Hashable]]:
        new: dict[Hashable, int] = {}
        numbered = []
        for string in strings:
            row = []
            for symbol in string:
                at = self._ids.get(symbol, new.get(symbol, -1))
                if at < 0:
                    at = len(self.symbols_) + len(new)
                    if at >= self.settings.alphabet:
                        raise CapacityError(
                            f"symbol {symbol!r} is new, and the alphabet is full ({self.settings.alphabet} symbols)"
                        )
                    new[symbol] = at
                row.append(at)
            numbered.append(row)
        return numbered, list(new)

    def partial_fit(self, strings: Iterable[Sequence[Hashable]], y: None = None) -> Self:
        """Learn from strings; a batch is closed whenever it is full, the rest waits in its batch.

        Raises
        ------
        CapacityError
            at a new symbol when the alphabet is full, or at a string longer than `max_length`. What was learned is
            kept, and nothing of this call is learned.
        InputError
            at one string where a list of them is expected, and at symbols that are not hashable; likewise.
        """
        numbered, new = self._numbers(strings)
        for row in numbered:
            if len(row) > self.settings.max_length:
                raise CapacityError(
                    f"a string of {len(row)} symbols is longer than max_length, {self.settings.max_length}"
                )
        for symbol in new:
            self._ids[symbol] = len(self.symbols_)
            self.symbols_.append(symbol)
        self.state, self.reports_ = learn(self.state, self.settings, numbered, own=True)
        return self

    def learn_one(self, string: Sequence[Hashable]) -> None:
        """Learn from one string (River's convention: nothing is returned)."""
        self.partial_fit([string])

    def flush(self) -> Self:
        """Close the unfinished batch now."""
        self.state, self.reports_ = close_batch(self.state, self.settings, own=True)
        return self

    def fit(self, strings: Iterable[Sequence[Hashable]], y: None = None) -> Self:
        """Forget everything, learn from these strings, and close the last batch."""
        fixed = self.symbols_[: self._fixed]
        self.symbols_, self._ids = list(fixed), {symbol: at for at, symbol in enumerate(fixed)}
        self.state = begin(self.settings, self.seed)
        self.partial_fit(strings)
        reports = self.reports_
        self.flush()
        self.reports_ = [*reports, *self.reports_]
        return self

    @property
    def model_(self) -> PDFA:
        """The newest hypothesis; raises `InputError` before the first."""
        symbols = self.symbols_
        hypothesis = self.state.hypothesis
        if self._fixed:
            # A known alphabet counts in full, also before each of its symbols was seen.
            hypothesis = Hypothesis(*hypothesis[:-1], hypothesis.meta.copy())
            hypothesis.meta[1] = len(symbols)
        return PDFA.of(hypothesis, symbols, self.settings.correction)

    @property
    def nodes_(self) -> int:
        """Nodes of the tree that is kept."""
        return int(self.state.tree.meta[0])


def learn_batch(strings: Iterable[Sequence[Hashable]], seed: int = 0, **settings: Any) -> PDFA:
    """Batch mode: one tree of all strings, merged once; `settings` as of `StreamingPDFALearner`.

    The tree gets as many nodes as the strings can need. Defaults differ from those of streams: `delta` 0.5,
    `future_steps` 4, `sketch` (3, 20).
    """
    rows = [list(string) for string in strings]
    symbols = sorted({symbol for row in rows for symbol in row}, key=str) or [""]
    prefixes = sum(map(len, rows)) + 2
    chosen: dict[str, Any] = {
        "alphabet": symbols,
        "batch_size": 0,
        "delta": 0.5,
        "future_steps": 4,
        "sketch": (3, 20),
        "nodes": prefixes,
        "max_length": max(1, *map(len, rows)) if rows else 1,
    }
    return StreamingPDFALearner(**(chosen | settings), seed=seed).fit(rows).model_
