"""What one stream of thinking leaves behind, how much room it takes, and whether there is work to do."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from torch import Tensor

from unending.core import state
from unending.parts.backbones import LanguageBackbone
from unending.parts.memory import DualMemory, dual_bytes, empty_dual
from unending.parts.reading import Answer, answers
from unending.systems.language.streaming_thinker.layout import Layout
from unending.systems.language.streaming_thinker.script import DONE, Progress, Script
from unending.systems.language.streaming_thinker.sentences import Units

__all__ = [
    "CLOSED",
    "LATER",
    "NONE",
    "NOW",
    "READING",
    "Plan",
    "ThinkingState",
    "empty_state",
    "pending",
    "speaks",
    "state_bytes",
]

NONE, READING, CLOSED = range(3)
NOW, LATER = 1, 2


@state
class ThinkingState:
    """What one stream leaves behind: a passage (a question, its sentences, what is thought of them) and what waits."""

    memory: DualMemory
    known: np.ndarray
    """float64 `[segments]`: stream time at which each source segment had come."""
    progress: Progress
    text: Answer
    """The unit in the making."""
    held: np.ndarray
    """uint32 `[characters of a sentence]` code points that wait for the end of their sentence; `held_count` in use."""
    held_count: int
    question: np.ndarray
    """int64 `[tokens of a question]` ids, `question_count` in use: of this passage."""
    question_count: int
    next_question: np.ndarray
    """As `question`: of the next passage, while this one is still owed something."""
    next_count: int
    next_time: np.ndarray
    """float64 scalar: stream time at which it was asked."""
    next_begins: int
    """0: no question waits. 1: its passage begins once this one is done. 2: it begins with the sentence at hand."""
    phase: int
    """0: no passage. 1: it is being read. 2: it is closed, and what is owed to it is written."""
    spoken: int
    """Target tokens of the stream so far; counts the draws."""
    time: np.ndarray
    """float64 scalar: stream time that has arrived, in characters."""
    seed: int


class Plan(Protocol):
    """What a step needs to know of its operator."""

    @property
    def backbone(self) -> LanguageBackbone: ...
    @property
    def script(self) -> Script: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def units(self) -> Units: ...
    @property
    def max_sentences(self) -> int: ...
    @property
    def source_tokens(self) -> int: ...
    @property
    def choose(self) -> Callable[[Tensor, int, int], int]:
        """A token id from logits, a seed and a position."""


def _sizes(plan: Plan) -> tuple[int, int, int]:
    """Source tokens, target tokens and segments (instruction, question, sentences, end of turn) of a passage."""
    return plan.source_tokens, plan.script.target_tokens(plan.max_sentences), plan.max_sentences + 3


def empty_state(plan: Plan, seed: int) -> ThinkingState:
    """The state before the first chunk."""
    backbone, (source, target, segments) = plan.backbone, _sizes(plan)
    longest = max(plan.script.max_unit_tokens, plan.script.max_new_tokens) + 1
    return ThinkingState(
        memory=empty_dual(backbone.kv_shapes(), source, target, segments, backbone.dtype, backbone.device),
        known=np.zeros(segments),
        progress=Progress(DONE, 0, 0, 0),
        text=answers.no_answer(longest),
        held=np.zeros(plan.units.limit, dtype=np.uint32),
        held_count=0,
        question=np.zeros(source // 2, dtype=np.int64),
        question_count=0,
        next_question=np.zeros(source // 2, dtype=np.int64),
        next_count=0,
        next_time=np.zeros(()),
        next_begins=0,
        phase=NONE,
        spoken=0,
        time=np.zeros(()),
        seed=seed,
    )


def state_bytes(plan: Plan) -> int:
    """Bytes of a `ThinkingState`, from sizes alone."""
    source, target, segments = _sizes(plan)
    longest = max(plan.script.max_unit_tokens, plan.script.max_new_tokens) + 1
    arrays = 8 * segments + 4 * plan.units.limit + 2 * 8 * (source // 2) + 2 * 8
    integers = 8 * (4 + 7)
    memory = dual_bytes(plan.backbone.kv_shapes(), source, target, segments, plan.backbone.dtype.itemsize)
    return memory + arrays + integers + answers.answer_bytes(longest)


def pending(plan: Plan, now: ThinkingState) -> bool:
    """Whether a token can be written, or a passage begun, without more input."""
    if now.phase == NONE:
        return now.next_begins == NOW
    return plan.script.sees(now.progress, now.memory.segments, closed=now.phase == CLOSED) is not None


def speaks(now: ThinkingState) -> bool:
    """Whether there is a passage."""
    return now.phase != NONE
