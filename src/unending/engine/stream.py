"""A client's hold on one session of an engine."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from unending.core import Chunk, Event
from unending.core.errors import BusyError, UnendingError

if TYPE_CHECKING:
    from unending.engine.shell import Engine

__all__ = ["Receipt", "Stream"]


@dataclass(frozen=True)
class Receipt:
    """Input number `seq` is durable; `shed` if the engine's policy dropped it."""

    seq: int
    shed: bool = False


class Stream:
    """One client's hold on a session; at most one at a time.

    Iterating gives the outputs in order, each with its number, to the end of a finished session; it raises the error
    of accepted input whose step failed, and can be iterated on. An output stays in the engine until it is
    acknowledged: by `acknowledge`, or (unless the stream was opened with `explicit`) when the next one is taken.
    """

    def __init__(self, engine: "Engine", key: str, *, explicit: bool) -> None:
        self.key = key
        self.shed = 0
        """Inputs of this stream that were dropped."""
        self._engine = engine
        self._explicit = explicit
        self._outputs: deque[Event | Exception] = deque()
        self._taken = -1
        self._turn = asyncio.Lock()
        self._closed: Exception | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._receipts: dict[int, list[asyncio.Future[Receipt]]] = {}

    @property
    def in_seq(self) -> int:
        """Number of the last input that was accepted."""
        return self._engine.scheduler.floor.find(self.key).accepted

    @property
    def out_seq(self) -> int:
        """Outputs made so far."""
        return self._engine.scheduler.floor.find(self.key).made

    @property
    def finished(self) -> bool:
        """Whether the end of the stream was accepted."""
        return self._engine.scheduler.floor.find(self.key).ending

    async def push(self, chunk: Chunk, seq: int | None = None) -> Receipt:
        """Give in a chunk; returns when it is durable. Waits for room where the policy is to block.

        Parameters
        ----------
        chunk
            of a kind that the operator takes.
        seq
            its number, from 1, for clients that repeat what they are not sure of; a repeat has no effect.

        Raises
        ------
        InputError, SequenceError
            if it does not fit; its number is not used up.
        BusyError
            if there is no room and the policy is to refuse.
        SessionClosedError, SessionTakenError
            if the stream is over, or somebody else holds the session.
        """
        return await self._push(chunk, seq)

    async def finish(self, seq: int | None = None) -> Receipt:
        """End the stream; what the lookahead holds comes out. `seq` as in `push`."""
        return await self._push(None, seq)

    async def _push(self, chunk: Chunk | None, seq: int | None) -> Receipt:
        self._require_open()
        entry = self._engine.scheduler.floor.find(self.key)
        async with self._turn:  # who waits for room keeps his place in the line
            while True:
                self._require_open()
                before = entry.shed
                try:
                    number = self._engine.scheduler.push(self.key, chunk, seq)
                    break
                except BusyError as busy:
                    if busy.retry_after:
                        raise
                    await self._wait()
        receipt: asyncio.Future[Receipt] | None = None
        dropped = entry.shed > before
        if entry.durable < number:
            receipt = asyncio.get_running_loop().create_future()
            self._receipts.setdefault(number, []).append(receipt)
        self._engine.pump_soon()
        return Receipt(number, dropped) if receipt is None else await receipt

    async def interrupt(self) -> None:
        """Stop the pending work (an answer in the making) between two ticks."""
        self._require_open()
        self._engine.scheduler.interrupt(self.key)
        self._engine.pump_soon()

    def acknowledge(self, seq: int) -> None:
        """Outputs numbered up to `seq` have arrived; the engine forgets them.

        Raises
        ------
        SequenceError
            if no output of that number was sent.
        """
        self._require_open()
        if self._engine.scheduler.acknowledge(self.key, seq):
            self._engine.pump_soon()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._taken >= 0 and not self._explicit and self._closed is None:
            taken, self._taken = self._taken, -1
            self.acknowledge(taken)
        while not self._outputs:
            self._require_open()
            if self._engine.at_end(self.key):
                raise StopAsyncIteration
            await self._wait()
        first = self._outputs.popleft()
        if isinstance(first, Exception):
            raise first
        self._taken = first.seq
        return first

    def take(self) -> list[Event]:
        """The outputs that wait, without waiting for more; unless the stream is `explicit`, they count as arrived.

        Raises
        ------
        InputError
            the error of accepted input whose step failed, in its place among the outputs; the next call goes on.
        """
        self._require_open()
        taken: list[Event] = []
        while self._outputs and not isinstance(self._outputs[0], Exception):
            taken.append(self._outputs.popleft())  # type: ignore[arg-type]
        if not taken and self._outputs:
            first = self._outputs.popleft()
            assert isinstance(first, Exception)
            raise first
        if taken and not self._explicit:
            self._taken = -1
            self.acknowledge(taken[-1].seq)
        return taken

    async def idle(self) -> None:
        """Wait until all accepted input is worked off, nothing is pending and every output is here."""
        while not self._engine.at_rest(self.key):
            self._require_open()
            await self._wait()

    async def release(self) -> None:
        """Let go; the session stays and can be resumed."""
        if self._closed is None:
            self._engine.let_go(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    def _require_open(self) -> None:
        if self._closed is not None:
            raise self._closed

    async def _wait(self) -> None:
        """Until something happens to this session."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def wake(self) -> None:
        """Something happened: whoever waits looks again."""
        if not self._waiters:
            return
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def give(self, output: Event | Exception) -> None:
        """An output, or an error in its place."""
        self._outputs.append(output)
        self.wake()

    def acknowledged(self, seq: int, *, shed: bool) -> None:
        """Input up to `seq` is durable."""
        self.shed += shed
        for number in [each for each in self._receipts if each <= seq]:
            for receipt in self._receipts.pop(number):
                if not receipt.done():
                    receipt.set_result(Receipt(number, shed and number == seq))

    def end(self, error: UnendingError) -> None:
        """The hold is lost: every call raises this from now on."""
        self._closed = error
        for receipts in self._receipts.values():
            for receipt in receipts:
                if not receipt.done():
                    receipt.set_exception(error)
                    receipt.exception()
        self._receipts.clear()
        self.wake()
