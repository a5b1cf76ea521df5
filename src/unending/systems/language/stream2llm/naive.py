"""The slow reference: every prompt in one pass when its question has come, and one more pass for every token."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from unending.core import Chunk, Control, Event, Query, Text, Tokens, random
from unending.parts.backbones import LanguageBackbone
from unending.systems.language.stream2llm.prompt import Frame

__all__ = ["offline"]


class _Asked(Protocol):
    """What the reference needs to know of an operator."""

    @property
    def backbone(self) -> LanguageBackbone: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def frame(self) -> Frame: ...


class _Run:
    def __init__(self, operator: _Asked) -> None:
        self.operator = operator
        self.backbone: Any = operator.backbone
        self.context: list[int] = list(operator.frame.opening)
        self.text = ""
        self.begun = bool(self.context)
        self.generated = 0
        self.time = 0.0
        self.events: list[Event] = []

    def tokenise(self) -> None:
        """The text since the last other chunk, as one string."""
        if self.text:
            self.context += [] if self.begun else self.backbone.opening
            self.context += self.backbone.tokenizer(self.text, add_special_tokens=False)["input_ids"]
            self.text, self.begun = "", True

    def replace_context(self, value: Any) -> None:
        self.context, self.text = list(self.operator.frame.opening), ""
        self.begun = bool(self.context)
        if isinstance(value, str):
            self.text = value
            self.tokenise()
        else:
            self.context += [int(each) for each in value]
            self.begun = bool(self.context)

    @torch.no_grad()
    def answer(self, question: str) -> None:
        operator, backbone = self.operator, self.backbone
        prompt = self.context + operator.frame.question(question)
        ids: list[int] = []
        for _ in range(operator.max_new_tokens):
            logits = backbone.module(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].float()
            token = self._draw(logits)
            prompt.append(token)
            if token in backbone.stops:
                break
            ids.append(token)
        if text := backbone.decode(ids):
            self.events.append(Event(Text(text), self.time, self.time))

    def _draw(self, logits: torch.Tensor) -> int:
        self.generated += 1
        if self.operator.temperature == 0:
            return int(logits.argmax())
        weights = (logits.double() / self.operator.temperature).softmax(dim=-1).numpy()
        draw = random.philox(0, self.generated - 1).random() * weights.sum()
        return min(int((np.cumsum(weights) < draw).sum()), len(weights) - 1)


def offline(operator: _Asked, stream: Sequence[Chunk]) -> list[Event]:
    """The events of a whole stream under seed 0, without a KV memory."""
    run = _Run(operator)
    for chunk in stream:
        run.time = run.time if chunk.t is None else chunk.t
        if isinstance(chunk, Text):
            run.text += chunk.text
        elif isinstance(chunk, Tokens) and len(chunk):
            run.tokenise()
            run.context += chunk.ids.tolist()
            run.begun = True
        elif isinstance(chunk, Control) and chunk.name == "replace-context":
            run.replace_context(chunk.value)
        elif isinstance(chunk, Query):
            run.tokenise()
            run.answer(chunk.text)
        run.time += len(chunk) * chunk.period
    return run.events
