"""The outputs of a session for somebody who only looks on."""

import asyncio
from collections import deque
from typing import Self

from unending.core import Event
from unending.engine.entry import size_of

__all__ = ["Watch"]


class Watch:
    """Iterating gives the outputs as the client gets them, to the end of the session or the engine.

    Who is more than `most` outputs or `most_bytes` behind loses the oldest.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._outputs: deque[Event] = deque()
        self._bytes = 0
        self._ended = False
        self._news = asyncio.Event()

    def give(self, output: Event) -> None:
        """An output."""
        self._outputs.append(output)
        self._bytes += size_of(output.data)
        while len(self._outputs) > self._most or (self._bytes > self._most_bytes and len(self._outputs) > 1):
            self._pop()
        self._news.set()

    def end(self) -> None:
        """There will be no more."""
        self._ended = True
        self._news.set()

    def _pop(self) -> Event:
        output = self._outputs.popleft()
        self._bytes -= size_of(output.data)
        return output

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._outputs:
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._pop()
