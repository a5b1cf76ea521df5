"""/v1/sessions over a real WebSocket."""

import asyncio
import base64

import numpy as np
import pytest
from tests.serve.conftest import said, serving
from tests.serve.toys import Echo, Thinker

from unending.engine import Limits
from unending.serve import Access, new_token, read_tokens

pytestmark = pytest.mark.anyio


async def test_a_session_from_open_to_delete():
    async with serving() as server, server.sessions() as talk:
        opened = await talk.open()
        assert (opened["in_seq"], opened["out_seq"], opened["after"]) == (0, 0, -1)
        await talk.send("input.push", chunk={"kind": "Text", "text": "blue"}, id="first")
        ack = await talk.expect("input.ack")
        assert (ack["seq"], ack["shed"], ack["id"]) == (1, False, "first")
        await talk.expect("session.idle")
        outputs = await talk.ask("what?")
        assert said(outputs) == "what?|blue"
        assert [each["seq"] for each in outputs] == list(range(10))
        assert outputs[0]["t_start"] == 4.0
        await talk.send("output.ack", seq=9)
        await talk.send("session.delete")
        await talk.expect("session.deleted")
        assert not server.entries()


async def test_arrays_come_and_go_as_base64_or_lists():
    async with serving() as server, server.sessions() as talk:
        await talk.open("s", "sum")
        rows = np.arange(6.0).reshape(3, 2)
        packed = {"dtype": "float64", "shape": [3, 2], "base64": base64.b64encode(rows.tobytes()).decode()}
        for values in (packed, rows.tolist()):
            await talk.send("input.push", "s", "sum", chunk={"kind": "Rows", "values": values})
        outputs = [each for each in await talk.until("session.idle") if each["type"] == "output"]
        if len(outputs) < 2:
            outputs += [each for each in await talk.until("session.idle") if each["type"] == "output"]
        got = [
            np.frombuffer(base64.b64decode(each["chunk"]["values"]["base64"])).reshape(
                each["chunk"]["values"]["shape"]
            )
            for each in outputs
        ]
        assert np.array_equal(np.concatenate(got), np.cumsum(np.concatenate([rows, rows]), axis=0))


async def test_thoughts_say_that_they_are_such_while_the_text_still_comes():
    async with serving(Thinker()) as server, server.sessions() as talk:
        await talk.open("a", "thinker")
        for text in ("blue", "red"):
            await talk.send("input.push", "a", "thinker", chunk={"kind": "Text", "text": text})
            outputs = [each for each in await talk.until("session.idle") if each["type"] == "output"]
            assert [each["chunk"]["role"] for each in outputs] == ["thought"]
        await talk.send("input.push", "a", "thinker", chunk={"kind": "Query", "text": "?"})
        outputs = [each["chunk"] for each in await talk.until("session.idle") if each["type"] == "output"]
        roles = [chunk.get("role", "") for chunk in outputs]
        assert roles == ["thought", "thought", "deep", "answer", "answer", ""]


async def test_many_sessions_on_one_connection_do_not_mix():
    async with serving(limits=Limits(slots=16)) as server, server.sessions() as talk:
        names = [f"s{number}" for number in range(12)]
        for name in names:
            await talk.send("session.open", name)
            await talk.send("input.push", name, chunk={"kind": "Text", "text": name})
            await talk.send("input.push", name, chunk={"kind": "Query", "text": "?"})
        texts = dict.fromkeys(names, "")
        while any(len(text) < len(name) + 2 for name, text in texts.items()):
            message = await talk.next()
            assert message["type"] != "error", message
            if message["type"] == "output":
                texts[message["session"]] += message["chunk"]["text"]
        assert texts == {name: f"?|{name}" for name in names}


async def test_a_client_goes_on_after_the_output_it_has():
    async with serving() as server:
        async with server.sessions() as talk:
            await talk.open()
            first = await talk.ask("why?")
        async with server.sessions() as talk:
            await talk.send("session.resume", after=1)
            opened = await talk.expect("session.opened")
            assert (opened["in_seq"], opened["out_seq"], opened["after"]) == (1, 5, 1)
            again = await talk.until("session.idle")
            assert [each["seq"] for each in again[:-1]] == [2, 3, 4]
            assert said(first) == said(first[:2] + again[:-1])
            await talk.send("input.push", chunk={"kind": "Text", "text": "x"}, seq=1)
            assert (await talk.expect("input.ack"))["seq"] == 1  # a repeat: acknowledged, not taken in again
            assert (
                said([each for each in (await talk.until("session.idle")) if each["type"] == "output"]) == ""
            )
            assert said(await talk.ask("ok")) == "ok|"


async def test_input_beyond_the_rate_is_told_with_its_number_and_may_come_again(tmp_path):
    token, line = new_token("ann")
    (tmp_path / "tokens").write_text(f"{line} rate=4")
    access = Access(read_tokens(tmp_path / "tokens"))
    headers = {"authorization": f"Bearer {token}"}
    async with serving(access=access) as server, server.sessions(additional_headers=headers) as talk:
        await talk.open()
        for seq in range(1, 13):
            await talk.send("input.push", chunk={"kind": "Text", "text": "x"}, seq=seq, id=f"push {seq}")
        errors = [each for each in [await talk.next() for _ in range(12)] if each["type"] == "error"]
        first = errors[0]
        assert (first["code"], first["session"], first["id"]) == ("limit", "a", f"push {first['seq']}")
        await asyncio.sleep(first["retry_after"])
        await talk.send("input.push", chunk={"kind": "Text", "text": "x"}, seq=first["seq"])
        while (message := await talk.next())["type"] != "input.ack":
            pass
        assert message["seq"] == first["seq"]


async def test_a_stale_number_is_told_what_is_accepted():
    async with serving() as server:
        async with server.sessions() as talk:
            await talk.open()
            await talk.ask("why?")
            await talk.send("output.ack", seq=3)
            await talk.send("input.push", chunk={"kind": "Text", "text": "x"}, seq=7)
            error = await talk.expect("error")
            assert (error["code"], error["expected"], error["seq"]) == ("sequence", 2, 7)
            await talk.send("output.ack", seq=99)
            assert (await talk.expect("error"))["code"] == "sequence"
        async with server.sessions() as talk:
            for after in (0, 99):
                await talk.send("session.resume", after=after)
                assert (await talk.expect("error"))["code"] == "sequence"
            await talk.send("session.resume", after=4)
            await talk.expect("session.opened")


async def test_two_connections_to_one_session():
    async with serving() as server, server.sessions() as first, server.sessions() as second:
        await first.open()
        await second.send("session.open")
        assert (await second.expect("error"))["code"] == "exists"
        await second.send("session.resume")
        assert (await second.expect("error"))["code"] == "taken"
        await second.send("session.resume", take_over=True)
        await second.expect("session.opened")
        await first.expect("session.taken")
        await first.send("input.push", chunk={"kind": "Text", "text": "x"})
        assert (await first.expect("error"))["code"] == "not_found"
        await second.until("session.idle")
        assert said(await second.ask("mine")) == "mine|"


async def test_watchers_see_what_the_client_sees():
    async with serving() as server, server.sessions() as client, server.sessions() as watcher:
        await watcher.send("session.watch")
        assert (await watcher.expect("error"))["code"] == "not_found"
        await client.open()
        await watcher.send("session.watch")
        await watcher.expect("session.watching")
        outputs = await client.ask("why?")
        seen = [await watcher.expect("output") for _ in outputs]
        assert seen == outputs
        await watcher.send("input.push", chunk={"kind": "Text", "text": "x"})
        assert (await watcher.expect("error"))["code"] == "not_found"
        await watcher.send("session.release")
        await watcher.expect("session.released")
        await watcher.send("session.watch")
        await watcher.expect("session.watching")
        await client.send("session.delete")
        await watcher.expect("session.deleted")


async def test_interrupt_fork_save_release_finish(tmp_path):
    async with serving(store=tmp_path) as server, server.sessions() as talk:
        await talk.open()
        await talk.ask("one")
        await talk.send("session.fork", to="b")
        assert (await talk.expect("session.forked"))["to"] == "b"
        await talk.send("session.fork", to="b")
        assert (await talk.expect("error"))["code"] == "exists"
        await talk.send("session.save")
        await talk.expect("session.saved")
        await talk.send("session.interrupt")
        await talk.expect("session.interrupted")
        await talk.send("input.finish")
        finished = await talk.until("session.finished")
        assert {each["type"] for each in finished} <= {"input.ack", "session.idle", "session.finished"}
        await talk.send("input.push", chunk={"kind": "Text", "text": "x"})
        while (error := await talk.next())["type"] in ("session.idle", "input.ack"):
            pass
        assert error["code"] == "closed"
        await talk.send("session.release", id=7)
        assert (await talk.expect("session.released"))["id"] == 7
        assert set(server.entries()) == {"/a", "/b"}


async def test_there_is_no_saving_without_a_store():
    async with serving() as server, server.sessions() as talk:
        await talk.open()
        await talk.send("session.save")
        assert (await talk.expect("error"))["code"] == "storage"


async def test_an_interrupted_answer_stops():
    async with serving(Echo(pause=0.005)) as server, server.sessions() as talk:
        await talk.open()
        await talk.send("input.push", chunk={"kind": "Text", "text": "x" * 40})
        await talk.until("session.idle")
        await talk.send("input.push", chunk={"kind": "Query", "text": "why?"})
        await talk.until("output")
        await talk.send("session.interrupt")
        rest = await talk.until("session.idle")
        assert len([each for each in rest if each["type"] == "output"]) < 36


async def test_refused_input_is_told_and_the_session_goes_on():
    async with serving() as server, server.sessions() as talk:
        await talk.open()
        for chunk in (
            {"kind": "Text", "text": "a\x00b"},
            {"kind": "Rows", "values": [[1.0]]},
            {"kind": "Query", "text": " "},
            {"kind": "Nothing"},
            {"kind": "Text"},
            {"kind": "Tick"},
            {},
        ):
            await talk.send("input.push", chunk=chunk)
            seen = await talk.until("error")
            assert seen[-1]["code"] == "input", seen
        await talk.send("input.push", chunk={"kind": "Text", "text": "boom"})
        assert (await talk.until("error"))[-1]["code"] == "internal"
        await talk.until("session.idle")
        assert said(await talk.ask("still")) == "still|"


async def test_no_room_is_busy_with_a_hint():
    async with serving(limits=Limits(slots=1)) as server, server.sessions() as talk:
        await talk.open("a")
        await talk.send("session.open", "b")
        error = await talk.expect("error")
        assert (error["code"], error["session"]) == ("busy", "b")
        assert error["retry_after"] > 0
        assert set(server.entries()) == {"/a"}


async def test_what_was_opened_survives_the_server(tmp_path):
    async with serving(store=tmp_path) as server, server.sessions() as talk:
        await talk.open()
        await talk.send("input.push", chunk={"kind": "Text", "text": "blue"})
        await talk.until("session.idle")
    async with serving(store=tmp_path) as server, server.sessions() as talk:
        await talk.send("session.resume")
        assert (await talk.expect("session.opened"))["in_seq"] == 1
        await talk.expect("session.idle")
        assert said(await talk.ask("what?")) == "what?|blue"
