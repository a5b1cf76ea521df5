"""The read/write automaton of one passage: words in, words out, whatever runs the model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from unending.core import state
from unending.core.errors import InputError
from unending.parts.emission import Boundary, Policy, Progress, at_boundary, ends_sentence
from unending.parts.memory import DualCache, DualMemory
from unending.systems.language.group_position_encoding.template import Template

__all__ = [
    "HEADER_MODES",
    "Limits",
    "Passage",
    "Rules",
    "Word",
    "Writer",
    "new_passage",
    "passage_bytes",
    "require_header_mode",
]

HEADER_MODES = ("exact", "upstream")
_CONTEXT = 8
_AHEAD = 100


@state
class Passage:
    """A passage that is being read and written."""

    memory: DualMemory
    ids: np.ndarray
    """int64 `[target capacity]`: the target so far, header included; the last one is not in the memory yet."""
    tokens: int
    """Tokens in `ids`."""
    begun: int
    """Where in `ids` the word that is being written begins."""
    read: int
    """Source units that were read: the words, and the end of the source as one more."""
    written: int
    """Target words."""
    sentences_read: int
    sentences_written: int
    ended: int
    """Whether the end of the source was read."""

    def canonical(self) -> Self:
        """Zeros behind the tokens in use."""
        used = np.arange(len(self.ids)) < self.tokens
        return replace(self, memory=self.memory.canonical(), ids=np.where(used, self.ids, 0))


def new_passage(memory: DualMemory, target: int) -> Passage:
    """Nothing read, nothing written; `memory` is empty and holds `target` target tokens."""
    return Passage(memory, np.zeros(target, dtype=np.int64), 0, 0, 0, 0, 0, 0, 0)


def passage_bytes(target: int) -> int:
    """Bytes of a `Passage` without its memory."""
    return 8 * target + 7 * 8


@dataclass(frozen=True)
class Limits:
    """When a write, or the passage, ends at the latest."""

    per_write: int = 50
    """Tokens of one write."""
    max_new_tokens: int = 1024
    """Tokens of a target."""

    def __post_init__(self) -> None:
        if self.per_write < 2 or self.max_new_tokens < 1:
            raise InputError("per_write is 2 or more, max_new_tokens 1 or more")


@dataclass(frozen=True, eq=False)
class Rules:
    """What stays the same from passage to passage."""

    template: Template
    policy: Policy
    limits: Limits
    header_mode: str = "exact"
    """`"exact"`: as in training. The last token of the header sees one segment more than the others, and so does what
    follows a word: an end marker behind one only ends the word, and is asked for again after the next read, until
    the source is over. `"upstream"`: the header at once, after the first read, its tokens seeing each other both ways,
    and an end marker ends the target."""
    after_read: Callable[[DualCache], None] | None = None
    """Called when the source has grown under a target that is there already."""
    header_first: bool = False
    """Put the header, but for its last token, in before the segment that lets the first word be written, and not
    after it, hidden from it. The same for groups; where positions go by arrival, the order of training."""

    def __post_init__(self) -> None:
        require_header_mode(self.header_mode)


def require_header_mode(name: str) -> None:
    """Raise `InputError` unless it is one of `HEADER_MODES`."""
    if name not in HEADER_MODES:
        raise InputError(f"header_mode {name!r} is unknown; accepted are {', '.join(HEADER_MODES)}")


@dataclass(frozen=True)
class Word:
    """A word that was written."""

    text: str
    """With the space before it, if the model wrote one; empty where only the target's end came."""
    delay: int
    """Source words that were read by then."""
    ids: tuple[int, ...]
    last: bool
    """The target ends here."""


Run = Callable[[list[int], DualCache, bool], Tensor]
"""Logits `[n, vocabulary]` of token ids behind a cache; the flag: causal among themselves."""


class Writer:
    """The moves of one passage, made on a view of its memory.

    `wants_write` says what the next move is; `read` and `close` read; `pending`, the model and `take` write.
    """

    def __init__(self, rules: Rules, passage: Passage, phi: int = 0) -> None:
        self.rules = rules
        self.cache = DualCache(passage.memory, phi)
        self.now = passage

    def passage(self) -> Passage:
        """The state after the moves."""
        return replace(self.now, memory=self.cache.memory())

    @property
    def progress(self) -> Progress:
        """What the policy is asked with."""
        now = self.now
        return Progress(now.read, now.written, now.sentences_read, now.sentences_written)

    @property
    def words_read(self) -> int:
        """Source words, the end not counted."""
        return self.now.read - self.now.ended

    @property
    def is_open(self) -> bool:
        """Whether anything was read."""
        return self.now.read > 0

    def wants_write(self) -> bool:
        """Whether the next move is a write: in the middle of a word, when the source is over, or by the policy."""
        now = self.now
        return self.is_open and bool(now.tokens > now.begun or now.ended or self._policy_writes())

    def _policy_writes(self) -> bool:
        return self.rules.policy.write(self.progress)

    def room_for(self, tokens: int) -> bool:
        """Whether a word of so many tokens fits, and the end of the source behind it."""
        prompt = 0 if self.is_open else len(self.rules.template.prompt)
        source, _, segments = self.cache.room
        return prompt + tokens + len(self.rules.template.end) <= source and segments > 2

    def read(self, word: str, ids: list[int], run: Run) -> None:
        """Read a word."""
        if not self.is_open:
            self._segment(list(self.rules.template.prompt), run)
        self._header(run)
        self._segment(ids, run)
        now, closes = self.now, ends_sentence(word)
        self.now = replace(now, read=now.read + 1, sentences_read=now.sentences_read + closes)

    def close(self, run: Run) -> None:
        """Read the end of the source."""
        self._header(run)
        self._segment(list(self.rules.template.end), run)
        self.now = replace(self.now, read=self.now.read + 1, ended=1)

    def _header(self, run: Run) -> None:
        next_one = replace(self.progress, read=self.now.read + 1)
        due = not self.now.tokens and len(self.rules.template.header) > 1
        if self.rules.header_first and due and self.rules.policy.write(next_one):
            run(self.pending(), self.cache, True)

    def _segment(self, ids: list[int], run: Run) -> None:
        cache = self.cache
        cache.mode, cache.visible = "read", None
        run(ids, cache, True)
        cache.end_segment()
        if self.rules.after_read is not None:
            self.rules.after_read(cache)

    def pending(self) -> list[int]:
        """Target tokens that go through the model next; the cache is set to write them."""
        cache, header = self.cache, self.rules.template.header
        cache.mode, cache.visible = "write", None
        if not self.now.tokens:
            ids = self.now.ids.copy()
            ids[: len(header)] = header
            self.now = replace(self.now, ids=ids, tokens=len(header), begun=len(header))
        start, stop = cache.target_count, self.now.tokens
        again = self.rules.after_read is not None
        if self.rules.header_mode == "exact" and start < len(header) - 1 and not again:
            # The header but for its last token belongs to the segment before the first word's.
            stop = len(header) - 1
            if self._policy_writes():
                cache.visible = cache.end_of(cache.segments - 2)
        return [int(token) for token in self.now.ids[start:stop]]

    @property
    def causal(self) -> bool:
        """Whether pending tokens see each other only backwards."""
        return self.rules.header_mode == "exact" or self.cache.target_count > 0

    def write(self, run: Run) -> Word | None:
        """Put the pending tokens through the model, and take the token that follows; the word, if one is whole."""
        ids = self.pending()
        logits = run(ids, self.cache, self.causal)[-1]
        return self.take(logits)

    def take(self, logits: Tensor) -> Word | None:
        """Choose the likeliest token after the pending ones; the word, if one is whole."""
        if self.cache.target_count < self.now.tokens:
            return None  # the header is not through yet
        token = int(torch.argmax(logits))
        now, template, limits = self.now, self.rules.template, self.rules.limits
        fresh = [*now.ids[now.begun : now.tokens].tolist(), token]
        before = now.ids[max(0, now.begun - _CONTEXT) : now.begun].tolist()
        stopped = token == template.stop or token in template.backbone.stops
        boundary = at_boundary(
            template.text(before, fresh),
            template.backbone.decode([token]),
            len(fresh),
            stopped=stopped,
            cap=limits.per_write,
        )
        if stopped and len(fresh) > 1 and not now.ended and self.rules.header_mode == "exact":
            stopped, boundary = False, Boundary.SPACE
        if boundary in (Boundary.SPACE, Boundary.STOP):
            fresh = fresh[:-1]
        if boundary is Boundary.SPACE:
            # The token before it is fed again when more of the source is there: its keys go too.
            self.cache.pop_target(1)
        elif not stopped:
            self._append(token)
        new = self.now.tokens - len(template.header)
        over = stopped or self.now.tokens == len(now.ids) or new >= limits.max_new_tokens
        if boundary is Boundary.OPEN and not over:
            return None
        text = template.text(before, fresh)
        self.now = replace(
            self.now,
            begun=self.now.tokens,
            written=now.written + bool(fresh),
            sentences_written=now.sentences_written + ends_sentence(text),
        )
        over = over or self.now.written - self.words_read > _AHEAD
        return Word(text, self.words_read, tuple(fresh), over)

    def _append(self, token: int) -> None:
        ids = self.now.ids.copy()
        if self.now.tokens < len(ids):
            ids[self.now.tokens] = token
            self.now = replace(self.now, ids=ids, tokens=self.now.tokens + 1)

    def clear(self) -> None:
        """Begin the next passage."""
        self.cache.clear()
        self.now = new_passage(self.now.memory, len(self.now.ids))
