"""The WebSocket `/v1/sessions`: many sessions of any system on one connection."""

import anyio
from starlette.websockets import WebSocket

from unending.core import Event
from unending.serve import wire
from unending.serve.failures import Refusal
from unending.serve.held import Held
from unending.serve.service import Service
from unending.serve.sockets import Socket, talk

__all__ = ["Sessions", "sessions_socket"]


class Sessions(Socket):
    """One connection of the protocol."""

    def __init__(self, service: Service, websocket: WebSocket) -> None:
        super().__init__(service, websocket, "sessions")
        self.backlog = 0
        self._held: dict[tuple[str, str], Held] = {}

    async def run(self) -> None:
        if self.account is None and not await self._introduce():
            return
        assert self.account is not None
        with self.account.connected():
            async with anyio.create_task_group() as tasks:
                await self._listen(tasks)
                tasks.cancel_scope.cancel()

    async def _introduce(self) -> bool:
        """Take the token that a browser sends as its first message."""
        try:
            content = await self.receive(self.service.options.handshake)
            if content is None:
                return False
            message = wire.decode(content)
            if not isinstance(message, wire.Auth):
                raise Refusal("unauthorized", "the first message must be auth, with a token")
            self.account = self.service.access.account(message.token)
        except Refusal as error:
            await self.fail(error)
            self.end(1008, error.code)
            return False
        await self.send({"type": "auth.ok", "owner": self.account.owner})
        return True

    async def _listen(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            try:
                content = await self.receive(None if self._held else self.service.options.idle)
            except Refusal as error:
                await self.fail(error)
                return
            if content is None:
                return
            over = self.charge(content)
            try:
                message = wire.decode(content)
            except Refusal as error:
                await self.fail(over or error)
                continue
            if isinstance(message, wire.Auth):  # a client that cannot know whether a token is asked for
                await self.send({"type": "auth.ok", "owner": self.account.owner if self.account else ""})
                continue
            await self._take(message, len(content), over, tasks)

    async def _take(
        self, message: wire.Message, size: int, over: Refusal | None, tasks: anyio.abc.TaskGroup
    ) -> None:
        name = (message.system, message.session)
        about = {"system": message.system, "session": message.session, "id": message.id}
        try:
            if over is not None:
                raise over
            held = self._held.get(name)
            if isinstance(message, wire.Open | wire.Resume | wire.Watch):
                if held is not None:
                    raise Refusal("taken", "this connection has that session already")
                engine = self.service.engine(message.system)
                assert self.account is not None
                held = self._held[name] = Held(
                    self, engine, self.service.key(self.account, message.session), message
                )
                tasks.start_soon(held.run)
                return
            if held is None:
                raise Refusal("not_found", "this connection has no such session; open or resume it first")
            await held.take(message, size)
        except Exception as error:
            await self.fail(error, **about, seq=getattr(message, "seq", None))

    def forget(self, held: Held) -> None:
        """The connection has that session no more."""
        self._held = {name: each for name, each in self._held.items() if each is not held}

    async def give(self, name: dict[str, str], event: Event) -> None:
        """Send an output."""
        await self.send({**wire.output(event), **name})


async def sessions_socket(websocket: WebSocket) -> None:
    """The endpoint."""
    await talk(Sessions(websocket.app.state.service, websocket))
