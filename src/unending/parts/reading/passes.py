"""One step of a language operator: tokens through the model on one view of its memory, and their losses."""

from typing import Any

import numpy as np
import torch

from unending.core import Event, Rows, Text, Tokens
from unending.parts.backbones import LanguageBackbone
from unending.parts.memory import forward, next_token_losses
from unending.parts.reading import answers, tokens
from unending.parts.reading.answers import Answer
from unending.parts.reading.tokens import Reading

__all__ = ["Pass"]


class Pass:
    """The forward passes of one step.

    They share one view of the memory: a second view would take slots for free that the committed state still holds.

    Parameters
    ----------
    backbone
        the model.
    cache
        a view of the memory of the state: a transformers cache or `Attending`, with `seen`, the tokens so far.
    logits
        float32 `[vocabulary]` after the newest token of the state.
    reading
        what has arrived and is not in a block yet.
    """

    def __init__(
        self, backbone: LanguageBackbone, cache: Any, logits: torch.Tensor, reading: Reading
    ) -> None:
        self.backbone, self.cache, self.logits, self.reading = backbone, cache, logits, reading
        self.events: list[Event] = []

    def put(self, ids: list[int]) -> torch.Tensor:
        """Read a block of token ids; logits float32 `[n, vocabulary]`."""
        block = torch.tensor([ids], device=self.backbone.device)
        scores = forward(self.backbone.module, block, self.cache)[0]
        self.logits = scores[-1].clone()
        return scores

    def speak(self, answer: Answer, temperature: float, seed: int) -> tuple[Answer, int]:
        """Choose the next token of an answer, still to be put; the text that became complete is in `events`."""
        token = answers.choose(self.logits, temperature, seed, self.cache.seen)
        answer, text = answers.take(answer, token, self.backbone)
        if text:
            now = float(self.reading.time)
            self.events.append(Event(Text(text), now, now))
        return answer, token

    def read(self, chunk: Text | Tokens) -> None:
        """Take in a chunk of the stream; the losses of the blocks that became full are in `events`."""
        self.reading, full = tokens.read(self.reading, chunk, self.backbone)
        self._score(full)

    def flush(self) -> None:
        """Read all that waits."""
        self.reading, full = tokens.flush(self.reading, self.backbone)
        self._score(full)

    def _score(self, full: list[np.ndarray]) -> None:
        """Read blocks `[n, 2]` (id, end time) and give out their losses."""
        for block in full:
            before = self.logits[None] if self.cache.seen else None
            ids = block[:, 0].astype(np.int64)
            scores = self.put(ids.tolist())
            targets = torch.from_numpy(ids)[None].to(scores.device)
            losses = next_token_losses(before, scores[None], targets)[0].cpu().numpy()
            if len(losses):
                ends = block[len(block) - len(losses) :, 1]
                self.events.append(Event(Rows(losses[:, None], ("loss",)), float(ends[0]), float(ends[-1])))
