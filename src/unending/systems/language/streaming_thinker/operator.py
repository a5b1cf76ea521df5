"""StreamingThinker as a stream operator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor, nn

from unending.core import (
    Bound,
    Chunk,
    Control,
    Domain,
    Event,
    Exactness,
    Operator,
    Paper,
    Query,
    Spec,
    Text,
    Tick,
)
from unending.core.errors import CapacityError, InputError
from unending.parts.backbones.operators import OnLanguageModel
from unending.parts.reading.answers import choose
from unending.parts.reading.together import step_together
from unending.systems.language.streaming_thinker.layout import Layout, add_marks
from unending.systems.language.streaming_thinker.passage import Passage, Saying
from unending.systems.language.streaming_thinker.script import Script
from unending.systems.language.streaming_thinker.sentences import SentenceSplitter
from unending.systems.language.streaming_thinker.state import (
    ThinkingState,
    empty_state,
    pending,
    speaks,
    state_bytes,
)

__all__ = ["StreamingThinking"]

_LEAST = 16
"""Source tokens that must be left for sentences."""


@dataclass(frozen=True)
class StreamingThinking(OnLanguageModel, Operator[ThinkingState]):
    """StreamingThinker (Tong, Fan, Zhao, Ma, Shen 2025, arXiv 2510.17238) as a stream operator.

    A `Query` is the question and comes first; then `Text`. A thought on each sentence comes out while the text is
    still arriving, and after the end of the passage how the thoughts combine, and the answer: as `Text` whose role is
    "thought", "deep" or "answer", token by token, through ticks. A passage ends with the next `Query`, with
    `Control("end")`, when its memory is full (the next one then has the same question), or with the stream. Without a
    `Query`, a first sentence that ends with "?" is the question. Thought j sees the question and the first j
    sentences, whatever else has been read by then, so the outputs do not depend on how fast the text arrives.
    The time of an output is the stream time (in characters) at which the last sentence that it sees had come.

    Parameters
    ----------
    model
        friendly name, path or hub id of a causal language model that was trained to think so (see
        `unending train streaming-thinker`).
    depth
        "D1": thoughts, then the answer. "D2": the thoughts are combined first. "D3": and looked at again.
    lookahead
        sentences that a thought sees beyond its own; 0 is as trained.
    source_tokens
        tokens of a passage: instruction, question, sentences.
    max_sentences
        of a passage.
    max_sentence
        characters of a sentence; a longer one is cut.
    max_unit_tokens, max_new_tokens
        longest thought; longest deep part and longest answer.
    temperature, top_p, top_k
        of sampling; temperature 0 takes the likeliest token, `top_p` 1 and `top_k` 0 do not restrict.
    dtype
        of weights and caches.
    """

    model: str = "tiny-thinker"
    depth: str = "D2"
    lookahead: int = 0
    source_tokens: int = 1024
    max_sentences: int = 64
    max_sentence: int = 512
    max_unit_tokens: int = 32
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 0.95
    top_k: int = 20
    dtype: str = "float32"

    spec: ClassVar[Spec] = Spec(
        name="streaming-thinker",
        family="language",
        title="a language model that thinks sentence by sentence while it is still reading",
        takes=(Text, Query, Control),
        gives=(Text,),
        exactness=Exactness.allclose(2e-4),
        paper=Paper(
            "StreamingThinker: Large Language Models Can Think While Reading",
            "Junlong Tong, Yingqi Fan, Anhao Zhao, Yunpu Ma, Xiaoyu Shen",
            2025,
            "2510.17238",
        ),
        ticks=8,
        unit="character",
    )

    def __post_init__(self) -> None:
        if self.max_sentences < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise InputError(
                "max_sentences is 1 or more, temperature and top_k are 0 or more, top_p is above 0 and at most 1"
            )
        SentenceSplitter(self.max_sentence)

    @classmethod
    def example(cls) -> Self:
        from unending.systems.language.streaming_thinker.examples import tiny_thinker

        return cls.from_model(
            *tiny_thinker(),
            source_tokens=96,
            max_sentences=3,
            max_sentence=16,
            max_unit_tokens=2,
            max_new_tokens=2,
            temperature=1.0,
        )

    @classmethod
    def from_model(cls, module: nn.Module, tokenizer: Any = None, **settings: Any) -> Self:
        """The operator over a model in memory, which gets the seven marks; `settings` are the other fields."""
        add_marks(tokenizer, module)
        return super().from_model(module, tokenizer, **settings)

    @cached_property
    def layout(self) -> Layout:
        """The fixed texts that the model was trained with."""
        return Layout.of(self.backbone.module, self.backbone.tokenizer)

    @cached_property
    def script(self) -> Script:
        """What the writer goes by."""
        return Script.of(
            self.backbone.tokenizer,
            self.layout,
            self.depth,
            lookahead=self.lookahead,
            max_unit_tokens=self.max_unit_tokens,
            max_new_tokens=self.max_new_tokens,
            stops=self.backbone.stops,
        )

    @property
    def units(self) -> SentenceSplitter:
        """What cuts the text."""
        return SentenceSplitter(self.max_sentence)

    @property
    def choose(self) -> Callable[[Tensor, int, int], int]:
        """A token id from logits, seed and position."""
        return partial(_choose, self)

    def domain(self) -> Mapping[type[Chunk], Domain]:
        # A character of any script is at most four tokens of a byte-level vocabulary.
        return {
            Query: {"characters": max(1, (self.source_tokens // 2 - 1) // 4), "first": 1},
            Control: {"end": 1, "interrupt": 1},
        }

    def bound(self) -> Bound:
        return Bound(state_bytes(self))

    def init(self, seed: int = 0) -> ThinkingState:
        backbone, script = self.backbone, self.script
        around = (
            len(Passage(self, empty_state(self, 0)).ids(self.layout.instruction + self.layout.end_of_turn))
            + 1
        )
        if self.source_tokens < self.source_tokens // 2 + around + _LEAST:
            raise CapacityError(
                f"source_tokens is {self.source_tokens}, accepted is {2 * (around + _LEAST)} or more:"
                " half of it is for the question"
            )
        total = self.source_tokens + script.target_tokens(self.max_sentences)
        if total > backbone.limit:
            raise CapacityError(
                f"a passage has up to {total} tokens of source and target, but {self.model} attends over at most"
                f" {backbone.limit}: give it fewer source_tokens, max_sentences, max_unit_tokens or max_new_tokens"
            )
        return empty_state(self, seed)

    def pending(self, state: ThinkingState) -> bool:
        return pending(self, state)

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """Every token anew from the whole transcript under the mask of training; no cache."""
        from unending.systems.language.streaming_thinker.naive import offline

        return offline(self, stream)

    def _step(self, state: ThinkingState, chunk: Any) -> tuple[ThinkingState, list[Event]]:
        work = Passage(self, state)
        if type(chunk) is Tick:
            if speaks(state):
                work.write()
            else:
                work.settle()
        elif type(chunk) is Control:
            self._control(work, chunk)
        elif type(chunk) is Query:
            self._ask(work, chunk)
        else:
            work.take(chunk.text, chunk.t)
        return work.state(), work.events

    def _ask(self, work: Passage, query: Query) -> None:
        ids = work.ids(query.text.strip())
        if len(ids) > work.longest_question:
            raise CapacityError(
                f"a question of {len(ids)} tokens is longer than {work.longest_question} (half of source_tokens)"
            )
        work.flush()
        work.ask(ids, float(work.now.time) if query.t is None else query.t)
        if query.t is not None:
            work.now = replace(work.now, time=np.asarray(query.t, dtype=np.float64))

    def _control(self, work: Passage, control: Control) -> None:
        if control.name == "interrupt":
            work.abandon()
        elif control.name == "end":
            work.settle()
            work.flush()
            work.close(float(work.now.time))
        else:
            raise InputError(
                f"control {control.name!r} is unknown; streaming-thinker knows end and interrupt"
            )

    def _finish(self, state: ThinkingState) -> tuple[ThinkingState, list[Event]]:
        work = Passage(self, state)
        work.settle()
        work.flush()
        work.close(float(work.now.time))
        work.drain()
        return work.state(), work.events

    def _step_many(
        self, states: Sequence[ThinkingState], chunks: Sequence[Chunk], width: int
    ) -> list[tuple[ThinkingState, list[Event]] | Exception]:
        return step_together(
            states,
            chunks,
            width,
            module=self.backbone.module,
            ready=lambda state, chunk: type(chunk) is Tick and speaks(state) and self.pending(state),
            begin=self._begin,
            alone=super()._step_many,
        )

    def _begin(self, state: ThinkingState) -> Saying:
        work = Passage(self, state)
        work.ready()
        return Saying(work)


def _choose(operator: StreamingThinking, logits: Tensor, seed: int, position: int) -> int:
    return choose(logits, operator.temperature, seed, position, top_k=operator.top_k, top_p=operator.top_p)
