"""Who holds which KV blocks, on the device and on the host."""

from typing import Protocol

import numpy as np

from unending.core.errors import StateError
from unending.systems.language.stream2llm.request import Request

__all__ = ["BlockLedger", "Blocks"]


class Blocks(Protocol):
    """What a scheduler needs of a KV memory; requests carry the numbers of their blocks."""

    block_size: int
    total: int
    """Blocks on the device."""

    @property
    def free(self) -> int:
        """Blocks on the device that can be handed out."""

    def grow(self, request: Request, tokens: int, spare: int) -> bool:
        """Give a request room for `tokens` tokens in all, and up to `spare` more blocks if it grows and some are left.

        False, and nothing done, where the free blocks do not suffice.
        """

    def truncate(self, request: Request) -> None:
        """Take back the blocks behind the computed tokens of a request, wherever they are; a partly valid one stays."""

    def release(self, request: Request) -> None:
        """Take back all blocks of a request."""

    def swap_out(self, request: Request) -> bool:
        """Move the computed tokens of a request to the host; False, and nothing done, where there is no room."""

    def swap_in(self, request: Request) -> bool:
        """Move a request back to the device; False, and nothing done, where there is no room."""

    def commit(self) -> None:
        """The step is over: blocks of the host that it freed can be used again."""

    def check(self, requests: list[Request]) -> None:
        """Raise `StateError` unless these requests hold every block that is not free, each once."""


class BlockLedger:
    """Blocks without content, for simulation.

    Parameters
    ----------
    device_blocks, host_blocks, block_size
        sizes of the two memories, and tokens of one block.
    """

    def __init__(self, device_blocks: int, host_blocks: int = 0, block_size: int = 16) -> None:
        self.block_size, self.total, self.host_total = block_size, device_blocks, host_blocks
        self._free = list(range(device_blocks))[::-1]
        self._host_free = list(range(host_blocks))[::-1]
        self._host_freed: list[int] = []

    @property
    def free(self) -> int:
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-tokens // self.block_size)

    def grow(self, request: Request, tokens: int, spare: int) -> bool:
        wanted = self.blocks_for(tokens) - len(request.blocks)
        if wanted > len(self._free):
            return False
        if wanted > 0:
            taken = _take(self._free, min(wanted + spare, len(self._free)))
            request.blocks = np.concatenate([request.blocks, taken])
        return True

    def truncate(self, request: Request) -> None:
        keep = self.blocks_for(request.computed + request.in_flight)
        if len(request.blocks) > keep:
            self._free += request.blocks[keep:].tolist()
            request.blocks, request.resend = request.blocks[:keep], True
        self._host_freed += request.host_blocks[keep:].tolist()
        request.host_blocks = request.host_blocks[:keep]

    def release(self, request: Request) -> None:
        self._free += request.blocks.tolist()
        self._host_freed += request.host_blocks.tolist()
        request.blocks, request.host_blocks = request.blocks[:0], request.host_blocks[:0]
        request.resend = True

    def swap_out(self, request: Request) -> bool:
        wanted = self.blocks_for(request.computed)
        if wanted > len(self._host_free):
            return False
        self._free += request.blocks.tolist()
        request.blocks, request.host_blocks = request.blocks[:0], _take(self._host_free, wanted)
        request.resend = True
        return True

    def swap_in(self, request: Request) -> bool:
        wanted = len(request.host_blocks)
        if wanted > len(self._free):
            return False
        self._host_freed += request.host_blocks.tolist()
        request.blocks, request.host_blocks = _take(self._free, wanted), request.host_blocks[:0]
        request.resend = True
        return True

    def commit(self) -> None:
        self._host_free += self._host_freed
        self._host_freed = []

    def check(self, requests: list[Request]) -> None:
        for name, free, total, held in (
            ("device", self._free, self.total, [each.blocks for each in requests]),
            (
                "host",
                self._host_free + self._host_freed,
                self.host_total,
                [each.host_blocks for each in requests],
            ),
        ):
            found = sorted(np.concatenate([np.array(free, dtype=np.int64), *held]).tolist())
            if found != list(range(total)):
                raise StateError(f"{name} blocks do not add up: {len(found)} held or free of {total}")


def _take(free: list[int], n: int) -> np.ndarray:
    taken = free[len(free) - n :]
    del free[len(free) - n :]
    return np.array(taken[::-1], dtype=np.int64)
