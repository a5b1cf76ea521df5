"""Question and answer over a session: what the two protocols of OpenAI share."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from unending.core import Chunk, Event, Operator, Query, Text
from unending.core.errors import (
    BusyError,
    SessionClosedError,
    SessionNotFoundError,
    SessionTakenError,
)
from unending.engine import Engine, Stream
from unending.serve.failures import Refusal
from unending.serve.metrics import Metrics

__all__ = ["Answer", "Conversation", "require_conversation"]

SPOKEN = ("", "answer")
"""Roles of a text that is said to who asks; every other is a thought."""
Emit = Callable[[str], Awaitable[None]]


def require_conversation(operator: Operator[Any]) -> None:
    """`Refusal` if the operator does not answer questions about a text with a text."""
    if not ({Text, Query} <= set(operator.spec.takes) and Text in operator.spec.gives):
        raise Refusal(
            "unknown_system",
            f"{operator.spec.name} does not hold conversations; use /v1/sessions",
            param="model",
        )


def _count(operator: Operator[Any], text: str) -> int:
    tokenizer = getattr(getattr(operator, "backbone", None), "tokenizer", None)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) if tokenizer else len(text)


@dataclass(frozen=True)
class Answer:
    """An answer, what was thought before it, why it ended, and how many tokens were made for both."""

    text: str
    thoughts: str
    reason: str
    """`stop`, `length` or `cancelled`."""
    tokens: int


class Conversation:
    """A session that is asked.

    Parameters
    ----------
    engine
        where it is.
    stream
        the hold on it.
    """

    def __init__(self, engine: Engine, stream: Stream, metrics: Metrics) -> None:
        self.operator, self.stream, self._metrics = engine.operator, stream, metrics
        self._engine = engine
        self._cancelled = False

    async def settle(self) -> None:
        """Stop an answer that nobody waits for, and drop the outputs that nobody read."""
        if self.stream.finished:
            return
        await self.stream.interrupt()
        await self._skip()

    async def _skip(self) -> Exception | None:
        """Work off all input and drop what comes out; the first error, if any."""
        errors: list[Exception] = []

        async def drop(output: Event | Exception) -> None:
            if isinstance(output, Exception):
                errors.append(output)

        await self._work_off(drop)
        return errors[0] if errors else None

    async def _work_off(self, take: Callable[[Event | Exception], Awaitable[None]]) -> None:
        """Take outputs, and the errors of refused input between them, until the session is at rest."""
        rest, output = asyncio.ensure_future(self.stream.idle()), None
        try:
            while True:
                output = asyncio.ensure_future(self._next())
                await asyncio.wait([output, rest], return_when=asyncio.FIRST_COMPLETED)
                if rest.done():
                    rest.result()
                    await asyncio.sleep(
                        0
                    )  # at rest all outputs are here: the next comes now, or there is none
                if not output.done() or (item := output.result()) is None:
                    return
                if isinstance(item, Event):
                    self.stream.acknowledge(item.seq)
                await take(item)
        finally:
            tasks = [task for task in (rest, output) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self) -> Event | Exception | None:
        try:
            return await anext(self.stream)
        except StopAsyncIteration:
            return None
        except (SessionClosedError, SessionNotFoundError, SessionTakenError):
            raise
        except Exception as error:
            return error

    async def count(self, text: str) -> int:
        """Tokens of a text as the operator's tokenizer counts them; characters where it has none."""
        return await asyncio.to_thread(_count, self.operator, text)

    async def tell(self, text: str) -> None:
        """Append context; durable on return."""
        if text:
            await self._push(Text(text))

    async def _push(self, chunk: Chunk) -> None:
        receipt = await self.stream.push(chunk)
        if receipt.shed:
            raise BusyError(
                f"{self.operator.spec.name} is behind and drops input; try again", retry_after=1.0
            )

    @property
    def _ticks(self) -> int:
        return self._engine.session(self.stream.key).ticks

    async def cancel(self) -> None:
        """Stop the answer in the making."""
        self._cancelled = True
        await self.stream.interrupt()

    async def ask(
        self,
        question: str,
        emit: Emit,
        *,
        think: Emit,
        context: str = "",
        longest: int | None = None,
        stops: Sequence[str] = (),
        accepted: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """Put a question and emit the pieces of its answer.

        Parameters
        ----------
        question
            becomes a `Query`.
        emit
            gets each piece of the answer.
        think
            gets each piece of what is no answer, by its role: thoughts.
        context
            appended before the question.
        longest
            pieces of both after which the answer is interrupted. The system may have gone on by a few more by then;
            these stay in its state and are not shown.
        stops
            texts before which the answer ends.
        accepted
            called when the question is durable.
        """
        began = perf_counter()
        shown = _Shown(self, emit, think, longest, stops)

        async def show(output: Event | Exception) -> None:
            if isinstance(output, Exception):
                raise output
            if self._cancelled:  # again: the first may have come before the answer began
                await self.stream.interrupt()
            elif output.final and isinstance(output.data, Text):
                await shown.take(output.data)

        try:
            await self.tell(context)
            if (
                error := await self._skip()
            ) is not None:  # what the context gave out is no part of the answer
                raise error
            ticks = self._ticks
            await self._push(Query(question))
            if accepted is not None:
                await accepted()
            await self._work_off(show)
        finally:
            self._cancelled, cancelled = False, self._cancelled
        ticks = self._ticks - ticks
        await shown.end(ticks)
        shown.measure(began, self._metrics)
        reason = "cancelled" if cancelled else shown.reason
        return Answer(shown.text, shown.thoughts, reason, ticks or shown.pieces)


class _Shown:
    """The part of an answer and of its thoughts that goes out: up to a stop sequence and a length."""

    def __init__(
        self,
        conversation: Conversation,
        emit: Emit,
        think: Emit,
        longest: int | None,
        stops: Sequence[str],
    ) -> None:
        self._conversation, self._emit, self._think = conversation, emit, think
        self._longest = longest
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self._margin = max((len(stop) for stop in self._stops), default=1) - 1
        self._ended = False
        self.text, self.thoughts, self.pieces, self.reason = "", "", 0, "stop"
        self._first = self._last = 0.0
        own = conversation.operator.settings().get("max_new_tokens")
        self._own = own if isinstance(own, int) else None

    async def take(self, piece: Text) -> None:
        """A piece that the system gave out."""
        if self._ended:
            return
        self.pieces += 1
        self._last = perf_counter()
        self._first = self._first or self._last
        if piece.role not in SPOKEN:
            self.thoughts += piece.text
            await self._think(piece.text)
            if self._longest is not None and self.pieces >= self._longest:
                await self._stop("length")
            return
        self._held += piece.text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self._held = self._held[: min(found)]
            await self._stop("stop")
        elif self._longest is not None and self.pieces >= self._longest:
            await self._stop("length")
        else:
            ready = len(self._held) - self._margin
            if ready > 0:
                await self._give(self._held[:ready])
                self._held = self._held[ready:]

    async def _stop(self, reason: str) -> None:
        self._ended, self.reason = True, reason
        await self._conversation.stream.interrupt()
        await self._give(self._held)
        self._held = ""

    async def end(self, ticks: int) -> None:
        """The answer is over after so many ticks: what was held back goes out."""
        await self._give(self._held)
        self._held = ""
        if not self._ended and self._own is not None and max(ticks, self.pieces) >= self._own:
            self.reason = "length"

    async def _give(self, text: str) -> None:
        if text:
            self.text += text
            await self._emit(text)

    def measure(self, began: float, metrics: Metrics) -> None:
        """Count the time to the first piece, and between pieces."""
        system = self._conversation.operator.spec.name
        if self.pieces:
            metrics.first.labels(system).observe(self._first - began)
        if self.pieces > 1:
            metrics.each.labels(system).observe((self._last - self._first) / (self.pieces - 1))
