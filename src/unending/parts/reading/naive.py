"""The slow reference of a language operator: whole runs of text, lists of keys, plain decoding."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from unending.core import Chunk, Event, Query, Rows, Text, Tokens, random
from unending.parts.backbones import LanguageBackbone
from unending.parts.memory.naive import NaiveMemory
from unending.parts.memory.retention import SinksAndWindow

__all__ = ["offline"]


class _Language(Protocol):
    """What the reference needs to know of an operator."""

    @property
    def chunk(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def chat(self) -> bool: ...
    @property
    def backbone(self) -> LanguageBackbone: ...
    @property
    def retention(self) -> SinksAndWindow: ...


class _Run:
    def __init__(self, operator: _Language, memory: Any) -> None:
        self.operator = operator
        self.backbone: Any = operator.backbone
        self.memory = memory or NaiveMemory(self.backbone.module, operator.retention)
        self.logits: torch.Tensor | None = None
        self.seen = 0
        self.text, self.text_begins = "", 0.0
        self.rows: list[tuple[int, float]] = []
        self.read_from_stream = 0
        self.time = 0.0
        self.events: list[Event] = []

    def _read(self, ids: list[int]) -> torch.Tensor:
        logits = self.memory.read(np.array(ids))
        self.logits = logits[-1]
        self.seen += len(ids)
        return logits

    def tokenise(self) -> None:
        """The text since the last other chunk, as one string."""
        if self.text:
            tokenizer, first = self.backbone.tokenizer, not self.read_from_stream and not self.rows
            if first:
                self.rows += [(token, self.text_begins) for token in self.backbone.opening]
            encoded = tokenizer(self.text, add_special_tokens=False, return_offsets_mapping=True)
            ends = [self.text_begins + end for _, end in encoded["offset_mapping"]]
            self.rows += list(zip(encoded["input_ids"], ends, strict=True))
            self.text = ""

    def score(self, *, everything: bool) -> None:
        """Losses of the tokens that have come, in blocks that end at multiples of the chunk."""
        while self.rows:
            wanted = self.operator.chunk - self.read_from_stream % self.operator.chunk
            if len(self.rows) < wanted and not everything:
                return
            block, self.rows = self.rows[:wanted], self.rows[wanted:]
            before, ids = self.logits, [token for token, _ in block]
            logits = self._read(ids)
            self.read_from_stream += len(block)
            if before is None:
                scores, targets, ends = logits[:-1], ids[1:], [end for _, end in block[1:]]
            else:
                scores = torch.cat([before[None], logits[:-1]])
                targets, ends = ids, [end for _, end in block]
            if targets:
                losses = -scores.log_softmax(dim=-1)[torch.arange(len(targets)), torch.tensor(targets)]
                self.events.append(Event(Rows(losses.numpy()[:, None], ("loss",)), ends[0], ends[-1]))

    def answer(self, question: str) -> None:
        operator, backbone = self.operator, self.backbone
        turn = backbone.encode_turn(question, chat=operator.chat)
        self.memory.make_room(len(turn) + operator.max_new_tokens)
        for start in range(0, len(turn), operator.chunk):
            self._read(turn[start : start + operator.chunk])
        ids: list[int] = []
        for _ in range(operator.max_new_tokens):
            token = self._draw()
            self._read([token])
            if token in backbone.stops:
                break
            ids.append(token)
        if backbone.tokenizer is not None and (text := backbone.decode(ids)):
            self.events.append(Event(Text(text), self.time, self.time))

    def _draw(self) -> int:
        assert self.logits is not None
        if self.operator.temperature == 0:
            return int(self.logits.argmax())
        weights = (self.logits.double() / self.operator.temperature).softmax(dim=-1).numpy()
        draw = random.philox(0, self.seen).random() * weights.sum()
        return min(int((np.cumsum(weights) < draw).sum()), len(weights) - 1)


def offline(operator: _Language, stream: Sequence[Chunk], memory: Any = None) -> list[Event]:
    """The events of a whole stream under seed 0, without any of the state, cache or re-blocking of the operator.

    `memory` is another reference than `NaiveMemory`, with the same `read` and `make_room`.
    """
    run = _Run(operator, memory)
    for chunk in stream:
        run.time = run.time if chunk.t is None else chunk.t
        if isinstance(chunk, Text):
            if not run.text:
                run.text_begins = run.time
            run.text += chunk.text
        elif isinstance(chunk, Tokens) and len(chunk):
            run.tokenise()
            ends = run.time + np.arange(1, len(chunk) + 1)
            run.rows += list(zip(chunk.ids.tolist(), ends.tolist(), strict=True))
        elif isinstance(chunk, Query):
            run.tokenise()
            run.score(everything=True)
            run.answer(chunk.text)
        run.time += len(chunk) * chunk.period
    run.tokenise()
    run.score(everything=True)
    return run.events
