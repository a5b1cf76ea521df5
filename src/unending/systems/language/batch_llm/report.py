"""What a run of a batch cost: tokens, memory, time, iteration by iteration."""

from dataclasses import dataclass

__all__ = ["Iteration", "Report"]


@dataclass(frozen=True)
class Iteration:
    """One forward pass."""

    decode: int
    """Tokens of prompts that decode."""
    prefill: int
    """Tokens of prompts and prefixes that are read."""
    kv: int
    """Tokens that the KV blocks in use have room for, at the end of the pass."""
    prefix_kv: int
    """Of these, in blocks of shared prefixes."""
    seconds: float

    @property
    def tokens(self) -> int:
        """Of both kinds."""
        return self.decode + self.prefill


@dataclass(frozen=True)
class Report:
    """A whole run."""

    logical: int
    """Tokens of all prompts."""
    physical: int
    """Tokens that the grouping computes: each group's prefix once."""
    max_batched_tokens: int
    iterations: tuple[Iteration, ...]

    @property
    def saving_ratio(self) -> float:
        """Share of the prompts' tokens that the grouping need not compute."""
        return 1 - self.physical / self.logical if self.logical else 0.0

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens that were computed, counted as they ran."""
        return sum(each.prefill for each in self.iterations)

    @property
    def decode_tokens(self) -> int:
        """Generated tokens that were fed back."""
        return sum(each.decode for each in self.iterations)

    @property
    def peak_kv(self) -> int:
        """Most tokens that KV blocks in use had room for."""
        return max((each.kv for each in self.iterations), default=0)

    @property
    def peak_prefix_kv(self) -> int:
        """Most of these in shared prefixes."""
        return max((each.prefix_kv for each in self.iterations), default=0)

    @property
    def mean_tokens(self) -> float:
        """Tokens an iteration."""
        count = len(self.iterations)
        return (self.prefill_tokens + self.decode_tokens) / count if count else 0.0

    @property
    def valleys(self) -> int:
        """Iterations that were less than half full."""
        return sum(2 * each.tokens < self.max_batched_tokens for each in self.iterations)

    @property
    def makespan(self) -> float:
        """Seconds from the first iteration to the end of the last."""
        return sum(each.seconds for each in self.iterations)
