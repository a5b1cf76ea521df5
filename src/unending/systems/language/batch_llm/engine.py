"""A whole batch on a model in memory: prompts in, completions out in the same order, and what it cost."""

from collections.abc import Collection, Sequence

import numpy as np
from torch import nn

from unending.core.errors import CapacityError, InputError
from unending.parts import backbones
from unending.parts.backbones.routing import require_routable
from unending.parts.prefix import PagedKVPool, PrefixCache
from unending.systems.language.batch_llm.batch import Batch, Runner, empty_batch
from unending.systems.language.batch_llm.forest import PrefixForest, PrefixGroup
from unending.systems.language.batch_llm.progress import Policy, lay_out
from unending.systems.language.batch_llm.report import Iteration, Report

__all__ = ["BatchEngine"]

SHARING = ("groups", "cache", "none")
Ids = Sequence[int] | np.ndarray


class BatchEngine:
    """Offline inference over prompts that are all known (BatchLLM, Zheng et al. 2024, arXiv 2412.03594).

    Parameters
    ----------
    model
        a causal language model of transformers with rotary positions.
    kv_tokens
        tokens of KV memory, in whole blocks.
    max_batched_tokens
        tokens of one iteration.
    block_size
        tokens of a block.
    order, admission, max_num_seqs, kv_share
        see `Policy`.
    sharing
        `"groups"` (prefixes found over the whole batch), or a baseline: `"cache"` (an LRU cache of prefixes in what
        memory is left) or `"none"`.
    shared_rows
        see `PagedRouter`.
    stops
        token ids that end a completion; they are no part of it.

    Raises
    ------
    InputError
        if a parameter is not what it may be.
    ModelUnsupportedError
        if the model's attention cannot be taken over.
    """

    def __init__(
        self,
        model: nn.Module,
        kv_tokens: int,
        max_batched_tokens: int = 2048,
        *,
        block_size: int = 16,
        order: str = "decode_ratio",
        admission: str = "kv_memory",
        max_num_seqs: int = 256,
        kv_share: float = 1.0,
        sharing: str = "groups",
        shared_rows: int = 16,
        stops: Collection[int] = (),
    ) -> None:
        if sharing not in SHARING:
            raise InputError(f"sharing is one of {', '.join(SHARING)}, got {sharing!r}")
        if block_size < 1:
            raise InputError(f"block_size is 1 or more, got {block_size}")
        require_routable(model)
        self.policy = Policy(
            kv_tokens // block_size, block_size, max_batched_tokens, order, admission, max_num_seqs, kv_share
        )
        self._model, self._sharing, self._shared_rows, self._stops = model, sharing, shared_rows, stops
        self._backbone = backbones.LanguageBackbone("", model, None, "")

    def generate(
        self,
        prompts: Sequence[Ids] | PrefixForest,
        max_new_tokens: int | Sequence[int],
        expected_decode: int | Sequence[int] | None = None,
    ) -> tuple[list[list[int]], Report]:
        """The likeliest continuation of every prompt.

        Parameters
        ----------
        prompts
            token ids of each, one or more; or a forest of them (`PrefixForest.from_groups` takes groups made before).
        max_new_tokens
            longest completion, of all or of each.
        expected_decode
            tokens that completions are expected to have, for the order of the groups; `max_new_tokens` if unknown.

        Returns
        -------
        outputs, report
            token ids in the order of the prompts, and what it cost.

        Raises
        ------
        InputError
            if a prompt is empty or holds what is no token id.
        CapacityError
            if a prompt and its completion do not fit in KV memory by themselves, or the model does not reach so far.
        """
        forest = prompts if isinstance(prompts, PrefixForest) else PrefixForest.from_prompts(prompts)
        if forest is not prompts and self._sharing == "groups":
            forest.enlarge()
        ids = forest.prompts
        limit, expected = (
            np.broadcast_to(np.asarray(each, dtype=np.int64), (len(ids),))
            for each in (max_new_tokens, max_new_tokens if expected_decode is None else expected_decode)
        )
        self._check(ids, limit)
        if not ids:
            return [], Report(0, 0, self.policy.max_batched_tokens, ())
        groups = forest.groups() if self._sharing == "groups" else _apart(ids)
        batch = self._batch(ids, limit, groups, expected)
        iterations: list[Iteration] = []
        pool = PagedKVPool.of(
            tuple(shape[1:] for shape in self._backbone.kv_shapes()),
            self.policy.blocks,
            self.policy.block_size,
            dtype=self._backbone.dtype,
            device=self._backbone.device,
        )
        cache = PrefixCache(pool) if self._sharing == "cache" else None
        runner = Runner(self._model, self.policy, self._stops, self._shared_rows, cache)
        left = len(ids)
        while left:
            batch, iteration, done = runner.step(batch, pool)
            pool.commit()
            iterations.append(iteration)
            left -= len(done)
        outputs = [
            row[:count].tolist() for row, count in zip(batch.outputs, batch.progress.generated, strict=True)
        ]
        physical = sum(group.prefill for group in groups)
        report = Report(forest.logical, physical, self.policy.max_batched_tokens, tuple(iterations))
        return outputs, report

    def _check(self, ids: Sequence[np.ndarray], limit: np.ndarray) -> None:
        vocabulary = self._backbone.vocabulary
        for number, (prompt, longest) in enumerate(zip(ids, limit, strict=True)):
            if not len(prompt) or prompt.min() < 0 or prompt.max() >= vocabulary:
                raise InputError(f"prompt {number} is empty, or holds an id outside 0..{vocabulary - 1}")
            if longest < 1:
                raise InputError(f"max_new_tokens of prompt {number} is {longest}; 1 or more is accepted")
            if len(prompt) + longest > self._backbone.limit:
                raise CapacityError(
                    f"prompt {number} has {len(prompt)} tokens and {longest} may follow;"
                    f" the model attends over at most {self._backbone.limit}"
                )

    def _batch(
        self, ids: Sequence[np.ndarray], limit: np.ndarray, groups: list[PrefixGroup], expected: np.ndarray
    ) -> Batch:
        progress = lay_out(groups, self.policy, limit, expected)
        longest = max(map(len, ids))
        batch = empty_batch(len(ids), longest, int(limit.max()), self.policy.block_size)
        for row, prompt in zip(batch.prompts, ids, strict=True):
            row[: len(prompt)] = prompt
        return Batch(batch.prompts, batch.outputs, batch.tables, batch.prefix_tables, progress)


def _apart(ids: Sequence[np.ndarray]) -> list[PrefixGroup]:
    """Every prompt a group of its own."""
    return [PrefixGroup(prompt[:0], (number,), (prompt,)) for number, prompt in enumerate(ids)]
