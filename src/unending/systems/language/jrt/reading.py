"""One step of the operator: gathering the prefix, reading it non-causally, then reading and speaking causally."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from unending.core import Event, Rows, Text, Tokens, state
from unending.core.errors import InputError, NumericalError
from unending.parts.backbones import LanguageBackbone
from unending.parts.memory import next_token_losses
from unending.parts.reading import Answer, Reading, answers, tokens
from unending.systems.language.jrt.memory import JRTMemory

__all__ = ["JRTState", "Work"]

_TURN = 512
"""Tokens of a question that are read in one pass."""


@state
class JRTState:
    """What one stream leaves behind."""

    gathered: np.ndarray
    """int64 `[enc_length]`: the prefix as it comes in; zeros from `count` on, and all zeros once it is read."""
    count: int
    """Tokens of the prefix so far, or in all once it is read."""
    closed: int
    """1 once the prefix is read."""
    behind: int
    """Tokens behind the prefix."""
    memory: JRTMemory
    logits: Tensor
    """float32 `[vocabulary]` after the newest token."""
    reading: Reading
    answer: Answer
    seed: int


class Work:
    """The forward passes of one step over a state, which stays as it is.

    Parameters
    ----------
    backbone
        a `JRTForCausalLM`, and its tokenizer.
    begun
        the state before the step.
    """

    def __init__(self, backbone: LanguageBackbone, begun: JRTState) -> None:
        self.backbone, self.begun = backbone, begun
        self.gathered, self.count, self.closed = begun.gathered, begun.count, bool(begun.closed)
        self.memory, self.logits, self.behind = begun.memory, begun.logits, begun.behind
        self.reading = begun.reading
        self.events: list[Event] = []

    def end(self, answer: Answer) -> JRTState:
        """The state after the step."""
        return JRTState(
            self.gathered,
            self.count,
            int(self.closed),
            self.behind,
            self.memory,
            self.logits,
            self.reading,
            answer,
            self.begun.seed,
        )

    def read(self, chunk: Text | Tokens) -> None:
        """Take in a chunk; the losses of the blocks that became full are in `events`."""
        self.reading, full = tokens.read(self.reading, chunk, self.backbone)
        for block in full:
            self._take(block)

    def flush(self) -> None:
        """Read all that waits, and the prefix however short it is."""
        self.reading, full = tokens.flush(self.reading, self.backbone)
        for block in full:
            self._take(block)
        self.close()

    def _take(self, block: np.ndarray) -> None:
        """Tokens `[n, 2]` (id, end time) of the stream: into the prefix while there is room, then behind it."""
        if not self.closed:
            room = len(self.gathered) - self.count
            ids = block[:room, 0].astype(np.int64)
            gathered = self.gathered.copy()
            gathered[self.count : self.count + len(ids)] = ids
            self.gathered, self.count, block = gathered, self.count + len(ids), block[room:]
            if self.count == len(self.gathered):
                self.close()
        if len(block):
            self._score(block)

    @torch.no_grad()
    def close(self) -> None:
        """Read the prefix, in one call; from here on all is causal. Nothing happens if that was before."""
        if self.closed:
            return
        module, config = self.backbone.module, self.backbone.config
        if self.count:
            ids, keep = torch.from_numpy(self.gathered[: self.count])[None], None
            if not config.mask_after_feature_map:
                # Such a model was evaluated on prefixes of full length, whose padding it counts.
                short = len(self.gathered) - self.count
                ids = torch.nn.functional.pad(ids, (short, 0), value=config.pad_token_id or 0)
                keep = (torch.arange(ids.shape[1]) >= short)[None].to(self.backbone.device)
            hidden, memory = module.model.prefill(ids.to(self.backbone.device), keep, len(self.gathered))
            self.memory, self.logits = memory, self._checked(module.lm_head(hidden[:, -1]))[-1]
        self.gathered, self.closed = np.zeros_like(self.gathered), True

    @torch.no_grad()
    def put(self, ids: np.ndarray | list[int]) -> Tensor:
        """Read tokens behind the prefix, causally; logits float32 `[n, vocabulary]`."""
        self.close()
        block = torch.as_tensor(ids, dtype=torch.int64, device=self.backbone.device)[None]
        hidden, memory = self.backbone.module.model.extend(block, self.memory)
        logits = self._checked(self.backbone.module.lm_head(hidden[0]))
        self.memory, self.logits, self.behind = memory, logits[-1].clone(), self.behind + block.shape[1]
        return logits

    def _checked(self, logits: Tensor) -> Tensor:
        if not torch.isfinite(logits[-1]).all():
            raise NumericalError(f"the model gave NaN or infinite logits in a block of {len(logits)} tokens")
        return logits.float()

    def _score(self, block: np.ndarray) -> None:
        # The logits at the end of the prefix predict nothing: no next-token loss was trained there.
        before = self.logits[None] if self.behind else None
        ids = block[:, 0].astype(np.int64)
        logits = self.put(ids)
        losses = next_token_losses(before, logits[None], torch.from_numpy(ids)[None].to(logits.device))[0]
        if len(losses):
            ends = block[len(block) - len(losses) :, 1]
            rows = Rows(losses.cpu().numpy()[:, None], ("loss",))
            self.events.append(Event(rows, float(ends[0]), float(ends[-1])))

    def ask(self, question: str, t: float | None, *, chat: bool) -> None:
        """Put a question behind all that was read."""
        if self.backbone.tokenizer is None:
            raise InputError(f"model {self.backbone.name} has no tokenizer, which a query needs")
        self.flush()
        if t is not None:
            self.reading = replace(self.reading, time=np.asarray(t, dtype=np.float64))
        turn = self.backbone.encode_turn(question, chat=chat)
        for start in range(0, len(turn), _TURN):
            self.put(turn[start : start + _TURN])

    def speak(self, temperature: float) -> tuple[Answer, int]:
        """Choose the next token of the answer, still to be read; the text that became complete is in `events`."""
        position = self.count + self.behind
        token = answers.choose(self.logits, temperature, self.begun.seed, position)
        answer, text = answers.take(self.begun.answer, token, self.backbone)
        if text:
            now = float(self.reading.time)
            self.events.append(Event(Text(text), now, now))
        return answer, token
