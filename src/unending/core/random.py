"""Counter-based randomness: a draw depends on a seed and a stream position, on nothing else."""

import numpy as np

__all__ = ["philox"]


def philox(seed: int, position: int, substream: int = 0) -> np.random.Generator:
    """A generator for one stream position (Philox4x64, Salmon et al. 2011).

    Parameters
    ----------
    seed : int
        the session's seed, any 64-bit value.
    position : int
        the stream position; draws of one position are independent of those of another.
    substream : int
        separates several uses of randomness at one position.
    """
    mask = (1 << 64) - 1
    # The lowest counter word is left to the generator itself, which counts its own draws in it.
    counter = ((position & mask) << 64) | ((substream & mask) << 128)
    return np.random.Generator(np.random.Philox(key=seed & mask, counter=counter))
