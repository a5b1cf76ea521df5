"""For rewards that come from outside: the policy says which arm to pull how often, the user reports what came of it."""

from typing import Any, Generic, TypeVar

import numpy as np

from unending.core.errors import InputError
from unending.parts.sketches.bounded import BoundedStore
from unending.systems.learning.streaming_bandits.exploration import DONE, EXPLORE, HAND, Algorithm, Draft

__all__ = ["StreamingPolicy"]

A = TypeVar("A")


class StreamingPolicy(Generic[A]):
    """One algorithm on arms that a user brings, one at a time.

    `arrive(arm)` brings an arm; while `pull()` names one, pull it and report by `update(arm, reward)`, or report
    several pulls at once: `wanted` and `tell`. When `pull()` is `None`, bring the next; the arms in `stored`, no more
    than `capacity`, are all that will be asked for again. After the last, `end()`; what is asked for from then on are
    the final comparisons and the committed arm, until T pulls have been made. Everything can be pickled and copied.

    Parameters
    ----------
    algorithm
        which, with its K and T: `GameOfArms(arms=100, horizon=1_000_000)`. After K arms the stream ends by itself.
    seed
        of the algorithm's own coins; rewards are the user's.
    """

    def __init__(self, algorithm: Algorithm, seed: int = 0) -> None:
        self.algorithm = algorithm
        self._at = Draft(algorithm.start(seed))
        self._store: BoundedStore[int, A] = BoundedStore(algorithm.capacity)
        self._hand: tuple[int, A] | None = None

    def arrive(self, arm: A) -> None:
        """Bring the next arm.

        Raises
        ------
        InputError
            if pulls are due, `end` was called, K arms have been here, or it is `None`; nothing has changed.
        """
        if arm is None:
            raise InputError("None is no arm: it is what pull() gives where the next arm may come")
        position = self._at.arrived
        self.algorithm.arrive(self._at, position)
        self._hand = position, arm
        self._keep()
        self._end_after_last()

    def end(self) -> None:
        """No more arms come.

        Raises
        ------
        InputError
            if pulls are due or no arm has been here; nothing has changed.
        """
        self.algorithm.end(self._at)
        self._hand = None
        self._keep()

    @property
    def wanted(self) -> tuple[A, int] | None:
        """The arm that is to be pulled and how often; `None` if the next arm may come, or all pulls are made."""
        due = self.algorithm.wanted(self._at)
        return None if due is None else (self._arm(due.arm), due.pulls)

    def tell(self, total: float, pulls: int) -> None:
        """Report the sum of the rewards of so many pulls of the wanted arm.

        Raises
        ------
        InputError
            if these are more pulls than are wanted, or rewards outside 0..1 (NaN too); nothing has changed.
        """
        self.algorithm.tell(self._at, total, pulls)
        self._keep()
        self._end_after_last()

    def pull(self) -> A | None:
        """The arm to pull once, now; `None` if the next arm may come, or all pulls are made."""
        due = self.wanted
        return None if due is None else due[0]

    def update(self, arm: A, reward: float) -> None:
        """Report the reward, within 0..1, of one pull of the arm that `pull` named.

        Raises
        ------
        InputError
            if it is another arm, or the reward is outside 0..1 (NaN too); nothing has changed.
        """
        due = self.pull()
        if due is None or not _same(arm, due):
            raise InputError(f"a reward of arm {arm!r}, but {due!r} was to be pulled")
        self.tell(reward, 1)

    learn_one = update

    @property
    def champion(self) -> A | None:
        """The arm that would be committed to now."""
        position = int(self._at.arms[self.algorithm.champion(self._at)])
        return None if position < 0 else self._arm(position)

    @property
    def stored(self) -> list[A]:
        """The arms that may be asked for again, beside the one that has just arrived."""
        return [self._store[position] for position in sorted(self._store)]

    @property
    def max_stored(self) -> int:
        """Most arms that were stored at once."""
        return self._store.high_water

    @property
    def arrived(self) -> int:
        """Arms that have been here."""
        return self._at.arrived

    @property
    def pulls(self) -> int:
        """Pulls made."""
        return self._at.used

    @property
    def done(self) -> bool:
        """Whether all T pulls have been made."""
        return self._at.phase == DONE

    def _arm(self, position: int) -> A:
        if self._hand is not None and self._hand[0] == position:
            return self._hand[1]
        return self._store[position]

    def _keep(self) -> None:
        stored: Any = self._at.arms[HAND + 1 :].tolist()
        wanted = {position for position in stored if position >= 0}
        self._store.retain(wanted)
        for position in wanted - self._store.keys():
            self._store.put(position, self._arm(position))

    def _end_after_last(self) -> None:
        at = self._at
        if at.phase == EXPLORE and not at.wanted and at.arrived == self.algorithm.arms:
            self.end()


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    try:
        return bool(np.all(one == other))  # arms may be arrays, such as feature vectors
    except ValueError:  # of different shapes
        return False
