"""The blocks of one medium during a step: what is committed beside what the step at hand makes of it."""

from dataclasses import replace

import numpy as np
import torch

from unending.core.errors import CapacityError, StateError
from unending.parts.prefix.blocks import KVBlocks

__all__ = ["Area"]


class Area:
    """The blocks of one medium, as they were committed and as they are in the step at hand."""

    def __init__(self, name: str, held: KVBlocks) -> None:
        self.name = name
        self.block_size = held.keys[0].shape[1]
        self.total = len(held.references)
        self.committed = held
        self.drop()

    def drop(self) -> None:
        self.references, self.filled = self.committed.references.copy(), self.committed.filled.copy()
        self.open = np.zeros(self.total * self.block_size, dtype=bool)
        """Rows that the step at hand may write."""

    def commit(self) -> None:
        self.committed = replace(self.committed, references=self.references.copy(), filled=self.filled.copy())
        self.open[:] = False

    def free(self) -> np.ndarray:
        """Blocks that nobody holds, neither now nor in what is committed, lowest first."""
        return np.flatnonzero((self.references == 0) & (self.committed.references == 0))

    def allocate(self, n: int) -> np.ndarray:
        found = self.free()
        if n > len(found):
            raise CapacityError(f"{n} {self.name} blocks are wanted, {len(found)} of {self.total} are free")
        ids = found[:n]
        self.references[ids] = 1
        self.filled[ids] = 0
        self.open.reshape(self.total, self.block_size)[ids] = True
        return ids

    def require_held(self, ids: np.ndarray) -> None:
        if ids.size and (ids.min() < 0 or ids.max() >= self.total or not self.references[ids].all()):
            raise StateError(f"{self.name} block {_first_free(self.references, ids)} is held by nobody")

    def release(self, ids: np.ndarray) -> None:
        lost = np.bincount(ids, minlength=self.total) if ids.size else np.zeros(self.total, dtype=np.int64)
        if len(lost) > self.total or (lost > self.references).any():
            raise StateError(f"a {self.name} block is released more often than it is held")
        self.references -= lost.astype(np.int32)
        gone = (lost > 0) & (self.references == 0)
        self.filled[gone] = 0
        self.open.reshape(self.total, self.block_size)[gone] = False

    def rows(self, table: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Flat row numbers of the tokens from `start` to `stop` of a sequence."""
        places = np.arange(start, stop)
        return np.asarray(table)[places // self.block_size] * self.block_size + places % self.block_size

    def write(self, layer: int, rows: np.ndarray, keys: torch.Tensor, values: torch.Tensor) -> None:
        if not self.open[rows].all():
            raise StateError(f"a row of {self.name} memory is written that this step has not made room for")
        for held, new in ((self.committed.keys[layer], keys), (self.committed.values[layer], values)):
            held.flatten(0, 1).index_copy_(0, torch.from_numpy(rows).to(held.device), new.to(held))

    def read(self, layer: int, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.from_numpy(rows)
        keys, values = self.committed.keys[layer], self.committed.values[layer]
        return (
            keys.flatten(0, 1).index_select(0, index.to(keys.device)),
            values.flatten(0, 1).index_select(0, index.to(values.device)),
        )

    def check(self) -> None:
        held = int(np.count_nonzero(self.references))
        waiting = int(np.count_nonzero((self.references == 0) & (self.committed.references > 0)))
        if held + waiting + len(self.free()) != self.total or (self.references < 0).any():
            raise StateError(f"{self.name} blocks do not add up: {held} held of {self.total}")
        if self.filled[self.references == 0].any() or (self.filled > self.block_size).any():
            raise StateError(f"a free {self.name} block is in use, or one holds more than it can")


def _first_free(references: np.ndarray, ids: np.ndarray) -> int:
    return next(int(each) for each in ids if not 0 <= each < len(references) or not references[each])
