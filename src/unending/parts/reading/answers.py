"""Answers: the tokens of a turn as they are generated, and the text that is complete so far."""

from dataclasses import replace

import numpy as np
import torch

from unending.core import random, state
from unending.parts.backbones import LanguageBackbone

__all__ = ["Answer", "answer_bytes", "begin", "choose", "close", "no_answer", "stop", "take"]


@state
class Answer:
    """An answer in the making, or the last one."""

    ids: np.ndarray
    """int64 `[longest]`, of which the first `count` are in use."""
    count: int
    shown: int
    """Tokens whose text went out."""
    left: int
    """Tokens that may still come; 0 when no answer is in the making."""


def no_answer(longest: int) -> Answer:
    """None yet; answers will have `longest` tokens at most."""
    return Answer(np.zeros(longest, dtype=np.int64), 0, 0, 0)


def answer_bytes(longest: int) -> int:
    """Bytes of an `Answer`."""
    return 8 * longest + 3 * 8


def begin(last: Answer) -> Answer:
    """A new answer."""
    return replace(no_answer(len(last.ids)), left=len(last.ids))


def stop(answer: Answer) -> Answer:
    """The answer ends here."""
    return replace(answer, left=0)


def take(answer: Answer, token: int, backbone: LanguageBackbone) -> tuple[Answer, str]:
    """Add a generated token; give back the text that became complete (a character cut between tokens waits)."""
    ended = token in backbone.stops
    ids = answer.ids.copy()
    if not ended:
        ids[answer.count] = token
    count, left = answer.count + (not ended), 0 if ended else answer.left - 1
    text, shown = _new_text(ids, count, answer.shown, backbone, last=left == 0)
    return Answer(ids, count, shown, left), text


def close(answer: Answer, backbone: LanguageBackbone) -> tuple[Answer, str]:
    """The answer ends here; what of its text still waited comes out."""
    text, shown = _new_text(answer.ids, answer.count, answer.shown, backbone, last=True)
    return replace(answer, shown=shown, left=0), text


def _new_text(
    ids: np.ndarray, count: int, shown: int, backbone: LanguageBackbone, *, last: bool
) -> tuple[str, int]:
    if backbone.tokenizer is None:
        return "", count
    before, now = (backbone.decode(ids[:end].tolist()) for end in (shown, count))
    if now.endswith("\N{REPLACEMENT CHARACTER}") and not last:
        return "", shown
    return now[len(before) :], count


def choose(
    logits: torch.Tensor, temperature: float, seed: int, position: int, *, top_k: int = 0, top_p: float = 1.0
) -> int:
    """A token id from logits `[vocabulary]`: the likeliest at temperature 0, else a draw by seed and position.

    With `top_k` only the so many likeliest can be drawn, and with `top_p` of these only the fewest that have this
    share of their probability (Holtzman et al. 2019, arXiv 1904.09751).
    """
    if temperature == 0:
        return int(logits.argmax())
    weights = torch.softmax(logits.double() / temperature, dim=-1).cpu().numpy()
    if top_k or top_p < 1:
        order = np.argsort(-weights, kind="stable")[: top_k or None]
        before = np.cumsum(weights[order]) - weights[order]
        kept = order[before < top_p * weights[order].sum()]
        weights = np.where(np.isin(np.arange(len(weights)), kept), weights, 0.0)
    draw = random.philox(seed, position).random()
    return int(min(np.searchsorted(np.cumsum(weights), draw * weights.sum()), len(weights) - 1))
