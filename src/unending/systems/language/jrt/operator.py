"""JRT as a stream operator: a prefix of the stream is read non-causally, the rest causally, at constant state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch

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
    Rows,
    Spec,
    Text,
    Tick,
    Tokens,
)
from unending.core.errors import InputError, ModelUnsupportedError
from unending.parts.backbones import LanguageBackbone
from unending.parts.backbones.operators import OnLanguageModel
from unending.parts.reading import Answer, answers, tokens
from unending.systems.language.jrt.configuration import JRTConfig
from unending.systems.language.jrt.joint import decode_together, joint_rows
from unending.systems.language.jrt.model import JRTForCausalLM
from unending.systems.language.jrt.naive import offline
from unending.systems.language.jrt.reading import JRTState, Work

__all__ = ["JRT"]


@dataclass(frozen=True)
class JRT(OnLanguageModel, Operator[JRTState]):
    """JRT-RNN (Arora, Timalsina, Singhal, Eyuboglu, Zhao, Rao, Rudra, Re 2024, arXiv 2407.05483) on a stream.

    Text or tokens go in. The first `enc_length` tokens are gathered and then read in one call, non-causally; all that
    follows is read causally, and the next-token losses in nats come out as rows `[n, 1]`. A `Query`, or the end of
    the stream, closes the prefix early. The query is put behind what was read, and its answer comes out as text,
    token by token, through ticks; it stays part of the stream. Stream time counts input items: characters of
    `Text`, tokens of `Tokens`.

    Parameters
    ----------
    model
        friendly name, path or hub id of a JRT model.
    enc_length
        M, the tokens of the prefix; the model's own without it, and 0 is the causal model.
    chunk
        tokens of one pass behind the prefix.
    dtype
        of the weights; the linear attention keeps its sums in float32 at least.
    max_new_tokens
        longest answer.
    temperature
        0 takes the likeliest token.
    chat
        use the tokenizer's chat template for queries, where it has one.
    """

    model: str = "tiny-jrt"
    enc_length: int | None = None
    chunk: int = 64
    dtype: str = "float32"
    max_new_tokens: int = 48
    temperature: float = 0.0
    chat: bool = True

    spec: ClassVar[Spec] = Spec(
        name="jrt",
        family="language",
        title="a recurrent language model that reads its prefix non-causally, and then on at constant state",
        takes=(Tokens, Text, Query, Control),
        gives=(Rows, Text),
        exactness=Exactness.allclose(2e-4),
        paper=Paper(
            "Just read twice: closing the recall gap for recurrent language models",
            "Simran Arora, Aman Timalsina, Aaryan Singhal, Sabri Eyuboglu, Xinyi Zhao, Ashish Rao, Atri Rudra,"
            " Christopher Ré",
            2024,
            "2407.05483",
        ),
        hop="chunk",
        unit="token",
    )

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.max_new_tokens < 1 or self.temperature < 0 or (self.enc_length or 0) < 0:
            raise InputError(
                "chunk and max_new_tokens are 1 or more, temperature and enc_length are 0 or more"
            )

    @classmethod
    def example(cls) -> Self:
        from unending.parts.backbones.tiny import byte_tokenizer, tiny_model

        config = JRTConfig(
            vocab_size=272,
            hidden_size=32,
            num_hidden_layers=3,
            intermediate_size=32,
            num_attention_heads=2,
            feature_dim=4,
            enc_length=6,
            linear_layers=(1,),
            window_layers=(2,),
            window=5,
            initializer_range=0.2,
            mask_token_id=271,
            pad_token_id=257,
            eos_token_id=256,
        )
        module = tiny_model(config)
        return cls.from_model(module, byte_tokenizer(), chunk=4, max_new_tokens=2, temperature=1.0)

    @property
    def backbone(self) -> LanguageBackbone:
        """The model, loaded at the first use.

        Raises
        ------
        ModelUnsupportedError
            if it is no JRT model.
        """
        found = super().backbone
        if not isinstance(found.module, JRTForCausalLM):
            raise ModelUnsupportedError(
                f"{self.model} is a {type(found.module).__name__}; jrt takes JRTForCausalLM (for another"
                " model there is JRT-Prompt: jrt_prompt and read_twice)"
            )
        return found

    @property
    def prefix(self) -> int:
        """M, the tokens of the prefix."""
        return self.backbone.config.enc_length if self.enc_length is None else self.enc_length

    @cached_property
    def _domain(self) -> Mapping[type[Chunk], Domain]:
        return {Tokens: {"vocabulary": self.backbone.vocabulary}}

    def domain(self) -> Mapping[type[Chunk], Domain]:
        return self._domain

    def bound(self) -> Bound:
        config, size = self.backbone.config, self.backbone.dtype.itemsize
        heads, dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        features = 1 + config.feature_dim + config.feature_dim**2
        each = {
            "linear": heads * features * (dim + 1) * max(size, 4),
            "window": config.window * (2 * config.hidden_size * size + 1),
            "conv": (config.conv_kernel - 1) * 2 * config.hidden_size * size,
        }
        memory = sum(each[config.mixer(layer)] for layer in range(config.num_hidden_layers)) + 8
        around = tokens.reading_bytes(self.chunk) + answers.answer_bytes(self.max_new_tokens)
        return Bound(memory + 4 * self.backbone.vocabulary + 8 * self.prefix + around + 4 * 8)

    def init(self, seed: int = 0) -> JRTState:
        return JRTState(
            gathered=np.zeros(self.prefix, dtype=np.int64),
            count=0,
            closed=int(self.prefix == 0),
            behind=0,
            memory=self.backbone.module.model.empty(),
            logits=torch.zeros(self.backbone.vocabulary, device=self.backbone.device),
            reading=tokens.reading(self.chunk),
            answer=answers.no_answer(self.max_new_tokens),
            seed=seed,
        )

    def pending(self, state: JRTState) -> bool:
        return state.answer.left > 0

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The stream by full quadratic passes without any state, its text tokenised in whole runs."""
        return offline(self, stream)

    def _step(self, state: JRTState, chunk: Any) -> tuple[JRTState, list[Event]]:
        if type(chunk) is Tick:
            return self._decode(state) if state.answer.left else (state, [])
        if type(chunk) is Control:
            if chunk.name != "interrupt":
                raise InputError(f"control {chunk.name!r} is unknown; jrt knows interrupt")
            return replace(state, answer=answers.stop(state.answer)), []
        if state.answer.left:
            raise InputError("an answer is in the making: tick until idle, or send Control('interrupt')")
        work, answer = Work(self.backbone, state), state.answer
        if type(chunk) is Query:
            work.ask(chunk.text, chunk.t, chat=self.chat)
            answer = answers.begin(answer)
        else:
            work.read(chunk)
        return work.end(answer), work.events

    def _finish(self, state: JRTState) -> tuple[JRTState, list[Event]]:
        work = Work(self.backbone, state)
        work.flush()
        return work.end(state.answer), work.events

    def _decode(self, state: JRTState) -> tuple[JRTState, list[Event]]:
        work = Work(self.backbone, state)
        answer, token = work.speak(self.temperature)
        work.put([token])
        return work.end(answer), work.events

    def _step_many(
        self, states: Sequence[JRTState], chunks: Sequence[Chunk], width: int
    ) -> list[tuple[JRTState, list[Event]] | Exception]:
        together = [
            index
            for index, (state, chunk) in enumerate(zip(states, chunks, strict=True))
            if type(chunk) is Tick and state.answer.left
        ]
        module = self.backbone.module
        try:
            if together:
                joint_rows(module, width)
        except ModelUnsupportedError:
            together = []
        rest = [index for index in range(len(states)) if index not in together]
        stepped = super()._step_many([states[i] for i in rest], [chunks[i] for i in rest], width)
        results: dict[int, Any] = dict(zip(rest, stepped, strict=True))
        begun: list[tuple[int, Work, Answer, int]] = []
        for index in together:
            try:
                work = Work(self.backbone, states[index])
                begun.append((index, work, *work.speak(self.temperature)))
            except Exception as error:  # one session's failure, of whatever kind, is not its neighbours'
                results[index] = error
        for start in range(0, len(begun), width):
            group = begun[start : start + width]
            try:
                found: Sequence[Any] = decode_together(
                    module, [token for *_, token in group], [work.memory for _, work, *_ in group], width
                )
            except Exception as error:  # of the pass as a whole
                found = [error] * len(group)
            for (index, work, answer, _), outcome in zip(group, found, strict=True):
                results[index] = outcome
                if not isinstance(outcome, Exception):
                    work.logits, work.memory = outcome
                    work.behind += 1
                    results[index] = work.end(answer), work.events
        return [results[index] for index in range(len(states))]
