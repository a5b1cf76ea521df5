"""Ctrl-C between two pieces of work, not in the middle of one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["whole"]


@contextmanager
def whole() -> Iterator[None]:
    """Ctrl-C waits until this is done; a second one does not wait."""
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
