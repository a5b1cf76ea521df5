"""What a client of OpenAI's protocols says: messages, and the options of a request."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from unending.core import Operator
from unending.serve import wire
from unending.serve.failures import Refusal

__all__ = ["Body", "Part", "StreamOptions", "Turn", "written"]

Number = Annotated[int, Meta(ge=1, le=2**31)]


class Part(Struct, frozen=True):
    """A part of a message: text, and nothing else."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class Turn(Struct, frozen=True):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] = ""
    name: str | None = None

    @property
    def text(self) -> str:
        """Its parts, joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Struct, frozen=True):
    """Options of a streamed answer."""

    include_usage: bool = False


class Body(Struct, frozen=True):
    """What a request may hold. Of what is not listed here, nothing is honoured: it is refused or without meaning."""

    model: str
    messages: Annotated[list[Turn], Meta(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    session: wire.Name | None = None
    max_tokens: Number | None = None
    max_completion_tokens: Number | None = None
    stop: str | list[str] | None = None
    seed: wire.Number | None = None
    n: int | None = 1
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    audio: Any | UnsetType = UNSET

    def require_honourable(self, operator: Operator[Any]) -> None:
        """`Refusal` for an option that the server would have to ignore although it changes the answer."""
        own = operator.settings()
        neutral: dict[str, tuple[Any, ...]] = {
            "n": (None, 1),
            "temperature": (None, own.get("temperature")),
            "top_p": (None, 1, own.get("top_p")),
            "frequency_penalty": (None, 0),
            "presence_penalty": (None, 0),
            "logprobs": (None, False),
            "logit_bias": (None, {}),
            "response_format": (None, {"type": "text"}),
            "tools": (None, []),
            "functions": (None, []),
            "modalities": (None, ["text"]),
            "audio": (UNSET, None),
        }
        for name, accepted in neutral.items():
            if getattr(self, name) not in accepted:
                fixed = f"; it runs at {own[name]}" if name in own else ""
                raise Refusal(
                    "bad_message", f"{name} cannot be set on {operator.spec.name}{fixed}", param=name
                )
        stops = self.stops
        if len(stops) > 16 or any(len(stop) > 256 for stop in stops):
            raise Refusal("bad_message", "at most 16 stop texts of at most 256 characters", param="stop")
        if self.messages[-1].role != "user" or not self.messages[-1].text.strip():
            raise Refusal(
                "bad_message", "the last message must be the user's, and not blank", param="messages"
            )

    @property
    def stops(self) -> list[str]:
        """The stop texts."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def longest(self) -> int | None:
        """The length asked for."""
        return self.max_completion_tokens or self.max_tokens

    def context(self, new: bool) -> list[Turn]:
        """The messages before the question that the session does not know yet.

        A client may send the whole conversation or only what is new: what stands behind the last message of the
        assistant is new. Instructions count once, at the beginning of a session.
        """
        before = list(self.messages[:-1])
        if new:
            return before
        roles = [turn.role for turn in before]
        if "assistant" in roles:
            before = before[len(roles) - roles[::-1].index("assistant") :]
        while before and before[0].role in ("system", "developer"):
            del before[0]
        return before


def written(turn: Turn) -> str:
    """A message of the context as plain text."""
    return f"{turn.role.capitalize()}: {turn.text}\n\n" if turn.text else ""
