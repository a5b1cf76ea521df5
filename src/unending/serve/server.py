"""The process: uvicorn with deadlines on everything a client may leave unfinished, and an end that loses nothing."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any

import anyio
import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from unending.core.errors import InputError
from unending.serve.app import create_app
from unending.serve.service import Options, Service

__all__ = ["Address", "serve"]

_log = logging.getLogger("unending.serve")
_FRAGMENTS = 1024
"""Fragments that one WebSocket message may come in."""


@dataclass(frozen=True)
class Address:
    """Where a server listens; port 0 is any that is free."""

    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def names(self) -> set[str]:
        """Host names of a server on this machine alone."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return {"localhost", "127.0.0.1", "[::1]", shown}

    def listen(self) -> socket.socket:
        """A listening socket.

        Raises
        ------
        InputError
            if the address is not to be had.
        """
        if not 0 <= self.port < 2**16:
            raise InputError(f"cannot listen on port {self.port}: accepted are 0 to {2**16 - 1}")
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, *_, where = found[0]
            return socket.create_server(where[:2], family=family, backlog=2048)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"cannot listen on {self.host} port {self.port}: {reason}") from error


class _Reader:
    """A client that is to take what is sent: it is cut off when it took nothing for so many seconds."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport, self._seconds = transport, seconds
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def fell_behind(self) -> None:
        """More is on its way to it than is good."""
        self._left = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def caught_up(self) -> None:
        """It has taken most of it, or it is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._transport.get_write_buffer_size() < self._left:
            self.fell_behind()
        else:
            self._transport.abort()


class _Http(H11Protocol):
    """HTTP/1.1 with a deadline for the head of a request, for a body that nobody wants, for taking the answer."""

    def __init__(self, options: Options, **given: Any) -> None:
        super().__init__(**given)
        self._options = options
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._reader = _Reader(transport, self._options.slow)
        if len(self.connections) > self._options.connections:
            _log.warning("too many connections", extra={"connections": len(self.connections)})
            transport.abort()
            return
        self._await_client()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_client()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None:  # what was being answered goes nowhere any more
            self.cycle.disconnected = True
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # the answer to a HEAD has no room for the text
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.fell_behind()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.caught_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._reader.caught_up()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_client()

    @property
    def _overdue(self) -> bool:
        """Whether the client owes the rest of a head, or of a body that was answered without it."""
        if self.conn.their_state is h11.IDLE:
            return self.timeout_keep_alive_task is None  # between requests, uvicorn's own timer runs
        return self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE

    def _await_client(self) -> None:
        if self._overdue:
            if self._deadline is None:
                self._deadline = self.loop.call_later(self._options.handshake, self._expire)
        else:
            self._disarm()

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self._overdue:
            self.transport.abort()


class _WebSocket(WebSocketsSansIOProtocol):
    """WebSockets whose messages come in a bounded number of fragments; bad ones end quietly."""

    def __init__(self, options: Options, **given: Any) -> None:
        super().__init__(**given)
        self._options = options

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._reader = _Reader(transport, self._options.slow)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.fell_behind()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.caught_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reader.caught_up()
        super().connection_lost(exc)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.fail(1007, "not UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # it was denied; uvicorn 0.54 logs an error otherwise

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < _FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.fail(1008, "too many fragments")
            self.handle_parser_exception()


class _Server(uvicorn.Server):
    """Signals are ours: a stop is drained first, and ends with exit code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    service: Service,
    listener: socket.socket,
    *,
    ready: Callable[[], None] = lambda: None,
    stop: anyio.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal does not wait for clients.

    Parameters
    ----------
    service
        with running engines, which are left running.
    listener
        a listening socket; it is closed in the end.
    ready
        called when requests are answered.
    stop
        ends the server in place of a signal.
    """
    options = service.options
    config = uvicorn.Config(
        create_app(service),
        http=partial(_Http, options),  # type: ignore[arg-type]
        ws=partial(_WebSocket, options),  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=1 << 14,
        ws_max_size=options.max_frame,
        ws_per_message_deflate=False,
    )
    server = _Server(config)
    async with AsyncExitStack() as stack:
        stack.enter_context(closing(listener))
        tasks = await stack.enter_async_context(anyio.create_task_group())

        async def run() -> None:
            try:
                await server.serve(sockets=[listener])
            finally:
                tasks.cancel_scope.cancel()

        async def announce() -> None:
            while not server.started:
                await anyio.sleep(0.01)
            ready()

        async def end() -> None:
            await service.drain()
            server.should_exit = True

        tasks.start_soon(run)
        tasks.start_soon(announce)
        if stop is not None:
            await stop.wait()
            await end()
            return
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if service.draining:
                    server.should_exit = server.force_exit = True
                else:
                    _log.info("stopping", extra={"signal": int(number)})
                    tasks.start_soon(end)
