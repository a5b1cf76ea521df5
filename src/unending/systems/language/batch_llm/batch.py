"""A batch with its tokens and block tables, and one iteration of it on a model over paged KV memory."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from unending.core import state
from unending.parts.prefix import PagedKVPool, Piece, PrefixCache, forward_pieces
from unending.systems.language.batch_llm.progress import (
    RUNNING,
    Policy,
    Progress,
    no_progress,
    progress_bytes,
)
from unending.systems.language.batch_llm.report import Iteration
from unending.systems.language.batch_llm.scheduler import Reuse, Scheduler, Work

__all__ = ["Batch", "Runner", "batch_bytes", "empty_batch"]


@state
class Batch:
    """Prompts of one batch and all that is known of them but their keys and values."""

    prompts: np.ndarray
    """int32 `[n, longest]`: token ids, zeros after the last."""
    outputs: np.ndarray
    """int32 `[n, max_new_tokens]`: generated ids, zeros after the last."""
    tables: np.ndarray
    """int32 `[n, blocks]`: each prompt's own KV blocks, of which as many count as its tokens take."""
    prefix_tables: np.ndarray
    """int32 `[g, blocks]`: those of the shared prefixes."""
    progress: Progress


def empty_batch(prompts: int, longest: int, max_new_tokens: int, block_size: int) -> Batch:
    """Room for so many prompts of so many tokens, none there yet."""
    progress = no_progress(prompts)
    return Batch(
        np.zeros((prompts, longest), np.int32),
        np.zeros((prompts, max_new_tokens), np.int32),
        np.zeros((prompts, -(-(longest + max_new_tokens) // block_size)), np.int32),
        np.zeros((len(progress.prefix), -(-longest // block_size)), np.int32),
        progress,
    )


def batch_bytes(prompts: int, longest: int, max_new_tokens: int, block_size: int) -> int:
    """Bytes of a `Batch`, from its sizes alone."""
    own = longest + max_new_tokens + -(-(longest + max_new_tokens) // block_size)
    shared = max(1, prompts // 2) * -(-longest // block_size)
    return 4 * (prompts * own + shared) + progress_bytes(prompts)


@dataclass(frozen=True, eq=False)
class Runner:
    """Runs iterations of a batch.

    Parameters
    ----------
    model
        a causal language model of transformers.
    policy
        see `Policy`; its blocks are those of the pool.
    stops
        token ids that end a completion and are no part of it.
    shared_rows
        see `PagedRouter`.
    cache
        share by what an LRU cache of prefixes happens to hold, for prompts without groups (the baseline).
    """

    model: Any
    policy: Policy
    stops: Collection[int] = ()
    shared_rows: int = 16
    cache: PrefixCache | None = None

    def step(self, batch: Batch, pool: PagedKVPool) -> tuple[Batch, Iteration, list[int]]:
        """One iteration. The batch is not written; the caller commits the pool.

        Returns
        -------
        batch, iteration, done
            how things stand after it, what it cost, and the prompts that it brought to their end.
        """
        began = perf_counter()
        new = replace(
            batch,
            outputs=batch.outputs.copy(),
            tables=batch.tables.copy(),
            prefix_tables=batch.prefix_tables.copy(),
        )
        scheduler = Scheduler(batch.progress, self.policy, self._reuse(new, pool) if self.cache else None)
        new = replace(new, progress=scheduler.progress)
        works = scheduler.plan()
        sampled = self._forward(new, pool, works)
        ended = {prompt for prompt, token in sampled.items() if token in self.stops}
        for prompt in sampled.keys() - ended:
            new.outputs[prompt, new.progress.generated[prompt]] = sampled[prompt]
        held = new.progress.read[new.progress.held == RUNNING]
        done, let_go = scheduler.advance(works, ended)
        read = [sum(work.tokens for work in works if work.decode == decode) for decode in (True, False)]
        if self.cache:
            self._keep(new, works)
        idle = self.cache.idle if self.cache else 0
        kv = (pool.held - idle) * pool.block_size
        prefix_kv = int(self.policy.blocks_for(held).sum()) * pool.block_size
        for prompt in done:
            _release(pool, new.tables[prompt], int(new.progress.own[prompt]))
        for group in let_go:
            _release(pool, new.prefix_tables[group], int(new.progress.read[group]))
        return new, Iteration(read[0], read[1], kv, prefix_kv, perf_counter() - began), done

    def _forward(self, batch: Batch, pool: PagedKVPool, works: Sequence[Work]) -> dict[int, int]:
        """Run the tokens of an iteration; gives the likeliest next token of each prompt that is due one."""
        now = batch.progress
        base, prefixes = now.base, {}
        pieces = []
        for work in works:
            ids = batch.prompts[work.prompt, work.start : work.start + work.tokens]
            if work.group >= 0:
                rows = _grow(pool, batch.prefix_tables[work.group], work.start, work.tokens)
                pieces.append(Piece(ids.astype(np.int64), rows))
                continue
            if work.decode:
                ids = batch.outputs[work.prompt, now.generated[work.prompt] - 1][None]
            rows = _grow(pool, batch.tables[work.prompt], work.start - int(base[work.prompt]), work.tokens)
            group = int(now.group[work.prompt])
            shared = int(base[work.prompt])
            if shared:
                if group not in prefixes:
                    prefixes[group] = pool.rows(batch.prefix_tables[group], 0, shared)
                rows = np.concatenate([prefixes[group], rows])
            pieces.append(Piece(ids.astype(np.int64), rows, shared, group))
        keep = [index for index, work in enumerate(works) if work.samples]
        logits = forward_pieces(self.model, pool, pieces, keep, self.shared_rows)
        best = logits.argmax(dim=-1).tolist()
        return {
            prompt: token for index, token in zip(keep, best, strict=True) for prompt in works[index].samples
        }

    def _reuse(self, batch: Batch, pool: PagedKVPool) -> Reuse:
        """Admission of a prompt beside what the cache holds: its known tokens, or `None` if it does not fit."""
        cache, need = self.cache, self.policy.blocks_for
        assert cache is not None

        def admit(prompt: int, now: Progress) -> int | None:
            known = cache.match(batch.prompts[prompt, : now.length[prompt]].astype(np.int64))
            whole = need(now.length + now.limit - 1)
            due = int((whole - need(now.own))[now.phase == RUNNING].sum()) + int(whole[prompt]) - len(known)
            pool.share(known)
            if due > pool.free + cache.idle:
                pool.release(known)
                return None
            batch.tables[prompt, : len(known)] = known
            cache.evict(due - pool.free)
            pool.commit()
            return len(known) * pool.block_size

        return admit

    def _keep(self, batch: Batch, works: Sequence[Work]) -> None:
        """Store the full blocks of the prompts that were read."""
        assert self.cache is not None
        for work in works:
            if not work.decode:
                full = (work.start + work.tokens) // self.policy.block_size
                table = batch.tables[work.prompt]
                ids = batch.prompts[work.prompt, : full * self.policy.block_size].astype(np.int64)
                table[:full] = self.cache.store(ids, table[:full].astype(np.int64))


def _grow(pool: PagedKVPool, table: np.ndarray, count: int, more: int) -> np.ndarray:
    """Make room after the first `count` tokens of a block table, which is written; rows of all its tokens."""
    grown, _ = pool.extend(table[: pool.blocks_for(count)], count, more)
    table[: len(grown)] = grown
    return pool.rows(grown, 0, count + more)


def _release(pool: PagedKVPool, table: np.ndarray, count: int) -> None:
    """Give up the blocks of a table's first `count` tokens."""
    pool.release(table[: pool.blocks_for(count)])
    table[:] = 0
