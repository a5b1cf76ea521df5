"""A transcript: what was read and what was said to it, cut into segments."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unending.core.errors import InputError

__all__ = ["Transcript"]


@dataclass(frozen=True, eq=False)
class Transcript:
    """Token ids of the segments of a source and of a target, each int64 `[n]`.

    Source segment 0 is the prompt, the others are units of what arrives (words, sentences); target segment 0 is the
    header of the answer. A segment may be empty, the source and the target may not.
    """

    source: tuple[np.ndarray, ...]
    target: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            held = tuple(np.asarray(each, dtype=np.int64).reshape(-1) for each in getattr(self, name))
            if not sum(map(len, held)):
                raise InputError(f"the {name} of a transcript has no token")
            object.__setattr__(self, name, held)

    @property
    def source_lengths(self) -> np.ndarray:
        """Tokens of each source segment, int64."""
        return _lengths(self.source)

    @property
    def target_lengths(self) -> np.ndarray:
        """Tokens of each target segment, int64."""
        return _lengths(self.target)

    @property
    def source_ids(self) -> np.ndarray:
        """int64 `[|S|]`."""
        return np.concatenate(self.source)

    @property
    def target_ids(self) -> np.ndarray:
        """int64 `[|T|]`."""
        return np.concatenate(self.target)

    @property
    def ids(self) -> np.ndarray:
        """int64 `[|S| + |T|]`: the source, then the target."""
        return np.concatenate([*self.source, *self.target])


def _lengths(segments: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(each) for each in segments], dtype=np.int64)
