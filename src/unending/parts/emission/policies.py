"""Read/write policies: from what was read and written, whether the next move is a write."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from unending.core.errors import InputError

__all__ = ["Policy", "Progress", "SentenceBoundary", "UserPolicy", "WaitK"]


@dataclass(frozen=True)
class Progress:
    """How far a passage has got. Nothing in it depends on how fast the source arrives."""

    read: int
    """Source words that were read."""
    written: int
    """Target words that were written."""
    sentences_read: int = 0
    """Source words among them that end a sentence."""
    sentences_written: int = 0
    """Target words among them that end a sentence."""


class Policy(Protocol):
    """Decides after each move what the next one is.

    It is asked in a fixed order, one word at a time, whether or not more of the source has arrived. When the source
    has ended and all of it is read, writing goes on without asking.
    """

    def write(self, progress: Progress) -> bool:
        """Whether to write a word now; else another one is read first."""


@dataclass(frozen=True)
class WaitK:
    """Stay `k` words behind: read `k`, then write one and read one by turns (Ma et al. 2019, arXiv 1810.08398).

    Raises
    ------
    InputError
        if `k` is less than 1.
    """

    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"k is {self.k}, accepted is 1 or more words")

    def write(self, progress: Progress) -> bool:
        """Whether the target is `k` words behind the source."""
        return progress.read - progress.written >= self.k


@dataclass(frozen=True)
class SentenceBoundary:
    """Read a sentence to its end, then write until as many sentences are written."""

    def write(self, progress: Progress) -> bool:
        """Whether a whole sentence was read that is not written yet."""
        return progress.sentences_written < progress.sentences_read


@dataclass(frozen=True)
class UserPolicy:
    """A function of the progress as a policy; it must give the same answer each time it is asked the same."""

    decide: Callable[[Progress], bool]

    def write(self, progress: Progress) -> bool:
        """What the function says."""
        return self.decide(progress)
