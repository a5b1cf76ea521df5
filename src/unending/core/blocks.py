"""Re-blocking: chunks of any size become blocks of a fixed size, anchored at stream position."""

import numpy as np

from unending.core.state import state

__all__ = ["Remainder", "feed", "flush", "remainder"]


@state
class Remainder:
    """Items that wait for their block to fill."""

    items: np.ndarray
    """`[hop, ...]`, of which the first `count` are in use."""
    count: int
    position: int
    """Stream position of the next item to arrive; blocks end at multiples of the hop."""


def remainder(hop: int, shape: tuple[int, ...] = (), dtype: type | np.dtype = np.int64) -> Remainder:
    """An empty remainder at stream position 0."""
    return Remainder(np.zeros((hop, *shape), dtype=dtype), 0, 0)


def feed(rest: Remainder, items: np.ndarray) -> tuple[Remainder, list[np.ndarray]]:
    """Add items `[n, ...]`; give back the blocks that became full.

    However a stream is cut into calls, the blocks are the same. A block is shorter than the hop only after a
    `flush` in its middle.
    """
    hop = len(rest.items)
    joined = np.concatenate([rest.items[: rest.count], items.astype(rest.items.dtype, copy=False)])
    start = rest.position - rest.count
    blocks = []
    while len(joined) >= (wanted := hop - start % hop):
        blocks.append(joined[:wanted])
        joined = joined[wanted:]
        start += wanted
    kept = np.zeros_like(rest.items)
    kept[: len(joined)] = joined
    return Remainder(kept, len(joined), start + len(joined)), blocks


def flush(rest: Remainder) -> tuple[Remainder, np.ndarray]:
    """Take out what waits, as a block of less than a hop (it may be empty)."""
    return Remainder(np.zeros_like(rest.items), 0, rest.position), rest.items[: rest.count].copy()
