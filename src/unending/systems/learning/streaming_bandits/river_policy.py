"""The algorithms as a River bandit policy, for `river.bandit.evaluate` and whatever else takes one."""

from typing import Any

from river.bandit.base import Policy

from unending.core.errors import InputError
from unending.systems.learning.streaming_bandits.exploration import Algorithm
from unending.systems.learning.streaming_bandits.operator import ALGORITHMS
from unending.systems.learning.streaming_bandits.policy import StreamingPolicy

__all__ = ["RiverPolicy"]


class RiverPolicy(Policy):
    """A single-pass policy where River expects one: the arms of the list pass once, in its order.

    River offers all K arms at each pull; this policy comes back only to those it has stored, `stored`, and to the
    next in the list. It keeps no statistics of the others, as River's own policies do. After `horizon` pulls it stays
    with its champion.

    Parameters
    ----------
    algorithm
        a name of `ALGORITHMS`.
    horizon
        T.
    seed
        of the algorithm's coins.

    Raises
    ------
    InputError
        for an unknown name; in `pull`, if the number of arms changes; in `update`, for a reward outside 0..1 or of
        another arm than was pulled.
    """

    def __init__(self, algorithm: str = "game-of-arms", horizon: int = 100_000, seed: int = 0) -> None:
        super().__init__()
        if algorithm not in ALGORITHMS:
            raise InputError(f"algorithm {algorithm!r}; {', '.join(ALGORITHMS)} are accepted")
        self.algorithm, self.horizon, self.seed = algorithm, horizon, seed
        self._policy: StreamingPolicy[Any] | None = None

    def _pull(self, arm_ids: Any) -> Any:
        if self._policy is None:
            machine: Algorithm = ALGORITHMS[self.algorithm](len(arm_ids), self.horizon)
            self._policy = StreamingPolicy(machine, self.seed)
        policy = self._policy
        if len(arm_ids) != policy.algorithm.arms:
            raise InputError(f"{len(arm_ids)} arms are offered, {policy.algorithm.arms} were at first")
        while not policy.done and policy.pull() is None:
            policy.arrive(arm_ids[policy.arrived])
        return policy.champion if policy.done else policy.pull()

    def update(self, arm_id: Any, *reward_args: Any, **reward_kwargs: Any) -> None:
        if self._policy is None or len(reward_args) != 1 or reward_kwargs:
            raise InputError("one reward, of the arm that was pulled, is accepted")
        if not self._policy.done:
            self._policy.update(arm_id, reward_args[0])
        self._n += 1

    @property
    def stored(self) -> list[Any]:
        """The arms it can come back to."""
        return [] if self._policy is None else self._policy.stored

    @property
    def max_stored(self) -> int:
        """Most arms that were stored at once."""
        return 0 if self._policy is None else self._policy.max_stored

    @property
    def ranking(self) -> list[Any]:
        """The champion, then the other stored arms."""
        if self._policy is None:
            return []
        first = self._policy.champion
        return [first, *(arm for arm in self.stored if arm != first)]

    def __repr__(self) -> str:
        return f"RiverPolicy({self.algorithm!r}, horizon={self.horizon}, seed={self.seed})"
