"""What all protocols share: the engines, who uses what of them, the connections that are open."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import anyio

from unending.core.errors import SessionNotFoundError, StorageError
from unending.engine import Engine, SessionView, Stream
from unending.serve.access import Access, Account
from unending.serve.failures import Refusal
from unending.serve.metrics import Metrics

__all__ = ["Connection", "Options", "Service"]

THROWAWAY = "~"
"""Begins the name of a session that lives for one request; no client can name one."""


@dataclass(frozen=True)
class Options:
    """Sizes and times of the server.

    Parameters
    ----------
    max_frame, max_body
        bytes of one WebSocket message, of one request body.
    max_backlog
        bytes of messages that wait on one connection.
    handshake, idle, slow
        seconds: for the first message and for a whole request; of a connection that holds nothing; that a client
        may take to accept what is sent.
    grace
        seconds that answers in the making have when the server stops.
    connections
        open connections, those included that did not yet say who they are.
    """

    max_frame: int = 1 << 20
    max_body: int = 1 << 20
    max_backlog: int = 1 << 22
    handshake: float = 10.0
    idle: float = 300.0
    slow: float = 30.0
    grace: float = 10.0
    connections: int = 2048


class Connection(Protocol):
    """A WebSocket that is open."""

    async def drain(self) -> None:
        """Tell the client that the server stops."""

    def close(self) -> None:
        """End it, as the server stops."""


class Service:
    """The engines and all that stands between them and the network.

    Parameters
    ----------
    engines
        running engines by the name of their system.
    access
        who may come in.
    """

    def __init__(
        self, engines: Mapping[str, Engine], access: Access | None = None, options: Options | None = None
    ) -> None:
        self.engines = dict(engines)
        self.access = access or Access()
        self.options = options or Options()
        self.metrics = Metrics(self.engines)
        self.connections: set[Connection] = set()
        self.draining = False
        self._answers = 0
        self._opening: dict[str, anyio.Lock] = {}

    def engine(self, system: str) -> Engine:
        """The engine of a system that is served; `Refusal` with code `unknown_system` otherwise."""
        if system not in self.engines:
            served = ", ".join(sorted(self.engines))
            raise Refusal(
                "unknown_system", f"this server does not serve that system; it serves {served}", param="model"
            )
        return self.engines[system]

    def key(self, account: Account, session: str) -> str:
        """The key of a session in its engine."""
        return f"{account.owner}/{session}"

    def require_open(self) -> None:
        """`Refusal` with code `draining` when the server stops."""
        if self.draining:
            raise Refusal("draining", "the server is stopping; its sessions are kept", retry_after=5.0)

    def views(self, account: Account) -> list[tuple[str, str, SessionView]]:
        """System, name and view of an owner's sessions, without those of single requests."""
        prefix = f"{account.owner}/"
        return [
            (system, view.key.removeprefix(prefix), view)
            for system, engine in self.engines.items()
            for view in engine.sessions(prefix)
            if not view.key.startswith(prefix + THROWAWAY)
        ]

    def view(self, account: Account, system: str, session: str) -> SessionView:
        """One of them; `SessionNotFoundError` if there is none."""
        return self.engine(system).session(self.key(account, session))

    @asynccontextmanager
    async def room(self, account: Account) -> AsyncIterator[None]:
        """For the making of one session: one at a time an owner, and only while the limit allows it."""
        self.require_open()
        async with self._opening.setdefault(account.owner, anyio.Lock()):
            prefix = f"{account.owner}/"
            owned = sum(
                key.startswith(prefix) for engine in self.engines.values() for key in engine.scheduler.entries
            )
            if owned >= account.limits.sessions:
                raise Refusal("limit", f"you have {owned} sessions, which is your limit; delete one")
            yield

    @asynccontextmanager
    async def throwaway(self, account: Account, system: str, seed: int) -> AsyncIterator[Stream]:
        """A session for one request."""
        engine = self.engine(system)
        key = self.key(account, THROWAWAY + secrets.token_hex(8))
        try:
            async with self.room(account):
                stream = await engine.open(key, seed=seed)
            yield stream
        finally:
            with anyio.CancelScope(shield=True), suppress(SessionNotFoundError, StorageError):
                await engine.delete(key)

    @asynccontextmanager
    async def kept(
        self, account: Account, system: str, session: str, seed: int
    ) -> AsyncIterator[tuple[Stream, bool]]:
        """A session that stays, and whether it is new."""
        self.require_open()
        engine, key, new = self.engine(system), self.key(account, session), False
        try:
            stream = await engine.resume(key)
        except SessionNotFoundError:
            async with self.room(account):
                stream, new = await engine.open(key, seed=seed), True
        try:
            yield stream, new
        finally:
            with anyio.CancelScope(shield=True):
                await stream.release()

    async def sweep(self) -> None:
        """Forget the sessions of single requests that a killed process left behind."""
        for engine in self.engines.values():
            for key in list(engine.scheduler.entries):
                if f"/{THROWAWAY}" in key:
                    await engine.delete(key)

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """While an answer is in the making; the server waits for it before it stops."""
        self._answers += 1
        try:
            yield
        finally:
            self._answers -= 1

    async def drain(self) -> None:
        """Take nothing new, tell every client, give answers in the making their time, close the connections."""
        self.draining = True
        told: Sequence[Connection] = list(self.connections)
        async with anyio.create_task_group() as tasks:
            for connection in told:
                tasks.start_soon(connection.drain)
        with anyio.move_on_after(self.options.grace):
            while self._answers:
                await anyio.sleep(0.02)
        for connection in list(self.connections):
            connection.close()
