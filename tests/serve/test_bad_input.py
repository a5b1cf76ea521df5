"""Clients that leave, flood, lie and babble: a clear answer, nobody else disturbed, nothing left behind."""

import asyncio
import json
import socket
import struct
from contextlib import nullcontext, suppress

import pytest
from tests.serve.conftest import said, serving, settled
from tests.serve.toys import Echo, Sum
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from unending.engine import Limits as Capacity
from unending.serve import Access, Limits, Options, new_token, read_tokens

pytestmark = pytest.mark.anyio


async def closed_with(talk):
    """The code with which the server closes, and the messages before it."""
    seen = []
    while True:
        try:
            seen.append(await talk.next())
        except ConnectionClosed as closed:
            return closed.rcvd.code, seen


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "null",
        "[]",
        '{"type":"session.open"}',
        '{"type":"session.open","system":"echo","session":"../../etc"}',
        '{"type":"session.open","system":"echo","session":"a\\n"}',
        '{"type":"session.open","system":"echo","session":"a","path":"/etc/passwd"}',
        '{"type":"session.open","system":"echo","session":"a","seed":-1}',
        '{"type":"input.push","system":"echo","session":"a","chunk":7}',
        '{"type":"session.resume","system":"echo","session":"a","after":1e999}',
        '{"type":7}',
        "[" * 100_000,
        b"\x00\xff\xfe",
        '{"type":"nothing","system":"echo","session":"a"}',
    ],
)
async def test_garbage_is_a_bad_message_and_the_connection_goes_on(frame):
    async with serving() as server, server.sessions() as talk:
        await talk.websocket.send(frame)
        assert (await talk.expect("error"))["code"] == "bad_message"
        await talk.open()
        assert said(await talk.ask("ok")) == "ok|"
        assert set(server.entries()) == {"/a"}


async def test_unknown_systems_and_sessions():
    async with serving() as server, server.sessions() as talk:
        for system in ("nothing", "", "builtins:object", "../echo"):
            await talk.send("session.open", system=system)
            assert (await talk.expect("error"))["code"] == "unknown_system"
        for kind in (
            "session.resume",
            "session.release",
            "session.delete",
            "input.finish",
            "session.interrupt",
        ):
            await talk.send(kind, id=kind)
            error = await talk.expect("error")
            assert (error["code"], error["id"]) == ("not_found", kind)


async def test_a_frame_that_is_too_large_ends_the_connection_alone():
    options = Options(max_frame=1000)
    async with serving(options=options) as server, server.sessions() as other, server.sessions() as talk:
        await other.open("other")
        await talk.open()
        await talk.websocket.send("x" * 2000)
        assert (await closed_with(talk))[0] == 1009
        assert said(await other.ask("me", "other")) == "me|"
        await other.send("session.resume")  # what the connection held is free again
        await other.expect("session.opened")


async def test_nothing_but_errors_ends_the_connection():
    async with serving() as server, server.sessions() as talk:
        for _ in range(100):
            await talk.websocket.send("{")
        code, seen = await closed_with(talk)
        assert (code, len(seen)) == (1008, 100)


async def test_many_fragments_end_the_connection():
    async with serving() as server, server.sessions() as talk:

        async def fragments():
            for _ in range(3000):
                yield ""

        with suppress(ConnectionClosed):
            await talk.websocket.send(fragments())
        assert (await closed_with(talk))[0] == 1008


@pytest.mark.parametrize("cut", ["within a frame", "after the push", "without a word"])
async def test_a_client_that_is_gone_mid_push(cut):
    """The connection is reset while input is on its way: nothing of it is half there, and nothing hangs."""
    async with serving(Echo(pause=0.005)) as server, server.sessions() as other:
        await other.open("other")
        before = len(asyncio.all_tasks())
        for number in range(5):
            name = f"s{number}"
            websocket = await connect(f"{server.ws}/v1/sessions")
            message = {"system": "echo", "session": name}
            await websocket.send(json.dumps({"type": "session.open", **message}))
            await websocket.recv()
            push = {"type": "input.push", **message, "chunk": {"kind": "Query", "text": "x" * 60}}
            transport = websocket.transport
            if cut == "after the push":
                await websocket.send(json.dumps(push))
            elif cut == "within a frame":
                transport.write(
                    b"\x81\xfe" + struct.pack("!H", 400) + b"\x00" * 4 + json.dumps(push).encode()[:40]
                )
                await asyncio.sleep(0.01)
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
            await settled(lambda name=name: not server.entries()[f"/{name}"].held)
            await websocket.wait_closed()
        await settled(lambda: len(server.service.connections) == 1)
        await settled(lambda: len(asyncio.all_tasks()) <= before)
        assert server.service.access.accounts[""].connections == 1
        assert said(await other.ask("still", "other")) == "still|"
        assert server.service.engines["echo"].check() == []


async def test_a_flood_is_bounded_and_told():
    options = Options(max_backlog=20_000)
    async with (
        serving(Echo(pause=0.02), limits=Capacity(queue_bytes=2000), options=options) as server,
        server.sessions() as flood,
        server.sessions() as other,
    ):
        await flood.open("flood")
        await other.open("other")
        await flood.send("input.push", "flood", chunk={"kind": "Query", "text": "x" * 60})
        for number in range(200):
            await flood.send("input.push", "flood", chunk={"kind": "Text", "text": "y" * 1000}, id=number)
        codes = set()
        while "busy" not in codes:
            if (message := await flood.next())["type"] == "error":
                codes.add(message["code"])
                assert message["retry_after"] > 0
        assert server.entries()["/flood"].queued_bytes <= 2000
        assert said(await other.ask("me", "other")) == "me|"


async def test_bytes_of_a_body_without_a_length_count_too(tmp_path):
    token, line = new_token("ann")
    (tmp_path / "tokens").write_text(f"{line} bytes=1000")
    access = Access(read_tokens(tmp_path / "tokens"))
    headers = {"authorization": f"Bearer {token}"}

    async def pieces():
        for _ in range(50):
            yield b"x" * 1000

    async with serving(access=access) as server, server.http(headers=headers) as http:
        assert (await http.post("/v1/chat/completions", content=pieces())).status_code == 400
        refused = await http.get("/v1/systems")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "limit")
        assert int(refused.headers["retry-after"]) > 30


async def test_limits_of_a_token(tmp_path):
    token, line = new_token("ann")
    slow, second = new_token("bob")
    (tmp_path / "tokens").write_text(f"{line} sessions=2 connections=1 rate=20\n{second} rate=0.01\n")
    access = Access(read_tokens(tmp_path / "tokens"))
    head = {"Authorization": f"Bearer {token}"}
    async with serving(access=access) as server, server.sessions(additional_headers=head) as talk:
        await talk.open("a")
        await talk.open("b")
        await talk.send("session.open", "c")
        assert (await talk.expect("error"))["code"] == "limit"
        await talk.send("session.fork", "a", to="d")
        assert (await talk.expect("error"))["code"] == "limit"
        async with server.sessions(additional_headers=head) as second:
            code, seen = await closed_with(second)
            assert (code, seen[0]["code"]) == (1008, "limit")
        for _ in range(60):
            await talk.websocket.send("{")
        errors = [(await talk.expect("error")) for _ in range(60)]
        assert {each["code"] for each in errors} == {"bad_message", "limit"}
        assert all(each["retry_after"] > 0 for each in errors if each["code"] == "limit")
        async with server.http(headers={"Authorization": f"Bearer {slow}"}) as http:
            answers = [await http.get("/v1/systems") for _ in range(3)]
            assert [each.status_code for each in answers] == [200, 429, 429]
            assert int(answers[1].headers["retry-after"]) > 30


async def test_tokens_at_the_door(tmp_path):
    token, line = new_token("ann")
    other, second = new_token("bob")
    (tmp_path / "tokens").write_text(f"{line}\n{second}\n")
    access = Access(read_tokens(tmp_path / "tokens"))
    async with serving(access=access, options=Options(handshake=0.3)) as server:
        async with server.http() as http:
            assert (await http.get("/health")).status_code == 200
            for path in ("/v1/systems", "/v1/sessions", "/v1/models", "/metrics", "/v1/sessions/echo/a"):
                answer = await http.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized"), path
                assert answer.headers["www-authenticate"] == "Bearer"
            for wrong in ("Bearer x", "Basic x", f"Bearer {token}x", "Bearer \u00e9".encode("latin-1")):
                assert (await http.get("/v1/systems", headers={"authorization": wrong})).status_code == 401
            assert (
                await http.get("/v1/systems", headers={"authorization": f"bearer {token}"})
            ).status_code == 200
        for message, code in (('{"type":"auth","token":"x"}', "unauthorized"), ("{", "bad_message")):
            async with server.sessions() as talk:
                await talk.websocket.send(message)
                assert [each["code"] for each in (await closed_with(talk))[1]] == [code]
        async with server.sessions() as talk:  # says nothing
            code, seen = await closed_with(talk)
            assert (code, seen[0]["code"]) == (1008, "timeout")
        async with server.sessions() as ann, server.sessions() as bob:
            for talk, given in ((ann, token), (bob, other)):
                await talk.websocket.send(json.dumps({"type": "auth", "token": given}))
                await talk.expect("auth.ok")
            await ann.open("a")
            await bob.send("session.resume", "a")  # another's is as if it were not there
            assert (await bob.expect("error"))["code"] == "not_found"
            await bob.open("a")
            assert set(server.entries()) == {"ann/a", "bob/a"}
            async with server.http(headers={"authorization": f"Bearer {other}"}) as http:
                assert len((await http.get("/v1/sessions")).json()["sessions"]) == 1


async def test_scripts_of_foreign_pages_are_kept_out():
    access = Access(origins=["https://ours.example"], hosts=["127.0.0.1", "localhost"])
    async with serving(access=access) as server, server.http() as http:
        for origin, let_in in (
            (server.url, True),
            ("https://ours.example", True),
            ("https://evil.example", False),
            ("null", False),
            (server.url.replace("http:", "https:"), False),
            ("http://[", False),
        ):
            answer = await http.get("/v1/systems", headers={"origin": origin})
            assert answer.status_code == (200 if let_in else 403), origin
            with nullcontext() if let_in else pytest.raises(InvalidStatus, match="403"):
                async with server.sessions(origin=origin) as talk:
                    await talk.open(f"s{len(server.entries())}")
        # a name that was rebound to this machine
        answer = await http.get(
            "/v1/systems", headers={"host": "evil.example", "origin": "http://evil.example"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin")
        preflight = {"origin": "https://ours.example", "access-control-request-method": "POST"}
        allowed = await http.options("/v1/chat/completions", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "https://ours.example"


async def test_a_session_of_another_model(tmp_path):
    async with serving(Echo(), store=tmp_path) as server, server.sessions() as talk:
        await talk.open()
        await talk.ask("why?")
    async with serving(Echo(max_new_tokens=7), store=tmp_path) as server, server.sessions() as talk:
        await talk.send("session.resume")
        error = await talk.expect("error")
        assert error["code"] == "foreign_snapshot"
        await talk.open("b")
        assert said(await talk.ask("me", "b")) == "me|"


async def test_snapshots_that_are_foreign_or_broken():
    async with serving(Echo(), Sum()) as server, server.sessions() as talk, server.http() as http:
        await talk.open()
        await talk.ask("blue")
        content = (await http.get("/v1/sessions/echo/a/snapshot")).content
        put = "/v1/sessions/{}/{}/snapshot".format
        for path, body, status, code in (
            (put("sum", "x"), content, 409, "foreign_snapshot"),
            (put("echo", "x"), content[:-1], 422, "corrupt"),
            (put("echo", "x"), content[:300] + b"\x00" + content[301:], 422, "corrupt"),
            (put("echo", "x"), b"", 422, "corrupt"),
            (put("echo", "x"), b"\xff" * 5000, 422, "corrupt"),
            (put("echo", "x"), b"\x00" * 2_000_000, 413, "too_large"),
            (put("echo", "a"), content, 409, "exists"),
            (put("echo", "..%2Fx"), content, 404, "not_found"),
        ):
            answer = await http.put(path, content=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), path
        assert set(server.entries()) == {"/a"}
        assert (await http.put(put("echo", "b"), content=content)).status_code == 201
        await talk.send("session.resume", "b")
        await talk.until("session.idle")
        assert said(await talk.ask("red", "b")) == "red|"


async def test_importing_needs_leave(tmp_path):
    token, line = new_token("ann")
    (tmp_path / "tokens").write_text(line)
    access = Access(read_tokens(tmp_path / "tokens", Limits()))
    async with (
        serving(access=access) as server,
        server.http(headers={"authorization": f"Bearer {token}"}) as http,
    ):
        answer = await http.put("/v1/sessions/echo/a/snapshot", content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
