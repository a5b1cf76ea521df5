"""BatchLLM: prompts that are gathered first and run as one batch, what they share computed once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

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
from unending.parts.backbones.routing import require_routable
from unending.parts.prefix import KVShapes, PagedKVPool, block_bytes, empty_blocks
from unending.systems.language.batch_llm.batch import Batch, Runner, batch_bytes, empty_batch
from unending.systems.language.batch_llm.forest import PrefixForest
from unending.systems.language.batch_llm.gathering import BatchLLMState, encode_messages, encode_text
from unending.systems.language.batch_llm.naive import greedy
from unending.systems.language.batch_llm.progress import DONE, Policy, lay_out

__all__ = ["BatchLLM"]


@dataclass(frozen=True)
class BatchLLM(OnLanguageModel, Operator[BatchLLMState]):
    """BatchLLM (Zheng, Ji, Fang, Zhou, Liu, Peng 2024, arXiv 2412.03594) as a stream operator.

    A `Query` is a prompt, and so is a `Control("messages", [{"role": ..., "content": ...}, ...])`; they are gathered.
    `Control("run")`, a full batch, or the end of the stream starts the batch, which is grouped by common prefixes and
    run an iteration a tick. Completions come out as text at the stream time of their prompt: the k-th prompt is at
    its own `t`, or else one after the prompt before it, beginning with 1. They are final in the order of the prompts;
    one that is ready earlier comes at once too, marked as not final. An interrupt ends the batch: every prompt is
    answered by what it has so far.

    Parameters
    ----------
    model
        friendly name, path or hub id of a causal language model.
    prompts
        prompts of one batch.
    prompt_tokens
        tokens of the longest prompt.
    max_new_tokens
        longest completion.
    kv_tokens, block_size
        tokens of KV memory, and of one block of it.
    max_batched_tokens, order, admission, max_num_seqs
        see `Policy`.
    shared_rows
        see `unending.parts.prefix.PagedRouter`.
    dtype
        of weights and KV memory.
    chat
        use the tokenizer's chat template for queries.
    """

    model: str = "smollm2-135m"
    prompts: int = 256
    prompt_tokens: int = 1024
    max_new_tokens: int = 128
    kv_tokens: int = 8192
    block_size: int = 16
    max_batched_tokens: int = 512
    order: str = "decode_ratio"
    admission: str = "kv_memory"
    max_num_seqs: int = 256
    shared_rows: int = 16
    dtype: str = "float32"
    chat: bool = True

    spec: ClassVar[Spec] = Spec(
        name="batch-llm",
        family="language",
        title="a large batch of prompts through a language model, common prefixes computed once",
        takes=(Query, Control),
        gives=(Text,),
        exactness=Exactness.allclose(1e-4),
        paper=Paper(
            "BatchLLM: Optimizing Large Batched LLM Inference with Global Prefix Sharing and Throughput-oriented"
            " Token Batching",
            "Zhen Zheng, Xin Ji, Taosong Fang, Fanghao Zhou, Chuanjie Liu, Gang Peng",
            2024,
            "2412.03594",
        ),
        unit="prompt",
    )

    def __post_init__(self) -> None:
        if min(self.prompts, self.prompt_tokens, self.max_new_tokens, self.block_size) < 1:
            raise InputError("prompts, prompt_tokens, max_new_tokens and block_size are 1 or more")
        needed = -(-(self.prompt_tokens + self.max_new_tokens - 1) // self.block_size)
        if needed > self.policy.blocks:
            raise CapacityError(
                f"the longest prompt and completion take {needed} blocks of {self.block_size} tokens;"
                f" kv_tokens={self.kv_tokens} makes {self.policy.blocks}"
            )

    @classmethod
    def example(cls) -> Self:
        from unending.parts.backbones.tiny import tiny_llama

        module, tokenizer = tiny_llama()
        return cls.from_model(
            module,
            tokenizer,
            prompts=2,
            prompt_tokens=16,
            max_new_tokens=3,
            kv_tokens=40,
            block_size=4,
            max_batched_tokens=8,
            shared_rows=2,
        )

    @cached_property
    def policy(self) -> Policy:
        """How iterations are put together."""
        return Policy(
            max(1, self.kv_tokens // self.block_size),
            self.block_size,
            self.max_batched_tokens,
            self.order,
            self.admission,
            self.max_num_seqs,
        )

    @cached_property
    def _runner(self) -> Runner:
        backbone = self.backbone
        return Runner(backbone.module, self.policy, backbone.stops, self.shared_rows)

    @property
    def _shapes(self) -> KVShapes:
        return tuple((heads, dim) for _, heads, dim in self.backbone.kv_shapes())

    @cached_property
    def _domain(self) -> Mapping[type[Chunk], Domain]:
        # A character of any script is at most four tokens of a byte-level vocabulary.
        around = len(encode_text(self.backbone, "?", chat=self.chat)) - 1 if self.backbone.tokenizer else 0
        room = self.prompt_tokens - around
        return {Query: {"characters": max(1, room // 4)}, Control: {"run": 1}}

    def domain(self) -> Mapping[type[Chunk], Domain]:
        return self._domain

    def bound(self) -> Bound:
        blocks, size = self.policy.blocks, self.block_size
        memory = block_bytes(self._shapes, blocks, size, self.backbone.dtype.itemsize)
        batch = batch_bytes(self.prompts, self.prompt_tokens, self.max_new_tokens, size)
        return Bound(memory + batch + 8 * self.prompts + 6 * 8)

    def init(self, seed: int = 0) -> BatchLLMState:
        backbone = self.backbone
        require_routable(backbone.module)
        if backbone.limit < self.prompt_tokens + self.max_new_tokens:
            raise CapacityError(
                f"prompt_tokens + max_new_tokens make {self.prompt_tokens + self.max_new_tokens} positions,"
                f" but {self.model} attends over at most {backbone.limit}"
            )
        blocks = empty_blocks(
            self._shapes, self.policy.blocks, self.block_size, backbone.dtype, backbone.device
        )
        batch = empty_batch(self.prompts, self.prompt_tokens, self.max_new_tokens, self.block_size)
        return BatchLLMState(blocks, batch, np.zeros(self.prompts), np.zeros(()), 0, 0, 0, 0, 0)

    def pending(self, state: BatchLLMState) -> bool:
        return bool(state.running)

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """Each prompt alone through the plain model, without any memory."""
        backbone, time, events = self.backbone, 0.0, []
        for chunk in stream:
            if (ids := self._prompt(chunk)) is not None:
                time = time + 1 if chunk.t is None else chunk.t
                output = greedy(backbone.module, ids, self.max_new_tokens, backbone.stops)
                events.append(Event(Text(backbone.decode(output)), time, time))
        return events

    def _step(self, state: BatchLLMState, chunk: Any) -> tuple[BatchLLMState, list[Event]]:
        if type(chunk) is Tick:
            return self._iterate(state) if state.running else (state, [])
        if type(chunk) is Control and chunk.name == "interrupt":
            return self._end(state) if state.running else (state, [])
        if type(chunk) is Control and chunk.name == "run":
            return (state if state.running else self._start(state)), []
        ids = self._prompt(chunk)
        if ids is None:
            raise InputError(
                f"control {chunk.name!r} is unknown; batch-llm knows messages, run and interrupt"
            )
        if state.running:
            raise InputError("a batch is being run: tick until idle, or send Control('interrupt')")
        state = state.with_prompt(ids, chunk.t)
        return (self._start(state) if state.gathered == self.prompts else state), []

    def _finish(self, state: BatchLLMState) -> tuple[BatchLLMState, list[Event]]:
        events: list[Event] = []
        state = state if state.running else self._start(state)
        while state.running:
            state, more = self._iterate(state)
            events += more
        return state, events

    def _prompt(self, chunk: Chunk) -> np.ndarray | None:
        """Token ids of a chunk that is a prompt."""
        if isinstance(chunk, Query):
            ids = encode_text(self.backbone, chunk.text, chat=self.chat)
        elif isinstance(chunk, Control) and chunk.name == "messages":
            ids = encode_messages(self.backbone, chunk.value)
        else:
            return None
        if not 0 < len(ids) <= self.prompt_tokens:
            raise CapacityError(
                f"the prompt has {len(ids)} tokens; 1 to prompt_tokens={self.prompt_tokens} fit"
            )
        return np.array(ids, dtype=np.int32)

    def _start(self, state: BatchLLMState) -> BatchLLMState:
        """Group what was gathered, and lay it out."""
        if not state.gathered:
            return state
        forest = PrefixForest.from_prompts(state.texts).enlarge()
        limit = np.full(state.gathered, self.max_new_tokens)
        progress = lay_out(forest.groups(), self.policy, limit, prompts=self.prompts)
        logical = state.logical + forest.logical
        return replace(state, batch=replace(state.batch, progress=progress), running=1, logical=logical)

    def _iterate(self, state: BatchLLMState) -> tuple[BatchLLMState, list[Event]]:
        pool = PagedKVPool(state.blocks)
        batch, cost, done = self._runner.step(state.batch, pool)
        blocks, _ = pool.commit()
        given, events = state.given, []
        while given < state.gathered and batch.progress.phase[given] == DONE:
            events.append(self._completion(batch, state.times, given))
            given += 1
        early = [
            replace(self._completion(batch, state.times, number), final=False)
            for number in sorted(done)
            if number >= given
        ]
        state = replace(
            state, blocks=blocks, batch=batch, given=given, prefilled=state.prefilled + cost.prefill
        )
        return (state.cleared() if given == state.gathered else state), events + early

    def _end(self, state: BatchLLMState) -> tuple[BatchLLMState, list[Event]]:
        """Answer what is left of the batch by what there is."""
        left = range(state.given, state.gathered)
        events = [self._completion(state.batch, state.times, number) for number in left]
        return state.cleared(), events

    def _completion(self, batch: Batch, times: np.ndarray, number: int) -> Event:
        ids = batch.outputs[number, : batch.progress.generated[number]].tolist()
        return Event(Text(self.backbone.decode(ids)), float(times[number]), float(times[number]))
