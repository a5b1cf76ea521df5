"""A request whose prompt is still arriving or changing, and what of it has keys and values."""

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from unending.core.errors import InputError
from unending.parts.prefix.tree import longest_common_prefix

__all__ = ["Request", "Status"]


class Status(Enum):
    """Where a request stands."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED_RECOMPUTE = "preempted, to be computed anew"
    PREEMPTED_SWAP = "preempted, on the host"
    FINISHED = "finished"


def _no_blocks() -> np.ndarray:
    return np.zeros(0, dtype=np.int64)


@dataclass(eq=False, slots=True)
class Request:
    """A prompt that streams in by `append` or is replaced by `update`, up to its first output token.

    All methods are all or nothing: what they refuse with an `InputError` leaves the request as it was. `in_flight`
    tokens are being computed between `Serving.plan` and `Serving.complete`; input may come in the meantime.
    """

    name: str
    arrival_time: float
    tokens: np.ndarray = field(default_factory=_no_blocks)
    """int64 `[n]`."""
    finished: bool = False
    """No more input comes."""
    last_chunk_time: float = 0.0
    computed: int = 0
    """Tokens, from the first on, that have keys and values, on the device or on the host."""
    in_flight: int = 0
    status: Status = Status.WAITING
    blocks: np.ndarray = field(default_factory=_no_blocks)
    """int64: numbers of the blocks on the device, in order."""
    host_blocks: np.ndarray = field(default_factory=_no_blocks)
    resend: bool = True
    """The block table has changed other than by growth since it was last sent to whoever runs the model."""
    admission: int = 0
    """When it last went from waiting to running, as a number that grows."""

    computed_total: int = 0
    invalidated: int = 0
    recomputed: int = 0
    preempted_recompute: int = 0
    preempted_swap: int = 0
    queue_time: float = 0.0
    """Seconds in which there was something to compute and it was not being computed."""
    ready_since: float | None = None
    first_token_time: float | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def remaining(self) -> int:
        """Tokens to compute."""
        return len(self.tokens) - self.computed - self.in_flight

    @property
    def idle(self) -> bool:
        """It has caught up with its input."""
        return self.remaining == 0

    def _require_open(self, what: str) -> None:
        if self.status is Status.FINISHED:
            raise InputError(f"request {self.name} has its first token: {what} is not possible any more")
        if self.finished:
            raise InputError(f"the input of request {self.name} has ended: {what} is not possible any more")

    def append(self, tokens: np.ndarray, finished: bool, now: float) -> None:
        """Put tokens behind the prompt; `finished` says that they are the last.

        Raises
        ------
        InputError
            after the end of the input, or where it would end without any token.
        """
        self._require_open("append")
        self._take(np.concatenate([self.tokens, tokens]), finished, now)

    def update(self, tokens: np.ndarray, finished: bool, now: float) -> int:
        """Replace the prompt. What is computed of the longest common prefix stays, the rest is invalid.

        Returns
        -------
        int
            how many computed tokens became invalid, those in flight included.

        Raises
        ------
        InputError
            after the end of the input or the first token, or where it would end without any token.
        """
        self._require_open("update")
        common = longest_common_prefix(self.tokens, tokens)
        valid = min(self.computed, common)
        in_flight = min(self.in_flight, common - valid)
        lost = self.computed + self.in_flight - valid - in_flight
        self._take(tokens, finished, now)
        self.computed, self.in_flight = valid, in_flight
        self.invalidated += lost
        return lost

    def _take(self, tokens: np.ndarray, finished: bool, now: float) -> None:
        if finished and not len(tokens):
            raise InputError(f"request {self.name} would end empty: a prompt has 1 token or more")
        self.tokens, self.finished, self.last_chunk_time = tokens, finished, now

    def leave_one(self) -> bool:
        """Where the whole of a finished prompt is computed and no logits are due, give up its last token.

        An update to a prefix, or an empty last chunk, leaves nothing to compute and so no logits.
        """
        stuck = self.finished and self.idle and not self.in_flight and self.status is not Status.FINISHED
        if stuck:
            self.computed -= 1
            self.recomputed += 1
        return stuck

    def note_ready(self, now: float) -> None:
        """Begin to count queue time if there is something to compute."""
        if self.ready_since is None and not self.idle and not self.in_flight:
            self.ready_since = now

    def start(self, tokens: int, now: float) -> None:
        """`tokens` of it are being computed from now on."""
        self.in_flight = tokens
        if self.ready_since is not None:
            self.queue_time += now - self.ready_since
            self.ready_since = None

    def drop_computed(self) -> None:
        """Nothing of it is computed any more; its status and blocks are the caller's affair."""
        self.recomputed += self.computed
        self.computed = 0
