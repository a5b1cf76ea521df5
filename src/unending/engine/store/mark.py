"""The high-water mark: the number of the last durable commit, kept apart from the journal whose lost end it shows."""

import os
from hashlib import blake2b
from pathlib import Path

from unending.core import snapshot

__all__ = ["Mark"]

_SLOT = 4096
"""Two slots in blocks of their own are written in turn, so that a torn write leaves the other one."""


def _encode(number: int) -> bytes:
    content = number.to_bytes(8, "little")
    return content + blake2b(content, digest_size=16, person=b"high-water").digest()


class Mark:
    """A file with one number, opened; every write is durable on return. Raises `OSError` where the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC)

    @staticmethod
    def create(path: Path, number: int) -> None:
        """Make the file, or put another in its place."""
        snapshot.write(path, _encode(number).ljust(_SLOT, b"\0") + _encode(number))

    @staticmethod
    def read(path: Path) -> int | None:
        """The number in the file; None if it is missing or damaged."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        slots = [content[at : at + 24] for at in (0, _SLOT)]
        numbers = [int.from_bytes(slot[:8], "little") for slot in slots]
        return max((n for n, slot in zip(numbers, slots, strict=True) if _encode(n) == slot), default=None)

    def advance(self, number: int) -> None:
        """Write a higher number."""
        os.pwrite(self._file, _encode(number), number % 2 * _SLOT)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
