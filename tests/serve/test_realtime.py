"""/v1/realtime, asked by OpenAI's own client over loopback."""

import asyncio

import openai
import pytest
from tests.serve.conftest import serving, settled
from tests.serve.toys import Echo, Sum, Thinker
from websockets.exceptions import InvalidStatus

from unending.serve import Access, Options
from unending.serve.access import Limits, new_token, read_tokens

pytestmark = pytest.mark.anyio


def item(text, role="user", kind="input_text"):
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


async def until(connection, kind):
    """The events up to the first of this type."""
    seen = []
    async with asyncio.timeout(10):
        while not seen or seen[-1].type != kind:
            seen.append(await connection.recv())
            assert seen[-1].type != "error" or kind == "error", seen[-1]
    return seen


def connect(server, key="none", model="echo", **query):
    ai = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key)
    return ai.realtime.connect(model=model, extra_query=query)


async def test_a_conversation_in_events():
    async with serving() as server, connect(server) as connection:
        created = (await until(connection, "session.created"))[-1]
        assert (created.session.model, created.session.output_modalities) == ("echo", ["text"])
        await connection.session.update(session={"type": "realtime", "instructions": "be kind"})
        updated = (await until(connection, "session.updated"))[-1]
        assert updated.session.instructions == "be kind"
        for text in ("blue", "what?"):
            await connection.conversation.item.create(item=item(text))
            await until(connection, "conversation.item.done")
        await connection.response.create()
        events = await until(connection, "response.done")
        assert [event.type for event in events[:3]] == [
            "response.created", "response.output_item.added", "response.content_part.added",
        ]  # fmt: skip
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        expected = "what?|System: be kind\n\nUser: blue\n\n"[:6] + "System: be kind\n\nUser: blue\n\n"[-32:]
        assert "".join(deltas) == expected
        (done,) = [event for event in events if event.type == "response.output_text.done"]
        assert done.text == expected
        response = events[-1].response
        assert (response.status, response.usage.output_tokens) == ("completed", len(expected))
        assert response.output[0].content[0].text == expected


async def test_thoughts_are_events_of_their_own():
    async with serving(Thinker()) as server, connect(server, model="thinker") as connection:
        await connection.conversation.item.create(item=item("how much?"))
        await connection.response.create()
        events = await until(connection, "response.done")
        thoughts = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
        assert thoughts == ["hm. ", "so. ", "well. "]
        (thought,) = [event for event in events if event.type == "response.reasoning_text.done"]
        assert thought.text == "hm. so. well. "
        assert [event.delta for event in events if event.type == "response.output_text.delta"] == [
            "so ", "it is ", "0",
        ]  # fmt: skip
        assert events[-1].response.output[0].content[0].text == "so it is 0"


async def test_a_session_keeps_its_name_and_the_settings_that_are_not_changed():
    async with serving() as server, connect(server) as connection:
        created = (await until(connection, "session.created"))[-1].session
        await connection.session.update(session={"type": "realtime", "instructions": "be kind"})
        await until(connection, "session.updated")
        await connection.session.update(session={"type": "realtime", "max_output_tokens": 3})
        updated = (await until(connection, "session.updated"))[-1].session
        assert (updated.id, updated.instructions, updated.max_output_tokens) == (created.id, "be kind", 3)
        assert server.entries().popitem()[1].accepted == 1  # the instructions, once


async def test_who_waits_for_a_long_answer_is_not_idle():
    slow = serving(Echo(pause=0.02), options=Options(idle=0.3, grace=2.0))
    async with slow as server, connect(server) as connection:
        await connection.conversation.item.create(item=item("x" * 40))
        await connection.response.create()
        done = (await until(connection, "response.done"))[-1].response
        assert done.output[0].content[0].text == "x" * 40 + "|"
        error = (await until(connection, "error"))[-1].error
        assert error.code == "timeout"  # now it is


async def test_what_was_cancelled_before_it_began_does_not_cancel_the_next():
    async with serving() as server, connect(server) as connection:
        await connection.conversation.item.create(item=item("a\x00", role="system"))
        await connection.conversation.item.create(item=item("first?"))
        await connection.response.create()
        await connection.response.cancel()
        assert (await until(connection, "error"))[-1].error.code == "input"
        assert (await until(connection, "response.done"))[-1].response.status == "failed"
        await connection.conversation.item.create(item=item("second?"))
        await connection.response.create()
        done = (await until(connection, "response.done"))[-1].response
        assert (done.status, done.output[0].content[0].text) == ("completed", "second?|")


async def test_a_response_that_is_cancelled():
    async with serving(Echo(pause=0.01)) as server, connect(server) as connection:
        await connection.conversation.item.create(item=item("x" * 60))
        await connection.response.create()
        await until(connection, "response.output_text.delta")
        await connection.response.create()
        error = (await until(connection, "error"))[-1]
        assert "active response" in error.error.message
        await connection.response.cancel()
        done = (await until(connection, "response.done"))[-1].response
        assert (done.status, done.status_details.reason) == ("cancelled", "client_cancelled")
        assert len(done.output[0].content[0].text) < 60
        await connection.conversation.item.create(item=item("on"))
        await connection.response.create()
        assert (await until(connection, "response.done"))[-1].response.output[0].content[0].text == "on|"


async def test_the_length_of_a_response():
    async with serving() as server, connect(server) as connection:
        await connection.conversation.item.create(item=item("abcdef"))
        await connection.response.create(response={"max_output_tokens": 2})
        done = (await until(connection, "response.done"))[-1].response
        assert (done.status, done.status_details.reason) == ("incomplete", "max_output_tokens")
        assert done.output[0].content[0].text == "ab"


async def test_a_named_session_is_kept_with_what_was_said_last(tmp_path):
    async with serving(store=tmp_path) as server, connect(server, session="mine") as connection:
        await until(connection, "session.created")
        await connection.conversation.item.create(item=item("blue"))
        await until(connection, "conversation.item.done")
    async with serving(store=tmp_path) as server, connect(server, session="mine") as connection:
        await until(connection, "session.created")
        await connection.conversation.item.create(item=item("what?"))
        await connection.response.create()
        done = (await until(connection, "response.done"))[-1].response
        assert done.output[0].content[0].text == "what?|User: blue\n\n"


async def test_errors_are_events_and_the_connection_goes_on():
    async with serving() as server, connect(server) as connection:
        await until(connection, "session.created")
        for message in (
            {"type": "response.create", "event_id": "mine"},
            {"type": "response.cancel"},
            {"type": "input_audio_buffer.append", "audio": "AAAA"},
            {"type": "conversation.item.create", "item": item(" ")},
            {"type": "conversation.item.create", "item": item("x", kind="input_audio")},
            {"type": "session.update", "session": {"type": "realtime", "output_modalities": ["audio"]}},
            {"type": "nothing"},
            [],
        ):
            await connection.send(message)
            error = (await until(connection, "error"))[-1].error
            assert error.type == "invalid_request_error"
            assert error.event_id == ("mine" if "event_id" in message else None)
        await connection.conversation.item.create(item=item("a\x00"))
        await connection.conversation.item.create(item=item("still"))
        await connection.response.create()
        error = (await until(connection, "error"))[-1].error
        assert "null character" in error.message
        assert (await until(connection, "response.done"))[-1].response.status == "failed"
        await connection.conversation.item.create(item=item("there"))
        await connection.response.create()
        done = (await until(connection, "response.done"))[-1].response
        assert done.output[0].content[0].text == "there|"


async def test_who_leaves_within_a_response_leaves_nothing():
    async with serving(Echo(pause=0.01)) as server:
        async with connect(server) as connection:
            await connection.conversation.item.create(item=item("x" * 60))
            await connection.response.create()
            await until(connection, "response.output_text.delta")
        await settled(lambda: not server.entries() and not server.service.connections)


async def test_the_handshake_is_answered_with_a_status(tmp_path):
    token, line = new_token("ann")
    (tmp_path / "tokens").write_text(line)
    access = Access(read_tokens(tmp_path / "tokens"), Limits())
    async with serving(Echo(), Sum(), access=access) as server:
        for key, query, status in (
            ("wrong", {}, 401),
            (token, {"model": "nothing"}, 404),
            (token, {"model": "sum"}, 404),
            (token, {"session": "../x"}, 400),
        ):
            with pytest.raises(InvalidStatus) as caught:
                async with connect(server, key, **query):
                    pass
            assert caught.value.response.status_code == status
        async with connect(server, token) as connection:
            await until(connection, "session.created")
