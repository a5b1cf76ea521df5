"""Loops over a token stream with any transformers cache: losses, endless generation, a loop for `generate`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import Cache

from unending.core.errors import NumericalError
from unending.parts.backbones.routing import routed
from unending.parts.memory.cache import MemoryCache
from unending.parts.memory.joint import Attending

__all__ = ["decode_in_cache_frame", "forward", "next_token_losses", "stream_generate", "streaming_losses"]


@torch.no_grad()
def forward(model: nn.Module, ids: torch.Tensor, cache: Cache | Attending) -> torch.Tensor:
    """Logits, float32 `[batch, n, vocabulary]`, of `ids` int64 `[batch, n]` behind what the cache holds.

    A memory of one stream that attends by itself does so here too, whatever attention the model runs with.

    Raises
    ------
    NumericalError
        if the last logits are not finite.
    """
    if isinstance(cache, Attending):
        positions = torch.arange(cache.position, cache.position + ids.shape[1], device=ids.device)[None]
        logits = routed(model, ids, positions, cache)
    else:
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits.float()
    if not torch.isfinite(logits[:, -1]).all():
        raise NumericalError(f"the model gave NaN or infinite logits in a block of {ids.shape[1]} tokens")
    return logits


def next_token_losses(before: torch.Tensor | None, logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihoods in nats, float32 `[batch, n]` (`n - 1` without `before`).

    `before` `[batch, vocabulary]` are the logits after the token that precedes `ids` `[batch, n]`; `logits`
    `[batch, n, vocabulary]` are those after each of `ids`.
    """
    if before is None:
        scores, targets = logits[:, :-1], ids[:, 1:]
    else:
        scores, targets = torch.cat([before[:, None], logits[:, :-1]], dim=1), ids
    return nn.functional.cross_entropy(scores.transpose(1, 2), targets, reduction="none")


def streaming_losses(
    model: nn.Module, ids: torch.Tensor, cache: Cache, chunk: int = 1
) -> Iterator[torch.Tensor]:
    """Losses of a token sequence `[batch, n]`, a chunk at a time, each `[batch, m]`; the first token has none.

    With `chunk=1` this is token-by-token streaming. A larger chunk evicts after the chunk and not inside it, so its
    later tokens see up to `chunk - 1` more keys: near, not equal.
    """
    before = None
    for start in range(0, ids.shape[1], chunk):
        block = ids[:, start : start + chunk]
        logits = forward(model, block, cache)
        yield next_token_losses(before, logits, block)
        before = logits[:, -1]


def stream_generate(
    model: nn.Module,
    tokens: Iterable[int],
    cache: MemoryCache,
    *,
    chunk: int = 64,
    choose: Callable[[torch.Tensor], int] | None = None,
) -> Iterator[int]:
    """Read `tokens`, then generate for ever; memory and time a token do not grow.

    `choose` picks an id from logits `[vocabulary]`; the default is the likeliest.
    """
    pick = choose or (lambda logits: int(logits.argmax()))
    device = next(model.parameters()).device
    logits: torch.Tensor | None = None
    block: list[int] = []

    def read(ids: list[int]) -> torch.Tensor:
        return forward(model, torch.tensor([ids], device=device), cache)[0, -1]

    for token in tokens:
        block.append(int(token))
        if len(block) == chunk:
            logits, block = read(block), []
    if block:
        logits = read(block)
    if logits is None:
        raise ValueError("there is no token to begin with")
    while True:
        token = pick(logits)
        yield token
        logits = read([token])


def decode_in_cache_frame(
    model: nn.Module,
    input_ids: torch.Tensor,
    *,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    streamer: Any = None,
    prefill_chunk: int = 64,
    **kwargs: Any,
) -> torch.Tensor:
    """The loop to pass as `model.generate(..., custom_generate=decode_in_cache_frame)` with `frame="cache"`.

    `generate` by itself passes ever-growing position ids, which the cache frame must not see.
    """
    cache, mask = kwargs["past_key_values"], kwargs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise ValueError(
            'decode_in_cache_frame takes rows of equal length; use frame="absolute" for padded batches'
        )
    done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    pad = generation_config.pad_token_id
    sampling = generation_config.do_sample
    for piece in input_ids.split(prefill_chunk, dim=1):
        logits = forward(model, piece, cache)[:, -1]
    while True:
        scores = logits_processor(input_ids, logits)
        if sampling:
            token = torch.multinomial(scores.softmax(dim=-1), num_samples=1)[:, 0]
        else:
            token = scores.argmax(dim=-1)
        if pad is not None:
            token = torch.where(done, pad, token)
        input_ids = torch.cat([input_ids, token[:, None]], dim=1)
        if streamer is not None:
            streamer.put(token.cpu())
        done = done | stopping_criteria(input_ids, scores)
        if bool(done.all()):
            break
        logits = forward(model, token[:, None], cache)[:, -1]
    if streamer is not None:
        streamer.end()
    return input_ids
