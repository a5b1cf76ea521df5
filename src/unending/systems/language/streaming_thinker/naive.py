"""The slow reference of the operator: whole transcripts through the model for every token, no cache, no state."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from unending.core import Chunk, Control, Event, Query, Text
from unending.parts.transcript import positions, streaming_mask
from unending.systems.language.streaming_thinker.layout import DEPTHS, MARKS

__all__ = ["offline"]


class _Passage:
    """A source of segments that grows, and the target that is written to it."""

    def __init__(self, run: "_Run", question: list[int], time: float) -> None:
        layout, ids = run.layout, run.ids
        self.question, self.sentences, self.closed = question, 0, False
        self.source: list[list[int]] = []
        self.times: list[float] = []
        self.add([*ids(layout.instruction), run.mark["<SEP>"]], time)
        if question:
            self.add([*question, run.mark["<EOQ>"]], time)
        self.target: list[list[int]] = [[*ids(layout.header), run.mark["<SEP>"]], []]
        self.part, self.said = "thought", 0
        self.own: list[int] = []
        self.shown = ""

    def add(self, segment: list[int], time: float) -> None:
        self.source.append(segment)
        self.times.append(time)


class _Run:
    def __init__(self, operator: Any) -> None:
        self.operator, self.layout = operator, operator.layout
        self.model, self.tokenizer = operator.backbone.module, operator.backbone.tokenizer
        self.stops = operator.backbone.stops
        self.mark = {mark: self.tokenizer.convert_tokens_to_ids(mark) for mark in MARKS}
        self.passage: _Passage | None = None
        self.waiting: tuple[list[int], float] | None = None
        self.held, self.time, self.spoken = "", 0.0, 0
        self.events: list[Event] = []

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def settle(self) -> None:
        while self.passage and self.passage.closed:
            self.tick()
        if not self.passage and self.waiting:
            self.passage, self.waiting = _Passage(self, *self.waiting), None

    def text(self, text: str) -> None:
        self.settle()
        self.held += text
        begins = self.time - len(self.held)
        done = 0
        for unit in self.operator.units.split(self.held):
            if unit.text:
                self.sentence(unit.text, begins + unit.known)
            done = unit.end
        self.held = self.held[done:]

    def flush(self) -> None:
        rest, self.held = self.held.strip(), ""
        if rest:
            self.sentence(rest, self.time)

    def sentence(self, text: str, time: float) -> None:
        operator, ids = self.operator, self.ids(text)
        if self.passage is None:
            asked = text.endswith("?") and len(ids) < operator.source_tokens // 2
            self.passage = _Passage(self, ids if asked else [], time)
            if asked:
                return
        room = operator.source_tokens - len(self.ids(self.layout.end_of_turn)) - 1
        while ids:
            left = room - sum(map(len, self.passage.source))
            if self.passage.sentences and (
                len(ids) > left or self.passage.sentences == operator.max_sentences
            ):
                question = self.passage.question
                self.close(time)
                self.settle()
                self.passage = _Passage(self, question, time)
            else:
                self.passage.add([*ids[:left], self.mark["<EOS>"]], time)
                self.passage.sentences += 1
                ids = ids[left:]

    def close(self, time: float) -> None:
        if self.passage and not self.passage.closed:
            self.passage.add(self.ids(self.layout.end_of_turn), time)
            self.passage.closed = True

    def ask(self, question: str) -> None:
        self.flush()
        self.settle()
        self.close(self.time)
        self.waiting = (self.ids(question.strip()), self.time)
        if self.passage is None:
            self.settle()

    def tick(self) -> None:
        """One more token of the target, if what it may see has come."""
        now = self.passage
        if now is None:
            return self.settle()
        unit, n = len(now.target) - 1, len(now.source)
        deep = now.closed and (now.part != "thought" or unit >= n - 1)
        sees = n if deep else unit + 1 + self.operator.lookahead
        if not deep and sees > n:
            if not now.closed:
                return None
            sees = n
        if deep and now.part == "thought":
            now.part = "deep"
            now.said = 0
        self._say(now, self._logits(now, sees), now.times[sees - 1])

    def _logits(self, now: _Passage, sees: int) -> torch.Tensor:
        """Logits of the next token, from the whole transcript under the mask of training."""
        ends = np.cumsum([len(each) for each in now.source])
        reach = [self._reach(now, unit) for unit in range(len(now.target))]
        counts = np.concatenate(
            [np.full(len(each), ends[r - 1]) for each, r in zip(now.target, reach, strict=True)]
        )
        # Row i predicts token i + 1 and sees what that token may see.
        counts = np.append(counts[1:], ends[sees - 1])
        ids = np.concatenate([*now.source, *now.target]).astype(np.int64)
        n = int(ends[-1])
        with torch.no_grad():
            logits = self.model(
                input_ids=torch.from_numpy(ids)[None],
                position_ids=torch.from_numpy(positions(counts, n))[None],
                attention_mask=torch.from_numpy(streaming_mask(counts, n))[None, None],
                use_cache=False,
            ).logits
        return logits[0, -1].float()

    def _reach(self, now: _Passage, unit: int) -> int:
        n = len(now.source)
        if now.closed and unit >= n - 1:
            return n
        return min(unit + 1 + self.operator.lookahead, n)

    def _say(self, now: _Passage, logits: torch.Tensor, time: float) -> None:
        """Choose the next token and add it."""
        operator, mark = self.operator, self.mark
        index = DEPTHS.index(operator.depth)
        connector = [*self.ids(self.layout.connectors[index]), *([mark["<EOR>"]] if index == 0 else [])]
        fixed = {"thought": [], "deep": connector, "answer": self.ids(self.layout.think_end)}[now.part]
        due = mark["<EOQ>"] if now.question and len(now.target) == 2 else mark["<EOT>"]
        most = operator.max_unit_tokens if now.part == "thought" else operator.max_new_tokens
        free = len(fixed) <= now.said < len(fixed) + most
        if free:
            token = operator.choose(logits, 0, self.spoken)
            if now.part == "thought" and token in self.stops and token not in mark.values():
                token = due
        elif now.said < len(fixed):
            token = fixed[now.said]
        else:
            token = {"thought": due, "deep": mark["<EOR>"], "answer": mark["<EOA>"]}[now.part]
        if free and token not in self.stops and token not in mark.values():
            now.own.append(token)
        ended = token in mark.values() if now.part == "thought" else token in (mark["<EOR>"], mark["<EOA>"])
        self._show(now, time, whole=ended or token in self.stops)
        self.spoken += 1
        now.said += 1
        now.target[-1].append(token)
        if now.part == "thought" and ended:
            now.target.append([])
        elif (
            now.part != "thought"
            and now.said > len(fixed)
            and (token == mark["<EOA>"] or token in self.stops)
        ):
            self.passage = None
        elif now.part == "deep" and token == mark["<EOR>"]:
            now.part = "answer"
        else:
            return
        now.said, now.own, now.shown = 0, [], ""

    def _show(self, now: _Passage, time: float, *, whole: bool) -> None:
        """Give out the text that is complete."""
        text = self.operator.backbone.decode(now.own)
        if text != now.shown and (whole or not text.endswith("\N{REPLACEMENT CHARACTER}")):
            self.events.append(Event(Text(text[len(now.shown) :], role=now.part), time, time))
            now.shown = text


def offline(operator: Any, stream: Sequence[Chunk]) -> list[Event]:
    """The events of a whole stream under seed 0, with `spec.ticks` tokens written after each chunk."""
    run = _Run(operator)
    for chunk in stream:
        run.time = run.time if chunk.t is None else chunk.t
        if isinstance(chunk, Text) and len(chunk):
            run.time += len(chunk)
            run.text(chunk.text)
        elif isinstance(chunk, Query):
            run.ask(chunk.text)
        elif isinstance(chunk, Control) and chunk.name == "interrupt":
            if run.passage and run.passage.closed:
                run.passage = None
        elif isinstance(chunk, Control) and chunk.name == "end":
            run.settle()
            run.flush()
            run.close(run.time)
        for _ in range(operator.spec.ticks):
            run.tick()
    run.settle()
    run.flush()
    run.close(run.time)
    run.settle()
    return run.events
