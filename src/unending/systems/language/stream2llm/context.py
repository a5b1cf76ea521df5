"""The state of one session: a prompt in blocks that grows, is cut back, and is answered."""

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from unending.core import Event, Text, Tokens, state
from unending.core.blocks import Remainder
from unending.core.errors import CapacityError, NumericalError
from unending.io.text import held_text
from unending.parts.backbones import LanguageBackbone
from unending.parts.prefix import (
    KVBlocks,
    PagedKVPool,
    Piece,
    empty_blocks,
    forward_pieces,
    longest_common_prefix,
)
from unending.parts.reading import Answer, Reading, answers, choose, tokens
from unending.systems.language.stream2llm.prompt import Frame

__all__ = [
    "Stream2LLMState",
    "appended",
    "asked",
    "books",
    "close",
    "empty_state",
    "has_read",
    "read_on",
    "replaced",
    "speak",
]

_HELD = 4096
"""Characters after which a word is cut at the latest, wherever in a word that is: the fewer cuts, the better."""


@state
class Stream2LLMState:
    """One prompt: `context` tokens of context, behind them a question and its answer while one is in the making."""

    blocks: KVBlocks
    table: np.ndarray
    """int64 `[blocks]`: the block numbers of the computed tokens, in order; zeros behind them."""
    tokens: np.ndarray
    """int64 `[capacity]`, of which the first `count` are in use; zeros behind them."""
    context: int
    count: int
    computed: int
    """Tokens, from the first on, that have keys and values."""
    logits: torch.Tensor
    """float32 `[vocabulary]` after the last token, where an answer is in the making and all is computed; else 0."""
    reading: Reading
    """Text that waits for the end of its word, and stream time."""
    answer: Answer
    generated: int
    """Tokens of answers so far, which numbers the draws."""
    paused: int
    """1 after an interrupt: what waits is read when there is new input."""
    seed: int


class Settings(Protocol):
    """What the functions here need to know of the operator."""

    @property
    def backbone(self) -> LanguageBackbone: ...
    @property
    def capacity(self) -> int: ...
    @property
    def block_count(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def chunk(self) -> int: ...
    @property
    def max_context(self) -> int: ...
    @property
    def max_question(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def frame(self) -> Frame: ...


def books(capacity: int, blocks: int, vocabulary: int) -> int:
    """Bytes of a state beside KV blocks and answer."""
    return 8 * capacity + 8 * blocks + 4 * vocabulary + 6 * 8 + held_text(_HELD).characters.nbytes + 7 * 8


def empty_state(settings: Settings, seed: int) -> Stream2LLMState:
    """No context yet but what the frame opens with."""
    backbone, opening = settings.backbone, np.array(settings.frame.opening, dtype=np.int64)
    shapes = tuple((heads, dim) for _, heads, dim in backbone.kv_shapes())
    fresh = Stream2LLMState(
        blocks=empty_blocks(
            shapes, settings.block_count, settings.block_size, backbone.dtype, backbone.device
        ),
        table=np.zeros(settings.block_count, dtype=np.int64),
        tokens=np.zeros(settings.capacity, dtype=np.int64),
        context=0,
        count=0,
        computed=0,
        logits=_no_logits(backbone),
        reading=_reading(len(opening), 0.0),
        answer=answers.no_answer(settings.max_new_tokens),
        generated=0,
        paused=0,
        seed=seed,
    )
    _require_room(settings, len(opening))
    return replace(_put(fresh, opening), context=len(opening))


def _reading(position: int, time: float) -> Reading:
    """Nothing waits behind `position` tokens."""
    empty = tokens.reading(1)
    return replace(
        empty,
        characters=held_text(_HELD),
        waiting=Remainder(empty.waiting.items, 0, position),
        time=np.asarray(time, dtype=np.float64),
    )


def _no_logits(backbone: LanguageBackbone) -> torch.Tensor:
    return torch.zeros(backbone.vocabulary, device=backbone.device)


def _put(now: Stream2LLMState, ids: np.ndarray) -> Stream2LLMState:
    """Tokens behind the prompt."""
    held = now.tokens.copy()
    held[now.count : now.count + len(ids)] = ids
    return replace(now, tokens=held, count=now.count + len(ids))


def _ids(rows: list[np.ndarray]) -> np.ndarray:
    """Token ids of what `tokens.read` gives."""
    return np.concatenate([np.zeros((0, 2)), *rows])[:, 0].astype(np.int64)


def appended(
    settings: Settings, now: Stream2LLMState, reading: Reading, rows: list[np.ndarray]
) -> Stream2LLMState:
    """More context: `rows` became complete, `reading` holds the rest.

    Raises
    ------
    CapacityError
        if it does not fit, the text that is held back included.
    """
    ids = _ids(rows)
    held = len(_ids(tokens.flush(reading, settings.backbone)[1]))
    _require_room(settings, now.count + len(ids) + held)
    now = _put(replace(now, reading=reading, paused=0), ids)
    return replace(now, context=now.count)


def _require_room(settings: Settings, wanted: int) -> None:
    if wanted > settings.max_context:
        raise CapacityError(
            f"the context would have {wanted:,} tokens, and there is room for {settings.max_context:,} (max_context);"
            " ask about what is there, or replace it"
        )


def replaced(settings: Settings, now: Stream2LLMState, chunk: Text | Tokens, time: float) -> Stream2LLMState:
    """Another context; what is computed of the longest common prefix stays.

    Prefixes are those of tokens: the new text is tokenised as a whole.
    """
    opening = settings.frame.opening
    reading, rows = tokens.read(_reading(len(opening), time), chunk, settings.backbone)
    ids = np.concatenate([opening, _ids(rows), _ids(tokens.flush(reading, settings.backbone)[1])])
    _require_room(settings, len(ids))
    common = longest_common_prefix(now.tokens[: now.count], ids)
    now = _put(_cut(now, common), ids[common:])
    return replace(now, context=now.count, reading=_reading(len(ids), time), paused=0)


def asked(settings: Settings, now: Stream2LLMState, turn: list[int], reading: Reading) -> Stream2LLMState:
    """The prompt ends with a question, and its answer may begin; text that was held back comes before it.

    Raises
    ------
    CapacityError
        if the question is too long.
    """
    reading, rows = tokens.flush(reading, settings.backbone)
    now = appended(settings, now, reading, rows) if rows else replace(now, reading=reading, paused=0)
    if len(turn) > settings.max_question:
        raise CapacityError(
            f"the question takes {len(turn):,} tokens, and there is room for {settings.max_question:,} (max_question)"
        )
    return replace(_put(now, np.array(turn, dtype=np.int64)), answer=answers.begin(now.answer))


def _cut(now: Stream2LLMState, keep: int) -> Stream2LLMState:
    """The first `keep` tokens; a block of which some stay computed is kept, to be overwritten from there on."""
    pool = PagedKVPool(now.blocks)
    computed = min(now.computed, keep)
    used = pool.truncate(now.table[: pool.blocks_for(now.computed)], computed)
    held = now.tokens.copy()
    held[keep:] = 0
    return replace(
        now,
        blocks=pool.commit()[0],
        table=_padded(used, len(now.table)),
        tokens=held,
        count=keep,
        computed=computed,
        logits=torch.zeros_like(now.logits),
    )


def _padded(used: np.ndarray, length: int) -> np.ndarray:
    table = np.zeros(length, dtype=np.int64)
    table[: len(used)] = used
    return table


def close(now: Stream2LLMState) -> Stream2LLMState:
    """The answer ends here; question and answer go, the context stays."""
    return _cut(replace(now, answer=answers.stop(now.answer)), now.context)


def speak(settings: Settings, now: Stream2LLMState) -> tuple[Stream2LLMState, list[Event]]:
    """The next token of the answer, which still has to be read unless it is the last."""
    token = choose(now.logits, settings.temperature, now.seed, now.generated)
    answer, text = answers.take(now.answer, token, settings.backbone)
    now = replace(_put(now, np.array([token])), answer=answer, generated=now.generated + 1)
    time = float(now.reading.time)
    events = [Event(Text(text), time, time)] if text else []
    return (now if answer.left else close(now)), events


def read_on(settings: Settings, now: Stream2LLMState) -> Stream2LLMState:
    """One pass over the tokens that are not computed yet, up to the next multiple of the chunk."""
    start = now.computed
    stop = min((start // settings.chunk + 1) * settings.chunk, now.count)
    pool = PagedKVPool(now.blocks)
    table, _ = pool.extend(now.table[: pool.blocks_for(start)], start, stop - start)
    piece = Piece(now.tokens[start:stop], pool.rows(table, 0, stop))
    last = now.answer.left > 0 and stop == now.count
    logits = forward_pieces(settings.backbone.module, pool, [piece], [0] if last else [])
    return has_read(now, pool, table, stop, logits[0] if last else torch.zeros_like(now.logits))


def has_read(
    now: Stream2LLMState, pool: PagedKVPool, table: np.ndarray, stop: int, logits: torch.Tensor
) -> Stream2LLMState:
    """The tokens up to `stop` are computed, with these logits after them."""
    if not torch.isfinite(logits).all():
        raise NumericalError("the model gave NaN or infinite logits after a prompt")
    return replace(
        now,
        blocks=pool.commit()[0],
        table=_padded(table, len(now.table)),
        computed=stop,
        logits=logits.clone(),
    )
