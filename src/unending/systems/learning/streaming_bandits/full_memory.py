"""What can be reached with arms kept in memory: UCB1 and MOSS on all arms, or on a uniform sample of them."""

from dataclasses import dataclass
from math import log

import numpy as np

from unending.core.errors import InputError
from unending.parts.sketches.reservoir import reservoir_slot
from unending.systems.learning.streaming_bandits.exploration import HAND, Algorithm, Draft

__all__ = ["FullMemory"]


@dataclass(frozen=True)
class FullMemory(Algorithm):
    """The line without a memory limit: arms are stored, unpulled, and an index policy plays when all have arrived.

    `"ucb1"` is UCB1 (Auer, Cesa-Bianchi, Fischer 2002), `"moss"` is MOSS (Audibert and Bubeck 2009), which knows the
    horizon. With `memory` below K it is the same on a uniform sample of the arms (a reservoir).

    Parameters
    ----------
    arms, horizon, eps
        see `Algorithm`; `eps` is not used.
    index
        `"ucb1"` or `"moss"`.
    memory
        arms stored; 0 is all K.
    batch
        an arm that has been pulled n times is pulled `max(1, floor(batch n))` times before the indices are looked at
        again; 0 is the policy itself.

    Raises
    ------
    InputError
        if `index` is unknown, `memory` outside 0..K, or `batch` outside 0..1.
    """

    index: str = "moss"
    memory: int = 0
    batch: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index not in ("ucb1", "moss"):
            raise InputError(f"index {self.index!r}; ucb1 and moss are accepted")
        if not (0 <= self.memory <= self.arms and 0 <= self.batch <= 1):
            raise InputError(
                f"memory {self.memory} and batch {self.batch}; 0 to {self.arms} and 0 to 1 are accepted"
            )

    @property
    def slots(self) -> int:
        return (self.memory or self.arms) + 1

    def champion(self, at: Draft) -> int:
        return 1 + int(np.argmax(at.counts[1:]))

    def _arrived(self, at: Draft) -> None:
        slot = reservoir_slot(at.seed, at.arrived - 1, self.capacity)
        if slot >= 0:
            at.copy(HAND, slot + 1)
        at.clear(HAND)

    def _ended(self, at: Draft) -> None:
        self._told(at)

    def _told(self, at: Draft) -> None:
        held = min(self.capacity, at.arrived)
        counts, sums = at.counts[1 : held + 1], at.sums[1 : held + 1]
        if not counts.all():
            at.slot, at.wanted = int(np.argmin(counts)) + 1, 1
            return
        if self.index == "ucb1":
            bonus = 2 * log(at.used) / counts
        else:
            bonus = np.maximum(np.log(self.horizon / (held * counts)), 0) / counts
        at.slot = int(np.argmax(sums / counts + np.sqrt(bonus))) + 1
        at.wanted = max(1, int(self.batch * at.counts[at.slot]))
