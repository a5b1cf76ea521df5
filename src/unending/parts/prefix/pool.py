"""Paged KV memory: blocks that many sequences share, with reference counts, truncation, and a swap area on the host."""

from collections.abc import Sequence

import numpy as np
import torch

from unending.core.errors import CapacityError, StateError
from unending.parts.prefix.area import Area
from unending.parts.prefix.blocks import KVBlocks, KVShapes, block_bytes, empty_blocks

__all__ = ["PagedKVPool"]

Ids = np.ndarray | Sequence[int]
"""Block numbers: integers `[n]`."""


class PagedKVPool:
    """Paged KV memory of one model (Kwon et al. 2023, arXiv 2309.06180) in which dropping a step is undo.

    A sequence is a **block table**, integers `[n]`, and a **count** of its tokens; both belong to the caller, the pool
    keeps only who holds what. All changes are those of a step until `commit`; `drop` (or letting the pool go and
    making another one over the same `KVBlocks`) undoes them. So that this needs no copy of the memory,

    - a block that is let go can be handed out again only after the commit of the step that let it go;
    - a step writes only rows that no committed token occupies: `extend` hands them out, `write` refuses all others,
      and a last block that is shared, or whose further rows are committed, is copied before it grows.

    Parameters
    ----------
    blocks
        the committed blocks; their tensors are shared with the pool.
    host
        the swap area, or none.
    """

    def __init__(self, blocks: KVBlocks, host: KVBlocks | None = None) -> None:
        self._device = Area("device", blocks)
        self._host = Area("host", host) if host is not None else None

    @classmethod
    def of(
        cls,
        shapes: KVShapes,
        blocks: int,
        block_size: int = 16,
        *,
        host_blocks: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "PagedKVPool":
        """A pool of free blocks; `shapes` holds `(kv_heads, head_dim)` a layer."""
        host = empty_blocks(shapes, host_blocks, block_size, dtype) if host_blocks else None
        return cls(empty_blocks(shapes, blocks, block_size, dtype, device), host)

    @property
    def blocks(self) -> KVBlocks:
        """What is committed, as a leaf of a state."""
        return self._device.committed

    @property
    def host(self) -> KVBlocks | None:
        """The committed swap area."""
        return self._host.committed if self._host else None

    @property
    def block_size(self) -> int:
        """Tokens of one block."""
        return self._device.block_size

    @property
    def total(self) -> int:
        """Blocks in all."""
        return self._device.total

    @property
    def free(self) -> int:
        """Blocks that `allocate` can hand out now."""
        return len(self._device.free())

    @property
    def held(self) -> int:
        """Blocks that somebody holds."""
        return int(np.count_nonzero(self._device.references))

    @property
    def host_free(self) -> int:
        """Blocks of the swap area that can be handed out now."""
        return len(self._host.free()) if self._host else 0

    def references(self, ids: Ids) -> np.ndarray:
        """How many hold each of these blocks: int32 `[n]`."""
        return self._device.references[_ids(ids)]

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-tokens // self.block_size)

    def allocate(self, n: int) -> np.ndarray:
        """`n` free blocks, held once each: int64 `[n]`, lowest numbers first.

        Raises
        ------
        CapacityError
            if fewer are free; nothing is allocated then.
        """
        return self._device.allocate(n)

    def share(self, ids: Ids) -> None:
        """Hold these blocks once more."""
        ids = _ids(ids)
        self._device.require_held(ids)
        np.add.at(self._device.references, ids, 1)

    def release(self, ids: Ids) -> None:
        """Hold these blocks once less; whichever nobody holds is free from the next commit on.

        Raises
        ------
        StateError
            if one is not held so often; nothing is released then.
        """
        self._device.release(_ids(ids))

    def extend(self, table: Ids, count: int, more: int) -> tuple[np.ndarray, np.ndarray]:
        """Make room for `more` tokens after the first `count` of a sequence.

        Returns
        -------
        table, rows
            the block table of all tokens, and the rows of the new ones for `write`: int64 `[more]`.

        Raises
        ------
        CapacityError
            if there are too few free blocks; nothing has changed then.
        """
        area, table = self._device, _ids(table)
        kept = self.blocks_for(count)
        inside = count % self.block_size
        last = table[kept - 1 : kept] if inside and more else table[:0]
        grows = last.size and (
            area.references[last[0]] == 1
            and (area.committed.references[last[0]] == 0 or area.committed.filled[last[0]] <= inside)
        )
        copies = int(last.size and not grows)
        spare = table[kept:]
        new = area.allocate(max(0, self.blocks_for(count + more) - len(table)) + copies)
        if copies:
            self._copy(int(last[0]), int(new[0]), inside)
            area.release(last)
            table = np.concatenate([table[: kept - 1], new[:1], spare])
        table = np.concatenate([table, new[copies:]])
        used = table[: self.blocks_for(count + more)]
        if (area.references[used[count // self.block_size :]] != 1).any():
            raise StateError("a block that a sequence grows into is shared, or held by nobody")
        rows = area.rows(table, count, count + more)
        area.open[rows] = True
        fills = np.clip(count + more - np.arange(len(used)) * self.block_size, 0, self.block_size)
        area.filled[used] = np.maximum(area.filled[used], fills)
        return table, rows

    def _copy(self, source: int, target: int, rows: int) -> None:
        for held in (*self.blocks.keys, *self.blocks.values):
            held[target, :rows] = held[source, :rows]

    def write(self, layer: int, rows: np.ndarray, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write keys and values `[n, kv_heads, head_dim]` of one layer to rows that `extend` gave out in this step."""
        self._device.write(layer, rows, keys, values)

    def rows(self, table: Ids, start: int, stop: int) -> np.ndarray:
        """Rows of the tokens from `start` to `stop` of a sequence, for `read`: int64 `[stop - start]`."""
        return self._device.rows(_ids(table), start, stop)

    def read(self, layer: int, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `[n, kv_heads, head_dim]` of one layer at some rows."""
        return self._device.read(layer, rows)

    def gather(self, layer: int, table: Ids, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `[count, kv_heads, head_dim]` of one layer of a sequence."""
        return self.read(layer, self.rows(table, 0, count))

    def truncate(self, table: Ids, keep: int) -> np.ndarray:
        """The block table of the first `keep` tokens; the blocks after them are released."""
        area, table = self._device, _ids(table)
        kept = self.blocks_for(keep)
        if kept > len(table):
            raise StateError(f"a table of {len(table)} blocks does not hold {keep} tokens")
        area.release(table[kept:])
        table = table[:kept]
        if keep % self.block_size and area.references[table[-1]] == 1:
            area.filled[table[-1]] = min(area.filled[table[-1]], keep % self.block_size)
        return table

    def swap_out(self, table: Ids, count: int) -> np.ndarray:
        """Move the first `count` tokens of a sequence to the host; gives its block table there.

        Raises
        ------
        CapacityError
            if the host has too few free blocks, or none at all.
        """
        host = self._require_host()
        target = host.allocate(self.blocks_for(count))
        table = self.truncate(table, count)
        self._move(self._device, table, host, target, count)
        return target

    def swap_in(self, table: Ids, count: int) -> np.ndarray:
        """Move `count` tokens of a sequence on the host back; gives its block table on the device.

        Raises
        ------
        CapacityError
            if the device has too few free blocks.
        """
        host, table = self._require_host(), _ids(table)
        target = self._device.allocate(self.blocks_for(count))
        self._move(host, table, self._device, target, count)
        return target

    def release_host(self, ids: Ids) -> None:
        """Give up blocks of the swap area."""
        self._require_host().release(_ids(ids))

    def _require_host(self) -> Area:
        if self._host is None:
            raise CapacityError("this pool has no swap area: give it host blocks")
        return self._host

    def _move(self, area: Area, source: np.ndarray, to: Area, target: np.ndarray, count: int) -> None:
        area.require_held(source)
        for layer in range(len(self.blocks.keys)):
            to.write(layer, to.rows(target, 0, count), *area.read(layer, area.rows(source, 0, count)))
        fills = np.clip(count - np.arange(len(target)) * self.block_size, 0, self.block_size)
        to.filled[target] = fills
        area.release(source)

    def commit(self) -> tuple[KVBlocks, KVBlocks | None]:
        """The step happened: what it let go is free. Gives the committed blocks, of the device and the host."""
        for area in self._areas:
            area.commit()
        return self.blocks, self.host

    def drop(self) -> None:
        """The step never happened."""
        for area in self._areas:
            area.drop()

    @property
    def _areas(self) -> tuple[Area, ...]:
        return (self._device, self._host) if self._host else (self._device,)

    def check(self) -> None:
        """Raise `StateError` unless free, held and waiting blocks make up all, and no free block holds a token."""
        for area in self._areas:
            area.check()

    def bytes(self) -> int:
        """Bytes of device and host memory in all."""
        device = self.blocks
        shapes = tuple((held.shape[2], held.shape[3]) for held in device.keys)
        itemsize = device.keys[0].element_size()
        return sum(block_bytes(shapes, area.total, area.block_size, itemsize) for area in self._areas)


def _ids(ids: Ids) -> np.ndarray:
    return np.asarray(ids, dtype=np.int64)
