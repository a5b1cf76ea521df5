"""How a batch is laid out and where it stands: policy, prompts, groups, in arrays of fixed size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unending.core import state
from unending.core.errors import CapacityError, InputError
from unending.systems.language.batch_llm.forest import PrefixGroup

__all__ = ["DONE", "RUNNING", "WAITING", "Policy", "Progress", "lay_out", "no_progress", "progress_bytes"]

WAITING, RUNNING, DONE = 1, 2, 3
"""Of a prompt: not admitted, admitted, finished (0: there is none). Of a prefix: unread, held, let go."""
ORDERS = ("decode_ratio", "fcfs")
ADMISSIONS = ("kv_memory", "num_seqs")


@dataclass(frozen=True)
class Policy:
    """How iterations are put together.

    Parameters
    ----------
    blocks, block_size
        KV memory: so many blocks of so many tokens.
    max_batched_tokens
        tokens of one iteration; decodes are always in, prefill fills what they leave.
    order
        of the groups: `"decode_ratio"` (expected decode tokens over tokens to prefill after sharing, the largest
        first) or `"fcfs"` (as they came).
    admission
        `"kv_memory"` (whatever fits in memory to its end) or `"num_seqs"` (no more than `max_num_seqs` at a time
        besides).
    max_num_seqs
        for `"num_seqs"`.
    kv_share
        share of the memory that may be promised; above 0, at most 1.
    """

    blocks: int
    block_size: int = 16
    max_batched_tokens: int = 2048
    order: str = "decode_ratio"
    admission: str = "kv_memory"
    max_num_seqs: int = 256
    kv_share: float = 1.0

    def __post_init__(self) -> None:
        if self.order not in ORDERS or self.admission not in ADMISSIONS:
            raise InputError(f"order is one of {', '.join(ORDERS)}, admission one of {', '.join(ADMISSIONS)}")
        if min(self.blocks, self.block_size, self.max_batched_tokens, self.max_num_seqs) < 1:
            raise InputError("blocks, block_size, max_batched_tokens and max_num_seqs are 1 or more")
        if not 0 < self.kv_share <= 1:
            raise InputError(f"kv_share is above 0 and at most 1, got {self.kv_share:g}")

    @property
    def budget(self) -> int:
        """Blocks that may be promised."""
        return int(self.blocks * self.kv_share)

    def blocks_for(self, tokens: int | np.ndarray) -> np.ndarray:
        """Blocks that so many tokens take."""
        return -(-np.asarray(tokens) // self.block_size)


@state
class Progress:
    """Where every prompt and every shared prefix of a batch stands. Prompts `[n]`, groups `[g]`."""

    length: np.ndarray
    """int32 `[n]`: tokens of the prompt."""
    limit: np.ndarray
    """int32 `[n]`: tokens that it may generate."""
    group: np.ndarray
    """int32 `[n]`: its group; -1 is none."""
    rank: np.ndarray
    """int32 `[n]`: its place in the order of the batch."""
    own: np.ndarray
    """int32 `[n]`: tokens in memory, the shared prefix left out."""
    generated: np.ndarray
    """int32 `[n]`."""
    phase: np.ndarray
    """int8 `[n]`: 0 none, 1 waiting, 2 running, 3 done."""
    prefix: np.ndarray
    """int32 `[g]`: tokens of the shared prefix."""
    source: np.ndarray
    """int32 `[g]`: a prompt that begins with it."""
    read: np.ndarray
    """int32 `[g]`: tokens of it in memory."""
    held: np.ndarray
    """int8 `[g]`: 0 none, 1 unread, 2 held, 3 let go."""

    @property
    def base(self) -> np.ndarray:
        """int32 `[n]`: tokens of each prompt that are its group's."""
        return np.where(self.group >= 0, self.prefix[self.group], 0)


def no_progress(prompts: int) -> Progress:
    """Room for so many prompts, none there yet."""

    def counts(n: int) -> np.ndarray:
        return np.zeros(n, np.int32)

    groups = max(1, prompts // 2)
    return Progress(
        length=counts(prompts),
        limit=counts(prompts),
        group=counts(prompts) - 1,
        rank=counts(prompts),
        own=counts(prompts),
        generated=counts(prompts),
        phase=np.zeros(prompts, np.int8),
        prefix=counts(groups),
        source=counts(groups),
        read=counts(groups),
        held=np.zeros(groups, np.int8),
    )


def lay_out(
    groups: Sequence[PrefixGroup],
    policy: Policy,
    limit: np.ndarray,
    expected: np.ndarray | None = None,
    prompts: int | None = None,
) -> Progress:
    """A batch before its first iteration.

    Parameters
    ----------
    groups
        as `PrefixForest.groups` gives them.
    limit, expected
        int `[n]`: tokens that each prompt may generate, and is expected to (as many, if nothing is known).
    prompts
        room in the arrays; as many as there are prompts, if not said.

    Raises
    ------
    CapacityError
        if a prompt and what it may generate do not fit in memory by themselves.
    """
    count = sum(len(group.members) for group in groups)
    made = no_progress(count if prompts is None else prompts)
    expected = limit if expected is None else expected
    shared = 0
    for group in groups:
        for number, suffix in zip(group.members, group.suffixes, strict=True):
            made.length[number] = len(group.prefix) + len(suffix)
            made.limit[number] = limit[number]
            made.phase[number] = WAITING
            needed = int(policy.blocks_for(made.length[number] + limit[number] - 1))
            if needed > policy.budget:
                raise CapacityError(
                    f"prompt {number} and what it may generate take {needed} blocks of KV memory;"
                    f" there are {policy.budget}"
                )
        if _shares(group, policy, limit):
            made.group[list(group.members)] = shared
            made.prefix[shared], made.source[shared] = len(group.prefix), group.members[0]
            made.held[shared] = WAITING
            shared += 1
    ratios = [sum(int(expected[i]) for i in group.members) / max(1, group.prefill) for group in groups]
    order = list(range(len(groups)))
    if policy.order == "decode_ratio":
        order.sort(key=lambda index: -ratios[index])
    sequence = [number for index in order for number in groups[index].members]
    made.rank[sequence] = np.arange(len(sequence))
    return made


def _shares(group: PrefixGroup, policy: Policy, limit: np.ndarray) -> bool:
    """Whether prefix and largest member fit side by side; where rounding to blocks forbids it, none is shared."""
    if len(group.members) < 2 or not len(group.prefix):
        return False
    most = max(
        len(suffix) + int(limit[number]) - 1
        for number, suffix in zip(group.members, group.suffixes, strict=True)
    )
    return int(policy.blocks_for(len(group.prefix)) + policy.blocks_for(most)) <= policy.budget


def progress_bytes(prompts: int) -> int:
    """Bytes of a `Progress`."""
    return 25 * prompts + 13 * max(1, prompts // 2)
