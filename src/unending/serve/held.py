"""One session on one connection: its commands in order, its outputs as they come."""

from typing import TYPE_CHECKING, Any

import anyio

from unending.core.errors import SessionClosedError, SessionNotFoundError, SessionTakenError
from unending.engine import Engine, Stream
from unending.serve import wire
from unending.serve.failures import Refusal

if TYPE_CHECKING:
    from unending.serve.sessions import Sessions

__all__ = ["Held"]

_COMMANDS = 64
"""Messages of one session that may wait."""


class Held:
    """A session that a connection opened, resumed or watches.

    Pushes and what must keep their order (finish, fork, save, release, delete) wait for each other; an interrupt and
    an acknowledgement go ahead of them.

    Parameters
    ----------
    socket
        the connection.
    engine, key
        where the session is.
    first
        the message that asked for it.
    """

    def __init__(
        self, socket: "Sessions", engine: Engine, key: str, first: wire.Open | wire.Resume | wire.Watch
    ) -> None:
        self._socket, self._engine, self._key, self._first = socket, engine, key, first
        self._name = {"system": first.system, "session": first.session}
        self._send, self._receive = anyio.create_memory_object_stream[tuple[wire.Message, Any, int]](
            _COMMANDS
        )
        self._stream: Stream | None = None
        self._pushed = anyio.Event()
        self._sent = anyio.Event()
        self._next = 0
        self._leaving = False

    async def run(self) -> None:
        """From the first message to the release of the session; nothing is raised."""
        socket = self._socket
        try:
            if isinstance(self._first, wire.Watch):
                await self._watch()
            else:
                await self._hold(self._first)
        except Exception as error:
            await self._fail(error, self._first)
        finally:
            socket.forget(self)
            self._send.close()
            with self._receive:
                while self._receive.statistics().current_buffer_used:
                    message, _, size = self._receive.receive_nowait()
                    socket.backlog -= size
                    if not socket.scope.cancel_called:
                        await self._fail(Refusal("not_found", "the session was let go before this"), message)

    async def take(self, message: wire.Message, size: int) -> None:
        """A message of the client; raises what is wrong with it."""
        if isinstance(message, wire.Interrupt | wire.Ack):
            if self._stream is None:
                raise Refusal("not_found", "the session is not open yet")
            if isinstance(message, wire.Ack):
                self._stream.acknowledge(message.seq)
            else:
                await self._stream.interrupt()
                await self._tell("session.interrupted", message)
            self._socket.well()
            return
        if isinstance(self._first, wire.Watch) and not isinstance(message, wire.Release):
            raise Refusal("not_found", "this connection only watches that session")
        self._socket.service.require_open()
        chunk = wire.chunk_from(message.chunk) if isinstance(message, wire.Push) else None
        if self._socket.backlog + size > self._socket.service.options.max_backlog:
            raise Refusal(
                "busy", "too many bytes wait on this connection; read the answers first", retry_after=0.1
            )
        try:
            self._send.send_nowait((message, chunk, size))
        except anyio.WouldBlock:
            raise Refusal(
                "busy", f"{_COMMANDS} messages of this session wait already", retry_after=0.1
            ) from None
        self._socket.backlog += size

    async def _watch(self) -> None:
        socket = self._socket
        with self._engine.watch(self._key) as outputs:
            await self._tell("session.watching", self._first)
            socket.well()
            async with anyio.create_task_group() as tasks:

                async def forward() -> None:
                    async for event in outputs:
                        await socket.give(self._name, event)
                    await self._tell("session.deleted")
                    tasks.cancel_scope.cancel()

                tasks.start_soon(forward)
                async for message, _, size in self._receive:
                    socket.backlog -= size
                    await self._tell("session.released", message)
                    break
                tasks.cancel_scope.cancel()

    async def _hold(self, first: wire.Open | wire.Resume) -> None:
        service = self._socket.service
        assert self._socket.account is not None
        if isinstance(first, wire.Open):
            async with service.room(self._socket.account):
                stream = await self._engine.open(self._key, seed=first.seed, explicit=True)
        else:
            service.require_open()
            stream = await self._engine.resume(
                self._key, after=first.after, take_over=first.take_over, explicit=True
            )
            self._pushed.set()
        self._stream = stream
        try:
            self._next = self._engine.session(self._key).acknowledged
            await self._tell(
                "session.opened", first,
                in_seq=stream.in_seq, out_seq=stream.out_seq, after=self._next - 1, finished=stream.finished,
            )  # fmt: skip
            self._socket.well()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._forward, stream, tasks.cancel_scope)
                tasks.start_soon(self._report_idle, stream)
                await self._obey(stream)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await stream.release()

    async def _forward(self, stream: Stream, scope: anyio.CancelScope) -> None:
        """Send the outputs, and the errors between them."""
        while True:
            try:
                event = await anext(stream)
            except StopAsyncIteration:
                await self._tell("session.finished", out_seq=stream.out_seq)
                return
            except SessionTakenError:
                await self._tell("session.taken")
                scope.cancel()
                return
            except (SessionClosedError, SessionNotFoundError):
                if self._leaving:
                    return
                await self._tell("session.deleted")  # by another
                scope.cancel()
                return
            except Exception as error:  # of a chunk that its step refused: the stream goes on
                await self._socket.fail(error, **self._name)
                continue
            await self._socket.give(self._name, event)
            self._next = event.seq + 1
            self._sent.set()
            self._sent = anyio.Event()

    async def _report_idle(self, stream: Stream) -> None:
        """Say when all input is worked off and all output was sent."""
        while True:
            await self._pushed.wait()
            self._pushed = anyio.Event()
            try:
                await stream.idle()
                in_seq, out_seq = stream.in_seq, stream.out_seq
            except (SessionClosedError, SessionNotFoundError, SessionTakenError):
                return  # the outputs end with the same, and say so
            while self._next < out_seq:
                await self._sent.wait()
            await self._tell("session.idle", in_seq=in_seq, out_seq=out_seq)

    async def _obey(self, stream: Stream) -> None:
        """Carry out commands in order, to the one that ends it."""
        async for message, chunk, size in self._receive:
            self._socket.backlog -= size
            try:
                if await self._do(stream, message, chunk):
                    return
                self._socket.well()
            except Exception as error:
                self._leaving = False
                await self._fail(error, message)

    async def _do(self, stream: Stream, message: wire.Message, chunk: Any) -> bool:
        """Carry out one command; whether it ends the hold."""
        service = self._socket.service
        match message:
            case wire.Push():
                receipt = await stream.push(chunk, message.seq)
                self._pushed.set()
                await self._tell("input.ack", message, seq=receipt.seq, shed=receipt.shed)
            case wire.Finish():
                receipt = await stream.finish(message.seq)
                self._pushed.set()
                await self._tell("input.ack", message, seq=receipt.seq, shed=receipt.shed)
            case wire.Fork():
                assert self._socket.account is not None
                async with service.room(self._socket.account):
                    await self._engine.fork(self._key, service.key(self._socket.account, message.to))
                await self._tell("session.forked", message, to=message.to)
            case wire.Save():
                if not self._engine.scheduler.floor.journal.stored:
                    raise Refusal("storage", "this server runs without a store; its sessions end with it")
                await self._engine.save(self._key)
                await self._tell("session.saved", message)
            case wire.Release():
                self._leaving = True
                await stream.release()
                await self._tell("session.released", message)
                return True
            case wire.Delete():
                self._leaving = True
                await self._engine.delete(self._key)
                await self._tell("session.deleted", message)
                return True
        return False

    async def _tell(self, kind: str, message: wire.Message | None = None, **values: Any) -> None:
        id_ = {"id": message.id} if message is not None and message.id is not None else {}
        await self._socket.send({"type": kind, **self._name, **values, **id_})

    async def _fail(self, error: Exception, message: wire.Message) -> None:
        await self._socket.fail(error, **self._name, id=message.id, seq=getattr(message, "seq", None))
