"""MinHash: a set of ids by the smallest of its members under random permutations."""

from collections.abc import Iterable

import numpy as np

from unending.core.errors import InputError
from unending.core.random import philox

__all__ = ["MinHash", "permutations"]

_SUBSTREAM = 0x6D6E68  # keeps these draws apart from others of the same seed


def permutations(seed: int, count: int, size: int) -> np.ndarray:
    """`count` (at least 1) random permutations of the ids 0 to `size - 1`, int32 `[count, size]`."""
    rows = [philox(seed, each, _SUBSTREAM).permutation(size) for each in range(count)]
    return np.stack(rows).astype(np.int32)


class MinHash:
    """Signatures of sets (Broder 1997): the share of equal entries estimates the Jaccard similarity.

    Parameters
    ----------
    count
        permutations, the length of a signature.
    size
        the ids are 0 to `size - 1`.
    seed
        of the permutations.

    Raises
    ------
    InputError
        if a size is below 1, at an empty set, and at ids outside the range.
    """

    def __init__(self, count: int = 2, size: int = 256, seed: int = 0) -> None:
        if count < 1 or size < 1:
            raise InputError(f"MinHash needs at least 1 permutation of at least 1 id, got {count} of {size}")
        self._permutations = permutations(seed, count, size)

    def signature(self, ids: Iterable[int]) -> np.ndarray:
        """The smallest permuted id under each permutation, int32 `[count]`."""
        members = np.asarray(list(ids), np.int64)
        size = self._permutations.shape[1]
        if not len(members) or members.min() < 0 or members.max() >= size:
            raise InputError(f"a signature is made of at least one id, all from 0 to {size - 1}")
        return self._permutations[:, members].min(axis=1)

    @staticmethod
    def similarity(one: np.ndarray, two: np.ndarray) -> float:
        """Estimated Jaccard similarity of the sets behind two signatures, 0 to 1."""
        return float((one == two).mean())
