"""`/v1/models` and `/v1/chat/completions`, as OpenAI's clients expect them."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import time  # noqa: TID251 - the protocol tells the time of day
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from unending.core import Operator
from unending.serve import wire
from unending.serve.access import Account
from unending.serve.conversation import Answer, Conversation, require_conversation
from unending.serve.failures import Refusal, failure_of
from unending.serve.requests import account_of, json_response, read_body, service_of
from unending.serve.service import Service
from unending.serve.turns import Body, written

__all__ = ["completions", "models"]


async def models(request: Request) -> Response:
    """The systems that hold conversations."""
    account_of(request)
    found = []
    for system, engine in service_of(request).engines.items():
        try:
            require_conversation(engine.operator)
        except Refusal:
            continue
        found.append({"id": system, "object": "model", "created": 0, "owned_by": "unending"})
    if (wanted := request.path_params.get("model")) is not None:
        for each in found:
            if each["id"] == wanted:
                return json_response(each)
        raise Refusal("unknown_system", "there is no such model here", param="model")
    return json_response({"object": "list", "data": found})


async def completions(request: Request) -> Response:
    """An answer, whole or as server-sent events."""
    account, service = account_of(request), service_of(request)
    body = wire.read_as(Body, await read_body(request, account))
    operator = service.engine(body.model).operator
    require_conversation(operator)
    body.require_honourable(operator)
    service.require_open()
    return _Completion(service, account, body, operator)


class _Completion(Response):
    """Answers while it is sent, and stops when the client goes."""

    def __init__(self, service: Service, account: Account, body: Body, operator: Operator[Any]) -> None:
        self._service, self._account, self._body, self._operator = service, account, body, operator
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time())
        self._started = False
        self._read = 0
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(leave)
            try:
                await self._answer()
            except TimeoutError:
                pass  # a client that does not read is as good as gone
            except Exception as error:
                await self._fail(error)
            tasks.cancel_scope.cancel()

    async def _answer(self) -> None:
        body, service = self._body, self._service
        async with service.answering(), self._session() as (conversation, new):
            context = "".join(written(turn) for turn in body.context(new))
            question = body.messages[-1].text
            self._read = await conversation.count(context + question)
            answer = await conversation.ask(
                question,
                self._piece if body.stream else _ignore,
                think=self._thought if body.stream else _ignore,
                context=context,
                longest=body.longest,
                stops=body.stops,
                accepted=self._begin if body.stream else None,
            )
        await (self._end(answer) if body.stream else self._whole(answer))

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[tuple[Conversation, bool]]:
        body, service = self._body, self._service
        seed = body.seed or 0
        if body.session is None:
            async with service.throwaway(self._account, body.model, seed) as stream:
                yield Conversation(service.engine(body.model), stream, service.metrics), True
            return
        async with service.kept(self._account, body.model, body.session, seed) as (stream, new):
            conversation = Conversation(service.engine(body.model), stream, service.metrics)
            try:
                await conversation.settle()
                yield conversation, new
            except BaseException:
                with anyio.move_on_after(5.0, shield=True):
                    await conversation.settle()
                raise

    def _usage(self, answer: Answer) -> dict[str, int]:
        wrote = answer.tokens
        return {"prompt_tokens": self._read, "completion_tokens": wrote, "total_tokens": self._read + wrote}

    async def _whole(self, answer: Answer) -> None:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.thoughts:
            message["reasoning_content"] = answer.thoughts
        choice = {"index": 0, "message": message, "finish_reason": _reason(answer), "logprobs": None}
        content = self._object("chat.completion", [choice]) | {"usage": self._usage(answer)}
        response = json_response(content)
        await response({"type": "http"}, _never, self._send)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        named = {"session": self._body.session} if self._body.session else {}
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._body.model,
            "choices": choices,
            **named,
        }

    async def _begin(self) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._started = True
        await self._delta({"role": "assistant", "content": ""})

    async def _piece(self, text: str) -> None:
        await self._delta({"content": text})

    async def _thought(self, text: str) -> None:
        await self._delta({"reasoning_content": text})

    async def _delta(self, delta: dict[str, str], reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        await self._event(self._object("chat.completion.chunk", [choice]))

    async def _event(self, value: Any, *, last: bool = False) -> None:
        content = b"data: " + (value if isinstance(value, bytes) else wire.encode(value)) + b"\n\n"
        self._service.metrics.bytes.labels("out").inc(len(content))
        with anyio.fail_after(self._service.options.slow):
            await self._send({"type": "http.response.body", "body": content, "more_body": not last})

    async def _end(self, answer: Answer) -> None:
        await self._delta({}, _reason(answer))
        if self._body.stream_options and self._body.stream_options.include_usage:
            await self._event(self._object("chat.completion.chunk", []) | {"usage": self._usage(answer)})
        await self._event(b"[DONE]", last=True)

    async def _fail(self, error: Exception) -> None:
        failure = failure_of(error)
        self._service.metrics.errors.labels(failure.code).inc()
        if self._started:  # the status is gone: the error is the last event
            await self._event(failure.body(), last=True)
            return
        response = json_response(failure.body(), failure.status, failure.headers())
        await response({"type": "http"}, _never, self._send)


def _reason(answer: Answer) -> str:
    return "length" if answer.reason == "length" else "stop"


async def _ignore(_: str) -> None:
    """Pieces of an answer that is sent whole."""


async def _never() -> Any:
    await anyio.sleep_forever()
