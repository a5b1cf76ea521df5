"""A prefix cache as servers keep it: a radix tree over KV blocks, the least recently used of which make room."""

import numpy as np

from unending.parts.prefix.pool import PagedKVPool
from unending.parts.prefix.tree import RadixTree

__all__ = ["PrefixCache"]


class PrefixCache:
    """Blocks of prompts that were read, kept for prompts that begin alike (Zheng et al. 2023, arXiv 2312.07104).

    It finds what happens to be there still; it knows nothing of what is to come.

    Parameters
    ----------
    pool
        where the blocks are; the cache holds each of its blocks once.
    """

    def __init__(self, pool: PagedKVPool) -> None:
        self._pool = pool
        self._tree = RadixTree(pool.block_size)
        self._kept = np.zeros(pool.total, dtype=bool)

    @property
    def idle(self) -> int:
        """Blocks that nobody but the cache holds; all of them can be evicted."""
        return int(np.count_nonzero(self._pool.references(np.flatnonzero(self._kept)) == 1))

    def match(self, ids: np.ndarray) -> np.ndarray:
        """Blocks of the longest known prefix of ids `[n]`, in whole blocks and short of the last token: int64."""
        size = self._pool.block_size
        return self._tree.match(ids[: (len(ids) - 1) // size * size])[0]

    def store(self, ids: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """Keep the blocks of ids `[n]`, n a multiple of the block size.

        Where the cache has such a block already, the holder's own is released and it holds the cache's instead; so
        whoever holds a block holds all before it. Gives the blocks that the holder has from now on: int64.
        """
        kept, known = self._tree.match(ids)
        doubled = blocks[: known // self._pool.block_size]
        changed = kept != doubled
        self._pool.share(kept[changed])
        self._pool.release(doubled[changed])
        held = np.concatenate([kept, blocks[len(kept) :]])
        self._tree.insert(ids, values=held)
        self._pool.share(held[len(kept) :])
        self._kept[held] = True
        return held

    def evict(self, blocks: int) -> None:
        """Let go of so many idle blocks, least recently used ends first; they are free from the next commit on."""
        while blocks > 0:
            for node in self._tree.oldest():
                idle = self._pool.references(node.values) == 1
                # The idle ones are at the end; see `store`.
                take = min(blocks, int(np.count_nonzero(idle)))
                if take:
                    gone = self._tree.trim(node, take)
                    self._pool.release(gone)
                    self._kept[gone] = False
                    blocks -= take
                    break
            else:
                return
