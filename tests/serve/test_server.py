"""The process: deadlines on what clients leave unfinished, and the end."""

import asyncio
import json
import re
import socket

import pytest
from tests.serve.conftest import said, serving, settled
from tests.serve.toys import Echo, Sum
from websockets.exceptions import InvalidStatus

from unending.core.errors import InputError
from unending.engine import Limits
from unending.serve import Address, Options

pytestmark = pytest.mark.anyio


async def raw(server, *parts, pause=0.0):
    """Send bytes, and all that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"GET /health HT"],
        [b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"x: y\r\n"],
    ],
)
async def test_a_request_that_does_not_come_is_cut_off(parts):
    async with serving(options=Options(handshake=0.2)) as server:
        assert await raw(server, *parts) == b""
        await settled(lambda: not [task for task in asyncio.all_tasks() if "run_asgi" in repr(task)])


async def test_a_body_that_does_not_come_is_a_timeout():
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    async with serving(options=Options(handshake=0.2, max_body=1000)) as server:
        answer = await raw(server, head)
        assert b"408" in answer.split(b"\r\n")[0]
        assert b'"timeout"' in answer


async def test_a_body_that_is_too_large():
    async with serving(options=Options(handshake=0.3, max_body=1000)) as server:
        async with server.http() as http:
            answer = await http.post("/v1/chat/completions", content=b"x" * 2000)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        chunked = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        answer = await raw(server, chunked, *[b"100\r\n" + b"x" * 256 + b"\r\n"] * 8)
        assert b"413" in answer.split(b"\r\n")[0]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused(garbage):
    async with serving(options=Options(handshake=0.2)) as server:
        answer = await raw(server, garbage)
        assert not answer or int(answer.split()[1]) in (400, 404, 405), answer
        async with server.http() as http:
            assert (await http.get("/health")).status_code == 200


async def test_a_broken_body_of_a_head_ends_the_connection_quietly(caplog):
    async with serving() as server:
        head = b"HEAD /v1/models HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        answer = await raw(server, head + b'{"model":de\r\n')
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
        async with server.http() as http:
            assert (await http.get("/health")).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= 40]


async def test_text_that_is_no_text_ends_the_connection_quietly(caplog):
    upgrade = (
        b"GET /v1/sessions HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    async with serving() as server:
        answer = await raw(server, upgrade, b"\x81\x82\x00\x00\x00\x00\xff\xfe", pause=0.1)
        assert (1007).to_bytes(2, "big") in answer
        await settled(lambda: not server.service.connections)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_one_connection_too_many():
    async with serving(options=Options(connections=2)) as server, server.sessions() as first:
        async with server.sessions() as second:
            assert await raw(server, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n") == b""
            await second.open("b")
        await settled(lambda: len(server.service.connections) == 1)
        async with server.http() as http:
            assert (await http.get("/health")).status_code == 200
        await first.open()


async def test_a_connection_that_holds_nothing_is_ended_in_time():
    async with serving(options=Options(idle=0.2)) as server:
        async with server.sessions() as talk:
            assert (await talk.expect("error"))["code"] == "timeout"
        async with server.sessions() as talk:
            await talk.open()
            await asyncio.sleep(0.4)
            assert said(await talk.ask("still")) == "still|"


async def test_a_client_that_does_not_read_is_cut_off():
    limits = Limits(outbox_bytes=64 << 20)
    async with serving(options=Options(slow=0.3), limits=limits) as server, server.sessions() as other:
        small = socket.create_connection(("127.0.0.1", server.port))
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader, writer = await asyncio.open_connection(sock=small, limit=1000)
        writer.write(
            b"GET /v1/sessions HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )

        def frame(**message):
            content = json.dumps({"system": "sum", "session": "s", **message}).encode()
            return b"\x81\xfe" + len(content).to_bytes(2, "big") + b"\x00" * 4 + content

        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(type="session.open"))
        rows = [[1.0, 1.0]] * 4000
        for _ in range(200):
            writer.write(frame(type="input.push", chunk={"kind": "Rows", "values": rows}))
        await settled(lambda: "/s" in server.entries("sum"))
        await settled(lambda: len(server.service.connections) == 1)
        writer.transport.abort()
        await settled(lambda: not server.entries("sum")["/s"].held)
        await other.open("other")
        assert said(await other.ask("me", "other")) == "me|"


async def ask_for_a_large_snapshot(server):
    """A connection on which 32 MB are on their way."""
    async with server.sessions() as talk:
        await talk.open("s", "sum")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 16)
        writer.write(b"GET /v1/sessions/sum/s/snapshot HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        assert length > 32_000_000
        return reader, writer, length


async def test_a_client_that_does_not_take_an_answer_is_cut_off():
    async with serving(Sum(width=4_000_000), options=Options(slow=0.3, grace=2.0)) as server:
        reader, writer, length = await ask_for_a_large_snapshot(server)
        await asyncio.sleep(1.5)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(length)
        writer.close()


async def test_a_client_that_takes_an_answer_slowly_gets_it_whole():
    async with serving(Sum(width=4_000_000), options=Options(slow=0.6, grace=2.0)) as server:
        reader, writer, length = await ask_for_a_large_snapshot(server)
        for _ in range(10):
            length -= len(await reader.readexactly(2_000_000))
            await asyncio.sleep(0.1)
        await reader.readexactly(length)
        writer.close()


async def test_a_stop_tells_the_clients_ends_the_answer_and_saves(tmp_path):
    serving_slowly = serving(Echo(pause=0.01), store=tmp_path)
    async with serving_slowly as server, server.http() as http, server.sessions() as talk:
        await talk.open()
        await talk.send("input.push", chunk={"kind": "Text", "text": "blue"})
        await talk.until("session.idle")
        body = {"model": "echo", "messages": [{"role": "user", "content": "x" * 20}], "session": "chat"}
        answer = asyncio.create_task(http.post("/v1/chat/completions", json=body))
        await settled(lambda: any(each.record and each.record.ticks for each in server.entries().values()))
        server.stop.set()
        await talk.expect("server.draining")
        assert (await http.get("/health")).status_code == 503
        await talk.send("input.push", chunk={"kind": "Text", "text": "red"})
        assert (await talk.expect("error"))["code"] == "draining"
        await talk.send("session.open", "new")
        assert (await talk.expect("error"))["code"] == "draining"
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 503
        with pytest.raises(InvalidStatus, match="503"):
            async with server.sessions():
                pass
        assert (await answer).json()["choices"][0]["message"]["content"] == "x" * 20 + "|"
        await talk.websocket.wait_closed()
        assert talk.websocket.close_code == 1012
    async with serving(Echo(pause=0.01), store=tmp_path) as server, server.sessions() as talk:
        await talk.send("session.resume")
        await talk.until("session.idle")
        assert said(await talk.ask("what?")) == "what?|blue"


def test_addresses():
    assert all(Address(host).loopback for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"))
    assert not any(Address(host).loopback for host in ("0.0.0.0", "::", "example.org", "10.0.0.1"))
    taken = Address(port=0).listen()
    with pytest.raises(InputError, match="cannot listen"):
        Address(port=taken.getsockname()[1]).listen()
    taken.close()
    for wrong in (Address(port=70_000), Address("no such host.invalid")):
        with pytest.raises(InputError, match="cannot listen"):
            wrong.listen()
