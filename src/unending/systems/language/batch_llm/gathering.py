"""The batch that a stream gathers: its prompts, when they came, and how they become tokens."""

from dataclasses import replace
from typing import Any, Self

import numpy as np

from unending.core import state
from unending.core.errors import InputError
from unending.parts.backbones import LanguageBackbone
from unending.parts.prefix import KVBlocks
from unending.systems.language.batch_llm.batch import Batch, empty_batch

__all__ = ["BatchLLMState", "encode_messages", "encode_text"]


@state
class BatchLLMState:
    """What one stream leaves behind: the batch that is gathered or run."""

    blocks: KVBlocks
    batch: Batch
    times: np.ndarray
    """float64 `[prompts]`: stream time of each prompt of the batch."""
    time: np.ndarray
    """float64 scalar: stream time that has come in; it counts prompts where they bring none of their own."""
    gathered: int
    """Prompts of the batch."""
    given: int
    """Completions of the batch that went out, in the order of the prompts."""
    running: int
    """1 from the start of the batch to its end."""
    logical: int
    """Tokens of all prompts of the stream that were run, and ..."""
    prefilled: int
    """... how many of them were computed."""

    @property
    def texts(self) -> list[np.ndarray]:
        """Token ids of the prompts, int32 `[n]` each."""
        length = self.batch.progress.length
        return [self.batch.prompts[number, : length[number]] for number in range(self.gathered)]

    def with_prompt(self, ids: np.ndarray, t: float | None) -> Self:
        """One prompt more, of ids `[n]`, at stream time t or one after the last."""
        number, progress = self.gathered, self.batch.progress
        time = np.asarray(self.time + 1 if t is None else t, dtype=np.float64)
        prompts, times, length = self.batch.prompts.copy(), self.times.copy(), progress.length.copy()
        prompts[number, : len(ids)], times[number], length[number] = ids, time, len(ids)
        batch = replace(self.batch, prompts=prompts, progress=replace(progress, length=length))
        return replace(self, batch=batch, times=times, time=time, gathered=number + 1)

    def cleared(self) -> Self:
        """No batch any more, and all memory free."""
        (prompts, longest), new = self.batch.prompts.shape, self.batch.outputs.shape[1]
        batch = empty_batch(prompts, longest, new, self.blocks.keys[0].shape[1])
        references, filled = (np.zeros_like(each) for each in (self.blocks.references, self.blocks.filled))
        blocks = replace(self.blocks, references=references, filled=filled)
        times = np.zeros_like(self.times)
        return replace(self, blocks=blocks, batch=batch, times=times, gathered=0, given=0, running=0)


def encode_text(backbone: LanguageBackbone, text: str, *, chat: bool) -> list[int]:
    """Token ids of a prompt, as a turn of the model's chat template or as it stands.

    Raises
    ------
    InputError
        if the model has no tokenizer.
    """
    if backbone.tokenizer is None:
        raise InputError(f"model {backbone.name} has no tokenizer, and prompts are texts")
    return backbone.encode_turn(text, chat=chat)


def encode_messages(backbone: LanguageBackbone, messages: Any) -> list[int]:
    """Token ids of a conversation `[{"role": ..., "content": ...}, ...]` that the model is to continue.

    Raises
    ------
    InputError
        if it is not of that form, or the model has no chat template, or its template refuses it.
    """
    from jinja2 import TemplateError

    tokenizer = backbone.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(f"model {backbone.name} has no chat template: give prompts as texts")
    texts = [
        (each.get("role"), each.get("content")) if isinstance(each, dict) else (None, None)
        for each in (messages if isinstance(messages, list) else [None])
    ]
    if not texts or not all(isinstance(text, str) for pair in texts for text in pair):
        raise InputError('messages are a list of {"role": text, "content": text}, one or more')
    try:
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    except (ValueError, TemplateError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the chat template refuses these messages: {reason}") from error
    return list(encoded["input_ids"])
