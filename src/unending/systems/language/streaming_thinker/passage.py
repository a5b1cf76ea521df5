"""One step of the operator: text becomes source segments, and tokens of thought are written to them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unending.core import Event, Text
from unending.core.errors import CapacityError
from unending.parts.memory import DualCache, forward
from unending.parts.reading import answers
from unending.systems.language.streaming_thinker.script import DONE, ROLES, Progress
from unending.systems.language.streaming_thinker.state import (
    CLOSED,
    LATER,
    NONE,
    NOW,
    READING,
    Plan,
    ThinkingState,
)

__all__ = ["Passage", "Saying"]


class Passage:
    """The work of one step, on one view of the memory of a state; `state()` is the new one."""

    def __init__(self, plan: Plan, now: ThinkingState) -> None:
        self.plan, self.now = plan, now
        self.cache = DualCache(now.memory)
        self.events: list[Event] = []

    def state(self) -> ThinkingState:
        """The state after what was done."""
        return replace(self.now, memory=self.cache.memory())

    def ids(self, text: str, *marks: int) -> list[int]:
        """Token ids of a text and the marks behind it."""
        found = self.plan.backbone.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return [*found, *marks]

    def take(self, text: str, time: float | None) -> None:
        """Text that has arrived; whole sentences are read, the rest is held back.

        What is owed to a closed passage is written first, whatever the text is, so that it comes out the same.
        """
        self.settle()
        now = self.now
        begins = (float(now.time) if time is None else time) - now.held_count
        whole = _string(now.held[: now.held_count]) + text
        done = 0
        for unit in self.plan.units.split(whole):
            if unit.text:
                self.sentence(unit.text, begins + unit.known)
            done = unit.end
        self._hold(whole[done:], begins + len(whole))

    def _hold(self, rest: str, time: float) -> None:
        if len(rest) > self.plan.units.limit:
            raise CapacityError(f"a unit of {len(rest)} characters is longer than {self.plan.units.limit}")
        held = np.zeros_like(self.now.held)
        held[: len(rest)] = np.frombuffer(rest.encode("utf-32-le"), dtype="<u4")
        self.now = replace(self.now, held=held, held_count=len(rest), time=np.asarray(time, dtype=np.float64))

    def flush(self) -> None:
        """What is held back is a sentence."""
        now = self.now
        if not now.held_count:
            return
        rest = _string(now.held[: now.held_count]).strip()
        self._hold("", float(now.time))
        if rest:
            self.sentence(rest, float(now.time))

    def ask(self, ids: list[int], time: float) -> None:
        """A question: the passage at hand ends, and one for it begins once nothing is owed any more."""
        self.settle()
        self.close(time)
        self._wait(ids, time, NOW)
        if self.now.phase == NONE:
            self.begin()

    def _wait(self, ids: list[int], time: float, begins: int) -> None:
        """A passage on this question is to follow."""
        question = np.zeros_like(self.now.next_question)
        question[: len(ids)] = ids
        self.now = replace(
            self.now,
            next_question=question,
            next_count=len(ids),
            next_time=np.asarray(time, dtype=np.float64),
            next_begins=begins,
        )

    def begin(self) -> None:
        """A passage: instruction and question are read, and the writer gets its header."""
        now, script, layout = self.now, self.plan.script, self.plan.layout
        asked = now.next_question[: now.next_count].tolist()
        self.now = replace(
            now,
            question=now.next_question,
            question_count=now.next_count,
            next_question=np.zeros_like(now.next_question),
            next_count=0,
            next_begins=0,
            phase=READING,
            progress=script.start(),
            text=answers.begin(now.text),
        )
        time = float(now.next_time)
        self._read(self.ids(layout.instruction, script.marks.sep), time)
        if asked:
            self._read([*asked, script.marks.eoq], time)
        if given := list(script.header[:-1]):
            self.cache.mode, self.cache.visible = "write", self.cache.end_of(0)
            self._forward(given)

    def sentence(self, text: str, time: float) -> None:
        """A whole sentence becomes a segment of the passage, or the question if a passage begins without one."""
        marks, now = self.plan.script.marks, self.now
        if now.phase == NONE:
            asked = self.ids(text) if not now.next_begins and text.endswith("?") else []
            asked = asked if len(asked) <= self.longest_question else []
            if now.next_begins != NOW:
                self._wait(now.next_question[: now.next_count].tolist() or asked, time, LATER)
            self.begin()
            if asked:
                return
        ids = self.ids(text)
        room = self.plan.source_tokens - len(self.ids(self.plan.layout.end_of_turn)) - 1
        while ids:
            left = room - self.cache.source_count
            if self._sentences and (len(ids) > left or self._sentences == self.plan.max_sentences):
                self._turn_over(time)
                continue
            piece, ids = ids[:left], ids[left:]
            self._read([*piece, marks.eos], time)

    @property
    def longest_question(self) -> int:
        """Tokens."""
        return len(self.now.question) - 1

    @property
    def _sentences(self) -> int:
        return self.cache.segments - 1 - (self.now.question_count > 0)

    def _turn_over(self, time: float) -> None:
        """The passage is full: it is brought to its end, and the next has the same question."""
        asked = self.now.question[: self.now.question_count].tolist()
        self.close(time)
        self.drain()
        self._wait(asked, time, LATER)
        self.begin()

    def close(self, time: float) -> None:
        """No more comes to this passage."""
        if self.now.phase == READING:
            self._read(self.ids(self.plan.layout.end_of_turn), time)
            self.now = replace(self.now, phase=CLOSED)

    def abandon(self) -> None:
        """What is still owed to a closed passage is not written."""
        if self.now.phase == CLOSED:
            self._clear()

    def _clear(self) -> None:
        self.cache.clear()
        self.now = replace(
            self.now,
            phase=NONE,
            known=np.zeros_like(self.now.known),
            progress=Progress(DONE, 0, 0, 0),
            text=answers.no_answer(len(self.now.text.ids)),
            question=np.zeros_like(self.now.question),
            question_count=0,
        )

    def drain(self) -> None:
        """Write all that is owed to a closed passage."""
        while self.now.phase == CLOSED:
            self.write()

    def settle(self) -> None:
        """Bring what waits into its passage, once all is written that is owed to the one before."""
        self.drain()
        if self.now.phase == NONE and self.now.next_begins == NOW:
            self.begin()

    def ready(self) -> bool:
        """Whether a token can be written now; the view is set up for it."""
        now = self.now
        segments = self.plan.script.sees(now.progress, self.cache.segments, closed=now.phase == CLOSED)
        if now.phase == NONE or segments is None:
            return False
        self.cache.mode, self.cache.visible = "write", self.cache.end_of(segments - 1)
        self._time = float(now.known[segments - 1])
        return True

    def write(self) -> None:
        """One token through the model, and the choice of the next."""
        if self.ready():
            self.said(self._forward([self.now.progress.token]))

    def said(self, logits: Tensor) -> None:
        """Choose the token that follows from logits `[vocabulary]`; its text is in `events`."""
        now, script, backbone = self.now, self.plan.script, self.plan.backbone
        closed, question = now.phase == CLOSED, now.question_count > 0
        part = script.part(now.progress, self.cache.segments, closed=closed)
        token = script.forced(now.progress, part, question=question)
        if token is None:
            chosen = self.plan.choose(logits, now.seed, now.spoken)
            token = script.admit(now.progress, part, chosen, question=question)
        text = now.text if part == now.progress.part else answers.begin(now.text)
        progress = script.after(now.progress, part, token)
        ended = (progress.part, progress.unit) != (part, now.progress.unit)
        said = ""
        if not script.silent(now.progress, part, token):
            text, said = answers.take(text, token, backbone)
        elif ended:
            text, said = answers.close(text, backbone)
        if said:
            self.events.append(Event(Text(said, role=ROLES[part]), self._time, self._time))
        if ended:
            text = answers.begin(text)
        self.now = replace(now, progress=progress, text=text, spoken=now.spoken + 1)
        if progress.part == DONE:
            self._clear()

    def _read(self, ids: list[int], time: float) -> None:
        """A source segment, that had come at stream time `time`; it may be empty."""
        self.cache.mode = "read"
        if ids:
            self._forward(ids)
        self.cache.end_segment()
        known = self.now.known.copy()
        known[self.cache.segments - 1] = time
        self.now = replace(self.now, known=known)

    def _forward(self, ids: list[int]) -> Tensor:
        """Logits `[vocabulary]` after some tokens."""
        backbone = self.plan.backbone
        block = torch.tensor([ids], device=backbone.device)
        return forward(backbone.module, block, self.cache)[0, -1]


@dataclass(frozen=True, eq=False)
class Saying:
    """The step in which one token goes through the model, for `step_together`."""

    work: Passage

    @property
    def token(self) -> int:
        """The token that goes in."""
        return self.work.now.progress.token

    @property
    def memory(self) -> Any:
        """What it attends over."""
        return self.work.cache

    def end(self, logits: Tensor) -> tuple[ThinkingState, list[Event]]:
        """The new state and the outputs."""
        self.work.said(logits)
        return self.work.state(), self.work.events


def _string(codes: np.ndarray) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le")
