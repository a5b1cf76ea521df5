"""/v1/chat/completions and /v1/models, asked by OpenAI's own client over loopback."""

import asyncio

import openai
import pytest
from tests.serve.conftest import serving, settled
from tests.serve.toys import Echo, Sum, Thinker

from unending.engine import Limits
from unending.serve.turns import Body, Turn

pytestmark = pytest.mark.anyio


def client(server, **options):
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", **{"api_key": "none", "max_retries": 0, **options})


def user(text):
    return {"role": "user", "content": text}


async def test_models_are_the_systems_that_talk():
    async with serving() as server, client(server) as ai:
        assert [each.id async for each in ai.models.list()] == ["echo"]
        assert (await ai.models.retrieve("echo")).id == "echo"
        with pytest.raises(openai.NotFoundError, match="no such model"):
            await ai.models.retrieve("sum")


async def test_a_whole_answer():
    async with serving() as server, client(server) as ai:
        answer = await ai.chat.completions.create(model="echo", messages=[user("why?")])
        assert answer.choices[0].message.content == "why?|"
        assert answer.choices[0].finish_reason == "stop"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
            4,
            5,
            9,
        )
        assert not server.entries()  # without a name it was for this request


async def test_a_streamed_answer():
    async with serving() as server, client(server) as ai:
        stream = await ai.chat.completions.create(
            model="echo", messages=[user("why?")], stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].delta.content for chunk in chunks[1:-2]] == list("why?|")
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage.completion_tokens == 5
        assert len({chunk.id for chunk in chunks}) == 1
        await settled(lambda: not server.entries())


async def test_the_context_of_a_single_request_is_its_messages():
    messages = [
        {"role": "system", "content": "be kind"},
        user("first"),
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        user("why?"),
    ]
    async with serving() as server, client(server) as ai:
        answer = await ai.chat.completions.create(model="echo", messages=messages)
        heard = "System: be kind\n\nUser: first\n\nAssistant: yes\n\n"
        assert answer.choices[0].message.content == "why?|" + heard[-32:]


async def test_a_named_session_goes_on_in_its_state(tmp_path):
    async def ask(ai, *messages):
        answer = await ai.chat.completions.create(
            model="echo", messages=list(messages), extra_body={"session": "mine"}
        )
        assert answer.session == "mine"
        return answer.choices[0].message.content

    async with serving(store=tmp_path) as server, client(server) as ai:
        assert await ask(ai, user("blue"), user("one")) == "one|User: blue\n\n"
        # only what is new, or the whole conversation: the same is pushed
        assert await ask(ai, user("two")) == "two|User: blue\n\n"
        history = [user("one"), {"role": "assistant", "content": "one|blue"}]
        assert await ask(ai, *history, user("red"), user("three")) == "three|User: blue\n\nUser: red\n\n"
    async with serving(store=tmp_path) as server, client(server) as ai:
        assert await ask(ai, user("four")) == "four|User: blue\n\nUser: red\n\n"
        assert server.entries()["/mine"].record.in_seq == 6


def test_new_messages_stand_behind_the_last_answer():
    def turns(letters):
        roles = {"s": "system", "u": "user", "a": "assistant"}
        return [Turn(roles[letter], f"{letter}{index}") for index, letter in enumerate(letters)]

    for letters, new, kept in (
        ("u", "", ""),
        ("su", "s0", ""),
        ("suu", "s0 u1", "u1"),
        ("suau", "s0 u1 a2", ""),
        ("suausu", "s0 u1 a2 u3 s4", "u3 s4"),
        ("suauau", "s0 u1 a2 u3 a4", ""),
    ):
        body = Body(model="echo", messages=turns(letters))
        assert " ".join(turn.text for turn in body.context(True)) == new
        assert " ".join(turn.text for turn in body.context(False)) == kept, letters


@pytest.mark.parametrize("streamed", [False, True])
async def test_length_and_stop_are_honoured(streamed):
    async def ask(ai, **options):
        answer = await ai.chat.completions.create(
            model="echo", messages=[user("abcdefgh")], stream=streamed, **options
        )
        if not streamed:
            return answer.choices[0].message.content, answer.choices[0].finish_reason
        choices = [chunk.choices[0] async for chunk in answer]
        return "".join(each.delta.content or "" for each in choices), choices[-1].finish_reason

    async with serving() as server, client(server) as ai:
        assert await ask(ai) == ("abcdefgh|", "stop")
        assert await ask(ai, max_tokens=3) == ("abc", "length")
        assert await ask(ai, max_completion_tokens=1) == ("a", "length")
        assert await ask(ai, stop="def") == ("abc", "stop")
        assert await ask(ai, stop=["zz", "h", "fg"]) == ("abcde", "stop")
        assert await ask(ai, stop=["gX", "|X"]) == ("abcdefgh|", "stop")
        await settled(lambda: not server.entries())


async def test_thoughts_are_told_apart_from_the_answer():
    messages = [user("blue"), user("how much?")]
    async with serving(Thinker(), Echo()) as server, client(server) as ai:
        answer = await ai.chat.completions.create(model="thinker", messages=messages)
        message = answer.choices[0].message
        assert (message.content, message.reasoning_content) == ("so it is 12", "hm. so. well. ")
        assert answer.usage.completion_tokens == 6
        stream = await ai.chat.completions.create(model="thinker", messages=messages, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
        thoughts = [getattr(delta, "reasoning_content", None) for delta in deltas]
        assert [each for each in thoughts if each] == ["hm. ", "so. ", "well. "]
        assert [delta.content for delta in deltas if delta.content] == ["so ", "it is ", "12"]
        assert not any(delta.content for delta in deltas[1:4])
        plain = await ai.chat.completions.create(model="echo", messages=messages)
        assert "reasoning_content" not in plain.choices[0].message.model_dump()


async def test_thoughts_count_for_the_length_and_are_not_searched_for_stops():
    async with serving(Thinker()) as server, client(server) as ai:

        async def ask(**options):
            answer = await ai.chat.completions.create(model="thinker", messages=[user("?")], **options)
            message = answer.choices[0].message
            return message.content, message.reasoning_content, answer.choices[0].finish_reason

        assert await ask(max_tokens=2) == ("", "hm. so. ", "length")
        assert await ask(max_tokens=4) == ("so ", "hm. so. well. ", "length")
        assert await ask(stop="so") == ("", "hm. so. well. ", "stop")


async def test_the_longest_answer_of_the_system_is_told_as_length():
    async with serving() as server, client(server) as ai:
        answer = await ai.chat.completions.create(model="echo", messages=[user("x" * 80)])
        assert (len(answer.choices[0].message.content), answer.choices[0].finish_reason) == (64, "length")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"top_p": 0.5}, "top_p"),
        ({"n": 2}, "n"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": [{"role": "assistant", "content": "hm"}]}, "messages"),
        ({"messages": [user("  ")]}, "messages"),
        ({"stop": ["x"] * 17}, "stop"),
    ],
)
async def test_what_cannot_be_honoured_is_refused(options, field):
    async with serving() as server, client(server) as ai:
        with pytest.raises(openai.BadRequestError) as caught:
            await ai.chat.completions.create(**{"model": "echo", "messages": [user("why?")], **options})
        assert caught.value.body["param"] == field
        assert not server.entries()


async def test_neutral_options_pass():
    async with serving() as server, client(server) as ai:
        await ai.chat.completions.create(
            model="echo", messages=[user("why?")], n=1, top_p=1, presence_penalty=0, logprobs=False,
            response_format={"type": "text"}, user="me", metadata={"a": "b"}, seed=3,
        )  # fmt: skip


async def test_errors_have_the_shape_of_openai():
    async with serving(Echo(), Sum()) as server, client(server) as ai:
        for model in ("nothing", "sum", "../../etc/passwd"):
            with pytest.raises(openai.NotFoundError) as caught:
                await ai.chat.completions.create(model=model, messages=[user("why?")])
            assert (caught.value.code, caught.value.param) == ("unknown_system", "model")
        with pytest.raises(openai.BadRequestError, match="null character"):
            await ai.chat.completions.create(model="echo", messages=[user("\x00"), user("why?")])
        with pytest.raises(openai.BadRequestError, match="session"):
            await ai.chat.completions.create(
                model="echo", messages=[user("why?")], extra_body={"session": "../up"}
            )
        with pytest.raises(openai.BadRequestError):
            await ai.chat.completions.create(model="echo", messages=[{"role": "tool", "content": "x"}])
        await settled(lambda: not server.entries())


async def test_one_answer_at_a_time_in_a_session():
    async with serving(Echo(pause=0.01)) as server, client(server) as ai:

        async def ask():
            body = {"session": "mine"}
            return await ai.chat.completions.create(model="echo", messages=[user("x" * 20)], extra_body=body)

        first, second = await asyncio.gather(ask(), ask(), return_exceptions=True)
        assert {type(first).__name__, type(second).__name__} == {"ChatCompletion", "ConflictError"}


async def test_no_room_is_told_with_a_hint():
    async with serving(limits=Limits(slots=1)) as server, server.sessions() as talk, client(server) as ai:
        await talk.open("a")
        with pytest.raises(openai.InternalServerError) as caught:
            await ai.chat.completions.create(model="echo", messages=[user("why?")])
        assert caught.value.status_code == 503
        assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("session", [None, "mine"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_within_an_answer(session, streamed):
    async with serving(Echo(pause=0.01)) as server:
        async with server.http() as http:
            body = {"model": "echo", "messages": [user("x" * 60)], "stream": streamed}
            if session:
                body["session"] = session
            request = asyncio.create_task(http.post("/v1/chat/completions", json=body))
            await settled(
                lambda: any(each.record and each.record.ticks for each in server.entries().values())
            )
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
        if session is None:
            await settled(lambda: not server.entries())
            return
        await settled(lambda: not server.entries()["/mine"].held)
        assert server.entries()["/mine"].record.ticks < 50
        async with client(server) as ai:
            answer = await ai.chat.completions.create(
                model="echo", messages=[user("again")], extra_body={"session": "mine"}
            )
            assert answer.choices[0].message.content == "again|"


async def test_the_real_system_answers():
    from unending.systems.language import StreamingLLM

    async with serving(StreamingLLM.example()) as server, client(server) as ai:
        for _ in range(2):
            answer = await ai.chat.completions.create(
                model="streaming-llm", messages=[user("ok?")], temperature=1.0, extra_body={"session": "s"}
            )
            assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 2)
            assert answer.usage.prompt_tokens == 3
