"""One WebSocket: who it is, what comes in under its limits, what goes out under its deadline."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from unending.serve import wire
from unending.serve.access import Account, bearer
from unending.serve.failures import Failure, Refusal, failure_of
from unending.serve.service import Service

__all__ = ["Socket", "deny", "talk"]

_GOING_AWAY, _POLICY, _RESTART = 1001, 1008, 1012
_PATIENCE = 100
"""Errors in a row after which a connection is closed."""


async def talk(socket: "Socket") -> None:
    """The life of a WebSocket, from its handshake to its end."""
    async with socket.accepted() as let_in:
        if let_in:
            try:
                await socket.run()
            except Exception as error:
                socket.end(_POLICY, (await socket.fail(error)).code)


async def deny(websocket: WebSocket, failure: Failure) -> None:
    """Answer the handshake with an HTTP error."""
    response = JSONResponse(failure.body(), failure.status, headers=failure.headers())
    await websocket.send_denial_response(response)


class Socket(ABC):
    """A WebSocket that was let in.

    Parameters
    ----------
    service
        what it reaches.
    websocket
        not yet accepted.
    kind
        its protocol, for the metrics.
    """

    def __init__(self, service: Service, websocket: WebSocket, kind: str) -> None:
        self.service, self.kind = service, kind
        self.account: Account | None = None
        self.scope = anyio.CancelScope()
        self._websocket = websocket
        self._sending = anyio.Lock()
        self._errors = 0
        self._code, self._reason = _GOING_AWAY, ""

    @abstractmethod
    async def run(self) -> None:
        """Talk until the client goes."""

    def enter(self) -> str | None:
        """Before the handshake is answered: who it is, and the subprotocol; `Refusal` if it may not come in."""
        token = bearer(self._websocket.headers)
        if token or self.service.access.open:
            self.account = self.service.access.account(token)
        return None

    @asynccontextmanager
    async def accepted(self) -> AsyncIterator[bool]:
        """Answer the handshake, and close whatever happens; False if it was denied."""
        service, websocket = self.service, self._websocket
        try:
            service.access.check_origin(websocket.headers, websocket.url.scheme == "wss")
            service.require_open()
            subprotocol = self.enter()
        except Refusal as error:
            service.metrics.errors.labels(error.code).inc()
            await deny(websocket, failure_of(error))
            yield False
            return
        await websocket.accept(subprotocol)
        service.connections.add(self)
        service.metrics.connected.labels(self.kind).inc()
        service.metrics.connections.labels(self.kind).inc()
        try:
            with self.scope:
                yield True
        finally:
            service.connections.discard(self)
            service.metrics.connections.labels(self.kind).dec()
            with anyio.move_on_after(1.0, shield=True):
                with suppress(RuntimeError, WebSocketDisconnect, OSError):  # the client may be faster
                    await websocket.close(self._code, self._reason)

    async def receive(self, timeout: float | None) -> bytes | None:
        """The next message; None when the client is gone.

        Raises
        ------
        Refusal
            `timeout` when nothing comes in so many seconds.
        """
        with anyio.move_on_after(timeout):
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return None
            text = message.get("text")
            content: bytes = text.encode() if text is not None else message["bytes"]
            self.service.metrics.bytes.labels("in").inc(len(content))
            return content
        raise Refusal("timeout", f"no message in {timeout:g} s")

    def charge(self, content: bytes) -> Refusal | None:
        """Count a message against the limits of its owner: what is to be told of it if it is too much.

        It is told once the message is read as far as its name and number, so that the client knows which one it was.
        """
        try:
            if self.account is not None:
                self.account.spend(len(content))
        except Refusal as error:
            return error
        return None

    async def send(self, message: dict[str, Any]) -> None:
        """Send one message. A client that does not take it in time is cut off."""
        content = wire.encode(message)
        with anyio.move_on_after(self.service.options.slow) as deadline:
            async with self._sending:
                try:
                    await self._websocket.send_text(content.decode())
                except (RuntimeError, WebSocketDisconnect, OSError):
                    self.scope.cancel()
                    return
        if deadline.cancelled_caught:
            self.end(_POLICY, "too slow")
            return
        self.service.metrics.bytes.labels("out").inc(len(content))

    async def fail(self, error: Exception, **about: Any) -> Failure:
        """Tell the client of an error; one that makes nothing but errors is cut off."""
        failure = failure_of(error)
        self.service.metrics.errors.labels(failure.code).inc()
        self._errors += 1
        await self.send(self.shape(failure, about))
        if self._errors >= _PATIENCE:
            self.end(_POLICY, "too many errors")
        return failure

    def shape(self, failure: Failure, about: dict[str, Any]) -> dict[str, Any]:
        """The message of a failure; a protocol may have its own."""
        return failure.event(**about)

    def well(self) -> None:
        """Something was in order: the errors in a row are counted anew."""
        self._errors = 0

    async def drain(self) -> None:
        with anyio.move_on_after(1.0):
            await self.send({"type": "server.draining"})

    def close(self) -> None:
        self.end(_RESTART, "the server is stopping")

    def end(self, code: int, reason: str) -> None:
        """Close with this code."""
        self._code, self._reason = code, reason
        self.scope.cancel()
