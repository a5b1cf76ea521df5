"""The same scheduler on a clock of its own: what order and admission do to the time of a batch, without a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unending.systems.language.batch_llm.forest import PrefixGroup
from unending.systems.language.batch_llm.progress import RUNNING, Policy, Progress, lay_out
from unending.systems.language.batch_llm.report import Iteration, Report
from unending.systems.language.batch_llm.scheduler import Scheduler

__all__ = ["CostModel", "simulate"]


@dataclass(frozen=True)
class CostModel:
    """Seconds of one iteration: what must be read from memory, or what must be computed, whichever takes longer."""

    overhead: float = 2e-3
    per_token: float = 5e-5
    weights: float = 8e-3
    """Reading the weights once."""
    per_kv_token: float = 6e-8
    """Reading a token's keys and values; a shared prefix is read once."""

    def seconds(self, tokens: int, kv: int) -> float:
        """Of an iteration of so many tokens over so many in memory."""
        return max(self.weights + self.per_kv_token * kv, self.overhead + self.per_token * tokens)


def simulate(
    groups: Sequence[PrefixGroup],
    policy: Policy,
    decode: np.ndarray,
    *,
    limit: np.ndarray | None = None,
    expected: np.ndarray | None = None,
    cost: CostModel | None = None,
) -> Report:
    """Run a batch by the cost model.

    Parameters
    ----------
    groups, policy
        the batch, and how it is run.
    decode
        int `[n]`: tokens that each prompt will turn out to generate.
    limit
        int `[n]`: tokens it may generate, for which memory is kept; `decode` if not said.
    expected
        int `[n]`: what the order of the groups goes by; `limit` if not said.
    cost
        see `CostModel`.
    """
    cost = cost or CostModel()
    progress = lay_out(groups, policy, decode if limit is None else limit, expected)
    iterations = []
    while not (scheduler := Scheduler(progress, policy)).finished:
        works = scheduler.plan()
        now = scheduler.progress
        ended = {
            prompt
            for work in works
            for prompt in work.samples
            if now.generated[prompt] + 1 >= decode[prompt] and now.limit[prompt] > decode[prompt]
        }
        decoded = sum(work.decode for work in works)
        read = sum(work.tokens for work in works) - decoded
        scheduler.advance(works, ended)
        kv, prefix_kv = _held(now, policy)
        iterations.append(Iteration(decoded, read, kv, prefix_kv, cost.seconds(decoded + read, kv)))
        progress = now
    logical = sum(len(group.members) * len(group.prefix) + sum(map(len, group.suffixes)) for group in groups)
    physical = sum(group.prefill for group in groups)
    return Report(logical, physical, policy.max_batched_tokens, tuple(iterations))


def _held(now: Progress, policy: Policy) -> tuple[int, int]:
    """Tokens that blocks in use have room for, and of these in prefixes."""
    prefixes = int(policy.blocks_for(now.read[now.held == RUNNING]).sum())
    own = int(policy.blocks_for(now.own[now.phase == RUNNING]).sum())
    return (prefixes + own) * policy.block_size, prefixes * policy.block_size
