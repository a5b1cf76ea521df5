"""The WebSocket `/v1/realtime` with OpenAI's events, for text."""

import secrets
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

import anyio
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace
from starlette.websockets import WebSocket

from unending.serve import wire
from unending.serve.conversation import Conversation, require_conversation
from unending.serve.failures import Failure, Refusal
from unending.serve.service import Service
from unending.serve.sockets import Socket, talk
from unending.serve.turns import Part, Turn, written

__all__ = ["realtime_socket"]

_IN_SUBPROTOCOL = "openai-insecure-api-key."
Text = Annotated[str, Meta(max_length=1 << 20)]
Id = Annotated[str, Meta(max_length=100)]


class _Event(Struct, frozen=True, tag_field="type", kw_only=True):
    event_id: Id | None = None


class Settings(Struct, frozen=True):
    """Of a session; what is not here has no meaning for text."""

    type: Literal["realtime"] = "realtime"
    instructions: Text | None = None
    output_modalities: list[Literal["text"]] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | Literal["inf"] | None = None


class Update(_Event, frozen=True, tag="session.update"):
    """Change the settings of the session."""

    session: Settings


class Item(Struct, frozen=True):
    """A message for the conversation."""

    type: Literal["message"]
    role: Literal["system", "user", "assistant"]
    content: list[Part]
    id: Id | None = None


class Create(_Event, frozen=True, tag="conversation.item.create"):
    """Append an item."""

    item: Item
    previous_item_id: Id | None = None


class Wanted(Struct, frozen=True):
    """Of one response."""

    instructions: Text | None = None
    output_modalities: list[Literal["text"]] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | Literal["inf"] | None = None


class Respond(_Event, frozen=True, tag="response.create"):
    """Answer the last message of the user."""

    response: Wanted | None = None


class Cancel(_Event, frozen=True, tag="response.cancel"):
    """Stop the response in the making."""

    response_id: Id | None = None


Incoming = Update | Create | Respond | Cancel


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(10)}"


class _Realtime(Socket):
    """One connection, which is one session."""

    def __init__(self, service: Service, websocket: WebSocket) -> None:
        super().__init__(service, websocket, "realtime")
        query = websocket.query_params
        self._offered: list[str] = websocket.scope.get("subprotocols", [])
        self._system, self._session = query.get("model", ""), query.get("session")
        self._id = self._session or _new_id("sess")
        self._settings = Settings()
        self._conversation: Conversation
        self._asked: Item | None = None
        self._response: str | None = None

    def enter(self) -> str | None:
        super().enter()
        if self.account is None:  # a browser has no other place for it
            marked = [each for each in self._offered if each.startswith(_IN_SUBPROTOCOL)]
            self.account = self.service.access.account(
                marked[0].removeprefix(_IN_SUBPROTOCOL) if marked else None
            )
        if self._session is not None:
            wire.read_as(wire.Name, wire.encode(self._session))
        require_conversation(self.service.engine(self._system).operator)
        return "realtime" if "realtime" in self._offered else None

    def shape(self, failure: Failure, about: dict[str, Any]) -> dict[str, Any]:
        error = {**failure.body()["error"], "event_id": about.get("event_id")}
        return {"type": "error", "event_id": _new_id("event"), "error": error}

    async def _tell(self, kind: str, **values: Any) -> None:
        await self.send({"type": kind, "event_id": _new_id("event"), **values})

    async def run(self) -> None:
        """Talk until the client goes. What it said last is kept."""
        service, account = self.service, self.account
        assert account is not None
        async with AsyncExitStack() as stack:
            stack.enter_context(account.connected())
            if self._session is None:
                stream = await stack.enter_async_context(service.throwaway(account, self._system, 0))
            else:
                stream, _ = await stack.enter_async_context(
                    service.kept(account, self._system, self._session, 0)
                )
            self._conversation = Conversation(service.engine(self._system), stream, service.metrics)
            await self._conversation.settle()
            await self._tell("session.created", session=self._told())
            try:
                async with anyio.create_task_group() as tasks:
                    await self._listen(tasks)
                    tasks.cancel_scope.cancel()
            finally:
                if self._session is not None:
                    with anyio.move_on_after(5.0, shield=True):
                        await self._conversation.settle()
                        await self._flush()

    def _told(self) -> dict[str, Any]:
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": self._id,
            "model": self._system,
            "output_modalities": ["text"],
            "instructions": self._settings.instructions or "",
            "max_output_tokens": self._settings.max_output_tokens or "inf",
        }

    async def _listen(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            try:
                content = await self.receive(self.service.options.idle)
            except Refusal as error:
                if self._response is not None:  # it waits for its answer
                    continue
                await self.fail(error)
                return
            if content is None:
                return
            over, event_id = self.charge(content), None
            try:
                event = wire.read_as(Incoming, content)
                event_id = event.event_id
                if over is not None:
                    raise over
                await self._obey(event, tasks)
                self.well()
            except Exception as error:
                await self.fail(error, event_id=event_id)

    async def _obey(self, event: Incoming, tasks: anyio.abc.TaskGroup) -> None:
        match event:
            case Cancel():
                if self._response is None or event.response_id not in (None, self._response):
                    raise Refusal("not_found", "there is no such response in the making")
                await self._conversation.cancel()
                return
            case Respond() if self._response is not None:
                raise Refusal("taken", "conversation already has an active response")
        self.service.require_open()
        match event:
            case Update():
                await self._update(event.session)
            case Create():
                await self._append(event.item)
            case Respond():
                if self._asked is None:
                    raise Refusal(
                        "bad_message", "there is no message of the user to answer", param="response"
                    )
                asked, self._asked = self._asked, None
                self._response = _new_id("resp")
                tasks.start_soon(self._respond, asked, event.response or Wanted(), event.event_id)

    async def _update(self, settings: Settings) -> None:
        if settings.instructions and settings.instructions != self._settings.instructions:
            await self._flush()
            await self._conversation.tell(written(Turn("system", settings.instructions)))
        changed = {name: value for name, value in asdict(settings).items() if value is not None}
        self._settings = replace(self._settings, **changed)
        await self._tell("session.updated", session=self._told())

    async def _append(self, item: Item) -> None:
        """Take an item into the context. The last one of the user may be a question: it waits for what follows."""
        turn = Turn(item.role, item.content)
        if not turn.text.strip():
            raise Refusal("bad_message", "an item needs a text that is not blank", param="item.content")
        told = {
            "id": item.id or _new_id("item"), "object": "realtime.item", "type": "message", "role": item.role,
            "status": "completed", "content": [{"type": part.type, "text": part.text} for part in item.content],
        }  # fmt: skip
        await self._flush()
        if item.role == "user":
            self._asked = item
        else:
            await self._conversation.tell(written(turn))
        await self._tell("conversation.item.added", item=told, previous_item_id=None)
        await self._tell("conversation.item.done", item=told, previous_item_id=None)

    async def _flush(self) -> None:
        """What was no question is context."""
        if self._asked is not None:
            asked, self._asked = self._asked, None
            await self._conversation.tell(written(Turn(asked.role, asked.content)))

    async def _respond(self, asked: Item, wanted: Wanted, event_id: str | None) -> None:
        response, item = self._response or "", _new_id("item")
        here = {"response_id": response, "item_id": item, "output_index": 0, "content_index": 0}
        question = Turn(asked.role, asked.content).text
        longest = wanted.max_output_tokens or self._settings.max_output_tokens
        await self._tell("response.created", response=self._resource(response, "in_progress", []))
        about = {"response_id": response, "output_index": 0}
        await self._tell("response.output_item.added", **about, item=_said(item, "in_progress", []))
        await self._tell("response.content_part.added", **here, part={"type": "text", "text": ""})

        async def delta(text: str) -> None:
            await self._tell("response.output_text.delta", **here, delta=text)

        async def thought(text: str) -> None:
            await self._tell("response.reasoning_text.delta", **here, delta=text)

        try:
            async with self.service.answering():
                answer = await self._conversation.ask(
                    question,
                    delta,
                    think=thought,
                    context=written(Turn("system", wanted.instructions or "")),
                    longest=longest if isinstance(longest, int) else None,
                )
        except Exception as error:
            self._response = None
            failure = await self.fail(error, event_id=event_id)
            details = {
                "type": "failed",
                "error": {"type": failure.body()["error"]["type"], "code": failure.code},
            }
            await self._tell("response.done", response=self._resource(response, "failed", [], details))
            return
        status = {"stop": "completed", "length": "incomplete", "cancelled": "cancelled"}[answer.reason]
        reason = {"length": "max_output_tokens", "cancelled": "client_cancelled"}.get(answer.reason)
        part = {"type": "text", "text": answer.text}
        message = _said(
            item, "completed" if status == "completed" else "incomplete", [{**part, "type": "output_text"}]
        )
        if answer.thoughts:
            await self._tell("response.reasoning_text.done", **here, text=answer.thoughts)
        await self._tell("response.output_text.done", **here, text=answer.text)
        await self._tell("response.content_part.done", **here, part=part)
        await self._tell("response.output_item.done", **about, item=message)
        read, wrote = await self._conversation.count(question), answer.tokens
        usage = {"input_tokens": read, "output_tokens": wrote, "total_tokens": read + wrote}
        ending = {"type": status, "reason": reason} if reason else None
        self._response = None
        await self._tell(
            "response.done", response=self._resource(response, status, [message], ending) | {"usage": usage}
        )

    def _resource(
        self, response: str, status: str, said: list[Any], details: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {
            "id": response, "object": "realtime.response", "status": status, "status_details": details,
            "output": said, "output_modalities": ["text"], "conversation_id": self._session, "usage": None,
        }  # fmt: skip


def _said(item: str, status: str, content: list[Any]) -> dict[str, Any]:
    return {
        "id": item, "object": "realtime.item", "type": "message", "role": "assistant", "status": status,
        "content": content,
    }  # fmt: skip


async def realtime_socket(websocket: WebSocket) -> None:
    """The endpoint: `?model=SYSTEM`, and `&session=NAME` for a conversation that is kept."""
    await talk(_Realtime(websocket.app.state.service, websocket))
