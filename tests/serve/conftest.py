"""A server on a loopback port, in the loop of the test, and clients for it."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx
import pytest
from tests.serve.toys import Echo, Sum
from websockets.asyncio.client import connect

from unending.engine import Engine, Limits
from unending.serve import Access, Address, Options, Service, serve


@pytest.fixture
def anyio_backend():
    return "asyncio"


@dataclass
class Running:
    service: Service
    port: int
    stop: anyio.Event

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self):
        return f"ws://127.0.0.1:{self.port}"

    def entries(self, system="echo"):
        return dict(self.service.engines[system].scheduler.entries)

    @asynccontextmanager
    async def http(self, **options):
        async with httpx.AsyncClient(base_url=self.url, timeout=20, **options) as client:
            yield client

    @asynccontextmanager
    async def sessions(self, **options):
        async with connect(f"{self.ws}/v1/sessions", max_queue=None, **options) as websocket:
            yield Talk(websocket)


class Talk:
    """The protocol of /v1/sessions, from the client's side."""

    def __init__(self, websocket):
        self.websocket = websocket

    async def send(self, kind, session="a", system="echo", **values):
        await self.websocket.send(json.dumps({"type": kind, "system": system, "session": session, **values}))

    async def next(self):
        async with asyncio.timeout(10):
            return json.loads(await self.websocket.recv())

    async def until(self, kind):
        """The messages up to the first of this kind."""
        seen = []
        while not seen or seen[-1]["type"] != kind:
            seen.append(await self.next())
        return seen

    async def expect(self, kind):
        """The next message, which is of this kind."""
        message = await self.next()
        assert message["type"] == kind, message
        return message

    async def open(self, session="a", system="echo", **values):
        await self.send("session.open", session, system, **values)
        return await self.expect("session.opened")

    async def ask(self, text, session="a"):
        """Push a question; the outputs of its answer."""
        await self.send("input.push", session, chunk={"kind": "Query", "text": text})
        seen = await self.until("session.idle")
        return [each for each in seen if each["type"] == "output"]


def said(outputs):
    return "".join(each["chunk"]["text"] for each in outputs)


@asynccontextmanager
async def serving(*operators, access=None, options=None, limits=None, store=None):
    """A running server; leaving it stops it as a signal does."""
    stop, ready = anyio.Event(), anyio.Event()
    engines = {}
    async with asyncio.timeout(60):
        for operator in operators or (Echo(), Sum()):
            engine = Engine(operator, limits or Limits(), store=store and store / operator.spec.name)
            engines[operator.spec.name] = await engine.__aenter__()
        service = Service(engines, access or Access(), options or Options(grace=2.0))
        await service.sweep()
        listener = Address(port=0).listen()
        port = listener.getsockname()[1]
        async with anyio.create_task_group() as tasks:

            async def run():
                await serve(service, listener, ready=ready.set, stop=stop)

            tasks.start_soon(run)
            await ready.wait()
            try:
                yield Running(service, port, stop)
            finally:
                stop.set()
        for engine in engines.values():
            assert engine.check() == []
            await engine.__aexit__()


async def settled(condition):
    """Wait until a condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
