"""Set disjointness: two lists that share one element, which is the answer."""

from dataclasses import dataclass

import numpy as np

from unending.core.random import philox

__all__ = ["SetDisjointness"]

PREFIX, SECOND, ANSWER, SPECIAL = 1, 2, 3, 4
"""Ids of the marks before the first list, before the second, and before the answer; 0 is a mask; lists begin at 4."""


@dataclass(frozen=True)
class SetDisjointness:
    """Rows `[1] A [2] B [3]` whose answer is the one element that A and B share.

    A and B come without replacement from two disjoint halves of a fresh permutation of the vocabulary; then a random
    element of A takes a random place in B. A one-pass reader must keep the first list, whatever its size; one that
    has seen both, or reads twice, needs room for the smaller one only. Arora et al. 2024, arXiv 2407.05483.

    Attributes
    ----------
    first, second : int
        sizes of A and B.
    vocabulary : int
        token ids, 4 special ones among them.
    repeats : int
        how often the two lists are said, each time in full: 2 is JRT-Prompt, `[1] A [2] B [1] A [2] B [3]`.
    """

    first: int
    second: int
    vocabulary: int = 2048
    repeats: int = 1

    def __post_init__(self) -> None:
        most = (self.vocabulary - SPECIAL) // 2
        if not (1 <= self.first <= most and 1 <= self.second <= most) or self.repeats < 1:
            raise ValueError(
                f"lists of {self.first} and {self.second} said {self.repeats} times; a vocabulary of"
                f" {self.vocabulary} has room for 1 to {most} elements, and they are said once or more"
            )

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.repeats * (self.first + self.second + 2) + 1

    def rows(self, seed: int, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 `[count, length]` and answers int64 `[count]`, drawn by (seed, step)."""
        draw = philox(seed, step, 3)
        half = (self.vocabulary - SPECIAL) // 2
        shuffled = SPECIAL + draw.permuted(np.tile(np.arange(2 * half), (count, 1)), axis=1)
        a, b = shuffled[:, : self.first], shuffled[:, half : half + self.second].copy()
        every = np.arange(count)
        answers = a[every, draw.integers(self.first, size=count)]
        b[every, draw.integers(self.second, size=count)] = answers
        mark = np.ones((count, 1), np.int64)
        once = np.concatenate([PREFIX * mark, a, SECOND * mark, b], axis=1)
        return np.concatenate([np.tile(once, (1, self.repeats)), ANSWER * mark], axis=1), answers
