"""Group position encoding as a stream operator: text in, text out while it arrives, passage by passage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from unending.core import (
    Bound,
    Chunk,
    Control,
    Domain,
    Event,
    Exactness,
    Operator,
    Paper,
    Spec,
    Text,
    Tick,
)
from unending.core.errors import CapacityError, InputError, ModelUnsupportedError
from unending.parts.backbones.operators import OnLanguageModel
from unending.parts.backbones.routing import require_routable
from unending.parts.emission import Policy, SentenceBoundary, WaitK
from unending.parts.memory import DualCache, dual_bytes, empty_dual, forward
from unending.parts.reading.together import step_together
from unending.systems.language.group_position_encoding import words
from unending.systems.language.group_position_encoding.naive import offline
from unending.systems.language.group_position_encoding.passage import (
    Limits,
    Rules,
    new_passage,
    passage_bytes,
    require_header_mode,
)
from unending.systems.language.group_position_encoding.positions import GroupPositions, Unmasked, run
from unending.systems.language.group_position_encoding.template import Template
from unending.systems.language.group_position_encoding.work import GroupPositionEncodingState, Work

__all__ = ["POLICIES", "GroupPositionEncoding"]

POLICIES = ("wait-k", "sentence")
_BUFFER = 2048
_LONGEST = 64


@dataclass(frozen=True)
class GroupPositionEncoding(OnLanguageModel, Operator[GroupPositionEncodingState]):
    """Group position encoding (Tong et al. 2025, ACL Findings, arXiv 2505.16983) as a stream operator.

    Text goes in; the model's text comes out, word by word through ticks, while the source still arrives. What a
    word is written from is decided by counts of words, so neither the cutting of the source nor the moments of the
    ticks change the output. A line break ends a passage, and so do `Control("end")` and a full memory: what is owed
    is written out and the next passage begins with empty caches. A target that ends before its source begins a new
    passage with the next word. Stream time counts characters; an event's time is the end of the newest word read.

    Parameters
    ----------
    model
        friendly name, path or hub id of a causal language model with rotary positions.
    policy
        `"wait-k"`, or `"sentence"`: read to the end of a sentence, then write as many.
    k
        lag of wait-k in words.
    phi
        where target positions begin.
    instruction
        what to do with the source, put before it.
    chat
        use the tokenizer's chat template.
    header_mode
        `"exact"` (as trained) or `"upstream"`.
    source_capacity, target_capacity
        tokens of one passage.
    per_write, max_new_tokens
        tokens of one write and of a passage's target.
    dtype
        of weights and caches.
    """

    model: str = "tiny-translation"
    policy: str = "wait-k"
    k: int = 5
    phi: int = 0
    instruction: str = ""
    chat: bool = True
    header_mode: str = "exact"
    source_capacity: int = 256
    target_capacity: int = 256
    per_write: int = 50
    max_new_tokens: int = 1024
    dtype: str = "float32"

    spec: ClassVar[Spec] = Spec(
        name="group-position-encoding",
        family="language",
        title="a language model that writes while it reads, source and target in position groups of their own",
        takes=(Text, Control),
        gives=(Text,),
        exactness=Exactness.allclose(2e-4),
        paper=Paper(
            "LLM as Effective Streaming Processor: Bridging Streaming-Batch Mismatches with Group Position Encoding",
            "Junlong Tong, Jinlan Fu, Zixuan Lin, Yingqi Fan, Anhao Zhao, Hui Su, Xiaoyu Shen",
            2025,
            "2505.16983",
        ),
        lookahead=1,  # the space that shows that a word is whole
        unit="character",
    )

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InputError(f"policy {self.policy!r} is unknown; accepted are {', '.join(POLICIES)}")
        WaitK(self.k), GroupPositions(self.phi), Limits(self.per_write, self.max_new_tokens)
        require_header_mode(self.header_mode)
        if self.source_capacity < 1 or self.target_capacity < 1:
            raise InputError("source_capacity and target_capacity are 1 or more tokens")

    @classmethod
    def example(cls) -> Self:
        from unending.parts.backbones.tiny import tiny_llama

        module, tokenizer = tiny_llama()
        return cls.from_model(
            module, tokenizer, k=2, source_capacity=36, target_capacity=28, per_write=5, max_new_tokens=16
        )

    @cached_property
    def rules(self) -> Rules:
        """Template, policy and limits of a passage."""
        template = Template.of(self.backbone, self.instruction, chat=self.chat)
        policy: Policy = WaitK(self.k) if self.policy == "wait-k" else SentenceBoundary()
        return Rules(template, policy, Limits(self.per_write, self.max_new_tokens), self.header_mode)

    @cached_property
    def longest(self) -> int:
        """Characters after which a word is cut, so that it fits in an empty passage whatever its script."""
        template = self.rules.template
        room = self.source_capacity - len(template.prompt) - len(template.end)
        # A character of any script is at most four tokens of a byte-level vocabulary; one more for the space.
        return min(_LONGEST, (room - 1) // 4)

    @cached_property
    def _routable(self) -> bool:
        try:
            require_routable(self.backbone.module)
        except ModelUnsupportedError:
            return False
        return True

    def domain(self) -> Mapping[type[Chunk], Domain]:
        return {Control: {"end": 1, "interrupt": 1}}

    def bound(self) -> Bound:
        backbone = self.backbone
        memory = dual_bytes(
            backbone.kv_shapes(),
            self.source_capacity,
            self.target_capacity,
            self.source_capacity,
            backbone.dtype.itemsize,
        )
        around = passage_bytes(self.target_capacity) + words.words_bytes(_BUFFER)
        return Bound(memory + around + 8 + 2 * 8)

    def init(self, seed: int = 0) -> GroupPositionEncodingState:
        backbone, template = self.backbone, self.rules.template
        if self.longest < 1:
            raise CapacityError(
                f"source_capacity {self.source_capacity} leaves no room for a word beside the"
                f" {len(template.prompt) + len(template.end)} tokens around the source"
            )
        if self.target_capacity <= len(template.header):
            raise CapacityError(
                f"target_capacity {self.target_capacity} leaves no room behind the {len(template.header)} tokens"
                " of the header"
            )
        farthest = max(self.source_capacity, self.phi + self.target_capacity)
        seen = self.source_capacity + self.target_capacity
        if backbone.limit < max(farthest, seen):
            raise CapacityError(
                f"source, target and phi make {max(farthest, seen)} positions, but {self.model} attends over at"
                f" most {backbone.limit}"
            )
        memory = empty_dual(
            backbone.kv_shapes(),
            self.source_capacity,
            self.target_capacity,
            self.source_capacity,
            backbone.dtype,
            backbone.device,
        )
        passage = new_passage(memory, self.target_capacity)
        return GroupPositionEncodingState(passage, words.no_words(_BUFFER), np.zeros(()), 0, 0)

    def pending(self, state: GroupPositionEncodingState) -> bool:
        return not self._work(state).is_idle()

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The stream by lists, one masked forward pass over source and target for every token."""
        return offline(self, stream)

    def _step(
        self, state: GroupPositionEncodingState, chunk: Any
    ) -> tuple[GroupPositionEncodingState, list[Event]]:
        work = self._work(state)
        if type(chunk) is Tick:
            work.move()
        elif type(chunk) is Text:
            work.arrive(chunk.text, chunk.t)
        elif chunk.name == "interrupt":
            work.drop()
        elif chunk.name == "end":
            work.end_passage(chunk.t)
        else:
            raise InputError(
                f"control {chunk.name!r} is unknown; group-position-encoding knows end, interrupt"
            )
        return work.close(), work.events

    def _step_many(
        self, states: Sequence[GroupPositionEncodingState], chunks: Sequence[Chunk], width: int
    ) -> list[tuple[GroupPositionEncodingState, list[Event]] | Exception]:
        return step_together(
            states,
            chunks,
            width,
            module=self.backbone.module,
            ready=lambda state, chunk: type(chunk) is Tick and self._work(state).is_one_token(),
            begin=self._work,
            alone=super()._step_many,
        )

    def _finish(self, state: GroupPositionEncodingState) -> tuple[GroupPositionEncodingState, list[Event]]:
        work = self._work(state)
        work.end_passage(None)
        while not work.is_idle():
            work.move()
        return work.close(), work.events

    def _work(self, state: GroupPositionEncodingState) -> Work:
        return Work(self.rules, self.phi, self.longest, self._run, state)

    def _run(self, ids: list[int], cache: DualCache, causal: bool) -> Tensor:
        module = self.backbone.module
        if not self._routable:
            return run(module, ids, cache, causal=causal)
        block = torch.tensor([ids], device=self.backbone.device)
        return forward(module, block, cache if causal else Unmasked(cache))[0]
