"""The slow reference: lists of words, and one masked forward pass over source and target for every token."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from unending.core import Chunk, Control, Event, Text
from unending.parts.backbones import LanguageBackbone
from unending.parts.emission import Boundary, Progress, at_boundary, ends_sentence
from unending.parts.transcript import positions, streaming_mask
from unending.systems.language.group_position_encoding.passage import Rules
from unending.systems.language.group_position_encoding.words import END
from unending.systems.language.group_position_encoding.work import line_text

__all__ = ["masked_logits", "offline"]

_DROP = "\x18"


class _Operator(Protocol):
    """What the reference needs to know of an operator."""

    @property
    def backbone(self) -> LanguageBackbone: ...
    @property
    def rules(self) -> Rules: ...
    @property
    def phi(self) -> int: ...
    @property
    def longest(self) -> int: ...
    @property
    def source_capacity(self) -> int: ...
    @property
    def target_capacity(self) -> int: ...


@torch.no_grad()
def masked_logits(
    model: Any,
    source: Sequence[int],
    target: Sequence[int],
    seen: Sequence[int],
    phi: int,
    both_ways: int = 0,
) -> Tensor:
    """Logits, float32 `[|T|, vocabulary]`, of the target rows in one pass over source and target.

    Target row i sees the first `seen[i]` source tokens; the first `both_ways` target rows see each other.
    """
    n = len(source)
    mask = torch.from_numpy(streaming_mask(torch.tensor(seen).numpy(), n))
    mask[n : n + both_ways, n : n + both_ways] = True
    places = torch.from_numpy(positions(torch.tensor(seen).numpy(), n, phi=phi))[None]
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[None, None]
    ids = torch.tensor([[*source, *target]])
    out = model(input_ids=ids, position_ids=places, attention_mask=additive.to(model.dtype), use_cache=False)
    logits: Tensor = out.logits[0, n:].float()
    return logits


class _Run:
    def __init__(self, operator: _Operator) -> None:
        self.operator, self.rules, self.template = operator, operator.rules, operator.rules.template
        self.events: list[Event] = []
        self.time, self.begun = 0.0, False
        self.forget()

    def forget(self) -> None:
        self.source: list[list[int]] = []
        self.target: list[int] = []
        self.seen: list[int] = []
        self.read = self.written = self.sentences_read = self.sentences_written = 0

    def word(self, word: str, time: float) -> None:
        ids = self.template.word(word)
        held = sum(map(len, self.source)) if self.source else len(self.template.prompt)
        if self.source and held + len(ids) + len(self.template.end) > self.operator.source_capacity:
            self.end()
        if not self.source:
            self.source.append(list(self.template.prompt))
        self.source.append(ids)
        self.time, self.read = time, self.read + 1
        self.sentences_read += ends_sentence(word)
        while self.source and self._policy():
            self.write(ended=False)

    def end(self) -> None:
        """The source of the passage is over."""
        if self.source:
            self.source.append(list(self.template.end))
            self.read += 1
        while self.source:
            self.write(ended=True)

    def _policy(self) -> bool:
        progress = Progress(self.read, self.written, self.sentences_read, self.sentences_written)
        return self.rules.policy.write(progress)

    def write(self, *, ended: bool) -> None:
        """One word; the passage is forgotten if it is the last."""
        template, limits = self.template, self.rules.limits
        source = [token for segment in self.source for token in segment]
        both_ways = 0
        if not self.target:
            self.target = list(template.header)
            earlier = len(source) - len(self.source[-1]) if self._policy() else len(source)
            if self.rules.header_mode == "upstream":
                earlier = len(source)
            self.seen = [earlier] * (len(self.target) - 1)
        if self.rules.header_mode == "upstream":
            both_ways = len(template.header)
        begun = len(self.target)
        while True:
            self.seen.append(len(source))
            logits = masked_logits(
                self.operator.backbone.module, source, self.target, self.seen, self.operator.phi, both_ways
            )
            token = int(logits[-1].argmax())
            fresh = [*self.target[begun:], token]
            stopped = token in template.backbone.stops
            boundary = at_boundary(
                template.text(self.target[:begun], fresh),
                template.backbone.decode([token]),
                len(fresh),
                stopped=stopped,
                cap=limits.per_write,
            )
            if stopped and len(fresh) > 1 and not ended and self.rules.header_mode == "exact":
                stopped, boundary = False, Boundary.SPACE
            if boundary is Boundary.SPACE:
                fresh.pop()
                self.seen.pop()
            elif not stopped:
                self.target.append(token)
            new = len(self.target) - len(template.header)
            full = len(self.target) >= self.operator.target_capacity or new >= limits.max_new_tokens
            if stopped or full or boundary is not Boundary.OPEN:
                break
        fresh = self.target[begun:]
        self.written += bool(fresh)
        text = template.text(self.target[:begun], fresh)
        self.sentences_written += ends_sentence(text)
        if shown := line_text(text, first=self.written == 1, begun=self.begun):
            self.events.append(Event(Text(shown), self.time, self.time))
            self.begun = True
        if stopped or full or self.written - (self.read - ended) > 100:
            self.forget()

    def newline(self, time: float) -> None:
        self.time, self.begun = time, False
        self.events.append(Event(Text("\n"), time, time))


def _characters(stream: Sequence[Chunk]) -> Iterator[tuple[str, float]]:
    """Every character of the stream and the time at which it ends; controls as characters of their own."""
    time = 0.0
    for chunk in stream:
        time = time if chunk.t is None else chunk.t
        if isinstance(chunk, Text):
            for offset, character in enumerate(chunk.text, start=1):
                yield character, time + offset
            time += len(chunk)
        elif isinstance(chunk, Control):
            yield (_DROP if chunk.name == "interrupt" else END), time
    yield END, time


def offline(operator: _Operator, stream: Sequence[Chunk]) -> list[Event]:
    """The events of a whole stream, without any cache, state or buffer of the operator."""
    run, word, ended = _Run(operator), "", 0.0
    for character, time in _characters(stream):
        plain = not character.isspace() and character != _DROP
        if word and not plain and character != _DROP:
            run.word(word, ended)
        if plain:
            word, ended = word + character, time
            if len(word) == operator.longest:
                run.word(word, ended)
                word = ""
            continue
        word = ""
        if character == _DROP:
            run.forget()
        elif character in ("\n", END):
            run.time = time
            run.end()
            if character == "\n":
                run.newline(time)
    return run.events
